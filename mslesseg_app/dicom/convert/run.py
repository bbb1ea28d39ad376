"""``mslesseg convert``: from the files of the sources to the dataset and its tables."""

from __future__ import annotations

import hashlib
import multiprocessing
import shutil
import signal
import sqlite3
from collections import Counter, deque
from collections.abc import Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack, contextmanager
from importlib.metadata import version
from itertools import groupby
from pathlib import Path
from types import ModuleType

from mslesseg_app import __version__
from mslesseg_app.core.errors import BusyError, DataError, DiskError, NoInputError, UsageError
from mslesseg_app.dicom.convert import bids_files as tree
from mslesseg_app.dicom.convert import heuristic
from mslesseg_app.dicom.convert.conversion import (
    ConversionTask,
    SeriesOutcome,
    convert_series,
    still_there,
)
from mslesseg_app.dicom.convert.index import Index
from mslesseg_app.dicom.convert.plan import ConversionRequest, Item, listed, make_plan, sort_series
from mslesseg_app.dicom.convert.progress import ConversionProgress
from mslesseg_app.dicom.convert.tables import tell, write_tables
from mslesseg_app.dicom.deidentify.private_records import Records, alone
from mslesseg_app.dicom.identity import SubjectMap

#: Raised when conversions must be done anew.
_RECIPE = 2
#: Only the first process answers to Ctrl-C.
_DEAF = (signal.SIGINT, signal.SIG_IGN)


def convert(request: ConversionRequest) -> int:
    """Convert everything that the sources hold.

    Returns
    -------
    int
        0, or 1 if a series that should be in the dataset is not.

    Raises
    ------
    UsageError, NoInputError, DataError, OutputError, DiskError, BusyError
    """
    check_places(request)
    module = heuristic.load(request.heuristic)
    work = request.work_dir / 'dicom'
    try:
        with ExitStack() as stack:
            stack.enter_context(alone(work))
            subjects = SubjectMap(_map_file(request, work))
            records = Records(request.subject_map, request.bids_dir)
            if not request.dry_run:
                stack.enter_context(alone(records.folder))
            pool = stack.enter_context(_processes(request.nprocs))
            index = Index(work)
            stack.callback(index.close)
            items = _convert(request, module, index, pool, subjects, records)
            lost = bool(index.unread())
    except sqlite3.Error as error:
        raise DiskError(
            f'The index in {work} cannot be written: {error}.',
            'Free some space, or choose another folder with -w/--work-dir.',
        ) from error
    for folder in ('archives', 'dry-run', 'series', 'tmp'):
        shutil.rmtree(work / folder, ignore_errors=True)
    return int(lost or any(item.outcome.error for item in items))


def _convert(
    request: ConversionRequest,
    module: ModuleType,
    index: Index,
    pool: Executor | None,
    subjects: SubjectMap,
    records: Records,
) -> list[Item]:
    with ConversionProgress('files read', quiet=request.quiet) as progress:
        index.update(request.sources, pool, progress)
    series = sort_series(index, request)
    items = list(make_plan(request, module, index, series, subjects, records))
    wanted = any(item.wanted for item in items)
    if wanted and not request.dry_run:
        _convert_all(request, index, pool, items, records)
        write_tables(request, items, index, records)
    tell(request, items, index, written=wanted and not request.dry_run)
    if not wanted:
        ours = 'is a T1w, T2w, PDw or FLAIR image of a brain'
        what = ours if request.heuristic == 'mslesseg' else 'is wanted by the heuristic'
        reasons = Counter(item.target.reason for item in items)
        raise DataError(f'None of the series {what}.', f'Left out: {listed(reasons)}.')
    return items


# ---------------------------------------------------------------------------------- places


def check_places(request: ConversionRequest) -> None:
    """Make sure that the sources exist, and that nothing is written into them.

    Raises
    ------
    NoInputError, UsageError, OutputError
    """
    for source in request.sources:
        if not source.exists():
            raise NoInputError(
                f'{source} does not exist.',
                'In a container, mount it: -v /absolute/path:/dicom:ro',
            )
        below = source.resolve()
        for place, what in (
            (request.bids_dir, 'BIDS_DIR'),
            (request.work_dir, 'The work folder'),
            (request.subject_map.parent, 'The folder of the subject map'),
        ):
            if below == place.resolve() or below in place.resolve().parents:
                raise UsageError(
                    f'{what} {place} lies in the source {source}, which is never changed.',
                    'Choose another folder.',
                )
    bids = request.bids_dir.resolve()
    for place, what, option in (
        (request.work_dir, 'The work folder', '-w/--work-dir'),
        (request.subject_map, 'The subject map', '--subject-map'),
    ):
        if bids == place.resolve() or bids in place.resolve().parents:
            raise UsageError(f'{what} {place} lies in BIDS_DIR.', f'Choose another with {option}.')
    tree.check_dataset(request.bids_dir)


