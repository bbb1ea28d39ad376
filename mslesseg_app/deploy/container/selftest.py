"""``python -m mslesseg_app.deploy.container.selftest``: is what an exam needs there, offline?"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import nibabel as nb
import numpy as np

from mslesseg_app.core.errors import MSLesSegError
from mslesseg_app.core.fsl import fsl_version, missing_fsl

#: The brain of the template has 1.9 litres.
_BRAIN_LITRES = (1.4, 2.4)


def torch_computes() -> str:
    """Multiply on the CPU, and on the GPU where one is visible."""
    import torch

    from mslesseg_app.models.prediction.device import choose_device

    device, note = choose_device('auto')
    answer = float((torch.ones(8, device=device) * 2).sum().item())
    if answer != 16:
        raise ValueError(f'16 came out as {answer}')
    return f'{torch.__version__}; {note}'


def template_is_there() -> str:
    """Load the brain template and the white-matter prior on its grid."""
    from mslesseg_app.spatial.template import load_template, tissue_prior

    template = load_template()
    share = float((tissue_prior('wm') > 0.5).mean())
    if not 0.01 < share < 0.2:
        raise ValueError(f'{share:.0%} of the grid is white matter')
    return f'{template.source}, {template.licence}'


def default_model_is_there() -> str:
    """Check hash and fit of the weights of the model that runs when none is named."""
    from mslesseg_app.cli.bids_app import build_parser
    from mslesseg_app.models.check import check_model
    from mslesseg_app.models.registry import get_entry

    names: list[str] = build_parser().get_default('model')
    for name in names:
        check_model(get_entry(name), thorough=True)
    return ' '.join(names)


def converter_runs() -> str:
    """Run dcm2niix."""
    program = shutil.which('dcm2niix')
    if program is None:
        import dcm2niix

        program = str(dcm2niix.bin)
    return _first_line(program, '-h')


def validator_runs() -> str:
    """Run the BIDS validator."""
    from mslesseg_app.bids.validation import find_validator

    return _first_line(find_validator() or 'bids-validator-deno', '--version')


def fsl_runs() -> str:
    """Run FLIRT, and ``bet -R`` on the standard brain, where the image has FSL."""
    if not os.environ.get('FSLDIR'):
        return 'not in this image'
    if missing := missing_fsl():
        raise FileNotFoundError(f'missing: {", ".join(missing)}')
    head = Path(os.environ['FSLDIR']) / 'data' / 'standard' / 'MNI152_T1_1mm.nii.gz'
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / 'brain.nii.gz'
        command = ['bet', str(head), str(out), '-m', '-R']
        environment = os.environ | {'FSLOUTPUTTYPE': 'NIFTI_GZ'}
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=600, env=environment
        )
        mask = Path(folder) / 'brain_mask.nii.gz'
        if done.returncode or not mask.is_file():
            raise ValueError(f'bet -R ended with {done.returncode}: {done.stderr.strip()[-200:]}')
        litres = float((np.asarray(nb.load(mask).dataobj) > 0).sum()) / 1e6
    if not _BRAIN_LITRES[0] < litres < _BRAIN_LITRES[1]:
        raise ValueError(f'bet -R found a brain of {litres:.2f} litres')
    version = _first_line(str(shutil.which('flirt')), '-version')
    return f'{version}; {fsl_version()}; bet -R: {litres:.2f} litres'


def _first_line(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    said = (done.stdout or done.stderr).strip()
    if done.returncode or not said:
        raise ValueError(f'{command[0]} ended with {done.returncode}: {said[-200:]}')
    return said.splitlines()[0]


CHECKS: dict[str, Callable[[], str]] = {
    'torch': torch_computes,
    'template': template_is_there,
    'default model': default_model_is_there,
    'dcm2niix': converter_runs,
    'BIDS validator': validator_runs,
    'FSL': fsl_runs,
}


def main() -> int:
    """Do all checks, one line each.

    Returns
    -------
    int
        1 if one of them failed, else 0.
    """
    failed = 0
    for name, check in CHECKS.items():
        try:
            result = check()
        except (MSLesSegError, OSError, ValueError, RuntimeError, ImportError) as error:
            failed += 1
            result = f'FAILED: {error}'
        print(f'{name}: {result}', flush=True)
    return 1 if failed else 0


if __name__ == '__main__':
    sys.exit(main())
