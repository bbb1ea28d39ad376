"""Which of several images of a modality is used, and why: the rule that decided is named."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import nibabel as nb

from mslesseg_app.bids.metadata import Metadata
from mslesseg_app.core.errors import MSLesSegError
from mslesseg_app.spatial.reading import open_image

if TYPE_CHECKING:
    from bids.layout import BIDSImageFile

#: An acquisition whose thickest voxel edge exceeds this, in mm, is not taken for 3D.
_MAX_3D_THICKNESS = 2.0
#: Parts of a complex image that do not show the anatomy.
_WITHOUT_ANATOMY = ('phase', 'real', 'imag')
#: Entities of images that were made from others.
_DERIVED = ('space', 'desc', 'res', 'den', 'label', 'segmentation', 'atlas', 'hemi')
#: Entities that are no reason against an image, or have a rule of their own.
_USUAL = (
    'subject', 'session', 'acquisition', 'ceagent', 'run', 'echo', 'part', 'chunk',
    'reconstruction', 'suffix', 'extension', 'datatype', *_DERIVED,
)  # fmt: skip
_CONTRAST_FIELDS = ('ContrastBolusIngredient', 'ContrastBolusAgent', 'ContrastAgent')
_CONTRAST_WORDS = re.compile(
    r'gado|gad$|^gad|gd$|^gd|post(gd|gad|contrast|c$)|contrast|kontrast', re.IGNORECASE
)
_NO_CONTRAST = re.compile(r'^(no|pre|non|without|ohne|sans|nativ)', re.IGNORECASE)


@dataclass(frozen=True)
class Choice:
    """The image of a modality.

    Attributes
    ----------
    image : Path or None
        None where no file can be used.
    notes : tuple of str
        What a reader should know, one sentence each.
    """

    image: Path | None
    notes: tuple[str, ...] = ()


def choose_image(
    modality: str,
    files: list[BIDSImageFile],
    metadata: Metadata,
    filters: Mapping[str, Any],
) -> Choice:
    """Choose the image of a modality among the files of an exam.

    In this order: an image as it was scanned before one made from others (``desc-``, ``space-``);
    3D before 2D; without contrast agent before with one; no particular reconstruction
    (``rec-``); no further entity; the echo with the weighting of the modality; the last run. What
    then is left is decided by the alphabet, and said to be so. Phase images and chunks are not
    used, unless the user's filters name ``part`` or ``chunk``.

    Parameters
    ----------
    modality : str
        ``FLAIR``, ``T1w`` or ``T2w``.
    files : list of BIDSImageFile
    metadata : Metadata
        Of the dataset.
    filters : mapping
        The user's filters of this modality.
    """
    refused = {item.filename: why for item in files if (why := _unusable(item, filters))}
    usable = [item for item in files if item.filename not in refused]
    if not usable:
        return Choice(None, (f'{modality}: not used: {_listed(refused)}.',) if refused else ())
    ranked = [_Candidate(item, modality, metadata, alone=len(usable) == 1) for item in usable]
    best = max(ranked, key=lambda candidate: candidate.rank)
    others = {one.name: _difference(best, one) for one in ranked if one is not best} | refused
    notes = []
    if others:
        notes.append(f'{modality}: {best.name} was chosen; not used: {_listed(others)}.')
    if _ALPHABET in others.values():
        notes.append(
            f'Warning: {modality}: nothing but the alphabet decided for {best.name}; name the '
            'right one with --bids-filter-file.'
        )
    if best.contrast:
        notes.append(f'{modality}: {best.name} shows a contrast agent ({best.contrast}).')
    return Choice(best.path, tuple(notes))


_ALPHABET = 'nothing but the alphabet tells it apart'


def _unusable(item: BIDSImageFile, filters: Mapping[str, Any]) -> str:
    """Say why a file is no image of the anatomy, or nothing."""
    part = str(item.entities.get('part', '')).lower()
    if part in _WITHOUT_ANATOMY and 'part' not in filters:
        return f'part-{part} is no magnitude image'
    if item.entities.get('chunk') is not None and 'chunk' not in filters:
        return f'chunk-{item.entities["chunk"]} is a part of an image'
    return ''


def _listed(reasons: Mapping[str, str]) -> str:
    return ', '.join(f'{name} ({why})' for name, why in sorted(reasons.items()))


class _Candidate:
    """One file with what speaks for and against it."""

    def __init__(
        self, item: BIDSImageFile, modality: str, metadata: Metadata, alone: bool
    ) -> None:
        self.path, self.name, self.entities = Path(item.path), item.filename, item.entities
        self.modality = modality
        said = metadata.of(self.path)
        self.contrast = _contrast(self.entities, said)
        self.is_3d, self.source = (True, '') if alone else _is_3d(self.path, self.entities, said)
        self.extra = sorted(name for name in self.entities if name not in _USUAL)
        self.derived = [name for name in _DERIVED if name in self.entities]
        self.rank = tuple(rule(self) for rule, _ in _RULES)


def _entity_text(candidate: _Candidate, *names: str) -> str:
    return ', '.join(f'{name}-{candidate.entities.get(name)}' for name in names)


def _digits(value: Any) -> int:
    digits = re.sub(r'\D', '', str(value or 0))
    return int(digits or 0)


def _echo(candidate: _Candidate) -> int:
    """Rank an echo: none first; the first of a T1w, the last of others."""
    if 'echo' not in candidate.entities:
        return 1_000_000
    number = _digits(candidate.entities['echo'])
    return -number if candidate.modality == 'T1w' else number


_Rule = tuple[Callable[[_Candidate], Any], Callable[[_Candidate], str]]

#: What is compared, in order, and the reason given for the one that loses by it.
_RULES: tuple[_Rule, ...] = (
    (
        lambda one: not one.derived,
        lambda one: 'made from others: ' + _entity_text(one, *one.derived),
    ),
    (lambda one: one.is_3d, lambda one: f'2D by {one.source}'),
    (lambda one: not one.contrast, lambda one: f'contrast agent: {one.contrast}'),
    (
        lambda one: 'reconstruction' not in one.entities,
        lambda one: f'reconstruction rec-{one.entities["reconstruction"]}',
    ),
    (lambda one: -len(one.extra), lambda one: 'has ' + _entity_text(one, *one.extra)),
    (_echo, lambda one: f'another echo, echo-{one.entities.get("echo")}'),
    (
        lambda one: _digits(one.entities.get('run')),
        lambda one: 'an earlier run' if 'run' in one.entities else 'no run label, others have one',
    ),
    (lambda one: one.name, lambda _: _ALPHABET),
)


def _difference(best: _Candidate, other: _Candidate) -> str:
    """Return in words the first rule by which another file is not chosen."""
    for number, (_, words) in enumerate(_RULES):
        if best.rank[number] != other.rank[number]:
            return words(other)
    return 'the same name'


def _contrast(entities: Mapping[str, Any], said: Mapping[str, Any]) -> str:
    """Return what says that an image was acquired with contrast agent, or nothing."""
    if 'ceagent' in entities:
        agent = str(entities['ceagent'])
        return '' if _NO_CONTRAST.match(agent) else f'ce-{agent}'
    for field in _CONTRAST_FIELDS:
        value = str(said.get(field) or '').strip()
        if value and value.lower() not in ('none', 'no', 'n/a', 'nil'):
            return f'{field} of its metadata'
    label = str(entities.get('acquisition', ''))
    if _CONTRAST_WORDS.search(label) and not _NO_CONTRAST.match(label):
        return f'acq-{label}'
    return ''


def _is_3d(path: Path, entities: Mapping[str, Any], said: Mapping[str, Any]) -> tuple[bool, str]:
    """Say whether an acquisition is 3D, and what tells it."""
    label = str(entities.get('acquisition', ''))
    if '3d' in label.lower() or '2d' in label.lower():
        return '3d' in label.lower(), f'acq-{label}'
    kind = str(said.get('MRAcquisitionType')).strip().upper()
    if kind in ('2D', '3D'):
        return kind == '3D', 'MRAcquisitionType'
    try:
        edge = float(nb.affines.voxel_sizes(open_image(path).affine).max())
    except MSLesSegError:
        return False, 'what its file tells: it cannot be read'
    return edge <= _MAX_3D_THICKNESS, f'its voxel edge of {edge:.3g} mm'
