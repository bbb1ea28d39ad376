"""Change between sessions, and the loop of correction, from end to end."""

from __future__ import annotations

import csv
import json
import re
import shutil
from collections import Counter
from pathlib import Path

import nibabel as nb
import numpy as np
import pytest
from running import QUICK, RESOLUTION, computed_nodes
from skeleton import path_of

from mslesseg_app.reports.comparison import STATUS_COLOURS
from mslesseg_app.spatial.resample import resample

#: On voxels of 3 mm noise reaches 5.2 standard deviations here and there.
FLAIR_ONLY = ('--ignore', 't1w', 't2w', '--change-threshold', '5.5', *QUICK)
MASK = 'space-orig_label-lesion_desc-hyperintensity_mask'
SHIFT_MM = 3.0


def file(out: Path, exam: str, name: str) -> Path:
    folder = out.joinpath(*exam.split('_'), 'anat')
    return folder / f'{exam}_{name}'


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding='utf-8', newline='') as stream:
        return list(csv.DictReader(stream, delimiter='\t'))


def statuses(out: Path, exam: str) -> Counter[str]:
    return Counter(
        row['status'] for row in rows(file(out, exam, 'desc-hyperintensity_change.tsv'))
    )


def other_scan(image: nb.Nifti1Image) -> nb.Nifti1Image:
    """Shift a head by 3 mm on its grid and bend its intensities."""
    move = np.eye(4)
    move[:3, 3] = -SHIFT_MM / np.sqrt(3)
    data = np.asarray(resample(image, image.shape, image.affine, move).dataobj)
    bent = 900 * np.clip(data / np.quantile(data, 0.999), 0, None) ** 0.8
    return nb.Nifti1Image(bent.astype(np.float32), image.affine, image.header)


@pytest.fixture(scope='module')
def done(tmp_path_factory, run):
    """The demo's two sessions, and a head twice, the second time shifted and of other contrast."""
    from phantom_dataset import make_dataset

    root = tmp_path_factory.mktemp('change')
    dataset = make_dataset(root / 'bids', n_sessions=2, resolution=RESOLUTION)
    for session in '12':
        path = root / 'bids' / path_of(f'sub-moved_ses-{session}_FLAIR')
        path.parent.mkdir(parents=True, exist_ok=True)
        image = nb.load(dataset.images['1', 'FLAIR'])
        (image if session == '1' else other_scan(image)).to_filename(path)
    finished = run(
        root / 'bids', root / 'out', 'participant', 'group', '-w', root / 'work', *FLAIR_ONLY
    )
    assert finished.code == 0, finished.stderr
    assert 'sub-demo, sessions: ' in finished.stderr
    return root


@pytest.mark.slow
def test_planted_changes_are_named_right(done):
    out = done / 'out'
    found = statuses(out, 'sub-demo_ses-2')
    assert (found['new'], found['enlarging'], found['resolved']) == (1, 1, 1)
    assert found['shrinking'] == 0
    image = nb.load(
        file(out, 'sub-demo_ses-2', 'space-orig_seg-change_desc-hyperintensity_dseg.nii.gz')
    )
    mask = nb.load(file(out, 'sub-demo_ses-2', f'{MASK}.nii.gz'))
    assert np.array_equal(image.affine, mask.affine)
    codes = np.asarray(image.dataobj)
    lesion = np.asarray(mask.dataobj) > 0
    assert (codes[lesion] > 0).all()
    difference = nb.load(
        file(out, 'sub-demo_ses-2', 'space-orig_seg-change_desc-hyperintensity_difference.nii.gz')
    )
    z = np.asarray(difference.dataobj)
    assert z[codes == 2].mean() > 3, 'changes extend down to 3 SD'
    assert z[codes == 5].mean() < -3
    earlier = file(
        out, 'sub-demo_ses-1', 'space-orig_seg-changenext_desc-hyperintensity_dseg.nii.gz'
    )
    assert (np.asarray(nb.load(earlier).dataobj) == 5).any()
    joint = 'space-orig_seg-joint_desc-hyperintensity_dseg.nii.gz'
    for session in ('ses-1', 'ses-2'):
        assert np.asarray(nb.load(file(out, f'sub-demo_{session}', joint)).dataobj).any()
    sidecar = json.loads(
        file(out, 'sub-demo_ses-2', 'desc-hyperintensity_change.json').read_text()
    )
    assert sidecar['PreviousSession'] == 'ses-1'
    assert sidecar['SessionDates'] == ['2023-03-14T10:00:00', '2024-03-12T10:00:00']
    assert sidecar['IntervalYears'] == pytest.approx(364 / 365.25, rel=1e-4)
    assert sidecar['Guard']['Status'] == 'pass'
    assert 'Sessions of a participant were registered' in (out / 'logs/CITATION.md').read_text()
    assert '*_change.*' in (out / '.bidsignore').read_text()


