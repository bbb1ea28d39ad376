"""The paper's experiment: every network, every fold, one test set, Tables 5 and 6.

A fold is a training of its own in ``NETWORK/fold-K`` with its entry in ``models``; folds can run
as separate jobs that share the output folder, and are gathered when all are there. The test
set is used once a fold, after training: no epoch, threshold or setting is chosen by it. Networks
that were trained with the preset ``paper`` are judged by the test procedure of their public code
(``exact``), the others by the App's default.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mslesseg_app.core.errors import NoInputError
from mslesseg_app.core.files import write_json
from mslesseg_app.models.entry import ModelEntry
from mslesseg_app.models.prediction.presets import DEFAULT
from mslesseg_app.models.registry import read_entry
from mslesseg_app.paper.published import METRICS
from mslesseg_app.paper.sources import read_rows
from mslesseg_app.paper.tables import folds_table, models_table
from mslesseg_app.reports.tabular import Table, write_table
from mslesseg_app.training.cases import LabelledCase
from mslesseg_app.training.experiments.publish import combine_folds
from mslesseg_app.training.experiments.scoring import RULES, evaluate_cases, write_rows
from mslesseg_app.training.experiments.train import TrainingJob, train_cases
from mslesseg_app.training.folds import Fold
from mslesseg_app.training.plan import Plan


@dataclass(frozen=True)
class CrossValidation:
    """A cross-validation.

    Attributes
    ----------
    folder : Path
        Output.
    plans : mapping of str to Plan
        By network.
    folds : tuple of Fold
    job : TrainingJob
        What the trainings share; folder, name and leaks are set for each.
    """

    folder: Path
    plans: Mapping[str, Plan]
    folds: tuple[Fold, ...]
    job: TrainingJob

    @property
    def models(self) -> Path:
        """Folder of the entries."""
        return self.job.model_dir

    @property
    def procedure(self) -> str:
        """Return the preset of inference by which the test exams are judged."""
        return 'exact' if self.job.preset == 'paper' else DEFAULT

    def place(self, network: str, fold: Fold) -> Path:
        """Return the folder of one fold's run."""
        return self.folder / network / f'fold-{fold.number}'

    def name(self, network: str, fold: Fold) -> str:
        """Return the name of one fold's entry."""
        return f'{network}fold{fold.number}'

    def table(self, network: str, fold: Fold | None, rules: str) -> Path:
        """Return the file of the evaluation of one fold, or of the ensemble."""
        which = 'ensemble' if fold is None else f'fold-{fold.number}'
        place = self.folder / network if fold is None else self.place(network, fold)
        return place / f'evaluation_rules-{rules}_{which}.tsv'


def run_fold(study: CrossValidation, network: str, fold: Fold) -> bool:
    """Train one network on one fold and judge it on the test set; False if time ran out.

    What is there already, of the same training, is not done again.
    """
    job = replace(
        study.job,
        folder=study.place(network, fold),
        name=study.name(network, fold),
        allowed=fold.leaking,
    )
    done = train_cases(study.plans[network], fold.split, job)
    if not done.complete:
        return False
    if done.entry is not None:
        _evaluate(study, network, fold, done.entry, fold.split.test)
    return True


def _evaluate(
    study: CrossValidation,
    network: str,
    fold: Fold | None,
    entry: ModelEntry,
    test: Sequence[LabelledCase],
) -> None:
    """Evaluate an entry on the test exams, unless that was done with the same weights."""
    stamp = study.table(network, fold, RULES[0]).with_suffix('.json')
    state = {
        'weights': list(_digests(entry)),
        'cases': [case.name for case in test],
        'procedure': study.procedure,
    }
    tables = [study.table(network, fold, rules) for rules in RULES]
    there = stamp.is_file() and all(path.is_file() for path in tables)
    if there and json.loads(stamp.read_text('utf-8')) == state:
        return
    from mslesseg_app.models.prediction.device import choose_device

    rows = list(
        evaluate_cases(
            entry,
            test,
            model=network if fold else f'{network} ensemble',
            fold=str(fold.number) if fold else '',
            device=choose_device(study.job.device)[0],
            threads=study.job.threads,
            seed=study.plans[network].seed,
            preset=study.procedure,
        )
    )
    for rules, path in zip(RULES, tables, strict=True):
        write_rows([row for row in rows if row['rules'] == rules], path)
    write_json(stamp, state)


