"""Self-check of a lesion mask against the FLAIR, independent of the model that made the mask.

How much tissue is clearly hyperintense on FLAIR, how much of it does the mask contain, and how
much of the mask is not hyperintense at all? The check knows no network. Its scale comes from
tissue that lesions cannot shift (`mslesseg_app.spatial.tissues.tissue_scale`), so that it also
holds at a high lesion load.

It works on a 2 mm grid. Tissue is searched where the moved tissue maps expect white matter, away
from cortex, fluid, the midline, the thin rim of the ventricles, brain stem and cerebellum, all of
which can be bright without a lesion. The check is therefore blind to lesions there: a pass is no
proof that nothing was missed. The limits were chosen on manual masks and on masks that were
damaged on purpose; docs/report.md states the rates of alarms that were measured.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from functools import cache
from typing import Any, Literal, Self, get_args

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from mslesseg_app.core.errors import DataError
from mslesseg_app.lesions.atlas import region_atlas
from mslesseg_app.lesions.components import structure
from mslesseg_app.spatial.template import TEMPLATE_SHAPE, tissue_prior
from mslesseg_app.spatial.tissues import SmoothMaps, TissueScale, fit_priors, tissue_scale

Floats = npt.NDArray[np.float32]
Bools = npt.NDArray[np.bool_]
Status = Literal['pass', 'check', 'fail']

EDGE_MM = 2.0
"""Edge of a voxel of the grid of the check."""


@dataclass(frozen=True)
class Limits:
    """All numbers of the check, in one place.

    ``z`` is the height above white matter on FLAIR in units of its spread, which is raised to
    ``(grey - white) / grey_units`` where grey matter would otherwise lie higher.

    Attributes
    ----------
    bright : float
        ``z`` from which tissue is clearly hyperintense.
    lesion : float
        ``z`` from which a voxel of the mask counts as hyperintense.
    grey_units : float
        Highest ``z`` of grey matter.
    white : float
        Least white matter of the moved map, smoothed, where tissue is searched.
    grey, fluid : float
        Most grey matter and fluid of the moved maps, smoothed.
    rim_mm : float
        Distance from the ventricles within which tissue is not searched.
    midline_mm : float
        The same for the plane between the hemispheres.
    smallest_ml : float
        Smaller pieces of hyperintense tissue are noise.
    tolerance_mm : float
        Hyperintense tissue this near to the mask belongs to its outline.
    outside_ml, outside_share : float
        ``check`` where the hyperintense tissue outside the mask exceeds both: millilitres, and
        share of it in all hyperintense tissue.
    much_outside_ml, much_outside_share : float
        The same for ``fail``.
    excess_ml, excess_per_ml : float
        ``check`` where the mask is larger than these millilitres and this many for each
        millilitre of hyperintense tissue.
    least_share, poor_share : float
        ``check`` and ``fail`` where less than this share of the mask is hyperintense.
    fewest_ml : float
        Smaller masks are not judged by their share, and may share nothing with the hyperintense
        tissue; a larger mask that shares nothing gets a ``check``.
    """

    bright: float = 4.0
    lesion: float = 1.5
    grey_units: float = 2.0
    white: float = 0.6
    grey: float = 0.3
    fluid: float = 0.3
    rim_mm: float = 2.0
    midline_mm: float = 4.0
    smallest_ml: float = 0.05
    tolerance_mm: float = 2.0
    outside_ml: float = 2.0
    outside_share: float = 0.28
    much_outside_ml: float = 4.0
    much_outside_share: float = 0.6
    excess_ml: float = 20.0
    excess_per_ml: float = 6.0
    least_share: float = 0.5
    poor_share: float = 0.3
    fewest_ml: float = 0.3


LIMITS = Limits()

SELFCHECK_COLUMNS: dict[str, dict[str, Any]] = {
    'selfcheck_outside_ml': {
        'Description': 'Clearly hyperintense tissue on FLAIR, in white matter and around the '
        'ventricles, that lies outside the lesion mask; n/a where the check was not possible.',
        'Units': 'ml',
    },
    'selfcheck_share': {
        'Description': 'Share of the lesion mask that is hyperintense on FLAIR, 0 to 1; n/a '
        'without a lesion.',
    },
    'selfcheck_status': {
        'Description': 'Self-check of the lesion mask against the FLAIR, independent of the model '
        'and of the image checks (qc_status).',
        'Levels': {
            'pass': 'mask and FLAIR agree; a mask without a lesion never passes',
            'check': 'confirm the mask before use',
            'fail': 'mask and FLAIR contradict each other',
        },
    },
}

NO_LESION = 'No lesion detected: confirm.'
NOTHING_SHARED = (
    'None of the mask lies at clearly hyperintense tissue that the check can see: confirm.'
)


@dataclass(frozen=True)
class SelfCheck:
    """Result of the check: written to tables, sidecars and records, and read from them.

    Attributes
    ----------
    status : {'pass', 'check', 'fail'}
    hyperintense_ml : float or None
        Clearly hyperintense tissue where it was searched, in native millilitres.
    outside_ml : float or None
        What of it lies outside the mask.
    lesion_ml : float or None
        Volume of the mask.
    share : float or None
        Share of the mask that is hyperintense; None without a lesion.
    reasons : tuple of str
        Sentences that say why the status is not ``pass``.
    """

    status: Status
    hyperintense_ml: float | None = None
    outside_ml: float | None = None
    lesion_ml: float | None = None
    share: float | None = None
    reasons: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.status not in get_args(Status):
            raise ValueError(f'{self.status!r} is no status of the self-check')
        object.__setattr__(self, 'reasons', tuple(self.reasons))

    def columns(self) -> dict[str, Any]:
        """Return the values of `SELFCHECK_COLUMNS`."""
        return {
            'selfcheck_outside_ml': self.outside_ml,
            'selfcheck_share': self.share,
            'selfcheck_status': self.status,
        }

    def sidecar(self) -> dict[str, Any]:
        """Return what a JSON sidecar holds."""
        return {
            'SelfCheck': {
                'Status': self.status,
                'HyperintenseVolume_ml': self.hyperintense_ml,
                'HyperintenseOutsideMask_ml': self.outside_ml,
                'HyperintenseShareOfMask': self.share,
                'Reasons': list(self.reasons),
            }
        }

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for a record in JSON."""
        return asdict(self) | {'reasons': list(self.reasons)}

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Self:
        """Read what `to_dict` gave; keys of a newer version are left out.

        Raises
        ------
        DataError
            If it is no such record.
        """
        known = {item.name: content[item.name] for item in fields(cls) if item.name in content}
        try:
            return cls(**known)
        except (TypeError, ValueError) as error:
            raise DataError(
                f'This is no record of a self-check: {error}.',
                'Delete the file and run the same command again: it is made anew.',
            ) from error


