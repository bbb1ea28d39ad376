"""Accuracy of the masks, and models side by side, at group level."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mslesseg_app.core.errors import NoInputError
from mslesseg_app.core.settings import Settings
from mslesseg_app.group import accuracy_content, models, quality, summaries
from mslesseg_app.group import charts as plots
from mslesseg_app.group.collect import Holdings, Key
from mslesseg_app.group.evaluation import (
    CONSENSUS,
    RATER_COLUMNS,
    EvaluationOutcome,
    EvaluationTask,
    evaluate_all,
    evaluation_dictionary,
)
from mslesseg_app.group.report_parts import ReportParts
from mslesseg_app.reports.group_report import Section

if TYPE_CHECKING:
    import pandas as pd


def exam_of(key: Key) -> Key:
    return Key(key.subject, key.session)


def evaluate_masks(
    report: ReportParts, holdings: Holdings, references: dict[Key, Path]
) -> list[dict[str, Any]]:
    """Evaluate all masks of exams with a reference; return one row per model and metric."""
    named = 'manual' in report.settings.derivatives
    if not references:
        words = (
            'No exam has a reference mask. Give --derivatives manual=PATH to evaluate the masks.'
        )
        if named:
            words = f'No exam has a mask in {report.settings.derivatives["manual"]}.'
            report.codes.append(NoInputError.exit_code)
        report.said.append(words)
        report.sections.append(
            Section('accuracy', 'Agreement with the reference', warnings=(words,))
        )
        return []
    settings = report.settings
    tasks = _tasks(settings, holdings, references)
    outcomes = evaluate_all(tasks, settings.nprocs, settings.work_dir)
    problems = _problems(report, outcomes, references)
    rows = [row for outcome in outcomes for row in outcome.rows]
    if not rows:
        reasons = ('No mask could be evaluated.', *problems)
        report.sections.append(
            Section('accuracy', 'Agreement with the reference', warnings=reasons)
        )
        return []
    return _write_accuracy(
        report, rows, [row for outcome in outcomes for row in outcome.raters], problems
    )


def _tasks(
    settings: Settings, holdings: Holdings, references: dict[Key, Path]
) -> list[EvaluationTask]:
    tasks = []
    by_exam: dict[Key, dict[str, dict[str, Path]]] = {}
    for key, files in sorted(holdings.masks.items()):
        by_exam.setdefault(exam_of(key), {})[key.model] = files
    for exam, reference in sorted(references.items()):
        masks = by_exam.get(exam, {})
        row = {key: value for key, value in exam.row().items() if key != 'model'}
        soft = {model: _probabilities(files) for model, files in masks.items()}
        tasks.append(EvaluationTask(row, reference, masks, soft, settings.rules))
    return tasks


def _probabilities(files: dict[str, Path]) -> dict[str, Path]:
    """Return the probability maps beside lesion masks."""
    found = {
        space: path.with_name(path.name.replace('_mask.nii', '_probseg.nii'))
        for space, path in files.items()
    }
    return {space: path for space, path in found.items() if path.is_file()}


def _problems(
    report: ReportParts, outcomes: Sequence[EvaluationOutcome], references: dict[Key, Path]
) -> list[str]:
    problems = []
    for exam, outcome in zip(sorted(references), outcomes, strict=True):
        for model, (text, code) in outcome.problems.items():
            what = f'{exam.exam} ({model})' if model else exam.exam
            problems.append(f'{what} was not evaluated: {text}')
            report.codes.append(code)
        if not outcome.rows and not outcome.problems:
            problems.append(f'{exam.exam} was not evaluated: it has a reference, but no mask.')
    report.said += problems
    return problems


def _write_accuracy(
    report: ReportParts,
    rows: list[dict[str, Any]],
    raters: list[dict[str, Any]],
    problems: list[str],
) -> list[dict[str, Any]]:
    import pandas as pd

    seed = report.settings.random_seed
    columns = evaluation_dictionary(report.settings.rules)
    report.records('evaluation', rows, columns)
    table = pd.DataFrame(rows, columns=list(columns))
    colours = plots.palette(
        [*sorted(set(table['model']) - set(CONSENSUS.values())), *CONSENSUS.values()]
    )
    means = summaries.summary(table, seed)
    report.records('summary', means, summaries.SUMMARY_COLUMNS)
    charts = plots.metric_charts(table, means, colours)
    report.sections.append(accuracy_content.evaluation_section(table, means, charts, problems))
    chosen = summaries.compared(dict.fromkeys(row['metric'] for row in means))
    compared = summaries.comparison(table, chosen, seed)
    if compared:
        report.records('comparison', compared, summaries.COMPARISON_COLUMNS)
        report.sections.append(accuracy_content.comparison_section(compared))
    agreed = summaries.agreement(table, seed)
    report.records('agreement', agreed, summaries.AGREEMENT_COLUMNS)
    drawn = plots.volume_charts(table, agreed, colours)
    report.sections.append(accuracy_content.agreement_section(agreed, drawn))
    sized = summaries.sizes(table, seed)
    report.records('sizes', sized, summaries.SIZE_COLUMNS)
    drawn = plots.size_charts(table, sized, colours)
    report.sections.append(accuracy_content.size_section(sized, drawn, columns))
    if raters:
        report.records('raters', raters, RATER_COLUMNS)
        report.sections.append(accuracy_content.consensus_section(raters))
    return means


def compare_models(report: ReportParts, holdings: Holdings) -> list[dict[str, Any]]:
    """Compare the models of each exam with each other."""
    rows, problems = models.pair_rows(holdings)
    report.said += problems
    if rows:
        report.records('model_pairs', rows, models.PAIR_COLUMNS)
    return rows


def with_agreement(volumes: pd.DataFrame, pairs: Sequence[dict[str, Any]]) -> pd.DataFrame:
    """Add the agreement of the models to the rows of the exams that have several."""
    exams = list(zip(volumes['participant_id'], volumes['session_id'], strict=True))
    known = zip(exams, quality.numbers(volumes, 'model_agreement'), strict=True)
    agreed = {exam: float(value) for exam, value in known if math.isfinite(value)}
    agreed |= models.exam_agreement(pairs)
    return volumes.assign(model_agreement=[agreed.get(exam, math.nan) for exam in exams])


def show_models(
    report: ReportParts, means: Sequence[dict[str, Any]], pairs: Sequence[dict[str, Any]]
) -> None:
    """Show all models side by side: accuracy and cost, and how far they agree."""
    rows = models.model_rows(means, models.costs(report.settings.out_dir))
    if rows:
        report.records('models', rows, models.MODEL_COLUMNS)
    summary = models.pair_summary(pairs, report.settings.random_seed)
    if summary:
        report.records('model_agreement', summary, models.PAIR_SUMMARY_COLUMNS)
    if rows or summary:
        report.sections.append(accuracy_content.models_section(rows, summary))
