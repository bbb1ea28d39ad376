"""What a job asks of the scheduler: measured figures, with room above them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mslesseg_app.core.errors import UsageError
from mslesseg_app.models.networks import NETWORKS
from mslesseg_app.models.networks.spec import InferenceCost
from mslesseg_app.models.registry import get_entry

#: Seconds of one exam without a network, on two cores: start of the program, alignment, brain
#: mask, ``hyperintensity``, tables and report; the longest of six exams, rounded up.
EXAM_SECONDS = 60.0
#: GiB that all processes of one task held together with two exams at a time, rounded up.
EXAM_MEMORY = 3.0
#: Requested over measured time: slower nodes, shared disks, 3D exams.
TIME_MARGIN = 4.0
#: Requested over measured memory.
MEMORY_MARGIN = 1.3
#: Nothing shorter is asked for: schedulers start short jobs sooner, but not by minutes.
SHORTEST_MINUTES = 30


#: Of a brain, from docs/performance.md, "Inference": passes counted, seconds a pass and memory
#: measured.
COSTS = {
    'hyperintensity': InferenceCost(0.0, 0.0, 0.0, measured=True),
    'nnunet': InferenceCost(1300.0, 1300.0, 6.0),
    'command': InferenceCost(3600.0, 3600.0, 8.0),
    **{name: spec.cost for name, spec in NETWORKS.items()},
}
_UNKNOWN = InferenceCost(1300.0, 3600.0, 6.0)


@dataclass(frozen=True)
class JobResources:
    """What one task asks for.

    Attributes
    ----------
    cpus : int
    memory_mb : int
        MiB, as SLURM's ``M``.
    minutes : int
        Wall time.
    gpu : str
        Value of ``--gres``, such as ``gpu:1``; empty for none.
    why : tuple of str
        Where the numbers come from, one sentence each.
    """

    cpus: int
    memory_mb: int
    minutes: int
    gpu: str = ''
    why: tuple[str, ...] = ()

    @property
    def time(self) -> str:
        """Wall time as ``D-HH:MM:00``, the form that every SLURM reads."""
        days, rest = divmod(self.minutes, 1440)
        return f'{days}-{rest // 60:02d}:{rest % 60:02d}:00'

    @property
    def app_memory_mb(self) -> int:
        """What the App may plan with: a tenth less, for the program itself."""
        return int(self.memory_mb * 0.9)


def architectures(names: Sequence[str], model_dir: Path | None, *, inside: bool) -> list[str]:
    """Return the architecture of each model; with ``inside`` those of an image may be unknown."""
    found = []
    for name in names:
        try:
            found.append(get_entry(name, model_dir).architecture)
        except UsageError:
            if not inside:
                raise
            found.append(name)
    return found


def estimate(
    architectures: Sequence[str],
    *,
    preset: str = 'fast',
    exams: int = 1,
    cpus: int = 2,
    gpu: str = '',
) -> JobResources:
    """Estimate what one participant needs.

    Parameters
    ----------
    architectures : sequence of str
        Of the models of the run; unknown ones count as the dearest measured network.
    preset : {'fast', 'exact'}
    exams : int
        Most sessions of one participant.
    cpus : int
        Cores of a task.
    gpu : str
        Value of ``--gres``. No GPU was measured: the CPU's time stands, as an upper bound.

    Returns
    -------
    Resources
        Time of all exams one after the other, times `TIME_MARGIN`, in half hours; memory of the
        App and of the largest network, times `MEMORY_MARGIN`, in GiB.

    Examples
    --------
    >>> found = estimate(['hyperintensity'])
    >>> found.time, found.memory_mb
    ('0-00:30:00', 4096)
    """
    costs = [COSTS.get(name, _UNKNOWN) for name in architectures]
    network = sum(one.exact if preset == 'exact' else one.fast for one in costs)
    # two threads share a network's work; more were not measured
    seconds = exams * (EXAM_SECONDS * 2 / min(cpus, 2) + network / min(cpus, 2))
    minutes = max(SHORTEST_MINUTES, 30 * math.ceil(seconds * TIME_MARGIN / 1800))
    memory = max([EXAM_MEMORY, *(one.memory + 1.0 for one in costs)])
    many = 's' if exams > 1 else ''
    why = [
        f'{exams} exam{many} of {seconds / exams:.0f} s at most, {memory:.1f} GiB, {cpus} cores.',
        f'Asked for: {TIME_MARGIN:g} times the time, {MEMORY_MARGIN:g} times the memory.',
    ]
    assumed = sorted(
        name for name, one in zip(architectures, costs, strict=True) if not one.measured
    )
    if assumed:
        why.append(
            f'Time and memory of {", ".join(assumed)} are wholly or partly assumed, not measured.'
        )
    if gpu:
        why.append('No GPU was measured: the time is that of the CPU, an upper bound.')
    gib = math.ceil(memory * MEMORY_MARGIN)
    return JobResources(cpus, 1024 * gib, minutes, gpu, tuple(why))
