"""Writing images on a grid that stays what it was: the subject's own, RAS+, or the template's."""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path
from typing import Any

import nibabel as nb
import numpy as np
import numpy.typing as npt

from mslesseg_app.spatial.affines import without_shear

_ALIGNED_CODE = 4
#: Elements of an affine without shear may differ by this much (mm): ITK accepts it.
_SHEAR = 1e-4
#: Window bits by which zlib writes gzip, without time and name.
_GZIP_FORMAT = 31
#: Steps of a probability, as many as there are in 1.
_STEPS = np.float32(2**16)


def like(reference: Any, data: npt.NDArray[Any], dtype: npt.DTypeLike) -> nb.Nifti1Image:
    """Make an image on the grid of another, with its qform, sform and codes bit for bit.

    Where the reference has an sform only, what else its header says of the grid is made to agree
    with it, because some programs read it: the voxel sizes and, if the sform holds the little
    shear that rounding leaves, a qform without it.

    Parameters
    ----------
    reference : nibabel.Nifti1Image
        Gives shape, affines and units; its description, scaling and extensions are dropped.
    data : array (X, Y, Z)
        Values of the new image.
    dtype : dtype
        On-disk type; ``data`` is converted to it.
    """
    header = reference.header.copy()
    header.extensions.clear()
    for name in ('descrip', 'intent_name', 'aux_file', 'db_name'):
        if name in header:
            header[name] = b''
    header['cal_min'] = header['cal_max'] = 0
    header.set_data_dtype(dtype)
    header.set_slope_inter(1, 0)
    header.set_data_shape(data.shape)
    header.set_xyzt_units('mm')
    made = type(reference)(np.asarray(data, dtype=dtype), None, header)
    if isinstance(made, nb.Nifti1Image):
        _complete_header(made)
    return made


def _complete_header(image: Any) -> None:
    """Make the rest of a header agree with its sform, where there is no qform."""
    header = image.header
    code = int(header['sform_code'])
    if int(header['qform_code']) > 0 or code <= 0:
        return
    affine = header.get_best_affine()
    sizes = nb.affines.voxel_sizes(affine)
    if not np.allclose(header['pixdim'][1:4], sizes, rtol=1e-3):
        header['pixdim'][1:4] = sizes
    if not np.allclose(affine, without_shear(affine), rtol=0, atol=_SHEAR):
        header.set_qform(affine, code, strip_shears=True)


def on_template(data: npt.NDArray[Any], dtype: npt.DTypeLike) -> nb.Nifti1Image:
    """Make an image on the 1 mm grid of MNI152NLin6Asym, both codes 4 (MNI 152)."""
    from mslesseg_app.spatial.template import TEMPLATE_AFFINE

    image = nb.Nifti1Image(np.asarray(data, dtype=dtype), TEMPLATE_AFFINE)
    image.header.set_data_dtype(dtype)
    image.header.set_xyzt_units('mm')
    image.set_qform(TEMPLATE_AFFINE, _ALIGNED_CODE)
    image.set_sform(TEMPLATE_AFFINE, _ALIGNED_CODE)
    return image


def to_ras(image: Any) -> nb.Nifti1Image:
    """Permute and flip the axes so that they run closest to right, anterior, superior."""
    turned = nb.as_closest_canonical(image)
    return nb.Nifti1Image(np.ascontiguousarray(turned.dataobj), turned.affine)


def from_ras(image: Any, original: Any) -> npt.NDArray[Any]:
    """Undo :func:`to_ras`: return the data of ``image`` in the axis order of ``original``."""
    here = nb.io_orientation(image.affine)
    there = nb.io_orientation(original.affine)
    turn = nb.orientations.ornt_transform(here, there)
    return np.ascontiguousarray(nb.orientations.apply_orientation(image.dataobj, turn))


def rounded_share(data: npt.NDArray[np.float32], *, down: bool = False) -> npt.NDArray[np.float32]:
    """Round probabilities to steps of 1/65536; their files take a twentieth of the room.

    Rounded `down`, a probability below one half stays below it.
    """
    found: npt.NDArray[np.float32] = (np.floor if down else np.rint)(data * _STEPS) / _STEPS
    return found


def save(image: Any, path: Path) -> str:
    """Write an image as ``.nii.gz`` and return its path as text, as Nipype wants it.

    Real numbers hardly repeat themselves: zlib looks for runs only, in half the time, and the
    file is not larger.
    """
    real = image.get_data_dtype().kind == 'f'
    strategy = zlib.Z_RLE if real else zlib.Z_DEFAULT_STRATEGY
    packer = zlib.compressobj(1, zlib.DEFLATED, _GZIP_FORMAT, 9, strategy)
    path.write_bytes(packer.compress(image.to_bytes()) + packer.flush())
    return str(path)


def compressed(image: Any, level: int = 5) -> bytes:
    """Return ``.nii.gz`` whose gzip header has neither time nor name: same data, same bytes."""
    return gzip.compress(image.to_bytes(), compresslevel=level, mtime=0)


def describe_geometry(image: Any) -> str:
    """Return the grid in words, ``256 × 256 × 48 voxels of 0.94 × 0.94 × 3 mm``."""
    shape = ' × '.join(str(length) for length in image.shape[:3])
    zooms = ' × '.join(f'{size:.3g}' for size in nb.affines.voxel_sizes(image.affine))
    return f'{shape} voxels of {zooms} mm'
