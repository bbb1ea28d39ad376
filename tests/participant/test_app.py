"""Runs that end before any workflow starts, in the process itself."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from fakefsl import install
from skeleton import THIN, files_below, image_bytes, path_of, write_dataset

from mslesseg_app.cli.main import main
from mslesseg_app.core.errors import BusyError, DataError, NoInputError
from mslesseg_app.participant.run import _code


@pytest.fixture
def bids(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return write_dataset(tmp_path / 'bids', ['sub-01_FLAIR', 'sub-01_T1w', 'sub-02_T1w'])


def run(bids: Path, *options: str, level: str = 'participant') -> int:
    try:
        return main([str(bids), 'out', level, *options])
    except SystemExit as error:
        return int(error.code or 0)


def no_gpu() -> bool:
    import torch

    return not torch.cuda.is_available()


NOTHING_IS_WRITTEN = [
    pytest.param(['--participant-label', '09'], 18, 'No such participant', id='participant'),
    pytest.param(['--model', 'nothing'], 64, "There is no model 'nothing'", id='model'),
    pytest.param(['--model-dir', 'nowhere'], 64, 'nowhere', id='model-dir'),
    pytest.param(['-d', 'manual=nowhere'], 66, 'reference masks', id='manual'),
    pytest.param(
        ['--device', 'cuda'],
        64,
        'cuda',
        id='cuda',
        marks=pytest.mark.skipif('not no_gpu()', reason='there is a GPU'),
    ),
    pytest.param(
        ['--device', 'cuda:7'],
        64,
        'cuda',
        id='cuda:7',
        marks=pytest.mark.skipif('not no_gpu()', reason='there is a GPU'),
    ),
    pytest.param(['--engine', 'fsl'], 64, 'needs FSL', id='fsl'),
    pytest.param(['--strategy', 'paper'], 64, 'paper', id='strategy'),
    pytest.param(
        ['--subject-anatomical-reference', 'unbiased', '--strategy', 'independent'],
        64,
        'exclude each other',
        id='unbiased-independent',
    ),
    pytest.param(
        ['--subject-anatomical-reference', 'unbiased', '--engine', 'fsl'],
        64,
        'has no --subject-anatomical-reference',
        id='unbiased-fsl',
    ),
    pytest.param(['--uncertainty', 'variance'], 64, 'one answer', id='no-variance'),
    pytest.param(['--ensemble', 'staple'], 64, 'two or more', id='ensemble-of-one'),
    pytest.param(['--ensemble', 'vote', '--model', 'a', 'b'], 64, 'vote', id='ensemble'),
    pytest.param(['--preset', 'turbo'], 64, 'turbo', id='preset'),
]


@pytest.mark.parametrize(('options', 'code', 'text'), NOTHING_IS_WRITTEN)
def test_errors_before_anything_is_written(bids, capsys, monkeypatch, options, code, text):
    monkeypatch.delenv('FSLDIR', raising=False)
    assert run(bids, '--skip-bids-validation', *options) == code
    shown = capsys.readouterr().err
    assert text.lower() in shown.lower()
    assert 'Traceback' not in shown
    assert len(shown.strip().splitlines()) >= 2, 'a hint follows'
    assert not Path('out').exists()
    assert not Path('work').exists()


def test_names_of_the_models_are_listed(bids, capsys):
    run(bids, '--skip-bids-validation', '--model', 'nothing')
    assert 'hyperintensity' in capsys.readouterr().err


def test_empty_directory(tmp_path, capsys):
    (tmp_path / 'empty').mkdir()
    assert run(tmp_path / 'empty') == 16
    assert run(tmp_path / 'empty', '--skip-bids-validation') == 16
    assert 'Traceback' not in capsys.readouterr().err


def test_missing_directory(tmp_path, capsys):
    assert run(tmp_path / 'nowhere') == 66
    shown = capsys.readouterr()
    assert 'does not exist' in shown.err
    assert shown.out == ''


def test_a_file_in_place_of_the_dataset(tmp_path):
    (tmp_path / 'file').touch()
    assert run(tmp_path / 'file') == 66


def test_invalid_bids(bids, capsys):
    (bids / 'unknown.txt').touch()
    assert run(bids) == 16
    assert 'unknown.txt' in capsys.readouterr().err


def test_output_of_another_pipeline(bids, capsys):
    write_dataset(Path('out'), [], kind='derivative')
    before = files_below(Path('out'))
    assert run(bids, '--skip-bids-validation') == 73
    assert 'another dataset' in capsys.readouterr().err
    assert files_below(Path('out')) == before


def test_output_in_place_of_a_file(bids, capsys):
    Path('out').touch()
    assert run(bids, '--skip-bids-validation') == 73
    assert 'cannot be written' in capsys.readouterr().err


def test_half_of_fsl_is_no_fsl(bids, tmp_path, capsys, monkeypatch):
    for name, value in install(tmp_path / 'fsl', images=False).items():
        monkeypatch.setenv(name, value)
    (tmp_path / 'fsl/bin/bet').unlink()
    assert run(bids, '--skip-bids-validation', '--engine', 'fsl', '--dry-run') == 64
    assert 'bet' in capsys.readouterr().err
    run(bids, '--skip-bids-validation', '--dry-run')
    assert 'Engine builtin' in capsys.readouterr().out


@pytest.mark.parametrize('name', ['MNI152_T1_1mm', 'MNI152_T1_1mm_brain'])
def test_fsl_without_its_templates_is_no_fsl(bids, tmp_path, capsys, monkeypatch, name):
    for variable, value in install(tmp_path / 'fsl', images=False).items():
        monkeypatch.setenv(variable, value)
    (tmp_path / f'fsl/data/standard/{name}.nii.gz').unlink()
    assert run(bids, '--skip-bids-validation', '--engine', 'fsl', '--dry-run') == 64
    assert name in capsys.readouterr().err


def test_fsl_is_taken_where_it_is_installed(bids, tmp_path, capsys, monkeypatch):
    for name, value in install(tmp_path / 'fsl', images=False).items():
        monkeypatch.setenv(name, value)
    run(bids, '--dry-run')
    assert 'Engine fsl, strategy anchored' in capsys.readouterr().out
    run(bids, '--dry-run', '--engine', 'builtin')
    assert 'Engine builtin' in capsys.readouterr().out
    run(bids, '--dry-run', '--subject-anatomical-reference', 'unbiased')
    assert 'Engine builtin' in capsys.readouterr().out, 'the one that can do it'


# -------------------------------------------------------------------------- dry run


def test_dry_run_prints_the_plan_and_writes_nothing(bids, capsys):
    before = files_below(bids)
    assert run(bids, '--dry-run') == 66, 'one exam has no FLAIR'
    text = capsys.readouterr().out
    assert 'FLAIR: sub-01/anat/sub-01_FLAIR.nii.gz' in text
    assert '-> sub-01/anat/sub-01_space-orig_label-lesion_desc-unet_mask.nii.gz' in text
    assert 'No T2w image' in text
    assert 'cannot be processed: sub-02 has no FLAIR image.' in text
    assert files_below(bids) == before
    assert not Path('out').exists()
    assert not Path('work').exists()


def test_dry_run_of_good_exams(bids):
    assert run(bids, '--dry-run', '--participant-label', 'sub-01') == 0


# ------------------------------------------------------------------ only the methods


def test_boilerplate_only(bids, capsys):
    assert run(bids, '--boilerplate-only') == 0
    assert files_below(Path('out')) == ['logs/CITATION.md']
    assert not Path('work').exists()
    text = Path('out/logs/CITATION.md').read_text()
    assert 'degrees of freedom' in text
    assert 'MSLesSeg' in text
    assert 'CITATION.md' in capsys.readouterr().out


def test_reports_only_without_results(bids, capsys):
    assert run(bids, '--reports-only') == 66
    assert 'Run the participant level first' in capsys.readouterr().err
    assert not Path('out').exists()


# ---------------------------------------------------- exams that cannot be processed


def test_a_dataset_whose_exams_all_lack_the_flair(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    bids = write_dataset(tmp_path / 'bids', ['sub-01_T1w', 'sub-02_ses-1_T2w'])
    assert run(bids) == 66
    shown = capsys.readouterr()
    assert 'sub-01: sub-01 has no FLAIR image.' in shown.err
    assert 'sub-02_ses-1 has no FLAIR image.' in shown.err
    assert '0 of 2 exams done' in shown.out
    for subject in ('01', '02'):
        assert 'has no FLAIR image' in Path(f'out/sub-{subject}.html').read_text()
    record = json.loads(Path('out/sub-01/log/sub-01_desc-unet_exam.json').read_text())
    assert record['status'] == 'failed'
    assert record['failure']['exit_code'] == 66


def test_required_modality_that_is_ignored(bids, capsys):
    assert run(bids, '--require', 'T1w', '--ignore', 't1w', '--dry-run') == 64
    assert '--ignore' in capsys.readouterr().err


@pytest.mark.parametrize(
    ('problems', 'code'),
    [
        ([], 0),
        ([DataError('a')], 65),
        ([DataError('a'), DataError('b')], 65),
        ([DataError('a'), NoInputError('b')], 1),
        ([BusyError('a')], 75),
    ],
)
def test_exit_code_of_several_failures(problems, code):
    assert _code(problems) == code


# --------------------------------------------------------------- one exam, two runs


def test_an_exam_that_another_run_works_on(bids, capsys):
    from filelock import FileLock

    folder = Path('work/locks')
    folder.mkdir(parents=True)
    with FileLock(folder / 'sub-01.lock'):
        code = run(bids, '--skip-bids-validation', '--participant-label', '01')
    assert code == 75
    shown = capsys.readouterr().err
    assert 'Another run is working on sub-01' in shown
    assert '--work-dir' in shown


def test_what_a_killed_run_left_is_removed(bids):
    from mslesseg_app.bids.exam import Exam
    from mslesseg_app.core.settings import Settings
    from mslesseg_app.participant.locks import locked

    settings = Settings(bids_dir=bids, out_dir=Path('out'), work_dir=Path('work'))
    exams = [Exam('01', '1', {}), Exam('02', None, {})]
    left = ['sub-01/ses-1/anat/.tmp-a-x.nii.gz', 'sub-01/figures/.tmp-b-sub-01_ses-1_x.svg']
    left += ['sub-02/figures/.tmp-c-sub-02_x.svg']
    kept = ['sub-01/figures/.tmp-b-sub-01_ses-2_x.svg', 'sub-01/ses-2/anat/.tmp-a-x.nii.gz']
    for name in (*left, *kept):
        (settings.out_dir / name).parent.mkdir(parents=True, exist_ok=True)
        (settings.out_dir / name).touch()
    with locked(exams, settings):
        assert files_below(settings.out_dir) == sorted(kept), 'another run may hold the others'


def test_group_without_results(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert run(tmp_path / 'bids', level='group') == 66
    assert 'Run the participant level first' in capsys.readouterr().err
    assert not Path('out').exists()


def test_the_skeleton_is_what_it_says():
    assert path_of('sub-01_ses-1_FLAIR') == Path('sub-01/ses-1/anat/sub-01_ses-1_FLAIR.nii.gz')
    assert image_bytes(THIN)[:2] == b'\x1f\x8b'


def write_marks(path: Path, *rows: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = ['participant_id\tsession_id\tmark\tmarked\tnote', *rows]
    path.write_text('\n'.join(lines) + '\n')
    return path


@pytest.fixture
def two(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return write_dataset(tmp_path / 'bids', ['sub-01_FLAIR', 'sub-02_FLAIR'])


@pytest.mark.parametrize('where', ['out/group_review.tsv', 'marks.tsv'])
def test_excluded_exams_are_skipped(two, capsys, where):
    write_marks(Path(where), 'sub-01\tn/a\texclude\tn/a\tn/a')
    options = ['--review', where] if where == 'marks.tsv' else []
    assert run(two, '--skip-bids-validation', '--dry-run', *options) == 0
    shown = capsys.readouterr().out
    assert 'sub-01: left out, as the review asks for.' in shown
    assert 'sub-02:' in shown
    assert 'sub-01_' not in shown


def test_when_all_are_excluded_nothing_runs(two, capsys):
    rows = [f'sub-0{k}\tn/a\texclude\tn/a\tn/a' for k in (1, 2)]
    path = write_marks(Path('marks.tsv'), *rows)
    assert run(two, '--skip-bids-validation', '--review', str(path)) == 18
    assert 'excludes every exam' in capsys.readouterr().err
    assert not Path('out').exists()


@pytest.mark.parametrize(('name', 'code'), [('nowhere.tsv', 66), ('bad.tsv', 65)])
def test_marks_that_cannot_be_read(two, capsys, name, code):
    write_marks(Path('bad.tsv'), 'sub-01\tn/a\tperhaps\tn/a\tn/a')
    assert run(two, '--skip-bids-validation', '--review', name) == code
    assert name in capsys.readouterr().err
    assert not Path('out').exists()


def test_redo_forgets_the_exam_and_no_other(two, capsys, monkeypatch):
    from mslesseg_app.bids.workflow_names import top_name
    from mslesseg_app.participant import run as app

    folders = [Path('work', top_name(), f'sub_0{k}_wf', 'bias') for k in (1, 2)]
    for folder in folders:
        folder.mkdir(parents=True)
    path = write_marks(Path('marks.tsv'), 'sub-02\tn/a\tredo\tn/a\tn/a')
    monkeypatch.setattr(app, '_process', lambda *_: 0)
    assert run(two, '--skip-bids-validation', '--review', str(path)) == 0
    assert [folder.exists() for folder in folders] == [True, False]
    assert 'sub-02: computed anew' in capsys.readouterr().out
    assert Path('out/group_review.tsv').read_text() == path.read_text()
