"""The demo enters as DICOM: what comes out of the conversion is the synthetic head, and nobody."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nb
import numpy as np
import pytest
from scanner import contents

from mslesseg_app.bids.validation import validate
from mslesseg_app.cli.main import main
from mslesseg_app.core.errors import DataError
from mslesseg_app.demo.phantom import Phantom, make_phantom, scan, session_mask
from mslesseg_app.demo.protocols import session_protocols
from mslesseg_app.demo.studies import PERSON, on_grid_of, write_studies

RESOLUTION = 3.0


@pytest.fixture(scope='module')
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo's data, by the command."""
    folder = tmp_path_factory.mktemp('studies') / 'demo'
    command = ['demo', str(folder), '--data-only', '--resolution', str(RESOLUTION)]
    assert main(command) == 0
    return folder


@pytest.fixture(scope='module')
def coarse() -> Phantom:
    """The head of the demo."""
    return make_phantom(1, RESOLUTION)


def converted(folder: Path, session: int, modality: str) -> nb.Nifti1Image:
    (path,) = (folder / 'bids' / 'sub-demo' / f'ses-{session}').rglob(f'*_{modality}.nii.gz')
    return nb.load(path)


@pytest.mark.parametrize('session', [1, 2])
@pytest.mark.parametrize('modality', ['FLAIR', 'T1w', 'T2w'])
def test_voxels_and_places_are_those_of_the_head(
    folder: Path, coarse: Phantom, session: int, modality: str
) -> None:
    protocol = session_protocols(session, RESOLUTION)[modality]
    direct = scan(coarse, protocol, session)
    image = converted(folder, session, modality)
    expected = on_grid_of(direct, image)
    voxels, wanted = image.dataobj.get_unscaled(), np.asanyarray(expected.dataobj)
    assert image.dataobj.slope == pytest.approx(direct.header.get_slope_inter()[0], rel=1e-5)
    np.testing.assert_array_equal(voxels, wanted)  # too coarse to show a face that must go
    np.testing.assert_allclose(
        sorted(nb.affines.voxel_sizes(image.affine)), sorted(protocol.spacing), rtol=1e-4
    )


@pytest.mark.parametrize('session', [1, 2])
def test_known_masks_lie_on_the_converted_flair(
    folder: Path, coarse: Phantom, session: int
) -> None:
    flair = converted(folder, session, 'FLAIR')
    (path,) = (folder / 'bids' / 'derivatives').rglob(f'*ses-{session}*_mask.nii.gz')
    mask = nb.load(path)
    np.testing.assert_array_equal(mask.affine, flair.affine)
    voxels = np.asanyarray(mask.dataobj)
    direct = session_mask(coarse, session_protocols(session, RESOLUTION)['FLAIR'], session)
    places = nb.affines.apply_affine(mask.affine, np.argwhere(voxels))
    wanted = nb.affines.apply_affine(direct.affine, np.argwhere(np.asanyarray(direct.dataobj)))
    np.testing.assert_allclose(
        sorted(map(tuple, places.round(2))), sorted(map(tuple, wanted.round(2))), atol=0.011
    )


def test_the_dataset_is_valid_and_holds_nobody(folder: Path) -> None:
    assert validate(folder / 'bids') is None
    assert main(['convert', '--check', str(folder / 'bids')]) == 0
    secrets = (PERSON.name.partition('^')[0], PERSON.patient_id, '190385', '2023-03', '2024-03')
    for name, content in contents(folder / 'bids').items():
        if name.endswith(('.json', '.tsv')):
            assert not [secret for secret in secrets if secret in content.decode()], name


def test_a_second_time_changes_nothing(folder: Path) -> None:
    before = contents(folder / 'bids')
    record = folder / 'demo.json'
    assert json.loads(record.read_text())['complete']
    stamp = record.stat().st_mtime_ns
    assert main(['demo', str(folder), '--data-only', '--resolution', str(RESOLUTION)]) == 0
    assert contents(folder / 'bids') == before
    assert record.stat().st_mtime_ns == stamp


def test_another_head_replaces_an_earlier_one_and_nothing_else(tmp_path: Path) -> None:
    write_studies(tmp_path, 1, RESOLUTION)
    first = contents(tmp_path / 'dicom')
    (tmp_path / 'bids').mkdir()
    (tmp_path / 'mine').touch()
    write_studies(tmp_path, 2, RESOLUTION)
    assert contents(tmp_path / 'dicom') != first
    assert not (tmp_path / 'bids').exists()
    assert (tmp_path / 'mine').exists()


@pytest.mark.parametrize('part', ['dicom', 'bids', 'bids-private'])
def test_what_is_no_demo_is_left_alone(
    tmp_path: Path, part: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / part).mkdir()
    assert main(['demo', str(tmp_path), '--data-only']) == 73
    assert 'not of an earlier demo' in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == [part]


def test_a_file_in_the_way(tmp_path: Path) -> None:
    (tmp_path / 'demo').touch()
    assert main(['demo', str(tmp_path / 'demo'), '--data-only']) == 73


def test_another_grid_is_refused() -> None:
    one = nb.Nifti1Image(np.zeros((4, 5, 6), 'u1'), np.diag([1.0, 1, 1, 1]))
    other = nb.Nifti1Image(np.zeros((4, 5, 6), 'u1'), np.diag([1.0, 1, 2, 1]))
    with pytest.raises(DataError, match='grid'):
        on_grid_of(one, other)
