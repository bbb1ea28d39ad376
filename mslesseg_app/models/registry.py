"""The registry of models: one TOML file describes one model.

Shipped descriptions lie in ``mslesseg_app/data/models``; a folder given by the user
(``--model-dir``) adds its own ``*.toml``, and an entry there replaces a shipped one of the same
name. Weights are safetensors files beside the description, named and pinned by SHA256 in it;
several files are the folds of one model.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import pkgutil
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from importlib.resources import files
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Literal, Protocol, cast

from mslesseg_app.core.errors import ModelError, UsageError
from mslesseg_app.core.files import file_sha256
from mslesseg_app.core.settings import MODALITIES, plain_name
from mslesseg_app.core.text import did_you_mean
from mslesseg_app.models.networks import NETWORKS

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from mslesseg_app.models.networks.spec import HiddenOption
    from mslesseg_app.models.prediction.prediction import Prediction

MissingPolicy = Literal['refuse', 'zero', 'ignore']

_ENGINES = 'mslesseg_app.models.engines'
LOADERS: dict[str, str] = {
    'hyperintensity': 'mslesseg_app.models.hyperintensity',
    **dict.fromkeys(NETWORKS, 'mslesseg_app.models.prediction.predictor'),
}
"""Module of each architecture. It offers ``load(entry, weights, device, *, threads, seed)``, where
`weights` is one path, several (the folds) or None."""

ENGINES = frozenset(
    module.name for module in pkgutil.iter_modules([str(Path(__file__).parent / 'engines')])
)
"""External engines: each module of `mslesseg_app.models.engines` is one. It offers ``load`` as
those of `LOADERS`, which returns an `Engine`, and ``missing(entry)``, which says what else than
weights is not on this machine."""

LOADERS |= {name: f'{_ENGINES}.{name}' for name in ENGINES}

WITHOUT_WEIGHTS = frozenset({'hyperintensity', 'command'})
"""Architectures that are complete without a weights file."""

SPACES = ('native', 'template')
"""Grids on which an external engine is given images: that of the FLAIR, or the template's."""

INPUT_OPTIONS = ('space', 'whole_head', 'memory_gb')
"""Options that every external engine has; see `ModelEntry`."""

_POLICIES = ('refuse', 'zero', 'ignore')
_NAME = re.compile(r'[A-Za-z0-9]+')
_SHA256 = re.compile(r'[0-9a-f]{64}')


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


