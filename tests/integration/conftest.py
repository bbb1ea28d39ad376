"""Real runs of the App in processes of their own, on a small synthetic head.

One run is shared by all tests that only look at its results, also by those of other pytest
workers: whoever comes first makes it.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from filelock import FileLock
from running import QUICK, RESOLUTION


@dataclass(frozen=True)
class Done:
    """A run of the App that ended."""

    code: int
    stdout: str
    stderr: str


@dataclass(frozen=True)
class Finished:
    """The shared run and what it was made from."""

    root: Path
    done: Done

    @property
    def bids(self) -> Path:
        return self.root / 'bids'

    @property
    def out(self) -> Path:
        return self.root / 'out'

    @property
    def work(self) -> Path:
        return self.root / 'work'

    @property
    def manual(self) -> Path:
        return self.bids / 'derivatives' / 'manual'

    @property
    def anat(self) -> Path:
        return self.out / 'sub-demo' / 'ses-1' / 'anat'

    def file(self, name: str) -> Path:
        """Return an output of the exam by what follows its label."""
        return self.anat / f'sub-demo_ses-1_{name}'

    def raw(self, modality: str) -> Path:
        return self.bids / f'sub-demo/ses-1/anat/sub-demo_ses-1_{modality}.nii.gz'


Start = Callable[..., 'subprocess.Popen[str]']
Run = Callable[..., Done]


def _hear_interrupts() -> None:
    """Undo what a shell does to its background jobs, which the tests may be one of."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.fixture(scope='session')
def users_folder(shared: Path) -> Path:
    """Folder that all runs are started in; none may leave a file there."""
    folder = shared / 'users_folder'
    folder.mkdir(exist_ok=True)
    return folder


