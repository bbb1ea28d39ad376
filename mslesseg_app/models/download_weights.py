"""Fetching the weights of a model into the folder of the user's own."""

from __future__ import annotations

from pathlib import Path

from mslesseg_app.core.errors import UsageError
from mslesseg_app.models.entry import ModelEntry
from mslesseg_app.models.fetch import download
from mslesseg_app.models.registry import verified_files
from mslesseg_app.models.store import UNKNOWN_LICENCE, add_model, check_hidden, own_entries


def fetch_model(
    entry: ModelEntry,
    folder: Path,
    *,
    url: str | None = None,
    sha256: str | None = None,
    offline: bool = False,
) -> list[Path]:
    """Download the weights of an entry into a folder of models.

    An entry that names no weights (the shipped networks) takes those of `url` and `sha256`: a
    description of that name, with them, is written beside them.

    Parameters
    ----------
    entry : ModelEntry
    folder : Path
        The ``--model-dir``.
    url, sha256 : str, optional
        Instead of what the entry says; for one file only.
    offline : bool
        Refuse the network.

    Returns
    -------
    list of Path
        The weights files.

    Raises
    ------
    UsageError
        If nothing says where from or with which SHA256; the others are those of
        `mslesseg_app.models.fetch.download`.
    """
    if not entry.needs_weights:
        raise UsageError(f'The model {entry.name!r} has no weights: there is nothing to fetch.')
    if not entry.files:
        return [_fetch_new(entry, folder, url, sha256, offline)]
    if (url or sha256) and len(entry.files) > 1:
        raise UsageError(
            f'The model {entry.name!r} has {len(entry.files)} weights files.',
            'Write their addresses into its description (url).',
        )
    if sha256 and sha256 != entry.files[0][1]:
        raise UsageError(
            f'The description of {entry.name!r} has another SHA256 than --sha256.',
            'Leave --sha256 away, or describe the new weights by: mslesseg models add',
        )
    sources = [(name, digest, url or own) for name, digest, own in entry.files]
    if not all(source for _, _, source in sources):
        raise UsageError(
            f'The description of {entry.name!r} does not say where its weights are.',
            'Give their address: --url',
        )
    for name, digest, source in sources:
        download(str(source), folder / name, digest, offline=offline)
    return [folder / name for name, _, _ in sources]


def _fetch_new(
    entry: ModelEntry, folder: Path, url: str | None, sha256: str | None, offline: bool
) -> Path:
    if not url or not sha256:
        raise UsageError(
            f'The model {entry.name!r} is described without weights.',
            'Say where they are and which SHA256 they have: --url URL --sha256 HEX',
        )
    own = folder.is_dir() and entry.name in own_entries(folder)
    check_hidden(entry.architecture, {'options': entry.options} if own else {}, {})
    place = folder / f'.{entry.name}-{sha256[:12]}'
    download(url, place, sha256, offline=offline)
    try:
        if entry.is_engine:
            found = {'name': entry.name, 'card': {'source': url, 'source_sha256': sha256}}
            return verified_files(add_model(place, folder, found, force=True))[0]
        kept = {k: v for k, v in entry.description.items() if k not in ('weights', 'sha256')}
        overrides = kept | {
            'licence': entry.licence if own else UNKNOWN_LICENCE,
            'url': url,
            'card': {
                **(entry.card if own else {}),
                'title': f'Weights from {url}',
                'source': url,
                'source_sha256': sha256,
            },
        }
        made = add_model(place, folder, overrides, force=True)
    finally:
        place.unlink(missing_ok=True)
    return verified_files(made)[0]
