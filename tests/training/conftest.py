"""A tiny world to train in: cubes of tissue with bright lesions."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import nibabel as nb
import numpy as np
import pytest
import torch

from mslesseg_app.training.cases import LabelledCase

EDGE = 32
MODALITIES = ('FLAIR', 'T1w', 'T2w')


def make_exam(seed: int) -> dict[str, np.ndarray]:
    """Return images, brain and mask of a ball of white matter in grey matter in CSF."""
    rng = np.random.default_rng(seed)
    grid = np.stack(np.meshgrid(*[np.arange(EDGE) - EDGE / 2 + 0.5] * 3, indexing='ij'))
    radius = np.sqrt((grid**2).sum(0))
    fluid = (radius < 2) | ((radius >= 12) & (radius < 14))
    tissues = (fluid, (radius >= 10) & (radius < 12), (radius >= 2) & (radius < 10))
    label = np.zeros(radius.shape, np.uint8)
    label[18:22, 12:16, 14 : 16 + seed % 3] = 1
    levels = np.array([[200, 700, 600], [100, 400, 600], [900, 350, 250]])
    images = np.einsum('ct,txyz->cxyz', levels, np.array(tissues, float))
    images[0] += 250 * label
    images = (images + rng.normal(0, 15, images.shape)).clip(1) * (radius < 14)
    brain = (radius < 14).astype(np.uint8)
    arrays = zip(MODALITIES, images.astype(np.uint16).astype(np.float32), strict=True)
    return {**dict(arrays), 'brain': brain, 'mask': label}


def write_case(folder: Path, subject: str, session: int, seed: int) -> LabelledCase:
    """Write three images, a brain and a mask of a ball with bright lesions."""
    name = f'{subject}_ses-{session}'
    folder.mkdir(parents=True, exist_ok=True)
    paths = {}
    for kind, data in make_exam(seed).items():
        paths[kind] = folder / f'{name}_{kind}.nii.gz'
        nb.save(nb.Nifti1Image(data, np.diag([-1, 1, 1, 1])), paths[kind])
    images = {kind: paths[kind] for kind in MODALITIES}
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
