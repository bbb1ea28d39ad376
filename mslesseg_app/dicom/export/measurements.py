"""The structured report of a result: TID 1500 of DICOM PS3.16."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

from mslesseg_app import __version__
from mslesseg_app.core.errors import DataError
from mslesseg_app.dicom.stack import Stack

if TYPE_CHECKING:
    from mslesseg_app.dicom.export.results import Identity, Result

#: Coding scheme of concepts that no public scheme has.
SCHEME = '99MSLESSEG'


class _Concept(NamedTuple):
    """How a column of the table of lesions is called in the report."""

    value: str
    scheme: str
    meaning: str
    unit: str


#: Measurements of a lesion by column; columns that the table lacks are left out.
LESION_CONCEPTS = {
    'volume_mm3': _Concept('118565006', 'SCT', 'Volume', 'mm3'),
    'max_diameter_mm': _Concept('L0JK', 'IBSI', 'Maximum 3D Diameter of a Mesh', 'mm'),
    'min_diameter_mm': _Concept('min-diameter', SCHEME, 'Smallest diameter', 'mm'),
    'elongation': _Concept('elongation', SCHEME, 'Elongation', '1'),
    'distance_ventricle_mm': _Concept(
        'dist-ventricle', SCHEME, 'Distance to the ventricles', 'mm'
    ),
    'distance_cortex_mm': _Concept('dist-cortex', SCHEME, 'Distance to the cortex', 'mm'),
    'mean_prob': _Concept('mean-probability', SCHEME, 'Mean lesion probability', '1'),
    'max_prob': _Concept('max-probability', SCHEME, 'Highest lesion probability', '1'),
    'mean_uncertainty': _Concept('mean-uncertainty', SCHEME, 'Mean uncertainty', '1'),
}
#: Words about a lesion by column.
LESION_WORDS = {'region': 'McDonald region', 'status': 'Change since the previous exam'}


def make_report(
    stack: Stack, seg: Any, result: Result, identity: Identity, *, per_lesion: bool
) -> Any:
    """Make the report: number and volume of all lesions, then each lesion.

    Parameters
    ----------
    seg : highdicom Segmentation
        Its segments are what is measured.
    per_lesion : bool
        Whether each lesion has a segment of its own; otherwise only the whole is reported.

    Raises
    ------
    DataError
        If a lesion of the table has no segment, or the source lacks what a report must hold.
    """
    import highdicom as hd
    from pydicom.sr.codedict import codes

    from mslesseg_app.dicom.export.results import settle

    device = hd.sr.DeviceObserverIdentifyingAttributes(
        uid=identity.uid('device'),
        name='mslesseg',
        manufacturer_name='mslesseg',
        model_name=f'mslesseg {__version__}',
    )
    context = hd.sr.ObservationContext(
        observer_device_context=hd.sr.ObserverContext(codes.DCM.Device, device)
    )
    groups = [_whole(stack, seg, result, identity, per_lesion)]
    groups += list(_lesions(stack, seg, result, identity)) if per_lesion else []
    try:
        report = hd.sr.Comprehensive3DSR(
            evidence=[seg, *stack.datasets],
            content=hd.sr.MeasurementReport(
                observation_context=context,
                procedure_reported=hd.sr.CodedConcept('24590-2', 'LN', 'Brain MRI'),
                imaging_measurements=groups,
                title=codes.DCM.ImagingMeasurementReport,
            ),
            series_instance_uid=identity.uid('report series'),
            series_number=int(seg.SeriesNumber) + 1,
            sop_instance_uid=identity.uid('report'),
            instance_number=1,
            manufacturer='mslesseg',
            is_complete=True,
            series_description=f'MS lesion measurements ({result.model})'[:64],
        )
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise DataError(
            f'No report can be made on series {stack.name}: {error}',
            'The headers of the source lack what a structured report must hold.',
        ) from error
    settle(report, identity)
    return report


def _algorithm(result: Result) -> Any:
    import highdicom as hd

    version = f'{__version__} {result.version}'.strip()
    return hd.sr.AlgorithmIdentification(name=f'mslesseg {result.model}', version=version)


def _measurement(concept: _Concept, value: float) -> Any:
    import highdicom as hd

    unit = hd.sr.CodedConcept(concept.unit, 'UCUM', concept.unit)
    name = hd.sr.CodedConcept(concept.value, concept.scheme, concept.meaning)
    return hd.sr.Measurement(name=name, value=float(f'{value:.7g}'), unit=unit)


def _whole(stack: Stack, seg: Any, result: Result, identity: Identity, per_lesion: bool) -> Any:
    """Return the group of number and volume of all lesions."""
    import highdicom as hd
    from pydicom.sr.codedict import codes

    count = _Concept('246206008', 'SCT', 'Number of lesions', '{lesions}')
    volume = _Concept('118565006', 'SCT', 'Volume', 'mm3')
    shared: dict[str, Any] = {
        'tracking_identifier': hd.sr.TrackingIdentifier(identity.uid('whole'), 'All lesions'),
        'finding_type': codes.SCT.Lesion,
        'finding_sites': [hd.sr.FindingSite(codes.SCT.Brain)],
        'measurements': [
            _measurement(count, len(result.table)),
            _measurement(volume, float(result.table['volume_mm3'].sum())),
        ],
        'algorithm_id': _algorithm(result),
    }
    if per_lesion:
        images = [
            hd.sr.SourceImageForMeasurementGroup.from_source_image(dataset)
            for dataset in stack.datasets
        ]
        return hd.sr.MeasurementsAndQualitativeEvaluations(**shared, source_images=images)
    return hd.sr.VolumetricROIMeasurementsAndQualitativeEvaluations(
        **shared, referenced_segment=_segment(stack, seg, 1)
    )


def _segment(stack: Stack, seg: Any, number: int) -> Any:
    import highdicom as hd

    return hd.sr.ReferencedSegment(
        sop_class_uid=seg.SOPClassUID,
        sop_instance_uid=seg.SOPInstanceUID,
        segment_number=number,
        source_series=hd.sr.SourceSeriesForSegmentation(str(stack.datasets[0].SeriesInstanceUID)),
    )


def _lesions(stack: Stack, seg: Any, result: Result, identity: Identity) -> Iterator[Any]:
    import highdicom as hd
    from pydicom.sr.codedict import codes

    known = {int(item.SegmentNumber) for item in seg.SegmentSequence}
    for row in result.table.to_dict('records'):
        number = int(row['lesion_id'])
        if number not in known:
            raise DataError(
                f'Lesion {number} of the table of {result.exam} is not in its image.',
                'One of them was changed; run the participant level again.',
            )
        yield hd.sr.VolumetricROIMeasurementsAndQualitativeEvaluations(
            tracking_identifier=hd.sr.TrackingIdentifier(
                identity.uid('segment', number), f'Lesion {number}'
            ),
            referenced_segment=_segment(stack, seg, number),
            finding_type=codes.SCT.Lesion,
            finding_sites=[hd.sr.FindingSite(codes.SCT.Brain)],
            measurements=[
                _measurement(concept, row[name])
                for name, concept in LESION_CONCEPTS.items()
                if _known(row.get(name))
            ],
            qualitative_evaluations=_words(row),
            algorithm_id=_algorithm(result),
        )


def _known(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _words(row: dict[str, Any]) -> list[Any]:
    import highdicom as hd

    return [
        hd.sr.QualitativeEvaluation(
            hd.sr.CodedConcept(name, SCHEME, title),
            hd.sr.CodedConcept(row[name].replace('_', '-'), SCHEME, row[name].replace('_', ' ')),
        )
        for name, title in LESION_WORDS.items()
        if isinstance(row.get(name), str) and row[name]
    ]
