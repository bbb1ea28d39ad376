"""The scans on which the spatial engine is tried: shared real ones and synthetic heads.

Each group of images that were acquired together is an `Scans`; images are loaded, and made,
only when they are asked for.
"""

from __future__ import annotations

import tarfile
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import nibabel as nb
import numpy as np

from mslesseg_app.demo.contrast import INTENSITIES
from mslesseg_app.demo.phantom import Phantom, Protocol, make_phantom, scan
from mslesseg_app.demo.protocols import FLAIR_2D, FLAIR_3D, MPRAGE, TSE

MODALITIES = ('FLAIR', 'T1w', 'T2w')
#: Archives with series of a bottle and of a grid: no alignment of them is right.
_PHANTOMS = ('ge-mprage', 'siemens-xa30-mprage')


@dataclass(frozen=True)
class Scans:
    """Images of one session.

    Attributes
    ----------
    kind : str
        The row of a table to which they belong.
    name : str
    images : tuple of str
        Modalities that there are.
    load : callable
        Returns the images by modality.
    stripped : bool
        The skull was removed.
    """

    kind: str
    name: str
    images: tuple[str, ...]
    load: Callable[[], dict[str, Any]]
    stripped: bool = False


def all_scans(data: Path | None) -> Iterator[Scans]:
    """Yield every shared scan below `data`, then the synthetic heads."""
    if data is not None:
        yield from _ljubljana(data / 'ljubljana-bids')
        yield from _dicom(data / 'dicom-t1')
        yield from _stripped(data)
    yield from demo_scans()


def _ljubljana(root: Path) -> Iterator[Scans]:
    for folder in sorted(root.glob('sub-*/ses-*/anat')):
        subject, session = folder.parts[-3:-1]
        paths = {name: folder / f'{subject}_{session}_{name}.nii.gz' for name in MODALITIES}
        paths = {name: path for name, path in paths.items() if path.exists()}
        yield Scans('2D whole heads', f'{subject} {session}', tuple(paths), _loader(paths))


def _stripped(root: Path) -> Iterator[Scans]:
    kind = 'brain-extracted 1 mm'
    for folder in sorted((root / 'ljubljana-mni').glob('patient*')):
        names = {'FLAIR': 'FLAIR', 'T1w': 'T1', 'T2w': 'T2'}
        paths = {name: folder / f'{stem}.nii.gz' for name, stem in names.items()}
        yield Scans(kind, folder.name, tuple(paths), _loader(paths), stripped=True)
    folder = root / 'mslesseg' / 'train' / 'P18' / 'T1'
    if folder.is_dir():
        paths = {name: folder / f'P18_T1_{name[:5].rstrip("w")}.nii.gz' for name in MODALITIES[:2]}
        yield Scans(kind, 'P18', tuple(paths), _loader(paths), stripped=True)


def _loader(paths: dict[str, Path]) -> Callable[[], dict[str, Any]]:
    return lambda: {name: nb.load(path) for name, path in paths.items()}


def _dicom(root: Path) -> Iterator[Scans]:
    """Yield the 3D T1w series, converted by GDCM."""
    for archive in sorted(root.glob('*.tgz')):
        with tarfile.open(archive) as tar:
            files = [Path(one.name) for one in tar if one.isfile()]
        for folder in sorted({str(path.parent) for path in files if path.suffix != '.json'}):
            kind = 'phantoms' if archive.stem in _PHANTOMS else '3D T1w head'
            name = f'{archive.stem} {Path(folder).name[:4]}'
            yield Scans(kind, name, ('T1w',), _series_loader(archive, folder))


def _series_loader(archive: Path, folder: str) -> Callable[[], dict[str, Any]]:
    def load() -> dict[str, Any]:
        with tempfile.TemporaryDirectory() as scratch, tarfile.open(archive) as tar:
            tar.extractall(scratch, filter='data')
            return {'T1w': read_series(Path(scratch) / folder)}

    return load


def read_series(folder: Path) -> nb.Nifti1Image:
    """Read a folder of DICOM files as one image (RAS+)."""
    import SimpleITK as sitk

    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder)))
    image = reader.Execute()
    lps = np.eye(4)
    lps[:3, :3] = np.array(image.GetDirection()).reshape(3, 3) * np.array(image.GetSpacing())
    lps[:3, 3] = image.GetOrigin()
    data = sitk.GetArrayFromImage(image).T.astype(np.float32)
    return nb.Nifti1Image(data, np.diag([-1.0, -1.0, 1.0, 1.0]) @ lps)


