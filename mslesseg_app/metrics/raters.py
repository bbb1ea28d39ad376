"""Masks of several raters from files: their consensus, and what it says of each of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import nibabel as nb
import numpy as np
import numpy.typing as npt

from mslesseg_app.core.errors import DataError, UsageError
from mslesseg_app.core.files import atomic_path
from mslesseg_app.lesions.components import label_lesions
from mslesseg_app.metrics.consensus import Consensus, Method, consensus, experiments, leave_one_out
from mslesseg_app.metrics.exam import voxel_agreement
from mslesseg_app.metrics.pairs import stem
from mslesseg_app.spatial.grids import like
from mslesseg_app.spatial.masks import (
    on_grid_of,
    read_image,
    read_mask,
    read_probability,
    voxel_sizes,
    whole_numbers,
)
from mslesseg_app.spatial.reading import open_image

if TYPE_CHECKING:
    import pandas as pd

Mask = npt.NDArray[np.bool_]

_RATER_COLUMNS: dict[str, dict[str, Any]] = {
    'rater': {'Description': 'Name of the file, without its ending; "reference" for that.'},
    'volume_ml': {'Description': 'Volume of the mask.', 'Units': 'ml'},
    'sensitivity': {
        'Description': 'Sensitivity that STAPLE estimates, within the marked voxels and one '
        'voxel around them; n/a for other methods and when no rater marked anything.'
    },
    'specificity': {'Description': 'Specificity that STAPLE estimates, in the same voxels.'},
    'DSC_consensus': {'Description': 'Dice with the consensus, of which the rater is a part.'},
    'DSC_others': {'Description': 'Dice with the consensus of all other raters.'},
    'TPR_others': {
        'Description': 'Share of the consensus of the others that the rater marked; n/a when it '
        'is empty.'
    },
    'PPV_others': {
        'Description': "Share of the rater's voxels in the consensus of the others; n/a when "
        'the rater marked nothing.'
    },
}
_EXPERIMENT_COLUMNS: dict[str, dict[str, Any]] = {
    'DSC_reference': {'Description': 'Dice with the reference.'},
    'DSC_C1': {'Description': 'Dice with C1, the consensus of all raters and the reference.'},
    'DSC_C2': {
        'Description': 'Dice with C2, the consensus of the raters nearest to the reference.'
    },
    'in_C2': {
        'Description': 'Whether the rater is one of them.',
        'Levels': {'yes': 'One of them.', 'no': 'Not one of them.'},
    },
}


@dataclass(frozen=True)
class Raters:
    """Masks of several raters on the grid of the first.

    Attributes
    ----------
    names : tuple of str
    masks : tuple of bool arrays (X, Y, Z)
    probabilities : tuple of float arrays, or None
        Where the files held probabilities.
    first : Path
        File whose grid and header the results have.
    affine : array (4, 4)
    spacing_mm : three floats
    reference : bool array (X, Y, Z), or None
    """

    names: tuple[str, ...]
    masks: tuple[Mask, ...]
    probabilities: tuple[npt.NDArray[Any], ...] | None
    first: Path
    affine: npt.NDArray[np.float64]
    spacing_mm: tuple[float, ...]
    reference: Mask | None = None

    def volume_ml(self, mask: Mask) -> float:
        """Return the volume of a mask on this grid."""
        return int(np.count_nonzero(mask)) * float(np.prod(self.spacing_mm)) / 1000


def read_raters(
    paths: Sequence[Path],
    method: Method,
    *,
    reference: Path | None = None,
    threshold: float = 0.5,
    resample: bool = False,
    label: int | None = None,
) -> Raters:
    """Read the masks of raters; for ``mean`` the files may hold probabilities.

    Parameters
    ----------
    paths : sequence of Path
        One file per rater; the grid of the first decides.
    method : {'mean', 'majority', 'staple'}
    reference : Path, optional
        Reference mask.
    threshold : float
        Makes a mask of a probability map.
    resample : bool
        Bring other grids to that of the first.
    label : int, optional
        Value of the lesions in label images.

    Raises
    ------
    UsageError
        For no file, or for the same file given twice.
    NoInputError, DataError
        If a file is missing, is damaged, is no mask or lies on another grid.
    """
    _check_paths(paths)
    images: list[Any] = []
    for path in paths:
        image = _read_rater(path, method, label)
        images.append(
            on_grid_of(images[0] if images else image, image, path, resample, _soft(image))
        )
    truth = None
    if reference is not None:
        image = on_grid_of(images[0], read_mask(reference), reference, resample, linear=False)
        truth = np.asanyarray(image.dataobj) > 0
    data = [np.asanyarray(image.dataobj) for image in images]
    probabilities = tuple(data) if any(_soft(image) for image in images) else None
    masks = tuple(
        values >= threshold if _soft(image) else values > 0
        for values, image in zip(data, images, strict=True)
    )
    return Raters(
        tuple(rater_names(paths)),
        masks,
        probabilities,
        paths[0],
        images[0].affine,
        voxel_sizes(images[0], paths[0]),
        truth,
    )


def _check_paths(paths: Sequence[Path]) -> None:
    if not paths:
        raise UsageError('There is no mask to combine.')
    if len({path.resolve() for path in paths}) < len(paths):
        raise UsageError('A mask was given twice; it would have two votes.')


def _read_rater(path: Path, method: Method, label: int | None) -> Any:
    if method != 'mean' or label is not None:
        return read_mask(path, label)
    data = whole_numbers(np.asanyarray(read_image(path).dataobj))
    return read_mask(path) if np.array_equal(data, data != 0) else read_probability(path)


def _soft(image: Any) -> bool:
    return bool(image.get_data_dtype().kind == 'f')


def rater_names(paths: Sequence[Path]) -> list[str]:
    """Name raters by their files, with the folder before it where names are alike.

    Examples
    --------
    >>> rater_names([Path('a/m.nii.gz'), Path('b/m.nii.gz'), Path('b/n.nii')])
    ['a/m', 'b/m', 'n']
    """
    stems = Counter(stem(path) for path in paths)
    names = [
        stem(path) if stems[stem(path)] == 1 else f'{path.absolute().parent.name}/{stem(path)}'
        for path in paths
    ]
    counts = Counter(names)
    return [
        name if counts[name] == 1 else f'{name} ({number})'
        for number, name in enumerate(names, start=1)
    ]


# ----------------------------------------------------------------------------- table


def combine(raters: Raters, method: Method, threshold: float = 0.5) -> Consensus:
    """Return the consensus of the raters."""
    return consensus(raters.masks, method, probabilities=raters.probabilities, threshold=threshold)


def rater_columns(with_reference: bool) -> dict[str, dict[str, Any]]:
    """Return the columns of the table of raters, in order."""
    return _RATER_COLUMNS | (_EXPERIMENT_COLUMNS if with_reference else {})


def rater_table(
    raters: Raters, combined: Consensus, method: Method, *, threshold: float = 0.5, best: int = 5
) -> pd.DataFrame:
    """Describe each rater, and with a reference the paper's two experiments (Table 3).

    Parameters
    ----------
    raters, combined
        The raters and their consensus.
    method, threshold
        As in `combine`.
    best : int
        Number of raters in C2.

    Returns
    -------
    pandas.DataFrame
        The columns of `rater_columns`, one row per rater in the order of the files; with a
        reference also the rows ``reference`` and ``consensus``.
    """
    import pandas as pd

    rows = _rater_rows(raters, combined, method, threshold)
    if raters.reference is not None:
        rows += [
            {
                'rater': name,
                'volume_ml': raters.volume_ml(mask),
                'DSC_consensus': _dice(mask, combined.mask),
            }
            for name, mask in (('reference', raters.reference), ('consensus', combined.mask))
        ]
        found = _experiments(raters, raters.reference, combined, method, best)
        rows = [row | found[row['rater']] for row in rows]
    return pd.DataFrame(rows, columns=list(rater_columns(raters.reference is not None)))


def _rater_rows(
    raters: Raters, combined: Consensus, method: Method, threshold: float
) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = [
        {
            'rater': name,
            'volume_ml': raters.volume_ml(mask),
            'DSC_consensus': _dice(mask, combined.mask),
        }
        for name, mask in zip(raters.names, raters.masks, strict=True)
    ]
    for row, *rates in zip(rows, combined.sensitivity, combined.specificity, strict=False):
        row.update(sensitivity=rates[0], specificity=rates[1])
    if len(rows) > 1:
        others = leave_one_out(
            raters.masks, method, probabilities=raters.probabilities, threshold=threshold
        )
        for row, agreement in zip(rows, others, strict=True):
            row.update({f'{name}_others': value for name, value in agreement.items()})
    return rows


def _experiments(
    raters: Raters, reference: Mask, combined: Consensus, method: Method, best: int
) -> dict[str, dict[str, Any]]:
    """Return the experiments' numbers by rater, and those of the consensus against them."""
    if {'reference', 'consensus'} & set(raters.names):
        raise DataError('A rater is called "reference" or "consensus".', 'Rename its file.')
    named = dict(zip(raters.names, raters.masks, strict=True))
    rows = experiments(named, reference, best, method)
    found = {
        row['rater']: {
            **{name: row[name] for name in ('DSC_reference', 'DSC_C1', 'DSC_C2')},
            'in_C2': 'yes' if row['in_C2'] else 'no',
        }
        for row in rows
    }
    return found | {'consensus': {'DSC_reference': _dice(combined.mask, reference)}}


