"""The folder of the user's own models: adding to it, fetching into it, removing from it.

Weights take their place before the description that names them, and leave it after, so that a
model is never listed without them. Their file names carry their SHA256: new weights of a model
never overwrite those that an earlier run used.
"""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mslesseg_app.core.errors import ModelError, MSLesSegError, NoInputError, UsageError
from mslesseg_app.core.files import atomic_path, explain_os_error, file_sha256, write_text
from mslesseg_app.core.settings import plain_name
from mslesseg_app.models.check import check_model
from mslesseg_app.models.convert import to_safetensors, unpack
from mslesseg_app.models.entry import (
    ENGINES,
    INPUT_OPTIONS,
    LOADERS,
    WITHOUT_WEIGHTS,
    ModelEntry,
    hidden_options,
)
from mslesseg_app.models.nnunet import is_nnunet, read_nnunet
from mslesseg_app.models.registry import list_entries, read_entry

UNKNOWN_LICENCE = 'NOASSERTION'
"""SPDX's word for a licence that nobody stated."""


def add_model(
    source: Path, folder: Path, overrides: Mapping[str, Any], *, force: bool = False
) -> ModelEntry:
    """Describe weights and put them into a folder of models.

    Parameters
    ----------
    source : Path
        Safetensors file, official checkpoint (``.pt``, ``.pth``), MONAI bundle (folder, zip) or
        trained nnU-Net v2 (folder, zip).
    folder : Path
        The ``--model-dir``; made if it does not exist.
    overrides : mapping
        Fields of `ModelEntry` that the user gave; the others come from the bundle, else from
        the shipped description of the same architecture.
    force : bool
        Replace an entry of the same name.

    Returns
    -------
    ModelEntry
        As it is now listed.

    Raises
    ------
    NoInputError
        If the source does not exist.
    UsageError
        If the name is taken, or the architecture is not known from anything.
    ModelError
        If the source is no tensor file, or does not fit the description. Nothing is changed.
    """
    if not source.exists():
        raise NoInputError(f'{source} does not exist.', 'Check the path.')
    overrides = _plainly_named(overrides)
    with _staging(folder) as staging:
        if is_nnunet(source):
            return _add_nnunet(source, folder, overrides, Path(staging), force)
        base, raw = unpack(source, Path(staging))
        values = _fill_in(base, overrides)
        check_hidden(values['architecture'], base, overrides)
        _check_lesion(values['options'])
        name = str(values['name'])
        place = _description_file(name, folder, force)
        tensors = Path(staging) / 'weights.safetensors'
        inputs = len(values['channels'])
        with _naming_source(staging, source):
            to_safetensors(raw, tensors, values['architecture'], values['options'], inputs)
        digest = file_sha256(tensors)
        weights = f'{name}-{digest[:12]}.safetensors'
        tensors.rename(Path(staging) / weights)
        values |= {'weights': weights, 'sha256': digest}
        entry = _described(values, Path(staging), source.name)
        with _naming_source(staging, source):
            check_model(entry, thorough=True)
        return _install(entry, Path(staging), folder, place)


def add_command(
    command: str | None, folder: Path, overrides: Mapping[str, Any], *, force: bool = False
) -> ModelEntry:
    """Describe a program that segments lesions as an engine, in a folder of models.

    Parameters
    ----------
    command : str
        See `mslesseg_app.models.engines.command`.
    folder, overrides, force
        As `add_model`. What is not said comes from the shipped entry of the same name.

    Raises
    ------
    UsageError
        If the name is taken or missing, or channels are not known.
    ModelError
        If the description is wrong, or there is no such program.
    """
    overrides = _plainly_named(overrides)
    recipe = _recipe(overrides, 'command')
    if 'name' not in overrides or not (recipe or overrides.get('channels')):
        raise UsageError(
            'A program needs a name and the images that it takes.',
            "For example: --engine-command 'prog {flair} {output}' --name prog --channels FLAIR",
        )
    base = recipe.description if recipe else {}
    options = {**base.get('options', {}), **overrides.get('options', {}), 'command': command}
    card = {'title': 'A program of its own', **base.get('card', {}), **overrides.get('card', {})}
    usual = {
        'version': '1',
        'architecture': 'command',
        'missing': 'refuse',
        'normalisation': 'own',
        'threshold': 0.5,
        'licence': UNKNOWN_LICENCE,
    }
    values = {**usual, **base, **overrides, 'options': options, 'card': card}
    values = {'required': tuple(values['channels']), **values}
    with _staging(folder) as staging:
        place = _description_file(str(values['name']), folder, force)
        entry = _described(values, Path(staging), 'a program')
        check_model(entry, thorough=True)
        write_entry(entry, place)
    return replace(entry, folders=(folder,))


