"""The columns of an exam's metrics table."""

from __future__ import annotations

from typing import Any

from mslesseg_app.lesions.dissemination import (
    BRAIN_REGIONS,
    DOMINATING_ML,
    DOMINATING_SHARE,
    MET,
    NOT_ASSESSED,
    NOT_MET,
    SMALLEST_MM,
    WITHOUT_RESULT,
)
from mslesseg_app.lesions.selfcheck import SELFCHECK_COLUMNS
from mslesseg_app.lesions.topography import REGIONS
from mslesseg_app.metrics.exam import METRIC_COLUMNS
from mslesseg_app.spatial.qc import QC_COLUMNS


def metric_columns() -> dict[str, dict[str, Any]]:
    """Return the columns of a metrics table and their descriptions, in order."""
    return {
        'participant_id': {'Description': 'Participant.'},
        'session_id': {'Description': 'Session; n/a where the dataset has none.'},
        'model': {'Description': 'Name of the model in the registry.'},
        'lesion_count': {'Description': 'Number of lesions on the native FLAIR grid.'},
        'lesion_volume_ml': {'Description': 'Volume of all lesions, native grid.', 'Units': 'ml'},
        'largest_lesion_ml': {'Description': 'Volume of the largest lesion.', 'Units': 'ml'},
        'brain_volume_ml': {
            'Description': 'Volume of the brain mask on the native FLAIR grid; what the image '
            'does not cover is not counted.',
            'Units': 'ml',
        },
        'lesion_load_percent': {
            'Description': 'Lesion volume in percent of the brain volume.',
            'Units': 'percent',
        },
        **_region_columns(),
        'modalities_used': {'Description': 'Images that the model used.'},
        'modalities_missing': {'Description': 'Images that the model knows and the exam lacks.'},
        'model_agreement': {
            'Description': 'Of an ensemble: mean Dice coefficient of the masks of its models, '
            'over all pairs, on the template grid.'
        },
        'model_agreement_status': {
            'Description': 'Of an ensemble: judgement of model_agreement.',
            'Levels': {
                'pass': 'the models agree as far as models usually do',
                'check': 'they disagree: confirm the mask before use',
            },
        },
        **QC_COLUMNS,
        **SELFCHECK_COLUMNS,
        'reference_grid': {
            'Description': 'Grid on which the accuracy was computed; n/a without a reference.',
            'Levels': {
                'orig': "the subject's own FLAIR",
                'MNI152NLin6Asym': 'the 1 mm template',
                'reference': 'the grid of the reference mask, in the space of the FLAIR',
            },
        },
        **METRIC_COLUMNS,
    }


def _region_columns() -> dict[str, dict[str, Any]]:
    columns: dict[str, dict[str, Any]] = {}
    for name, region in REGIONS.items():
        words = name.replace('_', ' ')
        columns[f'{name}_lesions'] = {'Description': f'Number of {words} lesions: {region.rule}.'}
        columns[f'{name}_volume_ml'] = {
            'Description': f'Volume of the {words} lesions.',
            'Units': 'ml',
        }
    for edition, unseen in NOT_ASSESSED.items():
        total = len(BRAIN_REGIONS) + len(unseen)
        columns[f'dissemination_{edition}'] = {
            'Description': f'Dissemination in space by the McDonald criteria of {edition}: '
            f'lesions from {SMALLEST_MM:g} mm on in two of its {total} regions; '
            f'not assessed: {", ".join(unseen).replace("_", " ")}.',
            'Levels': {
                MET: 'two regions of the brain or more',
                NOT_MET: 'fewer regions of the brain; those not assessed may add to them',
                WITHOUT_RESULT: f'one lesion of more than {DOMINATING_ML:g} ml makes up more than '
                f'{DOMINATING_SHARE:.0%} of the load, which is unlike multiple sclerosis',
            },
        }
    return columns
