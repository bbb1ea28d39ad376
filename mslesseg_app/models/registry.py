"""The registry of models: one TOML file describes one model.

Shipped descriptions lie in ``mslesseg_app/data/models``; a folder given by the user
(``--model-dir``) adds its own ``*.toml``, and an entry there replaces a shipped one of the same
name. Weights are safetensors files beside the description, named and pinned by SHA256 in it;
several files are the folds of one model.
"""

from __future__ import annotations

import importlib
import tomllib
from dataclasses import fields
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, cast

from mslesseg_app.core.errors import ModelError, UsageError
from mslesseg_app.core.files import file_sha256
from mslesseg_app.core.settings import plain_name
from mslesseg_app.core.text import did_you_mean
from mslesseg_app.models.entry import LOADERS, ModelEntry

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from mslesseg_app.models.prediction.prediction import Prediction


class Predictor(Protocol):
    """What a loaded model is to the rest: a function from channels to a probability."""

    def __call__(
        self,
        channels: npt.NDArray[np.float32],
        brain: npt.NDArray[np.bool_],
        present: tuple[bool, ...],
    ) -> npt.NDArray[np.float32]:
        """Return the lesion probability.

        Parameters
        ----------
        channels : float32 array (C, X, Y, Z)
            Normalised images on the template grid in the order of the entry's channels; a
            missing one is zero.
        brain : bool array (X, Y, Z)
            Brain on the same grid.
        present : tuple of bool, length C
            Which channels hold an image.

        Returns
        -------
        float32 array (X, Y, Z)
            0 to 1.
        """


class Engine(Protocol):
    """What a program of others is to the rest: a function from images to a probability."""

    def __call__(
        self, channels: npt.NDArray[np.float32], affine: npt.NDArray[np.float64]
    ) -> Prediction:
        """Return the lesion probability on the grid of the images.

        Parameters
        ----------
        channels : float32 array (C, X, Y, Z)
            Images in the order of the entry's channels, with intensities as they are; zero
            outside the brain, unless the entry asks for the whole head.
        affine : float64 array (4, 4)
            Voxels of the grid to millimetres (RAS+).

        Returns
        -------
        Prediction
            Its probability decides at the threshold of the entry.
        """


def shipped_folder() -> Path:
    """Return the folder of the descriptions that come with this package."""
    return Path(str(files('mslesseg_app.data').joinpath('models')))


def list_entries(model_dir: Path | str | None = None) -> list[ModelEntry]:
    """Return all models, sorted by name.

    Parameters
    ----------
    model_dir : path, optional
        Folder with further descriptions and weights.

    Raises
    ------
    ModelError
        For a description that cannot be read or contradicts itself.
    UsageError
        If the folder does not exist.
    """
    extra = () if model_dir is None else (_existing(Path(model_dir)),)
    found: dict[str, ModelEntry] = {}
    for folder in (shipped_folder(), *extra):
        here = [read_entry(path, extra) for path in sorted(folder.glob('*.toml'))]
        twice = {e.name for e in here if sum(o.name == e.name for o in here) > 1}
        if twice:
            raise ModelError(
                f'Two descriptions in {folder} have the name {min(twice)!r}.', 'Rename one.'
            )
        found.update({entry.name: entry for entry in here})
    return sorted(found.values(), key=lambda entry: entry.name)


def get_entry(name: str, model_dir: Path | str | None = None) -> ModelEntry:
    """Return the model of this name.

    Raises
    ------
    UsageError
        If there is none; the hint lists the names that exist.
    """
    entries = {entry.name: entry for entry in list_entries(model_dir)}
    name = plain_name(name)
    if name not in entries:
        known = f'Choose one of: {", ".join(entries)}; or name your folder with --model-dir.'
        hint = f'{did_you_mean(name, entries)} {known}'.strip()
        raise UsageError(f'There is no model {name!r}.', hint)
    return entries[name]


def read_entry(path: Path, more_folders: tuple[Path, ...] = ()) -> ModelEntry:
    """Read one description.

    Parameters
    ----------
    path : Path
        TOML file.
    more_folders : tuple of Path
        Where weights may lie besides the folder of the description.

    Raises
    ------
    ModelError
        If it is no TOML, or lacks, repeats or invents a field.
    """
    try:
        values = tomllib.loads(path.read_text(encoding='utf-8'))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ModelError(f'{path} cannot be read as a model: {error}', 'Correct it.') from error
    known = {f.name for f in fields(ModelEntry)} - {'folders'}
    strange = sorted(set(values) - known)
    if strange:
        raise ModelError(
            f'{path} has the unknown field {strange[0]!r}.', f'Known: {", ".join(sorted(known))}.'
        )
    for key in ('channels', 'required', 'patch', 'weights', 'sha256', 'url'):
        if isinstance(values.get(key), list):
            values[key] = tuple(values[key])
    folders = tuple(dict.fromkeys((path.parent, *more_folders)))
    try:
        return ModelEntry(**values, folders=folders)
    except TypeError as error:
        raise ModelError(f'{path} is incomplete: {error}', 'Add what is missing.') from error


