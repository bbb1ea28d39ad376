"""``python -m mslesseg_app.container.selftest``: is all there that an exam needs, offline?"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from ..errors import MSLesSegError


def torch_computes() -> str:
    """Multiply on the CPU, and on the GPU where one is visible."""
    import torch

    from ..inference.device import choose_device

    device, note = choose_device('auto')
    answer = float((torch.ones(8, device=device) * 2).sum().item())
    if answer != 16:
        raise ValueError(f'16 came out as {answer}')
    return f'{torch.__version__}; {note}'


def template_is_there() -> str:
    """Load the brain template and the white-matter prior on its grid."""
    from ..spatial.template import load_template, tissue_prior

    template = load_template()
    share = float((tissue_prior('wm') > 0.5).mean())
    if not 0.01 < share < 0.2:
        raise ValueError(f'{share:.0%} of the grid is white matter')
    return f'{template.source}, {template.licence}'


def default_model_is_there() -> str:
    """Check hash and fit of the weights of the model that runs when none is named."""
    from ..cli.bids_app import build_parser
    from ..models.check import check_model
    from ..models.registry import get_entry

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
    from ..bids.validation import find_validator

    return _first_line(find_validator() or 'bids-validator-deno', '--version')


def fsl_runs() -> str:
    """Run FLIRT, and find BET, where the image has FSL."""
    if not os.environ.get('FSLDIR'):
        return 'not in this image'
    folder = Path(os.environ['FSLDIR'])
    for name in ('bin/bet2', 'data/standard/MNI152_T1_1mm.nii.gz'):
        if not (folder / name).is_file():
            raise FileNotFoundError(f'{folder / name} is missing')
    return _first_line(str(folder / 'bin' / 'flirt'), '-version')


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
