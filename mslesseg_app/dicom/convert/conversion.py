"""One series: de-identify, convert by HeuDiConv and dcm2niix, clean, deface, publish."""

from __future__ import annotations

import errno
import gzip
import io
import json
import logging
import math
import os
import shutil
import sys
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from mslesseg_app.core.errors import DataError, DiskError, MSLesSegError, OutputError
from mslesseg_app.core.files import explain_os_error, file_sha256, publish
from mslesseg_app.dicom.convert.series import read_dataset
from mslesseg_app.dicom.convert.verify import verify_image
from mslesseg_app.dicom.deidentify.identifiers import Identifiers
from mslesseg_app.dicom.deidentify.identifying_text import clean_text
from mslesseg_app.dicom.deidentify.leaks import check_tree
from mslesseg_app.dicom.deidentify.removal import deidentify_file
from mslesseg_app.dicom.fast_header import BAD_VALUE
from mslesseg_app.dicom.frames import keep_echo
from mslesseg_app.dicom.identity import SubjectIdentity

#: zlib level of the images: a sixth of the time of 6, for heads that are 3 to 7 % larger.
GZIP_LEVEL = 2

_DCM2NIIX = {'compress': 'n', 'anon_bids': True, 'merge_imgs': 2}
#: Nipype's records of each run are of no use to anybody here.
_LEAN = {'create_report': 'false', 'keep_inputs': 'true', 'remove_unnecessary_outputs': 'false'}
#: Errors of the disk or the system, which all other series would meet too.
_NOT_OF_ONE_SERIES = {
    errno.EDQUOT,
    errno.EIO,
    errno.EMFILE,
    errno.ENFILE,
    errno.ENOMEM,
    errno.ENOSPC,
    errno.EROFS,
}
_HEADER = 352
#: Free text of a NIfTI-1 header: data_type, db_name, descrip, aux_file, intent_name.
_TEXTS = ((4, 10), (14, 18), (148, 80), (228, 24), (328, 16))
#: BIDS suffixes of images that are one volume on one regular grid.
ANATOMICAL = {'T1w', 'T2w', 'PDw', 'FLAIR', 'T2starw', 'PDT2', 'angio', 'T1map', 'T2map'}
_DROPPED_KEYS = {
    'AccessionNumber',
    'AcquisitionDateTime',
    'AcquisitionTime',
    'BidsGuess',
    'ContentTime',
    'DeviceSerialNumber',
    'ImageComments',
    'InstitutionAddress',
    'InstitutionName',
    'InstitutionalDepartmentName',
    'OperatorsName',
    'PerformingPhysicianName',
    'ProcedureStepDescription',
    'ReferringPhysicianName',
    'RequestedProcedureDescription',
    'SeriesInstanceUID',
    'SeriesTime',
    'StationName',
    'StudyDescription',
    'StudyID',
    'StudyInstanceUID',
    'StudyTime',
}


@dataclass(frozen=True)
class ConversionTask:
    """What a process needs to convert one series.

    Attributes
    ----------
    key : str
        Name of its folder in the work folder.
    prefix : str
        Target in the dataset, without suffix.
    files : tuple of str
        The source files, in the order of the slices.
    figures : Path or None
        Folder for figures of heads before and after defacing; None leaves faces in.
    voxels : int
        Most that the image can have.
    echo : float or None
        Echo time (ms) to be taken where there are several.
    """

    key: str
    subject: SubjectIdentity
    prefix: str
    files: tuple[str, ...]
    work_dir: Path
    bids_dir: Path
    figures: Path | None
    voxels: int
    echo: float | None = None


@dataclass
class SeriesOutcome:
    """What became of a series.

    Attributes
    ----------
    files : dict
        SHA256 by path in the dataset.
    face : str
        What became of the face, see `FACE_LEVELS` in :mod:`mslesseg_app.dicom.convert.bids_files`.
    """

    files: dict[str, str] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)
    error: str = ''
    face: str = ''
    identifiers: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return asdict(self)