def check_segmentation(
    flair: npt.NDArray[np.floating],
    brain: npt.NDArray[np.generic],
    mask: npt.NDArray[np.generic],
    *,
    native_ml_per_ml: float = 1.0,
    limits: Limits = LIMITS,
) -> SelfCheck:
    """Compare a lesion mask with the hyperintense tissue of the FLAIR.

    Parameters
    ----------
    flair : array (182, 218, 182)
        On the template grid, any positive linear scale; 0 is not measured.
    brain, mask : arrays (182, 218, 182)
        Brain and lesions on the same grid; not zero is inside.
    native_ml_per_ml : float
        Native volume of one millilitre of the template grid.
    limits : Limits

    Returns
    -------
    SelfCheck
        Without a lesion never ``pass``; ``check`` with the reason where the images do not allow
        the check.

    Raises
    ------
    DataError
        If the arrays do not lie on the template grid.
    """
    for name, array in (('FLAIR', flair), ('brain mask', brain), ('lesion mask', mask)):
        if array.shape != TEMPLATE_SHAPE:
            raise DataError(
                f'The {name} has the shape {array.shape}, not that of the template '
                f'{TEMPLATE_SHAPE}.',
                'Align and resample it to the template first.',
            )
    try:
        signal = tissue_signal(flair, brain, limits)
    except DataError as error:
        return _not_possible(error, bool(np.any(mask)))
    return compare(signal, mask, native_ml_per_ml, limits)


