"""Change on real pairs: weaker forms of the figures of ``benchmarks/change.py``.

The raw FLAIRs lie to each other by the authors' transforms, and the brain is theirs, so that
neither alignment nor bias correction has to run.
"""

from __future__ import annotations

import nibabel as nb
import numpy as np
import pytest
from scipy import ndimage

from mslesseg_app.lesions.difference import ChangeLimits, compute_difference, find_changes
from mslesseg_app.metrics.change import evaluate_change
from mslesseg_app.spatial.affines import compose, invert, read_itk
from mslesseg_app.spatial.matching import HalfWay, to_half_way
from mslesseg_app.spatial.pose import nearest_rigid
from mslesseg_app.spatial.resample import resample

pytestmark = [pytest.mark.realdata, pytest.mark.slow]
PATIENTS = ('LJ01', 'LJ12')


class Patient:
    """Two sessions of a patient, and what the authors know of them."""

    def __init__(self, root, name):
        known = root / 'derivatives' / 'reference' / f'sub-{name}'
        stems = [f'sub-{name}_ses-{k}' for k in (1, 2)]
        self.flairs = [
            nb.load(root / f'sub-{name}' / f'ses-{k}' / 'anat' / f'{stem}_FLAIR.nii.gz')
            for k, stem in enumerate(stems, start=1)
        ]
        self.from_common = [
            read_itk(
                known / f'ses-{k}' / 'anat' / f'{stem}_from-FLAIR_to-common_mode-image_xfm.txt'
            )
            for k, stem in enumerate(stems, start=1)
        ]
        stem = known / 'anat' / f'sub-{name}_space-common_desc'
        self.change = nb.load(f'{stem}-lesionchange_mask.nii.gz')
        common = nb.load(f'{stem}-brain_mask.nii.gz')
        self.brains = [
            resample(common, flair.shape, flair.affine, invert(affine), 'nearest')
            for flair, affine in zip(self.flairs, self.from_common, strict=True)
        ]
        centre = ndimage.center_of_mass(np.asarray(common.dataobj))
        centre = common.affine[:3, :3] @ centre + common.affine[:3, 3]
        affine = compose(self.from_common[1], invert(self.from_common[0]))
        self.move = nearest_rigid(affine, centre)

    def pair(self) -> HalfWay:
        return to_half_way(*self.flairs, *self.brains, self.move)

    def truth(self, pair: HalfWay) -> np.ndarray:
        mask = (np.asarray(self.change.dataobj) > 0).astype(np.float32)
        common_from_middle = compose(invert(self.from_common[1]), pair.after_from_middle)
        image = nb.Nifti1Image(mask, self.change.affine)
        moved = resample(image, pair.brain.shape, pair.affine, common_from_middle)
        return np.asarray(moved.dataobj) >= 0.5


@pytest.fixture(scope='module')
def patients(real_data):
    return {name: Patient(real_data / 'ljubljana-bids', name) for name in PATIENTS}


@pytest.mark.parametrize('name', PATIENTS)
def test_change_is_where_the_authors_marked_it(patients, name):
    patient = patients[name]
    pair = patient.pair()
    difference = compute_difference(pair)
    assert difference.matched.correlation > 0.8
    regions = find_changes(difference, ChangeLimits())
    truth = patient.truth(pair)
    rows = evaluate_change((regions.labels > 0).astype(int), truth.astype(int), pair.voxel_mm3)
    whole = next(row for row in rows if row['size'] == 'all')
    assert whole['dsc'] > 0.5
    assert whole['n_untouched'] <= 0.6 * whole['n_predicted_26']
    hit = regions.labels[truth & (regions.labels > 0)]
    brighter = np.mean(regions.brighter[hit - 1])
    assert brighter > 0.8 if name == 'LJ01' else brighter < 0.5, 'as the authors describe them'


def test_one_scan_moved_with_noise_and_other_contrast_has_no_change(patients):
    patient = patients['LJ01']
    flair, brain = patient.flairs[0], patient.brains[0]
    move = patient.move
    level = float(np.median(np.asarray(flair.dataobj)[np.asarray(brain.dataobj) > 0]))
    data = np.asarray(resample(flair, flair.shape, flair.affine, invert(move), 3).dataobj)
    rng = np.random.default_rng(4)
    bent = 2 * level * np.clip(data / level, 0, None) ** 0.9
    noisy = bent + 0.04 * level * rng.standard_normal(data.shape)
    after = nb.Nifti1Image(noisy.astype(np.float32), flair.affine)
    mask = resample(brain, flair.shape, flair.affine, invert(move), 'nearest')
    difference = compute_difference(to_half_way(flair, after, brain, mask, move))
    regions = find_changes(difference, ChangeLimits())
    volume = np.count_nonzero(regions.labels) * difference.pair.voxel_mm3
    assert volume <= 50
    assert regions.count <= 1