def load_predictor(
    entry: ModelEntry, device: str = 'cpu', threads: int = 1, seed: int = 1
) -> Predictor:
    """Make a model ready to run.

    Parameters
    ----------
    entry : ModelEntry
        From `get_entry`.
    device : str
        ``cpu`` or ``cuda:N``, as `mslesseg_app.models.prediction.device.choose_device` gives it.
    threads : int
        CPU threads it may use.
    seed : int
        For models that draw random numbers.

    Raises
    ------
    ModelError
        If weights are needed and absent, have another SHA256 than the description, or do not fit.
    """
    return cast(Predictor, _load_network(entry, device, threads, seed))


def load_engine(entry: ModelEntry, device: str = 'cpu', threads: int = 1, seed: int = 1) -> Engine:
    """Make an external engine ready to run; as `load_predictor`."""
    return cast(Engine, _load_network(entry, device, threads, seed))


def _load_network(entry: ModelEntry, device: str, threads: int, seed: int) -> object:
    weights = verified_weights(entry)
    try:
        module = importlib.import_module(LOADERS[entry.architecture])
        load = module.load
    except (ImportError, AttributeError) as error:
        raise ModelError(
            f'The architecture {entry.architecture!r} cannot be loaded: {error}',
            'Check that torch and monai are installed as this version of mslesseg asks.',
        ) from error
    return cast(object, load(entry, weights, device, threads=threads, seed=seed))


def verified_weights(entry: ModelEntry) -> Path | tuple[Path, ...] | None:
    """Return the weights file, or files (folds), after checking them; None for a model without."""
    found = verified_files(entry)
    return found if len(found) > 1 else next(iter(found), None)


def verified_files(entry: ModelEntry) -> tuple[Path, ...]:
    """Return the weights files after checking the SHA256 of each.

    Raises
    ------
    ModelError
        If one is absent or another file than the description says.
    """
    if entry.is_engine:
        _check_engine(entry)
    if not entry.needs_weights:
        return ()
    if not entry.files:
        raise ModelError(
            f'The model {entry.name!r} cannot run: it has no trained weights.',
            f'Train it: mslesseg train BIDS_DIR RUN_DIR --network {entry.architecture} '
            '--model-dir DIR; or describe weights that you have: mslesseg models add FILE '
            f'--architecture {entry.architecture} --model-dir DIR; or {_another(entry)}.',
        )
    pairs = zip(entry.files, entry.weights_paths, strict=True)
    return tuple(_verified(entry, name, digest, path) for (name, digest, _), path in pairs)


def _check_engine(entry: ModelEntry) -> None:
    """Make sure that an external engine is installed; its card says how that is done."""
    if entry.needs_weights and not entry.files:
        absent = 'its weights are public, but not on this machine'
    else:
        absent = entry.lacks_besides_weights
    if absent:
        how = entry.card.get('install') or 'docs/engines.md says how it is installed.'
        raise ModelError(f'The model {entry.name!r} cannot run: {absent}.', str(how))


def _another(entry: ModelEntry) -> str:
    """Say which model could be taken instead, one of the same network where there is one."""
    ready = [e for e in list_entries() if e.architecture == entry.architecture and not e.lacks]
    if ready:
        reduced = ready[0].card.get('reduced_from') == entry.name
        what = 'its reduced version' if reduced else 'weights of the same network that are here'
        return f'take {what}: --model {ready[0].name}'
    return 'choose another model (mslesseg models list)'


def _verified(entry: ModelEntry, name: str, expected: str, path: Path | None) -> Path:
    if path is None:
        how = f'mslesseg models fetch {entry.name} --model-dir DIR' if entry.url else 'fetch it'
        raise ModelError(
            f'The model {entry.name!r} cannot run: {name} is not on this machine.',
            f'Put it into the folder given by --model-dir ({how}), or choose another model.',
        )
    actual = file_sha256(path)
    if actual != expected:
        raise ModelError(
            f'{path} is not the file that the model {entry.name!r} was described with '
            f'(SHA256 {actual[:12]}…, expected {expected[:12]}…).',
            'Fetch it again, or describe the new weights as a new version.',
        )
    return path


def _existing(folder: Path) -> Path:
    if not folder.is_dir():
        raise UsageError(f'The model folder {folder} does not exist.', 'Check --model-dir.')
    return folder