@dataclass(frozen=True)
class TissueSignal:
    """What the FLAIR shows, on the grid of the check.

    Attributes
    ----------
    z : float32 array (91, 109, 91)
        Height above white matter in units of its spread, 0 outside the brain.
    seen : bool array
        Brain that the FLAIR shows.
    bright : bool array
        Clearly hyperintense tissue where it is searched.
    """

    z: Floats
    seen: Bools
    bright: Bools


def tissue_signal(
    flair: npt.NDArray[np.floating], brain: npt.NDArray[np.generic], limits: Limits = LIMITS
) -> TissueSignal:
    """Find the clearly hyperintense tissue of a FLAIR; the mask plays no part.

    Raises
    ------
    DataError
        If no tissues can be found in the brain.
    """
    inside = np.asarray(brain) != 0
    image = halved(np.where(inside, flair, 0))
    seen = (halved(inside) > 0.5) & (halved(np.asarray(flair) != 0) > 0.5)
    if not np.isfinite(image).all():
        raise DataError('The FLAIR holds values that are not finite.', 'Check the image.')
    maps, smooth, landmarks = half_template()
    fit = fit_priors(image[None], seen, smooth, step=_FIT_STEP)
    moved = np.stack([fit.move(each) for each in maps])
    scale = tissue_scale(image, seen, moved, step=2, voxel_mm=EDGE_MM)
    z = np.where(seen, scale.height(image, limits.grey_units), 0).astype(np.float32)
    ventricles, fossa = (fit.move(each) > 0.5 for each in landmarks)
    fluid = _own_fluid(image - scale.offset, seen, scale, ventricles)
    across = _across(fit.matrix, fit.offset, image.shape)
    where = searched(moved, seen, fluid, limits) & ~fossa & (across > limits.midline_mm)
    return TissueSignal(z, seen, without_crumbs((z >= limits.bright) & where, limits.smallest_ml))


_FIT_STEP = 4
_MIDPLANE_MM = 90.0


@cache
def half_template() -> tuple[Floats, SmoothMaps, tuple[Floats, Floats]]:
    """Return tissue maps, the same made ready, ventricles and posterior fossa, halved."""
    maps = np.stack([halved(tissue_prior(name)) for name in ('wm', 'gm', 'csf')])
    atlas = region_atlas()
    landmarks = halved(atlas.ventricles), halved(atlas.infratentorial)
    return maps, SmoothMaps.of(maps), landmarks


