"""``mslesseg convert``: from the files of the sources to the dataset and its tables."""

from __future__ import annotations

import hashlib
import multiprocessing
import shutil
import sys
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from itertools import groupby
from pathlib import Path
from types import ModuleType

from .. import __version__
from ..errors import BusyError, DataError, NoInputError, OutputError, UsageError
from . import heuristic, tree
from .conversion import Outcome, Task, convert_series, still_there
from .heuristic import Target
from .identifiers import Identifiers
from .identity import Subject, SubjectMap
from .index import Index
from .private import Records
from .progress import Progress
from .series import Series, find_series
from .studies import SessionsFrom, Study, label_sessions, shifted


@dataclass(frozen=True)
class Request:
    """What the command line asks for.

    Attributes
    ----------
    sources : tuple of Path
    bids_dir, work_dir, subject_map : Path
    subject : str or None
        Label for the one patient of the sources.
    session_from : {'date', 'order', 'none'}
    heuristic : str
        ``mslesseg``, ``reproin`` or a file.
    """

    sources: tuple[Path, ...]
    bids_dir: Path
    work_dir: Path
    subject_map: Path
    subject: str | None = None
    session_from: SessionsFrom = 'date'
    heuristic: str = 'mslesseg'
    deface: bool = True
    nprocs: int = 1
    dry_run: bool = False
    quiet: bool = False


@dataclass
class Item:
    """A series on its way, with the subject and session to which it belongs."""

    subject: Subject
    session: str
    target: Target
    outcome: Outcome = field(default_factory=Outcome)

    @property
    def decision(self) -> str:
        """What became of the series."""
        if self.outcome.error:
            return 'failed'
        return 'converted' if self.target.prefix else 'left out'


def default_map(bids_dir: Path) -> Path:
    """Return where the subject map of a dataset is when nobody says otherwise."""
    return bids_dir.with_name(f'{bids_dir.name}-private') / 'subjects.json'


def convert(request: Request) -> int:
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
    with ExitStack() as stack:
        work = _private_folder(request.work_dir / 'dicom')
        subjects = SubjectMap(_map_file(request, work))
        records = Records(subjects, request.bids_dir)
        stack.enter_context(records.locked())
        pool = stack.enter_context(_processes(request.nprocs))
        index = Index(work)
        stack.callback(index.close)
        with Progress('files read', quiet=request.quiet) as progress:
            index.update(request.sources, pool, progress)
        series = _series(index, request)
        items = list(_plan(request, module, series, subjects, records))
        if not request.dry_run:
            _convert_all(request, work, index, pool, items, records)
            _write_tables(request, items, index, records)
            shutil.rmtree(work / 'archives', ignore_errors=True)
        _say(request, items, index)
    return int(any(item.outcome.error for item in items))


# ---------------------------------------------------------------------------------- places


def check_places(request: Request) -> None:
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
    if bids == request.work_dir.resolve() or bids in request.work_dir.resolve().parents:
        raise UsageError(
            f'The work folder {request.work_dir} lies in BIDS_DIR.',
            'Choose another with -w/--work-dir.',
        )
    tree.check_dataset(request.bids_dir)


