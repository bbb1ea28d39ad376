"""Time and values of our metrics and of other programs', on one pair of masks, side by side.

Usage: ``python benchmarks/metrics.py [--data DIR] [--repeats N]`` (default data:
$MSLESSEG_TEST_DATA). The masks lie on the full 182 x 218 x 182 grid. Contenders:

* ours: `mslesseg_app.metrics.evaluation.evaluate`, everything it gives;
* official: the published procedure written plainly with scipy: arrays of shape (1, X, Y, Z),
  every metric from the start, `scipy.ndimage` on the full grid;
* MONAI, SimpleITK and panoptica, asked for what they have. SimpleITK twice: as it comes, and
  with both masks cut to their common box by hand. What is not installed is left out, and said
  (``pip install panoptica`` in an environment of its own: it wants an older NumPy than ours).

The best of the repeats counts, on the clock and in CPU seconds of all threads: the machine may
be busy. The exit code is 1 when a value that
has the same definition differs by more than 1e-6 (of the value, where it is larger than one:
MONAI computes in single precision).
"""

from __future__ import annotations

import argparse
import math
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import nibabel as nb
import numpy as np
from scipy import ndimage

from mslesseg_app.metrics.evaluation import evaluate
from mslesseg_app.metrics.exam import crop_to_union
from mslesseg_app.spatial.surfaces import surface, surface_distances

CASES = {
    'P18, 0.8 ml': 'mslesseg/train/P18/T1/P18_T1_MASK.nii.gz',
    'patient26, 8 ml': 'ljubljana-mni/patient26/MASK.nii.gz',
    'patient04, 40 ml': 'lesion-masks-mni/patient04.nii.gz',
}
SPACING = (1.0, 1.0, 1.0)
TOLERANCE = 1e-6
Values = dict[str, float]