@contextmanager
def _libraries(temporary: Path) -> Iterator[None]:
    """Make libraries quiet, keep their temporary files together, and let them find dcm2niix."""
    _prepare()
    import nipype

    temporary.mkdir(exist_ok=True)
    earlier = {key: nipype.config.get('execution', key) for key in _LEAN}
    folder = tempfile.tempdir
    names = ('heudiconv', 'nipype', 'nipype.workflow', 'nipype.interface', 'pydicom')
    loggers = {name: logging.getLogger(name).level for name in names}
    tempfile.tempdir = str(temporary)
    nipype.config.update_config({'execution': _LEAN})
    for name in loggers:
        logging.getLogger(name).setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            yield
    finally:
        tempfile.tempdir = folder
        nipype.config.update_config({'execution': earlier})
        for name, level in loggers.items():
            logging.getLogger(name).setLevel(level)


@cache
def _prepare() -> None:
    os.environ['NO_ET'] = '1'
    if shutil.which('dcm2niix') is None:
        import dcm2niix

        paths = [str(Path(sys.executable).parent), str(dcm2niix.bin_path.parent)]
        os.environ['PATH'] = os.pathsep.join([*paths, os.environ.get('PATH', '')])
    import heudiconv.convert  # its import takes seconds: here, and once in a process

    # both are done by us: the one refuses sidecars that tell how dates were treated
    unwanted = ('tuneup_bids_json_files', 'save_scans_key')
    vars(heudiconv.convert).update(dict.fromkeys(unwanted, lambda *_: None))


def convert_series(task: ConversionTask) -> SeriesOutcome:
    """Convert one series; trouble with its data is in the outcome, not an exception.

    Raises
    ------
    DiskError, OutputError
        If something cannot be written.
    """
    folder = task.work_dir / 'series' / task.key
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True, mode=0o700)
    outcome = SeriesOutcome()
    try:
        clean = _deidentify(task, folder / 'dicom', outcome)
        stage = folder / 'bids'
        with _libraries(task.work_dir / 'tmp'):
            _convert(task, clean, stage)
        _finish(task, clean, stage, outcome)
    except DataError as error:
        outcome.error = error.message
    except (DiskError, OutputError):
        raise
    except Exception as error:  # one series must not end the conversion
        if isinstance(error, OSError) and error.errno in _NOT_OF_ONE_SERIES:
            raise explain_os_error(error, folder) from error
        outcome.error = f'it cannot be converted ({type(error).__name__})'  # no path, no value
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return outcome


def _deidentify(task: ConversionTask, folder: Path, outcome: SeriesOutcome) -> list[str]:
    folder.mkdir()
    clean: list[str] = []
    identifiers: set[str] = set()
    burnt: set[str] = set()
    for number, source in enumerate(task.files):
        target = folder / f'{number:06d}.dcm'
        try:
            removed = deidentify_file(_source(source), target, task.subject)
        except DataError:
            continue
        if task.echo is not None:
            keep_echo(target, task.echo)
        clean.append(str(target))
        identifiers |= removed.identifiers
        burnt |= {removed.burnt_in} - {''}
    if len(clean) < len(task.files):
        raise DataError(
            f'{len(task.files) - len(clean)} of its {len(task.files)} files cannot be read'
        )
    outcome.identifiers = sorted(identifiers)
    outcome.remarks += [f'text may be burnt in: {reason}' for reason in sorted(burnt)]
    return clean


def _source(path: str) -> io.BytesIO:
    try:
        return io.BytesIO(Path(path).read_bytes())
    except OSError as error:
        raise DataError(f'{path} cannot be read ({error.strerror}).') from error


