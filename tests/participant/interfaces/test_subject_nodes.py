"""Nodes of the within-subject template: a broken image is told, not raised."""

from __future__ import annotations

import nibabel as nb
import numpy as np
import pytest

from mslesseg_app.core.errors import DataError, DiskError, MSLesSegError
from mslesseg_app.participant.interfaces.spatial import _read_alignment, _subject_reference
from mslesseg_app.participant.interfaces.subject import AlignSubject, PrepareAnchor, TakeAnchor
from mslesseg_app.spatial import subject_alignment as subject

SHARED = np.diag([2.0, 2.0, 2.0, 1.0])


@pytest.fixture
def raw(tmp_path):
    data = np.random.default_rng(0).uniform(1, 100, (30, 28, 20)).astype(np.float32)
    path = tmp_path / 'raw.nii.gz'
    nb.Nifti1Image(data, np.diag([-4.0, 4, 4, 1])).to_filename(path)
    return path


def prepare(path, folder):
    folder.mkdir()
    return (
        PrepareAnchor(in_file=str(path), correct_bias=False).run(cwd=str(folder)).outputs.out_file
    )


def test_a_good_image_goes_through(raw, tmp_path):
    made = prepare(raw, tmp_path / 'a')
    taken = TakeAnchor(in_file=made).run(cwd=str(tmp_path)).outputs.out_file
    assert taken == made
    assert np.array_equal(nb.load(made).affine, nb.load(raw).affine)


@pytest.mark.parametrize('break_it', ['cut', 'remove'])
def test_a_broken_image_fails_where_it_is_taken(raw, tmp_path, break_it):
    if break_it == 'cut':
        raw.write_bytes(raw.read_bytes()[:500])
    else:
        raw.unlink()
    made = prepare(raw, tmp_path / 'a')
    with pytest.raises(MSLesSegError) as caught:
        TakeAnchor(in_file=made).run(cwd=str(tmp_path))
    assert str(raw) in caught.value.message
    assert caught.value.exit_code in (65, 66)


def test_a_failing_disk_is_not_taken_for_a_broken_image(raw, tmp_path, monkeypatch):
    """It would be remembered as the result."""

    def fail(*_):
        raise DiskError('The disk failed.')

    monkeypatch.setattr('mslesseg_app.spatial.checks.check_image', fail)
    with pytest.raises(DiskError):
        prepare(raw, tmp_path / 'a')


def places(tmp_path, raw, sessions, broken=()):
    anchors = []
    for name in sessions:
        folder = tmp_path / name
        source = tmp_path / 'absent.nii.gz' if name in broken else raw
        anchors.append(prepare(source, folder))
    node = AlignSubject(anchors=anchors, sessions=sessions)
    files = node.run(cwd=str(tmp_path)).outputs.out_files
    return [_read_alignment(path) for path in ([files] if isinstance(files, str) else files)]


def aligned(images, **_):
    names = [name for name in images if name != 'x']
    left_out = {'x': 'it is noise'} if 'x' in images else {}
    return subject.SubjectAlignment(dict.fromkeys(names, np.eye(4)), SHARED, left_out)


def test_each_session_is_told_its_place(raw, tmp_path, monkeypatch):
    monkeypatch.setattr(subject, 'align_subject', aligned)
    found = places(tmp_path, raw, ['1', '2', 'x', 'y'], broken=['y'])
    assert [_subject_reference(one) for one in found[:2]] == 2 * [
        {
            'SubjectAnatomicalReference': 'unbiased',
            'SubjectAnatomicalReferenceSessions': ['1', '2'],
        }
    ]
    assert found[0]['flair_from_mni'] == SHARED.tolist()
    noise = _subject_reference(found[2])
    assert noise['SubjectAnatomicalReference'] == 'sessionwise'
    assert 'it is noise' in noise['SubjectAnatomicalReferenceNote']
    assert 'cannot be used' in found[3]['reason']


def test_a_session_that_is_left_alone_is_told_why(raw, tmp_path, monkeypatch):
    def never(*_, **__):
        raise AssertionError('there is nothing to share')

    monkeypatch.setattr(subject, 'align_subject', never)
    first, second = places(tmp_path, raw, ['1', '2'], broken=['2'])
    assert 'no other session' in first['reason']
    assert 'flair_from_mni' not in first
    assert second['reason']


def test_nothing_is_said_where_nothing_was_asked():
    from nipype.interfaces.base import Undefined

    assert _subject_reference(_read_alignment(Undefined)) == {
        'SubjectAnatomicalReference': 'sessionwise'
    }


def test_errors_keep_their_words_on_the_way(tmp_path):
    from mslesseg_app.participant.interfaces.base import decode_error, encode_error

    error = decode_error(encode_error(DataError('It is “broken”.', 'Mend it.')))
    assert (error.message, error.hint, error.exit_code) == ('It is “broken”.', 'Mend it.', 65)
