from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mslesseg_app.errors import DataError, NoInputError, UsageError
from mslesseg_app.training import data as module
from mslesseg_app.training.data import (
    BOX,
    BOX_SHAPE,
    from_box,
    list_subjects,
    load_data,
    quantise,
    read_exam,
    to_box,
)
from mslesseg_app.training.fields import Chance
from mslesseg_app.training.synthesis import Synthesiser


def test_left_out_subject_is_absent_from_images_masks_and_synthesis(prepared: Path) -> None:
    whole = load_data(prepared)
    data = load_data(prepared, ['person-1'])
    assert {e.subject for e in data.exams} == {'person-2'}
    assert {p.subject for p in data.patterns} == {'person-2', 'person-3'}
    assert 'exam-one' not in data.files
    assert 'lesions-p1' not in data.files
    stage = Synthesiser(data, Chance(1)).stage
    gone_exam = next(e for e in whole.exams if e.subject == 'person-1')
    gone_pattern = next(p for p in whole.patterns if p.subject == 'person-1')
    assert len(stage.exams) == 1
    assert len(stage.patterns) == 2
    for scene in stage.exams:
        assert not np.array_equal(scene.images.numpy(), gone_exam.images)
        assert not np.array_equal(scene.label.numpy(), gone_exam.label == 1)
    for pattern in stage.patterns:
        assert not np.array_equal(pattern.numpy(), gone_pattern.components)


def test_files_of_a_left_out_subject_are_not_even_read(
    prepared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[tuple[str, tuple[str, ...]]] = []
    original = module._read

    def spy(path: Path, keys: tuple[str, ...]) -> dict[str, object]:
        opened.append((path.name, keys))
        return original(path, keys)

    monkeypatch.setattr(module, '_read', spy)
    load_data(prepared, ['person-1'])
    contents = {name for name, keys in opened if keys != ('subject',)}
    assert contents == {'exam-two.npz', 'lesions-p2.npz', 'lesions-p3.npz'}


def test_what_is_drawn_does_not_depend_on_the_subject_left_out(prepared: Path) -> None:
    """Whatever the left-out files hold, the exams drawn are the same to the last bit."""
    draws = []
    for change in (False, True):
        if change:
            other = replace(read_exam(prepared / 'exam-two.npz'), name='one', subject='person-1')
            module.write_exam(prepared, other)
            (prepared / 'lesions-p1.npz').unlink()
        synthesiser = Synthesiser(load_data(prepared, ['person-1']), Chance(3))
        draws.append([synthesiser.draw() for _ in range(6)])
    for before, after in zip(*draws, strict=True):
        assert np.array_equal(before.images, after.images)
        assert np.array_equal(before.label, after.label)


def test_unknown_subject_is_refused(prepared: Path) -> None:
    with pytest.raises(UsageError, match='person-9'):
        load_data(prepared, ['person-9'])


def test_empty_folder_and_nothing_left(prepared: Path, tmp_path: Path) -> None:
    with pytest.raises(NoInputError, match='no prepared'):
        list_subjects(tmp_path)
    with pytest.raises(NoInputError, match='No exam'):
        load_data(prepared, ['person-1', 'person-2'])


def test_damaged_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / 'exam-x.npz'
    path.write_bytes(b'PK no archive')
    with pytest.raises(DataError, match='exam-x'):
        read_exam(path)


def test_box_and_back() -> None:
    volume = np.zeros((182, 218, 182), np.uint8)
    volume[40:120, 50:150, 10:140] = 3
    inside = to_box(volume)
    assert inside.shape == BOX_SHAPE
    assert np.array_equal(from_box(inside), volume)
    volume[0] = 1
    with pytest.raises(DataError, match='outside the box'):
        to_box(volume)
    assert np.array_equal(from_box(inside)[BOX], inside)


def test_quantise_keeps_zero_and_order() -> None:
    image = np.array([-5.0, 0.0, 1e-4, 10.0, 500.0, 1000.0]).reshape(1, 2, 3)
    steps = quantise(image).ravel()
    assert steps[0] == steps[1] == 0
    assert steps[2] == 1
    assert list(steps[2:]) == sorted(steps[2:])
    assert quantise(np.zeros((2, 2, 2))).max() == 0
