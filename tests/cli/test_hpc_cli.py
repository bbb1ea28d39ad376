"""``mslesseg hpc``: exit codes, what is written, and options of the App that are refused."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from skeleton import files_below, write_dataset

from mslesseg_app.cli.bids_app import build_parser
from mslesseg_app.cli.hpc import OURS
from mslesseg_app.cli.main import main
from mslesseg_app.cli.parsing import filters, package_path
from mslesseg_app.deploy.hpc.options import PATHS, absolute
from mslesseg_app.reports import ExamContent, Failure


@pytest.fixture
def bids(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    names = ['sub-01_ses-1_FLAIR', 'sub-01_ses-2_FLAIR', 'sub-02_ses-1_FLAIR', 'sub-03_ses-1_T1w']
    return write_dataset(tmp_path / 'bids', names)


def sbatch(*words: object) -> int:
    return main(['hpc', 'sbatch', 'bids', 'out', '--skip-bids-validation', *map(str, words)])


def test_scripts_are_written_and_nothing_else(bids, tmp_path, capsys) -> None:
    before = files_below(bids)
    assert sbatch() == 0
    told = capsys.readouterr()
    assert '3 participants, one per task' in told.out
    assert 'bash' in told.out
    assert '1 of 3 participants have no FLAIR' in told.err
    scripts = tmp_path / 'mslesseg-jobs'
    assert sorted(path.name for path in scripts.iterdir()) == [
        'group.sbatch', 'logs', 'participant.sbatch', 'submit.sh',
    ]  # fmt: skip
    text = (scripts / 'participant.sbatch').read_text()
    assert f'bids={bids}' in text
    assert '    01 02 03\n' in text
    assert f'{sys.executable} -m mslesseg_app' in text
    assert files_below(bids) == before
    assert not (tmp_path / 'out').exists()


def test_the_validator_is_asked(bids, capsys) -> None:
    (bids / 'sub-01' / 'ses-1' / 'anat' / 'nonsense.txt').write_text('x')
    assert main(['hpc', 'sbatch', 'bids', 'out']) == 16
    assert 'nonsense' in capsys.readouterr().err


@pytest.mark.parametrize(
    ('words', 'code'),
    [
        (['--participant-label', '99'], 18),
        (['--participant-label', '03'], 18),
        (['--', '--model', 'nonsense'], 64),
        (['--', '--nonsense'], 64),
        (['--', 'group'], 64),
        (['--', '--model', 'unetr'], 65),
        (['--', '-d', 'manual=nowhere'], 66),
        (['--image', 'nowhere.sif'], 66),
        (['--scratch', 'relative'], 64),
        (['--scratch', '/tmp', '--work-dir', 'work'], 64),
        (['--work-dir', 'bids/work'], 64),
        (['--scripts', 'out/scripts'], 64),
        (['--scripts', 'bids'], 64),
        (['--partition', 'a b'], 64),
        (['--time', '0'], 64),
        (['--mem', 'much'], 64),
        (['--cpus', '0'], 64),
        *((['--', name, 'x'], 64) for name in ('--nprocs', '--n_cpus', '--mem_mb', '-w', '-wx')),
    ],
    ids=str,
)
def test_mistakes_have_exit_codes_and_leave_nothing(bids, tmp_path, words, code) -> None:
    try:
        found = sbatch(*words)
    except SystemExit as left:
        found = left.code
    assert found == code
    assert not (tmp_path / 'mslesseg-jobs').exists()


def test_other_faulty_datasets(bids, tmp_path) -> None:
    assert main(['hpc', 'sbatch', 'nowhere', 'out']) == 66
    (tmp_path / 'plain').mkdir()
    assert main(['hpc', 'sbatch', 'plain', 'out']) == 16
    assert main(['hpc', 'sbatch', 'bids', 'bids']) == 64


def test_a_script_of_the_user_stays(bids, tmp_path) -> None:
    (tmp_path / 'mslesseg-jobs').mkdir()
    (tmp_path / 'mslesseg-jobs' / 'submit.sh').write_text('mine')
    assert sbatch() == 73
    assert files_below(tmp_path / 'mslesseg-jobs') == ['submit.sh']


def test_resources_can_be_said(bids, tmp_path, capsys) -> None:
    words = ['--cpus', '8', '--mem', '10G', '--time', '1-00:00', '--gpu', '--gres', 'gpu:v100:1']
    assert sbatch('-q', *words, '--group-time', '5', '--', '--model', 'hyperintensity') == 0
    assert 'hyperintensity uses no GPU' in capsys.readouterr().err
    text = (tmp_path / 'mslesseg-jobs' / 'participant.sbatch').read_text()
    for line in ('cpus-per-task=8', 'mem=10240M', 'time=1-00:00:00', 'gres=gpu:v100:1'):
        assert f'#SBATCH --{line}\n' in text
    group = (tmp_path / 'mslesseg-jobs' / 'group.sbatch').read_text()
    assert '#SBATCH --time=0-00:05:00\n' in group


def test_more_sessions_ask_for_more_time(bids, tmp_path) -> None:
    write_dataset(bids, [f'sub-02_ses-{n}_FLAIR' for n in range(1, 20)])
    assert sbatch('-q', '--', '--model', 'hyperintensity') == 0
    text = (tmp_path / 'mslesseg-jobs' / 'participant.sbatch').read_text()
    assert '#SBATCH --time=0-01:30:00\n' in text
    assert '19 exams' in text


def test_paths_in_options_become_absolute(bids, tmp_path, monkeypatch) -> None:
    for name in ('masks', 'models', 'db'):
        (tmp_path / name).mkdir()
    (tmp_path / 'f.json').write_text('{}')
    (tmp_path / 'ses.txt').write_text('1\n')
    words = ['-dmanual=masks', '--model-dir=models', '--bids-filter-file', 'f.json',
             '--session-label', 'ses.txt', '2', '--threshold=0.5', '-q']  # fmt: skip
    found, paths = absolute(words)
    here = str(tmp_path)
    assert found == [
        '--threshold=0.5', '-q', '--derivatives', f'manual={here}/masks',
        '--model-dir', f'{here}/models', '--bids-filter-file', f'{here}/f.json',
        '--session-id', f'{here}/ses.txt', '2',
    ]  # fmt: skip
    assert paths == [tmp_path / name for name in ('masks', 'models', 'f.json', 'ses.txt')]


def test_variables_are_written_down(bids, tmp_path, monkeypatch) -> None:
    (tmp_path / 'models').mkdir()
    monkeypatch.setenv('MSLESSEG_MODEL_DIR', 'models')
    monkeypatch.setenv('MSLESSEG_OFFLINE', '1')
    (tmp_path / 'i.sif').write_text('')
    assert sbatch('-q', '--image', 'i.sif') == 0
    text = (tmp_path / 'mslesseg-jobs' / 'participant.sbatch').read_text()
    assert f'--model-dir\n    {tmp_path}/models\n    --offline\n' in text
    assert f'--bind {tmp_path}/models:{tmp_path}/models:ro\n' in text


def test_every_option_that_scripts_set_is_one_of_the_app() -> None:
    assert set(OURS) <= {action.dest for action in build_parser()._actions}


def test_every_path_among_the_options_of_the_app_becomes_absolute() -> None:
    kinds = (Path, package_path, filters)
    named = {
        tuple(action.option_strings)
        for action in build_parser()._actions
        if action.option_strings and (action.type in kinds or action.dest == 'session_label')
    }
    assert named - {('-w', '--work-dir', '--work_dir')} == set(PATHS)


@pytest.mark.parametrize('words', [['hpc', '--help'], ['hpc', 'sbatch', '--help'],
                                   ['hpc', 'train', '--help']], ids=' '.join)  # fmt: skip
def test_help(words, capsys) -> None:
    with pytest.raises(SystemExit) as left:
        main(words)
    assert left.value.code == 0
    assert '--restarts' in capsys.readouterr().out or words == ['hpc', '--help']


# ------------------------------------------------------------------------------ training


def test_a_training_needs_arguments_and_slurm(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(['hpc', 'train']) == 64
    assert 'nothing to train' in capsys.readouterr().err
    monkeypatch.setenv('PATH', str(tmp_path))
    assert main(['hpc', 'train', '--', 'bids', 'run']) == 64
    assert main(['hpc', 'train', '--', 'bids', 'run', '--set', 'nonsense=1']) == 64
    assert main(['hpc', 'train', '--', 'bids', 'run', '--minutes', '5']) == 64
    assert 'Use --time' in capsys.readouterr().err


def test_a_training_on_this_machine_ends_with_its_exit_code(tmp_path, monkeypatch, capfd) -> None:
    """By submitit's executor without a cluster; there is nothing to train on."""
    pytest.importorskip('submitit')
    monkeypatch.chdir(tmp_path)
    words = ['--local', '--wait', '--time', '5', '-q', '--', 'nowhere', 'run']
    assert main(['hpc', 'train', '--jobs', 'jobs', *words]) == 66
    assert 'The training failed; see' in capfd.readouterr().err
    logs = [path.read_text() for path in (tmp_path / 'jobs').glob('*_log.err')]
    assert any('nowhere does not exist' in text for text in logs)


