"""The one sink of the workflow: niworkflows' naming with our patterns, written atomically."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from nipype.interfaces.base import Directory, traits

from mslesseg_app.bids.names import io_spec, sidecar_of
from mslesseg_app.core.errors import MSLesSegError
from mslesseg_app.core.files import explain_os_error, publish, write_json
from mslesseg_app.participant.interfaces.base import _marked


@contextmanager
def _no_templateflow() -> Iterator[None]:
    """Show TemplateFlow a small folder while niworkflows is imported.

    niworkflows asks TemplateFlow for all its templates at import: that indexes the whole cache
    (seconds), and writes a skeleton of it into HOME, which may be read-only. We need none.
    """
    before = os.environ.get('TEMPLATEFLOW_HOME')
    os.environ['TEMPLATEFLOW_HOME'] = str(Path(__file__).parents[2] / 'data' / 'models')
    try:
        yield
    finally:
        if before is None:
            del os.environ['TEMPLATEFLOW_HOME']
        else:
            os.environ['TEMPLATEFLOW_HOME'] = before


with _no_templateflow():
    from niworkflows.interfaces.bids import (
        BIDS_DERIV_ENTITIES,
        PrepareDerivative,
        _PrepareDerivativeInputSpec,
    )

#: Without `model`: niworkflows would take the column of that name in the dictionary of a table
#: for an entity, and drop its description.
_ENTITIES = [item for item in BIDS_DERIV_ENTITIES if item['name'] != 'model']
_ENTITIES += io_spec()['entities']
_RESOLUTION = 'Grid of the 1 mm template, 182 x 218 x 182 voxels.'


class _SinkInput(_PrepareDerivativeInputSpec):
    base_directory = Directory(mandatory=True, desc='root of the output dataset')
    after = traits.Any(nohash=True, desc='what must be there before anything is written')


class DerivativesDataSink(PrepareDerivative):
    """Name a file by ``io_spec.json`` and put it into the output dataset.

    niworkflows' own ``DerivativesDataSink`` removes the old file before it writes the new one,
    and compresses again what is compressed. Its ``PrepareDerivative`` only finds names and
    metadata; here file and sidecar are then put in their place by one rename each, so that a
    killed run never leaves half a file. What is there already with the same bytes stays
    untouched. Headers are left as the nodes wrote them: an image on the FLAIR's own grid keeps
    its affine bit for bit.
    """

    input_spec = _SinkInput
    _always_run = True
    _config_entities = frozenset(item['name'] for item in _ENTITIES)
    _config_entities_dict = _ENTITIES
    _standard_spaces: frozenset[str] = frozenset()
    _file_patterns = tuple(io_spec()['default_path_patterns'])
    _default_dtypes: dict[str, str | None] = defaultdict(lambda: None)

    def __init__(self, **inputs: Any) -> None:
        super().__init__(**{'check_hdr': False, **inputs})

    def _run_interface(self, runtime: Any) -> Any:
        root = Path(self.inputs.base_directory)
        try:
            runtime = super()._run_interface(runtime)
            self._publish_all(root)
        except MSLesSegError as error:
            raise _marked(error) from error.__cause__
        except OSError as error:
            raise _marked(explain_os_error(error, root)) from error
        return runtime

    def _publish_all(self, root: Path) -> None:
        metadata = self._results['out_meta']
        if 'Resolution' in metadata:  # niworkflows: unknown
            metadata['Resolution'] = _RESOLUTION
        for made, name in zip(self._results['out_file'], self._results['out_path'], strict=True):
            target = root / name
            if metadata:
                write_json(sidecar_of(target), metadata)
            publish(Path(made), target)
