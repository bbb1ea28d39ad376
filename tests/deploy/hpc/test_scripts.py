"""The scripts say what was asked for, and shells and linters read them as they were meant."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from standin import calls, value

from mslesseg_app.core.errors import OutputError, UsageError
from mslesseg_app.deploy.hpc.resources import JobResources
from mslesseg_app.deploy.hpc.slurm import ArrayJob, Site, render, scratch_expression, write_scripts

JOB = ArrayJob(
    bids_dir=Path('/data/my bids'),
    out_dir=Path("/data/it's $HOME"),
    labels=('01', '02', '3+4'),
    resources=JobResources(cpus=2, memory_mb=4096, minutes=90),
    group=JobResources(cpus=1, memory_mb=2048, minutes=30),
    site=Site(),
    program=(sys.executable, '-m', 'mslesseg_app'),
    options=('--threshold', '0.5'),
)
VARIANTS = {
    'scratch': JOB,
    'kept': replace(JOB, work_dir=Path('/project/of us')),
    'gpu image': replace(
        JOB,
        image=Path('/images/ms lesseg.sif'),
        bound=(Path('/data/ma sks'),),
        resources=JobResources(2, 4096, 90, 'gpu:a100:1'),
    ),
    'site': replace(JOB, site=Site('long', 'lab-1', 'high', 'a100', ('module load x',), 2, 4)),
    'no options': replace(JOB, options=(), scratch='$LOCAL/jobs'),
}


def shellcheck() -> str | None:
    return shutil.which('shellcheck') or shutil.which(
        'shellcheck', path=str(Path(sys.executable).parent)
    )


@pytest.mark.parametrize('name', VARIANTS)
def test_shellcheck_is_silent(name: str, tmp_path: Path) -> None:
    program = shellcheck()
    if program is None:
        pytest.skip('no shellcheck')
    paths = write_scripts(VARIANTS[name], tmp_path)
    done = subprocess.run([program, *paths], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_templates_pass_shellcheck(project_root: Path) -> None:
    program = shellcheck()
    if program is None:
        pytest.skip('no shellcheck')
    paths = sorted((project_root / 'hpc').glob('*.sh'))
    assert len(paths) >= 6
    done = subprocess.run([program, *paths], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def directives(text: str) -> dict[str, str]:
    """Return what sbatch reads: the lines before the first command."""
    found = {}
    for line in text.splitlines():
        if line.startswith('#SBATCH --'):
            name, _, word = line.removeprefix('#SBATCH --').partition('=')
            found[name] = word
        elif line and not line.startswith('#'):
            break
    return found


def test_directives() -> None:
    job = replace(
        VARIANTS['site'], resources=JobResources(3, 5000, 1501, 'gpu:2'), work_dir=Path('/w')
    )
    found = directives(render(job)['participant.sbatch'])
    assert found['cpus-per-task'] == '3'
    assert found['mem'] == '5000M'
    assert found['time'] == '1-01:01:00'
    assert found['gres'] == 'gpu:2'
    assert (found['partition'], found['account'], found['qos']) == ('long', 'lab-1', 'high')
    assert 'requeue' in found
    assert found['signal'].startswith('B:USR1@')
    group = directives(render(job)['group.sbatch'])
    assert group['time'] == '0-00:30:00'
    assert not {'gres', 'requeue', 'signal'} & set(group)
    assert group['partition'] == 'long'


def test_equal_jobs_give_equal_scripts() -> None:
    assert render(JOB) == render(replace(JOB))


# ------------------------------------------------------------------------- run by a shell


def run_task(job: ArrayJob, folder: Path, task: int = 1, **environment: str):
    """Run the script of a task without a scheduler; `scontrol` only writes down its words."""
    tools = folder / 'tools'
    tools.mkdir(exist_ok=True)
    tool = tools / 'scontrol'
    tool.write_text(f'#!/bin/sh\necho "$@" >>"{folder}/scontrol.txt"\n')
    tool.chmod(0o755)
    write_scripts(job, folder / 'scripts')
    return subprocess.run(
        ['bash', folder / 'scripts' / 'participant.sbatch'],
        env={
            **os.environ,
            'PATH': f'{tools}:{os.environ["PATH"]}',
            'TMPDIR': str(folder),
            'SLURM_ARRAY_TASK_ID': str(task),
            'SLURM_ARRAY_JOB_ID': '77',
            **environment,
        },
        capture_output=True,
        text=True,
        check=False,
        cwd=folder,
    )


def stood_in(program: Path, **changes: object) -> ArrayJob:
    folder = program.parent
    return replace(
        JOB,
        bids_dir=folder / 'bids',
        out_dir=folder / "o'ut $x",
        program=(sys.executable, str(program)),
        **changes,
    )


def test_a_task_calls_the_app_and_cleans_up(stand_in: Path, tmp_path: Path) -> None:
    done = run_task(stood_in(stand_in), tmp_path, task=3, SLURM_CPUS_PER_TASK='2')
    assert done.returncode == 0, done.stderr
    (call,) = calls(stand_in)
    assert call[:3] == [str(tmp_path / 'bids'), str(tmp_path / "o'ut $x"), 'participant']
    assert value(call, '--participant-label') == '3+4'
    assert value(call, '--nprocs') == '2'
    assert value(call, '--mem') == '3686M'
    assert value(call, '--device') == 'cpu'
    assert call[-2:] == ['--threshold', '0.5']
    work = Path(value(call, '-w'))
    assert work.parent == tmp_path
    assert not work.exists()
    assert (tmp_path / "o'ut $x").is_dir()


def test_a_gpu_and_a_kept_folder(stand_in: Path, tmp_path: Path) -> None:
    job = stood_in(
        stand_in, work_dir=tmp_path / 'kept here', resources=JobResources(1, 1000, 30, 'gpu:1')
    )
    assert run_task(job, tmp_path).returncode == 0
    (call,) = calls(stand_in)
    assert value(call, '--device') == 'cuda'
    assert value(call, '-w') == str(tmp_path / 'kept here' / 'sub-01')
    assert (tmp_path / 'kept here' / 'sub-01').is_dir()


@pytest.mark.parametrize(('code', 'again'), [(75, True), (1, False), (65, False), (0, False)])
def test_only_75_starts_again(stand_in: Path, tmp_path: Path, code: int, again: bool) -> None:
    (tmp_path / 'code.txt').write_text(str(code))
    assert run_task(stood_in(stand_in), tmp_path, task=2).returncode == code
    told = tmp_path / 'scontrol.txt'
    assert told.exists() == again
    if again:
        assert told.read_text() == 'requeue 77_2\n'
        assert run_task(stood_in(stand_in), tmp_path, SLURM_RESTART_COUNT='3').returncode == 75
        assert told.read_text() == 'requeue 77_2\n'


def test_a_number_without_participant_is_refused(stand_in: Path, tmp_path: Path) -> None:
    assert run_task(stood_in(stand_in), tmp_path, task=4).returncode != 0
    assert calls(stand_in) == []


def test_an_image_sees_what_it_needs(stand_in: Path, tmp_path: Path) -> None:
    tools = tmp_path / 'tools'
    tools.mkdir()
    (tools / 'apptainer').write_text(f'#!/bin/sh\nexec "{sys.executable}" "{stand_in}" "$@"\n')
    (tools / 'apptainer').chmod(0o755)
    masks = tmp_path / 'ma sks'
    job = stood_in(
        stand_in,
        image=tmp_path / 'i mage.sif',
        bound=(masks,),
        resources=JobResources(1, 1000, 30, 'gpu:1'),
        options=('-d', f'manual={masks}'),
    )
    done = run_task(job, tmp_path, CUDA_VISIBLE_DEVICES='1')
    assert done.returncode == 0, done.stderr
    (call,) = calls(stand_in)
    cut = call.index(str(tmp_path / 'i mage.sif'))
    outer, inner = call[:cut], call[cut + 1 :]
    assert outer[0] == 'run'
    assert {'--cleanenv', '--containall', '--nv'} <= set(outer)
    bound = {outer[n + 1] for n, word in enumerate(outer) if word == '--bind'}
    assert bound == {
        f'{tmp_path / "bids"}:{tmp_path / "bids"}:ro',
        str(tmp_path / "o'ut $x"),
        f'{masks}:{masks}:ro',
        value(inner, '-w'),
    }
    assert inner[0] == str(tmp_path / 'bids')
    assert inner[-1] == f'manual={masks}'


def submit(job: ArrayJob, folder: Path, *arguments: str, fail: int = 99, **environment: str):
    """Run submit.sh with an sbatch that counts, and fails at one call."""
    tools = folder / 'tools'
    tools.mkdir(exist_ok=True)
    (folder / 'sbatch.txt').write_text('')
    (tools / 'sbatch').write_text(
        f'#!/bin/bash\necho "$@" >>"{folder}/sbatch.txt"\n'
        f'n=$(wc -l <"{folder}/sbatch.txt")\n'
        f'[ "$n" -ne {fail} ] || exit 1\necho "$((100 + n));c"\n'
    )
    (tools / 'sbatch').chmod(0o755)
    paths = write_scripts(job, folder / 'scr ipts')
    done = subprocess.run(
        ['bash', paths[-1], *arguments],
        env={**os.environ, 'PATH': f'{tools}:{os.environ["PATH"]}', **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    return done, (folder / 'sbatch.txt').read_text().splitlines()


def test_all_participants_are_submitted_in_blocks(tmp_path: Path) -> None:
    job = replace(JOB, labels=tuple(map(str, range(1, 6))), site=Site(block=2))
    done, told = submit(job, tmp_path, '--nice=5')
    assert done.returncode == 0, done.stderr
    assert told == [
        '--parsable --array=1-2 --nice=5 participant.sbatch 0',
        '--parsable --array=1-2 --nice=5 participant.sbatch 2',
        '--parsable --array=1-1 --nice=5 participant.sbatch 4',
        '--parsable --dependency=afterany:101:102:103 --nice=5 group.sbatch',
    ]


def test_a_limit_holds_over_all_blocks(tmp_path: Path) -> None:
    job = replace(JOB, site=Site(block=2, limit=1))
    _, told = submit(job, tmp_path)
    assert told[:2] == [
        '--parsable --array=1-2%1 participant.sbatch 0',
        '--parsable --array=1-1%1 --dependency=afterany:101 participant.sbatch 2',
    ]


def test_a_full_queue_says_how_to_go_on(tmp_path: Path) -> None:
    job = replace(JOB, site=Site(block=1))
    done, _ = submit(job, tmp_path, fail=3)
    assert done.returncode == 1
    assert 'FIRST=2 EARLIER=101:102 bash' in done.stderr
    _, told = submit(job, tmp_path, FIRST='2', EARLIER='101:102')
    assert told == [
        '--parsable --array=1-1 participant.sbatch 2',
        '--parsable --dependency=afterany:101:102:101 group.sbatch',
    ]


# ------------------------------------------------------------------------------- quoting


@settings(max_examples=25)
@given(st.text(st.characters(exclude_categories=['C', 'Z'], max_codepoint=0x3FF), min_size=1))
def test_any_printable_name_arrives(name: str) -> None:
    """As bash reads the script: variables, quotes and stars are only letters."""
    name = name.replace('/', '_') + ' x'
    job = replace(JOB, bids_dir=Path('/d') / name, options=('--model', name))
    lines = render(job)['participant.sbatch'].split('\nlabels=(')[0]
    asked = lines + '\nprintf "%s\\0" "$bids" "${options[@]}"'
    shown = subprocess.run(['bash', '-c', asked], capture_output=True, check=True).stdout
    assert shown.decode().split('\0')[:-1] == [f'/d/{name}', '--model', name]


@pytest.mark.parametrize(
    'changes',
    [
        {'bids_dir': Path('/a\nrm -rf b')},
        {'site': Site(partition='a b')},
        {'site': Site(account='x\n#SBATCH --uid=0')},
        {'site': Site(setup=('a\nb',))},
        {'resources': JobResources(1, 1, 1, 'gpu 1')},
        {'image': Path('/i.sif'), 'out_dir': Path('/a:b')},
        {'image': Path('/i.sif'), 'bound': (Path('/a,b'),)},
        {'scratch': 'here'},
        {'scratch': '/x/$(rm)\n'},
        {'scratch': '$A$(rm)'},
        {'options': ('a\nb',)},
    ],
    ids=str,
)
def test_what_cannot_arrive_is_refused(changes: dict[str, object]) -> None:
    with pytest.raises(UsageError):
        render(replace(JOB, **changes))


def test_scratch_is_a_path_or_a_variable() -> None:
    for text, found in {'$A/b': '/w/b', '/it is': '/it is', '': '/s'}.items():
        shown = subprocess.run(
            ['bash', '-c', f'printf %s {scratch_expression(text)}'],
            env={'A': '/w', 'SLURM_TMPDIR': '/s', 'PATH': os.environ['PATH']},
            capture_output=True,
            text=True,
            check=True,
        )
        assert shown.stdout == found


def test_other_files_are_not_overwritten(tmp_path: Path) -> None:
    write_scripts(JOB, tmp_path)
    write_scripts(replace(JOB, labels=('9',)), tmp_path)
    assert '    9\n' in (tmp_path / 'participant.sbatch').read_text()
    (tmp_path / 'submit.sh').write_text('echo mine\n')
    with pytest.raises(OutputError, match='not written by mslesseg'):
        write_scripts(JOB, tmp_path)
    assert (tmp_path / 'submit.sh').read_text() == 'echo mine\n'
    assert '    9\n' in (tmp_path / 'participant.sbatch').read_text()


def test_ten_thousand_labels_fit_into_a_script() -> None:
    """SLURM takes 4 MiB by default."""
    labels = tuple(f'UKB{n:07d}' for n in range(10_000))
    text = render(replace(JOB, labels=labels))['participant.sbatch']
    assert len(text) < 200_000
    assert max(map(len, text.splitlines())) < 120
    shown = subprocess.run(
        [
            'bash',
            '-c',
            text[text.index('labels=(') : text.index('number=')] + 'echo ${labels[9999]}',
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    assert shown.stdout.strip() == labels[-1]
