"""Lines of mountinfo, read as proc(5) describes them."""

from __future__ import annotations

from pathlib import Path

import pytest

from mslesseg_app.deploy.container.mounts import mount_of, parse_mounts, read_mounts

LINES = r"""
22 1 0:51 / / ro,relatime shared:1 - overlay overlay rw,lowerdir=/a,upperdir=/b
23 22 0:52 / /proc rw,nosuid - proc proc rw
24 22 0:53 / /tmp rw,relatime - tmpfs tmpfs rw
25 22 8:1 /home/me/bids /data ro,relatime - ext4 /dev/vda rw
26 22 8:1 /home/me/out /out rw,relatime master:7 - ext4 /dev/vda rw
27 22 0:60 /fast /data/fast rw - tmpfs tmpfs rw
28 22 8:1 /x /my\040data rw - ext4 /dev/vda rw
30 22 0:40 /var/tmp /var/tmp rw - tmpfs tmpfs rw
29 22 8:1 /later /out rw - xfs /dev/vdb rw
nonsense
""".splitlines()


@pytest.mark.parametrize(
    ('path', 'point', 'kind', 'read_only', 'kept'),
    [
        ('/opt/venv', '/', 'overlay', True, False),
        ('/tmp/work', '/tmp', 'tmpfs', False, False),
        ('/data/sub-01', '/data', 'ext4', True, True),
        ('/database', '/', 'overlay', True, False),
        ('/data/fast/x', '/data/fast', 'tmpfs', False, True),
        ('/my data/x', '/my data', 'ext4', False, True),
        ('/var/tmp/x', '/var/tmp', 'tmpfs', False, False),
        ('/out', '/out', 'xfs', False, True),
    ],
)
def test_deepest_and_last_mount_holds_a_path(
    path: str, point: str, kind: str, read_only: bool, kept: bool
) -> None:
    found = mount_of(Path(path), parse_mounts(LINES))
    assert found is not None
    assert (str(found.point), found.kind) == (point, kind)
    assert (found.read_only, found.kept) == (read_only, kept)


def test_lines_without_sense_are_left_out() -> None:
    assert len(parse_mounts(LINES)) == 9


def test_own_mounts_are_read() -> None:
    assert mount_of(Path('/proc/self'), read_mounts()) is not None
