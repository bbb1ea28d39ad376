"""Files appear whole or not at all, and errors of the system are explained."""

from __future__ import annotations

import errno
import os
import threading
from pathlib import Path

import pytest

from mslesseg_app.core import files
from mslesseg_app.core.errors import DiskError, MSLesSegError, OutputError, UsageError
from mslesseg_app.core.files import read_any_text, write_text


@pytest.mark.parametrize('number', [errno.ENOSPC, errno.EDQUOT])
def test_full_disk(number):
    error = files.explain_os_error(OSError(number, 'x', '/out/file'), '/elsewhere')
    assert isinstance(error, DiskError)
    assert error.exit_code == 74
    assert '/out/file' in str(error)
    assert 'No space left' in str(error)
    assert 'same command again' in error.hint


@pytest.mark.parametrize(
    'number', [errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR]
)
def test_forbidden(number):
    error = files.explain_os_error(OSError(number, 'x'), '/out')
    assert isinstance(error, OutputError)
    assert error.exit_code == 73
    assert '/out' in str(error)
    assert error.hint


def test_the_file_that_cannot_be_written_is_named():
    error = OSError(errno.ENOSPC, 'x', '/scratch/source', None, '/out/.tmp-abc-target')
    assert '/out/target' in str(files.explain_os_error(error, Path('/out/target')))
    error = OSError(errno.ENOSPC, 'x', '/scratch/source', None, '/out/target')
    assert '/out/target' in str(files.explain_os_error(error, Path('/elsewhere')))


def test_other_errors_of_the_system():
    error = files.explain_os_error(OSError(errno.EIO, os.strerror(errno.EIO)), '/out')
    assert isinstance(error, DiskError)
    assert 'Input/output error' in str(error)


@pytest.mark.parametrize('encoding', ['utf-8', 'utf-8-sig', 'latin-1', 'utf-16'])
def test_text_of_other_programs_is_read(tmp_path, encoding):
    path = tmp_path / 'text.tsv'
    path.write_bytes('Schädel\t1'.encode(encoding))
    assert read_any_text(path) == 'Schädel\t1'


@pytest.mark.parametrize('content', [b'\x00\x01', b'P\x00\xff'])
def test_what_is_no_text_is_told(tmp_path, content):
    path = tmp_path / 'text.tsv'
    path.write_bytes(content)
    with pytest.raises(ValueError, match='text'):
        read_any_text(path)


def test_a_file_appears_only_when_it_is_whole(tmp_path):
    path = tmp_path / 'deep' / 'file.nii.gz'
    with files.atomic_path(path) as temporary:
        assert temporary.name.endswith('file.nii.gz'), 'libraries look at the ending'
        assert temporary.parent == path.parent, 'a rename must stay on one disk'
        temporary.write_text('all')
        assert not path.exists()
    assert path.read_text() == 'all'
    assert list(path.parent.iterdir()) == [path]


def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / 'file'
    path.write_text('old')
    with pytest.raises(ZeroDivisionError), files.atomic_path(path) as temporary:
        temporary.write_text('half')
        raise ZeroDivisionError
    assert path.read_text() == 'old'
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk_while_writing(tmp_path):
    path = tmp_path / 'file'
    with pytest.raises(DiskError), files.atomic_path(path):
        raise OSError(errno.ENOSPC, 'full')
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / 'file').touch()
    with pytest.raises(OutputError), files.atomic_path(tmp_path / 'file' / 'x'):
        pass


def test_permissions_follow_the_umask(tmp_path):
    before = os.umask(0o027)
    try:
        files.write_text(tmp_path / 'file', 'x')
    finally:
        os.umask(before)
    assert (tmp_path / 'file').stat().st_mode & 0o777 == 0o640


def test_equal_content_is_not_written_again(tmp_path):
    path = tmp_path / 'file.json'
    files.write_json(path, {'b': 1, 'a': 'é'})
    assert path.read_text('utf-8') == '{\n  "a": "é",\n  "b": 1\n}\n'
    os.utime(path, ns=(1, 1))
    files.write_json(path, {'a': 'é', 'b': 1})
    assert path.stat().st_mtime_ns == 1
    files.write_json(path, {'a': 2})
    assert path.stat().st_mtime_ns != 1


@pytest.mark.parametrize('size', [0, 10, 3 << 20])
def test_publish(tmp_path, size):
    source, target = tmp_path / 'a', tmp_path / 'out' / 'b'
    source.write_bytes(os.urandom(size))
    files.publish(source, target)
    assert target.read_bytes() == source.read_bytes()
    os.utime(target, ns=(1, 1))
    files.publish(source, target)
    assert target.stat().st_mtime_ns == 1, 'the same bytes stay untouched'
    source.write_bytes(source.read_bytes()[:-1] + b'xx')
    files.publish(source, target)
    assert target.read_bytes() == source.read_bytes()


def test_writers_of_one_file_do_not_harm_each_other(tmp_path):
    path = tmp_path / 'file'
    texts = [str(number) * 100_000 for number in range(8)]
    threads = [threading.Thread(target=files.write_text, args=(path, text)) for text in texts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert path.read_text() in texts
    assert list(tmp_path.iterdir()) == [path]


def test_a_link_to_a_folder_elsewhere_is_kept(tmp_path):
    (tmp_path / 'disk').mkdir()
    (tmp_path / 'out').symlink_to('disk', target_is_directory=True)
    files.write_text(tmp_path / 'out' / 'file', 'x')
    assert (tmp_path / 'disk' / 'file').read_text() == 'x'
    assert Path(tmp_path / 'out').is_symlink()


# ------------------------------------------------------------- what some systems do not have


def test_a_file_system_that_knows_no_rights(tmp_path, monkeypatch):
    """CIFS and FUSE refuse to change the rights of a file."""

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(1, 'Operation not permitted')

    monkeypatch.setattr('os.chmod', refuse)
    monkeypatch.setattr(Path, 'chmod', refuse)
    write_text(tmp_path / 'file.txt', 'text')
    assert (tmp_path / 'file.txt').read_text() == 'text'
    assert [path.name for path in tmp_path.iterdir()] == ['file.txt']


def test_a_long_temporary_folder_is_found_before_work_begins(tmp_path, monkeypatch):
    import tempfile

    from mslesseg_app.core.files import check_temporary_folder

    monkeypatch.setattr(tempfile, 'tempdir', '/tmp')
    check_temporary_folder()
    monkeypatch.setattr(tempfile, 'tempdir', '/tmp/' + 'x' * 90)
    with pytest.raises(UsageError, match='too long for sockets') as caught:
        check_temporary_folder()
    assert 'TMPDIR' in caught.value.hint


@pytest.mark.parametrize(('length', 'wrong'), [(241, False), (242, True)])
def test_names_that_are_too_long(tmp_path, length, wrong):
    """A name is as long as its temporary copy allows, to the byte."""
    from mslesseg_app.core.files import too_long

    path = tmp_path / ('x' * length)
    assert too_long(path) is wrong
    if wrong:
        with pytest.raises(MSLesSegError):
            write_text(path, 'text')
    else:
        write_text(path, 'text')
