"""Quality checks of an exam: the numbers and their statuses."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import nibabel as nb
import numpy as np

from mslesseg_app.core.status import CheckStatus, worst
from mslesseg_app.spatial.quality import ALIGNMENT_LIMITS
from mslesseg_app.spatial.signal import contrast_to_noise, ghosting
from mslesseg_app.spatial.template import load_template

#: Thicker slices than this, in mm, miss lesions and blur their edges.
_THICK_MM = 5.0
#: Share of the template's brain that the FLAIR covers: below it, lesions may lie outside.
_COVERAGE = (0.97, 0.85)
#: Volume of an adult brain with its ventricles, in ml: ``check`` beyond these limits.
_BRAIN_ML = (900.0, 2000.0)

#: Contrast of tissue with fluid over noise. Nine FLAIRs of four sources had 16.6 to 62; noise of
#: 10 % of the tissue added to them left 7.4 to 10.1, of 20 % 4.1 to 6.4.
_CNR = (10.0, 6.0)
#: Signal of ghosts over that of tissue. Synthetic heads had 0.000, and 0.038 with a ghost of 5 %.
_GHOST = 0.03

_MODALITIES = ('FLAIR', 'T1w', 'T2w')

QC_COLUMNS: dict[str, dict[str, Any]] = {
    **{
        f'alignment_{name}': {
            'Description': f'Similarity of the aligned {name} with the template, as the quality '
            'of the alignment; n/a where the image is missing or was registered already.'
        }
        for name in _MODALITIES
    },
    **{
        f'alignment_{name}_status': {
            'Description': f'Status of the alignment of the {name}.',
            'Levels': {
                'pass': 'pass',
                'check': 'check before use',
                'fail': 'do not use',
                'n/a': 'the image is missing',
            },
        }
        for name in _MODALITIES
    },
    'flair_coverage': {
        'Description': "Share of the template's brain that lies within the FLAIR, 0 to 1."
    },
    'brain_volume_mni_ml': {
        'Description': 'Volume of the brain mask on the template grid, after scaling to it.',
        'Units': 'ml',
    },
    'flair_slice_thickness_mm': {
        'Description': 'Longest voxel edge of the FLAIR.',
        'Units': 'mm',
    },
    'flair_cnr': {
        'Description': 'Contrast of brain tissue with fluid over the noise of the FLAIR, within '
        'the brain.'
    },
    'flair_ghosting': {
        'Description': 'Signal in the air along one in-plane axis beyond that along the other, '
        'over that of tissue, as a sign of motion; n/a where the air was masked out.'
    },
    'qc_status': {
        'Description': 'The worst status of all quality numbers.',
        'Levels': {'pass': 'pass', 'check': 'check before use', 'fail': 'do not use'},
    },
}


#: Limits of the registration in words; the reason of a status that is not ``pass`` follows.
_ALIGNMENT_RULE = 'check below {1:g}, fail below {0:g}'.format(*ALIGNMENT_LIMITS)


def exam_quality(
    flair: Any, flair_mni: Any, brain_native: Any, brain_mni: Any, alignment: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """Gather the quality numbers of an exam.

    Parameters
    ----------
    flair, brain_native : nibabel image
        FLAIR and brain mask on the FLAIR's own grid.
    flair_mni, brain_mni : nibabel image
        The same on the template grid.
    alignment : mapping
        Content of the quality file of the spatial engine.

    Returns
    -------
    list of dict
        ``name`` (a column of :data:`QC_COLUMNS`), ``value``, ``status``, ``unit``, ``title``
        and ``limits``.
    """
    numbers = [_alignment(name, alignment) for name in _MODALITIES if name in alignment['images']]
    coverage = _coverage(flair_mni)
    numbers.append(
        _quality_number('flair_coverage', 'Brain coverage of the FLAIR', coverage,
                _below(coverage, *_COVERAGE),
                limits=f'check below {_COVERAGE[0]:.0%}, fail below {_COVERAGE[1]:.0%}')
    )  # fmt: skip
    volume = float((np.asanyarray(brain_mni.dataobj) > 0).sum()) / 1000
    native = np.asanyarray(brain_native.dataobj) > 0
    native_ml = float(native.sum() * abs(np.linalg.det(brain_native.affine[:3, :3]))) / 1000
    low, high = _BRAIN_ML
    plausible = low <= native_ml <= high or coverage < _COVERAGE[0]
    numbers.append(
        _quality_number('brain_volume_mni_ml', 'Brain volume on the template grid', volume,
                'pass' if plausible else 'check', 'ml',
                f'check if the brain volume in native space is outside {low:g}–{high:g} ml')
    )  # fmt: skip
    thickness = float(nb.affines.voxel_sizes(flair.affine).max())
    numbers.append(
        _quality_number('flair_slice_thickness_mm', 'Slice thickness of the FLAIR', thickness,
                'pass' if thickness <= _THICK_MM else 'check', 'mm',
                f'check above {_THICK_MM:g} mm')
    )  # fmt: skip
    return numbers + _signal(flair, brain_native)


def with_note(numbers: list[dict[str, Any]], name: str, title: str, note: str) -> list[Any]:
    """Add a note that the exam should be reviewed, if there is one; it has no number."""
    return (
        [*numbers, _quality_number(name, title, None, 'check', limits=note)] if note else numbers
    )


def quality_row(numbers: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the columns of :data:`QC_COLUMNS` that these numbers fill."""
    row = {number['name']: number['value'] for number in numbers}
    row |= {
        f'{number["name"]}_status': number['status']
        for number in numbers
        if number['name'].startswith('alignment_')
    }
    status = worst([number['status'] for number in numbers])
    return row | {'qc_status': status}


def _signal(flair: Any, brain: Any) -> list[dict[str, Any]]:
    """Contrast to noise, and motion where the air around the head was kept."""
    numbers = []
    cnr, ghost = contrast_to_noise(flair, brain), ghosting(flair, brain)
    if cnr is not None:
        numbers.append(
            _quality_number('flair_cnr', 'Contrast to noise of the FLAIR', cnr, _below(cnr, *_CNR),
                    limits=f'check below {_CNR[0]:g}, fail below {_CNR[1]:g}')
        )  # fmt: skip
    if ghost is not None:
        numbers.append(
            _quality_number('flair_ghosting', 'Ghosting (motion), FLAIR', ghost,
                    'pass' if ghost <= _GHOST else 'check', limits=f'check above {_GHOST:g}')
        )  # fmt: skip
    return numbers


def _alignment(name: str, alignment: Mapping[str, Any]) -> dict[str, Any]:
    found = alignment['images'][name]
    return _quality_number(
        f'alignment_{name}',
        f'{name}-to-template registration (z of the similarity)',
        found['numbers'].get('z'),
        found['status'],
        limits=f'{_ALIGNMENT_RULE}{": " if found["reason"] else ""}{found["reason"]}',
    )


def _coverage(flair_mni: Any) -> float:
    brain = np.asanyarray(load_template().mask.dataobj) > 0
    inside = np.asanyarray(flair_mni.dataobj) != 0
    return float(inside[brain].mean())


def _below(value: float, check: float, fail: float) -> CheckStatus:
    return 'fail' if value < fail else 'check' if value < check else 'pass'


def _quality_number(
    name: str, title: str, value: Any, status: str, unit: str = '', limits: str = ''
) -> dict[str, Any]:
    if isinstance(value, float):
        value = round(value, 6)
    return {
        'name': name,
        'title': title,
        'value': value,
        'status': status,
        'unit': unit,
        'limits': limits,
    }
