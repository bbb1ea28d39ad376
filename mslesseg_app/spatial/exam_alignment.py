"""Aligning the images of one exam with each other and with the template."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache, partial
from typing import Any, Literal

import nibabel as nb
import numpy as np

from mslesseg_app.core.errors import AlignmentError
from mslesseg_app.spatial import quality
from mslesseg_app.spatial.affines import Affine, apply_affine, compose, invert
from mslesseg_app.spatial.between import disagreement
from mslesseg_app.spatial.pose import nearest_rigid
from mslesseg_app.spatial.registration import Alignment, Reference, align
from mslesseg_app.spatial.resample import resample
from mslesseg_app.spatial.template import TEMPLATE_AFFINE, brain_distance, load_template

Strategy = Literal['anchored', 'independent']

#: Order in which modalities are tried as the anchor.
ANCHOR_ORDER = ('FLAIR', 'T1w', 'T2w')
#: The template's brain mask is grown by this much (mm), so that its border counts.
_RIM_MM = 8
#: A point in the middle of the template's brain (mm).
BRAIN_CENTRE = (0.0, -20.0, 10.0)


@dataclass(frozen=True)
class ExamAlignment:
    """The alignment of all images of an exam.

    Attributes
    ----------
    anchor : str or None
        Modality that was aligned to the template; None with strategy ``independent``.
    moving_from_mni : dict of str to ndarray (4, 4)
        For each modality, RAS+ mm.
    quality : dict of str to dict of str to float
        Numbers of each alignment, see `quality.check_alignment`.
    failed : list of str
        Modalities whose alignment cannot be trusted.
    reasons : dict of str to str
        Why, for each whose status is not ``pass``.
    """

    anchor: str | None
    moving_from_mni: dict[str, Affine]
    quality: dict[str, dict[str, float]]
    failed: list[str] = field(default_factory=list)
    reasons: dict[str, str] = field(default_factory=dict)

    def demand_trust(self) -> None:
        """Raise AlignmentError if any alignment cannot be trusted."""
        if self.failed:
            reasons = '; '.join(f'{name}: {self.reasons[name]}' for name in self.failed)
            raise AlignmentError(
                f'The alignment to the template cannot be trusted ({reasons}).',
                'Check the image: is it a head, is its orientation right? To go on all the '
                'same, with a red box in the report, use --on-failed-alignment flag; to leave an '
                'image out, --ignore t1w or t2w.',
            )

    def checks(self) -> dict[str, Any]:
        """Return the anchor, and the numbers, the status and its reason for each image."""
        images = {
            name: {
                'numbers': {key: float(value) for key, value in numbers.items()},
                'status': 'fail'
                if name in self.failed
                else 'check'
                if name in self.reasons
                else 'pass',
                'reason': self.reasons.get(name, ''),
            }
            for name, numbers in self.quality.items()
        }
        return {'anchor': self.anchor, 'images': images}


@cache
def search_region() -> Any:
    """Return the template's brain mask, grown by a rim, as an image (uint8)."""
    grown = brain_distance() <= _RIM_MM
    return nb.Nifti1Image(grown.astype(np.uint8), TEMPLATE_AFFINE)


def in_memory(img: Any) -> Any:
    """Return an image whose values are read from its file, and decompressed, only once."""
    if not nb.is_proxy(img.dataobj):
        return img
    return type(img)(np.asanyarray(img.dataobj), img.affine, img.header)


@cache
def template_reference(seed: int) -> Reference:
    """Return the template's brain and its rim, made ready once for all images."""
    return Reference(load_template().brain, search_region(), seed)


def anchor_reference(anchor: Any, anchor_from_mni: Affine, seed: int) -> Reference:
    """Return an anchor within the brain and its rim, made ready for the images of its session."""
    region = resample(
        search_region(), anchor.shape, anchor.affine, invert(anchor_from_mni), 'nearest'
    )
    return Reference(anchor, region, seed)


def align_exam(
    images: Mapping[str, Any],
    *,
    strategy: Strategy = 'anchored',
    seed: int = 1,
    flair_from_mni: Affine | None = None,
) -> ExamAlignment:
    """Align every image of an exam to the template.

    Parameters
    ----------
    images : mapping of modality name to nibabel image
        FLAIR, T1w, T2w, those that exist.
    strategy : {'anchored', 'independent'}
        ``anchored``: one modality by 12 degrees of freedom to the template, the others by 6
        to it. ``independent``: each by 12 degrees of freedom to the template.
    seed : int
        Of the sample points.
    flair_from_mni : ndarray, (4, 4), or None
        The FLAIR's alignment, where it is known (`subject.align_subject`): the FLAIR is the
        anchor then.

    Returns
    -------
    ExamAlignment

    Raises
    ------
    AlignmentError
        When there is no image, or one is empty, constant, or not three-dimensional.
    """
    if not images:
        raise AlignmentError('The exam has no image to align.')
    images = {name: in_memory(img) for name, img in images.items()}
    if flair_from_mni is not None:
        affines, judged = _to_anchor(images, 'FLAIR', flair_from_mni, seed)
        return check_exam(images, 'FLAIR', affines, judged)
    if strategy == 'independent':
        found = {name: to_template(img, seed) for name, img in images.items()}
        return check_exam(
            images,
            None,
            {name: one.moving_from_reference for name, one in found.items()},
            seed=seed,
        )
    return _anchored(images, seed)


