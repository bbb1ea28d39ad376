"""The slice viewer of a report: NiiVue, taken from an installed package, and what it shows.

NiiVue (BSD-2-Clause) comes as one JavaScript module within the Python package ``ipyniivue``.
The module is read, never imported: neither Jupyter nor a network is needed.
"""

from __future__ import annotations

import base64
import hashlib
import re
import zlib
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

from mslesseg_app.core.files import package_folder
from mslesseg_app.reports.colours import STATUS_COLOURS
from mslesseg_app.reports.volumes import Packed

#: The package that carries NiiVue, and its module.
PACKAGE = 'ipyniivue'
_MODULE = Path('static') / 'widget.js'
#: Where the module makes its viewer: the name of the class differs from build to build.
_CLASS = re.compile(r'Creating new Niivue instance.{0,300}?=\s*new ([\w$]+)\(', re.DOTALL)
_EXPORT = re.compile(r'export\s*\{[^{}]*\}\s*;?\s*(?://[^\n]*\s*)?$')
_VERSION = re.compile(r'name:"@niivue/niivue",version:"([\w.+-]+)"')

#: Name by which the report's script finds the class.
GLOBAL = 'mslessegNiivue'

NO_PACKAGE = (
    'This report has no slice viewer, because the Python package ipyniivue was not '
    "installed where it was made (pip install 'mslesseg[viewer]'). The images below show the "
    'same slices.'
)
UNKNOWN_BUILD = (
    'This report has no slice viewer, because the installed ipyniivue carries NiiVue in a '
    'form that this version of mslesseg does not know. The images below show the same slices.'
)
NO_IMAGES = (
    'This report has no slice viewer, because the images of this exam were not found in the '
    'output folder or exceed the size limit. The images below show the same slices.'
)


@dataclass(frozen=True)
class Bundle:
    """NiiVue as a report carries it.

    Attributes
    ----------
    packed : str
        Base64 of the zlib stream of a classic script that sets ``globalThis.mslessegNiivue``.
    digest : str
        Base64 of the SHA-256 of that script, for the report's content policy.
    version : str
        Of NiiVue, where the module tells it.
    licence : str
        Text of the licence, which copies must carry.
    """

    packed: str
    digest: str
    version: str
    licence: str


@dataclass(frozen=True)
class ViewerScene:
    """What the viewer of one exam shows, on the FLAIR's own grid.

    Attributes
    ----------
    images : dict
        ``FLAIR``, ``T1w``, ``T2w``, ``template`` and ``before`` (the FLAIR of the previous
        session, resampled), as far as they exist; ``FLAIR`` always.
    overlays : dict
        ``lesions`` (labels), ``probability``, ``uncertainty``, ``change``, ``outline`` and
        ``outline_before`` (labels, coded by change).
    points : dict
        Lesion id to a point within the lesion, RAS+ mm.
    before : str
        Label of the previous session.
    """

    images: dict[str, Packed]
    overlays: dict[str, Packed] = field(default_factory=dict)
    points: dict[str, list[float]] = field(default_factory=dict)
    before: str = ''

    @property
    def size(self) -> int:
        """Bytes that it takes in the report."""
        return sum(one.size for one in (*self.images.values(), *self.overlays.values()))

    @property
    def statuses(self) -> list[tuple[str, str]]:
        """Status and colour of each code of the change overlays, from 1 on."""
        return list(STATUS_COLOURS.values())

    def to_dict(self) -> dict[str, Any]:
        """Return what the script of the report reads."""
        return {
            'images': {name: one.to_dict() for name, one in self.images.items()},
            'overlays': {name: one.to_dict() for name, one in self.overlays.items()},
            'points': self.points,
            'before': self.before,
            'statuses': self.statuses,
        }


def find_bundle(package: str = PACKAGE) -> Bundle | str:
    """Return NiiVue from the installed package, or a sentence that says why there is none."""
    folder = package_folder(package)
    if folder is None:
        return NO_PACKAGE
    path = folder / _MODULE
    if not path.is_file():
        return UNKNOWN_BUILD
    return read_bundle(path, _licence(package))


@cache
def read_bundle(path: Path, licence: str) -> Bundle | str:
    """Turn the module of ``ipyniivue`` into a script that leaves NiiVue's class behind.

    Returns
    -------
    Bundle or str
        A sentence where the module does not have the expected form.
    """
    text = path.read_text(encoding='utf-8')
    found, export = _CLASS.search(text), _EXPORT.search(text)
    if found is None or export is None:
        return UNKNOWN_BUILD
    body = text[: export.start()]
    script = f"(()=>{{'use strict';{body}\nglobalThis.{GLOBAL}={found.group(1)};}})();"
    version = _VERSION.search(text)
    return Bundle(
        packed=base64.b64encode(zlib.compress(script.encode(), 9)).decode('ascii'),
        digest=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode('ascii'),
        version=version.group(1) if version else '',
        licence=licence,
    )


def _licence(package: str) -> str:
    try:
        files = distribution(package).files or []
    except PackageNotFoundError:
        return ''
    texts = [file.read_text(encoding='utf-8') for file in files if file.name == 'LICENSE']
    return texts[0].strip() if texts else ''
