"""Ways to find the brain in aligned images, side by side against the authors' masks.

Usage::

    python benchmarks/brain_mask.py [--data FOLDER] [--aligned FOLDER] [--methods NAME ...]

FOLDER (or the variable ``MSLESSEG_TEST_DATA``) holds ``ljubljana-bids``. The images are aligned
as the App does it, once; `--aligned` keeps them between runs. Each method then runs on each
image alone and on all together, in a process of its own; its seconds of CPU time and what it
adds to the memory are printed beside Dice and the 95 % Hausdorff distance (mm).
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import resource
import sys
import time
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import nibabel as nb
import numpy as np
from scipy import ndimage as ndi
from scipy import sparse
from scipy.spatial import cKDTree
from skimage.measure import marching_cubes
from spatial import MODALITIES, Exam, find_exams, table

from mslesseg_app.spatial import brain
from mslesseg_app.spatial import exam_alignment as exams
from mslesseg_app.spatial.affines import compose, invert
from mslesseg_app.spatial.bias import correct_bias
from mslesseg_app.spatial.resample import resample
from mslesseg_app.spatial.template import (
    TEMPLATE_AFFINE,
    TEMPLATE_SHAPE,
    brain_distance,
)

Images = dict[str, np.ndarray]


def field_of_view(images: Images) -> np.ndarray:
    return np.any([ndi.binary_closing(one != 0, iterations=2) for one in images.values()], axis=0)


def tidy(mask: np.ndarray, images: Images) -> np.ndarray:
    """The largest piece within the images, without holes."""
    labels, _ = ndi.label(mask & field_of_view(images))
    largest = labels == np.argmax(np.bincount(labels.ravel())[1:]) + 1
    return ndi.binary_fill_holes(largest)


# ------------------------------------------------------------------- template and package


def by_template(images: Images) -> np.ndarray:
    """The template's mask where the alignment puts it."""
    return tidy(brain_distance() < 0, images)


def by_package(images: Images) -> np.ndarray:
    """What the App does."""
    given = {name: nb.Nifti1Image(one, TEMPLATE_AFFINE) for name, one in images.items()}
    return np.asarray(brain.brain_mask(given).dataobj) > 0


# --------------------------------------------------------------- deformable surface (BET)


def sphere(subdivisions: int = 4) -> tuple[np.ndarray, np.ndarray]:
    """Vertices and triangles of a unit sphere made from an icosahedron."""
    golden = (1 + 5**0.5) / 2
    corners = [(a, b * golden, 0) for a in (-1, 1) for b in (-1, 1)]
    points = np.array([np.roll(corner, turn) for turn in range(3) for corner in corners])
    near = cKDTree(points).query_pairs(2.01)
    linked = near | {(b, a) for a, b in near}
    faces = np.array(
        [
            (a, b, c) if np.linalg.det(points[[a, b, c]]) > 0 else (a, c, b)
            for a, b in sorted(near)
            for c in range(b + 1, 12)
            if (a, c) in linked and (b, c) in linked
        ]
    )
    points = points / np.linalg.norm(points, axis=1, keepdims=True)
    for _ in range(subdivisions):
        points, faces = _subdivide(points, faces)
    return points, faces


def _subdivide(points: np.ndarray, faces: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    edges = np.sort(faces[:, [[0, 1], [1, 2], [2, 0]]], axis=-1)
    unique, index = np.unique(edges.reshape(-1, 2), axis=0, return_inverse=True)
    middle = points[unique].mean(1)
    middle /= np.linalg.norm(middle, axis=1, keepdims=True)
    a, b, c = faces.T
    ab, bc, ca = (index.reshape(-1, 3) + len(points)).T
    parts = ((a, ab, ca), (b, bc, ab), (c, ca, bc), (ab, bc, ca))
    return np.vstack([points, middle]), np.vstack([np.stack(part, axis=1) for part in parts])


def neighbour_mean(faces: np.ndarray, count: int) -> sparse.csr_array:
    """Matrix that averages over the neighbours of each vertex."""
    edges = np.vstack([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]])
    edges = np.unique(np.vstack([edges, edges[:, ::-1]]), axis=0)
    share = 1.0 / np.bincount(edges[:, 0], minlength=count)[edges[:, 0]]
    return sparse.csr_array((share, (edges[:, 0], edges[:, 1])), shape=(count, count))


