"""Downloading weights: only when asked, only what has the expected SHA256.

Not by pooch, which begins again where a connection broke and knows no ``file:`` addresses.
"""

from __future__ import annotations

import http.client
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlsplit

from mslesseg_app.core.errors import BusyError, ModelError, MSLesSegError, NoInputError, UsageError
from mslesseg_app.core.files import explain_os_error, file_sha256

_SCHEMES = ('https', 'http', 'file')
_TIMEOUT_S = 60.0
_CHUNK = 1 << 20
_RANGE_REFUSED = 416
_GONE = (404, 410)


def download(url: str, target: Path, sha256: str, *, offline: bool = False) -> bool:
    """Bring a file to its place once its SHA256 has proved right.

    What has arrived is kept beside the target (``.<name>.part``) when the connection breaks, and
    the next call goes on from there. Proxies are those of the environment (``https_proxy``).

    Parameters
    ----------
    url : str
        ``https:``, ``http:`` or ``file:``.
    target : Path
        Final place; its folder is made.
    sha256 : str
        Of the file, in hexadecimal.
    offline : bool
        Refuse all but ``file:``.

    Returns
    -------
    bool
        False if the right file was there already.

    Raises
    ------
    UsageError
        For another kind of URL, and offline.
    NoInputError
        If nothing is there.
    BusyError
        If the connection fails or breaks.
    ModelError
        If the file has another SHA256; it is not kept.
    OutputError, DiskError
        If the file cannot be written.
    """
    if target.is_file() and file_sha256(target) == sha256:
        return False
    _check_url(url, offline)
    part = target.with_name(f'.{target.name}.part')
    try:
        part.parent.mkdir(parents=True, exist_ok=True)
        resumed = part.is_file() and part.stat().st_size > 0
        _transfer(url, part)
        if resumed and file_sha256(part) != sha256:  # the beginning was of something else
            part.unlink()
            _transfer(url, part)
        _accept(part, target, url, sha256)
    except OSError as error:
        raise explain_os_error(error, target) from error
    return True


def _check_url(url: str, offline: bool) -> None:
    try:
        scheme = urlsplit(url).scheme
    except ValueError:
        scheme = ''
    if scheme not in _SCHEMES:
        raise UsageError(
            f'{url!r} is no address that weights can be fetched from.',
            'Give one that begins with https://, or with file:// for a file of this machine.',
        )
    if offline and scheme != 'file':
        raise UsageError(
            f'{url} is not fetched, because downloads are refused (--offline).',
            'Leave --offline and MSLESSEG_OFFLINE away; or download the file elsewhere, copy it '
            'here and use: mslesseg models add FILE, or --url file:///path/of/the/file',
        )


def _accept(part: Path, target: Path, url: str, sha256: str) -> None:
    actual = file_sha256(part)
    if actual != sha256:
        part.unlink()
        raise ModelError(
            f'{url} holds another file than expected (SHA256 {actual[:12]}…, expected '
            f'{sha256[:12]}…).',
            'Nothing was kept. Ask whoever published the weights which SHA256 is right.',
        )
    part.replace(target)


def _transfer(url: str, part: Path) -> None:
    """Append what is missing to a partial file, or begin again where the server cannot resume."""
    have = part.stat().st_size if part.is_file() else 0
    request = urllib.request.Request(url, headers={'User-Agent': 'mslesseg'})
    if have:
        request.add_header('Range', f'bytes={have}-')
    with _explained(url):
        try:
            response = urllib.request.urlopen(request, timeout=_TIMEOUT_S)
        except urllib.error.HTTPError as error:
            if have and error.code == _RANGE_REFUSED:  # nothing is missing, or too much is there
                return
            raise
    with response:
        resumes = have and getattr(response, 'status', None) == http.client.PARTIAL_CONTENT
        with part.open('ab' if resumes else 'wb') as stream:
            _copy(url, response, stream)
            total = response.headers.get('Content-Length')
            wanted = (have if resumes else 0) + int(total) if total else None
            if wanted is not None and stream.tell() < wanted:
                raise _broken(url, f'{stream.tell()} of {wanted} bytes came')


def _copy(url: str, response: Any, stream: IO[bytes]) -> None:
    while True:
        with _explained(url):
            chunk = response.read(_CHUNK)
        if not chunk:
            return
        stream.write(chunk)


@contextmanager
def _explained(url: str) -> Iterator[None]:
    """Turn what the network raises into our own errors."""
    try:
        yield
    except urllib.error.HTTPError as error:
        if error.code in _GONE:
            raise _nothing_there(url) from error
        raise _broken(url, f'the server answers {error.code} {error.reason}') from error
    except urllib.error.URLError as error:
        if isinstance(error.reason, FileNotFoundError) or urlsplit(url).scheme == 'file':
            raise _nothing_there(url) from error
        raise _broken(url, str(error.reason)) from error
    except (OSError, http.client.HTTPException) as error:
        raise _broken(url, str(error) or type(error).__name__) from error
    except ValueError as error:  # a host or port that is none
        raise UsageError(f'{url!r} is no address: {error}', 'Correct it.') from error


def _nothing_there(url: str) -> MSLesSegError:
    return NoInputError(f'There is nothing at {url}.', 'Check the address, or give another: --url')


def _broken(url: str, reason: str) -> MSLesSegError:
    return BusyError(
        f'{url} could not be fetched: {reason}.',
        'Run the same command again: it goes on where it stopped. Behind a proxy, set '
        'https_proxy; or download the file elsewhere and use: mslesseg models add FILE',
    )