def _map_file(request: ConversionRequest, work: Path) -> Path:
    """Return the subject map; a copy of it for a dry run, which leaves no subjects behind."""
    if not request.dry_run:
        return request.subject_map
    copy = work / 'dry-run' / 'subjects.json'
    shutil.rmtree(copy.parent, ignore_errors=True)
    copy.parent.mkdir(mode=0o700)
    if request.subject_map.exists():
        shutil.copyfile(request.subject_map, copy)
        copy.chmod(0o600)
    return copy


@contextmanager
def _processes(number: int) -> Iterator[Executor | None]:
    """Give processes to work in; None for one, which is this one."""
    if number < 2:
        yield None
        return
    context = multiprocessing.get_context('forkserver')
    context.set_forkserver_preload(['mslesseg_app.dicom.convert.conversion'])
    with ProcessPoolExecutor(number, context, signal.signal, _DEAF) as pool:
        try:
            yield pool
        except BrokenProcessPool as error:
            raise BusyError(
                'A process was killed, most likely because memory ran out.',
                'Run the same command again, with fewer --nprocs: it goes on where it stopped.',
            ) from error
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


# -------------------------------------------------------------------------------- converting


def _convert_all(
    request: ConversionRequest,
    index: Index,
    pool: Executor | None,
    items: list[Item],
    records: Records,
) -> None:
    wanted = [item for item in items if item.target.prefix and not item.outcome.error]
    request.bids_dir.mkdir(parents=True, exist_ok=True)
    tree.write_top(request.bids_dir)
    for label, members in groupby(items, key=lambda item: item.subject.label):
        records.add_identifiers(label, set().union(*(m.target.identifiers for m in members)))
    pending: deque[tuple[Item, str, Future[SeriesOutcome]]] = deque()
    with ConversionProgress('series converted', len(wanted), request.quiet) as progress:
        for item in wanted:
            task = _task(request, index, records, item)
            earlier = index.result(task.key)
            if earlier and still_there(earlier['files'], request.bids_dir):
                item.outcome = SeriesOutcome(**earlier)
                progress.advance()
                continue
            if pool is None:
                _keep(item, task.key, convert_series(task), index, records, progress)
                continue
            pending.append((item, task.key, pool.submit(convert_series, task)))
            if len(pending) > 2 * request.nprocs:
                _wait(pending, index, records, progress)
        while pending:
            _wait(pending, index, records, progress)


def _wait(
    pending: deque[tuple[Item, str, Future[SeriesOutcome]]],
    index: Index,
    records: Records,
    progress: ConversionProgress,
) -> None:
    item, key, future = pending.popleft()
    _keep(item, key, future.result(), index, records, progress)


def _keep(
    item: Item,
    key: str,
    outcome: SeriesOutcome,
    index: Index,
    records: Records,
    progress: ConversionProgress,
) -> None:
    records.add_identifiers(item.subject.label, outcome.identifiers)
    outcome.identifiers = []
    item.outcome = outcome
    if not outcome.error:
        index.keep_result(key, outcome.to_dict())
    progress.advance()


def _task(
    request: ConversionRequest, index: Index, records: Records, item: Item
) -> ConversionTask:
    series, target = item.target.series, item.target
    files = index.files(series.group, series.part)
    versions = [__version__, version('heudiconv'), version('dcm2niix')]
    known = [*versions, _RECIPE, request.deface, series.echo, target.prefix]
    known.append(item.subject.secret.hex())
    states = [index.state(path) for path in files]
    key = hashlib.sha256(repr((known, states)).encode()).hexdigest()[:20]
    return ConversionTask(
        key=key,
        subject=item.subject,
        prefix=target.prefix,
        files=tuple(files),
        work_dir=request.work_dir / 'dicom',
        bids_dir=request.bids_dir,
        figures=records.folder / 'faces' if request.deface else None,
        voxels=series.voxels // series.echoes,
        echo=series.echo,
    )