@pytest.mark.slow
def test_a_shifted_session_of_other_contrast_has_no_new_lesion(done):
    assert statuses(done / 'out', 'sub-moved_ses-2')['new'] == 0
    table = rows(file(done / 'out', 'sub-moved_ses-2', 'desc-hyperintensity_change.tsv'))
    lost = [float(r['volume_before_mm3']) for r in table if r['status'] == 'resolved']
    assert max(lost, default=0) <= 3 * RESOLUTION**3, 'of three of these coarse voxels at most'
    sidecar = json.loads(
        file(done / 'out', 'sub-moved_ses-2', 'desc-hyperintensity_change.json').read_text()
    )
    assert sidecar['Guard']['Status'] == 'pass'
    assert sidecar['IntervalYears'] == 'n/a'
    assert 'no rates' in sidecar['Notes'][0]


@pytest.mark.slow
def test_the_group_has_all_pairs(done):
    table = rows(done / 'out' / 'group_change.tsv')
    assert [(row['participant_id'], row['n_new']) for row in table] == [
        ('sub-demo', '1'), ('sub-moved', '0'),
    ]  # fmt: skip


def strokes(page: str, heading: str) -> list[set[str]]:
    """Return the colours of the outlines of each panel whose description has a heading."""
    panels = re.findall(
        r'<svg [^>]*msl-panel[^>]*aria-label="([^"]*)"[^>]*>(.*?)</svg>', page, re.S
    )
    return [
        set(re.findall(r'<path[^>]*stroke="(#[0-9a-f]{6})"', drawn))
        for label, drawn in panels
        if f'slice, {heading}' in label
    ]


@pytest.mark.slow
def test_the_report_of_two_sessions_shows_both_with_their_own_outlines(done):
    page = (done / 'out' / 'sub-demo.html').read_text()
    for words in (
        'change since ses-1', '12 months', 'The sessions can be compared',
        'Since ses-1 (12 months): 1 new, 1 enlarging', 'Lesions in ses-1 and ses-2',
        'Image checks', 'Segmentation: not yet reviewed',
    ):  # fmt: skip
        assert words in page, words
    assert 'No lesion changed' not in page
    assert page.index('id="exam-1"') < page.index('id="exam-2"')
    assert page.index('href="#exam-1">ses-2<') < page.index('href="#exam-2">ses-1<'), (
        'newest first'
    )
    new, resolved = STATUS_COLOURS[2][1], STATUS_COLOURS[5][1]
    before, after = strokes(page, 'ses-1'), strokes(page, 'ses-2')
    assert len(before) == len(after) > 0
    assert any(resolved in found for found in before)
    assert any(new in found for found in after)
    assert not any(new in found for found in before)
    assert not any(resolved in found for found in after)
    zoomed = strokes(page, 'FLAIR ses-2'), strokes(page, 'FLAIR ses-1')
    assert [len(found) for found in zoomed] == [3, 6], 'beside ses-2, and on the card of ses-1'
    assert new in zoomed[0][0], 'the new lesion comes first'


