"""A trained model on the exams of people that it never saw, beside `hyperintensity`.

Usage: ``python benchmarks/leave_one_out.py --model-dir DIR [--data DIR] [EXAM=MODEL ...]``.
EXAM is one of the labelled exams (patient07, patient26, P18); MODEL an entry of DIR that was
trained without its person. A model whose card does not say that the person was left out is
refused. Prints a Markdown table; the masks are those of the entry's own threshold.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

import numpy as np
from hyperintensity import EXAMS, largest_piece, read

from mslesseg_app.inference.run import segment_exam
from mslesseg_app.metrics.exam import METRIC_COLUMNS, accuracy
from mslesseg_app.models.registry import ModelEntry, get_entry

NAMES = {'FLAIR': 'FLAIR', 'T1w': 'T1', 'T2w': 'T2'}
PEOPLE = {
    'patient07': 'ljubljana-patient07',
    'patient26': 'ljubljana-patient26',
    'P18': 'mslesseg-P18',
}


def check(entry: ModelEntry, exam: str) -> None:
    """Refuse a model that may have seen the exam."""
    seen = ' '.join(entry.card.get('training_data', ()))
    if PEOPLE[exam] not in entry.card.get('not_trained_on', ()) or exam in seen:
        raise SystemExit(f'{entry.name} does not say that it was trained without {exam}')


def rows(data: Path, exam: str, entry: ModelEntry) -> list[list[str]]:
    """Return a row for each choice of channels."""
    pattern = EXAMS[exam]
    reference = read(data / pattern.format('MASK')) > 0
    paths = {key: data / pattern.format(name) for key, name in NAMES.items()}
    images = {key: read(path) for key, path in paths.items() if path.is_file()}
    brain = largest_piece(np.any([image > 0 for image in images.values()], axis=0))
    result = []
    for used in (tuple(m for m in entry.channels if m in images), ('FLAIR',)):
        prob, info = segment_exam(entry, {key: images[key] for key in used}, brain)
        numbers = accuracy(prob >= entry.threshold, reference, (1, 1, 1))
        values = [f'{numbers[name]:.3f}' for name in METRIC_COLUMNS]
        result.append([exam, entry.name, ' + '.join(used), *values, f'{info["seconds"]:.1f}'])
    return result


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
    parser.add_argument('pairs', nargs='*', metavar='EXAM=MODEL')
    parser.add_argument('--data', type=Path, default=os.environ.get('MSLESSEG_TEST_DATA'))
    parser.add_argument('--model-dir', type=Path)
    args = parser.parse_args()
    if args.data is None or not Path(args.data).is_dir():
        print('No data: give --data or set MSLESSEG_TEST_DATA.', file=sys.stderr)
        return 66
    header = ['exam', 'model', 'images', *METRIC_COLUMNS, 'seconds']
    for row in (header, ['---'] * len(header)):
        print('| ' + ' | '.join(row) + ' |', flush=True)
    pairs = dict(pair.split('=') for pair in args.pairs)
    for exam in EXAMS:
        entries = [get_entry('hyperintensity')]
        if exam in pairs:
            entries.append(get_entry(pairs[exam], args.model_dir))
            check(entries[-1], exam)
        for entry in entries:
            for row in rows(Path(args.data), exam, entry):
                print('| ' + ' | '.join(row) + ' |', flush=True)
    return 0


if __name__ == '__main__':
    sys.exit(main())