@dataclass(frozen=True)
class ModelEntry:
    """Description of one model, as its TOML file gives it.

    Attributes
    ----------
    name : str
        Letters and digits, because file names carry it (``desc-<name>``).
    version : str
        Raised whenever the model computes something else.
    architecture : str
        A key of `LOADERS`.
    channels, required : tuple of str
        Modalities in the order of the input channels, and those it cannot do without.
    missing : {'refuse', 'zero', 'ignore'}
        What happens without one of the other modalities: an error, an empty channel (for
        networks trained with channel dropout), or a method that uses what is there.
    normalisation : str
        A method of `mslesseg_app.models.prediction.normalise`.
    threshold : float
        Probability from which a voxel is lesion.
    least_white_matter : float
        Findings with a lower mean of the template's white matter are left out
        (`mslesseg_app.models.prediction.white_matter`); 0 keeps all.
    licence : str
        SPDX name for the model and its weights.
    options : dict
        Numbers of the architecture. An external engine has these too: ``space`` (``native``, the
        default, is the grid of the FLAIR, ``template`` that of MNI152), ``whole_head`` (false
        sets everything outside the brain to zero) and ``memory_gb``.
    patch : three ints or None
        Window in voxels; None for a model that takes the whole grid.
    sampler : dict
        How windows or diffusion chains are drawn.
    weights : str, tuple of str or None
        Safetensors file, relative to the description; several are folds.
    sha256 : str, tuple of str or None
        Of that file, or of each.
    url : str, tuple of str or None
        Where ``mslesseg models fetch`` finds that file, or each.
    card : dict
        Training data, figures, date, citation.
    folders : tuple of Path
        Where weights are looked for; not part of the description.
    """

    name: str
    version: str
    architecture: str
    channels: tuple[str, ...]
    required: tuple[str, ...]
    missing: MissingPolicy
    normalisation: str
    threshold: float
    licence: str
    least_white_matter: float = 0.0
    options: dict[str, Any] = field(default_factory=dict, hash=False)
    patch: tuple[int, int, int] | None = None
    sampler: dict[str, Any] = field(default_factory=dict, hash=False)
    weights: str | tuple[str, ...] | None = None
    sha256: str | tuple[str, ...] | None = None
    url: str | tuple[str, ...] | None = None
    card: dict[str, Any] = field(default_factory=dict, hash=False)
    folders: tuple[Path, ...] = field(default=(), compare=False, repr=False)

    def __post_init__(self) -> None:
        problem = _problem(self)
        if problem:
            raise ModelError(
                f'The description of the model {self.name!r} is wrong: {problem}.',
                'Correct its TOML file.',
            )

    @property
    def description(self) -> dict[str, Any]:
        """All that the TOML file says, as plain values."""
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name != 'folders'}

    @property
    def digest(self) -> str:
        """SHA256 of the description, and through its ``sha256`` of the weights.

        Where the weights can be fetched does not count.
        """
        content = {key: value for key, value in self.description.items() if key != 'url'}
        text = json.dumps(content, sort_keys=True, separators=(',', ':'), default=str)
        return hashlib.sha256(text.encode()).hexdigest()

    @property
    def needs_weights(self) -> bool:
        """Whether this architecture is nothing without trained weights."""
        return self.architecture not in WITHOUT_WEIGHTS

    @property
    def is_engine(self) -> bool:
        """Whether this is a program of others, which prepares its input itself."""
        return self.architecture in ENGINES

    @property
    def is_native(self) -> bool:
        """Whether it is given images on the grid of the FLAIR, not of the template."""
        return self.is_engine and self.options.get('space', SPACES[0]) == 'native'

    @property
    def memory_gb(self) -> float:
        """Memory that one exam is expected to take."""
        usual = 4.0 if self.needs_weights or self.is_engine else 1.5
        return float(self.options.get('memory_gb', usual)) if self.is_engine else usual

    @property
    def members(self) -> tuple[ModelEntry, ...]:
        """One description for each fold, with one weights file; itself where there is but one."""
        if not isinstance(self.weights, tuple):
            return (self,)
        return tuple(
            replace(self, weights=name, sha256=digest, url=url) for name, digest, url in self.files
        )

    @property
    def files(self) -> tuple[tuple[str, str, str | None], ...]:
        """Name, SHA256 and URL of each weights file; empty where there is none."""
        names, digests, urls = (_several(v) for v in (self.weights, self.sha256, self.url))
        return tuple(zip(names, digests, urls or (None,) * len(names), strict=True))

    @property
    def weights_paths(self) -> tuple[Path | None, ...]:
        """Each weights file, None for one that is not on this machine."""
        return tuple(
            next((path for f in self.folders if (path := f / name).is_file()), None)
            for name, _, _ in self.files
        )

    @property
    def weights_path(self) -> Path | None:
        """The (first) weights file, or None where any is not on this machine."""
        paths = self.weights_paths
        return paths[0] if paths and None not in paths else None

    @property
    def lacks(self) -> str:
        """What is missing to run it, in words; nothing if it is ready."""
        if not self.needs_weights or self.weights_path is not None:
            return self.lacks_besides_weights
        if not self.files:
            return 'no weights'
        absent = [n for (n, _, _), p in zip(self.files, self.weights_paths, strict=True) if not p]
        return f'weights not on this machine: {", ".join(absent)}'

    @property
    def lacks_besides_weights(self) -> str:
        """What program or package of an external engine is not on this machine, in words."""
        if not self.is_engine:
            return ''
        return str(importlib.import_module(LOADERS[self.architecture]).missing(self))


def _several(value: str | tuple[str, ...] | None) -> tuple[str, ...]:
    """Return one or several values as a tuple."""
    if value is None:
        return ()
    return value if isinstance(value, tuple) else (value,)


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


def _problem(entry: ModelEntry) -> str:
    """Return the first contradiction in a description, or nothing."""
    checks = (_problem_of_identity, _problem_of_channels, _problem_of_numbers, _problem_of_weights)
    return next((text for text in (check(entry) for check in checks) if text), '')


