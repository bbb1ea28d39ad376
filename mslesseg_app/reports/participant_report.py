"""The report of one participant: one self-contained HTML file that works offline.

Images are embedded as long as the file stays small enough to be mailed, and linked beyond that.
A content policy in the file forbids every request and every script but its own.
"""

from __future__ import annotations

import base64
import copy
import dataclasses
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import quote
from xml.etree import ElementTree as ET

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from mslesseg_app.core.files import write_text
from mslesseg_app.core.status import STATUSES
from mslesseg_app.reports import svg
from mslesseg_app.reports.content import FIGURE_KINDS, ExamContent, Figure, SubjectContent
from mslesseg_app.reports.markup import is_number, linked, markdown, readable
from mslesseg_app.reports.overview import overview
from mslesseg_app.reports.sections import (
    CHANGE_FORMS,
    Change,
    Drawing,
    Extra,
    findings,
    status_words,
    trust,
)
from mslesseg_app.reports.viewer import Bundle, find_bundle

#: Bytes of images that a report may hold; with text it stays below 15 MB.
EMBED_LIMIT = 27 * 2**19

_MIME = {
    '.svg': 'image/svg+xml',
    '.png': 'image/png',
    '.jpg': 'image/jpeg',
    '.jpeg': 'image/jpeg',
    '.webp': 'image/webp',
    '.gif': 'image/gif',
}

#: Headings of the lesion table; other columns are shown by their names.
COLUMN_TITLES = {
    'region': 'region',
    'status': 'status',
    'distance_ventricle_mm': 'to ventricle',
    'distance_cortex_mm': 'to cortex',
    'min_diameter_mm': 'smallest diameter',
    'elongation': 'elongation',
    'flair_ratio': 'FLAIR ratio',
    't1w_ratio': 'T1w ratio',
    't2w_ratio': 'T2w ratio',
    'agreement': 'agreement',
    'change_id': 'row',
    'lesions_before': 'lesion before',
    'lesions_after': 'lesion now',
    'volume_before_mm3': 'volume before',
    'volume_after_mm3': 'volume now',
    'difference_mm3': 'difference',
    'difference_percent': 'difference',
    'rate_mm3_per_year': 'rate',
    'brighter_mm3': 'brighter',
    'darker_mm3': 'darker',
    'z_peak': 'largest difference (SD)',
    'z_mean': 'mean difference (SD)',
    'contrast': 'contrast',
    'note': 'note',
    'lesion_id': 'lesion',
    'volume_mm3': 'volume',
    'n_voxels': 'voxels',
    'max_diameter_mm': 'largest diameter',
    'centroid_x': 'x',
    'centroid_y': 'y',
    'centroid_z': 'z',
    'mni_x': 'MNI x',
    'mni_y': 'MNI y',
    'mni_z': 'MNI z',
    'mean_prob': 'mean probability',
    'max_prob': 'highest probability',
    'mean_uncertainty': 'mean uncertainty',
    'n_models_agree': 'models',
}

PART_HEADINGS = {
    'lesions': 'Lesions',
    'change': 'Change since the previous session',
    'quality': 'Quality checks',
    'brain': 'Brain mask',
    'alignment': 'Registration to the template',
    'other': 'More images',
    'accuracy': 'Agreement with the reference mask',
    'inputs': 'Input images',
    'model': 'Segmentation model',
    'resources': 'Computing',
    'run': 'Run of this exam',
}

#: Status of a check in words.
CHECK_WORDS = {**{status: status for status in STATUSES}, 'unknown': 'no limit known'}


