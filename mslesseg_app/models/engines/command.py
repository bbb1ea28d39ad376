"""An engine in an environment of its own: a command line that reads images and writes one.

Options of its entries, besides those of every engine (`mslesseg_app.models.entry.ModelEntry`):

=========== ===================================================================================
``command`` Words as in a shell; ``{flair} {t1w} {t2w}`` are NIfTI files on one grid, ``{folder}``
            an empty folder for results, ``{output}`` a file there; ``{device}`` is ``cpu`` or
            ``cuda``, ``{gpu}`` is ``cpu`` or ``0``. No shell is started.
``result``  The image in ``{folder}`` that holds the result, a name or a pattern; default the file
            of ``{output}``.
``labels``  Values of lesions in the result; without it the result is a probability.
``hours``   Time after which the program is stopped, 6 by default.
=========== ===================================================================================
"""

from __future__ import annotations

import os
import shlex
import shutil
import string
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import nibabel as nb
import numpy as np
import numpy.typing as npt

from mslesseg_app.core.errors import DataError, ModelError
from mslesseg_app.models.prediction.prediction import Prediction
from mslesseg_app.spatial.checks import UNREADABLE

if TYPE_CHECKING:
    from mslesseg_app.models.entry import ModelEntry

_OUTPUT = 'lesions.nii.gz'
_PLACES = ('flair', 't1w', 't2w', 'folder', 'output', 'device', 'gpu', 'threads')
_OWN = ('PYTHONPATH', 'PYTHONHOME', 'VIRTUAL_ENV', '__PYVENV_LAUNCHER__')
"""Variables of our Python that would mislead that of another environment."""
_LAST_LINES = 5
_CLOSE = 1e-3
"""Difference of affines (mm) up to which two grids are one."""


def missing(entry: ModelEntry) -> str:
    """Say that the program of an entry is not on this machine; nothing if it is."""
    program = _words(entry)[0]
    return '' if shutil.which(program) else f'there is no program {program!r} on this machine'


def load(
    entry: ModelEntry, weights: object, device: str, *, threads: int, seed: int
) -> CommandEngine:
    """Return the program of an entry as an engine."""
    return CommandEngine(entry, device, threads)


