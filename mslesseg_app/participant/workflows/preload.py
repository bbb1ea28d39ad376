"""What every worker needs before its first step, loaded once and before there are any.

Workers are forked from one process (Python's forkserver). It imports this module while the main
process still looks at the dataset, and loads libraries and what is derived from the template; the
workers share them. What cannot be loaded here is left to the step that needs it, which reports it.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from importlib import import_module
from multiprocessing import forkserver

#: What the steps import, the first ones first; the network apart, because torch is large.
_STEPS = (
    'mslesseg_app.participant.workflows.exam',
    'mslesseg_app.spatial.checks',
    'skimage.filters',
    'SimpleITK',
    'mslesseg_app.participant.interfaces.spatial',
    'mslesseg_app.reports.figures',
    'mslesseg_app.participant.subjects',
)
_NETWORK = ('mslesseg_app.models.prediction.segment', 'mslesseg_app.models.prediction.predictor')
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
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # the main process is interrupted
    for task in _tasks(network=asked == 'network'):
        with suppress(Exception):
            task()
        if os.getppid() != parent:
            break
    signal.signal(signal.SIGINT, before)


def _tasks(*, network: bool) -> Iterator[Callable[[], object]]:
    """Yield what is to be done, in the order in which an exam needs it."""
    yield partial(_import, _STEPS)
    yield _derive_for_alignment
    if network:
        yield partial(_import, _NETWORK)
    yield _derive_for_lesions


def _derive_for_alignment() -> None:
    from mslesseg_app.spatial import exam_alignment, quality

    exam_alignment.template_reference(1).prepare()
    quality.template_samples()


def _derive_for_lesions() -> None:
    from mslesseg_app.lesions import atlas, selfcheck
    from mslesseg_app.spatial import tissues

    tissues.template_maps()
    atlas.region_atlas()
    selfcheck.half_template()


def _import(names: tuple[str, ...]) -> None:
    for name in names:
        import_module(name)


if _ASKED in os.environ:
    _load(os.environ[_ASKED])
