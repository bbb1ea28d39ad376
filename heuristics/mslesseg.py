"""HeuDiConv heuristic for brain MRI of people with multiple sclerosis.

It names T1w, T2w, PDw and FLAIR, with or without contrast agent, two- or
three-dimensional, and leaves everything else out::

    heudiconv --files DICOM_DIR -s 01 -ss 1 -f heuristics/mslesseg.py \\
        -c dcm2niix -b --minmeta -o BIDS_DIR

How it decides:

1. Names of ReproIn (``anat-T1w_acq-3D``, also ``WIP anat-FLAIR`` and with a comment behind
   ``__``) are obeyed. Of two series with the same such name the last counts; a name that a
   ``__dup`` marks is left out.
2. What header, name or pixels show to be of no use is left out: localizers, derived images,
   diffusion, angiography, field maps, masks, other parts of the body and so on. A series that is
   marked as derived although its scanner made it is kept: Hitachi marks all series so, and some
   programs do, too; then no series of the study is marked as original.
3. Physics: repetition, echo and inversion time, flip angle and the kind of sequence say which
   contrasts a series can have (`RULES`).
4. Names, in several languages, choose where physics leaves several contrasts, and decide alone
   where a header holds no physics.

Two echoes in one series (proton density and T2) become ``echo-1_PDT2`` and ``echo-2_PDT2``.
Where a scanner wrote one acquisition several times (normalised, corrected for distortion), the
twins differ by ``rec-``; what was acquired again is numbered by ``run-``.

`decisions` gives a `Row` for each series with its name and the reason; HeuDiConv's log gets
the same.
"""

from __future__ import annotations

import logging
import re
import warnings
from collections.abc import Hashable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pydicom
import pydicom.pixels.utils

lgr = logging.getLogger('heudiconv')

Key = tuple[str, tuple[str, ...], None]

MIN_SLICES = 10  # fewer are localizers
MIN_COVERAGE = 50.0  # mm across the slices; less is no brain
MAX_PIXEL = 3.5  # mm; coarser are calibrations, function, perfusion
_LONG_TR = 0.1  # s; of plain gradient echoes: above 3D sequences
MIN_LEVELS = 16  # of grey; fewer are masks
MAX_FLAT = 0.7  # share of neighbouring pixels that are equal; more are maps of labels
MAX_FIELD_MAP = 2.2  # mm; pixels of a gradient echo without preparation are smaller for anatomy
MAX_TR_BALANCED = 30.0  # ms; in longer ones transversal magnetisation hardly survives
MAX_FILES_READ = 200  # of a series, to see several echoes or orientations; 3D series hold more

# ------------------------------------------------------------------- names, many languages
# Every series name is first brought to lower case with single blanks for punctuation
# (but + and * are kept), see `_plain`.

_UNWANTED = {
    'localizer': r'\b(loc|localis\w*|localiz\w*|lokali\w*|scout\w*|survey|surview|plan|3 ?plane'
    r'|planscan|pilot|topogram\w*|reperage|centrador|uebersicht|ubersicht|smartbrain|aahead\w*)\b',
    'calibration': r'\b(calib\w*|asset|ref ?scan|coil ?survey|shim\w*|field ?map\w*|fmap\w*'
    r'|gre ?fm|fm ?gre|d?b[01] ?map\w*|(delta ?|d)b0|noise|prescan)\b',
    'diffusion': r'\b(dwi?|dti\w*|diff\w*|adc|trace\w*|ep2d|epi|b ?(800|1000|2000)|fa map|isodwi'
    r'|edwi|difusion|ivim|noddi|dki|hardi)\b',
    'susceptibility': r'\b(swi\w*|swan|swip|hemo\w*|venobold|merge|medic|f?gre t2|pha images'
    r'|mag images|filt pha|qsm)\b|t2 ?(\*|star)',
    'angiography': r'\b(tof\w*|angio\w*|mra|mrv|pca|venc|inhance|trance|willis|carotid\w*)\b',
    'projection or reformat': r'\b(mip|minip|mpr|mpvr|rfmt|reform\w*|recon\w*|ricostru\w*|rekon\w*'
    r'|collage|processed|average dc|projection)\b',
    'perfusion or function': r'\b(perf\w*|pwi|dsc|dce|cbf|cbv|mtt|ttp|p?c?asl|pasl|bold|fmri'
    r'|rest(ing)?( ?state)?|dyn|dynami\w*)\b',
    'spectroscopy': r'\b(mrs|svs|csi|spectro\w*|press|steam)\b',
    'screen or report': r'\b(screen ?(save|shot)\w*|dose|report|phoenix\w*|snapshot|key ?images?'
    r'|exam ?card|presentation|physio ?log)\b',
    'not the brain': r'\b(spine|cervical\w*|cerv|thorac\w*|dorsal\w*|lumb\w*|rachis|midollo|myelon'
    r'|hws|bws|lws|[ctl] ?spine|medull\w*|medula|orbit\w*|optic\w*|knee|neck|iac|cpa|inner ear'
    r'|felsenbein|pituitar\w*|hypoph\w*|hipof\w*|ipofisi|sella|sellar)\b',
    'other contrast': r'\b(mp2rage|inv ?[12]|uni (images|den)|dir|double ?inversion|psir|fgatir'
    r'|stir|ciss|fiesta\w*|b ?ffe|bffe|trufi\w*|mtc?|t[12] ?map\w*|magnetization transfer|magic'
    r'|synthetic|symaps|mtsat|mr ?f|myelin\w*|cine)\b',
    'subtraction': r'\b(subtr\w*|subt|sottraz\w*|sustrac\w*|soustrac\w*|sub)\b',
    'cancelled': r'\b(cancel\w*|abort\w*|discard\w*|do not use)\b',
}

