"""Fetching weights: from a server of this machine, with interruptions and lies."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from mslesseg_app.core.errors import BusyError, ModelError, NoInputError, OutputError, UsageError
from mslesseg_app.models.fetch import download

CONTENT = bytes(range(256)) * 4000
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class Server(ThreadingHTTPServer):
    """A server whose answers a test may spoil."""

    limit: int | None = None
    resumes = True
    content = CONTENT
    asked: list[str | None]


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        self.server.asked.append(self.headers.get('Range'))
        if self.path == '/nothing':
            self.send_error(404)
            return
        if self.path == '/trouble':
            self.send_error(503)
            return
        content, start = self.server.content, 0
        if self.server.resumes and self.headers.get('Range'):
            start = int(self.headers['Range'].removeprefix('bytes=').rstrip('-'))
            if start >= len(content):
                self.send_error(416)
                return
            self.send_response(206)
        else:
            self.send_response(200)
        self.send_header('Content-Length', str(len(content) - start))
        self.end_headers()
        self.wfile.write(content[start:][: self.server.limit])

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server(('127.0.0.1', 0), Handler)
    server.asked = []
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv('no_proxy', '*')


def url(server: Server, path: str = '/w') -> str:
    return f'http://127.0.0.1:{server.server_port}{path}'


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_arrives_whole_and_is_not_fetched_twice(server, tmp_path):
    target = tmp_path / 'new' / 'w.safetensors'
    assert download(url(server), target, SHA256)
    assert target.read_bytes() == CONTENT
    assert names(target.parent) == ['w.safetensors']
    assert not download(url(server), target, SHA256)
    assert server.asked == [None]


def test_a_broken_transfer_goes_on_where_it_stopped(server, tmp_path):
    target = tmp_path / 'w.safetensors'
    server.limit = 300_000
    with pytest.raises(BusyError, match='300000 of 1024000') as caught:
        download(url(server), target, SHA256)
    assert 'goes on' in caught.value.hint
    assert not target.exists()
    server.limit = None
    download(url(server), target, SHA256)
    assert target.read_bytes() == CONTENT
    assert server.asked == [None, 'bytes=300000-']


def test_a_server_that_cannot_resume_is_asked_for_all(server, tmp_path):
    server.resumes = False
    (tmp_path / '.w.part').write_bytes(CONTENT[:1000])
    download(url(server), tmp_path / 'w', SHA256)
    assert (tmp_path / 'w').read_bytes() == CONTENT


@pytest.mark.parametrize('part', [b'of something else', CONTENT, CONTENT + b'!'])
def test_a_partial_file_that_is_wrong_or_whole_does_no_harm(server, tmp_path, part):
    (tmp_path / '.w.part').write_bytes(part)
    download(url(server), tmp_path / 'w', SHA256)
    assert (tmp_path / 'w').read_bytes() == CONTENT
    assert names(tmp_path) == ['w']


def test_another_file_than_expected_is_not_kept(server, tmp_path):
    old = tmp_path / 'w'
    old.write_bytes(b'what was there')
    server.content = CONTENT[:-1] + b'!'
    with pytest.raises(ModelError, match='SHA256') as caught:
        download(url(server), old, SHA256)
    assert caught.value.exit_code == 65
    assert old.read_bytes() == b'what was there'
    assert names(tmp_path) == ['w']


def test_nothing_there_and_a_server_in_trouble(server, tmp_path):
    with pytest.raises(NoInputError):
        download(url(server, '/nothing'), tmp_path / 'w', SHA256)
    with pytest.raises(BusyError, match='503'):
        download(url(server, '/trouble'), tmp_path / 'w', SHA256)
    port = server.server_port
    server.shutdown()
    server.server_close()
    with pytest.raises(BusyError, match='refused') as caught:
        download(f'http://127.0.0.1:{port}/w', tmp_path / 'w', SHA256)
    assert 'proxy' in caught.value.hint


def test_offline_refuses_the_network_and_takes_files(server, tmp_path):
    with pytest.raises(UsageError, match='--offline') as caught:
        download(url(server), tmp_path / 'w', SHA256, offline=True)
    assert 'models add' in caught.value.hint
    assert server.asked == []
    source = tmp_path / 'source'
    source.write_bytes(CONTENT)
    assert download(source.as_uri(), tmp_path / 'w', SHA256, offline=True)
    assert (tmp_path / 'w').read_bytes() == CONTENT


@pytest.mark.parametrize('address', ['ftp://host/w', 'w.safetensors', '', 'javascript:1'])
def test_other_addresses_are_refused(tmp_path, address):
    with pytest.raises(UsageError, match='no address'):
        download(address, tmp_path / 'w', SHA256)


@pytest.mark.parametrize('address', ['http://127.0.0.1:port/w', 'http://[bad/w', 'http:///w'])
def test_damaged_addresses_are_explained(tmp_path, address):
    with pytest.raises((UsageError, BusyError)):
        download(address, tmp_path / 'w', SHA256)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(NoInputError):
        download((tmp_path / 'no').as_uri(), tmp_path / 'w', SHA256)


def test_a_folder_that_cannot_be_made(server, tmp_path):
    (tmp_path / 'file').touch()
    with pytest.raises(OutputError):
        download(url(server), tmp_path / 'file' / 'w', SHA256)
