"""HeuDiConv heuristic for brain MRI of people with multiple sclerosis.

It names T1w, T2w, PDw and FLAIR, with or without contrast agent, two- or
three-dimensional, and leaves everything else out::

    heudiconv --files DICOM_DIR -s 01 -ss 1 -f heuristics/mslesseg.py \\
        -c dcm2niix -b --minmeta -o BIDS_DIR

Physics comes first: repetition, echo and inversion time and the kind of sequence say
which contrasts a series can have. Names come second: they choose where physics leaves
several, and decide alone where a header holds no physics. The reason for each decision
goes to HeuDiConv's log.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Hashable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

lgr = logging.getLogger('heudiconv')

Key = tuple[str, tuple[str, ...], None]

MIN_SLICES = 10  # fewer are localizers, or too little of a brain to be of use

# ------------------------------------------------------------------- names, many languages
# Every series name is first brought to lower case with single blanks for punctuation
# (but + and * are kept), see `_plain`.

_UNWANTED = {
    'localizer': r'\b(loc|localis\w*|localiz\w*|scout|survey|surview|plan|3 ?plane|planscan|pilot'
    r'|topogram\w*|reperage|centrador|uebersicht|ubersicht|smartbrain|aahead\w*)\b',
    'calibration': r'\b(calib\w*|asset|ref ?scan|coil ?survey|shim\w*|field ?map\w*|b[01] ?map)\b',
    'diffusion': r'\b(dwi?|dti|diff\w*|adc|trace\w*|ep2d|epi|b ?(800|1000|2000)|fa map|isodwi'
    r'|edwi|difusion|ivim)\b',
    'susceptibility': r'\b(swi\w*|swan|swip|hemo\w*|venobold|merge|medic|f?gre t2|pha images'
    r'|mag images|filt pha)\b|t2 ?(\*|star)',
    'angiography': r'\b(tof\w*|angio\w*|mra|mrv|pca|venc|inhance|trance|willis)\b',
    'projection or reformat': r'\b(mip|minip|mpr|mpvr|rfmt|reform\w*|recon\w*|ricostru\w*|rekon\w*'
    r'|collage|processed|average dc|projection)\b',
    'perfusion or function': r'\b(perf\w*|pwi|dsc|dce|cbf|cbv|mtt|ttp|p?c?asl|pasl|bold|fmri'
    r'|rest(ing)?( ?state)?)\b',
    'spectroscopy': r'\b(mrs|svs|csi|spectro\w*|press|steam)\b',
    'screen or report': r'\b(screen ?(save|shot)\w*|dose|report|phoenix\w*|snapshot|key ?images?'
    r'|exam ?card|presentation)\b',
    'not the brain': r'\b(spine|cervical\w*|thorac\w*|dorsal\w*|lumb\w*|rachis|midollo|myelon|hws'
    r'|bws|lws|medull\w*|medula|orbit\w*|optic\w*|knee|neck)\b',
    'other contrast': r'\b(mp2rage|dir|double inversion|stir|ciss|fiesta\w*|drive|mtc?'
    r'|t[12] ?map\w*|magnetization transfer|magic|synthetic|symaps|mtsat)\b',
    'subtraction': r'\b(subtr\w*|subt|sottraz\w*)\b',
}

_FLAIR = (
    r'flair|dark ?fl|dunkel ?fl|schwarz ?fl|t2 ?tirm|tirm (tra|cor|sag|ax)|tirm dark'
    r'|fluid ?att|liquor ?(supp|unter)|suppression (du )?(lcr|lcs)|suppr? ?(lcr|lcs)'
)
_T1 = (
    r'\be?t1|mp ?rage|\b(ir ?)?f?spgr\b|\bbravo\b|\btfl3?d?\b|\b3d ?tfe\b|\btfe ?3d\b|\bmpr?age\b'
    r'|\bvibe\b|\bthrive\b|\bir ?prep\b'
)
_T2 = r't2|\bfrfse\b|\bdual ?echo\b'
_PD = r'\b(pdw?|dp|ipd|rho|proton\w*|protonen\w*|densit\w*|densidad\w*|dichte)\b'

_WITHOUT_AGENT = (
    r'\b(pre|without|w ?o|no|non|ohne|sans|senza|sin|sem|zonder|avant|prima|antes|vor|utan)\b'
    r' ?\w{0,4} ?(contra\w*|kontrast\w*|cm|km|gd|gado?\w*|mdc|inj\w*|civ|cont|c|iv)\b'
    r'|\b(pre|nativ\w*|unenhanced|precontr\w*|pregad\w*|pregd|nc|basale?|non enhanced)\b'
)
_WITH_AGENT = (
    r'\+ ?(c|gd|gado?\w*|km|mdc|civ|contr\w*|k)\b|\bc ?\+|\b(gd|gad|gado\w*|gadolin\w*|km|mdc|civ'
    r'|dotarem|magnevist|multihance|prohance|omniscan|clariscan|ce|cm|kontrast\w*)\b'
    r'|\b(post|nach|mit|apres|avec|dopo|con|despues|com|apos|na|met|with|efter)\b ?\w{0,4} ?'
    r'(contra\w*|kontrast\w*|cm|km|gd|gado?\w*|mdc|inj\w*|civ|iv|cont|c)\b'
    r'|\bpost\b(?! ?op)|\b(inject\w*|iniett\w*|contrast\w*|postcontr\w*|postg\w*|enhanced)\b'
)
_THREE_D = (
    r'3 ?d|mp ?rage|\bspace\b|\bcube\b|\bvista\b|brain ?view|\bbravo\b|\bspc\b|\bvibe\b|\bthrive\b'
    r'|\bsagspace\b|\bisofse\b|\bmvox\b'
)

_ACCENTS = str.maketrans('áàâäãåéèêëíìîïóòôöõúùûüçñ', 'aaaaaaeeeeiiiiooooouuuucn')


def _plain(*names: str) -> str:
    """Bring names to one form: lower case, no accents, single blanks for punctuation."""
    text = ' '.join(name for name in names if name).lower().translate(_ACCENTS)
    text = re.sub(r'w/o\b', ' without ', text)
    text = re.sub(r'(?<=\bs)/(?=c\b)', 'in ', text)  # s/c: sin contraste
    text = re.sub(r'(?<=\bc)/(?=c\b)', 'on ', text)  # c/c: con contraste
    return re.sub(r'[^\w+*]+|_+', ' ', text).strip()


# --------------------------------------------------------------------------------- physics


class Physics(NamedTuple):
    """What the header says about a series; -1 and '' where it says nothing."""

    tr: float  # s
    te: float  # ms
    ti: float  # ms
    scanning: frozenset[str]  # SE, IR, GR, EP
    dimensions: str  # 2D, 3D
    agent: str


def _read(dataset: Any, keyword: str) -> Any:
    """Value of a DICOM keyword, also from the shared groups of multi-frame objects."""
    value = dataset.get(keyword)
    if value not in (None, ''):
        return value
    for group in dataset.get('SharedFunctionalGroupsSequence') or []:
        for nested in group:
            for item in nested.value if nested.VR == 'SQ' else []:
                value = item.get(keyword)
                if value not in (None, ''):
                    return value
    return None


def _number(value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        return -1.0


def _words(value: Any) -> str:
    """One string of a DICOM value that may be absent, single or a list."""
    if value is None:
        return ''
    several = isinstance(value, Sequence) and not isinstance(value, str)
    return '/'.join(str(part) for part in value) if several else str(value)


def _sequence_kind(dataset: Any) -> str:
    """Scanning sequence in the classic letters, also for enhanced objects."""
    classic = _words(_read(dataset, 'ScanningSequence'))
    if classic:
        return classic
    pulse = _words(_read(dataset, 'EchoPulseSequence')).upper()
    kind = {'SPIN': 'SE', 'GRADIENT': 'GR', 'BOTH': 'SE/GR'}.get(pulse, '')
    return f'{kind}/IR' if _read(dataset, 'InversionRecovery') == 'YES' else kind


def custom_seqinfo(wrapper: Any, **_: Any) -> Hashable:
    """Add to HeuDiConv's series information what decides between the contrasts."""
    dataset = wrapper.dcm_data
    ti = _read(dataset, 'InversionTime')
    if ti is None:
        ti = _words(_read(dataset, 'InversionTimes')).partition('/')[0]
    agent = _words(_read(dataset, 'ContrastBolusAgent'))
    dimensions = _words(_read(dataset, 'MRAcquisitionType'))
    return (
        ('TR', _number(_read(dataset, 'RepetitionTime'))),
        ('TE', _number(_read(dataset, 'EchoTime') or _read(dataset, 'EffectiveEchoTime'))),
        ('TI', _number(ti)),
        ('scanning', _sequence_kind(dataset)),
        ('dimensions', dimensions),
        ('agent', agent),
    )


