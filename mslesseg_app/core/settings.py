"""The settings of one run: a frozen dataclass, written as TOML, passed in and never global."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

Engine = Literal['auto', 'fsl', 'builtin']
Strategy = Literal['anchored', 'independent']
SubjectReference = Literal['sessionwise', 'unbiased']
OnFailedAlignment = Literal['stop', 'flag']
EnsembleMethod = Literal['mean', 'majority', 'staple']

#: Modalities in the order in which channels, files and tables list them.
MODALITIES = ('FLAIR', 'T1w', 'T2w')

#: Model of the registry that is taken where none is named.
DEFAULT_MODEL = 'unet'


@dataclass(frozen=True)
class Settings:
    """Everything that the command line decides about one run.

    Attributes
    ----------
    bids_dir, out_dir, work_dir : Path
        Input dataset, output dataset and the folder of intermediate results.
    participants, sessions : tuple of str
        Labels without ``sub-`` and ``ses-``; empty means all.
    model : tuple of str
        Names in the registry; a single name is taken as a tuple of one.
    ensemble : {'mean', 'majority', 'staple'} or None
        How several models are combined; None takes the mean.
    preset : {'fast', 'exact'}
        How thoroughly networks are asked.
    uncertainty : {'none', 'entropy', 'variance'}
        Which uncertainty map is written.
    min_lesion_volume : float
        Smallest lesion that is kept, in mm³ on the native FLAIR grid.
    rules : str
        Rule set by which the group level evaluates masks against references.
    review : Path or None
        Table of marks (accept, redo, exclude) beside the one in the output folder.
    threshold : float or None
        Probability at and above which a voxel is lesion; None takes the model card's.
    longitudinal : {'joint', 'independent'}
        Whether finished sessions of a participant are also segmented together.
    change_threshold, change_extent : float
        Difference of two FLAIRs (standard deviations) that a change reaches somewhere, and
        down to which it extends from there.
    min_change_volume : float
        Smallest change between sessions, in mm³.
    mem_gb : float or None
        Upper bound of memory in GB; None takes 90 % of the machine's.
    discard_intermediates : bool
        Remove the intermediate results of each exam when it is finished.
    """

    bids_dir: Path
    out_dir: Path
    work_dir: Path
    participants: tuple[str, ...] = ()
    sessions: tuple[str, ...] = ()
    bids_filters: dict[str, dict[str, Any]] = field(default_factory=dict)
    derivatives: dict[str, Path] = field(default_factory=dict)
    bids_database_dir: Path | None = None
    skip_bids_validation: bool = False
    model: tuple[str, ...] = (DEFAULT_MODEL,)
    ensemble: EnsembleMethod | None = None
    preset: Literal['fast', 'exact'] = 'fast'
    uncertainty: Literal['none', 'entropy', 'variance'] = 'none'
    model_dir: Path | None = None
    engine: Engine = 'auto'
    strategy: Strategy = 'anchored'
    subject_anatomical_reference: SubjectReference = 'sessionwise'
    on_failed_alignment: OnFailedAlignment = 'stop'
    require: tuple[str, ...] = ('FLAIR',)
    ignore: tuple[str, ...] = ()
    threshold: float | None = None
    min_lesion_volume: float = 3.0
    connectivity: Literal[6, 18, 26] = 6
    device: str = 'auto'
    rules: str = 'mslesseg'
    longitudinal: Literal['joint', 'independent'] = 'joint'
    change_threshold: float = 5.0
    change_extent: float = 3.0
    min_change_volume: float = 15.0
    review: Path | None = None
    random_seed: int = 1
    nprocs: int = 1
    omp_nthreads: int = 1
    mem_gb: float | None = None
    discard_intermediates: bool = False
    stop_on_first_crash: bool = False
    resource_monitor: bool = False
    write_graph: bool = False
    write_provenance: bool = False
    offline: bool = False
    run_uuid: str = ''
    command: str = ''

    def __post_init__(self) -> None:
        object.__setattr__(self, 'model', _names(self.model))

    @property
    def bias_correction(self) -> bool:
        """Whether N4 runs: never in ``independent``, which is the paper's procedure."""
        return 'bias-correction' not in self.ignore and self.strategy != 'independent'

    @property
    def result_name(self) -> str:
        """What results are named after: the model, or the method that joins several."""
        return result_name(self.model, self.ensemble)

    @property
    def unbiased(self) -> bool:
        """Whether the sessions of a subject share a within-subject template."""
        return self.subject_anatomical_reference == 'unbiased'

    @property
    def modalities(self) -> tuple[str, ...]:
        """The modalities to look for, those of ``ignore`` left out."""
        ignored = {name.lower() for name in self.ignore}
        return tuple(name for name in MODALITIES if name.lower() not in ignored)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values that TOML can hold; what is None is left out."""
        return {
            item.name: _plain(value)
            for item in dataclasses.fields(self)
            if (value := getattr(self, item.name)) is not None
        }

    def to_toml(self, path: Path) -> None:
        """Write the settings as TOML."""
        import tomli_w

        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(tomli_w.dumps(self.to_dict()), encoding='utf-8')


def result_name(models: Sequence[str], ensemble: str | None) -> str:
    """Return what results of these models are named after; see `Settings.result_name`."""
    return models[0] if len(models) == 1 else ensemble or 'mean'


def plain_name(name: str) -> str:
    """Return a model's name without hyphens and underscores, which file names cannot carry."""
    return name.replace('-', '').replace('_', '')


def _names(value: Any) -> tuple[str, ...]:
    return tuple(map(plain_name, (value,) if isinstance(value, str) else value))


def _plain(value: Any) -> Any:
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, tuple):
        return list(value)
    if isinstance(value, dict):
        # TOML knows no null: PyBIDS' "no such entity" is written as an empty list.
        return {key: [] if item is None else _plain(item) for key, item in value.items()}
    return value
