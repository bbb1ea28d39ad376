"""Shapes and places of real lesions, which augmentation plants."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from mslesseg_app.core.errors import DataError
from mslesseg_app.training.random_fields import RandomStream


class LesionShapes:
    """Real lesions at their places on the template grid.

    Parameters
    ----------
    path : Path
        ``.npz`` with ``voxel`` (N, 3), ``lesion`` (N,) and ``affine`` (4, 4) of the template grid.
    """

    def __init__(self, path: Path) -> None:
        from mslesseg_app.spatial.template import TEMPLATE_AFFINE

        try:
            with np.load(path, allow_pickle=False) as file:
                voxel, number, affine = file['voxel'], file['lesion'], file['affine']
        except (OSError, ValueError, KeyError) as error:
            raise DataError(f'{path} holds no lesion shapes: {error}') from error
        if not np.allclose(affine, TEMPLATE_AFFINE):
            raise DataError(f'The shapes of {path} are not on the template grid.')
        order = np.argsort(number, kind='stable')
        voxel, number = voxel[order].astype(np.int64), number[order]
        cuts = np.flatnonzero(np.diff(number)) + 1
        self.lesions = np.split(voxel, cuts)
        self.size = np.array([len(lesion) for lesion in self.lesions])

    def draw(
        self, shape: Sequence[int], corner: Sequence[int], load_ml: float, stream: RandomStream
    ) -> Tensor:
        """Return the lesions of an invented patient in a box of the template grid.

        Lesions of at most one and a half times the load are drawn until it is reached, each
        moved by up to 4 mm. Where they overlap, the load becomes smaller.

        Parameters
        ----------
        shape, corner : three ints
            Of the box (voxels).
        load_ml : float
        stream : RandomStream

        Returns
        -------
        uint8 tensor (X, Y, Z)
        """
        wanted = 1000 * load_ml
        fitting = np.flatnonzero(self.size <= max(1.5 * wanted, self.size.min()))
        mask = np.zeros(tuple(shape), np.uint8)
        mirror = stream.happens(0.5)
        total = 0
        while total < 0.9 * wanted:
            lesion = self.lesions[fitting[stream.integer(len(fitting))]]
            total += len(lesion)
            moved = lesion.copy()
            if mirror:
                moved[:, 0] = 181 - moved[:, 0]
            moved += np.array([stream.integer(9) - 4 for _ in range(3)]) - np.asarray(corner)
            inside = ((moved >= 0) & (moved < mask.shape)).all(axis=1)
            mask[tuple(moved[inside].T)] = 1
        return torch.from_numpy(mask)
