"""The description of one model, as its TOML file gives it, and what must be true of it."""

from __future__ import annotations

import hashlib
import importlib
import json
import pkgutil
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Literal

from mslesseg_app.core.errors import ModelError
from mslesseg_app.core.settings import MODALITIES
from mslesseg_app.models.networks import NETWORKS

if TYPE_CHECKING:
    from mslesseg_app.models.networks.spec import HiddenOption

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
