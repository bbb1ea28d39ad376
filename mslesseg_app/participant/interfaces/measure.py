"""The node that gathers an exam's numbers: volumes, quality, and accuracy where known."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nibabel as nb
import numpy as np
from nipype.interfaces.base import BaseInterfaceInputSpec, File, TraitedSpec, isdefined, traits

from mslesseg_app.participant.interfaces.base import GuardedInterface
from mslesseg_app.participant.interfaces.lesions import write_tsv
from mslesseg_app.spatial.reading import open_image


class _MeasureInput(BaseInterfaceInputSpec):
    participant = traits.Str(mandatory=True)
    session = traits.Str('', usedefault=True)
    model = traits.Str(mandatory=True)
    original = File(mandatory=True, exists=True, desc='raw FLAIR')
    flair_mni = File(mandatory=True, exists=True, desc='FLAIR on the template grid')
    transform = File(mandatory=True, exists=True, desc='ITK affine, template to FLAIR')
    quality = File(mandatory=True, exists=True, desc='quality of the alignment, JSON')
    brain_native = File(mandatory=True, exists=True)
    brain_mni = File(mandatory=True, exists=True)
    mask_native = File(mandatory=True, exists=True, desc='lesions on the native grid')
    mask_mni = File(mandatory=True, exists=True, desc='lesions on the template grid')
    summary = traits.Dict(mandatory=True, desc='count and volume of the lesions')
    regions = traits.Dict(mandatory=True, desc='numbers of the regions')
    info = traits.Dict(mandatory=True, desc='what the model used')
    selfcheck = traits.Dict(desc='columns of the self-check')
    reference = File(exists=True, desc='reference lesion mask')


class _MeasureOutput(TraitedSpec):
    out_file = File(desc='metrics, TSV of one row')
    qc = traits.List(desc='quality numbers with their statuses')
    reference_info = traits.Dict(desc='the accuracy and the grid it was computed on')


class MeasureExam(GuardedInterface):
    """Write the metrics of one exam; accuracy is ``n/a`` without a reference mask."""

    input_spec = _MeasureInput
    output_spec = _MeasureOutput

    def _execute(self, cwd: Path) -> dict[str, Any]:
        import pandas as pd

        from mslesseg_app.metrics.columns import metric_columns
        from mslesseg_app.metrics.exam import unknown
        from mslesseg_app.metrics.reference import evaluate
        from mslesseg_app.participant.stages import quality
        from mslesseg_app.spatial.qc import quality_row

        accuracy, grid = unknown(), None
        if isdefined(self.inputs.reference):
            native = nb.load(self.inputs.mask_native)
            mni = nb.load(self.inputs.mask_mni)
            accuracy, grid = evaluate(Path(self.inputs.reference), native, mni)
        qc = quality(
            open_image(Path(self.inputs.original)),
            nb.load(self.inputs.flair_mni),
            nb.load(self.inputs.brain_native),
            nb.load(self.inputs.brain_mni),
            json.loads(Path(self.inputs.quality).read_text(encoding='utf-8')),
            self.inputs.summary,
        )
        row = self._metrics_row() | quality_row(qc) | {'reference_grid': grid, **accuracy}
        row = {name: row.get(name) for name in metric_columns()}
        out_file = cwd / 'metrics.tsv'
        write_tsv(pd.DataFrame([row]), out_file)
        known = {key: None if np.isnan(value) else value for key, value in accuracy.items()}
        info = {'reference_grid': grid, **known} if grid else {}
        return {'out_file': str(out_file), 'qc': qc, 'reference_info': info}

    def _metrics_row(self) -> dict[str, Any]:
        from mslesseg_app.participant.stages import volumes

        info = self.inputs.info
        agreement = info.get('agreement', {})
        return {
            'participant_id': f'sub-{self.inputs.participant}',
            'session_id': f'ses-{self.inputs.session}' if self.inputs.session else None,
            'model': self.inputs.model,
            **volumes(self.inputs.summary, nb.load(self.inputs.brain_native)),
            **self.inputs.regions,
            **(self.inputs.selfcheck or {}),
            'modalities_used': ','.join(info['used']),
            'modalities_missing': ','.join(info['missing']) or None,
            'model_agreement': agreement.get('MeanDSC'),
            'model_agreement_status': agreement.get('Status'),
        }
