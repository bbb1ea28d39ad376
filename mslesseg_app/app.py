"""One run of the App, from settings to exit code."""

from __future__ import annotations

import logging
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from .bids.dataset import check_output_folder, write_dataset_files, write_lookup
from .bids.exams import (
    Exam,
    check_dataset,
    find_exams,
    share_template,
    with_reference_notes,
)
from .bids.names import group_path
from .bids.review import (
    Review,
    current_review,
    keep_redone,
    keep_review,
    marked_exams,
)
from .bids.validation import validate
from .errors import BusyError, MSLesSegError, NothingSelectedError
from .inference.ensemble import AnyModel, choose, models_of
from .models.registry import get_entry
from .settings import Settings


def run_participants(settings: Settings, *, quiet: bool = False, dry_run: bool = False) -> int:
    """Process the selected exams.

    Parameters
    ----------
    settings : Settings
    quiet : bool
        Say nothing but errors.
    dry_run : bool
        Print what would be done, and do nothing.

    Returns
    -------
    int
        0 when every exam is done; the exit code of the failures where they agree, else 1.

    Raises
    ------
    MSLesSegError
        If the run cannot begin.
    """
    # What is wrong with a header is said once, by the exam's first node.
    logging.getLogger('nibabel.global').setLevel(logging.CRITICAL)
    entry, engine, settings = _prepare(settings)
    check_dataset(settings.bids_dir)
    if not settings.skip_bids_validation and not dry_run:
        warning = validate(settings.bids_dir)
        _say(f'Warning: {warning}' if warning else 'The input is valid BIDS.', quiet)
    review = current_review(settings)
    exams = with_reference_notes(_reviewed(find_exams(settings), review, quiet), settings)
    if dry_run:
        _print_plan(exams, settings, engine, entry)
        return _code([exam.problem for exam in exams if exam.problem])
    check_output_folder(settings.out_dir, settings.work_dir)
    keep_review(settings, review)
    with _locked(exams, settings):
        for exam in marked_exams(exams, review, 'redo'):
            _say(f'{exam.label}: computed anew, as the review asks for.', quiet)
            _forget(exam, settings)
        return _process(exams, settings, engine, entry, quiet)


def _reviewed(exams: list[Exam], review: Review, quiet: bool) -> list[Exam]:
    """Leave out the exams that the review excludes, and say so."""
    excluded = marked_exams(exams, review, 'exclude')
    for exam in excluded:
        _say(f'{exam.label}: left out, as the review asks for.', quiet)
    kept = [exam for exam in exams if exam not in excluded]
    if not kept:
        raise NothingSelectedError(
            'The review excludes every exam that was selected.',
            f'Change the marks in {group_path("review")} or in the file of --review.',
        )
    return kept


def _forget(exam: Exam, settings: Settings) -> None:
    """Remove the intermediate results of an exam, so that all of it is computed again."""
    from .workflows.names import exam_name, subject_name, top_name

    names = [exam_name(exam), *([subject_name(exam.subject)] if settings.unbiased else [])]
    for name in names:
        shutil.rmtree(settings.work_dir / top_name() / name, ignore_errors=True)


def write_reports(settings: Settings, *, quiet: bool = False) -> int:
    """Write the subject pages again from the records in the output folder."""
    from .pages import write_pages

    pages = write_pages(settings, {exam.subject for exam in find_exams(settings)})
    _say('\n'.join(f'Wrote {page}' for page in pages), quiet)
    return 0


def write_boilerplate(settings: Settings, *, quiet: bool = False) -> int:
    """Write the methods text of what these settings would do, and do nothing else."""
    from .pages import write_citation
    from .workflows.base import init_run_wf

    entry, engine, settings = _prepare(settings)
    exams = [exam for exam in find_exams(settings) if exam.problem is None]
    check_output_folder(settings.out_dir)
    workflow = init_run_wf(exams=exams, settings=settings, engine=engine, entry=entry)
    path = write_citation(settings, workflow.visit_desc())
    _say(f'Wrote {path}', quiet)
    return 0


