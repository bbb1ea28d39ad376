"""Scripts for SLURM: one participant per task, the group level after all of them."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mslesseg_app import __version__
from mslesseg_app.core.errors import OutputError, UsageError
from mslesseg_app.core.files import write_text
from mslesseg_app.deploy.hpc.resources import JobResources

#: In the first lines of each script, so that nothing else is ever overwritten.
MARK = '# Written by mslesseg'
#: Folder and group job of a run that has only hundreds of exams; both can be changed.
GROUP = JobResources(cpus=2, memory_mb=4096, minutes=60)

_WORD = re.compile(r'[A-Za-z0-9][A-Za-z0-9_.@+:=/-]*')
_NAMED = re.compile(r'\$(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?P<rest>(/[A-Za-z0-9._-]+)*)')
_WIDTH = 95


@dataclass(frozen=True)
class Site:
    """What a cluster wants to hear.

    Attributes
    ----------
    partition, account, qos, constraint : str
        As in the options of ``sbatch``; empty for none.
    setup : tuple of str
        Lines of shell that come first, such as ``module load apptainer``.
    block : int
        Tasks of one array: a site's ``MaxArraySize`` less one at most.
    limit : int
        Tasks that run at the same time; 0 for no limit.
    """

    partition: str = ''
    account: str = ''
    qos: str = ''
    constraint: str = ''
    setup: tuple[str, ...] = ()
    block: int = 1000
    limit: int = 0


@dataclass(frozen=True)
class ArrayJob:
    """Everything that the scripts say.

    Attributes
    ----------
    bids_dir, out_dir : Path
        Absolute.
    labels : tuple of str
        Participants, in the order of the tasks.
    resources, group : JobResources
        Of one task, and of the group level.
    site : Site
    program : tuple of str
        Words that start the App without a container.
    image : Path or None
        Apptainer image, absolute; then ``program`` is not used.
    bound : tuple of Path
        Further folders and files that the container must see, absolute.
    options : tuple of str
        Of the App, paths in them absolute.
    work_dir : Path or None
        A shared folder that keeps the work of each participant; None for scratch.
    scratch : str
        Folder of the node for the work, or a variable that names it (``$TMPDIR``); empty
        for ``$SLURM_TMPDIR``, else ``$TMPDIR``, else ``/tmp``.
    restarts : int
        How often a task that ends with 75 starts again.
    """

    bids_dir: Path
    out_dir: Path
    labels: tuple[str, ...]
    resources: JobResources
    group: JobResources
    site: Site
    program: tuple[str, ...]
    image: Path | None = None
    bound: tuple[Path, ...] = ()
    options: tuple[str, ...] = ()
    work_dir: Path | None = None
    scratch: str = ''
    restarts: int = 3


def render(job: ArrayJob) -> dict[str, str]:
    """Return the text of each script by its file name.

    Raises
    ------
    UsageError
        For a word that the scheduler, or a path that a script or the container, cannot take.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    check(job)
    environment = Environment(
        loader=PackageLoader(__package__),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        comment_start_string='<#',  # '{#' is shell
        comment_end_string='#>',
        autoescape=False,  # shell, not HTML; the filter `quote` is used instead
    )
    environment.filters['quote'] = lambda value: shlex.quote(str(value))
    known = {
        'job': job,
        'site': job.site,
        'version': __version__,
        'mark': MARK,
        'scratch': scratch_expression(job.scratch),
        'labels': _wrapped(job.labels),
    }
    names = ('participant.sbatch', 'group.sbatch', 'submit.sh')
    return {name: environment.get_template(f'{name}.j2').render(known) for name in names}


def write_scripts(job: ArrayJob, folder: Path) -> list[Path]:
    """Write the scripts and the folder of their logs.

    Parameters
    ----------
    job : ArrayJob
    folder : Path
        Made if it does not exist. Earlier scripts of ours in it are replaced.

    Raises
    ------
    UsageError
        If the folder lies within one of the datasets.
    OutputError
        If a file of the same name is not ours, or the folder cannot be written.
    """
    for dataset in (job.bids_dir, job.out_dir):
        if folder.resolve().is_relative_to(dataset.resolve()):
            raise UsageError(
                f'The folder of the scripts, {folder}, lies within the dataset {dataset}.',
                'Choose another with --scripts.',
            )
    texts = render(job)
    paths = {folder / name: text for name, text in texts.items()}
    for path in paths:
        if path.exists() and not _is_ours(path):
            raise OutputError(
                f'{path} exists and was not written by mslesseg.',
                'Choose another folder with --scripts.',
            )
    for path, text in paths.items():
        write_text(path, text)
    (folder / 'logs').mkdir(exist_ok=True)
    return list(paths)


def check(job: ArrayJob) -> None:
    """Refuse what would not arrive as it was meant.

    Raises
    ------
    UsageError
    """
    words = {
        '--partition': job.site.partition,
        '--account': job.site.account,
        '--qos': job.site.qos,
        '--constraint': job.site.constraint,
        '--gpu': job.resources.gpu,
    }
    for option, word in words.items():
        if word and not _WORD.fullmatch(word):
            raise UsageError(f'{option} {word!r} is not a word that SLURM takes.')
    paths = [job.bids_dir, job.out_dir, *job.bound]
    paths += [path for path in (job.image, job.work_dir) if path is not None]
    for path in paths:
        check_path(path, contained=job.image is not None)
    for text in (*job.options, *job.program):
        if not text.isprintable():
            raise UsageError(f'{text!r} has a character that no script should have.')
    if any(not line.isprintable() for line in job.site.setup):
        raise UsageError('--setup takes one line; give it again for another.')


def check_path(path: Path, *, contained: bool) -> None:
    """Refuse paths that logs, scripts or ``apptainer --bind`` would tear apart.

    Raises
    ------
    UsageError
    """
    if not str(path).isprintable():
        raise UsageError(
            f'The path {str(path)!r} has a character that cannot be printed.',
            'Give the folder another name, or use a symbolic link.',
        )
    if contained and re.search(r'[:,]', str(path)):
        raise UsageError(
            f'Apptainer cannot bind {path}: colons and commas separate its arguments.',
            'Use a symbolic link without them.',
        )


def scratch_expression(scratch: str) -> str:
    """Return the scratch folder as a word of shell.

    Examples
    --------
    >>> scratch_expression('$LOCAL/jobs'), scratch_expression('/scratch/my jobs')
    ('"${LOCAL:?}"/jobs', "'/scratch/my jobs'")

    Raises
    ------
    UsageError
        For a relative path, or a variable in another place than the first.
    """
    if not scratch:
        return '"${SLURM_TMPDIR:-${TMPDIR:-/tmp}}"'
    if match := _NAMED.fullmatch(scratch):
        return f'"${{{match["name"]}:?}}"{match["rest"]}'
    if not scratch.startswith('/') or not scratch.isprintable():
        raise UsageError(
            f'--scratch {scratch!r} is no absolute path.',
            "Give one, or a variable that the node sets: --scratch '$LOCAL_SCRATCH'.",
        )
    return shlex.quote(scratch)


def _is_ours(path: Path) -> bool:
    try:
        return MARK in path.read_text(encoding='utf-8', errors='replace')[:4000]
    except OSError:
        return False


def _wrapped(labels: Sequence[str]) -> list[str]:
    """Fill lines with labels; they hold letters, digits and ``+`` only."""
    lines = ['']
    for label in labels:
        if lines[-1] and len(lines[-1]) + len(label) + 1 > _WIDTH:
            lines.append('')
        lines[-1] += f' {label}' if lines[-1] else label
    return lines
