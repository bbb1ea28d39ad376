"""Home, caches, user, device and shared memory of a container."""

from __future__ import annotations

import os
import pwd
import subprocess
import sys
import tempfile
from argparse import Namespace
from collections.abc import MutableMapping
from pathlib import Path

from mslesseg_app.core.errors import OutputError, UsageError

#: Where the kernel shows GPUs to a process (NVIDIA, NVIDIA in WSL, AMD).
_DEVICES = ('dev/nvidiactl', 'dev/nvidia0', 'dev/dxg', 'dev/kfd')
#: Commands that run networks.
_COMPUTING = frozenset({'bids_app', 'run', 'train', 'crossval'})
#: Shared memory (bytes) below which loaders of training data fail.
SHARED = 10**9
_PROBE = (
    'from mslesseg_app.models.prediction.device import why_not_cuda; '
    'import sys; print(why_not_cuda(sys.argv[1]))'
)


def prepare(environment: MutableMapping[str, str]) -> list[str]:
    """Give the process a home, caches and a user name that work.

    Any user id may run an image (``docker run -u``): one that has no home of its own, or a home
    that cannot be written (``--read-only``, ``--containall``), gets one below the folder of
    temporary files, for itself alone. Caches are below the home, unless a variable says otherwise.

    Parameters
    ----------
    environment : mapping
        Changed in place: ``HOME``, ``XDG_CACHE_HOME``, ``MPLCONFIGDIR``, ``USER``.

    Returns
    -------
    list of str
        What was changed, if a user may miss it.

    Raises
    ------
    OutputError
        If nothing at all can be written.
    """
    try:
        temporary = Path(tempfile.gettempdir())
    except FileNotFoundError as error:
        raise OutputError(
            'No folder for temporary files can be written in this container.',
            'With docker run --read-only give also --tmpfs /tmp.',
        ) from error
    own: Path | None = None
    notes = []
    home = Path(environment.get('HOME') or '/nowhere')
    if not _writable(home):
        own = _own_folder(temporary)
        environment['HOME'] = str(own)
        notes.append(f'the home folder {home} cannot be written; {own} is used')
    for name, folder in (('XDG_CACHE_HOME', 'cache'), ('MPLCONFIGDIR', 'matplotlib')):
        if environment.get(name) and not _writable(Path(environment[name])):
            own = own or _own_folder(temporary)
            (own / folder).mkdir(exist_ok=True)
            environment[name] = str(own / folder)
    if not any(environment.get(name) for name in ('LOGNAME', 'USER')):
        environment['USER'] = environment['LOGNAME'] = _user_name()
    return notes


def _writable(folder: Path) -> bool:
    return folder.is_dir() and os.access(folder, os.W_OK | os.X_OK)


def _own_folder(temporary: Path) -> Path:
    """Return a folder of this user, that nobody else can have put there."""
    folder = temporary / f'mslesseg-{os.getuid()}'
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        status = folder.lstat()
        if folder.is_dir() and not folder.is_symlink() and status.st_uid == os.getuid():
            return folder
    except OSError:
        pass
    return Path(tempfile.mkdtemp(prefix='mslesseg-', dir=temporary))


def _user_name() -> str:
    """Return the user's name; an id that the image does not know has none."""
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return f'user{os.getuid()}'


def notes(verb: str, options: Namespace, root: Path = Path('/')) -> list[str]:
    """Say what is worth knowing of user, device and shared memory.

    Parameters
    ----------
    verb : str
        Module of the verb.
    options : Namespace
        Its parsed arguments.
    root : Path
        Where ``dev`` is looked for.

    Raises
    ------
    UsageError
        If ``--device cuda`` is asked for and no kernel runs there.
    """
    return [*_about_user(), *_about_device(verb, options, root), *_about_memory(options, root)]


def _about_user() -> list[str]:
    if os.getuid() != 0 or _in_apptainer() or not _is_real_root():
        return []
    return ['this is root, who will own the results; -u "$(id -u):$(id -g)" makes them yours']


def _in_apptainer() -> bool:
    return any(os.environ.get(f'{name}_CONTAINER') for name in ('APPTAINER', 'SINGULARITY'))


def _is_real_root() -> bool:
    """Whether root here is root outside: not with rootless engines."""
    try:
        return Path('/proc/self/uid_map').read_text('ascii').split()[:2] == ['0', '0']
    except OSError:
        return True


def _about_device(verb: str, options: Namespace, root: Path) -> list[str]:
    asked = getattr(options, 'device', 'cpu')
    idle = any(getattr(options, name, False) for name in ('dry_run', 'reports_only'))
    if verb not in _COMPUTING or asked == 'cpu' or idle:
        return []
    visible = any((root / name).exists() for name in _DEVICES)
    if asked == 'auto' and not visible:
        return []
    reason = _why_not(asked if ':' in asked else 'cuda:0')
    if not reason:
        return []
    if asked == 'auto':
        return [f'there is a GPU, but networks will run on the CPU: {reason}']
    raise UsageError(
        f'Device {asked} cannot be used in this container: {reason}.',
        'Docker needs --gpus all, Apptainer --nv, and both an image with torch for CUDA.',
    )


def _why_not(device: str) -> str:
    """Run one kernel in a process of its own: this one will fork, which CUDA does not survive."""
    command = [sys.executable, '-P', '-c', _PROBE, device]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    except subprocess.TimeoutExpired:
        return 'the device did not answer within two minutes'
    if done.returncode:
        return f'the test of the device ended with {done.returncode}: {done.stderr.strip()[-200:]}'
    return done.stdout.strip()


def _about_memory(options: Namespace, root: Path) -> list[str]:
    folder = root / 'dev' / 'shm'
    if not _writable(folder):
        return ['/dev/shm cannot be written, which processes side by side need: --shm-size 1g']
    status = os.statvfs(folder)
    size = status.f_blocks * status.f_frsize
    if getattr(options, 'loaders', 0) and size < SHARED:
        return [
            f'/dev/shm has {size / 1e6:.0f} MB, too little for --loaders: --shm-size 2g (Docker)'
        ]
    return []
