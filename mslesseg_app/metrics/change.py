"""Maps of change between two sessions against a reference: voxels, lesions, directions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from mslesseg_app.core.errors import DataError, MSLesSegError
from mslesseg_app.core.files import explain_os_error
from mslesseg_app.metrics.lesionwise import Side, match_lesions
from mslesseg_app.metrics.rules import Rules, get_rules
from mslesseg_app.spatial.masks import on_grid_of, read_image, voxel_sizes

if TYPE_CHECKING:
    import pandas as pd

    from mslesseg_app.metrics.pairs import MaskPair

Mask = npt.NDArray[np.bool_]
Codes = npt.NDArray[np.int64]

#: Values of change images, by direction; 1 is a lesion that did not change, 6 no change.
BRIGHTER, DARKER = (2, 3), (4, 5)
_LARGEST_CODE = 6
DIRECTIONS = ('all', 'brighter', 'darker')
#: Bounds of the sizes of changed lesions, mm³.
SIZES_MM3: dict[str, tuple[float, float]] = {
    'all': (0.0, math.inf),
    '3-30': (0.0, 30.0),
    '30-100': (30.0, 100.0),
    '100-': (100.0, math.inf),
    '30-': (30.0, math.inf),
}
#: 26-connected lesions of 3 mm³ and more; one shared voxel is enough.
_TOUCH = Rules('touch', 'One shared voxel', connectivity=26, min_volume_mm3=3.0)

CHANGE_EVALUATION_COLUMNS: dict[str, dict[str, Any]] = {
    'name': {'Description': 'Whose map it is.'},
    'prediction': {'Description': 'File of the predicted change, as it was given.'},
    'reference': {'Description': 'File of the reference change, as it was given.'},
    'direction': {
        'Description': 'Direction of the change.',
        'Levels': {
            'all': 'Both.',
            'brighter': 'New and enlarging lesions; only where the reference has directions.',
            'darker': 'Shrinking and resolved lesions; only where the reference has directions.',
        },
    },
    'size': {
        'Description': 'Volume of the changed lesions, mm³; the size of reference lesions for '
        'what is found, of predicted ones for what is false.'
    },
    'dsc': {'Description': 'Dice coefficient of the voxels; only for all sizes together.'},
    'volume_predicted_ml': {'Description': 'Predicted change.', 'Units': 'ml'},
    'volume_reference_ml': {'Description': 'Change of the reference.', 'Units': 'ml'},
    'n_reference': {'Description': 'Changed lesions of the reference (6-connected, > 3 mm³).'},
    'n_found': {'Description': "Those that are found by MSSEG-2's rules."},
    'n_predicted': {'Description': 'Predicted changed lesions (6-connected, > 3 mm³).'},
    'n_false': {'Description': 'Those that are false by the same rules.'},
    'sensitivity': {'Description': 'Found over all reference lesions.'},
    'false_discovery_rate': {'Description': 'False over all predicted lesions.'},
    'f1': {'Description': 'Harmonic mean of sensitivity and 1 - false discovery rate.'},
    'n_reference_26': {'Description': 'Changed lesions of the reference, 26-connected, > 3 mm³.'},
    'n_touched': {'Description': 'Those that share a voxel with the prediction.'},
    'n_predicted_26': {'Description': 'Predicted changed lesions, 26-connected, > 3 mm³.'},
    'n_untouched': {'Description': 'Those that share no voxel with the reference.'},
    'note': {'Description': 'Why there are no numbers.'},
}

CHANGE_COHORT_COLUMNS: dict[str, dict[str, Any]] = {
    'n_pairs': {'Description': 'Pairs that could be compared.'},
    'mean_dsc': {'Description': 'Mean Dice coefficient of all change.'},
    'volume_bias_ml': {'Description': 'Mean of predicted less reference volume.', 'Units': 'ml'},
    'volume_lower_ml': {
        'Description': 'Lower limit of agreement (bias less 1.96 standard deviations; Bland and '
        'Altman, Lancet 1986).',
        'Units': 'ml',
    },
    'volume_upper_ml': {'Description': 'Upper limit of agreement.', 'Units': 'ml'},
}


@dataclass(frozen=True)
class ChangeOutcome:
    """What one pair of maps gave: rows, or the error that stopped it."""

    pair: MaskPair
    rows: list[dict[str, Any]] = field(default_factory=list)
    error: MSLesSegError | None = None


def evaluate_change(predicted: Codes, true: Codes, voxel_mm3: float) -> list[dict[str, Any]]:
    """Compare a map of change with a reference.

    Parameters
    ----------
    predicted, true : int array (X, Y, Z)
        Masks of zeros and ones, or change images with the codes 1 (no change) to 6. A map
        without a value above 1 is a mask and has no directions.
    voxel_mm3 : float
        Volume of a voxel.

    Returns
    -------
    list of dict
        One row a direction and size, with the names of `CHANGE_EVALUATION_COLUMNS`.
    """
    rows = []
    for direction in DIRECTIONS:
        masks = [change_mask(data, direction) for data in (predicted, true)]
        if masks[0] is None or masks[1] is None:
            continue
        rows += _change_rows(masks[0], masks[1], voxel_mm3, direction)
    return rows


def change_mask(codes: Codes, direction: str = 'all') -> Mask | None:
    """Return the voxels that changed; None where a mask does not tell the direction."""
    if not codes.size or codes.max() <= 1:
        return codes > 0 if direction == 'all' or not codes.any() else None
    wanted = {'all': BRIGHTER + DARKER, 'brighter': BRIGHTER, 'darker': DARKER}[direction]
    return np.isin(codes, wanted)


def _change_rows(
    predicted: Mask, true: Mask, voxel_mm3: float, direction: str
) -> list[dict[str, Any]]:
    strict = match_lesions(predicted, true, get_rules('msseg2016'), voxel_mm3)
    touch = match_lesions(predicted, true, _TOUCH, voxel_mm3)
    both = int(np.count_nonzero(predicted)) + int(np.count_nonzero(true))
    shared = int(np.count_nonzero(predicted & true))
    voxels = {
        'dsc': 2 * shared / both if both else math.nan,
        'volume_predicted_ml': np.count_nonzero(predicted) * voxel_mm3 / 1000,
        'volume_reference_ml': np.count_nonzero(true) * voxel_mm3 / 1000,
    }
    return [
        {'direction': direction, 'size': size}
        | (voxels if size == 'all' else {})
        | _counts(_within(strict, size, voxel_mm3), _within(touch, size, voxel_mm3))
        for size in SIZES_MM3
    ]


def _within(sides: tuple[Side, Side], size: str, voxel_mm3: float) -> tuple[Side, Side]:
    low, high = SIZES_MM3[size]
    kept = []
    for side in sides:
        volumes = side.sizes * voxel_mm3 * (1 + 1e-6)
        keep = (volumes >= low) & (volumes < high)
        kept.append(Side(side.sizes[keep], side.met[keep]))
    return kept[0], kept[1]


def _counts(strict: tuple[Side, Side], touch: tuple[Side, Side]) -> dict[str, Any]:
    found, truth = strict
    sensitivity = truth.n_met / truth.count if truth.count else math.nan
    false = 1 - found.n_met / found.count if found.count else math.nan
    precision = 1 - false
    total = sensitivity + precision
    f1 = 2 * sensitivity * precision / total if total > 0 else 0.0 if total == 0 else math.nan
    return {
        'n_reference': truth.count,
        'n_found': truth.n_met,
        'n_predicted': found.count,
        'n_false': found.count - found.n_met,
        'sensitivity': sensitivity,
        'false_discovery_rate': false,
        'f1': f1,
        'n_reference_26': touch[1].count,
        'n_touched': touch[1].n_met,
        'n_predicted_26': touch[0].count,
        'n_untouched': touch[0].count - touch[0].n_met,
    }


def evaluate_change_files(
    pairs: Sequence[MaskPair], resample: bool = False
) -> list[ChangeOutcome]:
    """Compare pairs of files; one that fails does not stop the others.

    Parameters
    ----------
    pairs : sequence of MaskPair
    resample : bool
        Bring predictions on another grid to that of the reference (nearest voxel).
    """
    return [_guarded(pair, resample) for pair in pairs]


def _guarded(pair: MaskPair, resample: bool) -> ChangeOutcome:
    try:
        reference = read_codes(pair.reference)
        prediction = read_codes(pair.prediction)
        moved = on_grid_of(reference, prediction, pair.prediction, resample, linear=False)
        voxel = float(np.prod(voxel_sizes(reference, pair.reference)))
        codes = [np.asanyarray(one.dataobj).astype(np.int64) for one in (moved, reference)]
        return ChangeOutcome(pair, evaluate_change(codes[0], codes[1], voxel))
    except MSLesSegError as error:
        return ChangeOutcome(pair, error=error)
    except OSError as error:
        return ChangeOutcome(pair, error=explain_os_error(error, pair.prediction))


def read_codes(path: Path) -> Any:
    """Read a map of change.

    Raises
    ------
    NoInputError, DataError
        As `read_image`, and for values that no map of change has.
    """
    image = read_image(path)
    data = np.asanyarray(image.dataobj)
    whole = np.isfinite(data).all() and np.array_equal(data, np.round(data))
    if not whole or (data.size and (data.min() < 0 or data.max() > _LARGEST_CODE)):
        raise DataError(
            f'{path} is no map of change.',
            f'Give a mask of zeros and ones, or a change image with values up to {_LARGEST_CODE}.',
        )
    return image


def change_table(outcomes: Sequence[ChangeOutcome]) -> pd.DataFrame:
    """Return one row per pair, direction and size; a pair that failed has its reason."""
    import pandas as pd

    rows = []
    for outcome in outcomes:
        pair = outcome.pair
        known = {
            'name': pair.name,
            'prediction': str(pair.prediction),
            'reference': str(pair.reference),
        }
        if outcome.error is not None:
            rows.append(known | {'note': str(outcome.error)})
        rows += [known | row for row in outcome.rows]
    return pd.DataFrame(rows, columns=list(CHANGE_EVALUATION_COLUMNS))


def change_cohort(outcomes: Sequence[ChangeOutcome]) -> pd.DataFrame:
    """Return what only several pairs together have: mean DSC, and agreement of volumes."""
    import pandas as pd

    first = [outcome.rows[0] for outcome in outcomes if outcome.rows]
    off = np.array([row['volume_predicted_ml'] - row['volume_reference_ml'] for row in first])
    known = np.array([row['dsc'] for row in first], dtype=float)
    spread = float(np.std(off, ddof=1)) if off.size > 1 else math.nan
    bias = float(off.mean()) if off.size else math.nan
    row = {
        'n_pairs': len(first),
        'mean_dsc': float(np.nanmean(known)) if np.isfinite(known).any() else math.nan,
        'volume_bias_ml': bias,
        'volume_lower_ml': bias - 1.96 * spread,
        'volume_upper_ml': bias + 1.96 * spread,
    }
    return pd.DataFrame([row], columns=list(CHANGE_COHORT_COLUMNS))
