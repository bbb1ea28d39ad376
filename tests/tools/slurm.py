"""A real SLURM of one node, private to a folder: its own key, sockets, ports and state.

Nothing of the machine is changed, and no cgroups are needed; several can run side by side.
It needs root, and the programs of Debian's packages ``slurm-wlm`` and ``munge``.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

import psutil

PROGRAMS = ('munged', 'slurmctld', 'slurmd', 'sbatch', 'srun', 'scontrol', 'squeue', 'scancel')
#: A job that is over, in `scontrol show job`.
ENDED = {
    'BOOT_FAIL', 'CANCELLED', 'COMPLETED', 'DEADLINE', 'FAILED', 'NODE_FAIL', 'OUT_OF_MEMORY',
    'PREEMPTED', 'TIMEOUT',
}  # fmt: skip
#: Seconds before a job that starts again may start: SLURM waits until old credentials expired.
CREDENTIALS = 20

CONFIGURATION = """
ClusterName=tests
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller}
SlurmdPort={daemon}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket,cred_expire={credentials}
CredType=cred/munge
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
DefMemPerCPU=500
MpiDefault=none
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
SchedulerParameters=sched_interval=2,bf_interval=2,batch_sched_delay=0
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ReturnToService=2
MinJobAge=3600
KillWait=5
SlurmdParameters=config_overrides
GresTypes=gpu
NodeName=localhost NodeHostname={host} NodeAddr=127.0.0.1 \\
    CPUs={cpus} RealMemory={memory} Gres=gpu:1 State=UNKNOWN
