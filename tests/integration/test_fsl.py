"""The engine ``fsl`` from end to end, on a stand-in for FSL that has FSL's conventions."""

from __future__ import annotations

import csv
import json
import subprocess
from pathlib import Path

import nibabel as nb
import numpy as np
import pytest
from fakefsl import images, install
from skeleton import TEMPLATE_AFFINE, TEMPLATE_SHAPE

STRATEGIES = ('anchored', 'independent')


@pytest.fixture(params=STRATEGIES, scope='module')
def strategy(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope='module')
def fsl_out(finished, run, tmp_path_factory, strategy) -> Path:
    """Output of a run with FLAIR and T1w on the shared dataset."""
    root = tmp_path_factory.mktemp(strategy)
    environment = install(root / 'fsl')
    done = run(
        finished.bids,
        root / 'out',
        'participant',
        '-w',
        root / 'work',
        '--nprocs',
        '2',
        '--strategy',
        strategy,
        '--ignore',
        't2w',
        '-d',
        f'manual={finished.manual}',
        '--write-provenance',
        '--model',
        'hyperintensity',
        **environment,
    )
    assert done.code == 0, done.stderr
    return root / 'out'


def anat(out: Path, name: str) -> Path:
    return out / 'sub-demo/ses-1/anat' / f'sub-demo_ses-1_{name}'


@pytest.mark.slow
class TestRun:
    def test_lesions_are_in_their_places(self, fsl_out):
        """They would not be, were FSL's matrices read wrongly."""
        with anat(fsl_out, 'desc-hyperintensity_metrics.tsv').open() as file:
            (row,) = csv.DictReader(file, delimiter='\t')
        assert float(row['DSC']) > 0.5
        assert row['alignment_FLAIR_status'] == row['alignment_T1w_status'] == 'pass'

    def test_images_lie_on_their_grids(self, fsl_out, finished):
        raw = nb.load(finished.raw('FLAIR'))
        mask = nb.load(anat(fsl_out, 'space-orig_label-lesion_desc-hyperintensity_mask.nii.gz'))
        assert mask.shape == raw.shape
        assert mask.affine.tobytes() == raw.affine.tobytes()
        for name in ('desc-preproc_FLAIR', 'desc-preproc_T1w', 'desc-brain_mask'):
            made = nb.load(anat(fsl_out, f'space-MNI152NLin6Asym_res-1_{name}.nii.gz'))
            assert made.shape == TEMPLATE_SHAPE
            assert np.allclose(made.affine, TEMPLATE_AFFINE)
            assert (made.header['qform_code'], made.header['sform_code']) == (4, 4)

    def test_images_are_stripped_where_the_paper_does(self, fsl_out, strategy):
        name = 'space-MNI152NLin6Asym_res-1_desc-preproc_T1w'
        outside = (
            np.asarray(
                nb.load(
                    anat(fsl_out, 'space-MNI152NLin6Asym_res-1_desc-brain_mask.nii.gz')
                ).dataobj
            )
            == 0
        )
        image = np.asarray(nb.load(anat(fsl_out, f'{name}.nii.gz')).dataobj)
        sidecar = json.loads(anat(fsl_out, f'{name}.json').read_text())
        stripped = strategy == 'independent'
        assert sidecar['SkullStripped'] is stripped
        assert (np.abs(image[outside]).max() < 1e-3) == stripped
        native = json.loads(anat(fsl_out, 'desc-preproc_T1w.json').read_text())
        assert native['SkullStripped'] is False

    def test_transforms_agree_with_those_of_the_builtin_engine(self, fsl_out, finished):
        corners = np.array([[x, y, z] for x in (-50, 50) for y in (-70, 50) for z in (-20, 50)])
        for name in ('FLAIR', 'T1w'):
            file = f'from-{name}_to-MNI152NLin6Asym_mode-image_xfm.txt'
            ours, theirs = (read(path) for path in (finished.file(file), anat(fsl_out, file)))
            gap = nb.affines.apply_affine(ours, corners) - nb.affines.apply_affine(theirs, corners)
            assert np.linalg.norm(gap, axis=1).max() < 8

    def test_what_was_done_is_recorded(self, fsl_out, strategy):
        text = (fsl_out / 'logs/CITATION.md').read_text()
        assert 'FLIRT' in text
        assert ('default options' in text) == (strategy == 'independent')
        software = json.loads((fsl_out / 'dataset_description.json').read_text())['GeneratedBy']
        assert {'Name': 'FSL', 'Version': '6.0.0'} in software
        mask = json.loads(
            anat(fsl_out, 'space-orig_label-lesion_desc-hyperintensity_mask.json').read_text()
        )
        assert (mask['SpatialEngine'], mask['Strategy']) == ('fsl', strategy)

    def test_commands_are_recorded(self, fsl_out, strategy):
        """FLIRT takes each of the two images; BET the FLAIR, in the paper's procedure both."""
        name = 'space-MNI152NLin6Asym_res-1_desc-preproc_T1w.json'
        sidecar = json.loads(anat(fsl_out, name).read_text())
        assert sidecar['FSLVersion'] == '6.0.0'
        programs = [command.split()[0] for command in sidecar['FSLCommands']]
        assert programs == ['bet'] * (1 + (strategy == 'independent')) + ['flirt'] * 2
        assert not any('/' in command for command in sidecar['FSLCommands'])

    def test_the_validator_accepts_the_output(self, fsl_out):
        from mslesseg_app.bids.validation import find_validator

        program = find_validator()
        if program is None:
            pytest.skip('bids-validator-deno is not installed')
        done = subprocess.run([program, str(fsl_out)], capture_output=True, text=True)
        assert done.returncode == 0, done.stdout


