"""The settings of one run: a frozen dataclass, written as TOML, passed in and never global."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import MISSING, dataclass, field
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


#: Groups of options, in the order of the help.
GROUPS = {
    'filters': 'Options for filtering BIDS queries',
    'performance': 'Options to handle performance',
    'subset': 'Options for performing only a subset of the workflow',
    'workflow': 'Workflow configuration',
    'lesions': 'Options for the lesions',
    'evaluation': 'Options for the evaluation (group level)',
    'other': 'Other options',
}


def option(
    group: str,
    *flags: str,
    help: str,  # noqa: A002 - as argparse has it
    default: Any = MISSING,
    default_factory: Any = MISSING,
    **how: Any,
) -> Any:
    """Define a setting together with its option of the command line.

    Parameters
    ----------
    group : str
        Of `GROUPS`.
    *flags : str
        Spellings; that of the field's name when none is given.
    help : str
        What the option does; it documents the setting too.
    default, default_factory
        As in `dataclasses.field`.
    **how
        ``kind``: name of a reader in `cli.parsing`, with its limits; ``variable`` of the
        environment that gives the default; ``shown``: default of the option where it differs;
        ``metavar``, ``choices`` and ``nargs`` as argparse has them, where the type of the field
        does not tell.
    """
    metadata = {'group': group, 'flags': flags, 'help': help, **how}
    return field(default=default, default_factory=default_factory, metadata=metadata)


@dataclass(frozen=True)
class Settings:
    """Everything that the command line decides about one run; the options document it.

    Attributes
    ----------
    bids_dir, out_dir : Path
        Input dataset and output dataset.
    run_uuid, command : str
        Of this run.
    """

    bids_dir: Path
    out_dir: Path
    work_dir: Path = option(
        'other',
        '-w',
        '--work-dir',
        '--work_dir',
        shown=Path('work'),
        metavar='DIR',
        help='Folder of intermediate results; keep it, and a second run recomputes nothing '
        '(default: ./work).',
    )
    skip_bids_validation: bool = option(
        'filters',
        '--skip-bids-validation',
        '--skip_bids_validation',
        '--skip-bids-validator',
        '--skip_bids_validator',
        default=False,
        help='Assume the input dataset is BIDS compliant and skip the validation.',
    )
    participants: tuple[str, ...] = option(
        'filters',
        '--participant-label',
        '--participant_label',
        default=(),
        kind='sub-',
        metavar='LABEL',
        help='Participant labels, separated by spaces, or a text file with one label per line '
        '(with or without sub-).',
    )
    sessions: tuple[str, ...] = option(
        'filters',
        '--session-label',
        '--session_label',
        '--session-id',
        default=(),
        kind='ses-',
        metavar='LABEL',
        help='The same for sessions (the ses- prefix can be removed).',
    )
    bids_filters: dict[str, dict[str, Any]] = option(
        'filters',
        '--bids-filter-file',
        default_factory=dict,
        kind='filters',
        metavar='FILE',
        help='A JSON file describing custom BIDS input filters using PyBIDS, by modality (flair, '
        't1w, t2w); null asks for the absence of an entity, "*" for any value.',
    )
    derivatives: dict[str, Path] = option(
        'filters',
        '-d',
        '--derivatives',
        default_factory=dict,
        kind='package_path',
        metavar='PACKAGE=PATH',
        nargs='+',
        help='Search PATH(s) for pre-computed derivatives. manual=PATH holds reference lesion '
        'masks: accuracy is then written to the metrics tables. edited=PATH holds lesion masks '
        'that you corrected: they replace the masks of the model.',
    )
    review: Path | None = option(
        'filters',
        default=None,
        metavar='FILE',
        help='Marks of the exams as the group report saves them, beside group_review.tsv in the '
        'output folder: redo computes an exam anew, exclude leaves it out.',
    )
    bids_database_dir: Path | None = option(
        'filters',
        default=None,
        metavar='DIR',
        help='Folder of a PyBIDS database, for quick indexing of large datasets.',
    )
    nprocs: int = option(
        'performance',
        '--nprocs',
        '--nthreads',
        '--n-cpus',
        '--n_cpus',
        default=1,
        shown=None,
        kind='count',
        metavar='N',
        help='Maximum number of threads across all processes (default: all).',
    )
    omp_nthreads: int = option(
        'performance',
        '--omp-nthreads',
        '--omp_nthreads',
        default=1,
        shown=None,
        kind='count',
        metavar='N',
        help='Maximum number of threads per process (default: one less than --nprocs, at most 8).',
    )
    mem_gb: float | None = option(
        'performance',
        '--mem',
        '--mem-mb',
        '--mem_mb',
        default=None,
        kind='memory_gb',
        metavar='SIZE',
        help='Upper bound memory limit, such as 8G or 1.5G; a bare number is in MB.',
    )
    device: str = option(
        'performance',
        default='auto',
        kind='device',
        metavar='{auto,cpu,cuda[:N]}',
        help='Where networks run; auto uses a GPU that works, else the CPU (default: auto).',
    )
    engine: Engine = option(
        'workflow',
        default='auto',
        help='Alignment and brain extraction: fsl (FLIRT and BET) or builtin; auto uses fsl '
        'where it is installed (default: auto).',
    )
    strategy: Strategy = option(
        'workflow',
        default='anchored',
        help='anchored: one image to the template, the others to it; independent: each image to '
        'the template by 12 DOF, as in the MSLesSeg paper (default: anchored).',
    )
    subject_anatomical_reference: SubjectReference = option(
        'workflow',
        '--subject-anatomical-reference',
        '--subject_anatomical_reference',
        default='sessionwise',
        help='sessionwise: each session is aligned on its own; unbiased: the sessions of a '
        'participant are aligned through a template made of all of them, so that change between '
        'sessions is not change of alignment (default: sessionwise).',
    )
    on_failed_alignment: OnFailedAlignment = option(
        'workflow',
        default='stop',
        help='What to do with an exam whose alignment cannot be trusted: stop it, or go on with '
        'a red box in its report (default: stop).',
    )
    require: tuple[str, ...] = option(
        'workflow',
        default=('FLAIR',),
        metavar='MODALITY',
        choices=('FLAIR', 'T1w', 'T2w', 'flair', 't1w', 't2w'),
        help='Modalities without which an exam is refused (default: FLAIR).',
    )
    ignore: tuple[str, ...] = option(
        'workflow',
        default=(),
        choices=('t1w', 't2w', 'bias-correction'),
        help='Aspects of the input or of the processing to leave out.',
    )
    random_seed: int = option(
        'workflow',
        default=1,
        kind='seed',
        metavar='N',
        help='Seed of everything that draws random numbers (default: 1).',
    )
    model: tuple[str, ...] = option(
        'lesions',
        default=(DEFAULT_MODEL,),
        metavar='NAME',
        help='Model of the registry; see "mslesseg models list" (default: '
        f'{DEFAULT_MODEL}). '
        'Several are combined, see --ensemble.',
    )
    ensemble: EnsembleMethod | None = option(
        'lesions',
        default=None,
        help='How several models are combined: mean of their probabilities, majority vote or '
        "STAPLE (default: mean). Results carry this name instead of a model's.",
    )
    preset: Literal['fast', 'exact'] = option(
        'lesions',
        default='fast',
        help='exact: inference settings of the publication; fast: nearly the same mask in a '
        'fraction of the time (default: fast).',
    )
    uncertainty: Literal['none', 'entropy', 'variance'] = option(
        'lesions',
        default='none',
        help='Write an uncertainty map, and its mean per lesion: entropy of the probability, or '
        'its variance over diffusion chains, flips, folds or models (default: none).',
    )
    model_dir: Path | None = option(
        'lesions',
        default=None,
        variable='MSLESSEG_MODEL_DIR',
        metavar='DIR',
        help='A folder with models of your own (default: $MSLESSEG_MODEL_DIR).',
    )
    threshold: float | None = option(
        'lesions',
        default=None,
        kind='number(0.001, 1)',
        metavar='P',
        help="Probability at and above which a voxel is lesion (default: the model card's).",
    )
    min_lesion_volume: float = option(
        'lesions',
        default=3.0,
        kind='number(0)',
        metavar='MM3',
        help='Smallest lesion that is kept, in mm³ on the native grid (default: 3).',
    )
    connectivity: Literal[6, 18, 26] = option(
        'lesions', default=6, help='Neighbours that make voxels one lesion (default: 6).'
    )
    longitudinal: Literal['joint', 'independent'] = option(
        'lesions',
        default='joint',
        help='joint: sessions of a participant are also segmented together, in files of their '
        'own; independent: each session alone (default: joint).',
    )
    change_threshold: float = option(
        'lesions',
        default=5.0,
        kind='number(0)',
        metavar='SD',
        help='Difference between the FLAIRs of two sessions, in standard deviations, that a '
        'change reaches at its strongest voxel (default: 5).',
    )
    change_extent: float = option(
        'lesions',
        default=3.0,
        kind='number(0)',
        metavar='SD',
        help='Difference down to which a change extends from there (default: 3).',
    )
    min_change_volume: float = option(
        'lesions',
        default=15.0,
        kind='number(0)',
        metavar='MM3',
        help='Smallest change between sessions, in mm³ (default: 15).',
    )
    rules: str = option(
        'evaluation',
        default='mslesseg',
        choices=('mslesseg', 'isbi2015', 'msseg2016', 'mslesseg-official'),
        help='Rule set by which masks are compared with reference masks; it changes no mask '
        '(default: mslesseg).',
    )
    discard_intermediates: bool = option(
        'other',
        default=False,
        help='Remove the intermediate results of each exam from the work folder as soon as the '
        'exam is finished. A second run with the same settings still leaves it as it is; with '
        'other settings all of it is computed again (default: keep them).',
    )
    write_graph: bool = option(
        'other', default=False, help='Write the workflow graph of an exam to logs/.'
    )
    write_provenance: bool = option(
        'other', default=False, help="Write Nipype's W3C PROV record of the run to logs/."
    )
    resource_monitor: bool = option(
        'other', default=False, help="Record each node's time and memory."
    )
    stop_on_first_crash: bool = option(
        'other',
        default=False,
        help='Stop everything when one exam fails, instead of finishing the others.',
    )
    offline: bool = option(
        'other',
        default=False,
        variable='MSLESSEG_OFFLINE',
        help='Refuse every download (default: $MSLESSEG_OFFLINE). Nothing is downloaded without '
        'being asked for either way.',
    )
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
        """What results are named after: the model, or the method that combines several."""
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
            item.name: _toml_value(value)
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


def _toml_value(value: Any) -> Any:
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, tuple):
        return list(value)
    if isinstance(value, dict):
        # TOML knows no null: PyBIDS' "no such entity" is written as an empty list.
        return {key: [] if item is None else _toml_value(item) for key, item in value.items()}
    return value
