"""Does disagreement of models tell of a poor mask? Labelled exams, intact and damaged, as TSV.

Usage: ``python benchmarks/disagreement.py DATASET [DATASET ...] --cache DIR [--damaged N]``. Each
dataset is in BIDS form, its manual masks in ``derivatives/manual``. For each exam on the template
grid: the Dice coefficient of the models with each other (mean of all pairs) and, with the manual
mask, of their ensemble and of each; the first N exams also after their FLAIR was damaged.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from scipy import ndimage

from mslesseg_app.metrics.exam import voxel_agreement
from mslesseg_app.models.prediction.ensemble import Ensemble, combine, models_agreement
from mslesseg_app.models.prediction.segment import segment_detailed
from mslesseg_app.models.registry import get_entry
from mslesseg_app.training.cases import LabelledCase, RawCase, read_channels
from mslesseg_app.training.experiments.labelled_exams import find_cases

CHANNELS = ('FLAIR', 'T1w', 'T2w')


def main() -> None:
    options = parse()
    models = tuple(get_entry(name) for name in options.model)
    print('exam', 'flair', 'reference_ml', 'ensemble_ml', 'agreement', 'DSC', sep='\t', end='\t')
    print(*(f'DSC_{model.name}' for model in models), sep='\t', flush=True)
    cases = find_cases(
        options.data, options.cache, preprocessed=options.preprocessed, exclude=options.exclude
    )
    for number, case in enumerate(cases):
        raw = read_channels(case, CHANNELS)
        for kind, flair in flairs(raw):
            if kind == 'intact' or number < options.damaged:
                measure(case, raw, kind, flair, Ensemble(models))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('data', nargs='+', type=Path)
    parser.add_argument('--cache', type=Path, required=True)
    parser.add_argument('--preprocessed', type=Path, help='output folder of the App')
    parser.add_argument('--model', nargs='+', default=['unet', 'hyperintensity'])
    parser.add_argument('--damaged', type=int, default=0, metavar='N')
    parser.add_argument('--exclude', nargs='+', default=[])
    return parser.parse_args()


def flairs(raw: RawCase) -> Iterator[tuple[str, np.ndarray]]:
    """Yield the FLAIR as it is, and as it would be after mistakes and on poor scanners."""
    flair = raw.images[0]
    inside = flair[raw.brain]
    typical = float(np.median(inside))
    random = np.random.default_rng(1)
    yield 'intact', flair
    yield 'noise 30 %', flair + raw.brain * random.normal(0, 0.3 * typical, flair.shape)
    yield 'blurred 4 mm', ndimage.gaussian_filter(flair, 4 / 2.355)
    ramp = np.linspace(0.4, 1.6, flair.shape[1])[:, None]
    yield 'shaded', flair * ramp
    if raw.present[1]:
        yield 'T1w instead', raw.images[1]


def measure(
    case: LabelledCase, raw: RawCase, kind: str, flair: np.ndarray, ensemble: Ensemble
) -> None:
    """Print one row."""
    images = dict(zip(CHANNELS, raw.images, strict=True))
    images = {n: images[n] for n, there in zip(CHANNELS, raw.present, strict=True) if there}
    images['FLAIR'] = flair.astype(np.float32)
    thresholds = [model.threshold for model in ensemble.models]
    found = [segment_detailed(model, images, raw.brain, 'cpu')[0] for model in ensemble.models]
    joined = combine(found, thresholds, ensemble.method)[1] >= ensemble.threshold
    masks = [joined, *(p.prob >= t for p, t in zip(found, thresholds, strict=True))]
    agreement = models_agreement([m.name for m in ensemble.models], found, thresholds)['MeanDSC']
    scores = [voxel_agreement(mask, raw.mask)['DSC'] for mask in masks]
    volumes = [raw.mask.sum() / 1000, joined.sum() / 1000]
    numbers = (f'{n:.3f}' for n in itertools.chain(volumes, [agreement], scores))
    print(case.name, kind, *numbers, sep='\t', flush=True)


if __name__ == '__main__':
    main()
