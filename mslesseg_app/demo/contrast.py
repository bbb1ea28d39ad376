"""How bright each tissue is on T1w, T2w and FLAIR, and the noise-free volumes of a head."""

from __future__ import annotations

from typing import Literal

import numpy as np

from mslesseg_app.demo.anatomy import Brain, Float, paint, smooth_noise

Modality = Literal['T1w', 'T2w', 'FLAIR']
MODALITIES: tuple[Modality, ...] = ('T1w', 'T2w', 'FLAIR')

# White matter is 100. The order of the tissues is that of a 3 T MPRAGE, a turbo spin echo and
# a fat-suppressed FLAIR; the ratios lie within what clinical scans of people with MS show.
INTENSITIES: dict[str, dict[Modality, float]] = {
    'air': {'T1w': 0, 'T2w': 0, 'FLAIR': 0},
    'skin': {'T1w': 80, 'T2w': 70, 'FLAIR': 52},
    'fat': {'T1w': 150, 'T2w': 170, 'FLAIR': 45},
    'muscle': {'T1w': 52, 'T2w': 45, 'FLAIR': 48},
    'mucosa': {'T1w': 60, 'T2w': 220, 'FLAIR': 150},
    'vessel': {'T1w': 15, 'T2w': 8, 'FLAIR': 10},
    'bone': {'T1w': 9, 'T2w': 10, 'FLAIR': 9},
    'marrow': {'T1w': 95, 'T2w': 85, 'FLAIR': 35},
    'vitreous': {'T1w': 28, 'T2w': 330, 'FLAIR': 26},
    'lens': {'T1w': 60, 'T2w': 25, 'FLAIR': 45},
    'csf': {'T1w': 27, 'T2w': 310, 'FLAIR': 18},
    'gm': {'T1w': 70, 'T2w': 136, 'FLAIR': 121},
    'wm': {'T1w': 100, 'T2w': 100, 'FLAIR': 100},
}
LESION: dict[Modality, float] = {'T1w': 76, 'T2w': 205, 'FLAIR': 172}


def healthy_volumes(brain: Brain, rng: np.random.Generator) -> dict[Modality, Float]:
    """Noise-free images of the head without lesions, on the head grid.

    Parameters
    ----------
    brain : Brain
        The subject.
    rng : numpy.random.Generator
        Varies skull and scalp, and the slight unevenness that real tissue has.

    Returns
    -------
    dict
        For each modality a float32 volume, white matter about 100.
    """
    volumes = {name: np.zeros(brain.grid.shape, np.float32) for name in MODALITIES}
    for layer in paint(brain, rng):
        for name, volume in volumes.items():
            part = volume[layer.box]
            part += layer.share * (np.float32(INTENSITIES[layer.tissue][name]) - part)
    texture = _texture(brain, rng)
    for name, volume in volumes.items():
        volume *= texture
        if name == 'FLAIR':
            volume += 12.0 * _periventricular_rim(brain)
    return volumes


def _texture(brain: Brain, rng: np.random.Generator) -> Float:
    """Multiplicative unevenness of tissue: slow (2 %) and fine (2 %)."""
    grid = brain.grid
    slow = smooth_noise(grid.shape, grid.spacing, 25.0, rng)
    fine = smooth_noise(grid.shape, grid.spacing, 4.0, rng)
    return 1.0 + 0.02 * slow + 0.02 * fine


def _periventricular_rim(brain: Brain) -> Float:
    """The thin bright line along the ventricles that FLAIR shows in healthy people."""
    rim: Float = np.exp(-0.5 * (brain.to_ventricle / np.float32(1.8)) ** 2) * brain.wm
    return rim
