"""What happens to long runs: killed, started twice, a full disk, folders without permission."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from running import QUICK, computed_nodes, contents, wait_for

#: So long may the end of a run take once it knows that it cannot go on.
PATIENCE_S = 90


def same_exam(out: Path, quick_run: Path) -> None:
    """Check that the exam's results are those of the run that nothing disturbed."""
    found, expected = contents(out / 'sub-01'), contents(quick_run / 'out' / 'sub-01')
    assert found.keys() == expected.keys()
    assert [name for name in expected if found[name] != expected[name]] == []
    assert list(out.rglob('.tmp-*')) == []


def kill(process: subprocess.Popen[str]) -> None:
    """Kill the main process as ``kill -9`` does, and see that its workers end too."""
    workers = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    process.communicate()
    _, alive = psutil.wait_procs(workers, timeout=30)
    assert alive == [], 'workers go on writing beside the next run'


# ------------------------------------------------------------------ killed and repeated


def test_twice_at_the_same_time_then_killed_then_repeated(quick, quick_run, start, run, tmp_path):
    command = [quick, tmp_path / 'out', 'participant', '-w', tmp_path / 'work', *QUICK]
    first = start(*command)
    wait_for(first, tmp_path / 'work', 'conform_')
    second = run(*command)
    assert second.code == 75
    assert 'Another run is working on sub-01_ses-1' in second.stderr
    wait_for(first, tmp_path / 'work', 'segment')
    kill(first)
    assert not list((tmp_path / 'out').rglob('*_mask.nii.gz'))
    computed = computed_nodes(tmp_path / 'work')
    assert 'conform_flair' in computed
    again = run(*command)
    assert again.code == 0, again.stderr
    assert computed.items() <= computed_nodes(tmp_path / 'work').items(), 'nothing is done again'
    same_exam(tmp_path / 'out', quick_run)


@pytest.mark.slow
@pytest.mark.parametrize('step', ['resample_', 'describe'])
def test_killed_at_other_places(quick, quick_run, start, run, tmp_path, step):
    command = [quick, tmp_path / 'out', 'participant', '-w', tmp_path / 'work', *QUICK]
    process = start(*command)
    wait_for(process, tmp_path / 'work', step)
    time.sleep(0.3)
    kill(process)
    again = run(*command)
    assert again.code == 0, again.stderr
    same_exam(tmp_path / 'out', quick_run)


@pytest.mark.slow
def test_killed_while_it_writes(quick_run, start, run, tmp_path):
    """The nodes are cached, so only the sinks run: killed at any moment, no half file is left."""
    root = Path(shutil.copytree(quick_run, tmp_path / 'root'))
    command = [root / 'bids', root / 'out', 'participant', '-w', root / 'work', *QUICK]
    assert run(*command).code == 0
    expected = contents(root / 'out' / 'sub-01')
    shutil.rmtree(root / 'out')
    process = start(*command)
    anat = root / 'out/sub-01/ses-1/anat'
    end = time.monotonic() + PATIENCE_S
    while len(list(anat.glob('*.nii.gz'))) < 3 and time.monotonic() < end:
        time.sleep(0.002)
    kill(process)
    written = contents(root / 'out' / 'sub-01')
    whole = {name: data for name, data in written.items() if '.tmp-' not in name}
    assert 0 < len(whole) < len(expected)
    assert [name for name in whole if whole[name] != expected[name]] == []
    assert run(*command).code == 0
    same_exam(root / 'out', quick_run)


def test_a_worker_that_is_killed(quick, start, run, tmp_path):
    """As the kernel does when memory is short: the run ends with a reason, and can go on."""
    out = tmp_path / 'out'
    command = [quick, out, 'participant', '-w', tmp_path / 'work', *QUICK]
    process = start(*command)
    wait_for(process, tmp_path / 'work', 'align')
    for worker in workers_of(process):
        worker.send_signal(signal.SIGKILL)
    stdout, stderr = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 75, stderr
    assert 'ran out of memory' in stderr
    assert 'Traceback' not in stderr
    assert '0 of 1 exams done' in stdout
    assert 'worker process was killed' in (out / 'sub-01.html').read_text()
    record = json.loads(next(out.rglob('*_exam.json')).read_text())
    assert record['failure']['exit_code'] == 75


def workers_of(process: subprocess.Popen[str]) -> list[psutil.Process]:
    """Return the processes of the pool: children of the fork server."""
    children = psutil.Process(process.pid).children()
    return [worker for child in children for worker in child.children()]


@pytest.mark.parametrize(
    'number', [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)]
)
def test_interrupted(quick, start, tmp_path, number):
    process = start(quick, tmp_path / 'out', 'participant', '-w', tmp_path / 'work', *QUICK)
    wait_for(process, tmp_path / 'work', 'align')
    workers = psutil.Process(process.pid).children(recursive=True)
    os.kill(process.pid, number)
    _, stderr = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == (130 if number == signal.SIGINT else -number)
    assert 'Traceback' not in stderr
    if number == signal.SIGINT:
        assert 'Interrupted' in stderr
    _, alive = psutil.wait_procs(workers, timeout=30)
    assert alive == []


