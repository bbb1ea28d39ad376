"""A training as a job of submitit: several processes, queued again when its time is over."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mslesseg_app.core.errors import BusyError, MSLesSegError, UsageError


@dataclass(frozen=True)
class TrainingRequest:
    """A training and what it asks of the cluster.

    Attributes
    ----------
    arguments : tuple of str
        Of ``mslesseg train``, paths absolute.
    folder : Path
        Of submitit's files and logs; all nodes must see it.
    local : bool
        Processes of this machine instead of a cluster.
    nodes, processes, gpus, cpus : int
        Machines; processes and GPUs a machine; cores a process.
    memory_mb, minutes : int
        A machine's memory in MiB and the wall time of one start.
    partition, account, qos, constraint : str
        As in the options of ``sbatch``; empty for none.
    setup : tuple of str
        Lines of shell that come first.
    restarts : int
        How often it starts again after its time was over.
    """

    arguments: tuple[str, ...]
    folder: Path
    local: bool = False
    nodes: int = 1
    processes: int = 1
    gpus: int = 0
    cpus: int = 2
    memory_mb: int = 16384
    minutes: int = 1440
    partition: str = ''
    account: str = ''
    qos: str = ''
    constraint: str = ''
    setup: tuple[str, ...] = ()
    restarts: int = 3


@dataclass(frozen=True)
class Training:
    """What submitit pickles and calls in each process.

    The training itself is a process of its own, so that its libraries meet a fresh interpreter;
    what SLURM and submitit know of the other processes reaches it as ``torchrun`` would tell it.
    """

    arguments: tuple[str, ...]

    def __call__(self) -> int:
        """Train; return 0.

        Raises
        ------
        MSLesSegError
            With the exit code of the training in its text, so that SLURM counts the job as failed.
        """
        command = [sys.executable, '-m', 'mslesseg_app', 'train', *self.arguments]
        code = subprocess.run(command, env=world_environment(), check=False).returncode
        if code:
            raise MSLesSegError(f'The training left with exit code {code}.')
        return 0

    def checkpoint(self, *_: Any) -> Any:
        """Say how to go on after a stop: by the same call, from the last epoch."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)


def with_absolute_paths(words: Sequence[str], paths: Iterable[Path | None]) -> tuple[str, ...]:
    """Return arguments of ``mslesseg train`` in which these paths are absolute."""
    named = {str(path) for path in paths if path is not None}
    found = []
    for word in words:
        name, sign, value = word.partition('=')
        if word.startswith('--') and sign and str(Path(value)) in named:
            found.append(f'{name}={Path(value).absolute()}')
        elif str(Path(word)) in named:
            found.append(str(Path(word).absolute()))
        else:
            found.append(word)
    return tuple(found)


def world_environment() -> dict[str, str]:
    """Return the environment of a training process within a job of submitit."""
    import submitit

    job = submitit.JobEnvironment()
    port = 20000 + sum(map(ord, job.job_id)) * 97 % 20000
    return {
        **os.environ,
        'RANK': str(job.global_rank),
        'WORLD_SIZE': str(job.num_tasks),
        'LOCAL_RANK': str(job.local_rank),
        'LOCAL_WORLD_SIZE': str(max(1, job.num_tasks // max(1, job.num_nodes))),
        'MASTER_ADDR': job.hostnames[0] if job.num_nodes > 1 else '127.0.0.1',
        'MASTER_PORT': os.environ.get('MASTER_PORT', str(port)),
    }


def submit(request: TrainingRequest, *, wait: bool = False, quiet: bool = False) -> int:
    """Submit a training.

    Parameters
    ----------
    request : TrainingRequest
    wait : bool
        Return when it has ended.
    quiet : bool

    Returns
    -------
    int
        0 when it is submitted; with ``wait`` the exit code of the training.

    Raises
    ------
    UsageError
        If submitit is not installed, or there is no SLURM.
    BusyError
        If the cluster takes no job now.
    """
    executor = make_executor(request)
    try:
        job = executor.submit(Training(request.arguments))
    except Exception as error:
        raise BusyError(
            f'The job was not taken: {error}',
            'Ask sinfo and sacctmgr, or change what it asks for.',
        ) from error
    if not quiet:
        print(f'Job {job.job_id}; logs: {job.paths.stdout}, {job.paths.stderr}', flush=True)
    return _outcome(job) if wait else 0


def make_executor(request: TrainingRequest) -> Any:
    """Return submitit's executor with what the request asks for."""
    try:
        import submitit
    except ImportError as error:
        raise UsageError(
            'submitit is not installed.', "Install it with: pip install 'mslesseg[hpc]'"
        ) from error
    import shutil

    if not request.local and shutil.which('srun') is None:
        raise UsageError(
            'There is no SLURM here: srun is not on PATH.',
            'Submit from a login node, or use --local.',
        )
    executor = submitit.AutoExecutor(
        request.folder,
        cluster='local' if request.local else 'slurm',
        **({} if request.local else {'slurm_max_num_timeout': request.restarts}),
    )
    executor.update_parameters(
        name='mslesseg-train',
        nodes=request.nodes,
        tasks_per_node=request.processes,
        cpus_per_task=request.cpus,
        gpus_per_node=request.gpus,
        mem_gb=request.memory_mb / 1024,
        timeout_min=request.minutes,
    )
    if not request.local:
        executor.update_parameters(**_slurm_parameters(request))
    return executor


def _slurm_parameters(request: TrainingRequest) -> dict[str, Any]:
    words = {
        f'slurm_{name}': getattr(request, name)
        for name in ('partition', 'account', 'qos', 'constraint')
        if getattr(request, name)
    }
    return {**words, 'slurm_setup': list(request.setup)}


def _outcome(job: Any) -> int:
    """Wait, and return the exit code of the training."""
    try:
        job.results()
    except Exception as error:
        if found := re.search(r'left with exit code (\d+)', str(error)):
            print(f'The training failed; see {job.paths.stderr}', file=sys.stderr)
            return int(found[1])
        raise MSLesSegError(
            f'The job {job.job_id} failed: {str(error).strip().splitlines()[-1]}',
            f'See {job.paths.stderr}.',
        ) from error
    return 0