def normals(points: np.ndarray, faces: np.ndarray) -> np.ndarray:
    a, b, c = (points[faces[:, corner]] for corner in range(3))
    flat, count = np.cross(b - a, c - a), len(points)
    total = np.stack(
        [
            sum(np.bincount(faces[:, corner], flat[:, axis], count) for corner in range(3))
            for axis in range(3)
        ],
        axis=1,
    )
    return total / np.maximum(np.linalg.norm(total, axis=1, keepdims=True), 1e-9)


def by_bet(images: Images, fraction: float = 0.5, iterations: int = 400) -> np.ndarray:
    """A surface that grows from the middle of one image (Smith, Human Brain Mapping 2002).

    The forces are those of section 2.5: towards the neighbours' mean within the surface, its
    curvature bounded by radii of 3.33 and 10 mm, and outwards where the darkest value up to
    20 mm below is bright against the brightest up to 10 mm below. Of several images each is
    done alone and the majority decides. The surface is filled as seen from its centre.
    """
    if len(images) > 1:
        votes = np.sum([by_bet({name: one}) for name, one in images.items()], axis=0)
        return tidy(2 * votes > len(images), images)
    data = ndi.zoom(next(iter(images.values())), 0.5, order=1, grid_mode=True, mode='nearest')
    low, high = np.percentile(data[data > 0], [2, 98])
    limit = low + 0.1 * (high - low)
    head = np.argwhere(data > limit)
    weight = np.clip(data[data > limit], None, high)
    centre = (head * weight[:, None]).sum(0) / weight.sum()
    radius = 2 * (3 * len(head) / 4 / np.pi) ** (1 / 3)
    inner = np.linalg.norm(head - centre, axis=1) < radius / 2
    middle = float(np.median(data[data > limit][inner]))
    unit, faces = sphere()
    average = neighbour_mean(faces, len(unit))
    points = radius / 2 * unit
    depths = np.arange(0.0, 20.5, 1.0)
    for _ in range(iterations):
        out = normals(points, faces)
        inward = (points[:, None] - depths[None, :, None] * out[:, None]) / 2 + centre
        index = np.clip(np.rint(inward).astype(int), 0, np.array(data.shape) - 1)
        profile = data[index[..., 0], index[..., 1], index[..., 2]]
        darkest = np.maximum(low, np.minimum(middle, profile.min(1)))
        brightest = np.minimum(middle, np.maximum(limit, profile[:, :11].max(1)))
        threshold = (brightest - low) * fraction + low
        push = 2 * (darkest - threshold) / np.maximum(brightest - low, 1e-6)
        length = _spacing(points, faces)
        points = points + _internal(points, out, average, length)
        points = points + 0.05 * length * push[:, None] * out
    return tidy(_filled(unit, points, 2 * centre + 0.5), images)


def _spacing(points: np.ndarray, faces: np.ndarray) -> float:
    """Mean distance (mm) of neighbouring vertices."""
    return float(np.linalg.norm(points[faces[:, 0]] - points[faces[:, 1]], axis=1).mean())


def _internal(
    points: np.ndarray, out: np.ndarray, average: sparse.csr_array, length: float
) -> np.ndarray:
    """The step that spreads the vertices and keeps the surface smooth."""
    step = average @ points - points
    along = (step * out).sum(1, keepdims=True)
    radius = length**2 / np.maximum(2 * np.abs(along), 1e-6)
    bend = (1 / 3.33 + 1 / 10) / 2
    stiff = (1 + np.tanh(6 / (1 / 3.33 - 1 / 10) * (1 / radius - bend))) / 2
    return 0.5 * (step - along * out) + stiff * along * out