@dataclass
class Shown:
    """A figure as the template puts it in.

    Attributes
    ----------
    how : str
        ``panels`` (one of our drawings, taken apart), ``embedded``, ``linked`` or ``missing``.
    panels : list of str
        SVG of each panel.
    address : str
        Data URI or relative link.
    columns : int
        Panels in a row; 0 leaves it to the width of the report.
    lesions : set of str
        Numbers of the lesions that have an anchor in the panels.
    """

    figure: Figure
    how: str
    panels: list[Markup] = field(default_factory=list)
    address: str = ''
    flicker: bool = False
    columns: int = 0
    lesions: set[str] = field(default_factory=set)

    @property
    def kind(self) -> str:
        """The part of the report to which the figure belongs."""
        return self.figure.kind if self.figure.kind in FIGURE_KINDS else 'other'


def write_participant_report(
    content: SubjectContent,
    out_html: Path,
    *,
    embed_limit: int = EMBED_LIMIT,
    extras: Sequence[Extra] = (),
) -> Path:
    """Write the report of a participant; the file appears at once or not at all.

    Parameters
    ----------
    content : SubjectContent
        Figure paths are relative to the folder of ``out_html``. A figure that is not there
        leaves a note in the report.
    embed_limit : int
        Bytes of images and viewer to embed; images beyond it are linked, lesions last of all.
    extras : sequence of Extra
        For each exam what is shown besides its record: viewer, drawings, change, timings.

    Returns
    -------
    Path
        ``out_html``. Equal content and figures give equal bytes.

    Raises
    ------
    OutputError, DiskError
        If the report cannot be written.
    DataError
        If a figure is damaged.
    """
    bundle, shown = _viewer(extras, len(content.exams))
    embedded = _choose_embedded(content, out_html.parent, embed_limit - _spent(bundle, shown))
    exams = [
        _view(exam, place, out_html.parent, embedded, extra, content)
        for place, (exam, extra) in enumerate(zip(content.exams, shown, strict=True), 1)
    ]
    for view in exams:
        view['parts'] = _parts(view, content)
    names = ['marks.js', 'sort.js', 'report.js', *(['viewer.js'] if bundle else [])]
    script = ''.join(source(name) for name in names)
    html = (
        environment()
        .get_template('report.html')
        .render(
            content=content,
            exams=exams,
            style=Markup(source('style.css') + svg.FLICKER_STYLE),
            script=Markup(script),
            script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
            bundle=bundle,
            group_there=(out_html.parent / content.links.get('group', '')).is_file(),
            titles=COLUMN_TITLES,
            check_words=CHECK_WORDS,
            change_forms=CHANGE_FORMS,
        )
    )
    write_text(out_html, html)
    return out_html


def _spent(bundle: Bundle | None, shown: Sequence[Extra]) -> int:
    """Return the bytes that viewer and drawings take."""
    spent = sum(one.scene.size for one in shown if one.scene)
    spent += len(bundle.packed) if bundle else 0
    return spent + sum(len(ET.tostring(d.root)) for one in shown for d in _drawn(one))


def _viewer(extras: Sequence[Extra], count: int) -> tuple[Bundle | None, list[Extra]]:
    """Find NiiVue where there is something to show; without it each exam says so."""
    shown = [*extras, *[Extra()] * count][:count]
    if not any(extra.scene for extra in shown):
        return None, shown
    found = find_bundle()
    if isinstance(found, Bundle):
        return found, shown
    return None, [
        dataclasses.replace(extra, scene=None, note=found) if extra.scene else extra
        for extra in shown
    ]


