"""What the slice viewer of a report shows, gathered from the files of one exam."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nb
import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt

from mslesseg_app.reports.slices import Box, OrientedVolume, bounding_box, oriented, oriented_like
from mslesseg_app.reports.viewer import ViewerScene
from mslesseg_app.reports.volumes import Packed, pack_image, pack_labels, pack_map
from mslesseg_app.spatial.affines import Affine, compose, invert, read_itk
from mslesseg_app.spatial.resample import resample
from mslesseg_app.spatial.template import load_template

#: What is seen around the brain, in mm.
_RIM_MM = 6.0
#: How the room in a report is shared out; what one leaves over goes to the next.
_WEIGHTS = {'FLAIR': 3.0, 'T1w': 1.5, 'T2w': 1.5, 'before': 1.5, 'template': 0.4}
_MODALITIES = ('FLAIR', 'T1w', 'T2w')


@dataclass(frozen=True)
class ExamFiles:
    """The files of a finished exam, those that are there.

    Attributes
    ----------
    images : dict
        Modality to the preprocessed image on its own grid.
    to_mni : dict
        Modality to the ITK affine that resamples it onto the template.
    brain, labels, probability, uncertainty, change, difference : Path or None
        On the FLAIR's own grid.
    change_next : Path or None
        Change until the next session, on the FLAIR's own grid.
    before : ExamFiles or None
        The session that ``change`` compares with.
    session : str or None
    """

    images: Mapping[str, Path]
    to_mni: Mapping[str, Path]
    brain: Path | None = None
    labels: Path | None = None
    probability: Path | None = None
    uncertainty: Path | None = None
    change: Path | None = None
    change_next: Path | None = None
    difference: Path | None = None
    before: ExamFiles | None = None
    session: str | None = None


@dataclass(frozen=True)
class ExamImages:
    """Images of an exam, all on the FLAIR's own grid in RAS order.

    Attributes
    ----------
    images : dict
        ``FLAIR``, ``T1w``, ``T2w``, ``before`` (the FLAIR of the previous session).
    outlines : pair of images or None
        Lesions of the previous and of this session, each those of its own mask, with the codes
        of the change image; on this FLAIR's grid.
    """

    images: dict[str, Any]
    brain: Any
    labels: Any
    probability: Any = None
    uncertainty: Any = None
    change: Any = None
    difference: Any = None
    outlines: tuple[Any, Any] | None = None
    mni_from_flair: Affine | None = None
    before: str = ''


def load_exam(files: ExamFiles) -> ExamImages | None:
    """Resample all images of an exam to the grid of its FLAIR.

    Transforms between the images are those that were found against the template, put together,
    so that each image is interpolated once, linearly.

    Returns
    -------
    ExamImages or None
        None without a FLAIR, a brain mask and a lesion map.

    Raises
    ------
    DataError
        If a transform is damaged or an image lies on another grid than its FLAIR.
    """
    if 'FLAIR' not in files.images or files.brain is None or files.labels is None:
        return None
    flair = nb.as_closest_canonical(nb.load(files.images['FLAIR']))
    images = {'FLAIR': flair}
    mine = _transform(files, 'FLAIR')
    for name in _MODALITIES[1:]:
        other = _transform(files, name)
        if name in files.images and mine is not None and other is not None:
            images[name] = _onto(flair, files.images[name], compose(other, invert(mine)))
    before, outlines = files.before, None
    if before is not None and 'FLAIR' in before.images and mine is not None:
        theirs = _transform(before, 'FLAIR')
        if theirs is not None:
            move = compose(theirs, invert(mine))
            images['before'] = _onto(flair, before.images['FLAIR'], move)
            outlines = _own_outlines(files, before, move)
    return ExamImages(
        images=images,
        brain=_load_if_given(files.brain),
        labels=_load_if_given(files.labels),
        probability=_load_if_given(files.probability),
        uncertainty=_load_if_given(files.uncertainty),
        change=_load_if_given(files.change),
        difference=_load_if_given(files.difference),
        outlines=outlines,
        mni_from_flair=None if mine is None else invert(mine),
        before=f'ses-{before.session}' if before is not None and before.session else '',
    )


def _own_outlines(files: ExamFiles, before: ExamFiles, move: Affine) -> tuple[Any, Any] | None:
    """Return the lesions of both sessions on the grid of the later FLAIR, coded by change.

    Parameters
    ----------
    move : array (4, 4)
        From the later FLAIR to the earlier one.
    """
    if files.change is None or files.labels is None or before.labels is None:
        return None
    own = _coded(files.labels, files.change)
    theirs = _coded(before.labels, before.change_next)
    flair = nb.load(files.images['FLAIR'])
    return resample(theirs, flair.shape, flair.affine, move, 'nearest'), own


def _coded(labels: Path, change: Path | None) -> Any:
    """Return the codes of the change image within the lesions; 1 (stable) without a code."""
    image = nb.load(labels)
    inside = np.asarray(image.dataobj) > 0
    codes = np.asarray(nb.load(change).dataobj) if change else np.zeros(image.shape, np.uint8)
    coded = np.where(inside, np.maximum(codes, 1), 0).astype(np.uint8)
    return nb.Nifti1Image(coded, image.affine)


def viewer_scene(exam: ExamImages, room: int) -> ViewerScene | None:
    """Crop, quantise and pack the images of an exam.

    Parameters
    ----------
    room : int
        Bytes that the scene may take in the report.

    Returns
    -------
    ViewerScene or None
        None where not even the FLAIR and the lesions fit.
    """
    flair = oriented(exam.images['FLAIR'])
    labels = oriented_like(exam.labels, flair, 'The lesion map')
    brain = np.asarray(oriented_like(exam.brain, flair, 'The brain mask').data) > 0
    seen = _around(brain | (np.asarray(labels.data) > 0), flair.spacing)
    box = bounding_box(seen, flair.spacing, 2.0)
    cut, inside = cropped(flair, box), seen[box]
    overlays = _overlays(exam, flair, box, seen, room // 5)
    overlays['lesions'] = pack_labels(cropped(labels, box))
    left = room - sum(one.size for one in overlays.values())
    wanted = dict(exam.images)
    if exam.mni_from_flair is not None:
        wanted['template'] = _template(cut, exam.mni_from_flair)
    images: dict[str, Packed] = {}
    weights = {name: _WEIGHTS[name] for name in wanted}
    for name, image in wanted.items():
        share = weights.pop(name) / (_WEIGHTS[name] + sum(weights.values()))
        volume = oriented(image)
        part = volume if name == 'template' else cropped(volume, box)
        shown = inside if name != 'template' else np.asarray(part.data) > 0
        own = brain[box] if name != 'template' else shown
        packed = pack_image(part, shown, own, int(share * left))
        if packed is not None:
            images[name] = packed
            left -= packed.size
    if 'FLAIR' not in images:
        return None
    return ViewerScene(images, overlays, lesion_points(labels), exam.before)


def lesion_points(labels: OrientedVolume) -> dict[str, list[float]]:
    """Return for each lesion the middle of the voxel of it that is nearest to its centroid.

    Parameters
    ----------
    labels : OrientedVolume
        0 and the lesion ids.

    Returns
    -------
    dict
        Lesion id, as text, to x, y, z in RAS+ mm.
    """
    data = np.asarray(labels.data).astype(np.int32)
    where = np.argwhere(data > 0)
    ids = data[tuple(where.T)]
    points: dict[str, list[float]] = {}
    for value in np.unique(ids):
        own = where[ids == value]
        away = (own - own.mean(axis=0)) * labels.spacing
        nearest = own[int(np.argmin((away**2).sum(axis=1)))]
        point = nb.affines.apply_affine(labels.affine, nearest)
        points[str(int(value))] = [round(float(number), 2) for number in point]
    return points


def cropped(volume: OrientedVolume, box: Box) -> OrientedVolume:
    """Cut a box out of a volume; its voxels stay where they are."""
    affine = volume.affine.copy()
    affine[:3, 3] += volume.affine[:3, :3] @ [part.start for part in box]
    return OrientedVolume(volume.data[box], affine, volume.spacing)


def _overlays(
    exam: ExamImages, flair: OrientedVolume, box: Box, seen: NDArray[np.bool_], room: int
) -> dict[str, Packed]:
    found: dict[str, Packed] = {}
    for name, image in (('probability', exam.probability), ('uncertainty', exam.uncertainty)):
        if image is None:
            continue
        volume = oriented_like(image, flair, f'The {name}')
        top = 1.0 if name == 'probability' else float(np.nanmax(volume.data, initial=0))
        packed = pack_map(cropped(volume, box), seen[box], room, top=top) if top > 0 else None
        if packed is not None:
            found[name] = packed
    if exam.change is not None:
        found['change'] = pack_labels(cropped(oriented_like(exam.change, flair, 'Change'), box))
    if exam.outlines is not None:
        for name, image in zip(('outline_before', 'outline'), exam.outlines, strict=True):
            found[name] = pack_labels(cropped(oriented_like(image, flair, 'Outlines'), box))
    return found


def _around(mask: NDArray[np.bool_], spacing: NDArray[np.float64]) -> NDArray[np.bool_]:
    away = distance_transform_edt(~mask, sampling=spacing)
    return np.asarray(away <= _RIM_MM)


def _template(flair: OrientedVolume, mni_from_flair: Affine) -> Any:
    """Resample the template's brain to the FLAIR, with voxels of 2 mm, for comparison."""
    extent = np.array(flair.data.shape) * flair.spacing
    spacing = np.maximum(flair.spacing, 2.0)
    shape = np.ceil(extent / spacing).astype(int)
    grow = np.diag([*(spacing / flair.spacing), 1.0])
    grow[:3, 3] = (spacing / flair.spacing - 1) / 2
    brain = load_template().brain
    return resample(brain, (shape[0], shape[1], shape[2]), flair.affine @ grow, mni_from_flair)


def _onto(flair: Any, path: Path, other_from_flair: Affine) -> Any:
    return resample(nb.load(path), flair.shape, flair.affine, other_from_flair)


def _transform(files: ExamFiles, modality: str) -> Affine | None:
    path = files.to_mni.get(modality)
    return None if path is None else read_itk(path)


def _load_if_given(path: Path | None) -> Any:
    return None if path is None else nb.load(path)
