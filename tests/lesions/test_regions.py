"""Where lesions lie: known locations, any grid, and a synthetic head."""

from __future__ import annotations

import itertools
import sys
from pathlib import Path

import nibabel as nb
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from scipy.spatial.transform import Rotation

from mslesseg_app.lesions import regions
from mslesseg_app.lesions.atlas import region_atlas
from mslesseg_app.lesions.components import label_lesions
from mslesseg_app.lesions.description import describe_lesions, intensity_ratios, on_template
from mslesseg_app.lesions.regions import fit_landmarks, locate_lesions, template_landmarks
from mslesseg_app.lesions.table import LESION_COLUMNS, lesion_table
from mslesseg_app.lesions.topography import (
    JUXTACORTICAL_MM,
    PERIVENTRICULAR_MM,
    REGIONS,
    region_of,
)
from mslesseg_app.spatial.template import TEMPLATE_AFFINE, TEMPLATE_SHAPE, load_template

#: Balls (centre in MNI, radius, mm) at locations that any anatomist would name alike.
KNOWN = {
    'beside the left frontal horn': ((-20, 26, 15), 4.5, 'periventricular'),
    'beside the right trigone': ((35, -48, 12), 5.0, 'periventricular'),
    'corpus callosum': ((-8, 14, 20), 4.0, 'periventricular'),
    'left semioval centre': ((-26, -12, 37), 3.0, 'deep_white_matter'),
    'right semioval centre': ((26, -18, 36), 3.0, 'deep_white_matter'),
    'right precentral gyrus': ((40, -14, 58), 5.0, 'juxtacortical'),
    'left superior frontal gyrus': ((-20, 36, 44), 5.0, 'juxtacortical'),
    'pons': ((3, -26, -34), 4.0, 'infratentorial'),
    'middle cerebellar peduncle': ((-18, -44, -36), 4.0, 'infratentorial'),
    'medulla': ((1, -36, -52), 3.0, 'infratentorial'),
    'right cerebellar hemisphere': ((24, -62, -38), 4.0, 'infratentorial'),
    'midbrain': ((-4, -30, -14), 3.0, 'infratentorial'),
}


def balls(shape, affine, mni_from_native, names=tuple(KNOWN)) -> np.ndarray:
    """Draw balls of the template space on any grid."""
    mni = mni_from_native @ affine
    voxel = np.linalg.inv(mni)
    labels = np.zeros(shape, np.int32)
    for number, name in enumerate(names, start=1):
        centre, radius, _ = KNOWN[name]
        middle = voxel[:3, :3] @ centre + voxel[:3, 3]
        reach = radius * np.linalg.norm(voxel[:3, :3], axis=1) + 1
        low = np.clip(np.floor(middle - reach), 0, shape).astype(int)
        high = np.clip(np.ceil(middle + reach) + 1, 0, shape).astype(int)
        axes = [np.arange(a, b) for a, b in zip(low, high, strict=True)]
        index = np.stack(np.meshgrid(*axes, indexing='ij'), axis=-1)
        inside = np.linalg.norm(index @ mni[:3, :3].T + mni[:3, 3] - centre, axis=-1) <= radius
        labels[tuple(index[inside].T)] = number
    return labels


@pytest.fixture(scope='module')
def landmarks():
    return template_landmarks()


@pytest.fixture(scope='module')
def truth(landmarks):
    labels = balls(TEMPLATE_SHAPE, TEMPLATE_AFFINE, np.eye(4))
    return locate_lesions(labels, TEMPLATE_AFFINE, np.eye(4), landmarks)


# ------------------------------------------------------------------------------ rule


@pytest.mark.parametrize(
    ('to_ventricle', 'to_cortex', 'share', 'region'),
    [
        (0, 0, 0.5, 'infratentorial'),
        (0, 0, 0.49, 'periventricular'),
        (PERIVENTRICULAR_MM, 0, 0, 'periventricular'),
        (PERIVENTRICULAR_MM + 0.01, JUXTACORTICAL_MM, 0, 'juxtacortical'),
        (PERIVENTRICULAR_MM + 0.01, JUXTACORTICAL_MM + 0.01, 0, 'deep_white_matter'),
        (np.nan, np.nan, 0, 'deep_white_matter'),
    ],
)
def test_rule(to_ventricle, to_cortex, share, region):
    assert region_of(to_ventricle, to_cortex, share) == region


# ----------------------------------------------------------------------------- atlas


def test_atlas_lies_on_the_template():
    """Fluid is dark on the T1-weighted template, cortex in between, and nothing overlaps."""
    atlas = region_atlas()
    brain = np.asarray(load_template().brain.dataobj)
    white = np.median(brain[template_landmarks().white])
    assert np.median(brain[atlas.ventricles]) < 0.55 * white
    assert 0.6 * white < np.median(brain[atlas.cortex]) < 0.95 * white
    assert not (atlas.ventricles & atlas.cortex).any()
    assert not (atlas.ventricles & atlas.infratentorial).any()
    assert (atlas.cortex & atlas.infratentorial).sum() < 0.001 * atlas.cortex.sum()