def _prepare(settings: Settings) -> tuple[AnyModel, str, Settings]:
    """Check model, engine and device before anything is read or written."""
    import dataclasses

    from .inference.device import choose_device
    from .models.check import check_model
    from .workflows.base import choose_engine

    entry = chosen_model(settings)
    engine = choose_engine(settings)
    for model in models_of(entry):
        check_model(model)
    if settings.device != 'cpu' and (entry.needs_weights or settings.device != 'auto'):
        device, _ = choose_device(settings.device)
        if settings.device != 'auto' or device != 'cpu':
            settings = dataclasses.replace(settings, device=device)
    return entry, engine, settings


def chosen_model(settings: Settings) -> AnyModel:
    """Return the model of a run, or the ensemble of several.

    Raises
    ------
    UsageError
        For a name that does not exist, a method for one model, a combination that has no
        variance when the variance is asked for.
    """
    from .inference.prediction import no_variance
    from .inference.presets import resolve
    from .inference.run import varies

    models = [get_entry(name, settings.model_dir) for name in settings.model]
    for model in models:
        resolve(model, settings.preset)
    chosen = choose(models, settings.ensemble)
    alone = len(models) == 1 and not varies(models[0], settings.preset)
    if settings.uncertainty == 'variance' and alone:
        raise no_variance(models[0].name)
    return chosen


def _process(
    exams: list[Exam], settings: Settings, engine: str, entry: AnyModel, quiet: bool
) -> int:
    from .pages import record_failures, write_citation, write_pages
    from .workflows.base import configured_nipype, execute, init_run_wf, write_graph

    ready = [exam for exam in exams if exam.problem is None]
    _limit_threads(settings)
    write_dataset_files(settings, entry, engine)
    settings.to_toml(settings.out_dir / 'logs' / f'mslesseg-{settings.run_uuid}.toml')
    for exam in exams:
        for note in exam.notes:
            _say(f'{exam.label}: {note}', quiet)
    problems: dict[str, MSLesSegError] = {e.label: e.problem for e in exams if e.problem}
    steps: dict[str, str] = {}
    stopped: list[str] = []
    unlike: dict[str, MSLesSegError] = {}
    if ready:
        with configured_nipype(settings):
            workflow = init_run_wf(exams=ready, settings=settings, engine=engine, entry=entry)
            if settings.write_graph:
                _say(f'Wrote {write_graph(workflow, settings)}', quiet)
            write_citation(settings, workflow.visit_desc())
            failures, progress = execute(workflow, ready, settings, quiet)
        problems |= {label: failure.error for label, failure in failures.items()}
        steps = {label: failure.step for label, failure in failures.items()}
        stopped = [label for label in progress.unfinished() if label not in problems]
    record_failures(exams, problems, steps, settings, entry)
    if ready:
        unlike, seconds = ({}, {}) if stopped else _compare(exams, settings, entry, quiet)
        _keep_timings(progress.seconds | seconds, settings)
    pages = write_pages(settings, {exam.subject for exam in exams})
    for label in stopped:
        print(f'{label}: not finished, because the run was stopped.', file=sys.stderr)
    unfinished = {*problems, *stopped}
    fresh = [exam for exam in exams if exam.label not in unfinished]
    keep_redone(settings, fresh)
    done = len(exams) - len(problems) - len(stopped)
    problems |= unlike
    _explain(problems)
    _say(f'{done} of {len(exams)} exams done; results are in {settings.out_dir}', quiet)
    for page in pages:
        _say(f'  {page}', quiet)
    return _code(list(problems.values()))


