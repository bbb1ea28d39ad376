"""What every worker needs before its first step, loaded once and before there are any.

Workers are forked from one process (Python's forkserver). It imports this module while the main
process still looks at the dataset, and loads libraries and what is derived from the template; the
workers share them. What cannot be loaded here is left to the step that needs it, which reports it.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from multiprocessing import forkserver

#: Tells the forkserver to load, and whether there is a network: torch is needed then.
_ASKED = 'MSLESSEG_PRELOAD'


def begin_loading(*, network: bool) -> None:
    """Start the process from which workers are forked, and do not wait for it."""
    context = multiprocessing.get_context('forkserver')
    context.set_forkserver_preload([__name__])
    os.environ[_ASKED] = 'network' if network else 'steps'
    try:
        forkserver.ensure_running()
    finally:
        del os.environ[_ASKED]


def _load(asked: str) -> None:
    """Load all of it, unless the main process ends meanwhile."""
    parent = os.getppid()
    for task in _tasks(network=asked == 'network'):
        with suppress(Exception):
            task()
        if os.getppid() != parent:
            return


def _tasks(*, network: bool) -> Iterator[Callable[[], object]]:
    """Yield what is to be done, in the order in which an exam needs it."""
    yield _import_steps
    from mslesseg_app.lesions import atlas, selfcheck
    from mslesseg_app.spatial import exam_alignment, quality, tissues

    yield lambda: exam_alignment.template_reference(1).prepare()
    yield quality.template_samples
    if network:
        yield _import_network
    yield tissues.template_maps
    yield atlas.region_atlas
    yield selfcheck.half_template


def _import_steps() -> None:
    import SimpleITK  # noqa: F401

    import mslesseg_app.participant.workflows.exam
    import mslesseg_app.reports.figures  # noqa: F401


def _import_network() -> None:
    import mslesseg_app.models.prediction.predictor
    import mslesseg_app.models.prediction.segment  # noqa: F401


if _ASKED in os.environ:
    _load(os.environ[_ASKED])
