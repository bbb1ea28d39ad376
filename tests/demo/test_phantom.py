"""Physics of the synthetic scanner and the look of what it makes."""

from __future__ import annotations

import nibabel as nb
import numpy as np
import numpy.typing as npt
import pytest
from phantom_dataset import DemoDataset

from mslesseg_app.demo.anatomy import head_grid
from mslesseg_app.demo.contrast import INTENSITIES, MODALITIES, Modality
from mslesseg_app.demo.lesions import in_session
from mslesseg_app.demo.phantom import Phantom, coil_shading, lesion_intensity, pose, sample
from mslesseg_app.demo.protocols import SESSIONS, interleaved, session_protocols

CASES = [(session, modality) for session in (1, 2) for modality in MODALITIES]


def tissue(phantom: Phantom, session: int, modality: Modality, name: str) -> npt.NDArray[np.bool_]:
    """Voxels of an image that hold almost nothing but one healthy tissue."""
    protocol = session_protocols(session, 2.0)[modality]
    position = phantom.scanner_from_subject(modality, session)
    share = sample(getattr(phantom.brain, name), phantom.grid, protocol, position)
    return share > 0.92


def mean_of(image: nb.Nifti1Image, mask: npt.NDArray[np.bool_]) -> float:
    assert mask.sum() > 50
    return float(np.median(np.asanyarray(image.dataobj)[mask]))


@pytest.mark.parametrize(('session', 'modality'), CASES)
def test_contrast_order(
    demo: DemoDataset, phantom: Phantom, session: int, modality: Modality
) -> None:
    image = nb.load(demo.images[str(session), modality])
    gm, wm, csf = (
        mean_of(image, tissue(phantom, session, modality, name)) for name in ('gm', 'wm', 'csf')
    )
    if modality == 'T1w':
        assert csf < 0.5 * gm < gm < 0.85 * wm
    elif modality == 'T2w':
        assert 1.15 * wm < gm < 0.6 * csf
    else:
        assert csf < 0.4 * wm < wm < 0.95 * gm


@pytest.mark.parametrize('session', [1, 2])
def test_lesions_are_bright_on_flair(demo: DemoDataset, phantom: Phantom, session: int) -> None:
    image = nb.load(demo.images[str(session), 'FLAIR'])
    mask = np.asarray(nb.load(demo.masks[str(session)]).dataobj) > 0
    healthy = tissue(phantom, session, 'FLAIR', 'wm') & ~mask
    wm, gm = mean_of(image, healthy), mean_of(image, tissue(phantom, session, 'FLAIR', 'gm'))
    assert mean_of(image, mask) > 1.35 * wm
    assert mean_of(image, mask) > 1.1 * gm


def test_lesions_are_bright_on_t2w_and_not_bright_on_t1w(phantom: Phantom) -> None:
    for lesion in phantom.lesions:
        assert lesion_intensity(lesion, 'T2w') > 1.3 * INTENSITIES['gm']['T2w']
        assert lesion_intensity(lesion, 'T1w') < INTENSITIES['wm']['T1w']
        assert lesion_intensity(lesion, 'T1w') > INTENSITIES['csf']['T1w']


def test_brain_differs_from_the_template_but_not_much(phantom: Phantom) -> None:
    from nilearn import datasets
    from nilearn.image import resample_img

    grid = phantom.grid
    template = resample_img(
        datasets.load_mni152_brain_mask(resolution=1),
        target_affine=grid.affine,
        target_shape=grid.shape,
        interpolation='nearest',
        force_resample=True,
        copy_header=True,
    )
    theirs = np.asarray(template.dataobj) > 0
    overlap = 2 * (theirs & phantom.brain.mask).sum() / (theirs.sum() + phantom.brain.mask.sum())
    assert 0.9 < overlap < 0.985
    assert 10_000 < phantom.brain.ventricles.sum() * 8 < 60_000  # mm3


def test_shares_are_shares(phantom: Phantom) -> None:
    brain = phantom.brain
    total = brain.gm + brain.wm + brain.csf
    assert min(brain.gm.min(), brain.wm.min(), brain.csf.min()) >= 0
    assert total.max() <= 1 + 1e-5
    np.testing.assert_allclose(total[brain.mask], 1, atol=1e-5)