PartitionName=all Nodes=localhost Default=YES MaxTime=INFINITE State=UP
"""


def program(name: str) -> str | None:
    """Find a program, also where only root looks."""
    return shutil.which(name, path=f'{os.environ.get("PATH", "")}:/usr/sbin:/sbin')


def lacking() -> str:
    """Return why no cluster can be started here; empty if one can."""
    if os.geteuid() != 0:
        return 'a private SLURM needs root'
    missing = [name for name in PROGRAMS if program(name) is None]
    return f'not installed: {", ".join(missing)} (slurm-wlm, munge)' if missing else ''


class Cluster:
    """A running cluster; use it in a ``with`` block.

    Parameters
    ----------
    folder : Path
        Empty; short enough for a socket (100 characters).
    cpus : int
        Cores that the node claims to have.
    """

    def __init__(self, folder: Path, cpus: int = 2) -> None:
        self.folder = folder
        self.cpus = cpus
        self.daemons: list[subprocess.Popen[bytes]] = []
        self.environment = {
            **os.environ,
            'SLURM_CONF': str(folder / 'slurm.conf'),
            'LOGNAME': os.environ.get('LOGNAME', 'root'),  # Nipype asks for it
            'USER': os.environ.get('USER', 'root'),
            'PATH': f'{os.environ.get("PATH", "")}:/usr/sbin:/sbin',
        }

    def __enter__(self) -> Cluster:
        try:
            self._start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    # ------------------------------------------------------------------- for users

    def run(self, *command: object, **more: Any) -> str:
        """Run a command as a user of the cluster; return what it printed."""
        environment = {**self.environment, **more.pop('environment', {})}
        done = subprocess.run(
            [str(word) for word in command],
            capture_output=True,
            text=True,
            env=environment,
            timeout=120,
            check=False,
            **more,
        )
        if done.returncode:
            raise AssertionError(f'{command} left with {done.returncode}: {done.stderr}')
        return done.stdout

    def submit(self, *arguments: object, **more: Any) -> str:
        """Submit a job; return its number."""
        return self.run('sbatch', '--parsable', *arguments, **more).strip().partition(';')[0]

    def tasks(self, job: str) -> list[dict[str, str]]:
        """Return what SLURM knows of a job, or of each task of an array."""
        lines = self.run('scontrol', '-o', 'show', 'job', job).splitlines()
        found = [dict(re.findall(r'(\w+)=(\S*)', line)) for line in lines if line.strip()]
        return sorted(found, key=lambda task: task.get('ArrayTaskId', '').zfill(9))

    def states(self, job: str) -> list[str]:
        """Return the state of a job, or of each task."""
        return [task['JobState'] for task in self.tasks(job)]

    def wait(self, job: str, seconds: float = 300) -> list[dict[str, str]]:
        """Wait until a job, or all tasks of an array, have ended."""
        self.until(lambda: set(self.states(job)) <= ENDED, seconds, f'job {job} to end')
        return self.tasks(job)

    def until(self, true: Callable[[], object], seconds: float, what: str) -> None:
        """Wait for something; ``sbatch --wait`` would look ever more seldom."""
        end = time.monotonic() + seconds
        while not true():
            if time.monotonic() > end:
                queue = self.run('squeue', '-t', 'all')
                raise AssertionError(f'waited {seconds} s for {what}\n{queue}{self.logs()}')
            time.sleep(0.3)

    def logs(self) -> str:
        """Return the ends of the logs of the daemons."""
        ends = []
        for path in sorted(self.folder.glob('*.log')):
            ends.append(f'--- {path.name}\n{path.read_text(errors="replace")[-1500:]}')
        return '\n'.join(ends)

    # -------------------------------------------------------------------- daemons

    def _start(self) -> None:
        if reason := lacking():
            raise RuntimeError(reason)
        for name in ('munge', 'state', 'spool'):
            (self.folder / name).mkdir(parents=True)
        (self.folder / 'munge').chmod(0o755)
        key = self.folder / 'munge' / 'key'
        key.touch(mode=0o600)
        key.write_bytes(os.urandom(1024))
        self._configure()
        place = self.folder / 'munge'
        self._spawn(
            'munged', '--foreground', '--force', f'--key-file={key}', f'--socket={place}/socket',
            f'--pid-file={place}/pid', f'--log-file={place}/log', f'--seed-file={place}/seed',
        )  # fmt: skip
        self._ready(lambda: (place / 'socket').exists(), 'munged')
        self._spawn('slurmctld', '-D', '-c')
        self._spawn('slurmd', '-D', '-N', 'localhost')
        self._ready(self._is_idle, 'the node')

    def _configure(self) -> None:
        controller, daemon = _free_ports(2)
        text = CONFIGURATION.format(
            host=socket.gethostname().partition('.')[0],
            controller=controller,
            daemon=daemon,
            folder=self.folder,
            credentials=CREDENTIALS,
            cpus=self.cpus,
            memory=psutil.virtual_memory().total * 8 // 10 // 2**20,
        )
        (self.folder / 'slurm.conf').write_text(text)
        # a GPU in name only, so that scripts which ask for one are scheduled
        (self.folder / 'gres.conf').write_text('NodeName=localhost Name=gpu File=/dev/null\n')
        shown = subprocess.run([str(program('slurmd')), '-V'], capture_output=True, text=True)
        number = re.search(r'(\d+)\.(\d+)', shown.stdout)
        new = number is not None and (int(number[1]), int(number[2])) >= (23, 11)
        plugin = 'disabled' if new else 'cgroup/v1\nCgroupAutomount=no'
        (self.folder / 'cgroup.conf').write_text(f'CgroupPlugin={plugin}\n')

    def _spawn(self, name: str, *arguments: str) -> None:
        with (self.folder / f'{name}.out').open('wb') as output:
            self.daemons.append(
                subprocess.Popen(
                    [str(program(name)), *arguments],
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    env=self.environment,
                    start_new_session=True,
                )
            )

    def _is_idle(self) -> bool:
        done = subprocess.run(
            ['sinfo', '-h', '-o', '%T'], capture_output=True, text=True, env=self.environment
        )
        return done.stdout.strip() == 'idle'

    def _ready(self, true: Callable[[], object], what: str) -> None:
        end = time.monotonic() + 60
        while not true():
            dead = [daemon.args[0] for daemon in self.daemons if daemon.poll() is not None]
            if dead or time.monotonic() > end:
                shown = '\n'.join(p.read_text() for p in self.folder.glob('*.out'))
                raise RuntimeError(f'{what} did not start; ended: {dead}\n{shown}{self.logs()}')
            time.sleep(0.1)

    def stop(self) -> None:
        """Cancel all jobs and end the daemons."""
        if len(self.daemons) > 1:
            with suppress(AssertionError, subprocess.SubprocessError, OSError):
                self.run('scancel', '--full', '--user=root')
                self.until(lambda: not self.run('squeue', '-h').strip(), 30, 'jobs to go')
        for daemon in reversed(self.daemons):
            daemon.send_signal(signal.SIGTERM)
            try:
                daemon.wait(timeout=15)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()
        self.daemons.clear()


def _free_ports(count: int) -> list[int]:
    """Return ports that nobody listens on now."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(('127.0.0.1', 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()