def _private_folder(folder: Path) -> Path:
    """Make a folder that only its owner may enter."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o700)
    except OSError as error:
        raise OutputError(
            f'The work folder {folder} cannot be made or is not yours: {error.strerror}.',
            'Choose another with -w/--work-dir.',
        ) from error
    return folder


def _map_file(request: Request, work: Path) -> Path:
    """Return the subject map; a copy of it for a dry run, which leaves no subjects behind."""
    if not request.dry_run:
        return request.subject_map
    copy = _private_folder(work / 'dry-run') / 'subjects.json'
    copy.unlink(missing_ok=True)
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
    context.set_forkserver_preload(['mslesseg_app.dicom.conversion'])
    with ProcessPoolExecutor(number, mp_context=context) as pool:
        try:
            yield pool
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


# ------------------------------------------------------------------------------------ plan


def _series(index: Index, request: Request) -> list[Series]:
    series = find_series(index)
    if not index.count():
        raise NoInputError(
            f'No DICOM file in {", ".join(map(str, request.sources))}.',
            _count_reasons(index) or 'The folders are empty.',
        )
    if not series:
        raise DataError('None of the DICOM files holds an MR image.', _count_reasons(index))
    return series


def _count_reasons(index: Index) -> str:
    return '; '.join(f'{count} × {reason}' for reason, count in index.reasons().items())


def _plan(
    request: Request,
    module: ModuleType,
    series: list[Series],
    subjects: SubjectMap,
    records: Records,
) -> Iterator[Item]:
    """Say of each series to whom it belongs and what shall become of it."""
    patients: dict[str, list[Series]] = {}
    for item in series:
        patients.setdefault(item.patient, []).append(item)
    if request.subject is not None and len(patients) > 1:
        raise UsageError(
            f'--subject {request.subject} names one patient, but the sources hold '
            f'{len(patients)}.',
            'Leave it out, or convert them one by one.',
        )
    logged = records.studies()
    for patient, theirs in patients.items():
        subject = subjects.subject(patient, request.subject)
        known = logged.setdefault(subject.label, {})
        studies = _studies(theirs)
        labels = label_sessions(studies, subject, known, request.session_from)
        known.update(
            {s.uid: {'date': s.date, 'time': s.time, 'session': labels[s.uid]} for s in studies}
        )
        yield from _sessions(module, theirs, subject, labels)
    if not request.dry_run:
        records.keep_studies(logged)


def _studies(series: Iterable[Series]) -> list[Study]:
    """Return the studies of one patient, each with its earliest date and time."""
    found: dict[str, Study] = {}
    for item in series:
        study = Study(item.study, item.date, item.time)
        known = found.get(item.study, study)
        both = [one for one in (known, study) if one.date] or [known]
        found[item.study] = min(both, key=lambda one: (one.date, one.time))
    return list(found.values())


def _sessions(
    module: ModuleType, series: list[Series], subject: Subject, labels: dict[str, str]
) -> Iterator[Item]:
    def label(item: Series) -> str:
        return labels[item.study]

    for session, members in groupby(sorted(series, key=label), key=label):
        ordered = sorted(members, key=lambda item: (item.date, item.time, item.number, item.part))
        targets = heuristic.decide(module, ordered, subject, session)
        taken: set[str] = set()
        for target in targets:
            item = Item(subject, session, target)
            _check_name(item, taken)
            yield item


def _check_name(item: Item, taken: set[str]) -> None:
    prefix = item.target.prefix
    if not prefix:
        return
    if prefix.lower() in taken:
        item.outcome.error = 'the heuristic gives this name to two series'
    elif Identifiers(item.target.identifiers).find(prefix):
        item.outcome.error = 'its name would tell who the person is'
    taken.add(prefix.lower())


# -------------------------------------------------------------------------------- converting


def _convert_all(
    request: Request,
    work: Path,
    index: Index,
    pool: Executor | None,
    items: list[Item],
    records: Records,
) -> None:
    wanted = [item for item in items if item.target.prefix and not item.outcome.error]
    if not wanted:
        raise DataError(
            'None of the series is a T1w, T2w, PDw or FLAIR image of a brain.'
            if request.heuristic == 'mslesseg'
            else 'The heuristic wants none of the series.',
            'See why with --dry-run.',
        )
    request.bids_dir.mkdir(parents=True, exist_ok=True)
    tree.write_top(request.bids_dir, request.deface)
    for label, members in groupby(items, key=lambda item: item.subject.label):
        records.add_identifiers(label, set().union(*(m.target.identifiers for m in members)))
    pending: deque[tuple[Item, str, Future[Outcome]]] = deque()
    with Progress('series converted', len(wanted), request.quiet) as progress:
        for item in wanted:
            task = _task(request, work, index, item)
            earlier = index.result(task.key)
            if earlier and still_there(earlier['files'], request.bids_dir):
                item.outcome = Outcome(**earlier)
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
    pending: deque[tuple[Item, str, Future[Outcome]]],
    index: Index,
    records: Records,
    progress: Progress,
) -> None:
    item, key, future = pending.popleft()
    try:
        _keep(item, key, future.result(), index, records, progress)
    except BrokenProcessPool as error:
        raise BusyError(
            'A process was killed, most likely because memory ran out.',
            'Run the same command again, with fewer --nprocs: it goes on where it stopped.',
        ) from error


def _keep(
    item: Item, key: str, outcome: Outcome, index: Index, records: Records, progress: Progress
) -> None:
    records.add_identifiers(item.subject.label, outcome.identifiers)
    outcome.identifiers = []
    item.outcome = outcome
    if not outcome.error:
        index.keep_result(key, outcome.to_dict())
    progress.advance()


def _task(request: Request, work: Path, index: Index, item: Item) -> Task:
    series, target = item.target.series, item.target
    files = index.files(series.group, series.part)
    versions = [__version__, version('heudiconv'), version('dcm2niix')]
    known = [*versions, request.deface, series.echo, target.prefix, item.subject.secret.hex()]
    states = [index.state(path) for path in files]
    key = hashlib.sha256(repr((known, states)).encode()).hexdigest()[:20]
    return Task(
        key=key,
        subject=item.subject,
        prefix=target.prefix,
        files=tuple(files),
        work_dir=work,
        bids_dir=request.bids_dir,
        deface=request.deface,
        echo=series.echo,
    )


# ---------------------------------------------------------------------------------- tables


def _write_tables(request: Request, items: list[Item], index: Index, records: Records) -> None:
    bids_dir = request.bids_dir
    for label, theirs in groupby(items, key=lambda item: item.subject.label):
        members = list(theirs)
        done = [item for item in members if item.outcome.files]
        if not done:
            continue
        tree.add_participants(bids_dir, [_person(label, done)])
        for session, images in groupby(done, key=lambda item: item.session):
            tree.add_scans(bids_dir, label, session, list(_scans(list(images), session)))
        if done[0].session:
            tree.add_sessions(bids_dir, label, _session_rows(done))
    tree.add_series(bids_dir, [series_row(item) for item in items])
    records.keep_sources(_sources(items, index))


def _person(label: str, items: list[Item]) -> dict[str, str]:
    first = min(items, key=lambda item: item.target.series.date)
    sexes = {item.target.sex for item in items} & {'F', 'M', 'O'}
    age = first.target.age
    years = str(min(int(age[:3]), 89)) if age[:3].isdigit() and age.endswith('Y') else 'n/a'
    sex = sexes.pop() if len(sexes) == 1 else 'n/a'
    return {'participant_id': f'sub-{label}', 'age': years, 'sex': sex}


def _scans(items: list[Item], session: str) -> Iterator[dict[str, str]]:
    folder = 2 if session else 1
    for item in items:
        for name in item.outcome.files:
            if name.endswith('.nii.gz'):
                place = '/'.join(Path(name).parts[folder:])
                yield {'filename': place, 'acq_time': _day(item)}


def _session_rows(items: list[Item]) -> list[dict[str, str]]:
    return [
        {'session_id': f'ses-{session}', 'acq_time': min(_day(item) for item in members)}
        for session, members in groupby(items, key=lambda item: item.session)
    ]


def _day(item: Item) -> str:
    date = item.target.series.date
    return f'{shifted(date, item.subject).isoformat()}T00:00:00' if date else 'n/a'


def series_row(item: Item) -> dict[str, str]:
    """Return the row of a series for the table of the dataset."""
    series, target, outcome = item.target.series, item.target, item.outcome
    images = [name for name in outcome.files if name.endswith('.nii.gz')]
    return {
        'participant_id': f'sub-{item.subject.label}',
        'session_id': f'ses-{item.session}' if item.session else 'n/a',
        'series_number': str(series.number) if series.number >= 0 else 'n/a',
        'description': target.description,
        'vendor': series.vendor,
        'files': str(series.files),
        'slices': str(series.frames),
        'RepetitionTime': _seconds(series.tr),
        'EchoTime': _seconds(series.te),
        'InversionTime': _seconds(series.ti),
        'FlipAngle': f'{series.flip:g}' if series.flip > 0 else 'n/a',
        'decision': item.decision,
        'reason': outcome.error or target.reason,
        'output': ' '.join(images),
        'remarks': '; '.join([*series.remarks, *target.remarks, *outcome.remarks]),
    }


def _seconds(milliseconds: float) -> str:
    return f'{milliseconds / 1000:.6g}' if milliseconds > 0 else 'n/a'


def _sources(items: list[Item], index: Index) -> Iterator[str]:
    """Yield the lines of the table that leads from the dataset back to the sources."""
    columns = ('participant_id', 'session_id', 'patient', 'study', 'series', 'date', 'output')
    yield '\t'.join((*columns, 'decision', 'reason', 'source'))
    for item in items:
        series, row = item.target.series, series_row(item)
        group = series.group
        for name in index.names(group, series.part):
            cells = [row['participant_id'], row['session_id'], *group, series.date]
            cells += [row['output'] or 'n/a', row['decision'], row['reason'], name]
            yield '\t'.join(' '.join(cell.split()) for cell in cells)
    for name, reason in index.left_out():
        yield '\t'.join(['n/a'] * 7 + ['left out', reason, name])


def _say(request: Request, items: list[Item], index: Index) -> None:
    """Tell on the terminal what went where."""
    for item in items:
        if item.outcome.error:
            row = series_row(item)
            name = f'{row["participant_id"]} {row["session_id"]} series {row["series_number"]}'
            print(f'mslesseg: failed: {name}: {item.outcome.error}', file=sys.stderr)
    if request.quiet:
        return
    verb = {'converted': 'would become'} if request.dry_run else {}
    for item in items:
        row = series_row(item)
        place = f'{row["participant_id"]} {row["session_id"]}'.removesuffix(' n/a')
        what = row['output'] or item.target.prefix
        says = f'{verb.get("converted", "->")} {Path(what).name}' if what else 'left out'
        notes = f' [{row["remarks"]}]' if row['remarks'] else ''
        print(
            f'{place}  {row["series_number"]:>4} {row["description"]}  {says}: '
            f'{row["reason"]}{notes}'
        )
    counts = Counter(item.decision for item in items)
    print(', '.join(f'{count} series {what}' for what, count in counts.items()) + '.')
    if reasons := _count_reasons(index):
        print(f'No part of any series: {reasons}.')
    if not request.dry_run:
        print(
            f'{request.bids_dir / "series.tsv"} says so of every series; who the subjects are '
            f'is in {request.subject_map.parent} (keep it to yourself).'
        )
