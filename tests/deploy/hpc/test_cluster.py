"""On a real SLURM: arrays, restarts, dependent jobs, a shared output, training in processes."""

from __future__ import annotations

import csv
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from filelock import FileLock
from running import contents
from slurm import CREDENTIALS, ENDED, Cluster
from standin import calls, value

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(900)]

QUICK = ('--model', 'hyperintensity')
PREPARE = ('--skip-bids-validation', '--cpus', '1', '--mem', '2500M', '-q')


def prepare(cluster: Cluster, bids: Path, out: Path, folder: Path, *words: object) -> Path:
    """Write the scripts as a user would; return their folder."""
    scripts = folder / 'scr ipts'
    cluster.run(
        sys.executable, '-m', 'mslesseg_app', 'hpc', 'sbatch', bids, out,
        '--scripts', scripts, *PREPARE, *words,
    )  # fmt: skip
    return scripts


def submit(cluster: Cluster, scripts: Path, **environment: str) -> tuple[list[str], str]:
    """Run submit.sh; return the numbers of the arrays and of the group job."""
    told = cluster.run('bash', scripts / 'submit.sh', environment=environment)
    numbers = re.findall(r'job (\d+)$', told, re.M)
    return numbers[:-1], numbers[-1]


def log(scripts: Path, job: str, task: int) -> str:
    path = scripts / 'logs' / f'participant-{job}_{task}.log'
    return path.read_text() if path.is_file() else ''


def test_participants_share_an_output_and_the_group_level_follows(
    cluster: Cluster, exams: Path, tmp_path: Path
) -> None:
    """Four tasks, two at a time: one is killed and starts again, one has nothing to do."""
    out, scratch = tmp_path / "o'ut $x", tmp_path / 'scratch'
    scratch.mkdir()
    scripts = prepare(
        cluster, exams, out, tmp_path, '--scratch', scratch, '--group-mem', '2500M',
        '--', *QUICK, '-d', f'manual={exams / "derivatives" / "manual"}',
    )  # fmt: skip
    (array,), group = submit(cluster, scripts)
    cluster.until(lambda: 'alignment' in log(scripts, array, 2), 200, 'the second task to work')
    cluster.run('scontrol', 'requeue', f'{array}_2')
    assert cluster.states(group) == ['PENDING']

    tasks = cluster.wait(array, 500)
    logs = {number: log(scripts, array, number) for number in range(1, 5)}
    assert [task['JobState'] for task in tasks[:3]] == ['COMPLETED'] * 3, logs
    assert [task['Restarts'] for task in tasks] == ['0', '1', '0', '0']
    assert (tasks[3]['JobState'], tasks[3]['ExitCode']) == ('FAILED', '66:0')
    assert tasks[1]['StartTime'] > tasks[0]['StartTime']
    assert 'restart 0' in logs[2]
    assert 'restart 1' in logs[2]
    assert 'sub-04 has no FLAIR' in logs[4]

    (after,) = cluster.wait(group, 200)
    told = (scripts / 'logs' / f'group-{group}.log').read_text()
    assert after['JobState'] == 'COMPLETED', told
    assert list(scratch.iterdir()) == []
    assert after['StartTime'] >= max(task['EndTime'] for task in tasks)
    page = (out / 'group_lesions.html').read_text()
    assert all(f'sub-{label}' in page for label in ('01', '02', '03', '04'))

    done = direct(cluster, exams, tmp_path)
    mine = {name: data for name, data in contents(out).items() if name.startswith('sub-02/')}
    assert len(mine) > 10
    assert mine == {n: d for n, d in contents(done).items() if n.startswith('sub-02/')}


def direct(cluster: Cluster, exams: Path, folder: Path) -> Path:
    """Run the participant that was killed, without a cluster, undisturbed."""
    out = folder / 'direct'
    cluster.run(
        sys.executable, '-m', 'mslesseg_app', exams, out, 'participant', '--participant-label',
        '02', '-w', folder / 'direct-work', '--nprocs', '1', '--skip-bids-validation',
        *QUICK, '-d', f'manual={exams / "derivatives" / "manual"}',
    )  # fmt: skip
    return out


