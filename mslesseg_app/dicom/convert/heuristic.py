"""HeuDiConv's heuristics: what they say of each series, before anything is converted."""

from __future__ import annotations

import logging
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

from pydicom.valuerep import DA, DT, TM

from mslesseg_app.core.errors import NoInputError, UsageError
from mslesseg_app.dicom.convert.series import Series, read_dataset
from mslesseg_app.dicom.deidentify.identifiers import Identifiers
from mslesseg_app.dicom.deidentify.removal import deidentify
from mslesseg_app.dicom.fast_header import BAD_VALUE
from mslesseg_app.dicom.identity import SubjectIdentity

#: What raises ValueError for a value that is no date, date and time, or time.
_TIMES: dict[str, Callable[[str], Any]] = {'DA': DA, 'DT': DT, 'TM': TM}
_OURS = 'mslesseg'
_SHIPPED = ('mslesseg', 'reproin')


@dataclass
class Target:
    """What becomes of a series.

    Attributes
    ----------
    series : Series
    prefix : str
        Path in the dataset without suffix; '' where the series is left out.
    reason : str
    error : str
        Why nothing can be said of the series; '' where it was understood.
    description : str
        The series' description without what tells who the person is.
    age, sex : str
        As the header has them: ``045Y``, ``F``.
    identifiers : frozenset of str
        What must not be met in the dataset.
    """

    series: Series
    prefix: str = ''
    reason: str = ''
    error: str = ''
    remarks: list[str] = field(default_factory=list)
    description: str = ''
    age: str = ''
    sex: str = ''
    identifiers: frozenset[str] = frozenset()

    @property
    def suffix(self) -> str:
        """BIDS suffix of the target."""
        return self.prefix.rpartition('_')[2]


def load(name: str) -> ModuleType:
    """Load a heuristic by name (``mslesseg``, ``reproin``) or from a file.

    Raises
    ------
    NoInputError
        If there is no such file.
    UsageError
        If it is no heuristic.
    """
    from heudiconv.utils import load_heuristic

    path = heuristic_file(name)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            module: ModuleType = load_heuristic(str(path) if path else name)
    except (Exception, SystemExit) as error:
        raise UsageError(
            f'The heuristic {name} cannot be loaded: {type(error).__name__}: {error}',
            'It must be a Python file with a function infotodict, as HeuDiConv wants it.',
        ) from error
    if not hasattr(module, 'infotodict'):
        raise UsageError(
            f'{name} has no function infotodict, so that it is no heuristic of HeuDiConv.',
            'Use mslesseg, reproin or a file of that kind.',
        )
    return module


def heuristic_file(name: str) -> Path | None:
    """Return the file of a heuristic, None for one that HeuDiConv holds itself."""
    if name == _OURS:
        package = Path(__file__).resolve().parents[2]
        places = [folder / 'heuristics' / 'mslesseg.py' for folder in (package, package.parent)]
        return next(path for path in places if path.is_file())
    if name in _SHIPPED:
        return None
    path = Path(name).absolute()
    if not path.is_file():
        raise NoInputError(
            f'There is no heuristic {name}.',
            f'Use {", ".join(_SHIPPED)} or the path of a file.',
        )
    return path


def decide(
    module: ModuleType,
    series: Sequence[Series],
    subject: SubjectIdentity,
    session: str,
    files: Callable[[Series], list[str]],
) -> list[Target]:
    """Ask a heuristic about the series of one subject and session.

    Parameters
    ----------
    module : module
        From :func:`load`.
    series : sequence of Series
        In the order of acquisition.
    subject : SubjectIdentity
    session : str
        BIDS label; '' for no session.
    files : callable
        Gives the paths of a series.
    """
    targets: dict[str, Target] = {}
    infos: dict[str, Any] = {}
    names: Counter[str] = Counter()
    for item in series:
        target = Target(item)
        info = _info(module, target, names, subject, files)
        if info is not None:
            infos[info.series_id] = info
        targets[info.series_id if info is not None else f'unread {len(targets)}'] = target
    if infos:
        _ask(module, infos, targets, subject.label, session)
    return list(targets.values())


def _info(
    module: ModuleType,
    target: Target,
    names: Counter[str],
    subject: SubjectIdentity,
    files: Callable[[Series], list[str]],
) -> Any:
    """Return HeuDiConv's description of a series, None for one that cannot be used."""
    series = target.series
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            _describe_person(target, subject)
            dataset = _readable(read_dataset(series.first))
        if getattr(module, 'filter_dicom', None) and module.filter_dicom(dataset):
            target.reason = "dropped by the heuristic's filter"
            return None
        protocol = _complete(dataset)
        name = f'{series.number}-{protocol}'
        names[name] += 1
        if names[name] > 1:
            name = f'{name}-part{names[name]}'
        return _sequence_info(module, series, dataset, name, files)
    except Exception as error:  # noqa: BLE001 - whatever is wrong with it, the others go on
        reason = f'its header cannot be understood ({type(error).__name__})'
        target.error = series.damaged or reason
        return None


