"""One run of the App, from settings to exit code."""

from __future__ import annotations

import logging
import os
import shutil
import sys
from typing import Any

from mslesseg_app.bids.dataset import check_output_folder, write_dataset_files
from mslesseg_app.bids.exam import Exam
from mslesseg_app.bids.exams import check_dataset, find_exams, share_template, with_reference_notes
from mslesseg_app.bids.names import group_path
from mslesseg_app.bids.review import Review, current_review, keep_redone, keep_review, marked_exams
from mslesseg_app.bids.validation import validate
from mslesseg_app.core.errors import MSLesSegError, NoInputError, NothingSelectedError
from mslesseg_app.core.files import check_temporary_folder
from mslesseg_app.core.settings import Settings
from mslesseg_app.models.prediction.ensemble import AnyModel, choose, models_of
from mslesseg_app.models.registry import get_entry


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
    from mslesseg_app.participant.locks import check_free, locked

    # What is wrong with a header is reported once, by the exam's first node.
    logging.getLogger('nibabel.global').setLevel(logging.CRITICAL)
    entry, engine, settings = _prepare(settings, begin=not dry_run)
    check_dataset(settings.bids_dir)
    if not settings.skip_bids_validation and not dry_run:
        warning = validate(settings.bids_dir)
        _print_unless_quiet(
            f'Warning: {warning}' if warning else 'The input is valid BIDS.', quiet
        )
    review = current_review(settings)
    exams = with_reference_notes(_reviewed(find_exams(settings), review, quiet), settings)
    if dry_run:
        _print_plan(exams, settings, engine, entry)
        return _code([exam.problem for exam in exams if exam.problem])
    check_output_folder(settings.out_dir, settings.work_dir)
    keep_review(settings, review)
    check_free(exams, settings)
    for exam in marked_exams(exams, review, 'redo'):
        _print_unless_quiet(f'{exam.label}: computed anew, as the review asks for.', quiet)
        with locked([exam], settings):
            _forget(exam, settings)
    return _process(exams, settings, engine, entry, quiet)


def _reviewed(exams: list[Exam], review: Review, quiet: bool) -> list[Exam]:
    """Leave out the exams that the review excludes, and say so."""
    excluded = marked_exams(exams, review, 'exclude')
    for exam in excluded:
        _print_unless_quiet(f'{exam.label}: left out, as the review asks for.', quiet)
    kept = [exam for exam in exams if exam not in excluded]
    if not kept:
        raise NothingSelectedError(
            'The review excludes every exam that was selected.',
            f'Change the marks in {group_path("review")} or in the file of --review.',
        )
    return kept


def _forget(exam: Exam, settings: Settings) -> None:
    """Remove the intermediate results of an exam, so that all of it is computed again."""
    from mslesseg_app.bids.workflow_names import exam_name, subject_name, top_name
    from mslesseg_app.participant import finished

    for name in (exam.label, f'sub-{exam.subject}_shared'):
        finished.forget(settings, name)
    names = [exam_name(exam), *([subject_name(exam.subject)] if settings.unbiased else [])]
    for name in names:
        shutil.rmtree(settings.work_dir / top_name() / name, ignore_errors=True)


def write_reports(settings: Settings, *, quiet: bool = False) -> int:
    """Write the participant reports again from the records in the output folder.

    Raises
    ------
    NoInputError
        If there is no record of any of them.
    """
    from mslesseg_app.reports.writing import write_reports

    reports = write_reports(settings, {exam.subject for exam in find_exams(settings)})
    if not reports:
        raise NoInputError(
            f'{settings.out_dir} holds no finished exam of these participants.',
            'Run the participant level first, without --reports-only.',
        )
    _print_unless_quiet('\n'.join(f'Wrote {report}' for report in reports), quiet)
    return 0


def write_boilerplate(settings: Settings, *, quiet: bool = False) -> int:
    """Write the methods text of what these settings would do, and do nothing else."""
    from mslesseg_app.participant.workflows.base import init_run_wf
    from mslesseg_app.reports.writing import write_citation

    entry, engine, settings = _prepare(settings)
    exams = [exam for exam in find_exams(settings) if exam.problem is None]
    check_output_folder(settings.out_dir)
    described = examples(exams, settings)
    workflow = init_run_wf(exams=described, settings=settings, engine=engine, entry=entry)
    path = write_citation(settings, workflow.visit_desc())
    _print_unless_quiet(f'Wrote {path}', quiet)
    return 0


