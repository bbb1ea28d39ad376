"""A tiny world to train in: cubes of tissue with bright lesions."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import nibabel as nb
import numpy as np
import pytest
import torch

from mslesseg_app.training.cases import LabelledCase
from mslesseg_app.training.data import Exam, Pattern, write_exam, write_pattern

EDGE = 32


def make_exam(name: str, subject: str, seed: int, t2w: bool = True) -> Exam:
    """Return an exam of a ball of white matter in grey matter in CSF."""
    rng = np.random.default_rng(seed)
    grid = np.stack(np.meshgrid(*[np.arange(EDGE) - EDGE / 2 + 0.5] * 3, indexing='ij'))
    radius = np.sqrt((grid**2).sum(0))
    tissues = np.zeros((4, EDGE, EDGE, EDGE), np.uint8)
    tissues[0] = 255 * ((radius < 14) & (radius >= 12))
    tissues[1] = 255 * ((radius < 12) & (radius >= 10))
    tissues[2] = 255 * ((radius < 10) & (radius >= 2))
    tissues[3] = tissues[0] * 0 + 255 * (radius < 2)
    tissues[0] |= tissues[3]
    label = np.zeros(radius.shape, np.uint8)
    label[18:22, 12:16, 14 : 16 + seed % 3] = 1
    levels = np.array([[200, 700, 600], [100, 400, 600], [900, 350, 250]], np.float32)
    images = np.zeros((3, *radius.shape))
    for c in range(3):
        for t in range(3):
            images[c] += levels[c, t] * (tissues[t] > 0)
    images[0] += 250 * label
    images = (images + rng.normal(0, 15, images.shape)).clip(1) * (radius < 14)
    present = np.array([True, True, t2w])
    images[~present] = 0
    return Exam(name, subject, images.astype(np.uint16), present, label, tissues, levels)


def make_pattern(name: str, subject: str, seed: int) -> Pattern:
    """Return three small lesions."""
    rng = np.random.default_rng(seed)
    components = np.zeros((EDGE,) * 3, np.int16)
    for number in range(1, 4):
        x, y, z = rng.integers(8, EDGE - 12, 3)
        components[x : x + 4, y : y + 3, z : z + 3] = number
    return Pattern(name, subject, components)


@pytest.fixture
def prepared(tmp_path: Path) -> Path:
    """Return a prepared folder: two people with exam and pattern, one with a pattern only."""
    folder = tmp_path / 'prepared'
    write_exam(folder, make_exam('one', 'person-1', 1))
    write_exam(folder, make_exam('two', 'person-2', 2, t2w=False))
    for number in (1, 2, 3):
        write_pattern(folder, make_pattern(f'p{number}', f'person-{number}', number))
    return folder


def write_case(folder: Path, subject: str, session: int, seed: int) -> LabelledCase:
    """Write three images, a brain and a mask of a ball with bright lesions."""
    exam = make_exam(f'{subject}_ses-{session}', subject, seed)
    name = f'{subject}_ses-{session}'
    folder.mkdir(parents=True, exist_ok=True)
    arrays = dict(zip(('FLAIR', 'T1w', 'T2w'), exam.images, strict=True))
    arrays |= {'brain': (exam.images[0] > 0).astype(np.uint8), 'mask': exam.label}
    paths = {}
    for kind, data in arrays.items():
        paths[kind] = folder / f'{name}_{kind}.nii.gz'
        kept = data if data.dtype == np.uint8 else data.astype(np.float32)
        nb.save(nb.Nifti1Image(kept, np.diag([-1, 1, 1, 1])), paths[kind])
    images = {kind: paths[kind] for kind in ('FLAIR', 'T1w', 'T2w')}
    return LabelledCase(name, subject, images, paths['mask'], paths['brain'])


@pytest.fixture(scope='session')
def cases(tmp_path_factory: pytest.TempPathFactory) -> tuple[LabelledCase, ...]:
    """Five exams of four people; the files must not be changed."""
    folder = tmp_path_factory.mktemp('cases')
    people = [('sub-P01', 1), ('sub-P01', 2), ('sub-P02', 1), ('sub-P03', 1), ('sub-P04', 1)]
    return tuple(write_case(folder, p, s, seed) for seed, (p, s) in enumerate(people, 1))


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Tiny volumes are computed faster by one thread than by several that wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
