"""From registered images to prepared training files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage as ndi

from mslesseg_app.errors import DataError, NoInputError
from mslesseg_app.training.data import (
    CHANNELS,
    IGNORE,
    Exam,
    Pattern,
    quantise,
    to_box,
    write_exam,
    write_pattern,
)

Array = npt.NDArray[Any]

_DEEP_MM = 14.0
"""CSF this far below the surface of the brain counts as ventricle."""


@dataclass(frozen=True)
class Source:
    """Where one exam lies.

    Attributes
    ----------
    name, subject : str
        Exam and person. Exams and lesion masks of one person must name the same subject.
    images : mapping of modality to Path
        FLAIR, T1w, T2w on the template grid, without skull.
    mask : Path or None
        Manual lesion mask.
    """

    name: str
    subject: str
    images: Mapping[str, Path] = field(default_factory=dict)
    mask: Path | None = None


def find_ljubljana(folder: Path) -> list[Source]:
    """Find patients of the Ljubljana database on the template grid (``patientNN/…``)."""
    names = {'FLAIR': 'FLAIR', 'T1w': 'T1', 'T2w': 'T2'}
    return [
        Source(
            case.name,
            f'ljubljana-{case.name}',
            {key: case / f'{name}.nii.gz' for key, name in names.items()},
            case / 'MASK.nii.gz',
        )
        for case in sorted(folder.glob('patient*'))
    ]


def find_ljubljana_masks(folder: Path) -> list[Source]:
    """Find lesion masks of the same database (``patientNN.nii.gz``, the same people)."""
    return [
        Source(path.name.split('.')[0], f'ljubljana-{path.name.split(".")[0]}', mask=path)
        for path in sorted(folder.glob('patient*.nii.gz'))
    ]


def find_mslesseg(folder: Path) -> list[Source]:
    """Find the training cases of MSLesSeg (``train/P<i>/T<k>/P<i>_T<k>_FLAIR.nii.gz``)."""
    names = {'FLAIR': 'FLAIR', 'T1w': 'T1', 'T2w': 'T2'}
    found = []
    for visit in sorted(folder.glob('train/P*/T*')):
        stem = f'{visit.parent.name}_{visit.name}'
        images = {key: visit / f'{stem}_{name}.nii.gz' for key, name in names.items()}
        images = {key: path for key, path in images.items() if path.is_file()}
        found.append(
            Source(
                stem.replace('_', '-'),
                f'mslesseg-{visit.parent.name}',
                images,
                visit / f'{stem}_MASK.nii.gz',
            )
        )
    return found


def find_unlabelled(folder: Path) -> list[Source]:
    """Find registered exams without mask (``<person>-<session>/{FLAIR,T1w,T2w}.nii.gz``)."""
    found = []
    for case in sorted(folder.glob('*/FLAIR.nii.gz')):
        images = {key: case.parent / f'{key}.nii.gz' for key in CHANNELS}
        present = {key: path for key, path in images.items() if path.is_file()}
        name = case.parent.name
        found.append(Source(name, f'unlabelled-{name.split("-")[0]}', present))
    return found


def register_bids(bids: Path, folder: Path, threads: int = 1) -> None:
    """Register the exams of a BIDS folder with sessions for `find_unlabelled`.

    Bias correction, anchored alignment and brain mask are those of the App. Exams that are
    there already stay.
    """
    for anatomy in sorted(bids.glob('sub-*/ses-*/anat')):
        name = '-'.join(part.split('-', 1)[1] for part in anatomy.parts[-3:-1])
        if not (folder / name / 'FLAIR.nii.gz').is_file():
            _register(anatomy, folder / name, threads)


def _register(anatomy: Path, folder: Path, threads: int) -> None:
    import nibabel as nib

    from mslesseg_app.spatial.bias import correct_bias
    from mslesseg_app.spatial.brain import brain_mask
    from mslesseg_app.spatial.exam import align_exam
    from mslesseg_app.spatial.resample import resample
    from mslesseg_app.spatial.template import TEMPLATE_AFFINE, TEMPLATE_SHAPE

    found = {m: sorted(anatomy.glob(f'*_{m}.nii.gz')) for m in CHANNELS}
    images: dict[str, Any] = {
        m: correct_bias(nib.as_closest_canonical(nib.load(paths[0])))
        for m, paths in found.items()
        if paths
    }
    affines = align_exam(images, threads=threads).moving_from_mni
    moved = {
        m: resample(img, TEMPLATE_SHAPE, TEMPLATE_AFFINE, affines[m], order=1)
        for m, img in images.items()
    }
    brain = np.asarray(brain_mask(moved).dataobj) > 0
    folder.mkdir(parents=True, exist_ok=True)
    for modality in reversed(list(moved)):
        values = np.asarray(moved[modality].dataobj, dtype=np.float32).clip(0) * brain
        nib.save(nib.Nifti1Image(values, TEMPLATE_AFFINE), folder / f'{modality}.nii.gz')


def prepare_exam(source: Source, folder: Path, lesion_prob: Array | None = None) -> Path:
    """Read, segment and write one exam.

    Parameters
    ----------
    source : Source
        With a FLAIR image.
    folder : Path
        Prepared folder.
    lesion_prob : array (182, 218, 182), optional
        For an exam without manual mask: probability of lesion from a trained network. Clear
        lesions become labels, doubtful voxels unknown. Without it, bright white matter is
        unknown.

    Raises
    ------
    DataError
        For another grid.
    """
    if 'FLAIR' not in source.images:
        raise NoInputError(f'{source.name} has no FLAIR image.')
    images = {key: read_template_image(path) for key, path in source.images.items()}
    return write_exam(folder, exam_from_arrays(source, images, lesion_prob))


def exam_from_arrays(
    source: Source, images: Mapping[str, Array], lesion_prob: Array | None = None
) -> Exam:
    """Make an exam of images on the template grid; see `prepare_exam`."""
    brain = ndi.binary_fill_holes(np.any([image > 0 for image in images.values()], axis=0))
    anatomy = 'T1w' if 'T1w' in images else 'FLAIR'
    tissues = segment_tissues(images[anatomy], brain)
    if source.mask is not None:
        label = (read_template_image(source.mask) > 0.5).astype(np.uint8)
    else:
        label = guess_label(images['FLAIR'], tissues, lesion_prob)
    tissues = lesion_is_white_matter(tissues, label > 0)
    boxed = [quantise(to_box(images[c])) if c in images else None for c in CHANNELS]
    empty = np.zeros(to_box(label).shape, np.uint16)
    stacked = np.stack([empty if image is None else image for image in boxed])
    present = np.array([c in images for c in CHANNELS])
    kept = np.stack([to_box(t) for t in tissues])
    kept = np.concatenate([kept, ventricles(kept[0], to_box(brain))[None]])
    levels = tissue_levels(stacked, present, kept, to_box(label))
    return Exam(
        source.name,
        source.subject,
        stacked,
        present,
        to_box(label),
        _coarse(kept),
        levels,
    )


def prepare_anatomy(name: str, tissues: Array, folder: Path) -> Path:
    """Write an exam without images, for painted brains.

    Parameters
    ----------
    name : str
        Name of the exam and of its subject.
    tissues : float array (3, 182, 218, 182)
        CSF, grey and white matter.
    folder : Path
        Prepared folder.
    """
    kept = np.stack([to_box(t) for t in tissues])
    kept = np.concatenate([kept, ventricles(kept[0], kept.sum(0) > 0.5)[None]])
    shape = kept.shape[1:]
    exam = Exam(
        name,
        name,
        np.zeros((3, *shape), np.uint16),
        np.zeros(3, bool),
        np.zeros(shape, np.uint8),
        _coarse(kept),
        np.zeros((3, 3), np.float32),
    )
    return write_exam(folder, exam)


def prepare_pattern(source: Source, folder: Path) -> Path:
    """Write the lesions of a mask as a pattern."""
    if source.mask is None:
        raise NoInputError(f'{source.name} has no lesion mask.')
    mask = to_box((read_template_image(source.mask) > 0.5).astype(np.uint8))
    components, count = ndi.label(mask, structure=np.ones((3, 3, 3)))
    if not count:
        raise DataError(f'{source.mask} is empty.', 'Leave it out.')
    return write_pattern(folder, Pattern(source.name, source.subject, components.astype(np.int16)))


def read_template_image(path: Path) -> npt.NDArray[np.float32]:
    """Read an image that must lie on the template grid."""
    import nibabel as nib

    from mslesseg_app.spatial.template import is_template_grid

    if not path.is_file():
        raise NoInputError(f'{path} does not exist.')
    img: Any = nib.load(path)
    if not is_template_grid(img):
        raise DataError(f'{path} is not on the template grid.', 'Register it first.')
    return np.asarray(img.dataobj, dtype=np.float32)


def template_tissues() -> npt.NDArray[np.float32]:
    """Return CSF, grey and white matter of the template, (3, 182, 218, 182)."""
    from mslesseg_app.spatial.template import tissue_prior

    return np.stack([tissue_prior('csf'), tissue_prior('gm'), tissue_prior('wm')])


def segment_tissues(image: Array, brain: npt.NDArray[np.bool_]) -> npt.NDArray[np.float32]:
    """Segment CSF, grey and white matter by a Gaussian mixture with spatial priors.

    One Gaussian a class, started at the prior's weighted mean; the priors are blurred by 2 mm
    and floored, so that they guide but do not decide (Ashburner and Friston, 2005, in the
    simplest form). The image is bias-corrected first.

    Parameters
    ----------
    image : array (182, 218, 182)
        T1w, or another contrast.
    brain : bool array

    Returns
    -------
    float32 array (3, 182, 218, 182)
        Posterior probabilities; zero outside the brain.
    """
    prior = np.stack([ndi.gaussian_filter(p, 2.0) for p in template_tissues()]) + 0.03
    seen = brain & (image > 0)
    values = _unbiased(image, seen)[seen].astype(np.float64)
    weight = prior[:, seen] / prior[:, seen].sum(0)
    posterior = weight
    for _ in range(15):
        total = posterior.sum(1)
        mean = (posterior @ values) / total
        squares = (values - mean[:, None]) ** 2
        var = (posterior * squares).sum(axis=1)
        sd = np.sqrt(var / total)[:, None] + 1e-6 * values.max()
        density = np.exp(-0.5 * ((values - mean[:, None]) / sd) ** 2) / sd
        posterior = weight * density + 1e-30
        posterior /= posterior.sum(0)
    result = np.zeros((3, *image.shape), np.float32)
    result[:, seen] = posterior
    result[0, brain & ~seen] = 1
    return result


def _unbiased(image: Array, brain: npt.NDArray[np.bool_]) -> Array:
    import nibabel as nib

    from mslesseg_app.spatial.bias import correct_bias
    from mslesseg_app.spatial.template import TEMPLATE_AFFINE

    img = nib.Nifti1Image(np.where(brain, image, 0).astype(np.float32), TEMPLATE_AFFINE)
    mask = nib.Nifti1Image(brain.astype(np.uint8), TEMPLATE_AFFINE)
    corrected: Any = correct_bias(img, mask)
    return np.asarray(corrected.dataobj, dtype=np.float32)


def ventricles(csf: Array, brain: npt.NDArray[np.bool_]) -> npt.NDArray[np.float32]:
    """Return CSF far below the surface of the brain, as float (X, Y, Z)."""
    solid = ndi.binary_fill_holes(ndi.binary_closing(np.pad(brain, 8), iterations=6))
    depth = ndi.distance_transform_edt(solid)[8:-8, 8:-8, 8:-8]
    return (csf * (depth > _DEEP_MM)).astype(np.float32)


def lesion_is_white_matter(tissues: Array, lesion: npt.NDArray[np.bool_]) -> Array:
    """Return tissues in which lesions are white matter, which they mostly are."""
    result = tissues.copy()
    result[:, lesion] = np.array([0, 0, 1], result.dtype)[:, None]
    return result


def guess_label(flair: Array, tissues: Array, lesion_prob: Array | None) -> npt.NDArray[np.uint8]:
    """Return labels for an exam that nobody segmented, mostly to ignore what may be lesion.

    Bright voxels where the template expects white matter are unknown; with the probability of a
    trained network, its clear lesions are labels and its doubtful voxels unknown instead.
    """
    label = np.zeros(flair.shape, np.uint8)
    if lesion_prob is not None:
        label[ndi.binary_dilation(lesion_prob > 0.15, iterations=1)] = IGNORE
        label[lesion_prob > 0.6] = 1
        return label
    white = (tissues[2] > 0.9) & (flair > 0)
    centre = np.median(flair[white])
    spread = 1.4826 * np.median(np.abs(flair[white] - centre))
    expected = ndi.gaussian_filter(template_tissues()[2], 2.5) > 0.4
    bright = (flair > centre + 3 * spread) & expected
    bright = ndi.binary_opening(bright, structure=np.ones((2, 2, 2)))
    label[ndi.binary_dilation(bright, iterations=2)] = IGNORE
    return label


def tissue_levels(
    images: Array, present: npt.NDArray[np.bool_], tissues: Array, label: Array
) -> npt.NDArray[np.float32]:
    """Return the median of each channel in pure CSF, grey and white matter, (3, 3)."""
    levels = np.zeros((3, 3), np.float32)
    for c in np.flatnonzero(present):
        for t in range(3):
            pure = (tissues[t] > 0.9) & (label == 0) & (images[c] > 0)
            levels[c, t] = np.median(images[c][pure]) if pure.any() else 0
    return levels


def _coarse(tissues: Array) -> npt.NDArray[np.uint8]:
    """Return probabilities as 16 levels of 17, which compress well."""
    return (np.rint(np.clip(tissues, 0, 1) * 15) * 17).astype(np.uint8)