@pytest.mark.slow
def test_the_report_of_sessions_without_dates(done):
    page = (done / 'out' / 'sub-moved.html').read_text()
    assert 'The sessions can be compared' in page
    assert 'not known' in page, 'the interval'


@pytest.mark.slow
def test_correction_loop(done, run, tmp_path):
    """A person takes the new lesion out of the mask, and adds one; inference is not repeated."""
    edits, out = tmp_path / 'edits', shutil.copytree(done / 'out', tmp_path / 'out')
    name = f'sub-demo_ses-2_{MASK}.nii.gz'
    image = nb.load(file(out, 'sub-demo_ses-2', f'{MASK}.nii.gz'))
    codes = nb.load(
        file(out, 'sub-demo_ses-2', 'space-orig_seg-change_desc-hyperintensity_dseg.nii.gz')
    )
    data = np.asarray(image.dataobj).copy()
    removed = int((data[np.asarray(codes.dataobj) == 2] > 0).sum())
    data[np.asarray(codes.dataobj) == 2] = 0
    centre = np.array(data.shape) // 2
    drawn = tuple(slice(int(c) - 2, int(c) + 2) for c in centre)
    added = int((data[drawn] == 0).sum())
    data[drawn] = 1
    edits.mkdir()
    nb.Nifti1Image(data.astype(np.int16), image.affine).to_filename(edits / name)
    before = computed_nodes(done / 'work')
    finished = run(
        done / 'bids', out, 'participant', '-w', done / 'work', '--participant-label', 'demo',
        '--derivatives', f'edited={edits}', *FLAIR_ONLY,
    )  # fmt: skip
    assert finished.code == 0, finished.stderr
    now = computed_nodes(done / 'work')
    again = {key for key in now if before.get(key) != now[key]}
    assert not {'segment', 'align', 'conform_flair', 'restore_prob', 'align_1_2'} & again
    assert np.array_equal(nb.load(file(out, 'sub-demo_ses-2', f'{MASK}.nii.gz')).dataobj, data)
    check_marks(out, added, removed, data)
    found = statuses(out, 'sub-demo_ses-2')
    assert found['new'] == 1, 'the drawn one, whatever the FLAIR shows there'
    assert 'edited by hand' in (out / 'sub-demo.html').read_text()
    check_as_labels(done, out)


def check_marks(out: Path, added: int, removed: int, data: np.ndarray) -> None:
    voxel = abs(np.linalg.det(nb.load(file(out, 'sub-demo_ses-2', f'{MASK}.nii.gz')).affine))
    marked = [f'{MASK}.json', 'desc-hyperintensity_lesions.json']
    marked += ['desc-hyperintensity_metrics.json']
    marked += ['space-orig_seg-lesions_desc-hyperintensity_dseg.json']
    for name in marked:
        content = json.loads(file(out, 'sub-demo_ses-2', name).read_text())
        assert content['Edited'] is True, name
        assert len(content['EditedMask']['SHA256']) == 64
        assert content['EditedMask']['AddedVolume_mm3'] == pytest.approx(added * voxel, rel=1e-4)
        assert content['EditedMask']['RemovedVolume_mm3'] == pytest.approx(
            removed * voxel, rel=1e-4
        )
    sidecar = json.loads(file(out, 'sub-demo_ses-2', f'{MASK}.json').read_text())
    assert sidecar['Sources'][-1] == f'bids:edited:sub-demo_ses-2_{MASK}.nii.gz'
    assert 'Edited' not in json.loads(file(out, 'sub-demo_ses-1', f'{MASK}.json').read_text())
    prob = json.loads(
        file(out, 'sub-demo_ses-2', f'{MASK.replace("mask", "probseg")}.json').read_text()
    )
    assert 'Edited' not in prob
    (metrics,) = rows(file(out, 'sub-demo_ses-2', 'desc-hyperintensity_metrics.tsv'))
    assert float(metrics['lesion_volume_ml']) == pytest.approx(data.sum() * voxel / 1000, rel=1e-4)
    change = json.loads(file(out, 'sub-demo_ses-2', 'desc-hyperintensity_change.json').read_text())
    assert change['EditedSessions'] == 'ses-2'
    links = json.loads((out / 'dataset_description.json').read_text())['DatasetLinks']
    assert 'edited' in links


