"""The files at the top of the output dataset."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from mslesseg_app import __version__
from mslesseg_app.bids.names import io_spec
from mslesseg_app.core.errors import OutputError
from mslesseg_app.core.files import read_any_text, write_json, write_text
from mslesseg_app.core.fsl import fsl_version
from mslesseg_app.core.settings import Settings
from mslesseg_app.lesions.lookup import lookup_files
from mslesseg_app.models.prediction.ensemble import AnyModel, Ensemble, models_of

_URL = 'https://github.com/mslesseg/mslesseg'

CITATION = (
    'Guarnera F, Rondinella A, et al. MSLesSeg: baseline and benchmarking of a new Multiple '
    'Sclerosis Lesion Segmentation dataset. Scientific Data, 2025.'
)

_README = """# Lesion masks and tables made by mslesseg

Every exam (subject and session) has its own folder. Files of `space-orig` are on the grid of the
subject's own FLAIR, files of `space-MNI152NLin6Asym_res-1` on the 1 mm template grid. Open
`sub-<label>.html` for what was found and whether it can be trusted. `logs/CITATION.md` holds a
methods text.

For research use only; not a medical device.
"""


def check_output_folder(out_dir: Path, *others: Path) -> None:
    """Make sure that the output folder, and others, may be written, and that it is ours.

    Raises
    ------
    OutputError
        If one cannot be made or written, or the first holds another pipeline's dataset.
    """
    for folder in (out_dir, *others):
        _check_writable(folder)
    description = _read_description(out_dir)
    if description is None:
        return
    makers = [item.get('Name') for item in description.get('GeneratedBy', []) if item]
    if 'mslesseg' not in makers:
        raise OutputError(
            f'{out_dir} holds another dataset ({description.get("Name", "without a name")}).',
            f'Choose an empty folder, for example {out_dir / "mslesseg"}.',
        )


def _check_writable(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f'.write-test-{os.getpid()}'
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise OutputError(
            f'The folder {folder} cannot be written: {error.strerror}.',
            'Check its permissions, or choose another folder. In a container, mount it '
            'writable: -v /path/on/the/host:/out',
        ) from error


def write_dataset_files(settings: Settings, entry: AnyModel, engine: str) -> None:
    """Write ``dataset_description.json``, ``README.md``, ``.bidsignore`` and the like.

    Among the like are the names and colours of label images, for viewers and editors.
    """
    out_dir = settings.out_dir
    write_json(out_dir / 'dataset_description.json', _description(settings, entry, engine))
    write_text(out_dir / 'README.md', _README)
    write_text(out_dir / '.bidsignore', '\n'.join(io_spec()['bidsignore']) + '\n')
    write_text(out_dir / 'descriptions.tsv', _descriptions(out_dir, entry))
    for name, text in lookup_files().items():
        write_text(out_dir / name, text)


def write_lookup(out_dir: Path, name: str, values: dict[str, int]) -> None:
    """Write ``seg-<name>_dseg.tsv``: what the values of a label image mean."""
    lines = ['index\tname', *(f'{value}\t{label}' for label, value in values.items())]
    write_text(out_dir / f'seg-{name}_dseg.tsv', '\n'.join(lines) + '\n')


def _read_description(folder: Path) -> dict[str, Any] | None:
    path = folder / 'dataset_description.json'
    if not path.is_file():
        return None
    try:
        content = json.loads(read_any_text(path))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _description(settings: Settings, entry: AnyModel, engine: str) -> dict[str, Any]:
    import bidsschematools.schema

    earlier = (_read_description(settings.out_dir) or {}).get('GeneratedBy', [])
    ours = _generated_by(entry, engine)
    names = {(item['Name'], item.get('Version')) for item in ours}
    models = [
        item
        for item in earlier
        if item.get('Name', '').startswith('model ')
        and (item['Name'], item.get('Version')) not in names
    ]
    content: dict[str, Any] = {
        'Name': 'mslesseg: lesions of multiple sclerosis',
        'BIDSVersion': str(bidsschematools.schema.load_schema().bids_version),
        'DatasetType': 'derivative',
        'GeneratedBy': ours + sorted(models, key=lambda item: item['Name']),
        'HowToAcknowledge': f'Please cite: {CITATION}',
        'DatasetLinks': {'raw': os.path.relpath(settings.bids_dir, settings.out_dir)}
        | {
            name: os.path.relpath(path, settings.out_dir)
            for name, path in settings.derivatives.items()
            if name == 'edited'
        },
    }
    return content | _from_source(settings.bids_dir)


def _from_source(bids_dir: Path) -> dict[str, Any]:
    """Take over what the licence of the raw data asks derivatives to carry."""
    source = _read_description(bids_dir) or {}
    content: dict[str, Any] = {}
    for key in ('License', 'Authors'):
        if source.get(key):
            content[key] = source[key]
    link = {'DOI': source['DatasetDOI']} if source.get('DatasetDOI') else None
    return content | ({'SourceDatasets': [link]} if link else {})


def _generated_by(entry: AnyModel, engine: str) -> list[dict[str, Any]]:
    app: dict[str, Any] = {'Name': 'mslesseg', 'Version': __version__, 'CodeURL': _URL}
    tag = os.environ.get('MSLESSEG_CONTAINER_TAG')
    if tag:
        app['Container'] = {
            'Type': os.environ.get('MSLESSEG_CONTAINER_TYPE', 'docker'),
            'Tag': tag,
        }
    models = [
        {
            'Name': f'model {model.name}',
            'Version': model.version,
            'Description': f'SHA256 {model.digest}',
        }
        for model in models_of(entry)
    ]
    return [app, *models, *_software(engine)]


def _software(engine: str) -> list[dict[str, str]]:
    from importlib.metadata import version

    if engine == 'fsl':
        return [{'Name': 'FSL', 'Version': fsl_version()}]
    return [{'Name': 'SciPy', 'Version': version('scipy')}]


def _descriptions(out_dir: Path, entry: AnyModel) -> str:
    """Explain the ``desc-`` labels, those of earlier runs with other models included."""
    rows = {
        'desc-alignment': 'Image on the template grid beside the template',
        'desc-brain': 'Brain mask',
        'desc-preproc': 'Preprocessed image',
        f'desc-{entry.name}': _found_by(entry),
    }
    path = out_dir / 'descriptions.tsv'
    if path.is_file():
        for line in path.read_text(encoding='utf-8').splitlines()[1:]:
            label, _, text = line.partition('\t')
            rows.setdefault(label, text)
    lines = ['desc_id\tdescription', *(f'{key}\t{rows[key]}' for key in sorted(rows))]
    return '\n'.join(lines) + '\n'


def _found_by(entry: AnyModel) -> str:
    if isinstance(entry, Ensemble):
        return f'Lesions: {entry.title} ({entry.version})'
    return f'Lesions found by the model {entry.name}'