def test_two_tasks_work_at_the_same_time_in_one_output(
    cluster: Cluster, stand_in: Path, exams: Path, tmp_path: Path
) -> None:
    (tmp_path / 'nap.txt').write_text('4')
    words = ('--program', shlex.join([sys.executable, str(stand_in)]))
    scripts = prepare(cluster, exams, tmp_path / 'out', tmp_path, *words, '--block', '2')
    arrays, group = submit(cluster, scripts)
    assert len(arrays) == 2
    (last,) = cluster.wait(group, 120)
    assert last['JobState'] == 'COMPLETED'
    tasks = [task for array in arrays for task in cluster.tasks(array)]
    assert max(task['StartTime'] for task in tasks[:2]) < min(t['EndTime'] for t in tasks[:2])
    found = calls(stand_in)
    assert sorted(value(call, '--participant-label') for call in found[:4]) == [
        '01', '02', '03', '04',
    ]  # fmt: skip
    assert found[4][2] == 'group'


def test_75_starts_again_until_it_can_go_on(cluster: Cluster, exams: Path, tmp_path: Path) -> None:
    """Another run holds the work folder of the participant; it lets go while the task waits."""
    work = tmp_path / 'work'
    scripts = prepare(
        cluster, exams, tmp_path / 'out', tmp_path, '-w', work, '--participant-label', '01',
        '--', *QUICK,
    )  # fmt: skip
    (work / 'sub-01' / 'locks').mkdir(parents=True)
    with FileLock(work / 'sub-01' / 'locks' / 'sub-01.lock'):
        (array,), _ = submit(cluster, scripts)
        cluster.until(lambda: 'restart' in log(scripts, array, 1), 60, 'the task to start')
        cluster.until(
            lambda: cluster.tasks(array)[0]['Restarts'] == '1', 120, 'the task to start again'
        )
        told = log(scripts, array, 1)
        assert 'Another run is working on sub-01' in told
        assert 'ended with exit code 75' in told
    (task,) = cluster.wait(array, 300 + CREDENTIALS)
    assert (task['JobState'], task['ExitCode'], task['Restarts']) == ('COMPLETED', '0:0', '1')
    assert (work / 'sub-01').is_dir()
    assert (tmp_path / 'out' / 'sub-01.html').is_file()


def test_75_does_not_go_on_for_ever(
    cluster: Cluster, stand_in: Path, exams: Path, tmp_path: Path
) -> None:
    (tmp_path / 'code.txt').write_text('75')
    words = ('--program', shlex.join([sys.executable, str(stand_in)]), '--restarts', '1')
    scripts = prepare(
        cluster, exams, tmp_path / 'out', tmp_path, *words, '--participant-label', '01'
    )
    (array,), group = submit(cluster, scripts)
    (task,) = cluster.wait(array, 60 + 2 * CREDENTIALS)
    assert (task['JobState'], task['ExitCode'], task['Restarts']) == ('FAILED', '75:0', '1')
    assert 'not started again after 1 restarts' in log(scripts, array, 1)
    assert [value(call, '--participant-label') for call in calls(stand_in)[:2]] == ['01', '01']
    cluster.wait(group, 60)


def test_when_the_time_is_nearly_over_the_task_goes_on_later(
    cluster: Cluster, stand_in: Path, exams: Path, tmp_path: Path
) -> None:
    """The signal that `--signal=B:USR1@120` sends; cancelling a task does not start it again."""
    (tmp_path / 'nap.txt').write_text('60')
    words = ('--program', shlex.join([sys.executable, str(stand_in)]), '-w', tmp_path / 'work')
    scripts = prepare(
        cluster, exams, tmp_path / 'out', tmp_path, *words, '--participant-label', '01', '02'
    )
    (array,), group = submit(cluster, scripts)
    cluster.until(lambda: len(calls(stand_in)) == 2, 60, 'both tasks to work')
    (tmp_path / 'nap.txt').write_text('0')
    cluster.run('scancel', '--batch', '--signal=USR1', f'{array}_1')
    cluster.run('scancel', f'{array}_2')
    first, second = cluster.wait(array, 120)
    assert (first['JobState'], first['Restarts']) == ('COMPLETED', '1')
    assert (second['JobState'], second['Restarts']) == ('CANCELLED', '0')
    assert 'the time is nearly over' in log(scripts, array, 1)
    (after,) = cluster.wait(group, 60)
    assert after['JobState'] == 'COMPLETED'