def test_without_submitit_it_says_what_to_install(tmp_path) -> None:
    code = (
        'import sys; sys.modules["submitit"] = None\n'
        'from mslesseg_app.cli.main import main\n'
        'sys.exit(main(["hpc", "train", "--", "bids", "run"]))'
    )
    done = subprocess.run(
        [sys.executable, '-c', code], capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert done.returncode == 64
    assert "pip install 'mslesseg[hpc]'" in done.stderr
    assert 'Traceback' not in done.stderr


# ------------------------------------------------------------------------------ status


def record(out: Path, subject: str, session: str, content: str) -> None:
    folder = out / f'sub-{subject}' / f'ses-{session}' / 'log'
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f'sub-{subject}_ses-{session}_desc-unet_exam.json').write_text(content)


def content(status: str, message: str = '') -> str:
    """Return a record as the App writes it."""
    failure = Failure(message) if message else None
    return json.dumps(ExamContent('1', status=status, failure=failure).to_dict())  # type: ignore[arg-type]


def test_status_tells_done_failed_and_missing(bids, tmp_path, capsys) -> None:
    out, rest = tmp_path / 'out', tmp_path / 'rest.txt'
    record(out, '01', '1', content('ok'))
    record(out, '01', '2', content('failed', 'It is truncated.'))
    record(out, '02', '1', '{ damaged')
    assert main(['hpc', 'status', 'bids', 'out', '--rest', str(rest)]) == 1
    told = capsys.readouterr().out
    assert told.startswith('1 done, 1 failed, 1 missing\n'), 'sub-03 has no FLAIR'
    assert 'sub-01_ses-2: It is truncated.' in told
    assert rest.read_text() == '01\n02\n'
    assert f'--participant-label {rest}' in told
    assert sbatch('--participant-label', rest) == 0, 'what it says to do can be done'
    script = (tmp_path / 'mslesseg-jobs' / 'participant.sbatch').read_text()
    assert '    01 02\n' in script


def test_status_when_all_is_done(bids, tmp_path, capsys) -> None:
    out = tmp_path / 'out'
    for subject, session in (('01', '1'), ('01', '2'), ('02', '1')):
        record(out, subject, session, content('ok'))
    assert main(['hpc', 'status', 'bids', 'out', '--rest', 'rest.txt']) == 0
    assert capsys.readouterr().out == '3 done, 0 failed, 0 missing\n'
    assert not (tmp_path / 'rest.txt').exists()


@pytest.mark.parametrize(
    ('words', 'told'),
    [
        (['--model', 'hyperintensity'], '0 done, 0 failed, 3 missing'),
        (['--session-label', '2'], '0 done, 0 failed, 1 missing'),
        (['--participant-label', '02'], '0 done, 0 failed, 1 missing'),
    ],
)
def test_status_of_some(bids, capsys, words, told) -> None:
    assert main(['hpc', 'status', 'bids', 'out', *words]) == 1
    assert capsys.readouterr().out.strip() == told


def test_status_of_nobody(bids) -> None:
    assert main(['hpc', 'status', 'nowhere', 'out']) == 66
    assert main(['hpc', 'status', 'bids', 'out', '--participant-label', '99']) == 18
