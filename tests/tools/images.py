"""What tests of container images share."""

from __future__ import annotations

import gzip
import json
import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

from running import contents

_DATE = re.compile(rb'\b(18|19|20)\d\d-\d\d-\d\d')
IMAGE = 'mslesseg:free'
#: An id that no image knows; who is not root can only be himself.
UID = 12345 if os.geteuid() == 0 else os.getuid()
#: Options of the App: one visit and two modalities, because the tests shall be quick.
APP = (
    *('--nprocs', '2', '--session-label', '1', '--ignore', 't2w'),
    *('--model', 'hyperintensity'),
)
#: Options of the demo: coarse, for the same reason.
DEMO = ('--resolution', '3', '--', *APP)


@dataclass(frozen=True)
class Demo:
    """A finished ``mslesseg demo``."""

    root: Path
    seconds: float

    @property
    def bids(self) -> Path:
        return self.root / 'bids'

    @property
    def out(self) -> Path:
        return self.root / 'out'


def writable(folder: Path, uid: int = UID) -> Path:
    """Make a folder for an ordinary user."""
    folder.mkdir(parents=True)
    if os.geteuid() == 0:
        os.chown(folder, uid, uid)
    return reachable(folder)


def reachable(folder: Path) -> Path:
    """Let every user reach a folder, as far as its parents are ours."""
    for parent in folder.parents:
        if parent.stat().st_uid == os.geteuid() and parent != Path('/'):
            parent.chmod(parent.stat().st_mode | 0o055)
    return folder


def results(out: Path) -> dict[str, object]:
    """Return what must be the same in a container and outside, by its place.

    Images without their compression, which is that of the system's zlib; the description of the
    dataset without the name of the container; text without dates, which are shifted by days that
    are drawn anew at each conversion.
    """
    found: dict[str, object] = {}
    for name, content in contents(out).items():
        if name.endswith('.gz'):
            found[name] = gzip.decompress(content)
        elif name.endswith('dataset_description.json'):
            description = json.loads(content)
            description['GeneratedBy'][0].pop('Container', None)
            found[name] = description
        else:
            found[name] = _DATE.sub(b'DATE', content)
    return found


def different(first: Path, second: Path) -> list[str]:
    """Return the places at which two folders of results differ."""
    one, two = results(first), results(second)
    return sorted(name for name in one.keys() | two.keys() if one.get(name) != two.get(name))


def copied(folder: Path, target: Path) -> Path:
    """Copy a folder so that anybody may read it."""
    shutil.copytree(folder, target)
    for path in [target, *target.rglob('*')]:
        path.chmod(0o755 if path.is_dir() else 0o644)
    return reachable(target)