def _problem_of_identity(entry: ModelEntry) -> str:
    for key in ('name', 'version', 'architecture', 'normalisation', 'licence'):
        if not isinstance(getattr(entry, key), str) or not getattr(entry, key):
            return f'{key} is not a text'
    if not _NAME.fullmatch(entry.name):
        return 'name may hold letters and digits only'
    if entry.architecture not in LOADERS:
        return f'architecture {entry.architecture!r} is none of {", ".join(sorted(LOADERS))}'
    for key in ('options', 'sampler', 'card'):
        if not isinstance(getattr(entry, key), Mapping):
            return f'{key} is not a table'
    return _problem_of_engine(entry) if entry.is_engine else ''


def _problem_of_engine(entry: ModelEntry) -> str:
    if entry.options.get('space', SPACES[0]) not in SPACES:
        return f'the option space is none of {", ".join(SPACES)}'
    if not isinstance(entry.options.get('whole_head', False), bool):
        return 'the option whole_head is neither true nor false'
    memory = entry.options.get('memory_gb', 1)
    if isinstance(memory, bool) or not isinstance(memory, int | float) or memory <= 0:
        return 'the option memory_gb is not a positive number'
    return ''


def _problem_of_channels(entry: ModelEntry) -> str:
    for key in ('channels', 'required'):
        names = getattr(entry, key)
        if not isinstance(names, tuple) or not set(names) <= set(MODALITIES):
            return f'{key} is not a list of {", ".join(MODALITIES)}'
        if not names or len(set(names)) < len(names):
            return f'{key} is empty or repeats itself'
    if not set(entry.required) <= set(entry.channels):
        return 'required holds a modality that is not among the channels'
    if entry.missing not in _POLICIES:
        return f'missing is none of {", ".join(_POLICIES)}'
    return ''


def _problem_of_numbers(entry: ModelEntry) -> str:
    threshold = entry.threshold
    if isinstance(threshold, bool) or not isinstance(threshold, int | float):
        return 'threshold is not a number'
    if not 0 < threshold < 1:
        return 'threshold does not lie between 0 and 1'
    least = entry.least_white_matter
    if isinstance(least, bool) or not isinstance(least, int | float) or not 0 <= least < 1:
        return 'least_white_matter is not a number from 0 to 1'
    patch = entry.patch
    if patch is not None and not (
        isinstance(patch, tuple)
        and len(patch) == 3
        and all(isinstance(edge, int) and edge > 0 for edge in patch)
    ):
        return 'patch is not three positive whole numbers'
    return ''


def _problem_of_weights(entry: ModelEntry) -> str:
    for key in ('weights', 'sha256', 'url'):
        value = getattr(entry, key)
        texts = value if isinstance(value, tuple) else (value,)
        if value is not None and not (texts and all(isinstance(t, str) for t in texts)):
            return f'{key} is not a text or a list of texts'
    names, digests, urls = (_several(v) for v in (entry.weights, entry.sha256, entry.url))
    if len(names) != len(digests):
        return 'weights and sha256 come together or not at all'
    if urls and len(urls) != len(names):
        return 'url does not name as many files as weights'
    unsaid = hidden_options(entry.architecture, entry.options) if names else {}
    if unsaid:
        key, hidden = next(iter(unsaid.items()))
        return (
            f'options.{key} does not say {hidden.meaning}, and weights of each way look the same: '
            + hidden.ways(f"{key} = '{{value}}'")
        )
    return _problem_of_files(names, digests)


def hidden_options(architecture: str, said: Mapping[str, Any]) -> dict[str, HiddenOption]:
    """Return the options of a network that weights do not show, and that are not said either."""
    spec = NETWORKS.get(architecture)
    return {key: o for key, o in spec.hidden.items() if key not in said} if spec else {}


def _problem_of_files(names: tuple[str, ...], digests: tuple[str, ...]) -> str:
    for name in names:
        path = PurePosixPath(name)
        if path.is_absolute() or '..' in path.parts or path.suffix != '.safetensors':
            return 'weights is not a .safetensors file in the folder of the description'
    if len(set(names)) < len(names):
        return 'weights repeats itself'
    if not all(_SHA256.fullmatch(digest) for digest in digests):
        return 'sha256 is not 64 hexadecimal digits'
    return ''
