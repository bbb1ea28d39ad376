"""Are lesions put into the right regions, and do real ones fall where they should?

Usage::

    python benchmarks/regions.py [--masks FOLDER] [--heads N] [--without-t1w]

``--masks``: masks in MNI152 1 mm (``*.nii.gz``); prints the share of each region by number and by
volume. There are no images with them, so the atlas lies where it is.

``--heads``: as many synthetic heads of the demo, with the lesions of one session each (the plan
of `mslesseg_app.demo.lesions`). FLAIR (2D and 3D in turn) and T1w are corrected, aligned and
measured as in the App; the planted masks are described, so the figures are those of the regions
alone.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import nibabel as nb
import numpy as np
import pandas as pd

from mslesseg_app.demo.lesions import in_session, lesion_mask
from mslesseg_app.demo.phantom import make_phantom, scan
from mslesseg_app.demo.protocols import session_protocols
from mslesseg_app.lesions.components import label_lesions
from mslesseg_app.lesions.description import on_template
from mslesseg_app.lesions.regions import fit_landmarks, template_landmarks
from mslesseg_app.lesions.regions import locate_lesions as places_of
from mslesseg_app.lesions.topography import REGIONS
from mslesseg_app.spatial import grids
from mslesseg_app.spatial.bias import correct_bias
from mslesseg_app.spatial.brain import brain_mask
from mslesseg_app.spatial.exam_alignment import align_exam
from mslesseg_app.spatial.resample import resample
from mslesseg_app.spatial.template import TEMPLATE_AFFINE, TEMPLATE_SHAPE

NAMES = {'deep': 'deep_white_matter'}


def shares(folder: Path) -> None:
    rows = []
    landmarks = template_landmarks()
    for path in sorted(folder.glob('*.nii.gz')):
        image = nb.load(path)
        voxel = float(abs(np.linalg.det(image.affine[:3, :3])))
        labels = label_lesions(np.asanyarray(image.dataobj) > 0, voxel, 6, 3.0)
        sizes = np.bincount(labels.ravel()) * voxel
        for number, place in places_of(labels, image.affine, np.eye(4), landmarks).items():
            rows.append((path.name, place.region, sizes[number]))
    table = pd.DataFrame(rows, columns=['mask', 'region', 'volume'])
    total = table.groupby('region')['volume'].agg(['count', 'sum']).reindex(list(REGIONS))
    total['% of lesions'] = 100 * total['count'] / total['count'].sum()
    total['% of volume'] = 100 * total['sum'] / total['sum'].sum()
    total['masks with one'] = table.groupby('region')['mask'].nunique()
    print(f'{table["mask"].nunique()} masks, {len(table)} lesions')
    print(total.round(1).to_string())


def planted(seed: int, with_t1w: bool) -> tuple[list[tuple[str, str]], float]:
    """Return the true and the found region of each lesion of one head, and the seconds."""
    head, session = make_phantom(seed), 2 - seed % 2
    lesions = in_session(head.lesions, session)
    protocols = session_protocols(session)
    names = ('FLAIR', 'T1w') if with_t1w else ('FLAIR',)
    raw = {name: scan(head, protocols[name], session) for name in names}
    images = {name: correct_bias(grids.to_ras(image)) for name, image in raw.items()}
    moving = align_exam(images).moving_from_mni
    mni = {
        name: resample(image, TEMPLATE_SHAPE, TEMPLATE_AFFINE, moving[name])
        for name, image in images.items()
    }
    flair = raw['FLAIR']
    subject = np.linalg.inv(head.scanner_from_subject('FLAIR', session)) @ flair.affine
    labels = np.zeros(flair.shape, np.int32)
    for lesion in lesions:
        labels[lesion_mask((lesion,), flair.shape, subject) > 0] = lesion.number
    brain = np.asarray(brain_mask(mni).dataobj) > 0
    start = time.perf_counter()
    from_native = np.linalg.inv(moving['FLAIR'])
    data = {name: np.asarray(image.dataobj) for name, image in mni.items()}
    landmarks = fit_landmarks(data, brain, on_template(labels, flair.affine, from_native))
    places = places_of(labels, flair.affine, from_native, landmarks)
    seconds = time.perf_counter() - start
    kinds = {lesion.number: NAMES.get(lesion.kind, lesion.kind) for lesion in lesions}
    return [(kinds[number], place.region) for number, place in places.items()], seconds


def accuracy(heads: int, with_t1w: bool) -> None:
    rows, times = [], []
    for seed in range(1, heads + 1):
        found, seconds = planted(seed, with_t1w)
        rows += found
        times.append(seconds)
        right = sum(true == region for true, region in found)
        print(f'head {seed}: {right} of {len(found)} right, {seconds:.1f} s', flush=True)
    table = pd.DataFrame(rows, columns=['planted', 'found'])
    right = (table['planted'] == table['found']).sum()
    print(f'{right} of {len(table)} right ({100 * right / len(table):.1f} %)')
    print(pd.crosstab(table['planted'], table['found']).to_string())
    print(f'median time {np.median(times):.1f} s')


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--masks', type=Path, help='folder of masks in MNI152 1 mm')
    parser.add_argument('--heads', type=int, default=0, help='synthetic heads')
    parser.add_argument('--without-t1w', action='store_true', help='FLAIR alone')
    options = parser.parse_args()
    if options.masks:
        shares(options.masks)
    if options.heads:
        accuracy(options.heads, not options.without_t1w)


if __name__ == '__main__':
    main()