def _plainly_named(overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Return the overrides with a name that files can carry."""
    named = {'name': plain_name(str(overrides['name']))} if 'name' in overrides else {}
    return {**overrides, **named}


def _recipe(overrides: Mapping[str, Any], architecture: str) -> ModelEntry | None:
    """Return the shipped description, without weights, of the name that is asked for."""
    entries = {entry.name: entry for entry in list_entries()}
    entry = entries.get(str(overrides.get('name')))
    return entry if entry and entry.architecture == architecture else None


def _add_nnunet(
    source: Path, folder: Path, overrides: Mapping[str, Any], staging: Path, force: bool
) -> ModelEntry:
    """Add a trained nnU-Net; its folds are the weights files of one entry."""
    recipe = _recipe(overrides, 'nnunet')
    asked = dict(overrides)
    if recipe:
        kept = {key: recipe.options[key] for key in INPUT_OPTIONS if key in recipe.options}
        asked['options'] = {**kept, **overrides.get('options', {})}
        asked = {'channels': recipe.channels, 'licence': recipe.licence, **asked}
    with _naming_source(str(staging), source):
        base, weights = read_nnunet(source, staging, asked)
    card = {**base['card'], **(recipe.card if recipe else {}), **overrides.get('card', {})}
    values = {
        'licence': UNKNOWN_LICENCE,
        **base,
        **asked,
        'options': base['options'],
        'card': card,
    }
    values = {'required': tuple(values['channels']), **values}
    name = str(values['name'])
    place = _description_file(name, folder, force)
    digests = [file_sha256(path) for path in weights]
    names = [f'{name}-{digest[:12]}.safetensors' for digest in digests]
    for path, file in zip(weights, names, strict=True):
        path.rename(staging / file)
    values |= {'weights': tuple(names), 'sha256': tuple(digests)}
    entry = _described(values, staging, source.name)
    with _naming_source(str(staging), source):
        check_model(entry, thorough=True)
    return _install(entry, staging, folder, place)


def remove_model(name: str, folder: Path) -> list[Path]:
    """Remove an entry of the user's own, and its weights unless another entry names them.

    Returns
    -------
    list of Path
        What was removed.

    Raises
    ------
    UsageError
        If the folder has no such entry; shipped ones are not removed.
    """
    paths = removable(name, folder)
    try:
        for path in paths:
            path.unlink()
    except OSError as error:
        raise explain_os_error(error, folder) from error
    return paths


def removable(name: str, folder: Path) -> list[Path]:
    """Return what `remove_model` would remove, the description first."""
    own, name = own_entries(folder), plain_name(name)
    if name not in own:
        shipped = {entry.name for entry in list_entries()}
        raise UsageError(
            f'{folder} has no model {name!r}.',
            'It is shipped with mslesseg and stays.'
            if name in shipped
            else f'It has: {", ".join(sorted(own)) or "none"}.',
        )
    place, entry = own[name]
    others = {file for key, (_, e) in own.items() if key != name for file, _, _ in e.files}
    weights = [folder / file for file, _, _ in entry.files if file not in others]
    return [place, *(path for path in weights if path.is_file())]


def own_entries(folder: Path) -> dict[str, tuple[Path, ModelEntry]]:
    """Return the descriptions of a folder with their files, by name."""
    found = ((path, read_entry(path)) for path in sorted(folder.glob('*.toml')))
    return {entry.name: (path, entry) for path, entry in found}


def write_entry(entry: ModelEntry, path: Path) -> None:
    """Write a description atomically."""
    import tomli_w

    values = {key: value for key, value in entry.description.items() if value not in (None, {})}
    write_text(path, tomli_w.dumps(values))


@contextmanager
def _naming_source(staging: str, source: Path) -> Iterator[None]:
    """Let messages name the user's file, not its copy in the making."""
    try:
        yield
    except ModelError as error:
        message = re.sub(re.escape(staging) + r'/\S+?(?=[\s:]|$)', str(source), error.message)
        raise ModelError(message, error.hint) from error


def _staging(folder: Path) -> tempfile.TemporaryDirectory[str]:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return tempfile.TemporaryDirectory(prefix='.tmp-', dir=folder)
    except OSError as error:
        raise explain_os_error(error, folder) from error


def _description_file(name: str, folder: Path, force: bool) -> Path:
    """Return the file of the description, the old one if it is to be replaced."""
    own = own_entries(folder)
    if name in own and not force:
        raise UsageError(
            f'{folder} has a model {name!r} already.',
            'Give another name by --name, or replace it by --force.',
        )
    place = own[name][0] if name in own else folder / f'{name}.toml'
    if name not in own and place.exists():
        raise UsageError(f'{place} describes another model.', 'Give another name by --name.')
    return place


def _fill_in(base: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Return all fields: what the user says, else the source, else the shipped description."""
    given = {**base, **overrides}
    architecture = given.get('architecture')
    if not architecture:
        raise UsageError(
            'Of which network these weights are is not known.', 'Say it by --architecture.'
        )
    if architecture == 'nnunet':
        raise UsageError(
            'An nnU-Net is more than one file of weights.',
            'Give the folder with its plans.json and dataset.json, or the zip of '
            'nnUNetv2_export_model_to_zip.',
        )
    if architecture not in LOADERS or architecture in WITHOUT_WEIGHTS:
        known = ', '.join(sorted(set(LOADERS) - WITHOUT_WEIGHTS - ENGINES))
        raise UsageError(f'There is no network {architecture!r}.', f'Choose one of: {known}.')
    shipped = next(e for e in list_entries() if e.architecture == architecture)
    values = _usual(shipped)
    options = {**base.get('options', values['options']), **overrides.get('options', {})}
    card = {**base.get('card', {}), **overrides.get('card', {})}
    values |= {**given, 'options': options, 'card': card}
    _match_edges(values, overrides)
    return {'required': tuple(values['channels']), **values}


def check_hidden(architecture: str, base: Mapping[str, Any], overrides: Mapping[str, Any]) -> None:
    """Make sure that somebody says the options of a network that its weights do not show.

    Raises
    ------
    UsageError
        If neither the bundle nor the user does.
    """
    said = {**base.get('options', {}), **overrides.get('options', {})}
    for key, hidden in hidden_options(architecture, said).items():
        raise UsageError(
            f'Of this {architecture}, {hidden.meaning} is not known: its code changed, its '
            'weights look the same, and a wrong guess gives a wrong mask.',
            f'Say it when adding the file: mslesseg models add FILE --architecture {architecture} '
            + hidden.ways(f'--option {key}={{value}}')
            + '.',
        )


def _check_lesion(options: Mapping[str, Any]) -> None:
    """Make sure that somebody says which of several sigmoids is that of lesions.

    Raises
    ------
    UsageError
        If a bundle has several, and nobody does.
    """
    if options.get('lesion', 0) is None:
        raise UsageError(
            f'This bundle gives {options["classes"]} probabilities, each a sigmoid of its own, '
            'and does not say which is that of lesions.',
            'Say it by --option lesion=K, from 0.',
        )


def _usual(shipped: ModelEntry) -> dict[str, Any]:
    kept = ('channels', 'normalisation', 'patch', 'threshold', 'sampler', 'options')
    return {
        'name': shipped.architecture,
        'version': '1',
        'missing': 'refuse',
        'licence': UNKNOWN_LICENCE,
        **{key: getattr(shipped, key) for key in kept},
    }


def _match_edges(values: dict[str, Any], overrides: Mapping[str, Any]) -> None:
    """Let the window and the ``edge`` of networks with a table of positions follow each other."""
    options = values['options']
    if 'edge' not in options:
        return
    if 'edge' in overrides.get('options', {}) and 'patch' not in overrides:
        edge = options['edge']
        values['patch'] = tuple([edge] * 3 if isinstance(edge, int) else edge)
    elif 'patch' in overrides and 'edge' not in overrides.get('options', {}):
        patch = overrides['patch']
        options['edge'] = list(patch) if len(set(patch)) > 1 else patch[0]


def _described(values: Mapping[str, Any], staging: Path, source: str) -> ModelEntry:
    added = datetime.now(UTC).date().isoformat()
    card = {'title': f'Weights from {source}', 'added': added, 'source': source, **values['card']}
    try:
        return ModelEntry(**{**values, 'card': card}, folders=(staging,))
    except ModelError as error:
        raise ModelError(error.message, 'Correct the options of "mslesseg models add".') from error
    except TypeError as error:
        raise ModelError(f'The model cannot be described: {error}.') from error


def _install(entry: ModelEntry, staging: Path, folder: Path, place: Path) -> ModelEntry:
    """Move the weights to the folder, then the description; then remove what it replaced."""
    names = [name for name, _, _ in entry.files]
    old = {file for file, _, _ in read_entry(place).files} if place.is_file() else set()
    for name in names:
        with atomic_path(folder / name) as temporary:
            shutil.move(staging / name, temporary)
    try:
        write_entry(entry, place)
    except MSLesSegError:
        for name in {*names} - old:
            (folder / name).unlink(missing_ok=True)
        raise
    named = {file for _, e in own_entries(folder).values() for file, _, _ in e.files}
    for file in old - named:
        (folder / file).unlink(missing_ok=True)
    return replace(entry, folders=(folder,))
