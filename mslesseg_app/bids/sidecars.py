"""JSON sidecars: where a file comes from, what its numbers mean, and what made it."""

from __future__ import annotations

from typing import Any

from mslesseg_app.bids.exam import Exam
from mslesseg_app.core.settings import Settings
from mslesseg_app.lesions.topography import region_rule
from mslesseg_app.models.entry import ModelEntry
from mslesseg_app.models.prediction.ensemble import (
    AnyModel,
    Ensemble,
    final_threshold,
    model_thresholds,
)
from mslesseg_app.models.prediction.presets import has_presets
from mslesseg_app.spatial.template import TEMPLATE_NAME, template_origin

#: Keys of the rules that made a mask, for those who write and who read them.
THRESHOLD_KEY = 'Threshold'
SMALLEST_KEY = 'MinimumLesionVolume_mm3'
CONNECTIVITY_KEY = 'Connectivity'

_KINDS = {
    'lesion': 'Binary mask of the lesions.',
    'prob': 'Probability of lesion, 0 to 1.',
    'instances': 'Number of the lesion that a voxel belongs to; 1 is the largest, 0 is no lesion.',
    'regions': 'Region of each lesion by the topography of the McDonald criteria; '
    'seg-mcdonald_dseg.tsv names the values.',
    'models': 'Which models of the ensemble mark a voxel, each at its own threshold: the sum of 1 '
    'for the first of Model.Members, 2 for the second, 4 for the third, and so on.',
}
_UNCERTAINTY = {
    'entropy': 'Entropy of the lesion probability in bits: 0 is certain, 1 is a probability of '
    '0.5.',
    'variance': 'Variance of the lesion probability over {varied}: 0 to 0.25.',
}
_FROM_NATIVE = ' The native labels, resampled to the template (nearest neighbour).'


