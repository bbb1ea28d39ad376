"""Scanning the phantom: from the head and its lesions to images as a scanner writes them.

The order is that of physics: position of the head, slices and their thickness, coil
sensitivity, noise, storage as integers.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import nibabel as nb
import numpy as np
import numpy.typing as npt
from scipy import ndimage
from scipy.spatial.transform import Rotation

from mslesseg_app.demo.anatomy import Brain, Float, Grid, head_grid, make_brain
from mslesseg_app.demo.contrast import INTENSITIES, LESION, MODALITIES, Modality, healthy_volumes
from mslesseg_app.demo.lesions import Lesion, in_session, lesion_mask, place_lesions, voxel_shares

Affine = npt.NDArray[np.float64]

LESION_EDGE_MM = 1.6
# integer steps for one standard deviation of the noise: enough to lose nothing, small files
LEVELS_PER_NOISE = {'2D': 4.0, '3D': 1.25}


@dataclass(frozen=True)
class Protocol:
    """How one image is acquired.

    Attributes
    ----------
    modality : str
        T1w, T2w or FLAIR.
    orientation : str
        Anatomical directions of the three voxel axes, for example 'LAS' (axial slices).
    spacing : tuple of float
        Distance of voxels along those axes, mm; the last one is across the slices.
    field_of_view : tuple of float
        Extent along those axes, mm.
    centre : tuple of float
        Middle of the field of view in the frame of the subject's usual position, mm.
    tilt : float
        Rotation of the slices about the left-right axis, degrees (positive: front up).
    acquisition : str
        '2D' (slices of full thickness) or '3D'.
    noise : float
        Standard deviation where white matter is 100.
    shading : float
        Standard deviation of the logarithm of the coil sensitivity.
    gain : float
        Scanner units for one unit of the phantom.
    sidecar : dict
        BIDS metadata of the sequence.
    """

    modality: Modality
    orientation: str
    spacing: tuple[float, float, float]
    field_of_view: tuple[float, float, float]
    centre: tuple[float, float, float]
    tilt: float
    acquisition: str
    noise: float
    shading: float
    gain: float
    sidecar: dict[str, Any] = field(default_factory=dict)

    def coarser(self, factor: float) -> Protocol:
        """The same protocol with larger voxels; thick slices keep their thickness."""
        x, y, z = self.spacing
        across = z if self.acquisition == '2D' else z * factor
        return Protocol(**{**self.__dict__, 'spacing': (x * factor, y * factor, across)})

    @property
    def shape(self) -> tuple[int, int, int]:
        """Voxels along the three axes."""
        x, y, z = (
            round(length / step)
            for length, step in zip(self.field_of_view, self.spacing, strict=True)
        )
        return x, y, z

    @property
    def affine(self) -> Affine:
        """Voxel to scanner millimetres, 4x4."""
        directions = nb.orientations.inv_ornt_aff(
            nb.orientations.axcodes2ornt(self.orientation), (1, 1, 1)
        )[:3, :3].T
        tilted = Rotation.from_euler('x', self.tilt, degrees=True).as_matrix() @ directions
        affine = np.eye(4)
        affine[:3, :3] = tilted * np.asarray(self.spacing)
        middle = (np.asarray(self.shape) - 1) / 2.0
        affine[:3, 3] = np.asarray(self.centre) - affine[:3, :3] @ middle
        return affine


def pose(rng: np.random.Generator, degrees: float, millimetres: float) -> Affine:
    """A small random rigid motion, 4x4, about the middle of the head."""
    angles = rng.uniform(-degrees, degrees, 3)
    matrix = np.eye(4)
    matrix[:3, :3] = Rotation.from_euler('xyz', angles, degrees=True).as_matrix()
    matrix[:3, 3] = rng.uniform(-millimetres, millimetres, 3)
    return matrix


@dataclass(frozen=True)
class Phantom:
    """One subject: a brain, the head around it and lesions.

    Attributes
    ----------
    seed : int
        From which everything follows.
    brain : Brain
        Tissue shares on the head grid.
    lesions : tuple of Lesion
        All lesions of all sessions, at their largest.
    """

    seed: int
    brain: Brain
    lesions: tuple[Lesion, ...]

    @property
    def grid(self) -> Grid:
        """The head grid."""
        return self.brain.grid

    @cached_property
    def volumes(self) -> dict[Modality, Float]:
        """Noise-free images of the healthy head on the head grid, white matter about 100."""
        return healthy_volumes(self.brain, np.random.default_rng([self.seed, 2]))

    def scanner_from_subject(self, modality: Modality, session: int) -> Affine:
        """Position of the head during one acquisition, 4x4 rigid, mm.

        The subject lies differently in each session and moves a little between images.
        """
        index = MODALITIES.index(modality)
        between = pose(np.random.default_rng([self.seed, 3, session]), 4.0, 5.0)
        within = pose(np.random.default_rng([self.seed, 4, session, index]), 1.2, 1.5)
        return between @ within


def make_phantom(seed: int = 1, resolution: float = 1.0) -> Phantom:
    """Build a subject.

    Parameters
    ----------
    seed : int
        Same seed and resolution, same subject.
    resolution : float
        Voxel edge of the head grid, mm; 2 is coarse but quick.
    """
    brain = make_brain(head_grid(resolution), np.random.default_rng([seed, 0]))
    return Phantom(seed, brain, place_lesions(brain, np.random.default_rng([seed, 1])))


def sample(volume: Float, grid: Grid, protocol: Protocol, scanner_from_subject: Affine) -> Float:
    """Bring a volume of the head onto the grid of an image.

    Parameters
    ----------
    volume : ndarray
        Values on the head grid.
    grid : Grid
        The head grid.
    protocol : Protocol
        The image.
    scanner_from_subject : ndarray, shape (4, 4)
        Position of the head.

    Returns
    -------
    ndarray of float32
        Each voxel is the mean over the thickness of its slice, with linear interpolation.
    """
    step = max(1, round(protocol.spacing[2] / max(grid.spacing, 0.8)))
    fine = np.diag([1.0, 1.0, 1.0 / step, 1.0])
    fine[2, 3] = 0.5 / step - 0.5
    index = (
        np.linalg.inv(grid.affine) @ np.linalg.inv(scanner_from_subject) @ protocol.affine @ fine
    )
    x, y, z = protocol.shape
    sampled = ndimage.affine_transform(
        volume, index[:3, :3], index[:3, 3], (x, y, z * step), order=1, mode='constant'
    )
    image: Float = sampled.reshape(x, y, z, step).mean(axis=3, dtype=np.float32)
    return image


def lesion_intensity(lesion: Lesion, modality: Modality) -> float:
    """Signal of the middle of a lesion where white matter is 100."""
    white = INTENSITIES['wm'][modality]
    change = (LESION[modality] - white) * lesion.brightness
    return white + change * (lesion.hole if modality == 'T1w' else 1.0)


def scan(phantom: Phantom, protocol: Protocol, session: int) -> nb.Nifti1Image:
    """Acquire one image.

    Parameters
    ----------
    phantom : Phantom
        The subject.
    protocol : Protocol
        The sequence and its grid.
    session : int
        1 or 2: decides the position, the lesions and the noise.

    Returns
    -------
    nibabel.Nifti1Image
        int16 with a scale factor; qform and sform equal, both of code 1 (scanner).
    """
    modality = protocol.modality
    scanner_from_subject = phantom.scanner_from_subject(modality, session)
    image = sample(phantom.volumes[modality], phantom.grid, protocol, scanner_from_subject)
    subject_from_voxel = np.linalg.inv(scanner_from_subject) @ protocol.affine
    for lesion in in_session(phantom.lesions, session):
        box, share = voxel_shares(lesion, protocol.shape, subject_from_voxel, LESION_EDGE_MM)
        part = image[box]
        part += (share * (lesion_intensity(lesion, modality) - part)).astype(np.float32)
    rng = np.random.default_rng([phantom.seed, 5, session, MODALITIES.index(modality)])
    image *= coil_shading(protocol.shape, protocol.shading, rng)
    return store(_rician(image, protocol.noise, rng), protocol)


def session_mask(phantom: Phantom, protocol: Protocol, session: int) -> nb.Nifti1Image:
    """The known lesions of a session on the grid of an image (uint8, 0 and 1)."""
    scanner_from_subject = phantom.scanner_from_subject(protocol.modality, session)
    subject_from_voxel = np.linalg.inv(scanner_from_subject) @ protocol.affine
    mask = lesion_mask(in_session(phantom.lesions, session), protocol.shape, subject_from_voxel)
    return _with_codes(nb.Nifti1Image(mask, protocol.affine))


def coil_shading(shape: tuple[int, int, int], strength: float, rng: np.random.Generator) -> Float:
    """Smooth positive sensitivity map (a bias field) of mean about one over an image grid.

    The exponential of a random polynomial of second order in the position within the field of
    view; ``strength`` is about the standard deviation of its logarithm.
    """
    axes = [np.linspace(-1.0, 1.0, n, dtype=np.float32) for n in shape]
    x, y, z = axes[0][:, None, None], axes[1][None, :, None], axes[2][None, None, :]
    terms = (x, y, z, x * y, x * z, y * z, x * x - 0.33, y * y - 0.33, z * z - 0.33)
    weights = rng.normal(0.0, strength, len(terms)).astype(np.float32)
    out = np.zeros(shape, np.float32)
    for weight, term in zip(weights, terms, strict=True):
        out += weight * term
    return np.exp(out, out=out)


def _rician(image: Float, noise: float, rng: np.random.Generator) -> Float:
    """Magnitude of a complex signal with Gaussian noise in both channels."""
    real = image + np.float32(noise) * rng.standard_normal(image.shape, dtype=np.float32)
    imaginary = np.float32(noise) * rng.standard_normal(image.shape, dtype=np.float32)
    magnitude: Float = np.hypot(real, imaginary)
    return magnitude


def store(image: Float, protocol: Protocol) -> nb.Nifti1Image:
    """Round to int16 in steps that are finer than the noise, as a scanner would."""
    step = protocol.noise / LEVELS_PER_NOISE[protocol.acquisition]
    levels = np.clip(np.rint(image / np.float32(step)), 0, 32767).astype(np.int16)
    out = _with_codes(nb.Nifti1Image(levels, protocol.affine))
    out.header.set_slope_inter(step * protocol.gain, 0.0)
    return out


def _with_codes(image: nb.Nifti1Image) -> nb.Nifti1Image:
    """Give an image equal qform and sform of code 1, and its units."""
    image.set_sform(image.affine, 1)
    image.set_qform(image.affine, 1)
    image.header.set_xyzt_units('mm', 'sec')
    return image
