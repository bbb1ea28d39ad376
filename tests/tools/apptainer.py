"""An Apptainer for tests: the one on PATH, or Debian's own package in a root of its own.

    python tests/tools/apptainer.py FOLDER              find or install it, say where it is

Debian has `apptainer` in unstable only, and it needs the C library of Debian 13. So it is put
into a root file system of that release (root, mmdebstrap, apt with a mirror of Debian), and is
entered through private namespaces in which the folders of this machine keep their places.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from baseimage import mirror

NAMES = ('apptainer', 'singularity')
PACKAGES = 'apptainer,squashfs-tools,squashfuse,fuse3,ca-certificates,mount,passwd,tzdata'
#: An ordinary user of the root that is installed here.
USER = 'somebody'
USER_ID = 1000
_KEYRING = '/usr/share/keyrings/debian-archive-keyring.gpg'
#: Folders of the root that stay its own; all others are those of this machine.
_OWN = {'bin', 'boot', 'etc', 'lib', 'lib32', 'lib64', 'opt', 'run', 'sbin', 'usr', 'var', '.old'}
_NEW_MOUNTS, _NEW_USERS = 0x00020000, 0x10000000
Done = subprocess.CompletedProcess[str]


@dataclass(frozen=True)
class Apptainer:
    """A command that behaves as ``apptainer``, and one that does so as an ordinary user."""

    command: tuple[str, ...]
    as_user: tuple[str, ...]

    def __call__(self, *arguments: object, user: bool = False, timeout: float = 3000) -> Done:
        """Run ``apptainer ARGUMENTS``."""
        return subprocess.run(
            [*(self.as_user if user else self.command), *map(str, arguments)],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=timeout,
        )


def why_not() -> str:
    """Return why Apptainer can neither be found nor be installed, or nothing."""
    if _on_path():
        return ''
    if os.geteuid() != 0:
        return 'no Apptainer, and only root can install one'
    if shutil.which('mmdebstrap') is None:
        return 'no Apptainer, and no mmdebstrap to install one'
    return '' if mirror() else 'no Apptainer, and apt knows no mirror of Debian'


def _on_path() -> str | None:
    return next((found for name in NAMES if (found := shutil.which(name))), None)


def provide(folder: Path) -> Apptainer:
    """Find Apptainer or install it.

    Parameters
    ----------
    folder : Path
        Where a root file system may be made.

    Raises
    ------
    RuntimeError
        With what the installer said last.
    """
    if found := _on_path():
        return Apptainer((found,), (found,))
    if reason := why_not():
        raise RuntimeError(reason)
    root = folder / 'root'
    if not (root / 'usr/bin/apptainer').is_file():
        _install(folder, root)
    own = (sys.executable, str(Path(__file__).resolve()))
    return Apptainer((*own, '--enter', str(root)), (*own, '--enter', str(root), '--user'))


def _install(folder: Path, root: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(root, ignore_errors=True)
    sources = folder / 'sources.list'
    lines = [f'deb [signed-by={_KEYRING}] {mirror()} {s} main\n' for s in ('trixie', 'sid')]
    sources.write_text(''.join(lines))
    # everything from the stable release but what only unstable has
    options = ('APT::Default-Release "trixie"', 'Acquire::Check-Valid-Until "false"')
    hooks = (
        'ln -sf /usr/share/zoneinfo/Etc/UTC "$1/etc/localtime"',
        f'chroot "$1" useradd -m -d /var/{USER} -u {USER_ID} {USER}',
        'mknod -m 666 "$1/fuse-node" c 10 229',
        'mkdir "$1/.old"',
    )
    command = [
        *('mmdebstrap', '--quiet', '--variant=apt', '--mode=root', f'--include={PACKAGES}'),
        *(f'--aptopt={option}' for option in options),
        *(f'--dpkgopt=path-exclude=/usr/share/{n}/*' for n in ('doc', 'man', 'locale')),
        *(f'--customize-hook={hook}' for hook in hooks),
        *('trixie', str(root), str(sources)),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=1200)
    if done.returncode:
        shutil.rmtree(root, ignore_errors=True)
        raise RuntimeError(f'Apptainer could not be installed:\n{done.stderr[-2000:]}')
    temporary = folder / 'tmp'
    temporary.mkdir(exist_ok=True)
    temporary.chmod(0o1777)


# ----------------------------------------------------- the way into the root (other process)


def _enter(root: Path, user: bool, arguments: list[str]) -> int:
    """Become ``apptainer`` inside ``root``; nothing stays mounted afterwards."""
    if user:
        environment = {'HOME': f'/var/{USER}', 'USER': USER, 'LOGNAME': USER}

        def inside() -> None:
            _change_root(root)
            os.setgroups([])
            os.setgid(USER_ID)
            os.setuid(USER_ID)

        return _fork(inside, environment, arguments)

    def within_namespace() -> None:
        _change_root(root)

    # Root of a container or sandbox may lack rights that Apptainer asks for; root of a
    # namespace of its own, in which every id is itself, has them all.
    return _fork(within_namespace, {'HOME': '/root', 'USER': 'root'}, arguments, namespace=True)


def _fork(
    before: Callable[[], None],
    environment: dict[str, str],
    arguments: list[str],
    namespace: bool = False,
) -> int:
    libc = ctypes.CDLL(None, use_errno=True)
    to_parent, to_child = os.pipe(), os.pipe()
    child = os.fork()
    if child == 0:
        if namespace:
            _call(libc.unshare(_NEW_USERS))
            os.write(to_parent[1], b'x')
            os.read(to_child[0], 1)
            os.setgid(0)
            os.setuid(0)
        before()
        path = '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin'
        more = {'PATH': path, 'TMPDIR': '/var/tmp', 'LC_ALL': 'C.UTF-8', **environment}
        kept = {name: value for name, value in os.environ.items() if name.startswith('APPTAINER')}
        os.execve('/usr/bin/apptainer', ['apptainer', *arguments], kept | more)
    os.close(to_parent[1])
    if namespace and os.read(to_parent[0], 1):
        for name in ('uid_map', 'gid_map'):
            Path(f'/proc/{child}/{name}').write_text('0 0 65536\n')
        os.write(to_child[1], b'x')
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return code if code >= 0 else 128 - code


def _call(result: int) -> None:
    if result != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def _change_root(root: Path) -> None:
    """Make ``root`` the root, with the other folders of this machine at their places."""
    libc = ctypes.CDLL(None, use_errno=True)
    here = Path.cwd()
    _call(libc.unshare(_NEW_MOUNTS))
    _mount('--make-rprivate', '/')
    _mount('--bind', root, root)
    for folder in sorted(Path('/').iterdir()):
        if folder.name not in _OWN and folder.is_dir() and not folder.is_symlink():
            (root / folder.name).mkdir(exist_ok=True)
            _mount('--rbind', folder, root / folder.name)
    for folder in Path('/opt').iterdir():
        if folder.is_dir():
            (root / 'opt' / folder.name).mkdir(exist_ok=True)
            _mount('--bind', '-o', 'ro', folder, root / 'opt' / folder.name)
    for name in ('etc/resolv.conf', 'etc/hosts'):
        (root / name).touch()
        _mount('--bind', Path('/', name), root / name)
    _mount('--bind', root / 'fuse-node', root / 'dev/fuse')
    _mount('--bind', root.parent / 'tmp', root / 'var/tmp')
    os.chdir(root)
    subprocess.run(['pivot_root', '.', '.old'], check=True)
    subprocess.run(['umount', '-l', '/.old'], check=True)
    os.chdir(here if here.is_dir() else '/')


def _mount(*arguments: object) -> None:
    subprocess.run(['mount', *map(str, arguments)], check=True)


def main(arguments: list[str]) -> int:
    """Find or install Apptainer; ``--enter ROOT [--user] ARGUMENTS`` runs what was installed."""
    if arguments[:1] == ['--enter']:
        user = arguments[2:3] == ['--user']
        return _enter(Path(arguments[1]), user, arguments[3 if user else 2 :])
    if len(arguments) != 1:
        print(__doc__)
        return 64
    try:
        found = provide(Path(arguments[0]).resolve())
    except RuntimeError as error:
        print(error, file=sys.stderr)
        return 1
    print(*found.command)
    done = found('--version')
    print(done.stdout or done.stderr, end='')
    return done.returncode


if __name__ == '__main__':
    sys.exit(main(sys.argv[1:]))