# --------------------------------------------------------------------- two at a time


@pytest.mark.slow
def test_two_runs_on_different_participants_into_one_output(quick, quick_run, start, tmp_path):
    """Into ``derivatives/`` of the dataset itself, which is allowed."""
    (quick / 'sub-02/anat').mkdir(parents=True)
    for modality in ('FLAIR', 'T1w'):
        source = quick / f'sub-01/ses-1/anat/sub-01_ses-1_{modality}.nii.gz'
        shutil.copy(source, quick / f'sub-02/anat/sub-02_{modality}.nii.gz')
    out = quick / 'derivatives' / 'mslesseg'
    common = [quick, out, 'participant', '-w', tmp_path / 'work', *QUICK]
    runs = [start(*common, '--participant-label', label) for label in ('01', '02')]
    for process in runs:
        _, stderr = process.communicate(timeout=800)
        assert process.returncode == 0, stderr
    same_exam(out, quick_run)
    first, second = contents(out / 'sub-01'), contents(out / 'sub-02')
    images = {
        name.replace('ses-1/', '').replace('sub-01_ses-1_', 'sub-02_'): data
        for name, data in first.items()
        if name.endswith(('.nii.gz', '.txt', '.svg'))
    }
    assert [name for name in images if second[name] != images[name]] == []
    assert (out / 'sub-01.html').is_file()
    assert (out / 'sub-02.html').is_file()
    json.loads((out / 'dataset_description.json').read_text())


# ------------------------------------------------------ disks and folders (need root)


def in_namespace(script: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run a shell script that may mount; ``$APP`` is the program, ``$1`` the first argument."""
    project = Path(__file__).parents[2]
    environment = {
        **os.environ,
        'PYTHONPATH': str(project),
        'APP': f'{sys.executable} -m mslesseg_app',
        'OPTIONS': '--skip-bids-validation --model hyperintensity',
    }
    command = ['unshare', '--mount', 'sh', '-euc', script, 'sh', *map(str, arguments)]
    return subprocess.run(
        command, env=environment, capture_output=True, text=True, check=False, timeout=800
    )


@pytest.mark.root
def test_read_only_dataset(quick_run, tmp_path):
    script = 'mount --bind "$1" "$1"; mount -o remount,ro,bind "$1"; ! touch "$1/x" 2>/dev/null; '
    script += '$APP "$1" "$2" participant -w "$3" --nprocs 2 --model hyperintensity'
    done = in_namespace(script, quick_run / 'bids', tmp_path / 'out', quick_run / 'work')
    assert done.returncode == 0, done.stderr
    same_exam(tmp_path / 'out', quick_run)


@pytest.mark.root
@pytest.mark.parametrize('closed', ['out', 'work'])
def test_folder_that_cannot_be_written(quick_run, tmp_path, closed):
    for name in ('out', 'work'):
        (tmp_path / name).mkdir()
    script = 'mount --bind "$4" "$4"; mount -o remount,ro,bind "$4"; '
    script += '$APP "$1" "$2" participant -w "$3" --skip-bids-validation'
    folders = [tmp_path / 'out', tmp_path / 'work', tmp_path / closed]
    done = in_namespace(script, quick_run / 'bids', *folders)
    assert done.returncode == 73, done.stderr
    assert f'{tmp_path / closed} cannot be written' in done.stderr
    assert 'Traceback' not in done.stderr


#: Fill a small disk, then make it larger and run the same command again.
FULL = """
mount -t tmpfs -o size=$4 tmpfs "$5"
code=0
$APP "$1" "$2" participant -w "$3" --nprocs 2 $OPTIONS || code=$?
echo "first: $code"
find "$2" -name '.tmp-*' | sed 's/^/left: /'
find "$2" -name '*.nii.gz' -exec gzip -t {} \\;
mount -o remount,size=900m "$5"
code=0
$APP "$1" "$2" participant -w "$3" --nprocs 2 $OPTIONS || code=$?
echo "second: $code"
cp -r "$2" "$6"
"""


@pytest.mark.root
@pytest.mark.parametrize(
    ('full', 'size'),
    [
        ('out', '3m'),
        pytest.param('out', '200k', marks=pytest.mark.slow),
        pytest.param('out', '8k', marks=pytest.mark.slow),
        pytest.param('work', '40m', marks=pytest.mark.slow),
        pytest.param('work', '20k', marks=pytest.mark.slow),
    ],
)
def test_full_disk(quick_run, tmp_path, full, size):
    out, work = tmp_path / 'out', quick_run / 'work'
    out.mkdir()
    if full == 'work':
        work = tmp_path / 'work'
        work.mkdir()
    disk = out if full == 'out' else work
    done = in_namespace(FULL, quick_run / 'bids', out, work, size, disk, tmp_path / 'kept')
    assert 'first: 74' in done.stdout, done.stdout + done.stderr
    assert 'left:' not in done.stdout
    assert 'No space left' in done.stderr
    assert 'Traceback' not in done.stderr
    assert 'second: 0' in done.stdout, done.stdout + done.stderr
    same_exam(tmp_path / 'kept', quick_run)