def _compare(
    exams: list[Exam], settings: Settings, entry: AnyModel, quiet: bool
) -> tuple[dict[str, MSLesSegError], dict[str, float]]:
    """Compare the sessions of each subject; return what failed, and the seconds of the nodes."""
    from .lesions.change_rules import STATUS_CODES
    from .pages import extend_citation
    from .workflows.base import configured_nipype, execute_change
    from .workflows.change import init_change_wf

    subjects = {exam.subject for exam in exams if exam.session}
    workflow = init_change_wf(subjects=subjects, settings=settings, model=entry.name)
    if workflow is None:
        return {}, {}
    _say('Comparing sessions', quiet)
    write_lookup(settings.out_dir, 'change', {str(k): code for k, code in STATUS_CODES.items()})
    with configured_nipype(settings):
        extend_citation(settings, workflow.visit_desc())
        failures, seconds = execute_change(workflow, settings)
    return {f'{name}, change': one.error for name, one in failures.items()}, seconds


def _limit_threads(settings: Settings) -> None:
    """Keep numerical libraries within ``--omp-nthreads``; the workers inherit it."""
    for name in ('OMP_NUM_THREADS', 'OPENBLAS_NUM_THREADS', 'MKL_NUM_THREADS'):
        os.environ[name] = str(settings.omp_nthreads)
    os.environ['ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS'] = str(settings.omp_nthreads)
    os.environ['NIPYPE_NO_ET'] = '1'


def _keep_timings(seconds: dict[str, float], settings: Settings) -> None:
    from .files import write_text

    lines = ['node\tseconds']
    lines += [f'{name}\t{value:.2f}' for name, value in sorted(seconds.items())]
    path = settings.out_dir / 'logs' / f'mslesseg-{settings.run_uuid}_timings.txt'
    write_text(path, '\n'.join(lines) + '\n')


@contextmanager
def _locked(exams: list[Exam], settings: Settings) -> Iterator[None]:
    """Hold each exam's place in the work folder, so that two runs do not mix there."""
    from filelock import FileLock, Timeout

    folder = settings.work_dir / 'locks'
    folder.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        shared = [f'sub-{subject}' for subject in share_template(exams, settings)]
        for label in dict.fromkeys([*(exam.label for exam in exams), *shared]):
            lock = FileLock(folder / f'{label}.lock')
            try:
                stack.enter_context(lock.acquire(timeout=0))
            except Timeout as error:
                raise BusyError(
                    f'Another run is working on {label} in {settings.work_dir}.',
                    'Wait for it, or give this run another folder with -w/--work-dir.',
                ) from error
        for exam in exams:
            _remove_leftovers(exam, settings.out_dir)
        yield


def _remove_leftovers(exam: Exam, out_dir: Path) -> None:
    """Remove the temporary files that a killed run left of this exam."""
    pictures = (out_dir / f'sub-{exam.subject}' / 'figures').glob(f'.tmp-*-{exam.label}_*')
    for path in [*(out_dir / exam.folder).rglob('.tmp-*'), *pictures]:
        path.unlink(missing_ok=True)


def _print_plan(exams: list[Exam], settings: Settings, engine: str, entry: AnyModel) -> None:
    from .bids.names import expected_outputs

    print(
        f'Engine {engine}, strategy {settings.strategy}, anatomical reference '
        f'{settings.subject_anatomical_reference}, model {entry.name} {entry.version}'
    )
    for exam in exams:
        print(f'{exam.label}:')
        for modality, path in exam.images.items():
            print(f'  {modality}: {path.relative_to(settings.bids_dir)}')
        for note in exam.notes:
            print(f'  {note}')
        if exam.problem is not None:
            print(f'  cannot be processed: {exam.problem}')
            continue
        for path in expected_outputs(exam, entry.name, settings.uncertainty != 'none'):
            print(f'  -> {path}')


def _explain(problems: dict[str, MSLesSegError]) -> None:
    for label, error in problems.items():
        print(f'{label}: {error}', file=sys.stderr)
        if error.hint:
            print(f'  {error.hint}', file=sys.stderr)


def _code(problems: list[MSLesSegError]) -> int:
    codes = {problem.exit_code for problem in problems}
    return 0 if not codes else codes.pop() if len(codes) == 1 else 1


def _say(text: str, quiet: bool) -> None:
    if not quiet and text:
        print(text, flush=True)