def test_a_gpu_is_asked_for(cluster: Cluster, stand_in: Path, exams: Path, tmp_path: Path) -> None:
    """One GPU in name: the second task waits for it although a core is free."""
    (tmp_path / 'nap.txt').write_text('3')
    words = ('--program', shlex.join([sys.executable, str(stand_in)]), '--gpu')
    scripts = prepare(
        cluster, exams, tmp_path / 'out', tmp_path, *words, '--participant-label', '01', '02'
    )
    (array,), group = submit(cluster, scripts)
    first, second = cluster.wait(array, 60)
    assert second['StartTime'] >= first['EndTime']
    assert {value(call, '--device') for call in calls(stand_in)[:2]} == {'cuda'}
    cluster.wait(group, 60)


# ---------------------------------------------------------------------------- templates


def test_the_template_of_an_array_and_srun(
    cluster: Cluster, stand_in: Path, exams: Path, tmp_path: Path, project_root: Path
) -> None:
    (tmp_path / 'participants.txt').write_text('01\nsub-02\n')
    settings = {
        'BIDS': str(exams),
        'OUT': str(tmp_path / 'out'),
        'PROGRAM': f'{sys.executable} {stand_in}',
        'LIST': str(tmp_path / 'participants.txt'),
        'SCRATCH': str(tmp_path),
        'CPUS': '1',
        'MEM': '1000',
    }
    job = cluster.submit(
        '--array=1-2', '--cpus-per-task=1', '--mem=1000M', f'--output={tmp_path}/%a.log',
        'slurm-array.sh', '--threshold', '0.5', cwd=project_root / 'hpc', environment=settings,
    )  # fmt: skip
    assert [task['ExitCode'] for task in cluster.wait(job, 60)] == ['0:0', '0:0']
    (tmp_path / 'code.txt').write_text('66')
    with pytest.raises(AssertionError, match='left with 66'):
        cluster.run('bash', project_root / 'hpc' / 'srun.sh', '03', environment=settings)
    found = calls(stand_in)
    assert sorted(value(call, '--participant-label') for call in found) == ['01', '02', '03']
    assert all(value(call, '--mem') == '900M' for call in found)
    assert found[0][-2:] == ['--threshold', '0.5']
    assert not list(tmp_path.glob('mslesseg-*'))


# ----------------------------------------------------------------------------- training


def training(exams: Path, run: Path) -> list[str]:
    """Return arguments of a training of seconds."""
    return [
        str(exams), str(run), '--preset', 'reduced', '--network', 'unet', '--validation', 'none',
        '--set', 'epochs=1', 'steps_per_epoch=2', 'batch=2', 'precision=float32',
        '--masks', str(exams / 'derivatives' / 'manual'),
        '--cache', str(exams.parent / 'cache'), '--device', 'cpu', '--omp-nthreads', '1', '-q',
    ]  # fmt: skip


def test_two_processes_train_one_network(
    cluster: Cluster, exams: Path, tmp_path: Path, project_root: Path
) -> None:
    """By torchrun in a job, by the template with srun, and by submitit: the same losses."""
    script = Path(__file__).parents[2] / 'tools' / 'ddp_job.py'
    runs = {name: tmp_path / name for name in ('torchrun', 'srun', 'submitit')}
    asked = ('--cpus-per-task=1', '--mem=4000M', f'--output={tmp_path}/%j.log')

    first = cluster.submit(
        '--ntasks=1', '--cpus-per-task=2', *asked[1:],
        '--wrap', shlex.join([sys.executable, str(script), *training(exams, runs['torchrun'])]),
    )  # fmt: skip
    finished(cluster, first, tmp_path)
    second = cluster.submit(
        *asked, project_root / 'hpc' / 'slurm-train.sh', *training(exams, runs['srun']),
        environment={'PROGRAM': sys.executable},
    )  # fmt: skip
    finished(cluster, second, tmp_path)
    cluster.run(
        sys.executable, '-m', 'mslesseg_app', 'hpc', 'train', '--jobs', tmp_path / 'jobs',
        '--processes', '2', '--cpus', '1', '--mem', '4000M', '--time', '20', '--wait',
        '--', *training(exams, runs['submitit']),
    )  # fmt: skip

    losses = {}
    for name, run in runs.items():
        (row,) = csv.DictReader((run / 'log.csv').open())
        losses[name] = float(row['loss'])
        states = torch.load(run / 'checkpoint.pt', weights_only=False)
        assert len(states['random']) == 2, name
        assert list((run / 'models').glob('**/*.toml')), name
    assert len(set(losses.values())) == 1, losses


