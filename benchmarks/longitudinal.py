"""Two sessions of a subject: is change between them change of alignment?

Usage::

    python benchmarks/longitudinal.py [--data FOLDER]

FOLDER (or the variable ``MSLESSEG_TEST_DATA``) holds ``ljubljana-bids`` with the authors'
transforms in ``derivatives/reference``. For each subject of two sessions, with each session
aligned on its own (``sessionwise``) and through a within-subject template (``unbiased``), the
table says how far the FLAIR of one session lies from that of the other, by our transforms
against the authors' (mean and largest over their brain mask), and by how much the two
alignments scale the same head differently: the ratio of their determinants, which is the ratio
of all volumes on the template grid that no atrophy explains.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import spatial

from mslesseg_app.spatial.affines import Affine, compose, invert
from mslesseg_app.spatial.bias import correct_bias
from mslesseg_app.spatial.exam_alignment import align_exam
from mslesseg_app.spatial.subject_alignment import align_subject

HEAD = ['subject', 'reference', 'mean (mm)', 'largest (mm)', 'volume ratio - 1 (%)', 'time (s)']


@dataclass(frozen=True)
class Between:
    """How the sessions of a subject lie to each other.

    Attributes
    ----------
    mean_mm, largest_mm : float
        Distance from the authors' transform between the FLAIRs, over their brain mask.
    volume_percent : float
        Ratio of the determinants of the two alignments, less one.
    """

    mean_mm: float
    largest_mm: float
    volume_percent: float


def between_sessions(
    first: spatial.Exam, second: spatial.Exam, flair_from_mni: Mapping[str, Affine]
) -> Between:
    """Compare the way from one session's FLAIR to the other's with the authors'."""
    points = spatial.brain_points(first)
    if points is None:
        raise ValueError(f'{first.name} has no brain mask')
    affines = [flair_from_mni[one.session] for one in (first, second)]
    ours = compose(affines[1], invert(affines[0]))
    theirs = compose(
        second.transform('FLAIR', 'common'), invert(first.transform('FLAIR', 'common'))
    )
    off = spatial.distance(ours, theirs, points)
    first_size, second_size = (abs(np.linalg.det(one[:3, :3])) for one in affines)
    return Between(float(off.mean()), float(off.max()), 100 * (second_size / first_size - 1))


def find_pairs(root: Path) -> Iterator[tuple[spatial.Exam, spatial.Exam]]:
    """Yield the subjects of two sessions whose brain mask is known."""
    subjects: dict[str, list[spatial.Exam]] = {}
    for exam in spatial.find_exams(root):
        subjects.setdefault(exam.subject, []).append(exam)
    for exams in subjects.values():
        if len(exams) == 2 and exams[0].mask() is not None:
            yield exams[0], exams[1]


def measure(first: spatial.Exam, second: spatial.Exam) -> Iterator[tuple[str, Between, float]]:
    """Align both sessions in both ways; yields the way, the numbers and the seconds."""
    pair = (first, second)
    images = {one.session: {'FLAIR': correct_bias(one.images()['FLAIR'])} for one in pair}
    clock = time.perf_counter()
    alone = {name: align_exam(one).moving_from_mni['FLAIR'] for name, one in images.items()}
    yield 'sessionwise', between_sessions(*pair, alone), time.perf_counter() - clock
    clock = time.perf_counter()
    joint = align_subject({name: one['FLAIR'] for name, one in images.items()})
    yield 'unbiased', between_sessions(*pair, joint.session_from_mni), time.perf_counter() - clock


def print_longitudinal(root: Path) -> None:
    """Print the table of all subjects."""
    rows: list[list[str]] = []
    means: dict[str, list[float]] = {}
    for first, second in find_pairs(root):
        for way, found, seconds in measure(first, second):
            numbers = [f'{found.mean_mm:.2f}', f'{found.largest_mm:.2f}']
            numbers += [f'{found.volume_percent + 0.0:.6f}', f'{seconds:.0f}']
            rows.append([first.subject, way, *numbers])
            means.setdefault(way, []).append(found.mean_mm)
    rows += [
        ['median', way, f'**{np.median(values):.2f}**', '', '', '']
        for way, values in means.items()
    ]
    spatial.table('Between studies: FLAIR to FLAIR, two references', HEAD, rows)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--data', type=Path, default=os.environ.get('MSLESSEG_TEST_DATA'))
    options = parser.parse_args()
    if options.data is None or not (options.data / 'ljubljana-bids').is_dir():
        print('No data: give --data or set MSLESSEG_TEST_DATA.', file=sys.stderr)
        return 66
    print_longitudinal(options.data / 'ljubljana-bids')
    return 0


if __name__ == '__main__':
    sys.exit(main())