def _digests(entry: ModelEntry) -> tuple[str, ...]:
    return tuple(digest for _, digest, _ in entry.files)


def missing_folds(study: CrossValidation) -> list[str]:
    """Return which folds have no evaluation yet, such as ``unetr fold 3``."""
    return [
        f'{network} fold {fold.number}'
        for network in study.plans
        for fold in study.folds
        if not all(study.table(network, fold, rules).is_file() for rules in RULES)
    ]


def gather(
    study: CrossValidation, tell: Callable[[str], None] | None = None
) -> dict[str, list[Table]]:
    """Combine the folds of each network to one model, judge it, and make Tables 5 and 6.

    Parameters
    ----------
    study : CrossValidation
    tell : callable, optional
        Told what is done.

    Returns
    -------
    dict of str to list of Table
        By rule set; also written to ``tables/RULES`` as TSV, Markdown and LaTeX.

    Raises
    ------
    NoInputError
        If a fold is missing.
    """
    absent = missing_folds(study)
    if absent:
        raise NoInputError(
            f'{len(absent)} folds are missing: {", ".join(absent)}.',
            'Run them first (--fold K), or leave a network out.',
        )
    for network in study.plans:
        if tell is not None:
            tell(f'{network}: {len(study.folds)} folds become one model')
        _ensemble(study, network)
    return {rules: _tables(study, rules) for rules in RULES}


def _ensemble(study: CrossValidation, network: str) -> ModelEntry:
    entries = [
        read_entry(study.models / f'{study.name(network, fold)}.toml') for fold in study.folds
    ]
    card: dict[str, Any] = {
        'title': f'{network}, mean of {len(entries)} folds',
        'description': f'Mean of the probabilities of {len(entries)} networks, each trained '
        'without one fold of the training patients.',
        'training_data': sorted({x for e in entries for x in e.card['training_data']}),
        'not_trained_on': [case.name for case in study.folds[0].split.test],
        'preset': study.job.preset,
        'run': hashlib.sha256(
            ' '.join(d for e in entries for d in _digests(e)).encode()
        ).hexdigest(),
        'date': max(str(entry.card['date']) for entry in entries),
        'citation': entries[0].card['citation'],
    }
    combined = combine_folds(entries, study.models, network, card)
    _evaluate(study, network, None, combined, study.folds[0].split.test)
    return combine_folds(
        entries, study.models, network, {**card, 'figures': _figures(study, network)}
    )


def _figures(study: CrossValidation, network: str) -> list[dict[str, Any]]:
    """Return mean figures of the ensemble over the test exams."""
    figures = []
    for rules in RULES:
        rows = read_rows(study.table(network, None, rules))
        means = {name: _mean([row[name] for row in rows]) for name in METRICS}
        known = {name: round(mean, 4) for name, mean in means.items() if math.isfinite(mean)}
        source = f'{len(rows)} test exams, preset {study.procedure}, rule set {rules}'
        figures.append({'source': source, **known})
    return figures


def _mean(texts: Sequence[str]) -> float:
    values = [float(text) for text in texts if text != 'n/a']
    return sum(values) / len(values) if values else math.nan


def _tables(study: CrossValidation, rules: str) -> list[Table]:
    folds = [
        row
        for network in study.plans
        for fold in study.folds
        for row in read_rows(study.table(network, fold, rules))
    ]
    joint = [
        row | {'fold': ''}
        for network in study.plans
        for row in read_rows(study.table(network, None, rules))
    ]
    notes = tuple(dict.fromkeys(note for fold in study.folds for note in fold.split.notes))
    words = (
        f'Rule set {rules}.',
        f'Trained with the preset {study.job.preset}, judged with the preset {study.procedure}.',
        *notes,
    )
    tables = [models_table([*folds, *joint], beside=True), folds_table(folds, beside=True)]
    tables = [replace(table, notes=(*table.notes, *words)) for table in tables]
    for table in tables:
        write_table(table, study.folder / 'tables' / rules)
    return tables
