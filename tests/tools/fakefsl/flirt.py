"""``flirt -in X -ref Y [-out Z] [-omat M] [-init M] [-nosearch] [-schedule S] …``.

The options and what they mean are those of FLIRT 6.0. In one thing it is like its own schedule:
``-nosearch`` alone begins where the centres of gravity of the two images meet, whatever
``-init`` says of the shift; only a schedule without ``search`` begins at the matrix itself.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import nibabel as nb
import numpy as np

from . import images

_COSTS = ('mutualinfo', 'corratio', 'normcorr', 'normmi', 'leastsq', 'labeldiff', 'bbr')
_COMMANDS = {
    'setscale', 'setoption', 'clear', 'setrow', 'setrowqsform', 'optimise', 'measurecost', 'copy',
    'sort', 'dualsort', 'if', 'search',
}  # fmt: skip


def main(arguments: list[str]) -> int:
    options = parse(arguments)
    moving, reference = nb.load(options.moving), nb.load(options.ref)
    mask = _weight(options.refweight, reference)
    _weight(options.inweight, moving)
    dof = 6 if options.dof == 6 else 12
    searches = _searches(options)
    if searches and options.init is None and not options.usesqform:
        affine = register(moving, reference, dof, mask=mask)
    else:
        affine = register(moving, reference, dof, mask=mask, start=_start(options))
    if options.omat:
        np.savetxt(options.omat, images.flirt_matrix(moving, reference, affine), fmt='%.10f')
    if options.out:
        moved = images.resample(moving, reference, affine)
        images.save(moved, reference, images.output(options.out))
    return 0


def parse(arguments: list[str]) -> argparse.Namespace:
    """Read the command line; what FLIRT does not know is refused."""
    parser = argparse.ArgumentParser(prog='flirt', allow_abbrev=False)
    parser.add_argument('-in', dest='moving', required=True)
    parser.add_argument('-ref', required=True)
    for name in ('out', 'omat', 'init', 'refweight', 'inweight', 'schedule'):
        parser.add_argument(f'-{name}')
    parser.add_argument('-dof', type=int, choices=[6, 7, 9, 12], default=12)
    parser.add_argument('-bins', type=int, default=256)
    parser.add_argument('-cost', choices=_COSTS, default='corratio')
    parser.add_argument('-searchcost', choices=_COSTS, default='corratio')
    for axis in 'xyz':
        parser.add_argument(f'-searchr{axis}', nargs=2, type=float, default=[-90, 90])
    parser.add_argument('-nosearch', action='store_true')
    parser.add_argument('-usesqform', action='store_true')
    return parser.parse_args(arguments)


def _searches(options: argparse.Namespace) -> bool:
    """Whether other turns than that of the start are tried."""
    if options.schedule and not _has_search(options.schedule):
        return False
    ranges = (options.searchrx, options.searchry, options.searchrz)
    return not options.nosearch and any(low < high for low, high in ranges)


def _has_search(schedule: str) -> bool:
    """Whether a schedule searches; a word that FLIRT would not understand is an error."""
    lines = [line.split() for line in Path(schedule).read_text().splitlines()]
    words = [line[0] for line in lines if line and not line[0].startswith('#')]
    if unknown := set(words) - _COMMANDS:
        raise SystemExit(f'Unrecognised command {sorted(unknown)}')
    return 'search' in words


def _weight(path: str | None, image: Any) -> Any | None:
    if path is None:
        return None
    weight = nb.load(path)
    if weight.shape != image.shape:
        raise SystemExit('Weighting volume must be the same size as the image it weighs')
    return weight


def _start(options: argparse.Namespace) -> np.ndarray:
    """Return where a run without search begins, ``moving_from_reference`` in RAS+ mm."""
    moving, reference = nb.load(options.moving), nb.load(options.ref)
    if options.init is not None:
        matrix = np.loadtxt(options.init)
        if matrix.shape != (4, 4):
            raise SystemExit(f'Could not read matrix {options.init}')
        start = images.from_flirt_matrix(moving, reference, matrix)
    elif options.usesqform:
        start = np.eye(4)
    else:
        start = images.from_flirt_matrix(moving, reference, np.eye(4))
    if options.schedule and not _has_search(options.schedule):
        return start
    return _centred(start, moving, reference)


def _centred(start: np.ndarray, moving: Any, reference: Any) -> np.ndarray:
    """Shift a start so that the centre of gravity of the reference goes to the moving one's."""
    centres = []
    for image in (moving, reference):
        data = np.asarray(image.dataobj, dtype=np.float64)
        weight = data - data.min()
        grid = np.indices(data.shape).reshape(3, -1)
        voxel = (grid * weight.ravel()).sum(axis=1) / weight.sum()
        centres.append(nb.affines.apply_affine(image.affine, voxel))
    shifted = start.copy()
    shifted[:3, 3] = centres[0] - start[:3, :3] @ centres[1]
    return shifted


def register(
    moving: Any,
    reference: Any,
    dof: int,
    mask: Any | None = None,
    start: np.ndarray | None = None,
) -> np.ndarray:
    """Find ``moving_from_reference``, RAS+ millimetres; with a start only in its neighbourhood."""
    from mslesseg_app.spatial.registration import align

    found = align(moving, reference, dof=dof, reference_mask=mask, start=start, seed=1)
    return found.moving_from_reference


if __name__ == '__main__':
    sys.exit(main(sys.argv[1:]))
