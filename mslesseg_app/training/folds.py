"""Folds for cross-validation: those of the paper's Table 4, or even ones by patient."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mslesseg_app.core.errors import DataError, UsageError
from mslesseg_app.training.cases import LabelledCase, Split

FIRST_TEST_PATIENT = 54
"""Of the release; the paper says 54 to 77, the release has 54 to 75."""

Ranges = tuple[tuple[int, int], ...]

TABLE_4: tuple[tuple[Ranges, Ranges], ...] = (
    (((1, 43),), ((44, 53),)),
    (((1, 33), (44, 53)), ((34, 43),)),
    (((1, 23), (34, 53)), ((24, 33),)),
    (((1, 13), (23, 53)), ((14, 23),)),
    (((11, 53),), ((1, 10),)),
)
"""Patients of training and of validation in each fold, as the paper prints them. Patient 23 is on
both sides of fold 4, and patients 11 to 13 are in no validation set."""

_PRINTED = (
    'Fold 4 has patient 23 in training and in validation, as the paper prints it; its validation '
    'figures flatter.'
)
_CORRECTED = (
    'Fold 4 trains on patients 1-13 and 24-53: the paper prints 23-53, with 23 validated too.'
)
_UNUSED = 'Patients 11 to 13 are validated in no fold, as in the paper.'

SCHEMES = ('table4', 'table4-printed', 'even')


@dataclass(frozen=True)
class Fold:
    """One fold.

    Attributes
    ----------
    number : int
        From 1.
    split : Split
    leaking : tuple of str
        Persons on both sides because the paper has them so.
    """

    number: int
    split: Split
    leaking: tuple[str, ...] = ()


def make_folds(
    cases: Sequence[LabelledCase], scheme: str = 'table4', count: int = 5, seed: int = 1
) -> list[Fold]:
    """Divide cases into folds, all exams of a patient together.

    Parameters
    ----------
    cases : sequence of LabelledCase
        Test cases (`LabelledCase.split` is ``test``, or without one the number of the patient is
        54 or more in the schemes of the paper) are in no fold; every fold has them as its test.
    scheme : {'table4', 'table4-printed', 'even'}
        Table 4 with patient 23 out of the training of fold 4, or as printed; or `count` folds of
        nearly as many patients each, drawn by `seed`.
    count : int
        Of even folds.
    seed : int

    Raises
    ------
    UsageError
        For an unknown scheme, or more folds than patients.
    DataError
        If patients have no number, or a fold has nothing to train or to validate on.
    """
    if scheme not in SCHEMES:
        raise UsageError(f'There are no folds {scheme!r}.', f'Choose: {", ".join(SCHEMES)}.')
    paper = scheme != 'even'
    test = tuple(case for case in cases if _is_test(case, paper))
    rest = [case for case in cases if not _is_test(case, paper)]
    return _table_4(rest, test, scheme) if paper else _even(rest, test, count, seed)


def _is_test(case: LabelledCase, by_number: bool) -> bool:
    if case.split:
        return case.split == 'test'
    return by_number and patient_number(case.subject) >= FIRST_TEST_PATIENT


def patient_number(subject: str) -> int:
    """Return the number of a patient.

    Examples
    --------
    >>> patient_number('sub-P07'), patient_number('54')
    (7, 54)
    """
    found = re.fullmatch(r'(?:sub-)?[A-Za-z]*0*(\d+)', subject)
    if found is None:
        raise DataError(
            f'{subject} has no number, by which Table 4 of the paper tells patients apart.',
            'Choose --folds even.',
        )
    return int(found.group(1))


def _table_4(rest: list[LabelledCase], test: tuple[LabelledCase, ...], scheme: str) -> list[Fold]:
    folds = []
    for number, (train, validation) in enumerate(TABLE_4, 1):
        validated = [case for case in rest if _within(case, validation)]
        printed = scheme == 'table4-printed'
        trained = [
            case
            for case in rest
            if _within(case, train) and (printed or not _within(case, validation))
        ]
        both = {c.subject for c in trained} & {c.subject for c in validated}
        notes = [_UNUSED, *([] if number != 4 else [_PRINTED if printed else _CORRECTED])]
        split = Split(tuple(trained), tuple(validated), test, tuple(notes))
        folds.append(Fold(number, _filled(split, number), tuple(sorted(both))))
    return folds


def _within(case: LabelledCase, ranges: Ranges) -> bool:
    number = patient_number(case.subject)
    return any(first <= number <= last for first, last in ranges)


def _even(
    rest: list[LabelledCase], test: tuple[LabelledCase, ...], count: int, seed: int
) -> list[Fold]:
    people = sorted({case.subject for case in rest})
    if not 2 <= count <= len(people):
        raise UsageError(
            f'{len(people)} patients cannot be divided into {count} folds.',
            'Give --fold-count a number from 2 to the number of patients.',
        )
    order = np.random.default_rng(seed).permutation(len(people))
    fold_of = {people[place]: turn % count + 1 for turn, place in enumerate(order)}
    return [
        Fold(
            number,
            Split(
                tuple(case for case in rest if fold_of[case.subject] != number),
                tuple(case for case in rest if fold_of[case.subject] == number),
                test,
                (f'{count} folds by patient, drawn with seed {seed}.',),
            ),
        )
        for number in range(1, count + 1)
    ]


def _filled(split: Split, number: int) -> Split:
    for side, cases in (('train', split.train), ('validate', split.validation)):
        if not cases:
            raise DataError(
                f'Fold {number} of Table 4 has nobody to {side} on in this dataset.',
                'Choose --folds even.',
            )
    return split
