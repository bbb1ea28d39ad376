"""The tables of a conversion, what is printed, and the check of a dataset."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import groupby
from pathlib import Path

from mslesseg_app.core.errors import NoInputError
from mslesseg_app.dicom.convert import bids_files as tree
from mslesseg_app.dicom.convert.index import Index
from mslesseg_app.dicom.convert.plan import ConversionRequest, Item, count_reasons, listed
from mslesseg_app.dicom.convert.sources import printable
from mslesseg_app.dicom.convert.studies import shifted
from mslesseg_app.dicom.deidentify.identifiers import Identifiers
from mslesseg_app.dicom.deidentify.leaks import check_tree
from mslesseg_app.dicom.deidentify.private_records import Records, all_identifiers, default_map
from mslesseg_app.dicom.identity import SubjectMap


def write_tables(
    request: ConversionRequest, items: list[Item], index: Index, records: Records
) -> None:
    """Add to the tables of the dataset, and write the table of the sources."""
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
    tree.write_readme(bids_dir)
    records.keep_sources(_sources(items, index))


def _person(label: str, items: list[Item]) -> dict[str, str]:
    first = min(items, key=lambda item: item.target.series.date)
    sexes = {item.target.sex for item in items} & {'F', 'M', 'O'}
    age = first.target.age
    known = age[:3].isdigit() and age.endswith('Y') and int(age[:3]) > 0
    years = str(min(int(age[:3]), 89)) if known else 'n/a'
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
        'face': outcome.face,
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


def tell(request: ConversionRequest, items: list[Item], index: Index, *, written: bool) -> None:
    """Report on the terminal what went where; failures also with ``--quiet``.

    Parameters
    ----------
    written : bool
        Whether the table of the series was written.
    """
    for item in items:
        row = series_row(item)
        name = f'{row["participant_id"]} {row["session_id"]}'.removesuffix(' n/a')
        name = f'{name}  {row["series_number"]:>4} {row["description"]}'
        if item.outcome.error:
            print(f'mslesseg: failed: {name}: {item.outcome.error}', file=sys.stderr)
        elif not request.quiet:
            notes = f' [{row["remarks"]}]' if row['remarks'] else ''
            print(f'{name}  {_fate(item, request.dry_run)}: {row["reason"]}{notes}')
    _tell_unread(index)
    if request.quiet:
        return
    verbs = _PLANNED if request.dry_run else {}
    counts = Counter(verbs.get(item.decision, item.decision) for item in items)
    print(', '.join(f'{count} series {what}' for what, count in counts.items()) + '.')
    if reasons := count_reasons(index):
        print(f'No part of any series: {reasons}.')
    if written:
        private = request.subject_map.parent
        print(f'Table of the series: {printable(request.bids_dir / "series.tsv")}')
        print(f'Key to subject identities: {printable(private)} (for your eyes only)')


_PLANNED = {
    'converted': 'would be converted',
    'left out': 'would be left out',
    'failed': 'would fail',
}


def _tell_unread(index: Index) -> None:
    unread = index.unread()
    if not unread:
        return
    print(
        f'mslesseg: {sum(unread.values())} files could not be read, and images of a series may be '
        f'among them: {listed(unread)}.',
        file=sys.stderr,
    )
    if 'broken link' in unread:
        print('  Broken links: get the content first ("datalad get").', file=sys.stderr)


def _fate(item: Item, dry_run: bool) -> str:
    if not item.target.prefix:
        return 'left out'
    return f'{"would become" if dry_run else "->"} {Path(item.target.prefix).name}'


def check(folder: Path, subject_map: Path | None, quiet: bool = False) -> int:
    """Search a folder for what tells who the subjects are, and report where it is.

    Parameters
    ----------
    folder : Path
        A dataset, its derivatives, or a folder that holds both.
    subject_map : Path or None
        None looks for ``NAME-private/subjects.json`` beside the folder and those above it.

    Returns
    -------
    int
        1 if anything was found.

    Raises
    ------
    NoInputError
        If no identifiers are known, so that most of what matters cannot be found.
    UsageError
        If others may read the subject map.
    """
    chosen = subject_map or find_map(folder)
    known: set[str] = set()
    if chosen is not None and chosen.exists():
        known = all_identifiers(SubjectMap(chosen).path)
    leaks = check_tree(folder, known)
    for leak in leaks:
        place = leak.path.relative_to(folder) if leak.path.is_absolute() else leak.path
        shown = printable(place)
        print(f'mslesseg: {shown}: {leak.where}: {leak.kind}: {leak.shown}', file=sys.stderr)
    if not quiet and (leaks or known):
        found = f'{len(leaks)} places tell' if leaks else 'nothing tells'
        against = f'searched for {len(known)} identifiers'
        print(f'{printable(folder)}: {found} who the subjects are ({against}).')
    if not known:
        missing = f'{chosen} holds no identifiers' if chosen else f'{folder} has no subject map'
        raise NoInputError(
            f'{missing}: names, numbers and dates cannot be searched for.',
            'Name the map of the conversion with --subject-map; only its owner can check.',
        )
    return int(bool(leaks))


def warn_of_names(subject_map: Path, paths: Iterable[Path]) -> None:
    """Warn of folders whose paths tell who a subject is: reports and logs show these paths."""
    known = Identifiers(all_identifiers(subject_map))
    for path in paths:
        if known.find(str(path)):
            print(
                f'mslesseg: warning: the path {printable(path)} may tell who a subject is (it '
                'holds a name, number or date of the headers), and stands in reports and logs. '
                'Choose a neutral folder before you share the results.',
                file=sys.stderr,
            )


def find_map(folder: Path) -> Path | None:
    """Return the subject map of a folder or of the nearest folder above it."""
    places = (default_map(place) for place in (folder, *folder.parents) if place.name)
    return next((path for path in places if path.exists()), None)