def read(path: Path) -> np.ndarray:
    """Read an ITK affine with ITK."""
    import SimpleITK as sitk

    transform = sitk.ReadTransform(str(path))
    lps = np.eye(4)
    origin = np.array(transform.TransformPoint((0.0, 0.0, 0.0)))
    for axis in range(3):
        unit = tuple(float(axis == k) for k in range(3))
        lps[:3, axis] = np.array(transform.TransformPoint(unit)) - origin
    lps[:3, 3] = origin
    flip = np.diag([-1.0, -1, 1, 1])
    return flip @ lps @ flip


# ---------------------------------------------------------- the stand-in's own mathematics


def affine_of(codes: str, shape: tuple[int, int, int], spacing: tuple[float, ...]) -> np.ndarray:
    turn = nb.orientations.ornt_transform(
        nb.orientations.axcodes2ornt('RAS'), nb.orientations.axcodes2ornt(codes)
    )
    axes = nb.orientations.inv_ornt_aff(turn, shape)
    made = np.eye(4)
    made[:3, :3] = axes[:3, :3] @ np.diag(spacing)
    made[:3, 3] = (-30, 20, 10)
    return made


@pytest.mark.parametrize('moving_codes', ['RAS', 'LAS', 'PSR', 'LPI'])
@pytest.mark.parametrize('reference_codes', ['LAS', 'RAS'])
def test_matrices_are_read_as_they_were_meant(moving_codes, reference_codes):
    """The formula of the stand-in against the conversion of the App, for all handedness."""
    from mslesseg_app.spatial.affines import fsl_to_ras

    shapes = ((20, 30, 12), (25, 22, 24))
    moving = nb.Nifti1Image(
        np.zeros(shapes[0], np.uint8), affine_of(moving_codes, shapes[0], (1.0, 0.9, 3.0))
    )
    reference = nb.Nifti1Image(
        np.zeros(shapes[1], np.uint8), affine_of(reference_codes, shapes[1], (1.0, 1.0, 1.0))
    )
    moving_from_reference = np.array(
        [[1.02, 0.1, 0, 4], [-0.1, 0.97, 0.05, -3], [0.02, -0.05, 1.1, 7], [0, 0, 0, 1]]
    )
    matrix = images.flirt_matrix(moving, reference, moving_from_reference)
    assert np.allclose(fsl_to_ras(matrix, moving, reference), moving_from_reference, atol=1e-6)


def test_a_known_matrix():
    """By hand: two radiological images, one voxel of 2 mm apart, give a plain shift."""
    affine = np.diag([-2.0, 2, 2, 1])
    reference = nb.Nifti1Image(np.zeros((10, 10, 10), np.uint8), affine)
    moving = nb.Nifti1Image(np.zeros((10, 10, 10), np.uint8), affine)
    right = np.eye(4)
    right[0, 3] = 2  # a point of the reference lies 2 mm further right in the moving image
    matrix = images.flirt_matrix(moving, reference, right)
    shift = np.eye(4)
    shift[0, 3] = 2  # right is towards lower x indices: moving voxels go to higher ones
    assert np.allclose(matrix, shift)