class Sidecars:
    """Sidecars of one exam's outputs.

    Parameters
    ----------
    exam : Exam
    settings : Settings
    entry : ModelEntry or Ensemble
    engine : {'fsl', 'builtin'}
    """

    def __init__(self, exam: Exam, settings: Settings, entry: AnyModel, engine: str) -> None:
        self.exam = exam
        self.settings = settings
        self.entry = entry
        self.engine = engine
        self.uris = {name: self._uri(name) for name in exam.images}
        self.fsl = engine == 'fsl' and not exam.registered
        self.paper = self.fsl and settings.strategy == 'independent'
        self.template = template_origin(head=self.paper)
        edits = settings.derivatives.get('edited')
        self.edited = (
            [f'bids:edited:{exam.edited.relative_to(edits).as_posix()}']
            if exam.edited and edits
            else []
        )

    def preproc(self, modality: str, space: str) -> dict[str, Any]:
        """Sidecar of a preprocessed image."""
        corrected = self.settings.bias_correction and not self.exam.registered
        stripped = space == 'mni' and self.engine == 'fsl'
        stripped = stripped and self.settings.strategy == 'independent'
        content = {
            'Description': f'{modality}, '
            + ('corrected for the bias field.' if corrected else 'no bias-field correction.'),
            'Sources': [self.uris[modality]],
            'SkullStripped': stripped or self.exam.registered,
        }
        return content | self._space(space, modality)

    def brain(self, space: str) -> dict[str, Any]:
        """Sidecar of a brain mask."""
        content = {
            'Type': 'Brain',
            'Description': 'Brain mask.',
            # BET sees the FLAIR only, but in the paper's procedure, as our own mask, all images.
            'Sources': [self.uris['FLAIR']]
            if self.fsl and not self.paper
            else list(self.uris.values()),
        }
        return content | self._space(space, 'FLAIR')

    def lesion(self, kind: str, space: str) -> dict[str, Any]:
        """Sidecar of a lesion mask, probability map, uncertainty map, instances or regions."""
        own = kind in ('prob', 'uncertainty', 'models')
        text = self._uncertainty() if kind == 'uncertainty' else self._kind_text(kind)
        content: dict[str, Any] = {
            'Description': text + (_FROM_NATIVE if space == 'mni' and not own else ''),
            'Sources': [self.uris[name] for name in self._used()],
            'Model': self._model(),
            'Modalities': {
                'used': self._used(),
                'missing': [name for name in self.entry.channels if name not in self.uris],
                'policy': self.entry.missing,
            },
            'SpatialEngine': self.engine,
            'Strategy': self.settings.strategy,
            'RandomSeed': self.settings.random_seed,
        }
        if not own:
            content |= self._rule()
            content['Sources'] = [*content['Sources'], *self.edited]
        if kind == 'uncertainty' and self.settings.uncertainty == 'entropy':
            content['Units'] = 'bit'
        if kind == 'regions':
            content |= region_rule()
        if kind == 'lesion':
            content['Type'] = 'Lesion'
        return content | self._space(space, 'FLAIR')

    def lesion_table(self) -> dict[str, Any]:
        """Dictionary of the lesion table."""
        from mslesseg_app.lesions.table import LESION_COLUMNS

        return {**LESION_COLUMNS, **self._rule(), **region_rule()}

    def metrics(self) -> dict[str, Any]:
        """Dictionary of the metrics table."""
        from mslesseg_app.metrics.columns import metric_columns

        reference = self.exam.reference
        rule = {'RuleSet': 'mslesseg', 'ReferenceMask': reference.name if reference else 'n/a'}
        return {**metric_columns(), **rule, **self._rule()}

    def _rule(self) -> dict[str, Any]:
        settings = self.settings
        return {
            THRESHOLD_KEY: final_threshold(self.entry, settings.threshold),
            SMALLEST_KEY: settings.min_lesion_volume,
            CONNECTIVITY_KEY: settings.connectivity,
        }

    def _kind_text(self, kind: str) -> str:
        if kind != 'prob' or not isinstance(self.entry, Ensemble):
            return _KINDS[kind]
        maps = {
            'mean': 'Mean lesion probability of the models, 0 to 1.',
            'majority': 'Share of the models that mark a voxel as lesion, 0 to 1.',
            'staple': 'Probability of lesion given the masks of all models (STAPLE), 0 to 1.',
        }
        return maps[self.entry.method]

    def _uncertainty(self) -> str:
        several = isinstance(self.entry, Ensemble)
        varied = 'the models' if several else 'diffusion chains, flips and folds'
        text = _UNCERTAINTY[self.settings.uncertainty].format(varied=varied)
        return text + (' It is that of the mean probability of the models.' if several else '')

    def _model(self) -> dict[str, Any]:
        if not isinstance(self.entry, Ensemble):
            return self._one_model(self.entry)
        limits = model_thresholds(self.entry, self.settings.threshold)
        return {
            'Name': self.entry.name,
            'Architecture': self.entry.architecture,
            'SHA256': self.entry.digest,
            'Licence': self.entry.licence,
            'Members': [
                self._one_model(model) | {'Threshold': limit}
                for model, limit in zip(self.entry.models, limits, strict=True)
            ],
        }

    def _one_model(self, entry: ModelEntry) -> dict[str, Any]:
        content: dict[str, Any] = {
            'Name': entry.name,
            'Version': entry.version,
            'Architecture': entry.architecture,
            'SHA256': entry.digest,
            'Licence': entry.licence,
        }
        if has_presets(entry):
            content['Preset'] = self.settings.preset
        if len(entry.members) > 1:
            content['Folds'] = len(entry.members)
        return content

    def _used(self) -> list[str]:
        return [name for name in self.entry.channels if name in self.uris]

    def _uri(self, modality: str) -> str:
        path = self.exam.images[modality].relative_to(self.settings.bids_dir)
        return f'bids:raw:{path.as_posix()}'

    def _space(self, space: str, modality: str) -> dict[str, Any]:
        if space == 'mni':
            return {'SpatialReference': TEMPLATE_NAME, 'Template': self.template}
        return {'SpatialReference': self.uris[modality]}