def test_atlas_is_about_as_large_as_a_head():
    atlas = region_atlas()
    assert 10e3 < atlas.ventricles.sum() < 40e3
    fossa = atlas.infratentorial & (np.asarray(load_template().mask.dataobj) > 0)
    assert 150e3 < fossa.sum() < 260e3
    sides = [mask[:91].sum() / mask.sum() for mask in (atlas.ventricles, atlas.cortex)]
    assert all(0.4 < share < 0.6 for share in sides)


# ---------------------------------------------------------------------------- locations


def test_known_places(truth):
    found = {name: truth[number].region for number, name in enumerate(KNOWN, start=1)}
    assert found == {name: region for name, (*_, region) in KNOWN.items()}


def test_distances_are_those_of_a_distance_transform(landmarks, truth):
    labels = balls(TEMPLATE_SHAPE, TEMPLATE_AFFINE, np.eye(4))
    for kind, mask in (('ventricle', landmarks.ventricles), ('cortex', landmarks.cortex)):
        nearest = ndimage.minimum(
            ndimage.distance_transform_edt(~mask), labels, list(range(1, len(KNOWN) + 1))
        )
        found = [getattr(truth[number], f'to_{kind}') for number in range(1, len(KNOWN) + 1)]
        np.testing.assert_allclose(found, np.maximum(0, nearest - 1), atol=1e-6)


ORIENTATIONS = [''.join(axes) for axes in itertools.product('RL', 'AP', 'SI')] + ['PSR', 'SAL']


@settings(max_examples=8, deadline=None)
@given(
    spacing=st.tuples(*[st.sampled_from([0.7, 1.0, 1.2])] * 2, st.sampled_from([0.7, 1.0, 3.0])),
    orientation=st.sampled_from(ORIENTATIONS),
    turn=st.tuples(*[st.floats(-15, 15)] * 3),
    shift=st.tuples(*[st.floats(-9, 9)] * 3),
)
def test_voxel_size_and_orientation_change_nothing(
    landmarks, truth, spacing, orientation, turn, shift
):
    """The same lesions on any grid, in any pose: same regions, same distances."""
    native_from_mni = np.eye(4)
    native_from_mni[:3, :3] = Rotation.from_euler('xyz', turn, degrees=True).as_matrix()
    native_from_mni[:3, 3] = shift
    steps = nb.orientations.inv_ornt_aff(nb.orientations.axcodes2ornt(orientation), (1, 1, 1))
    affine = np.eye(4)
    affine[:3, :3] = steps[:3, :3].T * spacing
    mni_from_native = np.linalg.inv(native_from_mni)
    size = np.ceil(200 / np.asarray(spacing)).astype(int)
    middle = native_from_mni @ [0, -18, 10, 1]
    affine[:3, 3] = middle[:3] - affine[:3, :3] @ ((size - 1) / 2)
    labels = balls(tuple(size), affine, mni_from_native)
    found = locate_lesions(labels, affine, mni_from_native, landmarks)
    # in slices of three millimetres a ball is drawn up to half a slice longer or shorter
    slack = 1.0 + max(0.0, max(spacing) - 1.2) / 2
    for number, (*_, region) in enumerate(KNOWN.values(), start=1):
        assert found[number].region == region
        assert found[number].to_ventricle == pytest.approx(truth[number].to_ventricle, abs=slack)
        assert found[number].to_cortex == pytest.approx(truth[number].to_cortex, abs=slack)


def test_axes_turned_and_mirrored_give_the_same_numbers(landmarks):
    """Reordering the voxels of one image must not change a digit."""
    labels = balls(TEMPLATE_SHAPE, TEMPLATE_AFFINE, np.eye(4))
    image = nb.Nifti1Image(labels, TEMPLATE_AFFINE)
    wanted = locate_lesions(labels, TEMPLATE_AFFINE, np.eye(4), landmarks)
    for code in ('RAS', 'PSR'):
        turn = nb.orientations.ornt_transform(
            nb.orientations.io_orientation(image.affine), nb.orientations.axcodes2ornt(code)
        )
        turned = image.as_reoriented(turn)
        found = locate_lesions(np.asarray(turned.dataobj), turned.affine, np.eye(4), landmarks)
        assert {n: p.region for n, p in found.items()} == {n: p.region for n, p in wanted.items()}
        for number, location in wanted.items():
            assert found[number].to_ventricle == pytest.approx(location.to_ventricle, abs=1e-9)
            assert found[number].to_cortex == pytest.approx(location.to_cortex, abs=1e-9)


def test_distances_are_in_the_subjects_own_millimetres(landmarks):
    """A head half as large as the template has half the distances."""
    half = np.diag([2.0, 2, 2, 1])
    name = 'left semioval centre'
    affine = np.linalg.inv(half) @ TEMPLATE_AFFINE
    labels = balls(TEMPLATE_SHAPE, affine, half, (name,))
    small = locate_lesions(labels, affine, half, landmarks)[1]
    labels = balls(TEMPLATE_SHAPE, TEMPLATE_AFFINE, np.eye(4), (name,))
    large = locate_lesions(labels, TEMPLATE_AFFINE, np.eye(4), landmarks)[1]
    assert small.to_ventricle == pytest.approx(large.to_ventricle / 2, abs=0.5)