def halved(volume: npt.NDArray[np.generic]) -> Floats:
    """Return the mean of each block of 2 x 2 x 2 voxels."""
    x, y, z = volume.shape
    blocks = np.asarray(volume, np.float32).reshape(x // 2, 2, y // 2, 2, z // 2, 2)
    return np.asarray(blocks.mean(axis=(1, 3, 5)))


def searched(moved: Floats, seen: Bools, fluid: Bools, limits: Limits) -> Bools:
    """Return where hyperintense tissue is searched.

    Parameters
    ----------
    moved : float32 array (3, X, Y, Z)
        White matter, grey matter and fluid of the tissue maps, moved onto the exam.
    seen : bool array (X, Y, Z)
    fluid : bool array (X, Y, Z)
        Ventricles of the exam.
    """
    white, grey, outer = (ndimage.gaussian_filter(each, 1.0) for each in moved)
    where = seen & (white >= limits.white) & (grey <= limits.grey) & (outer <= limits.fluid)
    if fluid.any() and limits.rim_mm > 0:
        where &= ndimage.distance_transform_edt(~fluid, sampling=EDGE_MM) > limits.rim_mm
    return np.asarray(where)


def without_crumbs(mask: Bools, smallest_ml: float) -> Bools:
    """Drop pieces (26-connected) below a volume."""
    labels, count = ndimage.label(mask, structure(26))
    sizes = np.bincount(labels.ravel(), minlength=count + 1) * EDGE_MM**3 / 1000
    sizes[0] = 0
    return np.asarray((sizes >= smallest_ml)[labels])


def _own_fluid(image: Floats, seen: Bools, scale: TissueScale, expected: Bools) -> Bools:
    """Return the dark voxels at and around the expected ventricles."""
    dark = seen & (image < (scale.white + scale.fluid) / 2)
    near = ndimage.binary_dilation(expected, structure(6), iterations=4)
    return np.asarray((dark & near) | expected & dark)


def _across(matrix: npt.NDArray[np.float64], offset: npt.NDArray[np.float64], shape: Any) -> Any:
    """Return the distance to the plane between the hemispheres, in template millimetres."""
    x, y, z = np.ogrid[tuple(slice(n) for n in shape)]
    place = matrix[0, 0] * x + matrix[0, 1] * y + matrix[0, 2] * z + offset[0]
    return np.abs((place + 0.25) * EDGE_MM - _MIDPLANE_MM)


def compare(
    signal: TissueSignal,
    mask: npt.NDArray[np.generic],
    native_ml_per_ml: float = 1.0,
    limits: Limits = LIMITS,
) -> SelfCheck:
    """Judge a mask (182, 218, 182) by what the FLAIR shows."""
    ml = native_ml_per_ml * EDGE_MM**3 / 1000
    part = halved(np.asarray(mask) != 0)
    steps = max(1, round(limits.tolerance_mm / EDGE_MM))
    near = ndimage.binary_dilation(part > 0, structure(18), iterations=steps)
    all_ml = float(signal.bright.sum()) * ml
    outside_ml = float((signal.bright & ~near).sum()) * ml
    lesion_ml = float(part.sum()) * ml
    share = None
    if lesion_ml > 0:
        share = float(part[signal.z >= limits.lesion].sum() / part.sum())
    status, reasons = rate_mask(lesion_ml, all_ml, outside_ml, share, limits)
    return SelfCheck(
        status,
        round(all_ml, 3),
        round(outside_ml, 3),
        round(lesion_ml, 3),
        None if share is None else round(share, 4),
        reasons,
    )


def rate_mask(
    lesion_ml: float,
    hyperintense_ml: float,
    outside_ml: float,
    share: float | None,
    limits: Limits = LIMITS,
) -> tuple[Status, tuple[str, ...]]:
    """Return the status and the sentences that explain it."""
    found: list[Status] = ['pass']
    reasons: list[str] = []
    if share is None:
        found.append('check')
        reasons.append(NO_LESION)
    missed = outside_ml / hyperintense_ml if hyperintense_ml > 0 else 0.0
    if outside_ml > limits.outside_ml and missed > limits.outside_share:
        much = outside_ml > limits.much_outside_ml and missed > limits.much_outside_share
        found.append('fail' if much else 'check')
        reasons.append(f'About {amount(outside_ml)} of hyperintense tissue lies outside the mask.')
    if lesion_ml > limits.excess_ml + limits.excess_per_ml * hyperintense_ml:
        found.append('check')
        reasons.append(
            f'The mask of {amount(lesion_ml)} is much larger than the hyperintense tissue of '
            f'{amount(hyperintense_ml)}.'
        )
    if share is not None and lesion_ml >= limits.fewest_ml and share < limits.least_share:
        found.append('fail' if share < limits.poor_share else 'check')
        reasons.append(f'Only {100 * share:.0f} % of the mask is hyperintense on FLAIR.')
    if share is not None and lesion_ml >= limits.fewest_ml and outside_ml >= hyperintense_ml:
        found.append('check')
        reasons.append(NOTHING_SHARED)
    order: tuple[Status, ...] = get_args(Status)
    return max(found, key=order.index), tuple(reasons)


def amount(millilitres: float) -> str:
    """Return a volume in words, with two significant digits: ``48 ml``, ``2.3 ml``."""
    digits = 0 if millilitres >= 9.95 else 1
    return f'{millilitres:.{digits}f} ml'


def _not_possible(error: DataError, lesions: bool) -> SelfCheck:
    reasons = () if lesions else (NO_LESION,)
    return SelfCheck('check', reasons=(*reasons, f'Self-check not possible: {error.message}'))