def _physics(series: Any) -> Physics:
    custom: Mapping[str, Any] = dict(series.custom or ())
    tr, te = _number(series.TR), _number(series.TE)
    if tr <= 0:
        tr = _number(custom.get('TR')) / 1000
    return Physics(
        tr=tr if tr > 0 else -1.0,
        te=te if te > 0 else _number(custom.get('TE')),
        ti=_number(custom.get('TI')),
        scanning=frozenset(re.findall(r'SE|IR|GR|EP', str(custom.get('scanning', '')))),
        dimensions=str(custom.get('dimensions', '')),
        agent=str(custom.get('agent', '')),
    )


def _by_inversion(p: Physics) -> tuple[str, ...]:
    """Contrasts that are possible with a known inversion time."""
    if p.te >= 60 and p.ti >= 1200 and p.tr >= 3.5:
        return ('FLAIR',)
    if p.te < 60 and p.ti >= 300:
        return ('T1w',)
    if p.te < 10 and p.tr < 1:  # prepared spoiled gradient echo
        return ('T1w',)
    return ()


def _by_times(p: Physics) -> tuple[str, ...]:
    """Contrasts that are possible by repetition and echo time alone."""
    inverted, gradient = 'IR' in p.scanning, 'GR' in p.scanning
    if gradient:
        return ('T1w',) if p.te < 12 else ()
    if p.te >= 60:
        if p.tr < 1.2:
            return ()
        return ('FLAIR',) if inverted and p.tr >= 3.5 else ('T2w', 'FLAIR')
    if p.tr < 1.2:
        return ('T1w',) if p.te <= 30 else ()
    if inverted:
        return ('T1w',)
    if p.te < 10 and p.tr < 3:  # MPRAGE reports the time between inversions
        return ('T1w', 'PDw')
    return ('PDw', 'T1w') if p.te < 45 else ('T2w', 'PDw')