def _readable(dataset: Any) -> Any:
    """Take out what cannot be read, or is no date where one must be: it says nothing."""
    for tag in list(dataset.keys()):
        try:
            element = dataset[tag]
            kind = _TIMES.get(element.VR)
            if kind is not None:
                values = [element.value] if isinstance(element.value, str) else element.value
                for value in values or []:
                    kind(value)
        except BAD_VALUE:
            del dataset[tag]
    return dataset


def _complete(dataset: Any) -> str:
    """Give HeuDiConv the fields without which it cannot work; return the protocol's name."""
    if not str(dataset.get('ProtocolName') or '').strip():
        dataset.ProtocolName = str(dataset.get('SeriesDescription') or '')
    return str(dataset.ProtocolName)


def _sequence_info(
    module: ModuleType,
    series: Series,
    dataset: Any,
    name: str,
    files: Callable[[Series], list[str]],
) -> Any:
    from heudiconv.dicoms import create_seqinfo
    from nibabel.nicom import dicomwrappers

    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        try:
            wrapper = dicomwrappers.wrapper_from_data(dataset)
            shape = wrapper.image_shape
        except (dicomwrappers.WrapperError, *BAD_VALUE):
            shape = None
        if shape is None or series.files == series.frames > 1:
            wrapper = dicomwrappers.Wrapper(dataset)
            columns, rows = int(dataset.get('Columns') or 0), int(dataset.get('Rows') or 0)
            wrapper.image_shape = (rows, columns, series.frames)[: 3 if series.files == 1 else 2]
        paths = files(series)
        info = create_seqinfo(wrapper, paths, name, _custom(module, paths))
    return info if series.echo is None else _one_echo(info, series)


def _one_echo(info: Any, series: Series) -> Any:
    """Describe one of the echoes of a multi-frame object."""
    which = 'dim3' if info.dim4 % series.echoes else 'dim4'
    size = {which: getattr(info, which) // series.echoes}
    return info._replace(TE=series.echo, **size)


def _custom(module: ModuleType, paths: Sequence[str]) -> Any:
    """Return a heuristic's look at a series; ours need not read all files once more for it."""
    custom = getattr(module, 'custom_seqinfo', None)
    if custom is None or not hasattr(module, 'unlike_anatomy'):
        return custom
    return lambda wrapper, series_files: custom(
        wrapper=wrapper, series_files=series_files[:1], pixels_from=paths
    )


def _describe_person(target: Target, subject: SubjectIdentity) -> None:
    dataset = read_dataset(target.series.first)
    removed = deidentify(dataset, subject)  # in memory
    target.identifiers = removed.identifiers
    text = Identifiers(removed.identifiers).clean(target.series.description)
    printable = ''.join(letter if letter.isprintable() else ' ' for letter in text)
    target.description = ' '.join(printable.split())
    target.age, target.sex = (str(dataset.get(k) or '') for k in ('PatientAge', 'PatientSex'))


def _ask(
    module: ModuleType,
    infos: dict[str, Any],
    targets: dict[str, Target],
    subject: str,
    session: str,
) -> None:
    from heudiconv.convert import conversion_info

    logging.getLogger('heudiconv').setLevel(logging.ERROR)
    try:
        told = module.decisions(list(infos.values())) if hasattr(module, 'decisions') else []
        reasons = {row.series_id: row.reason for row in told}
        chosen = module.infotodict(list(infos.values()))
        plan = conversion_info(subject, '', chosen, {key: [key] for key in infos}, session or None)
    except Exception as error:
        raise UsageError(
            f'The heuristic failed: {type(error).__name__}: {error}',
            'Try it with "heudiconv -f" on these files, or use --heuristic mslesseg.',
        ) from error
    for prefix, outtypes, keys in plan:
        for key in keys:
            if any(kind.startswith('nii') for kind in outtypes):
                _assign(targets[key], prefix)
    for key, target in targets.items():
        target.reason = target.reason or reasons.get(key, '')
        if not target.reason:
            target.reason = 'by the heuristic' if target.prefix else 'left out by the heuristic'


def _assign(target: Target, prefix: str) -> None:
    clean = prefix.lstrip('/')
    if target.prefix or '..' in Path(clean).parts or not clean.startswith('sub-'):
        target.remarks.append('a further target of the heuristic was ignored')
        return
    target.prefix = clean