def test_the_smallest_lesion_reaches_the_template():
    affine = np.diag([0.25, 0.25, 0.25, 1.0])
    labels = np.zeros((4, 4, 4), np.int32)
    labels[1, 2, 3] = 1
    assert on_template(labels, affine, np.eye(4)).sum() == 1


# ----------------------------------------------------------------------- intensities


def test_ratios_are_means_over_healthy_white_matter():
    image = np.full(TEMPLATE_SHAPE, 80.0, np.float32)
    labels = balls(TEMPLATE_SHAPE, TEMPLATE_AFFINE, np.eye(4), ('pons', 'left semioval centre'))
    image[labels == 1], image[labels == 2] = 120, 40
    white = template_landmarks(labels > 0).white
    ratios = intensity_ratios(labels, TEMPLATE_AFFINE, np.eye(4), image, white)
    assert ratios == {1: pytest.approx(1.5), 2: pytest.approx(0.5)}
    image[labels == 1] = 0  # outside the field of view
    assert np.isnan(intensity_ratios(labels, TEMPLATE_AFFINE, np.eye(4), image, white)[1])
    none = np.zeros(TEMPLATE_SHAPE, bool)
    ratios = intensity_ratios(labels, TEMPLATE_AFFINE, np.eye(4), image, none)
    assert all(np.isnan(value) for value in ratios.values())


# ------------------------------------------------------------------------------- fit


def test_without_contrast_the_atlas_stays_and_says_why():
    brain = np.asarray(load_template().mask.dataobj) > 0
    flat = {'FLAIR': np.where(brain, 100, 0).astype(np.float32)}
    found = fit_landmarks(flat, brain, np.zeros_like(brain))
    assert found.source in ('fitted', 'template')
    assert found.note
    tiny = np.zeros_like(brain)
    tiny[90, 100, 80] = True
    found = fit_landmarks(flat, tiny, np.zeros_like(brain))
    assert found.source == 'template'
    assert np.array_equal(found.ventricles, region_atlas().ventricles)
    assert 'too small' in found.note


def test_an_exam_without_lesions_needs_no_fit(monkeypatch):
    monkeypatch.delattr(regions, 'fit_priors')
    labels = np.zeros((4, 4, 4), np.int32)
    brain = np.zeros(TEMPLATE_SHAPE, bool)
    table = lesion_table(labels, np.eye(4))
    done = describe_lesions(table, labels, np.eye(4), np.eye(4), {}, brain)
    assert list(done.table.columns) == list(LESION_COLUMNS)
    assert done.table.empty
    assert not done.regions.any()
    assert [done.columns[f'{name}_lesions'] for name in REGIONS] == [0, 0, 0, 0]
    assert done.columns['dissemination_2017'] == 'not met by the brain alone'


@pytest.fixture(scope='module')
def bench(project_root: Path):
    folder = project_root / 'benchmarks'
    if not folder.is_dir():
        pytest.skip('needs the benchmarks of a checkout')
    sys.path.insert(0, str(folder))
    import regions as bench

    yield bench
    sys.path.remove(str(folder))
    del sys.modules['regions']


@pytest.mark.slow
@pytest.mark.parametrize(
    ('seeds', 'with_t1w', 'wanted'),
    [((1, 2), True, 0.95), ((3,), False, 0.85)],
    ids=['flair-t1w', 'flair-alone'],
)
def test_planted_lesions_of_synthetic_heads(bench, seeds, with_t1w, wanted):
    found = [pair for seed in seeds for pair in bench.planted(seed, with_t1w)[0]]
    assert len(found) == 17 * len(seeds)
    assert {planted for planted, _ in found} == set(REGIONS)
    assert np.mean([planted == region for planted, region in found]) >= wanted


@pytest.mark.realdata
@pytest.mark.slow
def test_shares_of_real_lesions_are_plausible(real_data: Path, landmarks):
    rows = []
    for path in sorted((real_data / 'lesion-masks-mni').glob('*.nii.gz')):
        image = nb.load(path)
        labels = label_lesions(np.asanyarray(image.dataobj) > 0, 1.0, 6, 3.0)
        sizes = np.bincount(labels.ravel())
        locations = locate_lesions(labels, image.affine, np.eye(4), landmarks)
        rows += [(location.region, sizes[number]) for number, location in locations.items()]
    table = pd.DataFrame(rows, columns=['region', 'volume'])
    share = table.groupby('region')['volume'].sum() / table['volume'].sum()
    assert 0.6 < share['periventricular'] < 0.85
    assert 0.1 < share['juxtacortical'] < 0.3
    assert share['infratentorial'] < 0.08
    assert share['deep_white_matter'] < 0.2