# -------------------------------------------------------------------- synthetic heads


@cache
def phantom(seed: int, resolution: float = 1.0) -> Phantom:
    """Return a synthetic subject; the last few are kept."""
    return make_phantom(seed, resolution)


@contextmanager
def contrast_agent() -> Iterator[None]:
    """Make vessels and mucosa bright on T1w for a while, as gadolinium does."""
    before = {name: dict(INTENSITIES[name]) for name in ('vessel', 'mucosa', 'muscle', 'marrow')}
    for name, value in (('vessel', 190.0), ('mucosa', 170.0), ('muscle', 68.0), ('marrow', 120.0)):
        INTENSITIES[name]['T1w'] = value
    try:
        yield
    finally:
        INTENSITIES.update(before)


def _enhanced(protocol: Protocol) -> Any:
    """Scan a head after contrast agent: its volumes are not those of the cached phantom."""
    with contrast_agent():
        subject = phantom(3)
        fresh = Phantom(subject.seed, subject.brain, subject.lesions)
        return _with_dura(fresh, protocol)


def _with_dura(subject: Phantom, protocol: Protocol) -> Any:
    """Brighten a shell around the brain: dura and sinuses that took up the agent."""
    volume = subject.volumes['T1w']
    far = _outer_distance(subject)
    shell = np.exp(-0.5 * ((far - 4.5) / 0.9) ** 2).astype(np.float32)
    volume += shell * np.float32(0.7) * (np.float32(170) - volume)
    x, y, z = subject.grid.axes()
    sinus = np.exp(-0.5 * (x / 4.0) ** 2) * (np.abs(far - 3.0) < 4.5) * (z > -20) * (y < 60)
    volume += sinus.astype(np.float32) * (np.float32(190) - volume)
    return scan(subject, protocol, 1)


def _outer_distance(subject: Phantom) -> Any:
    from mslesseg_app.demo.anatomy import hull_distance

    return hull_distance(subject.brain.mask, subject.grid.spacing)


def _slices(protocol: Protocol, thick: float, orientation: str | None = None) -> Protocol:
    """Return a 2D protocol of other slices, 0.9 mm in plane."""
    return replace(
        protocol,
        spacing=(0.9, 0.9, thick),
        acquisition='2D',
        orientation=orientation or protocol.orientation,
    )


def _axial(protocol: Protocol, thick: float) -> Protocol:
    """Return a protocol of axial slices that cover the whole head."""
    return replace(_slices(protocol, thick, 'LAS'), field_of_view=(216.0, 234.0, 168.0))


def _shot(name: str, seed: int, *protocols: Protocol) -> Scans:
    """Return the scans of a synthetic subject by several protocols."""
    images = tuple(one.modality for one in protocols)
    return Scans(
        'synthetic heads',
        name,
        images,
        lambda: {one.modality: scan(phantom(seed), one, 1) for one in protocols},
    )


def demo_scans() -> Iterator[Scans]:
    """Yield synthetic heads: thick and thin, cut, oblique, with neck, noisy, enhanced."""
    yield _shot('session 1', 1, FLAIR_2D, MPRAGE, TSE)
    neck = replace(MPRAGE, field_of_view=(256.0, 256.0, 200.0), centre=(0.0, -8.0, -30.0))
    yield _shot('3D with neck', 1, FLAIR_3D, neck)
    thick = [_axial(FLAIR_2D, 6.0), _axial(MPRAGE, 5.0), _axial(TSE, 6.0)]
    yield _shot('slices of 5-6 mm', 2, *thick)
    low = {'centre': (0.0, -9.0, -12.0), 'field_of_view': (216.0, 234.0, 111.0)}
    cut = [replace(one, **low) for one in (FLAIR_2D, _axial(MPRAGE, 3.0), TSE)]
    yield _shot('vertex cut off', 2, *cut)
    sagittal = {'field_of_view': (234.0, 225.0, 160.0), 'tilt': 22.0}
    turned = [
        replace(_slices(FLAIR_2D, 5.0, 'PSR'), **sagittal, centre=(0.0, -8.0, -10.0)),
        replace(MPRAGE, tilt=-25.0),
        replace(TSE, tilt=30.0),
    ]
    yield _shot('oblique and sagittal', 3, *turned)
    dim = [replace(one, noise=9.0, shading=0.2) for one in (FLAIR_2D, MPRAGE, TSE)]
    yield _shot('noise and shading', 3, *dim)
    yield Scans('synthetic heads', 'contrast agent', ('T1w',), lambda: {'T1w': _enhanced(MPRAGE)})