def _dice(first: Mask, second: Mask) -> float:
    return voxel_agreement(first, second)['DSC']


# ---------------------------------------------------------------------------- images


def write_image(raters: Raters, data: npt.NDArray[Any], path: Path) -> None:
    """Write a result on the grid of the first rater, with its header where it has one."""
    first: Any = open_image(raters.first)
    if isinstance(first, nb.Nifti1Image) and first.ndim == 3:
        image = like(first, data, data.dtype)
    else:
        image = nb.Nifti1Image(data, raters.affine)
    with atomic_path(path) as temporary:
        image.to_filename(temporary)


def describe(
    raters: Raters, combined: Consensus, method: Method, threshold: float
) -> dict[str, Any]:
    """Return the sidecar of a consensus mask."""
    voxel = float(np.prod(raters.spacing_mm))
    content: dict[str, Any] = {
        'Type': 'Lesion',
        'Description': f'Consensus ({method}) of {len(raters.names)} lesion masks.',
        'Method': method,
        'Raters': list(raters.names),
        'Threshold': None if method == 'majority' else threshold,
        'LesionVolume_mm3': int(np.count_nonzero(combined.mask)) * voxel,
        'LesionCount': int(label_lesions(combined.mask, voxel).max(initial=0)),
        'Connectivity': 6,
    }
    if method == 'staple':
        content['Sensitivity'] = [_rounded_or_none(rate) for rate in combined.sensitivity]
        content['Specificity'] = [_rounded_or_none(rate) for rate in combined.specificity]
    return content | ({'Note': combined.note} if combined.note else {})


def _rounded_or_none(value: float) -> float | None:
    return None if np.isnan(value) else round(value, 6)
