"""Archives: what is in them is found, and nothing in them can do harm."""

from __future__ import annotations

import io
import os
import tarfile
import zipfile
from pathlib import Path

import pytest
from scanner import scan, states

from mslesseg_app.dicom.convert import sources
from mslesseg_app.dicom.convert.sources import Archive, FoundFile, Skipped, unpack, walk


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    return scan(tmp_path / 'files')


def unpacked(archive: Path) -> tuple[list[FoundFile], list[Skipped]]:
    assert list(walk([archive])) == [Archive(archive)]
    folder = archive.parent / 'work'
    folder.mkdir()
    items = list(unpack(archive, folder))
    found = [item for item in items if isinstance(item, FoundFile)]
    assert sorted(item.path for item in found) == sorted(folder.iterdir())
    return found, [item for item in items if isinstance(item, Skipped)]


@pytest.mark.parametrize('mode', ['w', 'w:gz', 'w:bz2', 'w:xz'])
def test_tar(tmp_path: Path, files: list[Path], mode: str) -> None:
    archive = tmp_path / 'study.archive'
    with tarfile.open(archive, mode) as tar:  # type: ignore[call-overload]
        tar.add(files[0].parent, 'Muster^Anna')
    before = states(tmp_path)
    found, skipped = unpacked(archive)
    assert not skipped
    assert {item.path.read_bytes() for item in found} == {path.read_bytes() for path in files}
    assert found[0].shown.startswith(f'{archive}!Muster^Anna/')
    assert before.items() <= states(tmp_path).items()


def test_zip(tmp_path: Path, files: list[Path]) -> None:
    archive = tmp_path / 'study.zip'
    with zipfile.ZipFile(archive, 'w', zipfile.ZIP_DEFLATED) as packed:
        for path in files:
            packed.write(path, f'a/{path.name}')
        packed.writestr('a/readme.txt', 'film of Anna Muster')
        packed.writestr('a/nothing', '')
    found, skipped = unpacked(archive)
    assert {item.path.read_bytes() for item in found} == {path.read_bytes() for path in files}
    assert [item.reason for item in skipped] == ['no DICOM', 'empty file']


def test_names_lead_nowhere(tmp_path: Path, files: list[Path]) -> None:
    archive = tmp_path / 'evil.tar'
    content = files[0].read_bytes()
    with tarfile.open(archive, 'w') as tar:
        for name in ('../../evil', '/etc/evil', 'a/../../../evil', '$(touch evil)', 'a\nb'):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
        link = tarfile.TarInfo('link')
        link.type, link.linkname = tarfile.SYMTYPE, '/etc/passwd'
        tar.addfile(link)
        device = tarfile.TarInfo('device')
        device.type = tarfile.CHRTYPE
        tar.addfile(device)
    found, _ = unpacked(archive)
    assert len(found) == 5
    assert {path.name for path in tmp_path.iterdir()} == {'evil.tar', 'files', 'work'}
    assert not Path('/etc/evil').exists()
    assert all(item.path.name.isdigit() for item in found)


def test_bombs_are_stopped(
    tmp_path: Path, files: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources, '_SLACK', 0)
    archive = tmp_path / 'bomb.zip'
    with zipfile.ZipFile(archive, 'w', zipfile.ZIP_DEFLATED) as packed:
        packed.writestr('first', files[0].read_bytes())
        packed.writestr('bomb', bytes(128) + b'DICM' + bytes(50_000_000))
    found, skipped = unpacked(archive)
    assert len(found) == 1
    assert 'times its size' in skipped[0].reason


def test_archives_within_archives(tmp_path: Path, files: list[Path]) -> None:
    inner = tmp_path / 'inner.zip'
    with zipfile.ZipFile(inner, 'w') as packed:
        packed.write(files[0])
    with tarfile.open(tmp_path / 'outer.tar', 'w') as tar:
        tar.add(inner, 'inner.zip')
    found, skipped = unpacked(tmp_path / 'outer.tar')
    assert not found
    assert 'unpack it first' in skipped[0].reason


@pytest.mark.parametrize('kind', ['tgz', 'zip'])
def test_damaged_archives_give_what_is_left(tmp_path: Path, kind: str) -> None:
    archive = tmp_path / f'study.{kind}'
    paths = []
    for number in range(14):
        paths.append(tmp_path / f'{number}.dcm')
        paths[-1].write_bytes(bytes(128) + b'DICM' + os.urandom(40_000))
    if kind == 'zip':
        with zipfile.ZipFile(archive, 'w') as packed:
            for path in paths:
                packed.write(path)
        raw = bytearray(archive.read_bytes())
        raw[300_000] ^= 255
    else:
        with tarfile.open(archive, 'w:gz') as tar:
            for path in paths:
                tar.add(path)
        raw = bytearray(archive.read_bytes()[:300_000])
    archive.write_bytes(raw)
    found, skipped = unpacked(archive)
    assert len(found) == (13 if kind == 'zip' else 7)
    assert skipped[0].reason == 'damaged in the archive'


def test_what_is_only_compressed(tmp_path: Path) -> None:
    import gzip

    path = tmp_path / 'image.nii.gz'
    path.write_bytes(gzip.compress(b'no tar' * 1000))
    assert [item.reason for item in unpacked(path)[1]] == ['compressed, but no archive']
