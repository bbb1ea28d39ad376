"""The nodes that tell where each lesion lies, and whether the mask agrees with the FLAIR."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel as nb
import numpy as np
from nipype.interfaces.base import BaseInterfaceInputSpec, File, TraitedSpec, isdefined, traits

from mslesseg_app.core.settings import MODALITIES
from mslesseg_app.participant.interfaces.base import GuardedInterface
from mslesseg_app.participant.interfaces.lesions import write_tsv
from mslesseg_app.spatial import grids


class _DescribeLesionsInput(BaseInterfaceInputSpec):
    labels_file = File(mandatory=True, exists=True, desc='lesion instances on the native grid')
    table_file = File(mandatory=True, exists=True, desc='table of these lesions, TSV')
    transform = File(mandatory=True, exists=True, desc='ITK affine, template to native')
    brain_mask = File(mandatory=True, exists=True, desc='brain on the template grid')
    flair = File(mandatory=True, exists=True, desc='FLAIR on the template grid')
    t1w = File(exists=True, desc='T1w on the template grid')
    t2w = File(exists=True, desc='T2w on the template grid')


class _DescribeLesionsOutput(TraitedSpec):
    regions_file = File(desc='region of each lesion voxel, uint8, native grid')
    table_file = File(desc='the lesion table, completed, TSV')
    columns = traits.Dict(desc='numbers of the regions for the table of metrics')
    metadata = traits.Dict(desc='landmarks and dissemination in space, for sidecars')


class DescribeLesions(GuardedInterface):
    """Find region, distances and intensities (:mod:`mslesseg_app.lesions.description`)."""

    input_spec = _DescribeLesionsInput
    output_spec = _DescribeLesionsOutput

    def _execute(self, cwd: Path) -> dict[str, Any]:
        from mslesseg_app.lesions.description import describe_lesions
        from mslesseg_app.spatial.affines import invert, read_itk

        image = nb.load(self.inputs.labels_file)
        done = describe_lesions(
            read_table(Path(self.inputs.table_file)),
            np.asanyarray(image.dataobj),
            image.affine,
            invert(read_itk(Path(self.inputs.transform))),
            self._images(),
            np.asanyarray(nb.load(self.inputs.brain_mask).dataobj) > 0,
        )
        table_file = cwd / 'lesions.tsv'
        write_tsv(done.table, table_file)
        regions = grids.like(image, done.regions, np.uint8)
        return {
            'regions_file': grids.save(regions, cwd / 'regions.nii.gz'),
            'table_file': str(table_file),
            'columns': done.columns,
            'metadata': done.metadata,
        }

    def _images(self) -> dict[str, np.ndarray]:
        paths = {name: getattr(self.inputs, name.lower()) for name in MODALITIES}
        return {
            name: np.asanyarray(nb.load(path).dataobj)
            for name, path in paths.items()
            if isdefined(path)
        }


class _CheckInput(BaseInterfaceInputSpec):
    flair = File(mandatory=True, exists=True, desc='FLAIR on the template grid')
    brain_mask = File(mandatory=True, exists=True, desc='brain on the template grid')
    mask = File(mandatory=True, exists=True, desc='lesions on the template grid')
    transform = File(mandatory=True, exists=True, desc='ITK affine, template to native')


class _CheckOutput(TraitedSpec):
    record = traits.Dict(desc='the result, for the record of the exam')
    columns = traits.Dict(desc='the result, for the table of metrics')
    metadata = traits.Dict(desc='the result, for sidecars')


class CheckSegmentation(GuardedInterface):
    """Compare the lesion mask with the FLAIR (:mod:`mslesseg_app.lesions.selfcheck`)."""

    input_spec = _CheckInput
    output_spec = _CheckOutput

    def _execute(self, cwd: Path) -> dict[str, Any]:
        from mslesseg_app.lesions.selfcheck import check_segmentation
        from mslesseg_app.spatial.affines import read_itk

        del cwd
        native_from_mni = read_itk(Path(self.inputs.transform))
        found = check_segmentation(
            *(
                np.asanyarray(nb.load(path).dataobj)
                for path in (self.inputs.flair, self.inputs.brain_mask, self.inputs.mask)
            ),
            native_ml_per_ml=float(abs(np.linalg.det(native_from_mni[:3, :3]))),
        )
        return {
            'record': found.to_dict(),
            'columns': found.columns(),
            'metadata': found.sidecar(),
        }


def read_table(path: Path) -> Any:
    """Read a lesion table; columns of words stay words though all their values are ``n/a``."""
    import pandas as pd

    from mslesseg_app.lesions.table import TEXT_COLUMNS

    words = dict.fromkeys(TEXT_COLUMNS, object)
    return pd.read_csv(path, sep='\t', na_values='n/a', keep_default_na=False, dtype=words)