def _filled(unit: np.ndarray, points: np.ndarray, centre: np.ndarray) -> np.ndarray:
    """Voxels nearer to the centre than the surface is in their direction."""
    radii = np.linalg.norm(points, axis=1)
    tree = cKDTree(points / radii[:, None])
    offset = (np.indices(TEMPLATE_SHAPE)[:, ::2, ::2, ::2] - centre[:, None, None, None]).reshape(
        3, -1
    )
    far = np.linalg.norm(offset, axis=0)
    gap, near = tree.query((offset / np.maximum(far, 1e-6)).T, k=3)
    weight = 1 / (gap + 1e-3)
    surface = (radii[near] * weight).sum(1) / weight.sum(1)
    inside = (surface - far).reshape([n // 2 for n in TEMPLATE_SHAPE])
    fine = ndi.affine_transform(inside, [0.5] * 3, output_shape=TEMPLATE_SHAPE, order=1)
    return fine > 0


# ------------------------------------------------- the template's surface along its normals

SHIFTS = np.arange(-8.0, 8.25, 0.5)
BINS = 48


@cache
def surface() -> tuple[np.ndarray, np.ndarray, sparse.csr_array]:
    """Vertices (voxels), outward normals and neighbours of the template's surface."""
    distance = ndi.gaussian_filter(brain_distance(), 1.0)
    small = np.pad(distance[::3, ::3, ::3], 1, constant_values=20.0)
    points, faces, _, _ = marching_cubes(small, 0.0)
    points = (points - 1) * 3
    slopes = [
        ndi.gaussian_filter(distance, 2.0, order=[int(axis == one) for one in range(3)])
        for axis in range(3)
    ]
    out = np.stack([ndi.map_coordinates(one, points.T, order=1) for one in slopes], axis=1)
    out /= np.maximum(np.linalg.norm(out, axis=1, keepdims=True), 1e-6)
    return points, out, neighbour_mean(faces, len(points))


def by_normals(images: Images) -> np.ndarray:
    """Shift the template's surface along its normals by a smooth field.

    The log odds of inside and outside, from histograms of the 8 mm on both sides, are summed
    from the border to each shift; a penalty of shift and of unlike neighbours is added, from
    smooth to fine; the softened least cost is the shift.
    """
    points, out, average = surface()
    lines = (points[:, :, None] + out[:, :, None] * SHIFTS).transpose(1, 0, 2)
    shift, moved = np.zeros(len(points)), np.zeros(TEMPLATE_SHAPE, np.float32)
    for _ in range(3):
        border = brain_distance() - moved
        odds = np.mean([_odds_along(one, border, lines) for one in images.values()], axis=0)
        cost = -0.35 * 0.5 * np.cumsum(odds, axis=1) + SHIFTS**2 / 18
        for spread in (30, 8, 2):
            shift = _settle(cost, shift, average, spread)
        moved = _volume_of(shift, points)
    return tidy(ndi.binary_opening(brain_distance() < moved), images)


def _odds_along(data: np.ndarray, border: np.ndarray, lines: np.ndarray) -> np.ndarray:
    """Log odds of brain along the lines; nothing where the image has no value."""
    top = 1.3 * np.percentile(data[(border < -6) & (data != 0)], 99.5)
    bins = np.clip(data * ((BINS - 1) / top), 0, BINS - 1).astype(np.int16)
    near = (np.abs(border) < 8) & (data != 0)
    counts = [np.bincount(bins[near & side], minlength=BINS) for side in (border < 0, border > 0)]
    soft = [ndi.gaussian_filter1d(one.astype(float), 1.0, mode='nearest') for one in counts]
    inside, outside = (one / one.sum() + 0.02 / BINS for one in soft)
    odds = np.clip(np.log(inside / outside), -2, 2)
    at = ndi.map_coordinates(bins.astype(np.float32), lines, order=1, mode='nearest')
    seen = ndi.map_coordinates((data != 0).astype(np.float32), lines, order=0) > 0.5
    return np.where(seen, np.interp(at, np.arange(BINS), odds), 0.0)


def _settle(
    cost: np.ndarray, shift: np.ndarray, average: sparse.csr_array, spread: int
) -> np.ndarray:
    for _ in range(spread):
        cost = 0.5 * cost + 0.5 * (average @ cost)
    for _ in range(8):
        around = average @ (0.5 * shift + 0.5 * (average @ shift))
        total = cost + 0.5 * (SHIFTS - around[:, None]) ** 2
        share = np.exp(-4 * (total - total.min(axis=1, keepdims=True)))
        shift = (share * SHIFTS).sum(1) / share.sum(1)
    return shift


def _volume_of(shift: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Carry the shifts of the vertices to the voxels around them."""
    shell = np.abs(brain_distance()[::2, ::2, ::2]) < 14
    gap, near = cKDTree(points).query(np.argwhere(shell) * 2.0, k=4)
    weight = 1 / (gap + 1)
    values, known = np.zeros(shell.shape, np.float32), shell.astype(np.float32)
    values[shell] = (shift[near] * weight).sum(1) / weight.sum(1)
    values = ndi.gaussian_filter(values, 1) / np.maximum(ndi.gaussian_filter(known, 1), 1e-3)
    return ndi.affine_transform(values, [0.5] * 3, output_shape=TEMPLATE_SHAPE, order=1)


# ------------------------------------------------------------------------------ comparison

METHODS: dict[str, Callable[[Images], np.ndarray]] = {
    'template': by_template,
    'bet': by_bet,
    'normals': by_normals,
    'package': by_package,
}


def aligned(exam: Exam, keep: Path | None) -> dict[str, np.ndarray]:
    """Images and reference mask on the template grid."""
    path = keep / f'{exam.subject}_{exam.session}.npz' if keep else None
    if path is not None and path.exists():
        with np.load(path) as content:
            return {name: content[name] for name in (*exam.images(), 'truth')}
    images = {name: correct_bias(img) for name, img in exam.images().items()}
    found = exams.align_exam(images)
    grid = TEMPLATE_SHAPE, TEMPLATE_AFFINE
    out = {
        name: np.asarray(resample(img, *grid, found.moving_from_mni[name]).dataobj)
        for name, img in images.items()
    }
    mask: Any = exam.mask()
    common = compose(invert(exam.transform('FLAIR', 'common')), found.moving_from_mni['FLAIR'])
    binary = nb.Nifti1Image((np.asarray(mask.dataobj) > 0).astype(np.float32), mask.affine)
    out['truth'] = np.asarray(resample(binary, *grid, common).dataobj) > 0.5
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savez(path, **out)
    return out


def apart(method: str, images: Images) -> tuple[np.ndarray, float, float]:
    """Run a method in a process of its own: mask, CPU seconds and added memory (GiB)."""
    context = multiprocessing.get_context('fork')
    here, there = context.Pipe(duplex=False)
    process = context.Process(target=_answer, args=(there, method, images))
    process.start()
    answer = here.recv()
    process.join()
    return answer


def _answer(pipe: Any, method: str, images: Images) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    clock = time.process_time()
    mask = METHODS[method](images)
    seconds = time.process_time() - clock
    more = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024**2
    pipe.send((mask, seconds, more))


def scores(ours: np.ndarray, theirs: np.ndarray) -> tuple[float, float]:
    """Dice, and the larger 95th percentile (mm) of the distances between the surfaces."""
    dice = 2 * (ours & theirs).sum() / (ours.sum() + theirs.sum())
    edges = [np.argwhere(mask & ~ndi.binary_erosion(mask)) for mask in (ours, theirs)]
    far = [cKDTree(edges[1 - one]).query(edges[one][::5])[0] for one in (0, 1)]
    return float(dice), float(max(np.percentile(one, 95) for one in far))


def compare(exam: Exam, keep: Path | None, methods: list[str]) -> Iterator[list[str]]:
    images = aligned(exam, keep)
    theirs = images.pop('truth')
    sets = [{name: images[name]} for name in MODALITIES if name in images]
    for chosen in ([images, *sets]) if len(sets) > 1 else sets:
        row = [exam.name, 'all' if chosen is images else next(iter(chosen))]
        for method in methods:
            mask, seconds, memory = apart(method, chosen)
            dice, far = scores(mask, theirs)
            row.append(f'{dice:.3f} / {far:.1f} / {seconds:.1f} / {memory:.1f}')
        print(row, file=sys.stderr, flush=True)
        yield row


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--data', type=Path, default=os.environ.get('MSLESSEG_TEST_DATA'))
    parser.add_argument('--aligned', type=Path, help='keep the aligned images in this folder')
    parser.add_argument('--methods', nargs='+', choices=METHODS, default=list(METHODS))
    options = parser.parse_args()
    if options.data is None or not (options.data / 'ljubljana-bids').is_dir():
        print('No data: give --data or set MSLESSEG_TEST_DATA.', file=sys.stderr)
        return 66
    surface()
    brain_distance()
    rows = [
        row
        for exam in find_exams(options.data / 'ljubljana-bids')
        if exam.mask() is not None
        for row in compare(exam, options.aligned, options.methods)
    ]
    title = "Brain mask against the authors': Dice / 95 % Hausdorff (mm) / CPU (s) / memory (GiB)"
    table(title, ['exam', 'images', *options.methods], rows)
    return 0


if __name__ == '__main__':
    sys.exit(main())
