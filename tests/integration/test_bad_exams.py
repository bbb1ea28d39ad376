"""Exams that cannot be processed: the others go on, and the user learns why."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import nibabel as nb
import numpy as np
import pytest
from running import QUICK, contents, states
from skeleton import path_of

SHAPE = (40, 48, 40)


def save(data: np.ndarray, path: Path) -> nb.Nifti1Image:
    image = nb.Nifti1Image(data.astype(np.float32), np.diag([4, 4, 4, 1.0]))
    image.set_qform(image.affine, 1)
    image.set_sform(image.affine, 1)
    path.parent.mkdir(parents=True, exist_ok=True)
    image.to_filename(path)
    return image


def noise(shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    return np.random.default_rng(0).uniform(1, 100, shape)


def truncated(path: Path) -> None:
    save(noise(), path)
    path.write_bytes(path.read_bytes()[:20_000])


def series(path: Path) -> None:
    save(noise((*SHAPE, 3)), path)


def constant(path: Path) -> None:
    save(np.full(SHAPE, 5), path)


def not_finite(path: Path) -> None:
    data = noise()
    data[0, 0, 0] = np.nan
    save(data, path)


def disagreeing(path: Path) -> None:
    image = save(noise(), path)
    moved = image.affine.copy()
    moved[0, 3] = 30
    image.set_sform(moved, 1)
    image.to_filename(path)


def flat_voxels(path: Path) -> None:
    save(noise(), path.with_suffix(''))
    content = bytearray(path.with_suffix('').read_bytes())
    content[88:92] = bytes(4)  # pixdim[3]
    path.with_suffix('').write_bytes(bytes(content))


def three_slices(path: Path) -> None:
    save(noise((40, 48, 3)), path)


def no_image(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b'this is not an image')


BAD = {
    'truncated': (truncated, 'truncated'),
    'series': (series, 'three-dimensional'),
    'constant': (constant, 'constant'),
    'nan': (not_finite, 'not a number'),
    'forms': (disagreeing, 'qform and sform disagree'),
    'flat': (flat_voxels, 'without extent'),
    'slices': (three_slices, 'only 3 slices'),
    'text': (no_image, 'not a readable'),
}


def add_bad_exams(bids: Path) -> None:
    for label, (make, _) in BAD.items():
        make(bids / path_of(f'sub-{label}_FLAIR'))


def test_only_bad_exams(tmp_path, run):
    """All fail for the same kind of reason: its exit code is that of the run."""
    from skeleton import write_dataset

    bids, out = write_dataset(tmp_path / 'bids', []), tmp_path / 'out'
    add_bad_exams(bids)
    done = run(bids, out, 'participant', '-w', tmp_path / 'work', *QUICK)
    assert done.code == 65, done.stderr
    assert '0 of 8 exams done' in done.stdout
    for label, (_, reason) in BAD.items():
        assert f'sub-{label}: ' in done.stderr
        page = (out / f'sub-{label}.html').read_text()
        assert reason in page, label
        record = json.loads(
            (out / f'sub-{label}/log/sub-{label}_desc-hyperintensity_exam.json').read_text()
        )
        assert record['status'] == 'failed'
        assert reason in record['failure']['message']
        assert record['failure']['exit_code'] == 65
        assert record['failure']['step'] == 'reading'
        assert list((out / f'sub-{label}').rglob('*.nii.gz')) == []
        assert len(list((out / f'sub-{label}/log').glob('*/crash-*.txt'))) == 1


def test_bad_exams_beside_a_good_one(quick, quick_run, run, tmp_path):
    """Different reasons: the exit code is 1, and the good exam is as if it were alone."""
    truncated(quick / path_of('sub-bad_FLAIR'))
    (quick / 'sub-late/anat').mkdir(parents=True)
    shutil.copy(
        quick / 'sub-01/ses-1/anat/sub-01_ses-1_T1w.nii.gz', quick / path_of('sub-late_T1w')
    )
    # the nodes of the good exam are known; tables, pages and files are written anew
    work = shutil.copytree(quick_run / 'work', tmp_path / 'work')
    done = run(quick, tmp_path / 'out', 'participant', 'group', '-w', work, *QUICK)
    assert done.code == 1, done.stderr
    assert '1 of 3 exams done' in done.stdout
    assert 'sub-bad: ' in done.stderr
    assert 'sub-late has no FLAIR image.' in done.stderr
    good, alone = contents(tmp_path / 'out'), contents(quick_run / 'out')
    alone = {name: content for name, content in alone.items() if name.startswith('sub-01/')}
    assert {name: good.get(name) for name in alone} == alone
    assert (tmp_path / 'out' / 'group_volumes.tsv').is_file(), 'the group level runs all the same'


@pytest.mark.parametrize('modality', [pytest.param('FLAIR', marks=pytest.mark.slow), 'T1w'])
def test_results_of_an_earlier_run_stay_when_a_later_one_fails(quick_run, run, tmp_path, modality):
    """Even where nodes before the failure give something else than they did."""
    for name in ('bids', 'out'):
        shutil.copytree(quick_run / name, tmp_path / name)
    out, image = (
        tmp_path / 'out',
        tmp_path / f'bids/sub-01/ses-1/anat/sub-01_ses-1_{modality}.nii.gz',
    )
    before = states(out)
    content = image.read_bytes()
    image.write_bytes(content[: len(content) // 2])
    command = [tmp_path / 'bids', out, 'participant', '-w', tmp_path / 'work', *QUICK]
    done = run(*command, '--threshold', '0.2')
    assert done.code == 65, done.stderr
    assert str(image) in done.stderr
    now = states(out)
    touched = {name for name in before if before[name] != now.get(name)}
    assert {name for name in touched if '/anat/' in name or '/figures/' in name} == set()
    assert 'truncated' in (out / 'sub-01.html').read_text()

    group = run(tmp_path / 'bids', out, 'group')
    assert group.code == 0


def test_stop_on_first_crash(tmp_path, run):
    from skeleton import write_dataset

    bids = write_dataset(tmp_path / 'bids', [])
    add_bad_exams(bids)
    done = run(
        bids, tmp_path / 'out', 'participant', '-w', tmp_path / 'work', '--nprocs', '1',
        '--stop-on-first-crash', '--skip-bids-validation', '--model', 'hyperintensity',
    )  # fmt: skip
    assert done.code == 65, done.stderr
    assert '0 of 8 exams done' in done.stdout
    assert 'not finished, because the run was stopped' in done.stderr


def test_an_image_that_is_no_head_is_not_segmented(tmp_path, run):
    """The alignment cannot be trusted: an error, never a mask."""
    from skeleton import write_dataset

    bids = write_dataset(tmp_path / 'bids', [])
    save(noise((60, 60, 60)), bids / path_of('sub-01_FLAIR'))
    command = [bids, tmp_path / 'out', 'participant', '-w', tmp_path / 'work', *QUICK]
    done = run(*command, '--ignore', 'bias-correction')
    assert done.code == 65, done.stderr
    assert 'cannot be trusted' in done.stderr
    assert '--on-failed-alignment' in done.stderr
    assert list((tmp_path / 'out').rglob('*_mask.nii.gz')) == []


@pytest.mark.slow
def test_a_flagged_alignment_ends_in_a_red_box(tmp_path, run):
    """With ``flag`` the exam goes on; its page says in red what cannot be trusted."""
    from skeleton import write_dataset

    bids = write_dataset(tmp_path / 'bids', [])
    save(noise((60, 60, 60)), bids / path_of('sub-01_FLAIR'))
    command = [bids, tmp_path / 'out', 'participant', '-w', tmp_path / 'work', *QUICK]
    done = run(*command, '--ignore', 'bias-correction', '--on-failed-alignment', 'flag')
    assert 'Traceback' not in done.stderr
    page = (tmp_path / 'out' / 'sub-01.html').read_text()
    assert 'class="light fail"' in page or 'class="box fail"' in page