def by_physics(p: Physics) -> tuple[str, ...] | None:
    """Contrasts that the physics admits, likeliest first; None where it is not known."""
    if p.tr <= 0 or p.te <= 0:
        return None
    return _by_inversion(p) if p.ti > 0 else _by_times(p)


# ----------------------------------------------------------------------------------- names


def by_name(name: str) -> tuple[str, ...]:
    """Contrasts that a plain name mentions, likeliest first."""
    flair = bool(re.search(_FLAIR, name))
    found = {
        'T1w': re.search(_T1, name),
        'FLAIR': flair,
        'PDw': re.search(_PD, name),
        'T2w': re.search(_T2, name) and not flair,
    }
    return tuple(suffix for suffix, hit in found.items() if hit)


def has_agent(name: str, agent: str) -> bool:
    """Whether a contrast agent was given; the name is trusted before the header."""
    if re.search(_WITHOUT_AGENT, name):
        return False
    if re.search(_WITH_AGENT, name):
        return True
    return _plain(agent) not in {'', 'no', 'none', 'n', 'nein', 'non', 'sin', '0'}


def dimensions(series: Any, name: str, p: Physics) -> str:
    """``2D`` or ``3D`` by header, sequence name, series name, number of slices."""
    if p.dimensions in {'2D', '3D'}:
        return p.dimensions
    if re.search(_THREE_D, f'{name} {_plain(str(series.sequence_name))}'):
        return '3D'
    return '3D' if series.dim3 >= 100 else '2D'


# -------------------------------------------------------------------------------- decision


class Decision(NamedTuple):
    """Where a series goes (nowhere: ``suffix`` is empty) and why."""

    suffix: str
    acq: str
    agent: bool
    reason: str