def _convert(task: ConversionTask, files: list[str], stage: Path) -> None:
    """Run HeuDiConv's conversion, which runs dcm2niix, on de-identified files."""
    from heudiconv.convert import convert

    options = stage.parent / 'dcm2niix.json'
    options.write_text(json.dumps(_DCM2NIIX), encoding='utf-8')
    prefix = str(stage / task.prefix)
    try:
        convert(
            [(prefix, ('nii',), files)],
            converter='dcm2niix',
            scaninfo_suffix='.json',
            custom_callable=None,
            with_prov=False,
            bids_options='notop',
            outdir=str(stage),
            min_meta=True,
            overwrite=True,
            dcmconfig=str(options),
        )
    except MSLesSegError:
        raise
    except Exception as error:
        if isinstance(error, OSError) and error.errno in _NOT_OF_ONE_SERIES:
            raise
        raise DataError(_unconverted(error)) from error


def _unconverted(error: Exception) -> str:
    return f'dcm2niix and HeuDiConv made no image of it ({type(error).__name__})'


# --------------------------------------------------------------------------------- results


def _finish(task: ConversionTask, clean: list[str], stage: Path, outcome: SeriesOutcome) -> None:
    images = sorted(stage.rglob('*.nii'))
    if not images:
        raise DataError('dcm2niix made no image of it')
    for path in stage.rglob('*'):  # HeuDiConv makes its files read-only
        path.chmod(0o700 if path.is_dir() else 0o600)
    if task.prefix.rpartition('_')[2] in ANATOMICAL:
        images = [_the_one(task, images, stage, outcome)]
        verify_image(images[0], clean)
    names, words = Identifiers(outcome.identifiers), _words(task.files[0])
    ready: list[Path] = []
    for image in images:
        if not image.with_suffix('.json').is_file():
            raise DataError('dcm2niix failed: it made an image without its sidecar')
        clean_header(image)
        _treat_face(image, task.figures, outcome)
        ready += _cleaned(image, names, words)
    _refuse_leaks(stage, outcome.identifiers)
    ready = [_compress(path) if path.suffix == '.nii' else path for path in ready]
    _publish(ready, stage, task.bids_dir, outcome)


def _words(path: str) -> dict[str, str]:
    """Return the texts of a header that dcm2niix is given in ASCII only."""
    dataset = read_dataset(path)
    found: dict[str, str] = {}
    for keyword in ('ProtocolName', 'SeriesDescription'):
        with suppress(*BAD_VALUE):
            text = str(dataset.get(keyword) or '').strip()
            found |= {} if text.isascii() else {keyword: text}
    return found


def _the_one(
    task: ConversionTask, images: list[Path], stage: Path, outcome: SeriesOutcome
) -> Path:
    """Return the image of an anatomical series, under the name that it shall have."""
    image = max(images, key=lambda path: path.stat().st_size)
    if len(images) > 1:
        outcome.remarks.append(f'dcm2niix made {len(images)} images; the largest was taken')
    name = (stage / task.prefix).name
    for other in sorted(image.parent.glob(f'{image.stem}.*')):
        other.rename(other.with_name(name + other.suffix))
    image = image.with_name(f'{name}.nii')
    _check_shape(image, task.voxels)
    return image


def _check_shape(image: Path, voxels: int) -> None:
    import nibabel as nb

    shape = (*nb.load(image).shape, 1)
    if shape[3] > 1:
        raise DataError(f'it holds {shape[3]} volumes, where an anatomical image has one')
    if math.prod(shape) > voxels:
        raise DataError('dcm2niix made more slices of it than there are')


def clean_header(image: Path) -> None:
    """Blank the free text of an uncompressed NIfTI-1 file, and drop its extensions, in place."""
    with image.open('r+b') as stream:
        header = bytearray(stream.read(_HEADER))
        for start, length in _TEXTS:
            header[start : start + length] = bytes(length)
        stream.seek(0)
        stream.write(header)
    if any(header[348:352]):
        import nibabel as nb

        loaded = nb.load(image)
        data = loaded.dataobj.get_unscaled()
        loaded.header.extensions.clear()
        plain = nb.Nifti1Image(data, loaded.affine, loaded.header)
        plain.header.set_slope_inter(loaded.dataobj.slope, loaded.dataobj.inter)
        nb.save(plain, image)


