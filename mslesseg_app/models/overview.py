"""Models in words: a table of all, and the details of one."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from mslesseg_app.core.errors import ModelError
from mslesseg_app.core.text import aligned

if TYPE_CHECKING:
    from mslesseg_app.models.entry import ModelEntry

HEADER = ('name', 'weights', 'size', 'sequences', 'DSC', 'exams')
NOTHING = '–'
_WIDTH = 96
_POLICY = {
    'refuse': 'the exam is refused',
    'zero': 'its channel is empty',
    'ignore': 'the method uses what is there',
}
_APART = ('title', 'description', 'figures', 'parameters')
"""Keys of a card that have a place of their own in the details."""


def table(entries: Iterable[ModelEntry]) -> str:
    """Return a table of models, one per line under a header.

    The DSC is that of the card, and the number of exams that it was measured on. Where a model has
    no weights, its figure is that of a publication, and marked.
    """
    entries = list(entries)
    rows = [_model_row(entry) for entry in entries]
    lines = [aligned(HEADER, rows)]
    if any(row[4].endswith('*') for row in rows):
        lines += ['', '* of the publication, with the weights of its authors; not of mslesseg']
    return '\n'.join(lines)


def _model_row(entry: ModelEntry) -> tuple[str, ...]:
    dsc, exams = _accuracy(entry.card.get('figures'))
    published = entry.is_engine or (entry.needs_weights and not entry.files)
    return (
        entry.name,
        _weights(entry),
        _size(entry),
        _sequences(entry),
        NOTHING if dsc is None else f'{dsc:.3f}{"*" if published else ""}',
        NOTHING if exams is None else str(exams),
    )


def _weights(entry: ModelEntry) -> str:
    if entry.is_engine:
        return _installed(entry)
    if not entry.needs_weights:
        return 'not needed'
    if not entry.files:
        return 'none'
    return 'not here' if entry.lacks else 'ready'


def _installed(entry: ModelEntry) -> str:
    """Tell of an external engine whether it is here; weights and programs are its own."""
    if not entry.lacks:
        return 'ready'
    return 'not here' if entry.files else 'public, not installed'


def _size(entry: ModelEntry) -> str:
    sizes = [path.stat().st_size for path in entry.weights_paths if path is not None]
    return f'{sum(sizes) / 1e6:.1f} MB' if sizes else NOTHING


def _sequences(entry: ModelEntry) -> str:
    more = [name for name in entry.channels if name not in entry.required]
    return ' '.join(entry.required) + (f' ({" ".join(more)})' if more else '')


def _accuracy(figures: Any) -> tuple[float | None, int | None]:
    """Return the DSC of a card and its number of exams.

    That of the first figure that says its number of exams; else the mean of the figures of single
    exams; else the first DSC there is.
    """
    known = [f for f in figures if _is_number(f.get('DSC'))] if _is_figures(figures) else []
    if not known:
        return None, None
    counted = [f for f in known if _is_number(f.get('exams'))]
    if counted:
        return float(counted[0]['DSC']), int(counted[0]['exams'])
    single = [float(f['DSC']) for f in known if 'exam' in f]
    if single:
        return sum(single) / len(single), len(single)
    return float(known[0]['DSC']), None


def accuracy_in_words(figures: Any) -> str:
    """Return the DSC of a card and what it was measured on; empty without one."""
    dsc, exams = _accuracy(figures)
    if dsc is None:
        return ''
    if exams is None:
        return f'DSC {dsc:.2f}'
    return f'DSC {dsc:.2f}, mean of {exams} exam{"s" if exams > 1 else ""} not used for training'


def _is_figures(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, Mapping) for item in value)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def model_text(entry: ModelEntry) -> str:
    """Return all about one model, in sections of at most 96 characters a line."""
    card = entry.card
    lines = [f'{entry.name} {entry.version}']
    lines += [*_wrapped(card.get('title', '')), '', *_wrapped(card.get('description', ''))]
    lines += ['', *_facts(entry)]
    for name, values in (('Options of the network', entry.options), ('Windows', entry.sampler)):
        lines += _section(name, values)
    lines += _figures(card.get('figures'))
    lines += _section('Card', {key: v for key, v in card.items() if key not in _APART})
    lines += ['', f'ready to run: {f"no ({entry.lacks})" if entry.lacks else "yes"}']
    return '\n'.join(lines)


def _facts(entry: ModelEntry) -> Iterator[str]:
    more = [name for name in entry.channels if name not in entry.required]
    files = ', '.join(name for name, _, _ in entry.files) or 'none'
    facts = {
        'architecture': entry.architecture,
        'needs': ', '.join(entry.required),
        'uses if present': ', '.join(more) or 'nothing more',
        'if one is missing': _POLICY[entry.missing],
        'order of inputs': ', '.join(entry.channels),
        'normalisation': entry.normalisation,
        'grid of images': _grid(entry),
        'window': ' × '.join(map(str, entry.patch)) + ' voxels' if entry.patch else 'whole grid',
        'threshold': entry.threshold,
        'weights': files if not entry.files else f'{files} ({_size(entry)})',
        'parameters': _parameters(entry),
        'licence': entry.licence,
        'digest': entry.digest,
    }
    yield from _pairs(facts, '')


def _grid(entry: ModelEntry) -> str:
    if not entry.is_engine:
        return 'template (MNI152, 1 mm), brain'
    grid = 'that of the FLAIR' if entry.is_native else 'template (MNI152, 1 mm)'
    return f'{grid}, {"whole head" if entry.options.get("whole_head") else "brain"}'


def _pairs(values: Mapping[str, Any], indent: str) -> Iterator[str]:
    """Yield aligned ``key  value`` lines, long values wrapped under themselves."""
    width = max(map(len, values), default=0) + 2
    for key, value in values.items():
        parts = _items(value)
        for index, part in enumerate(parts):
            head = indent + (key if index == 0 else '').ljust(width)
            yield from textwrap.wrap(
                part,
                _WIDTH,
                initial_indent=head,
                subsequent_indent=' ' * len(head),
                break_long_words=False,
            ) or [head.rstrip()]


def _items(value: Any) -> list[str]:
    """Return a value as texts: a list of texts item by item, anything else as one."""
    if isinstance(value, list | tuple) and any(isinstance(item, str) for item in value):
        return [_value_text(item) for item in value]
    return [_value_text(value)]


def _value_text(value: Any) -> str:
    if isinstance(value, bool):
        return 'yes' if value else 'no'
    if isinstance(value, list | tuple):
        return ', '.join(map(_value_text, value))
    if isinstance(value, Mapping):
        return ', '.join(f'{key} {_inner(item)}' for key, item in value.items())
    return ' '.join(str(value).split())


def _inner(value: Any) -> str:
    """Return a value within a list of others, whose own parts are not divided by commas."""
    if isinstance(value, list | tuple):
        return ' '.join(map(_value_text, value))
    return _value_text(value)


def _section(title: str, values: Mapping[str, Any]) -> list[str]:
    return ['', title, *_pairs(values, '  ')] if values else []


def _figures(figures: Any) -> list[str]:
    if not _is_figures(figures) or not figures:
        return []
    lines = ['', 'Figures']
    for figure in figures:
        words = [f'{key} {_value_text(v)}' for key, v in figure.items() if not isinstance(v, str)]
        heads = [str(v) for v in figure.values() if isinstance(v, str)]
        lines += _wrapped('; '.join(heads), '  ') + _wrapped(', '.join(words), '    ')
    return lines


def _wrapped(text: Any, indent: str = '') -> list[str]:
    words = ' '.join(str(text).split())
    return textwrap.wrap(words, _WIDTH, initial_indent=indent, subsequent_indent=indent)


def _parameters(entry: ModelEntry) -> str:
    from mslesseg_app.models.size import parameter_count

    if entry.is_engine:
        return 'its own'
    try:
        return f'{parameter_count(entry):,}'
    except ModelError as error:
        return f'unknown ({error})'