@cache
def environment() -> Environment:
    """Return the templates, with the filters that all reports share."""
    made = Environment(
        loader=PackageLoader('mslesseg_app.reports', 'templates'),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {'readable': readable, 'linked': linked, 'markdown': markdown}
    made.tests |= {'number': is_number}
    return made


def source(name: str) -> str:
    """Text of a file among the templates, as it stands."""
    templates = environment()
    assert templates.loader is not None
    return templates.loader.get_source(templates, name)[0]


def _choose_embedded(content: SubjectContent, folder: Path, limit: int) -> set[str]:
    """Paths of the figures that go into the report: kind by kind until the limit is reached."""
    figures = [figure for exam in content.exams for figure in exam.figures]
    chosen: set[str] = set()
    total = 0
    for figure in sorted(figures, key=_rank):
        path = folder / figure.path
        if figure.path in chosen or not path.is_file():
            continue
        grows = 1.0 if path.suffix == '.svg' else 4 / 3
        size = int(path.stat().st_size * grows)
        if total + size <= limit:
            chosen.add(figure.path)
            total += size
    return chosen


def _rank(figure: Figure) -> int:
    return FIGURE_KINDS.index(figure.kind) if figure.kind in FIGURE_KINDS else len(FIGURE_KINDS)


def _drawn(extra: Extra) -> tuple[Drawing, ...]:
    return (extra.overview, *extra.drawings) if extra.overview else extra.drawings


def _view(
    exam: ExamContent,
    place: int,
    folder: Path,
    embedded: set[str],
    extra: Extra,
    content: SubjectContent,
) -> dict[str, Any]:
    """Collect what the template needs for one exam."""
    key = f'exam-{place}'
    figures = [
        _show(figure, folder, figure.path in embedded, f'{key}-lesion-')
        for figure in sorted(exam.figures, key=_rank)
    ]
    figures += [
        dataclasses.replace(
            _take_apart(drawing.figure, drawing.root, f'{key}-{drawing.figure.kind}-'),
            columns=drawing.columns,
        )
        for drawing in _drawn(extra)
    ]
    # what the first screen shows: enlarged lesions, or where none was found the FLAIR slices
    first = 'lesions' if exam.summary and not exam.summary.count else 'overview'
    return {
        'key': key,
        'exam': exam,
        'extra': extra,
        'trust': trust(exam),
        'findings': findings(exam, extra),
        'overview': overview(exam, extra, content.exams),
        'mark': content.marks.get(exam.session or '', {}),
        'figures': [shown for shown in figures if shown.kind != first],
        'zoomed': next((shown for shown in figures if shown.kind == first), None),
        'short': _short_rows(exam, extra.change),
        'anchors': {number for shown in figures for number in shown.lesions},
        'columns': _columns(exam),
        'scene': extra.scene,
        'words': [_lesion_words(row) for row in exam.lesions],
        'scene_note': extra.note,
    }


def _short_rows(exam: ExamContent, change: Change | None) -> list[dict[str, Any]]:
    """Return the eight columns of the lesion table that a reader needs first."""
    notes: dict[str, str] = {}
    for row in change.rows if change else ():
        for number in str(row.get('lesions_after') or '').split(','):
            notes[number.removesuffix('.0')] = str(row.get('note') or '')
    return [
        {
            'lesion_id': row.get('lesion_id'),
            'location': str(row.get('region') or '').replace('_', ' '),
            'side': _side(row.get('mni_x')),
            'volume_mm3': row.get('volume_mm3'),
            'max_diameter_mm': row.get('max_diameter_mm'),
            'mean_prob': row.get('mean_prob'),
            'status': status_words(str(row.get('status') or '')),
            'note': notes.get(str(row.get('lesion_id')), ''),
        }
        for row in exam.lesions
    ]


#: Nearer to the midline than this, in mm, a lesion has no side.
_MIDLINE_MM = 3.0


def _side(x: Any) -> str:
    """Return the patient's side of a lesion from its MNI x."""
    if not is_number(x):
        return ''
    return 'midline' if abs(x) < _MIDLINE_MM else 'right' if x > 0 else 'left'


def _lesion_words(row: dict[str, Any]) -> str:
    """Return the volume of a lesion, and its region and status where known."""
    volume = row.get('volume_mm3')
    words = [f'{volume:.0f} mm³' if is_number(volume) else '']
    words += [str(row.get(name) or '').replace('_', ' ') for name in ('region', 'status')]
    return ', '.join(word for word in words if word)


#: Columns that a person reads first; the others follow in the order of the table.
_FIRST = ('lesion_id', 'status', 'region', 'volume_mm3')
#: Columns of the lesion table that a run may leave empty.
_OPTIONAL = frozenset(
    {
        'mean_uncertainty',
        'n_models_agree',
        'agreement',
        'region',
        'status',
        'distance_ventricle_mm',
        'distance_cortex_mm',
        'flair_ratio',
        't1w_ratio',
        't2w_ratio',
    }
)


def _columns(exam: ExamContent) -> list[str]:
    """Columns of the lesion table; those that this run did not fill are left out."""
    columns = list(exam.lesions[0]) if exam.lesions else []
    empty = {name for name in _OPTIONAL if all(row.get(name) is None for row in exam.lesions)}
    first = [name for name in _FIRST if name in columns]
    return [name for name in first + [n for n in columns if n not in first] if name not in empty]


def _parts(view: dict[str, Any], content: SubjectContent) -> dict[str, str]:
    """Parts of an exam's section that have something to say, and their headings."""
    exam: ExamContent = view['exam']
    good = exam.status == 'ok'
    kinds = {shown.kind for shown in view['figures']}
    wanted = {
        'lesions': good or 'lesions' in kinds or bool(exam.lesions),
        'change': view['extra'].change is not None or 'change' in kinds,
        'brain': good or 'brain' in kinds,
        'alignment': good or 'alignment' in kinds,
        'other': 'other' in kinds,
        'quality': good or bool(exam.qc),
        'accuracy': any(value not in (None, 'n/a') for value in (exam.metrics or {}).values()),
        'inputs': True,
        'model': exam.model is not None,
        'resources': good or bool(view['extra'].seconds),
        'run': exam.provenance not in (None, content.provenance),
    }
    return {part: words for part, words in PART_HEADINGS.items() if wanted[part]}


def _show(figure: Figure, folder: Path, embed: bool, prefix: str) -> Shown:
    path = folder / figure.path
    if not path.is_file():
        return Shown(figure, 'missing')
    if not embed:
        return Shown(figure, 'linked', address=quote(figure.path))
    if (found := svg.load(path)) is not None:
        return _take_apart(figure, found[1], prefix)
    mime = _MIME.get(path.suffix.lower(), 'application/octet-stream')
    data = base64.b64encode(path.read_bytes()).decode('ascii')
    return Shown(figure, 'embedded', address=f'data:{mime};base64,{data}')


def _take_apart(figure: Figure, root: ET.Element, prefix: str) -> Shown:
    """Turn the panels of a mosaic into drawings of their own, which a report can re-flow."""
    panels = [part for part in root if part.get('class') == 'msl-panel']
    anchors = _largest_cuts(panels)
    for number, group in anchors.items():
        group.set('id', prefix + number)
    flicker = 'msl-flicker' in root.get('class', '').split()
    drawn = [Markup(text) for text in _serialised(panels)]
    return Shown(figure, 'panels', drawn, flicker=flicker, lesions=set(anchors))


def _largest_cuts(panels: list[ET.Element]) -> dict[str, ET.Element]:
    """For each lesion the group in which its outline is longest."""
    best: dict[str, tuple[int, ET.Element]] = {}
    for part in panels:
        for group in part.iter(f'{{{svg.SVG}}}g'):
            number = group.get('data-lesion')
            if number is None:
                continue
            length = sum(len(path.get('d', '')) for path in group)
            if length > best.get(number, (-1, group))[0]:
                best[number] = (length, group)
    return {number: group for number, (_, group) in best.items()}


def _serialised(panels: list[ET.Element]) -> Iterator[str]:
    for part in panels:
        alone = copy.copy(part)
        for attribute in ('x', 'y', 'width', 'height'):
            alone.attrib.pop(attribute, None)
        yield ET.tostring(alone, encoding='unicode').replace(f' xmlns="{svg.SVG}"', '', 1)