def _anchored(images: Mapping[str, Any], seed: int) -> ExamAlignment:
    """Align the first anchor whose alignment is trusted, and the others to it."""
    order = sorted(images, key=lambda name: (_rank(name), name))
    tried: list[tuple[str, Affine, quality.AlignmentCheck]] = []
    for name in order:
        affine = to_template(images[name], seed).moving_from_reference
        tried.append((name, affine, quality.check_alignment(images[name], affine)))
        if tried[-1][2].status == 'pass':
            break
    anchor, anchor_from_mni, check = max(tried, key=lambda one: one[2].confidence)
    affines, judged = _to_anchor(images, anchor, anchor_from_mni, seed)
    return check_exam(images, anchor, affines, {**judged, anchor: check})


def _to_anchor(
    images: Mapping[str, Any], anchor: str, anchor_from_mni: Affine, seed: int
) -> tuple[dict[str, Affine], dict[str, quality.AlignmentCheck]]:
    """Align all other images to the anchor, and judge them."""
    affines, judged = {anchor: anchor_from_mni}, {}
    others = {name: img for name, img in images.items() if name != anchor}
    if others:
        reference = anchor_reference(images[anchor], anchor_from_mni, seed)
        for name, img in others.items():
            affines[name], judged[name] = _checked_via_anchor(
                img, reference, anchor_from_mni, seed
            )
    return affines, judged


def _rank(name: str) -> int:
    return ANCHOR_ORDER.index(name) if name in ANCHOR_ORDER else len(ANCHOR_ORDER)


def to_template(img: Any, seed: int) -> Alignment:
    """Search the pose of a head and align it to the template by 12 degrees of freedom."""
    return align(img, template_reference(seed), dof=12)


def via_anchor(img: Any, anchor: Any, anchor_from_mni: Affine, seed: int) -> Affine:
    """Align an image rigidly to the anchor, within the brain and its rim.

    Where the result cannot be trusted, as when the header is wrong by a large turn, the
    image's own alignment to the template gives a second start.
    """
    reference = anchor_reference(anchor, anchor_from_mni, seed)
    return _checked_via_anchor(img, reference, anchor_from_mni, seed)[0]


def _checked_via_anchor(
    img: Any, anchor: Reference, anchor_from_mni: Affine, seed: int
) -> tuple[Affine, quality.AlignmentCheck]:
    rigid = partial(align, img, anchor, dof=6)
    first = compose(rigid().moving_from_reference, anchor_from_mni)
    judged = quality.check_alignment(img, first)
    if judged.status == 'pass':
        return first, judged
    own = compose(to_template(img, seed).moving_from_reference, invert(anchor_from_mni))
    start = nearest_rigid(own, apply_affine(anchor_from_mni, BRAIN_CENTRE))
    second = compose(rigid(start=start).moving_from_reference, anchor_from_mni)
    again = quality.check_alignment(img, second)
    return max((first, judged), (second, again), key=lambda one: one[1].confidence)


def check_exam(
    images: Mapping[str, Any],
    anchor: str | None,
    affines: dict[str, Affine],
    judged: Mapping[str, quality.AlignmentCheck] | None = None,
    seed: int = 1,
) -> ExamAlignment:
    """Judge every alignment that is not yet `judged`, and collect the statuses.

    An identity says that the image came registered; such an alignment is at worst ``check``. An
    image whose alignment did not come from the FLAIR is also compared with the FLAIR.
    """
    result = ExamAlignment(anchor, {name: affines[name] for name in images}, {})
    for name, img in images.items():
        given = np.array_equal(affines[name], np.eye(4))
        known = (judged or {}).get(name)
        check = known or quality.check_alignment(img, affines[name], given)
        if known is None and name != 'FLAIR' and 'FLAIR' in images:
            check = _beside_flair(images, name, affines, check, seed)
        result.quality[name] = check.numbers
        if check.status != 'pass':
            result.reasons[name] = check.reason
        if check.status == 'fail':
            result.failed.append(name)
    return result


def _beside_flair(
    images: Mapping[str, Any],
    name: str,
    affines: Mapping[str, Affine],
    check: quality.AlignmentCheck,
    seed: int,
) -> quality.AlignmentCheck:
    """Judge an image by where it lies beside the FLAIR, unless it is off anyway."""
    if check.status == 'fail':
        return check
    pair = (images[name], images['FLAIR'], affines[name], affines['FLAIR'])
    try:
        apart = disagreement(*pair, search_region(), seed=seed)
    except AlignmentError:
        return check  # the FLAIR is off itself, which its own status says
    given = np.array_equal(affines[name], np.eye(4))
    return quality.beside_flair(check, apart, given)