def changed(reference: np.ndarray) -> np.ndarray:
    """A prediction: a wobbling outline, every fifth lesion missing, some false ones."""
    rng = np.random.default_rng(1)
    labels, count = ndimage.label(reference)
    wobble = ndimage.gaussian_filter(rng.normal(size=reference.shape).astype(np.float32), 2)
    blurred = ndimage.gaussian_filter(reference.astype(np.float32), 0.8)
    mask = blurred + wobble * (blurred > 0.05) > 0.45
    mask &= ~ndimage.binary_dilation((labels > 0) & (labels % 5 == 0), iterations=3)
    places = np.argwhere(reference)
    low, high = places.min(axis=0), places.max(axis=0)
    for _ in range(max(3, count // 5)):
        x, y, z = rng.integers(low, high)
        mask[x : x + 2, y : y + 3, z : z + 2] = True
    return mask


# ------------------------------------------------------------------------- contenders


def ours(prediction: np.ndarray, reference: np.ndarray) -> Values:
    return evaluate(prediction, reference, SPACING).values


def official(prediction: np.ndarray, reference: np.ndarray) -> Values:
    output, target = (mask[None].astype(np.float32) for mask in (prediction, reference))
    return {
        'DSC': 2 * _count(output, target) / (output.sum() + target.sum()),
        'TPR': _count(output, target) / target.sum(),
        'PPV': _count(output, target) / output.sum(),
        'LTPR': 1 - _missed(target, output),
        'LFPR*': _missed(output, target, 0.001),
        'AVD_percent': abs(output.sum() - target.sum()) / target.sum() * 100,
        'ASSD*': float(np.mean([d.mean() for d in _distances(output, target)])),
        'HD95*': float(np.percentile(np.hstack(_distances(output, target)), 95)),
    }


def _count(one: np.ndarray, two: np.ndarray) -> float:
    return float(np.count_nonzero((one > 0) & (two > 0)))


def _missed(lesions: np.ndarray, other: np.ndarray, epsilon: float = 0.0) -> float:
    labels, count = ndimage.label(lesions[0])
    met = np.unique(labels[(other[0] > 0) & (labels > 0)]).size
    return (count - met) / (count + epsilon)


def _distances(one: np.ndarray, two: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Distances of the whole objects: the leading axis leaves no inside."""
    footprint = ndimage.generate_binary_structure(4, 1)
    edges = [m.astype(bool) ^ ndimage.binary_erosion(m, structure=footprint) for m in (one, two)]
    to_two = ndimage.distance_transform_edt(~edges[1])[edges[0]]
    return to_two, ndimage.distance_transform_edt(~edges[0])[edges[1]]


def monai(prediction: np.ndarray, reference: np.ndarray) -> Values:
    import torch
    from monai import metrics as m

    one, two = (torch.from_numpy(mask[None, None]) for mask in (prediction, reference))
    same = {'include_background': True, 'spacing': list(SPACING)}
    counts = m.get_confusion_matrix(one.float(), two.float(), include_background=True)
    rates = {
        name: float(m.compute_confusion_matrix_metric(kind, counts).squeeze())
        for name, kind in (('TPR', 'sensitivity'), ('PPV', 'precision'))
    }
    return {
        'DSC': float(m.compute_dice(one, two, include_background=True)),
        **rates,
        'ASSD': float(m.compute_average_surface_distance(one, two, symmetric=True, **same)),
        'HD95': float(m.compute_hausdorff_distance(one, two, percentile=95, **same)),
        'NSD_1mm': float(m.compute_surface_dice(one, two, class_thresholds=[1.0], **same)),
    }


def simpleitk(prediction: np.ndarray, reference: np.ndarray) -> Values:
    import SimpleITK as sitk

    one, two = (sitk.GetImageFromArray(mask.view(np.uint8)) for mask in (prediction, reference))
    overlap = sitk.LabelOverlapMeasuresImageFilter()
    overlap.Execute(one, two)
    volume = overlap.GetVolumeSimilarity()
    forth, back = _itk_distances(sitk, one, two)
    both = np.concatenate([forth, back])
    return {
        'DSC': overlap.GetDiceCoefficient(),
        'TPR': 1 - overlap.GetFalseNegativeError(),
        'PPV': 1 - overlap.GetFalseDiscoveryRate(),
        'AVD': abs(2 * volume / (2 - volume)),
        'LTPR': 1 - _itk_missed(sitk, two, prediction),
        'LFPR': _itk_missed(sitk, one, reference),
        'ASSD': float(both.mean()),
        'HD95': max(float(np.percentile(d, 95)) for d in (forth, back)),
        'NSD_1mm': float(np.mean(both <= 1 + 1e-6)),
    }


def _itk_distances(sitk: object, *images: object) -> tuple[np.ndarray, np.ndarray]:
    edges = [sitk.LabelContour(image, False) for image in images]
    fields = [
        np.abs(sitk.GetArrayFromImage(sitk.SignedMaurerDistanceMap(e, False, False, True)))
        for e in edges
    ]
    one, two = (sitk.GetArrayFromImage(edge) > 0 for edge in edges)
    return fields[1][one], fields[0][two]


def _itk_missed(sitk: object, image: object, other: np.ndarray) -> float:
    components = sitk.ConnectedComponentImageFilter()
    labels = sitk.GetArrayFromImage(components.Execute(image))
    met = np.unique(labels[other & (labels > 0)]).size
    return (components.GetObjectCount() - met) / components.GetObjectCount()


def simpleitk_cropped(prediction: np.ndarray, reference: np.ndarray) -> Values:
    masks = (np.pad(mask, 1) for mask in crop_to_union(prediction, reference))
    return simpleitk(*masks)


def panoptica(prediction: np.ndarray, reference: np.ndarray) -> Values:
    from panoptica import (
        CCABackend,
        ConnectedComponentsInstanceApproximator,
        InputType,
        Metric,
        NaiveThresholdMatching,
        Panoptica_Evaluator,
        disable_citation_reminder,
    )

    disable_citation_reminder()

    evaluator = Panoptica_Evaluator(
        expected_input=InputType.SEMANTIC,
        instance_approximator=ConnectedComponentsInstanceApproximator(CCABackend.scipy),
        instance_matcher=NaiveThresholdMatching(Metric.DSC, matching_threshold=0.1),
        instance_metrics=[Metric.DSC],
        global_metrics=[Metric.DSC, Metric.RVD, Metric.ASSD, Metric.HD95, Metric.NSD],
    )
    masks = [mask.view(np.uint8) for mask in (prediction, reference)]
    result = evaluator.evaluate(*masks, voxelspacing=SPACING, verbose=False)
    result = next(iter(result.values()))
    result = result[0] if isinstance(result, tuple) else result
    return {
        'DSC': result.global_bin_dsc,
        'AVD': abs(result.global_bin_rvd),
        'mean of means': result.global_bin_assd,
        'pooled HD95': result.global_bin_hd95,
        'n_reference': result.n_ref_instances,
        'n_predicted': result.n_pred_instances,
    }


CONTENDERS: dict[str, Callable[[np.ndarray, np.ndarray], Values]] = {
    'ours': ours,
    'official': official,
    'MONAI': monai,
    'SimpleITK': simpleitk,
    'SimpleITK, cropped by hand': simpleitk_cropped,
    'panoptica': panoptica,
}


# ------------------------------------------------------------------------- comparison


def expected(prediction: np.ndarray, reference: np.ndarray) -> Values:
    """Our values under every name that a contender uses; * are those of the published code."""
    published = evaluate(prediction, reference, SPACING, 'mslesseg-official').values
    distances = surface_distances(surface(prediction), surface(reference), SPACING)
    return {
        **ours(prediction, reference),
        **{f'{name}*': published[name] for name in ('LFPR', 'ASSD', 'HD95')},
        'mean of means': distances.mean_of_means(),
        'pooled HD95': distances.pooled_percentile(95),
    }


def measure(
    function: Callable[[np.ndarray, np.ndarray], Values], pair: tuple, repeats: int
) -> tuple[float, float, Values]:
    """Return the best wall and CPU times in seconds after a first call, and the values."""
    values = function(*pair)
    wall, cpu = [], []
    for _ in range(repeats):
        start, busy = time.perf_counter(), time.process_time()
        function(*pair)
        wall.append(time.perf_counter() - start)
        cpu.append(time.process_time() - busy)
    return min(wall), min(cpu), values


def run_case(name: str, path: Path, repeats: int) -> float:
    """Print one table; return the largest difference between equal definitions."""
    reference = np.asarray(nb.load(path).dataobj) > 0
    reference = np.ascontiguousarray(reference)
    pair = (np.ascontiguousarray(changed(reference)), reference)
    truth = expected(*pair)
    print(f'\n{name}: grid {reference.shape}\n')
    print('| program | seconds | times ours | CPU s | times ours | numbers | largest difference |')
    print('|---|---|---|---|---|---|---|')
    worst, base, base_cpu = 0.0, math.nan, math.nan
    for label, function in CONTENDERS.items():
        try:
            seconds, cpu, values = measure(function, pair, repeats if label != 'official' else 1)
        except ImportError as error:
            print(f'| {label} | not installed ({error.name}) | | | | | |')
            continue
        base, base_cpu = (seconds, cpu) if label == 'ours' else (base, base_cpu)
        difference = max(
            abs(value - truth[key]) / max(1.0, abs(truth[key]))
            for key, value in values.items()
            if value == value
        )
        worst = max(worst, difference)
        times = f'{seconds:.3f}', f'{seconds / base:.1f}', f'{cpu:.3f}', f'{cpu / base_cpu:.1f}'
        cells = (label, *times, len(values), f'{difference:.1e}')
        print('|', ' | '.join(map(str, cells)), '|', flush=True)
    return worst


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
    parser.add_argument('--data', type=Path, default=os.environ.get('MSLESSEG_TEST_DATA'))
    parser.add_argument('--repeats', type=int, default=5)
    options = parser.parse_args()
    if options.data is None or not Path(options.data).is_dir():
        print('No data: give --data or set MSLESSEG_TEST_DATA.', file=sys.stderr)
        return 66
    worst = [run_case(n, Path(options.data) / p, options.repeats) for n, p in CASES.items()]
    print(f'\nLargest difference between equal definitions: {max(worst):.1e}')
    return int(max(worst) > TOLERANCE)


if __name__ == '__main__':
    sys.exit(main())