def check_as_labels(done: Path, out: Path) -> None:
    """Of an output folder only the edited mask is learned from."""
    from mslesseg_app.bids.exams import find_exams
    from mslesseg_app.core.settings import Settings
    from mslesseg_app.training.experiments.labelled_exams import _is_label

    settings = Settings(done / 'bids', out, done / 'work', derivatives={'manual': out})
    exams = find_exams(settings)
    assert all(exam.reference is not None for exam in exams)
    assert [exam.label for exam in exams if _is_label(exam.reference)] == ['sub-demo_ses-2']


@pytest.mark.slow
def test_identical_sessions_and_wrong_edits(quick, run, tmp_path):
    """Images that need no registration: it takes seconds."""
    first, second = (quick / 'sub-01' / f'ses-{k}' / 'anat' for k in '12')
    second.mkdir(parents=True)
    for path in first.glob('*.nii.gz'):
        shutil.copy(path, second / path.name.replace('ses-1', 'ses-2'))
    command = [quick, tmp_path / 'out', 'participant', '-w', tmp_path / 'work', *QUICK]
    out = tmp_path / 'out'
    assert run(*command, '--session-label', '2').code == 0
    alone = {path: path.stat() for path in (out / 'sub-01' / 'ses-2').rglob('*')}
    assert run(*command, '--session-label', '1').code == 0
    assert set(statuses(out, 'sub-01_ses-2')) == {'stable'}
    for path, state in alone.items():
        assert path.is_dir() or path.stat() == state, 'a comparison leaves the exam as it is'
    assert 'stable' in (out / 'sub-01.html').read_text()
    table = file(out, 'sub-01_ses-2', 'desc-hyperintensity_change.tsv')
    assert {row['difference_mm3'] for row in rows(table)} == {'0'}
    kept = {path: path.read_bytes() for path in out.rglob('*') if path.suffix in ('.tsv', '.gz')}

    edits = tmp_path / 'edits'
    edits.mkdir()
    wrong = edits / f'sub-01_ses-2_{MASK}.nii.gz'
    image = nb.load(file(out, 'sub-01_ses-2', f'{MASK}.nii.gz'))
    nb.Nifti1Image(np.asarray(image.dataobj) * 3, image.affine).to_filename(wrong)
    done = run(*command, '-d', f'edited={edits}')
    assert done.code == 65
    assert 'is not a mask' in done.stderr
    assert '1 of 2 exams done' in done.stdout
    assert {path: path.read_bytes() for path in kept} == kept, 'nothing is lost'

    empty = np.zeros(image.shape, np.uint8)
    nb.Nifti1Image(empty, image.affine).to_filename(wrong)
    assert run(*command, '-d', f'edited={edits}').code == 0
    assert set(statuses(out, 'sub-01_ses-2')) == {'resolved'}
    assert rows(file(out, 'sub-01_ses-2', 'desc-hyperintensity_lesions.tsv')) == []

    own = run(*command, '-d', f'edited={kept and out}')
    assert own.code == 0, 'the output itself holds no other mask'
    assert set(statuses(out, 'sub-01_ses-2')) == {'resolved'}, 'it was edited before'
    assert run(*command).code == 0
    assert set(statuses(out, 'sub-01_ses-2')) == {'stable'}, 'without edits, all is as before'
    assert {path: path.read_bytes() for path in kept} == kept