def _unwanted(series: Any, name: str) -> str:
    """Why a series is of no use, or ''."""
    types = {str(part).upper() for part in series.image_type or ()}
    bad = types & {'DERIVED', 'LOCALIZER', 'MPR', 'MIP', 'ADC', 'P', 'PHASE', 'PHASE MAP'}
    if bad or series.is_derived or series.is_motion_corrected:
        return f'derived image ({", ".join(sorted(bad)) or "header"})'
    for reason, pattern in _UNWANTED.items():
        hit = re.search(pattern, name)
        if hit and not (reason == 'other contrast' and hit.group() == 'stir' and 'flair' in name):
            return f'{reason} ("{hit.group().strip()}")'
    slices = series.dim3
    if 0 < slices < MIN_SLICES:
        return f'only {slices} slices'
    return ''


def _choose(name: str, p: Physics) -> tuple[str, str]:
    """Suffix and reason from physics and name together."""
    possible, named = by_physics(p), by_name(name)
    if possible is None:
        return (named[0], 'name; no TR and TE') if named else ('', 'neither physics nor name')
    times = f'TR {p.tr:.3g} s, TE {p.te:.3g} ms'
    times += f', TI {p.ti:.0f} ms' if p.ti > 0 else ''
    if 'EP' in p.scanning or not possible:
        return '', f'no contrast of ours has {times}'
    if len(possible) == 1:
        return possible[0], f'physics: {times}'
    agreed = [suffix for suffix in named if suffix in possible]
    if agreed:
        return agreed[0], f'name among {"/".join(possible)}: {times}'
    return possible[0], f'physics, name silent: {times}'


def decide(series: Any) -> Decision:
    """Decide on one series.

    Parameters
    ----------
    series : heudiconv.utils.SeqInfo
        TR in seconds, TE in milliseconds, ``custom`` from `custom_seqinfo` or None.
    """
    name = _plain(str(series.series_description), str(series.protocol_name))
    p = _physics(series)
    reason = _unwanted(series, name)
    if reason:
        return Decision('', '', False, reason)
    suffix, reason = _choose(name, p)
    if not suffix:
        return Decision('', '', False, reason)
    return Decision(suffix, dimensions(series, name, p), has_agent(name, p.agent), reason)


# --------------------------------------------------------------------------- HeuDiConv hooks


def create_key(
    template: str, outtype: tuple[str, ...] = ('nii.gz',), annotation_classes: None = None
) -> Key:
    """Return the key by which HeuDiConv knows an output."""
    if not template:
        raise ValueError('a template must not be empty')
    return (template, outtype, annotation_classes)


def _key(decision: Decision, rec: str, several: bool) -> Key:
    parts = [
        f'acq-{decision.acq}',
        'ce-gadolinium' if decision.agent else '',
        f'rec-{rec}' if rec else '',
        'run-{item:02d}' if several else '',
        decision.suffix,
    ]
    stem = '_'.join(part for part in parts if part)
    return create_key(f'{{bids_subject_session_dir}}/anat/{{bids_subject_session_prefix}}_{stem}')


def _normalised(series: Any) -> bool:
    return 'NORM' in {str(part).upper() for part in series.image_type or ()}


def _subgroups(group: list[Any]) -> Iterator[tuple[str, list[Any]]]:
    """Tell scanner-normalised images from their plain twins, where both exist."""
    norm = [series for series in group if _normalised(series)]
    plain = [series for series in group if not _normalised(series)]
    if norm and plain:
        yield 'norm', norm
        yield '', plain
    else:
        yield '', group


def infotodict(seqinfo: list[Any]) -> dict[Key, list[str]]:
    """Map outputs to the series that become them, in the order of acquisition."""
    groups: dict[Decision, list[Any]] = {}
    for series in seqinfo:
        decision = decide(series)
        target = decision.suffix or 'left out'
        lgr.info(
            '%s %r: %s (%s)', series.series_id, series.series_description, target, decision[3]
        )
        if decision.suffix:
            groups.setdefault(decision._replace(reason=''), []).append(series)
    info: dict[Key, list[str]] = {}
    for decision, group in groups.items():
        for rec, members in _subgroups(group):
            info[_key(decision, rec, len(members) > 1)] = [s.series_id for s in members]
    return info


def filter_dicom(dataset: Any) -> bool:
    """Drop what is not an MR image (reports, presentation states): True drops."""
    return str(dataset.get('Modality', 'MR')) != 'MR'