_FLAIR = (
    r'flair|dark ?fl|\bda fl\b|dunkel ?fl|schwarz ?fl|t2 ?tirm|tirm (tra|cor|sag|ax)|tirm dark'
    r'|fluid ?att|liquor ?(supp|unter)|suppression (du )?(lcr|lcs|liquide)|suppr? ?(lcr|lcs)'
)
_T1 = (
    r'\b[es]?t1|mp ?rage|\b(ir ?)?f?spgr\b|\bbravo\b|\btfl3?d?\b|\b3d ?tfe\b|\btfe ?3d\b'
    r'|\bmpr?age\b|\bvibe\b|\bthrive\b|\bir ?prep\b|\bmpr\b'
)
_T2 = r't2|\bfrfse\b|\bdual ?echo\b'
_PD = r'\b(pdw?|dp|ipd|pd ?\+ ?t2|rho|proton\w*|protonen\w*|densit\w*|densidad\w*|dichte)\b'

_WITHOUT_AGENT = (
    r'\b(pre|without|w ?o|no|non|ohne|sans|senza|sin|sem|zonder|avant|prima|antes|vor|utan|bez)\b'
    r' ?\w{0,4} ?(contra\w*|kontrast\w*|cm|km|gd|gado?\w*|mdc|inj\w*|civ|cont|c|iv)\b'
    r'|\b(pre|nativ\w*|unenhanced|precontr\w*|pregad\w*|pregd|nc|basale?|non enhanced)\b'
)
_WITH_AGENT = (
    r'\+ ?(c|gd|gado?\w*|km|mdc|civ|contr\w*|k)\b|\bc ?\+|\b(gd|gad|gado\w*|gadolin\w*|km|mdc|civ'
    r'|dotarem|magnevist|multihance|prohance|omniscan|clariscan|ce|cm|kontrast\w*)\b'
    r'|\b(post|nach|mit|apres|avec|dopo|con|despues|com|apos|na|met|with|efter|po)\b ?\w{0,4} ?'
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


# ------------------------------------------------------------------------- names of ReproIn

_REPROIN = re.compile(
    r'(?:[A-Z]+:)?(?:WIP )?(?P<datatype>anat|func|dwi|fmap|beh|perf)'
    r'(?:[-_](?P<suffix>[A-Za-z0-9]+))?'
    r'(?P<rest>(?:_[a-z]+-?[A-Za-z0-9+=]*)*)(?:__(?P<comment>\S*))?(?: .*)?'
)
OURS = ('T1w', 'T2w', 'PDw', 'FLAIR', 'PDT2')


class Named(NamedTuple):
    """What a name of ReproIn says."""

    datatype: str
    suffix: str
    entities: Mapping[str, str]
    comment: str
    text: str


def reproin(*names: str) -> Named | None:
    """Parse the first name that follows ReproIn, None where none does."""
    for name in names:
        found = _REPROIN.fullmatch(name.strip())
        if not found:
            continue
        suffix, parts = found['suffix'] or '', found['rest'].split('_')[1:]
        if suffix in {'acq', 'ce', 'rec', 'run', 'ses'}:  # anat_acq-3D: without a suffix
            suffix, parts = '', name.strip().partition('_')[2].partition('__')[0].split('_')
        if parts and parts[-1] in OURS:  # anat_acq-3D_T1w
            suffix = parts.pop()
        pairs = (re.fullmatch(r'([a-z]+)-?([A-Za-z0-9+=]*)', part) for part in parts)
        entities = {pair[1]: pair[2] for pair in pairs if pair and pair[2]}
        return Named(found['datatype'], suffix, entities, found['comment'] or '', name.strip())
    return None


# --------------------------------------------------------------------------------- physics


class Physics(NamedTuple):
    """What the header says about a series; -1 and '' where it says nothing."""

    tr: float  # s
    te: float  # ms
    ti: float  # ms
    flip: float  # degrees
    scanning: frozenset[str]  # SE, IR, GR, EP
    dimensions: str  # 2D, 3D
    agent: str
    contrast: str  # as an enhanced object calls it: T1, FLUID_ATTENUATED ...
    echoes: tuple[float, ...]  # ms, all of the series
    pixel: float  # mm
    step: float  # mm from slice to slice
    positions: int  # of slices
    original: bool  # whether it is, although it is marked as derived
    unfit: str  # why the header rules the series out, or ''


def _items(dataset: Any) -> Iterator[Any]:
    """Yield a dataset, then the items of the functional groups of a multi-frame object."""
    yield dataset
    for name in ('SharedFunctionalGroupsSequence', 'PerFrameFunctionalGroupsSequence'):
        for group in dataset.get(name) or []:
            for nested in group:
                if nested.VR == 'SQ':
                    yield from nested.value


def _read(dataset: Any, keyword: str) -> Any:
    """First value of a DICOM keyword, also from the groups of multi-frame objects."""
    for item in _items(dataset):
        value = item.get(keyword)
        if value not in (None, ''):
            return value
    return None


def _is_multi_frame(dataset: Any) -> bool:
    """Whether one file holds the whole series; some hold one frame in the same form."""
    several = _number(dataset.get('NumberOfFrames')) > 1
    return several and 'PerFrameFunctionalGroupsSequence' in dataset


def _number(value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        return -1.0


def _parts(value: Any) -> list[str]:
    """The parts of a DICOM value that may be absent, single or a list."""
    if value is None:
        return []
    several = isinstance(value, Sequence) and not isinstance(value, str)
    return [str(part) for part in value] if several else [str(value)]


def _kinds_by_name(name: str) -> list[str]:
    """Kind of sequence by the name that the vendor gave it."""
    kinds = {
        'IR': r'tir|spcir|^\*?ir|flair|tfl|mp-?rage',
        'EP': r'ep2d|epi|ep_|epfid|epse|resolve',
        'GR': r'tfl|fl[23]d|gre|spgr|ffe|tfe|bravo|vibe|mp-?rage|fi3d|swi',
        'SE': r'tse|se2d|fse|spc|cube|memp|tir',
    }
    return [kind for kind, pattern in kinds.items() if re.search(pattern, name.lower())]


def _scanning(dataset: Any) -> str:
    """Scanning sequence in the classic letters, also for enhanced objects."""
    kinds = set(_parts(_read(dataset, 'ScanningSequence'))) & {'SE', 'IR', 'GR', 'EP'}
    pulse = str(_read(dataset, 'EchoPulseSequence') or '').upper()
    kinds |= {'SPIN': {'SE'}, 'GRADIENT': {'GR'}, 'BOTH': {'SE', 'GR'}}.get(pulse, set())
    if not kinds - {'IR'}:
        names = [_read(dataset, 'SequenceName'), _read(dataset, 'PulseSequenceName')]
        private = dataset.get((0x0019, 0x109C))  # GE
        names.append(private.value if private is not None else None)
        kinds |= {kind for name in names if name for kind in _kinds_by_name(str(name))}
    if _read(dataset, 'InversionRecovery') == 'YES':
        kinds.add('IR')
    if _read(dataset, 'EchoPlanarPulseSequence') == 'YES':
        kinds.add('EP')
    return '/'.join(sorted(kinds))


def _agent(dataset: Any) -> str:
    agent = str(_read(dataset, 'ContrastBolusAgent') or '')
    for item in dataset.get('ContrastBolusAgentSequence') or []:
        agent = agent or str(item.get('CodeMeaning', 'yes'))
    return agent


def _contrast(dataset: Any) -> str:
    kinds = [
        str(_read(dataset, 'AcquisitionContrast') or ''),
        *_parts(dataset.get('ImageType'))[2:3],
    ]
    return next((kind for kind in kinds if kind in _CONTRASTS), '')


_CONTRASTS = {'T1': 'T1w', 'T2': 'T2w', 'PROTON_DENSITY': 'PDw', 'FLUID_ATTENUATED': 'FLAIR'}
_OTHER_CONTRASTS = {'DIFFUSION', 'FLOW_ENCODED', 'PERFUSION', 'TOF', 'T2_STAR', 'STIR', 'TAGGING'}


def _unfit(dataset: Any, inversions: int, orientations: int) -> str:
    """Why the header alone rules a series out, or ''."""
    contrast = str(_read(dataset, 'AcquisitionContrast') or '').upper()
    part = str(_read(dataset, 'ComplexImageComponent') or '').upper()
    variant = set(_parts(_read(dataset, 'SequenceVariant')))
    gradient = 'GR' in _parts(_read(dataset, 'ScanningSequence'))
    found = {
        'a screen shot': str(dataset.get('SOPClassUID', '')).startswith(_SECONDARY_CAPTURE),
        'angiography (flag of the header)': _read(dataset, 'AngioFlag') == 'Y',
        f'contrast {contrast} of the header': contrast in _OTHER_CONTRASTS,
        'diffusion (b-value of the header)': _number(_read(dataset, 'DiffusionBValue')) > 0,
        f'{part.lower()} image': part in {'PHASE', 'REAL', 'IMAGINARY'},
        'steady state without spoiling': gradient
        and 'EP' not in _scanning(dataset)
        and variant >= {'SS'}
        and not variant & {'SP', 'MP'}
        and 0 <= _number(_read(dataset, 'RepetitionTime')) < MAX_TR_BALANCED
        and contrast != 'T1',
        f'{inversions} inversions': inversions > 1,
        f'slices of {orientations} orientations': orientations > 1,
    }
    return next((reason for reason, holds in found.items() if holds), '')


_SECONDARY_CAPTURE = '1.2.840.10008.5.1.4.1.1.7'


def _original(dataset: Any) -> bool:
    """Whether the scanner made an image that it marks as derived."""
    maker = str(dataset.get('Manufacturer') or '').lower()
    sources = any(dataset.get(name) for name in ('SourceImageSequence', 'DerivationDescription'))
    return any(name in maker for name in ('hitachi', 'fujifilm')) and not sources


# ---------------------------------------------------------------------------------- pixels


def _planes(dataset: Any, paths: Sequence[Any]) -> Iterator[npt.NDArray[Any]]:
    """Yield three slices of a series, or frames of a multi-frame object."""
    frames = int(max(_number(dataset.get('NumberOfFrames')), 1))
    count = frames if frames > 1 else len(paths)
    for place in sorted({count // 4, count // 2, 3 * count // 4}):
        path, index = (paths[0], place) if frames > 1 else (paths[place], None)
        plane = np.asarray(pydicom.pixels.utils.pixel_array(path, index=index))
        if plane.ndim == 2:
            yield plane


def unlike_anatomy(planes: Sequence[npt.NDArray[Any]]) -> str:
    """Why pixels are not those of an anatomical image, or ''.

    Parameters
    ----------
    planes : sequence of 2D array
        Some slices of one series.
    """
    if not planes:
        return ''
    values, counts = np.unique(np.concatenate([p.ravel() for p in planes]), return_counts=True)
    if len(values) == 1:
        return 'all pixels are equal'
    if len(values) < MIN_LEVELS:
        return f'only {len(values)} grey levels (a mask or drawing)'
    usual = values[np.argmax(counts)]
    left = np.concatenate([p[:, :-1].ravel() for p in planes])
    right = np.concatenate([p[:, 1:].ravel() for p in planes])
    inside = (left != usual) & (right != usual)
    flat = float((left == right)[inside].mean()) if inside.any() else 0.0
    return 'flat regions of one grey level each (a map of labels)' if flat > MAX_FLAT else ''


def _look(dataset: Any, paths: Sequence[Any]) -> str:
    """What is wrong with the pixels of a series; '' also where they cannot be unpacked."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            return unlike_anatomy(list(_planes(dataset, paths)))
    except Exception:  # noqa: BLE001 - decoders raise what they like; others judge the pixels
        return ''


class _Survey(NamedTuple):
    """What differs between the images of a series."""

    echoes: frozenset[float]
    orientations: int
    positions: int


def _survey(dataset: Any, series_files: Sequence[Any]) -> _Survey:
    """Look at all frames, or at all files where they are few."""
    if _is_multi_frame(dataset):
        images: list[Any] = [*_items(dataset)]
    elif 1 < len(series_files) <= MAX_FILES_READ:
        tags = ['EchoTime', 'ImageOrientationPatient', 'ImagePositionPatient']
        images = [
            pydicom.dcmread(path, stop_before_pixels=True, specific_tags=tags, force=True)
            for path in series_files
        ]
    else:
        images = [dataset]
    echoes = {_number(i.get(k)) for i in images for k in ('EchoTime', 'EffectiveEchoTime')}
    return _Survey(
        frozenset(round(echo, 2) for echo in echoes if echo > 0),
        _distinct(images, 'ImageOrientationPatient', 2),
        _distinct(images, 'ImagePositionPatient', 1) if len(images) > 1 else 0,
    )


def _distinct(images: list[Any], keyword: str, digits: int) -> int:
    values = (image.get(keyword) for image in images)
    return len({tuple(round(float(x), digits) for x in value) for value in values if value})


def custom_seqinfo(
    wrapper: Any,
    series_files: Sequence[Any] = (),
    pixels_from: Sequence[Any] | None = None,
    **_: Any,
) -> Hashable:
    """Add to HeuDiConv's series information what decides between the contrasts.

    Parameters
    ----------
    series_files : sequence of path
        Their headers are read.
    pixels_from : sequence of path, optional
        The pixels of some of them are looked at; default: `series_files`.
    """
    dataset = wrapper.dcm_data
    inversions = [_number(_read(dataset, 'InversionTime'))]
    if inversions[0] < 0:
        inversions = [_number(part) for part in _parts(_read(dataset, 'InversionTimes'))]
    survey = _survey(dataset, series_files)
    pixel = _parts(_read(dataset, 'PixelSpacing')) or ['']
    step = _number(_read(dataset, 'SpacingBetweenSlices'))
    echo = _read(dataset, 'EchoTime') or _read(dataset, 'EffectiveEchoTime')
    unfit = _unfit(dataset, len(inversions), survey.orientations)
    paths = series_files if pixels_from is None else pixels_from
    return (
        ('TR', _number(_read(dataset, 'RepetitionTime'))),
        ('TE', _number(echo)),
        ('TI', inversions[0] if inversions else -1.0),
        ('flip', _number(_read(dataset, 'FlipAngle'))),
        ('scanning', _scanning(dataset)),
        ('dimensions', str(_read(dataset, 'MRAcquisitionType') or '')),
        ('agent', _agent(dataset)),
        ('contrast', _contrast(dataset)),
        ('echoes', tuple(sorted(survey.echoes))),
        ('frames', _is_multi_frame(dataset)),
        ('pixel', _number(pixel[0])),
        ('step', step if step > 0 else _number(_read(dataset, 'SliceThickness'))),
        ('positions', survey.positions),
        ('original', _original(dataset)),
        ('unfit', unfit or _look(dataset, paths)),
    )


def _credible(value: float, low: float, high: float) -> float:
    """A value, or -1 for what no scanner does (as a time in the wrong unit)."""
    return value if low <= value <= high else -1.0


def _physics(series: Any) -> Physics:
    custom: dict[str, Any] = dict(series.custom or ())
    tr, te = _number(series.TR), _number(series.TE)
    if tr <= 0:
        tr = _number(custom.get('TR')) / 1000
    chosen = te > 0 and custom.get('frames')  # one of the echoes of a multi-frame object
    return Physics(
        tr=_credible(tr, 0.0015, 30),
        te=_credible(te if te > 0 else _number(custom.get('TE')), 0.3, 1000),
        ti=_credible(_number(custom.get('TI')), 10, 6000),
        flip=_number(custom.get('flip')),
        scanning=frozenset(re.findall(r'SE|IR|GR|EP', str(custom.get('scanning', '')))),
        dimensions=str(custom.get('dimensions', '')),
        agent=str(custom.get('agent', '')),
        contrast=str(custom.get('contrast', '')),
        echoes=() if chosen else tuple(custom.get('echoes', ())),
        pixel=_number(custom.get('pixel')),
        step=_number(custom.get('step')),
        positions=int(custom.get('positions', 0)),
        original=bool(custom.get('original')),
        unfit=str(custom.get('unfit', '')),
    )


Range = tuple[float, float]


class Rule(NamedTuple):
    """One kind of sequence and its contrast; what a header does not say is not held against it.

    Ranges hold their lower end. ``ti`` is None where there must be no inversion time, else there
    must be one in the range. ``inverted``: whether the scanning sequence must hold IR or must not.
    """

    suffix: str
    readout: str  # SE or GR
    tr: Range  # s
    te: Range  # ms
    ti: Range | None = None
    flip: Range = (0, 361)
    inverted: bool | None = None

    def admits(self, p: Physics) -> bool:
        """Whether a series may be of this kind."""
        known = ((p.tr, self.tr), (p.te, self.te), (p.flip, self.flip))
        if any(value > 0 and not low <= value < high for value, (low, high) in known):
            return False
        if not (self.ti[0] <= p.ti < self.ti[1] if self.ti else p.ti <= 0):
            return False
        readout, inverted = p.scanning - {'IR'}, 'IR' in p.scanning
        if readout and self.readout not in readout:
            return False
        return self.inverted in (None, inverted) or not p.scanning


#: Likeliest first. The ranges hold what is in use at 1.5 and 3 tesla; the means of the MSLesSeg
#: release with two standard deviations lie within.
RULES = (
    Rule('FLAIR', 'SE', tr=(3.3, 20), te=(60, 700), ti=(1200, 3600)),
    Rule('T1w', 'GR', tr=(0.002, 4), te=(0.5, 12), ti=(150, 1300)),  # MPRAGE, prepared SPGR
    Rule('T1w', 'SE', tr=(0.8, 8), te=(3, 60), ti=(300, 1300)),  # also what GE calls T1 FLAIR
    Rule('T1w', 'GR', tr=(1.2, 4), te=(0.5, 12)),  # MPRAGE without its TI
    Rule('T1w', 'GR', tr=(0.0015, 0.012), te=(0.5, 12), flip=(4, 35)),  # above: balanced
    Rule('T1w', 'GR', tr=(0.012, 1.2), te=(0.5, 12), flip=(8, 121)),
    Rule('T1w', 'SE', tr=(0.15, 1.2), te=(3, 31)),
    Rule('T1w', 'SE', tr=(1.2, 8), te=(3, 60), inverted=True),
    Rule('T2w', 'SE', tr=(1.2, 20), te=(45, 700), inverted=False),
    Rule('FLAIR', 'SE', tr=(3.3, 20), te=(60, 700)),
    Rule('PDw', 'SE', tr=(1.2, 20), te=(3, 60), inverted=False),
    Rule('PDw', 'GR', tr=(0.012, 1.2), te=(0.5, 12), flip=(1, 8)),
    Rule('T1w', 'SE', tr=(1.2, 3), te=(3, 45), inverted=False),
)


def by_physics(p: Physics) -> tuple[str, ...] | None:
    """Contrasts that the physics admits, likeliest first; None where nothing is known."""
    if max(p.tr, p.te, p.ti) <= 0:
        return None
    if 'EP' in p.scanning:
        return ()
    return tuple(dict.fromkeys(rule.suffix for rule in RULES if rule.admits(p)))


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
    return '3D' if _slices(series, p) >= 100 else '2D'


def _slices(series: Any, p: Physics) -> int:
    return p.positions or int(max(_number(series.dim3), 0))


# -------------------------------------------------------------------------------- decision


class Decision(NamedTuple):
    """Where a series goes (nowhere: ``suffix`` is empty) and why."""

    suffix: str
    reason: str
    acq: str = ''
    ce: str = ''
    rec: str = ''
    run: str = ''
    name: str = ''  # of ReproIn, where it decided

    @property
    def agent(self) -> bool:
        """Whether a contrast agent was given."""
        return bool(self.ce)


_BAD_TYPES = frozenset(
    [
        *('LOCALIZER', 'MPR', 'MIP', 'MNIP', 'MAX_IP', 'MIN_IP', 'PROJECTION IMAGE', 'CSA MPR'),
        *('REFORMATTED', 'CSA REPORT', 'CSA BLACK IMAGE', 'SCREEN SAVE', 'P', 'PHASE'),
        *('PHASE MAP', 'R', 'I', 'REAL', 'IMAGINARY', 'ADC', 'TRACEW', 'FA', 'DIFFUSION', 'RCBV'),
        *('RCBF', 'MTT', 'TTP', 'PERFUSION', 'SWI', 'T1 MAP', 'T2 MAP', 'UNI', 'SUBTRACT'),
        *('SUBTRACTION', 'FAT', 'OPP_PHASE', 'OUT_PHASE', 'FMRI', 'ASL', 'TOF', 'VELOCITY'),
        *('FLOW_ENCODED', 'MOCO', 'FIELD_MAP', 'B0'),
    ]
)


def _unwanted_image(series: Any, p: Physics, named: bool) -> str:
    """Why the header shows a series to be of no use, or ''."""
    types = {str(part).upper() for part in series.image_type or ()}
    bad = sorted(types & _BAD_TYPES)
    if bad or series.is_motion_corrected:
        return f'derived or partial image ({", ".join(bad) or "motion corrected"})'
    if (series.is_derived or 'DERIVED' in types) and not (named or p.original):
        return 'derived image (DERIVED)'
    if p.unfit:
        return p.unfit
    slices = _slices(series, p)
    if 0 < slices < MIN_SLICES:
        return f'only {slices} slices'
    if 0 < slices * p.step < MIN_COVERAGE:
        return f'covers only {slices * p.step:.0f} mm'
    if p.pixel > MAX_PIXEL:
        return f'pixels of {p.pixel:.1f} mm'
    return _several_volumes(series, p)


def _plain_gradient_echo(p: Physics) -> bool:
    """Whether a sequence may be that of a field map: no preparation, a long repetition time."""
    unprepared = 'IR' not in p.scanning and p.ti <= 0
    return 'GR' in p.scanning and unprepared and p.tr >= _LONG_TR


def _several_volumes(series: Any, p: Physics) -> str:
    volumes = int(max(_number(series.dim4), 1))
    if p.positions and volumes == 1:
        volumes = int(_number(series.dim3)) // p.positions
    return f'{volumes} volumes in one series' if volumes > max(1, len(p.echoes)) else ''


def _unwanted_name(name: str, p: Physics) -> str:
    """Why the name shows a series to be of no use, or ''."""
    for reason, pattern in _UNWANTED.items():
        hits = {hit.group().strip() for hit in re.finditer(pattern, name)}
        if 'flair' in name:
            hits -= {'stir'}
        if 'GR' in p.scanning and p.ti > 300:  # Siemens shortens MPRAGE so
            hits -= {'mpr'}
        if hits:
            return f'{reason} ("{min(hits)}")'
    return ''


def _known(p: Physics) -> str:
    """What is known of the times, for reasons."""
    parts = (('TR', p.tr, 's'), ('TE', p.te, 'ms'), ('TI', p.ti, 'ms'))
    said = [f'{what} {value:.4g} {unit}' for what, value, unit in parts if value > 0]
    missing = [what for what, value, _ in parts[:2] if value <= 0]
    return ', '.join([*said, *(f'no {what}' for what in missing)])


def _choose(name: str, p: Physics) -> tuple[str, str]:
    """Suffix and reason from physics and name together."""
    possible, named = by_physics(p), by_name(name)
    if possible is None:
        return (named[0], 'name; no TR and TE') if named else ('', 'neither physics nor name')
    if len(p.echoes) > 1 and p.te > 0:
        return _several_echoes(p)
    if not possible and 'EP' in p.scanning:
        return '', 'echo-planar readout'
    if not possible:
        return '', f'no contrast of ours has {_known(p)}'
    if len(possible) == 1:
        return possible[0], f'physics: {_known(p)}'
    among = f'among {"/".join(possible)}: {_known(p)}'
    agreed = [suffix for suffix in named if suffix in possible]
    if agreed:
        return agreed[0], f'name {among}'
    if _CONTRASTS.get(p.contrast) in possible:
        return _CONTRASTS[p.contrast], f'contrast {p.contrast} of the header {among}'
    if p.tr <= 0 or p.te <= 0:
        return '', f'too little physics and a silent name ({among})'
    return possible[0], f'physics, name silent {among}'


def _several_echoes(p: Physics) -> tuple[str, str]:
    """Suffix and reason for a series of several echoes."""
    times = f'echoes of {", ".join(f"{echo:.4g}" for echo in p.echoes)} ms'
    each = [by_physics(p._replace(te=echo, echoes=())) or ('',) for echo in p.echoes]
    first = [possible[0] for possible in each]
    if first == ['PDw', 'T2w']:
        return 'PDT2', f'physics: {times}, PDw and T2w'
    if set(first) == {'T1w'} and p.tr >= 1.2:
        return 'T1w', f'physics: {times}, {_known(p)}'
    return '', f'no contrast of ours has {times}'


def _decide_by_reproin(series: Any, p: Physics, named: Named, name: str) -> Decision:
    """Obey a name of ReproIn."""
    reason = f'reproin name "{named.text}"'
    if named.datatype != 'anat' or named.suffix not in {*OURS, ''}:
        return Decision('', f'{reason}: none of ours')
    if re.match(r'dup', named.comment):
        return Decision('', f'{reason}: a duplicate')
    suffix = named.suffix
    if not suffix:
        suffix, why = _choose('', p)
        reason = f'{reason} without suffix; {why}'
    elif by_physics(p) is None:
        reason += '; no TR and TE'
    said = named.entities
    agent = 'gadolinium' if has_agent(name, p.agent) else ''
    return Decision(
        suffix,
        reason,
        acq=said.get('acq') or dimensions(series, name, p),
        ce=said.get('ce') or agent,
        rec=said.get('rec', ''),
        run=said.get('run', ''),
        name=named.text.partition('__')[0],
    )


def decide(series: Any, *, derived: bool = True) -> Decision:
    """Decide on one series.

    Parameters
    ----------
    series : heudiconv.utils.SeqInfo
        TR in seconds, TE in milliseconds, ``custom`` from `custom_seqinfo` or None.
    derived : bool
        Whether the mark DERIVED means something.
    """
    names = str(series.protocol_name or ''), str(series.series_description or '')
    name, p, named = _plain(names[1], names[0]), _physics(series), reproin(*names)
    p = p._replace(original=p.original or not derived)
    reason = _unwanted_image(series, p, named is not None)
    if reason:
        return Decision('', reason)
    if named:
        return _decide_by_reproin(series, p, named, name)
    reason = _unwanted_name(name, p)
    if reason:
        return Decision('', reason)
    suffix, reason = _choose(name, p)
    agent = 'gadolinium' if has_agent(name, p.agent) else ''
    if suffix == 'T1w' and _plain_gradient_echo(p) and p.pixel > MAX_FIELD_MAP:
        return Decision('', f'gradient echo with pixels of {p.pixel:.1f} mm (a field map)')
    if not suffix:
        return Decision('', reason)
    return Decision(suffix, reason, dimensions(series, name, p), agent)


# --------------------------------------------------------------------------- several series


class Row(NamedTuple):
    """What becomes of one series; ``suffix`` and ``name`` are '' where it is left out."""

    series_id: str
    series_uid: str
    description: str
    suffix: str
    acq: str
    agent: bool
    name: str  # behind sub-01_ses-1_
    reason: str


def _variant(series: Any) -> frozenset[str]:
    """How the scanner worked an acquisition up: corrected for distortion, normalised."""
    types = {str(part).upper() for part in series.image_type or ()}
    name = str(series.series_description or '').lower()
    found = {
        'dis': types & {'DIS2D', 'DIS3D'},
        'norm': 'NORM' in types or re.match(r'(pu|filt|scic)\s*:', name),
    }
    return frozenset(label for label, holds in found.items() if holds)


Plan = list[tuple[Any, Decision]]


def _told_apart(plan: Plan) -> Plan:
    """Say by ``rec-`` what the twins of one acquisition do not have in common."""
    variants: dict[tuple[str, ...], set[frozenset[str]]] = {}
    for series, decision in plan:
        variants.setdefault(_target(decision), set()).add(_variant(series))
    made = []
    for series, decision in plan:
        if decision.suffix and not decision.rec:
            own = _variant(series) - frozenset.intersection(*variants[_target(decision)])
            decision = decision._replace(rec=''.join(sorted(own)))
        made.append((series, decision))
    return made


def _target(decision: Decision) -> tuple[str, ...]:
    return (decision.suffix, decision.acq, decision.ce, decision.rec)


def _last_counts(plan: Plan) -> Plan:
    """Leave out what has the ReproIn name of a later series: it was repeated because it failed."""
    last: dict[tuple[str, ...], int] = {}
    for place, (_, decision) in enumerate(plan):
        if decision.name:
            last[decision.name, *_target(decision)] = place
    made = []
    for place, (series, decision) in enumerate(plan):
        latest = last.get((decision.name, *_target(decision)), place)
        if latest != place and '+' not in decision.run:
            decision = Decision('', f'{decision.reason}: repeated by a later series')
        made.append((series, decision))
    return made


def _numbered(plan: Plan) -> Plan:
    """Set the run of what was acquired more than once; the names' own runs where all have one."""
    groups: dict[tuple[str, ...], list[Decision]] = {}
    for _, decision in plan:
        groups.setdefault(_target(decision), []).append(decision)
    made, counts = [], dict.fromkeys(groups, 0)
    for series, decision in plan:
        group = groups[_target(decision)]
        counts[_target(decision)] += 1
        own = [member.run for member in group]
        if len({int(run) for run in own if run.isdigit()}) == len(group):
            run = f'{int(decision.run):02d}'
        else:
            run = f'{counts[_target(decision)]:02d}' if len(group) > 1 else ''
        made.append((series, decision._replace(run=run)))
    return made


def _without_field_maps(plan: Plan) -> Plan:
    """Leave out the echoes of a gradient echo that was acquired at several echo times.

    A conversion that takes the echoes of a series apart shows each as a T1w; so does a scanner
    that stores the phase of a field map as a series of its own.
    """
    groups: dict[tuple[Any, ...], set[tuple[float, bool]]] = {}
    for series, _ in plan:
        groups.setdefault(_sequence(series), set()).add(_echo_and_part(series))
    made = []
    for series, decision in plan:
        p = _physics(series)
        several = len(groups[_sequence(series)]) > 1
        if decision.suffix == 'T1w' and _plain_gradient_echo(p) and several and not decision.name:
            decision = Decision('', 'gradient echo of several echo times or parts (a field map)')
        made.append((series, decision))
    return made


def _sequence(series: Any) -> tuple[Any, ...]:
    """What the echoes and parts of one acquisition have in common."""
    p = _physics(series)
    return (series.protocol_name, round(p.tr, 4), p.flip, series.dim1, series.dim2, p.scanning)


def _echo_and_part(series: Any) -> tuple[float, bool]:
    types = {str(part).upper() for part in series.image_type or ()}
    return round(_physics(series).te, 1), bool(types & {'P', 'PHASE', 'PHASE MAP'})


def _derived_means_something(seqinfo: Sequence[Any]) -> bool:
    """Whether some series of a session is no derived one, or there is only one."""
    marks = [
        bool(series.is_derived or 'DERIVED' in {str(part).upper() for part in series.image_type})
        for series in seqinfo
        if series.image_type
    ]
    return len(marks) < 2 or not all(marks)


def _stem(decision: Decision) -> str:
    if not decision.suffix:
        return ''
    parts = {'acq': decision.acq, 'ce': decision.ce, 'rec': decision.rec, 'run': decision.run}
    said = [f'{key}-{label}' for key, label in parts.items() if label]
    return '_'.join([*said, decision.suffix])


def decisions(seqinfo: Sequence[Any]) -> list[Row]:
    """Decide on all series of one session, in the order of acquisition.

    Parameters
    ----------
    seqinfo : sequence of heudiconv.utils.SeqInfo
    """
    derived = _derived_means_something(seqinfo)
    plan = [(series, decide(series, derived=derived)) for series in seqinfo]
    plan = _numbered(_last_counts(_told_apart(_without_field_maps(plan))))
    return [
        Row(
            series_id=str(series.series_id),
            series_uid=str(series.series_uid or ''),
            description=str(series.series_description or series.protocol_name or ''),
            suffix=decision.suffix,
            acq=decision.acq,
            agent=decision.agent,
            name=_stem(decision),
            reason=decision.reason,
        )
        for series, decision in plan
    ]


# --------------------------------------------------------------------------- HeuDiConv hooks


def create_key(
    template: str, outtype: tuple[str, ...] = ('nii.gz',), annotation_classes: None = None
) -> Key:
    """Return the key by which HeuDiConv knows an output."""
    if not template:
        raise ValueError('a template must not be empty')
    return (template, outtype, annotation_classes)


def infotodict(seqinfo: list[Any]) -> dict[Key, list[str]]:
    """Map outputs to the series that become them."""
    rows = decisions(seqinfo)
    for row in rows:
        target = row.name or 'left out'
        lgr.info('%s %r: %s (%s)', row.series_id, row.description, target, row.reason)
    folder = '{bids_subject_session_dir}/anat/{bids_subject_session_prefix}_'
    return {create_key(folder + row.name): [row.series_id] for row in rows if row.name}


def filter_dicom(dataset: Any) -> bool:
    """Drop what is not an MR image (reports, presentation states): True drops."""
    return str(dataset.get('Modality', 'MR')) != 'MR'