def test_head_is_larger_than_the_brain(phantom: Phantom) -> None:
    for volume in phantom.volumes.values():
        head = volume > 5
        assert 2 < head.sum() / phantom.brain.mask.sum() < 4
        assert not head[0].any()
        assert not head[:, 0, -1].any()


@pytest.mark.parametrize(('session', 'modality'), CASES)
def test_sampling_a_ramp_gives_the_ramp(session: int, modality: Modality) -> None:
    """The mean over a slice of something linear is its value in the middle of the slice."""
    grid, protocol = head_grid(4.0), session_protocols(session, 2.0)[modality]
    position = pose(np.random.default_rng(3), 5.0, 5.0)
    x, y, z = grid.axes()
    ramp = (1000 + 2 * x - 3 * y + 4 * z).astype(np.float32)
    image = sample(ramp, grid, protocol, position)
    index = np.indices(protocol.shape).reshape(3, -1)
    subject = (
        np.linalg.inv(position) @ protocol.affine @ np.vstack([index, np.ones_like(index[0])])
    )
    expected = 1000 + subject[0] * 2 - subject[1] * 3 + subject[2] * 4
    inside = (np.abs(subject[:3].T - [0, 0, -10]) < 80).all(axis=1)
    assert inside.sum() > 10_000
    np.testing.assert_allclose(image.ravel()[inside], expected[inside], atol=0.05)


def test_slices_integrate_over_their_thickness() -> None:
    grid = head_grid(1.0)
    sheet = np.zeros(grid.shape, np.float32)
    sheet[:, :, 132] = 1.0  # 1 mm thick
    protocol = session_protocols(1)['T2w']
    protocol = type(protocol)(**{**protocol.__dict__, 'tilt': 0.0})
    image = sample(sheet, grid, protocol, np.eye(4))
    through = image[image.shape[0] // 2, image.shape[1] // 2]
    assert through.max() < 0.5
    assert through.sum() * 4.0 == pytest.approx(1.0, rel=0.05)


def test_background_is_rayleigh_noise(demo: DemoDataset) -> None:
    image = nb.load(demo.images['1', 'FLAIR'])
    protocol = session_protocols(1, 2.0)['FLAIR']
    corner = np.asanyarray(image.dataobj)[:8, :8] / protocol.gain
    assert corner.mean() == pytest.approx(protocol.noise * np.sqrt(np.pi / 2), rel=0.05)
    assert (corner > 0).mean() > 0.9


def test_coil_shading_is_smooth_positive_and_near_one() -> None:
    field = coil_shading((40, 50, 30), 0.06, np.random.default_rng(1))
    assert 0.5 < field.min() < 0.99 < 1.01 < field.max() < 2
    assert max(np.abs(np.diff(field, axis=a)).max() for a in range(3)) < 0.05


def test_pose_is_rigid() -> None:
    matrix = pose(np.random.default_rng(5), 4.0, 5.0)
    np.testing.assert_allclose(matrix[:3, :3] @ matrix[:3, :3].T, np.eye(3), atol=1e-12)
    assert np.linalg.det(matrix) == pytest.approx(1.0)


def test_head_moves_between_sessions_and_images(phantom: Phantom) -> None:
    positions = [phantom.scanner_from_subject(m, s).round(6).tobytes() for s, m in CASES]
    assert len(set(positions)) == len(CASES)


def test_all_lesions_lie_inside_all_fields_of_view(phantom: Phantom) -> None:
    for session, modality in CASES:
        protocol = SESSIONS[session - 1][modality]
        voxel = np.linalg.inv(protocol.affine) @ phantom.scanner_from_subject(modality, session)
        for lesion in in_session(phantom.lesions, session):
            index = voxel @ [*lesion.centre, 1.0]
            assert (index[:3] > 0).all()
            assert (index[:3] < np.subtract(protocol.shape, 1)).all()


def test_interleaved_slices() -> None:
    assert interleaved(5, 10.0) == [0.0, 6.0, 2.0, 8.0, 4.0]
