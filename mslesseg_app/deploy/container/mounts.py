"""What is mounted where, as Linux tells it."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

_TABLE = Path('/proc/self/mountinfo')
#: File systems that may end with the container.
_PASSING = frozenset({'tmpfs', 'ramfs', 'devtmpfs', 'proc', 'sysfs', 'cgroup', 'cgroup2'})


@dataclass(frozen=True)
class Mount:
    """One line of ``/proc/self/mountinfo`` (proc(5))."""

    point: Path
    root: str
    kind: str
    read_only: bool

    @property
    def kept(self) -> bool:
        """Whether what is written here outlives the container, as far as that can be told.

        The image's own file system does not, nor does memory that was mounted for the container:
        whole by Docker, its folder of the same name by Apptainer. A folder of the host does, also
        where that lies in memory.
        """
        if self.point == Path('/'):
            return False
        return not (self.kind in _PASSING and self.root in ('/', str(self.point)))


def parse_mounts(lines: Iterable[str]) -> list[Mount]:
    """Read lines of ``/proc/self/mountinfo``; those that make no sense are left out."""
    found = []
    for line in lines:
        before, _, after = line.partition(' - ')
        words, kinds = before.split(), after.split()
        if len(words) < 6 or not kinds:
            continue
        options = words[5].split(',')
        found.append(
            Mount(Path(_unescaped(words[4])), _unescaped(words[3]), kinds[0], 'ro' in options)
        )
    return found


def _unescaped(text: str) -> str:
    r"""Undo the octal escapes of blanks and their like.

    Examples
    --------
    >>> _plain(r'/my\040data')
    '/my data'
    """
    return re.sub(r'\\([0-7]{3})', lambda found: chr(int(found.group(1), 8)), text)


def read_mounts() -> list[Mount]:
    """Return the mounts that this process sees; none where that cannot be told."""
    try:
        return parse_mounts(_TABLE.read_text('utf-8', 'surrogateescape').splitlines())
    except OSError:
        return []


def mount_of(path: Path, mounts: Iterable[Mount]) -> Mount | None:
    """Return the mount that holds an absolute path: the deepest, and of these the last."""
    best: Mount | None = None
    for mount in mounts:
        if path.is_relative_to(mount.point) and (
            best is None or len(mount.point.parts) >= len(best.point.parts)
        ):
            best = mount
    return best