def _treat_face(image: Path, figures: Path | None, outcome: SeriesOutcome) -> None:
    """Remove the face, if that is wanted, and note what became of it."""
    if figures is None or image.parent.name != 'anat':
        outcome.face = 'kept'
        return
    before = file_sha256(image)
    if _deface(image, figures, outcome):
        outcome.face = 'removed' if file_sha256(image) != before else 'not there'
    else:
        outcome.face = 'kept'


def _deface(image: Path, figures: Path, outcome: SeriesOutcome) -> bool:
    """Remove the face; False where the image is too coarse for that."""
    from mslesseg_app.reports.defacing import deface_with_figure
    from mslesseg_app.spatial.deface import TOO_COARSE

    figures.mkdir(exist_ok=True, mode=0o700)
    try:
        note = deface_with_figure(image, image, figures / f'{image.stem}.png')
    except DataError as error:
        raise DataError(
            f'not published, because its face could not be removed: {error.message}'
        ) from error
    if note:
        outcome.remarks.append(note)
    return note != TOO_COARSE


def _cleaned(image: Path, names: Identifiers, words: Mapping[str, str]) -> list[Path]:
    """Return an image and what belongs to it, cleaned."""
    found = sorted(image.parent.glob(f'{image.stem}.*'))
    for path in found:
        if path.suffix == '.json':
            _clean_sidecar(path, names, words)
    return found


def _refuse_leaks(stage: Path, identifiers: list[str]) -> None:
    """Let nothing out that tells who the person is."""
    for leak in check_tree(stage, identifiers):
        raise DataError(
            f'not published, because {leak.where} of {leak.path.name} tells who the person is '
            f'({leak.kind} {leak.shown})'
        )


def _compress(path: Path) -> Path:
    """Compress without the file's name and time, so that equal images are equal bytes."""
    target = path.with_name(path.name + '.gz')
    with (
        path.open('rb') as source,
        target.open('wb') as raw,
        gzip.GzipFile('', 'wb', GZIP_LEVEL, raw, mtime=0) as packed,
    ):
        shutil.copyfileobj(source, packed, 1 << 20)
    return target


def _clean_sidecar(path: Path, names: Identifiers, words: Mapping[str, str]) -> None:
    try:
        content = json.loads(path.read_text(encoding='utf-8'))
    except ValueError as error:
        raise DataError('the sidecar that dcm2niix made of it is damaged') from error
    content |= {key: clean_text(text, names) for key, text in words.items() if key in content}
    kept = {
        key: value
        for key, value in content.items()
        if key not in _DROPPED_KEYS
        and (not key.startswith('Patient') or key == 'PatientPosition')
        and not names.find(json.dumps(value, ensure_ascii=False))
    }
    kept['HeudiconvVersion'] = version('heudiconv')
    path.unlink()  # HeuDiConv makes it read-only
    text = json.dumps(kept, indent=2, sort_keys=True, ensure_ascii=False)
    path.write_text(f'{text}\n', encoding='utf-8')


def _publish(ready: list[Path], stage: Path, bids_dir: Path, outcome: SeriesOutcome) -> None:
    places = {path: path.relative_to(stage) for path in ready}
    digests = {path: file_sha256(path) for path in ready}
    for path, place in places.items():
        target = bids_dir / place
        if target.exists() and file_sha256(target) != digests[path]:
            raise DataError(
                f'another {place.name} is there already, and nothing is overwritten; remove it '
                'to have this series instead'
            )
    for path, place in places.items():
        publish(path, bids_dir / place)
        outcome.files[place.as_posix()] = digests[path]


def still_there(files: dict[str, str], bids_dir: Path) -> bool:
    """Whether the files of an earlier conversion are in the dataset, unchanged."""
    paths = [(bids_dir / name, digest) for name, digest in files.items()]
    return bool(paths) and all(p.is_file() and file_sha256(p) == digest for p, digest in paths)