class CommandEngine:
    """A program behind the engine protocol; its images lie in a folder that goes with the call.

    Parameters
    ----------
    entry : ModelEntry
        See the options above.
    device : str
        ``cpu`` or ``cuda:N``.
    threads : int
        CPU threads.

    Raises
    ------
    ModelError
        If the command cannot be understood.
    """

    def __init__(self, entry: ModelEntry, device: str, threads: int) -> None:
        self.entry = entry
        self.words = _words(entry)
        self.device, self.threads = device, threads
        self.labels = _labels(entry)

    def __call__(
        self, channels: npt.NDArray[np.float32], affine: npt.NDArray[np.float64]
    ) -> Prediction:
        """Return what the program finds.

        Raises
        ------
        DataError
            If it fails, or gives no image on the grid of its input.
        """
        with tempfile.TemporaryDirectory(prefix='mslesseg-engine-') as name:
            root = Path(name)
            folder = root / 'results'
            folder.mkdir()
            places = {'folder': str(folder), 'output': str(folder / _OUTPUT)}
            for modality, data in zip(self.entry.channels, channels, strict=True):
                path = root / f'{modality.lower()}.nii.gz'
                _image(data, affine).to_filename(path)
                places[modality.lower()] = str(path)
            self._run(places, root)
            return Prediction(self._read_result(folder, affine, channels.shape[1:]))

    def _run(self, places: dict[str, str], cwd: Path) -> None:
        kind, _, number = self.device.partition(':')
        gpu = 'cpu' if kind == 'cpu' else '0'
        places |= {'device': kind, 'gpu': gpu, 'threads': str(self.threads)}
        environment = {key: value for key, value in os.environ.items() if key not in _OWN}
        environment['OMP_NUM_THREADS'] = str(self.threads)
        if number:
            environment['CUDA_VISIBLE_DEVICES'] = number
        command = [word.format_map(places) for word in self.words]
        hours = float(self.entry.options.get('hours', 6))
        try:
            done = subprocess.run(
                command,
                cwd=cwd,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors='replace',
                timeout=hours * 3600,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise self._failed(f'did not end within {hours:g} hours', command, '') from error
        except OSError as error:
            raise self._failed(f'cannot be started ({error.strerror})', command, '') from error
        if done.returncode:
            how = f'ended with exit code {done.returncode}'
            raise self._failed(how, command, done.stdout)

    def _failed(self, how: str, command: Sequence[str], said: str) -> DataError:
        lines = [line.strip() for line in said.splitlines() if line.strip()][-_LAST_LINES:]
        words = f' Its last words: {" | ".join(lines)}' if lines else ''
        return DataError(
            f'The program of the model {self.entry.name!r} {how}.{words}',
            f'Try its command yourself: {shlex.join(command)}',
        )

    def _read_result(
        self, folder: Path, affine: npt.NDArray[np.float64], shape: tuple[int, ...]
    ) -> npt.NDArray[np.float32]:
        pattern = str(self.entry.options.get('result', _OUTPUT))
        found = sorted(folder.glob(pattern))
        name = self.entry.name
        if len(found) != 1:
            there = ', '.join(sorted(p.name for p in folder.iterdir())) or 'nothing'
            raise DataError(
                f'The program of the model {name!r} left {len(found)} files {pattern!r}; its '
                f'folder holds {there}.',
                'Correct its command, or the option result of its description.',
            )
        try:
            image: Any = nb.load(found[0])
            data = np.asanyarray(image.dataobj).reshape(shape)
        except (*UNREADABLE, ValueError) as error:
            raise DataError(
                f'{found[0].name} of the model {name!r} cannot be used: {error}'
            ) from error
        if not np.allclose(image.affine, affine, atol=_CLOSE):
            raise DataError(
                f'{found[0].name} of the model {name!r} lies on another grid than its input.',
                'Let the program write its result on the grid of the images that it is given.',
            )
        return self._probability(data)

    def _probability(self, data: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        if self.labels:
            return np.isin(np.rint(data), self.labels).astype(np.float32)
        prob = data.astype(np.float32)
        rounding = 1e-4
        if not (prob.min() >= -rounding and prob.max() <= 1 + rounding):  # NaN fails, too
            raise DataError(
                f'The result of the model {self.entry.name!r} is no probability from 0 to 1.',
                'If it holds labels, say which of them is the lesion: --option labels=1',
            )
        return prob.clip(0, 1)


def _image(data: npt.NDArray[np.float32], affine: npt.NDArray[np.float64]) -> nb.Nifti1Image:
    image = nb.Nifti1Image(data, affine)
    image.set_qform(affine, 1)
    image.set_sform(affine, 1)
    image.header.set_xyzt_units('mm')
    return image


def _words(entry: ModelEntry) -> list[str]:
    """Return the words of a command, its program first."""
    command = entry.options.get('command')
    try:
        words = shlex.split(command) if isinstance(command, str) else []
        used = {
            field for word in words for _, field, _, _ in string.Formatter().parse(word) if field
        }
    except ValueError as error:
        raise _wrong(entry, f'cannot be read ({error})') from error
    if not words:
        raise _wrong(entry, 'is empty')
    allowed = {*_PLACES} - {'flair', 't1w', 't2w'} | {name.lower() for name in entry.channels}
    strange = sorted(used - allowed)
    if strange:
        known = ', '.join(f'{{{name}}}' for name in _PLACES if name in allowed)
        raise _wrong(entry, f'holds {{{strange[0]}}}; known here are {known}')
    return words


def _wrong(entry: ModelEntry, what: str) -> ModelError:
    return ModelError(
        f'The command of the model {entry.name!r} {what}.',
        "For example: --engine-command 'segment --flair {flair} --out {output}'",
    )


def _labels(entry: ModelEntry) -> tuple[int, ...]:
    """Return the values of lesions; none if the result is a probability."""
    value = entry.options.get('labels', ())
    values = value if isinstance(value, list | tuple) else (value,)
    if not all(isinstance(v, int) and not isinstance(v, bool) for v in values):
        raise ModelError(
            f'The option labels of the model {entry.name!r} is no whole number or list of them.',
            'For example: --option labels=1',
        )
    return tuple(values)