@pytest.fixture(scope='session')
def start(project_root: Path, users_folder: Path) -> Start:
    """Return a function that starts ``mslesseg`` in a process group of its own."""

    def go(*arguments: object, **environment: str) -> subprocess.Popen[str]:
        command = [sys.executable, '-m', 'mslesseg_app', *map(str, arguments)]
        paths = os.pathsep.join([str(project_root), environment.pop('PYTHONPATH', '')])
        return subprocess.Popen(
            command,
            cwd=users_folder,
            env={**os.environ, 'PYTHONPATH': paths, **environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            preexec_fn=_hear_interrupts,
        )

    return go


@pytest.fixture(scope='session')
def run(start: Start) -> Run:
    """Return a function that runs ``mslesseg`` to its end; no run may show a traceback."""

    def go(*arguments: object, **environment: str) -> Done:
        process = start(*arguments, **environment)
        stdout, stderr = process.communicate(timeout=800)
        assert 'Traceback' not in stdout + stderr, stderr
        return Done(process.returncode, stdout, stderr)

    return go


@pytest.fixture(scope='session')
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder that all workers of this test session share."""
    folder = tmp_path_factory.getbasetemp()
    if 'PYTEST_XDIST_WORKER' in os.environ:
        folder = folder.parent
    folder = folder / 'integration'
    folder.mkdir(exist_ok=True)
    return folder


def made_once(folder: Path, make: Callable[[Path], Done | None]) -> Done:
    """Let the first worker that asks make a folder; the others get what it made."""
    record = folder / 'done.json'
    folder.mkdir(exist_ok=True)
    with FileLock(folder.with_suffix('.lock')):
        if not record.is_file():
            done = make(folder) or Done(0, '', '')
            record.write_text(json.dumps([done.code, done.stdout, done.stderr]))
    return Done(*json.loads(record.read_text()))


@pytest.fixture(scope='session')
def finished(shared: Path, run: Run) -> Finished:
    """One exam of three coarse images, run with everything that can be asked for."""
    from phantom_dataset import make_dataset

    def make(root: Path) -> Done:
        dataset = make_dataset(root / 'bids', n_sessions=1, resolution=RESOLUTION)
        return run(
            root / 'bids',
            root / 'out',
            'participant',
            'group',
            '-w',
            root / 'work',
            '--nprocs',
            '2',
            '--derivatives',
            f'manual={dataset.manual_dir}',
            '--model',
            'hyperintensity',
            '--write-graph',
            '--write-provenance',
            '--resource-monitor',
        )

    root = shared / 'finished'
    return Finished(root, made_once(root, make))


@pytest.fixture(scope='session')
def registered(shared: Path, finished: Finished) -> Path:
    """A dataset of one exam in MSLesSeg's own form: it runs in seconds.

    FLAIR and T1w of the shared run on the template grid, without skull.
    """
    import nibabel as nb
    import numpy as np
    from skeleton import write_dataset

    def make(root: Path) -> None:
        bids = write_dataset(root / 'bids', [])
        grid = 'space-MNI152NLin6Asym_res-1_desc-'
        brain = np.asarray(nb.load(finished.file(f'{grid}brain_mask.nii.gz')).dataobj) > 0
        folder = bids / 'sub-01' / 'ses-1' / 'anat'
        folder.mkdir(parents=True)
        for modality in ('FLAIR', 'T1w'):
            image = nb.load(finished.file(f'{grid}preproc_{modality}.nii.gz'))
            data = np.where(brain, np.asarray(image.dataobj), 0).astype(np.float32)
            nb.Nifti1Image(data, image.affine).to_filename(
                folder / f'sub-01_ses-1_{modality}.nii.gz'
            )

    root = shared / 'registered'
    made_once(root, make)
    return root / 'bids'


@pytest.fixture
def quick(registered: Path, tmp_path: Path) -> Path:
    """A copy of the registered dataset that the test may change."""
    return Path(shutil.copytree(registered, tmp_path / 'bids'))


@pytest.fixture(scope='session')
def quick_run(shared: Path, registered: Path, run: Run) -> Path:
    """Root of a finished run on the registered dataset, with ``bids``, ``out`` and ``work``."""

    def make(root: Path) -> Done:
        shutil.copytree(registered, root / 'bids')
        return run(root / 'bids', root / 'out', 'participant', '-w', root / 'work', *QUICK)

    done = made_once(shared / 'quick', make)
    assert done.code == 0, done.stderr
    return shared / 'quick'


#: Networks for whole runs, and how few windows and steps they need here.
SAMPLERS = {
    'unetr': {'overlap': 0.0},
    'mssegdiff': {'overlap': 0.0, 'chains': 1, 'steps': 2, 'fusion': 'probability'},
}


@pytest.fixture(scope='session')
def own_models(shared: Path) -> Path:
    """A folder with a tiny network of each kind: one that draws chains, one that does not."""
    from tiny_models import add_tiny

    def make(root: Path) -> None:
        for name, sampler in SAMPLERS.items():
            add_tiny(name, root, sampler=sampler)

    made_once(shared / 'models', make)
    return shared / 'models'


@pytest.fixture(scope='session')
def three(shared: Path, finished: Finished) -> Path:
    """A dataset of one exam of three images on the template grid, without skull."""
    import nibabel as nb
    import numpy as np
    from skeleton import path_of, write_dataset

    def make(root: Path) -> None:
        bids = write_dataset(root / 'bids', [])
        grid = 'space-MNI152NLin6Asym_res-1_desc-'
        brain = np.asarray(nb.load(finished.file(f'{grid}brain_mask.nii.gz')).dataobj) > 0
        for modality in ('FLAIR', 'T1w', 'T2w'):
            image = nb.load(finished.file(f'{grid}preproc_{modality}.nii.gz'))
            data = np.where(brain, np.asarray(image.dataobj), 0).astype(np.float32)
            path = bids / path_of(f'sub-01_{modality}')
            path.parent.mkdir(parents=True, exist_ok=True)
            nb.Nifti1Image(data, image.affine).to_filename(path)

    made_once(shared / 'three', make)
    return shared / 'three' / 'bids'


@pytest.fixture(scope='session')
def network_out(shared: Path, three: Path, own_models: Path, run: Run) -> Callable[[str], Path]:
    """Return a function that gives the output folder of a network on the exam of `three`."""

    def go(name: str) -> Path:
        def make(root: Path) -> Done:
            return run(
                three, root / 'out', 'participant', '-w', root / 'work', *QUICK,
                '--model', name, '--model-dir', own_models, OMP_NUM_THREADS='1',
            )  # fmt: skip

        done = made_once(shared / name, make)
        assert done.code == 0, done.stderr
        return shared / name / 'out'

    return go
