"""The Segmentation object of a result (PS3.3, A.51): binary frames, one segment per lesion."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from mslesseg_app import __version__
from mslesseg_app.core.errors import DataError
from mslesseg_app.dicom.export.results import Identity, Result, settle
from mslesseg_app.dicom.stack import Stack

#: One RGB colour for all lesions; viewers tell them apart by their names.
_RED = (230, 57, 70)
_SERIES_NUMBER = 9000


def make_segmentation(
    stack: Stack,
    labels: npt.NDArray[np.integer],
    result: Result,
    identity: Identity,
    *,
    per_lesion: bool,
) -> Any:
    """Make the Segmentation object.

    Parameters
    ----------
    labels : int array of the stack's shape
        Segment of each voxel. Without any, one empty segment is written.

    Raises
    ------
    DataError
        If the source lacks what the object must hold.
    """
    import highdicom as hd

    count = max(int(labels.max()), 1)
    try:
        seg = hd.seg.Segmentation(
            source_images=list(stack.datasets),
            pixel_array=stack.frames(labels),
            segmentation_type=hd.seg.SegmentationTypeValues.BINARY,
            segment_descriptions=[
                _description(number, bool(labels.any()), result, identity, per_lesion)
                for number in range(1, count + 1)
            ],
            series_instance_uid=identity.uid('seg series'),
            series_number=_series_number(stack, 0),
            sop_instance_uid=identity.uid('seg'),
            instance_number=1,
            manufacturer='mslesseg',
            manufacturer_model_name='mslesseg',
            software_versions=__version__,
            device_serial_number='0',
            content_label='MS_LESIONS',
            content_description='MS lesions; research use only',
            series_description=f'MS lesions ({result.model})'[:64],
        )
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise DataError(
            f'No segmentation can be made on series {stack.name}: {error}',
            'The headers of the source lack what a DICOM SEG must hold.',
        ) from error
    settle(seg, identity)
    return seg


def _description(
    number: int, found: bool, result: Result, identity: Identity, per_lesion: bool
) -> Any:
    import highdicom as hd
    from pydicom.sr.codedict import codes

    name = f'Lesion {number}' if per_lesion and found else 'MS lesions'
    algorithm = hd.AlgorithmIdentificationSequence(
        name=f'mslesseg {result.model}'[:64],
        family=codes.DCM.ArtificialIntelligence,
        version=(f'{__version__} {result.version}').strip()[:64],
    )
    return hd.seg.SegmentDescription(
        segment_number=number,
        segment_label=name if found else 'MS lesions (none found)',
        segmented_property_category=codes.SCT.MorphologicallyAbnormalStructure,
        segmented_property_type=codes.SCT.Lesion,
        algorithm_type=hd.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
        algorithm_identification=algorithm,
        tracking_uid=identity.uid('segment', number),
        tracking_id=name,
        anatomic_regions=[codes.SCT.Brain],
        display_color=hd.color.CIELabColor.from_rgb(*_RED),
    )


def _series_number(stack: Stack, step: int) -> int:
    return _SERIES_NUMBER + 2 * (int(stack.datasets[0].get('SeriesNumber') or 0) % 400) + step