def finished(cluster: Cluster, job: str, folder: Path) -> None:
    """Wait for a job that must succeed."""
    (task,) = cluster.wait(job, 300)
    assert task['JobState'] == 'COMPLETED', (folder / f'{job}.log').read_text()


def test_submitit_goes_on_after_its_time(cluster: Cluster, exams: Path, tmp_path: Path) -> None:
    """A training that is told to stop is in the queue again, and ends as one."""
    words = training(exams, tmp_path / 'run')
    words[words.index('epochs=1')] = 'epochs=12'
    told = cluster.run(
        sys.executable, '-m', 'mslesseg_app', 'hpc', 'train', '--jobs', tmp_path / 'jobs',
        '--cpus', '1', '--mem', '4000M', '--time', '20', '--', *words,
    )  # fmt: skip
    job = re.findall(r'Job (\d+)', told)[0]
    rows = tmp_path / 'run' / 'log.csv'
    cluster.until(
        lambda: rows.is_file() and rows.read_text().count('\n') > 2, 120, 'the first epochs'
    )
    cluster.run('scancel', '--signal=USR2', job)
    cluster.until(lambda: cluster.tasks(job)[0]['Restarts'] == '1', 120, 'the restart')
    (task,) = cluster.wait(job, 300)
    assert task['JobState'] == 'COMPLETED'
    epochs = [row['epoch'] for row in csv.DictReader(rows.open())]
    assert epochs == [str(number) for number in range(1, 13)]


# ------------------------------------------------------------------------ Nipype's plugin

NIPYPE = """
import sys
from nipype import Function, Node, Workflow, config
config.set('execution', 'poll_sleep_duration', '1')
def double(number):
    import os
    return 2 * number if os.environ.get('SLURM_JOB_ID') else -1
flow = Workflow('flow', base_dir=sys.argv[1])
nodes = [Node(Function(['number'], ['out'], double), name=f'n{n}') for n in range(3)]
nodes[0].inputs.number = 1
flow.connect([(a, b, [('out', 'number')]) for a, b in zip(nodes, nodes[1:])])
done = flow.run(plugin='SLURM', plugin_args={'sbatch_args': '--mem=500M'})
print([node.result.outputs.out for node in done.nodes()])
"""


def test_the_plugin_of_nipype_runs_nodes_as_jobs(cluster: Cluster, tmp_path: Path) -> None:
    """What the documentation says of it: one job a node, and LOGNAME must be set."""
    script = tmp_path / 'flow.py'
    script.write_text(NIPYPE)
    words = (sys.executable, script, tmp_path / 'work')
    assert '[2, 4, 8]' in cluster.run(*words)
    bare = {key: word for key, word in cluster.environment.items() if key != 'LOGNAME'}
    done = subprocess.run(
        [*map(str, words[:-1]), str(tmp_path / 'bare')],
        env=bare, capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert "KeyError: 'LOGNAME'" in done.stderr


def test_the_tests_leave_no_job(cluster: Cluster) -> None:
    lines = cluster.run('scontrol', '-o', 'show', 'job').splitlines()
    states = {re.findall(r'JobState=(\S+)', line)[0] for line in lines}
    assert states <= ENDED
    assert os.environ.get('SLURM_CONF') is None