def _prepare(settings: Settings, *, begin: bool = False) -> tuple[AnyModel, str, Settings]:
    """Check model, engine and device before anything is read or written.

    With `begin`, what workers share is loaded meanwhile.
    """
    import dataclasses

    from mslesseg_app.models.check import check_model
    from mslesseg_app.models.prediction.device import choose_device, may_have_gpu
    from mslesseg_app.participant.workflows.preload import begin_loading

    check_temporary_folder()
    entry = chosen_model(settings)
    if begin:
        _limit_threads(settings)
        begin_loading(network=any(model.needs_weights for model in models_of(entry)))
    from mslesseg_app.participant.workflows.base import choose_engine

    engine = choose_engine(settings)
    for model in models_of(entry):
        check_model(model)
    uses_device = any(model.needs_weights or model.is_engine for model in models_of(entry))
    if settings.device == 'auto':
        uses_device = uses_device and may_have_gpu()
    if settings.device != 'cpu' and (uses_device or settings.device != 'auto'):
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
    from mslesseg_app.models.prediction.prediction import no_variance
    from mslesseg_app.models.prediction.presets import resolve
    from mslesseg_app.models.prediction.segment import varies

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
    from mslesseg_app.participant.batch import Batch

    write_dataset_files(settings, entry, engine)
    settings.to_toml(settings.out_dir / 'logs' / f'mslesseg-{settings.run_uuid}.toml')
    for exam in exams:
        for note in exam.notes:
            _print_unless_quiet(f'{exam.label}: {note}', quiet)
    methods = _write_methods(exams, settings, engine, entry, quiet)
    outcome = Batch(exams, settings, engine, entry, quiet, methods).run()
    for label in outcome.stopped:
        print(f'{label}: not finished, because the run was stopped.', file=sys.stderr)
    unfinished = {*outcome.problems, *outcome.stopped}
    fresh = [exam for exam in exams if exam.label not in unfinished]
    keep_redone(settings, fresh)
    problems = outcome.problems | outcome.others
    _explain(problems)
    _print_unless_quiet(
        f'{len(fresh)} of {len(exams)} exams done; results are in {settings.out_dir}', quiet
    )
    for report in outcome.reports:
        _print_unless_quiet(f'  {report}', quiet)
    return _code(list(problems.values()))


def _write_methods(
    exams: list[Exam], settings: Settings, engine: str, entry: AnyModel, quiet: bool
) -> str:
    """Write the methods text, and the graph of an exam where it is asked for; return the text."""
    from mslesseg_app.participant.workflows.base import configured_nipype, init_run_wf, write_graph
    from mslesseg_app.reports.writing import write_citation

    ready = [exam for exam in exams if exam.problem is None]
    if not ready:
        return ''
    described = examples(ready, settings)
    workflow = init_run_wf(exams=described, settings=settings, engine=engine, entry=entry)
    text: str = workflow.visit_desc()
    write_citation(settings, text)
    if settings.write_graph:
        unit = share_template(described, settings).get(described[0].subject, described[:1])
        first = init_run_wf(exams=unit, settings=settings, engine=engine, entry=entry)
        with configured_nipype(settings):
            _print_unless_quiet(f'Wrote {write_graph(first, settings)}', quiet)
    return text


def examples(exams: list[Exam], settings: Settings) -> list[Exam]:
    """Return one exam of each kind, which is all that a methods text tells apart.

    Exams that share a within-subject template count as one kind, with one subject for all.
    """
    found: dict[Any, list[Exam]] = {}
    sharing = share_template(exams, settings)
    for exam in exams:
        group = sharing.get(exam.subject, [])
        alone = exam not in group
        kind = (tuple(exam.images), exam.registered, bool(exam.edited), bool(exam.reference))
        found.setdefault((kind, alone), [exam] if alone else group)
    return list({exam.label: exam for group in found.values() for exam in group}.values())


def _limit_threads(settings: Settings) -> None:
    """Keep numerical libraries within ``--omp-nthreads``; the workers inherit it."""
    for name in ('OMP_NUM_THREADS', 'OPENBLAS_NUM_THREADS', 'MKL_NUM_THREADS'):
        os.environ[name] = str(settings.omp_nthreads)
    os.environ['ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS'] = str(settings.omp_nthreads)
    os.environ['NIPYPE_NO_ET'] = '1'


def _print_plan(exams: list[Exam], settings: Settings, engine: str, entry: AnyModel) -> None:
    from mslesseg_app.bids.names import expected_outputs

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


def _print_unless_quiet(text: str, quiet: bool) -> None:
    if not quiet and text:
        print(text, flush=True)
