"""The log of a run, and its TensorBoard files read back."""

from __future__ import annotations

import builtins
import csv
import io
import struct
from pathlib import Path

import pytest

from mslesseg_app.core.errors import UsageError
from mslesseg_app.training.tracking import COLUMNS, Tracker

ROWS = [
    dict.fromkeys(COLUMNS, '')
    | {'epoch': n, 'steps': 10 * n, 'loss': f'{1 / n:g}', 'best': 0, 'learning_rate': '0.1',
       'gradient_norm': '1', 'dsc': '0.5' if n == 2 else ''}
    for n in (1, 2)
]  # fmt: skip


def test_the_log_is_whole_after_each_epoch(tmp_path: Path) -> None:
    stream = io.StringIO()
    with Tracker(tmp_path, stream=stream) as tracker:
        for end in (1, 2):
            tracker.epoch(ROWS[:end])
            rows = list(csv.DictReader((tmp_path / 'log.csv').open()))
            assert [row['steps'] for row in rows] == ['10', '20'][:end]
    assert stream.getvalue() == 'epoch 1: loss 1\nepoch 2: loss 0.5, DSC 0.5\n'


def events(path: Path) -> list[tuple[str, int, float]]:
    """Read the records of an event file: length, checksum, message, checksum."""
    proto = pytest.importorskip('tensorboardX.proto.event_pb2')
    data, found = path.read_bytes(), []
    while data:
        (length,) = struct.unpack('<Q', data[:8])
        event = proto.Event.FromString(data[12 : 12 + length])
        found += [(v.tag, event.step, v.simple_value) for v in event.summary.value]
        data = data[16 + length :]
    return found


def test_tensorboard_files_hold_the_same(tmp_path: Path) -> None:
    pytest.importorskip('tensorboardX')
    with Tracker(tmp_path, quiet=True, tensorboard=True) as tracker:
        tracker.epoch(ROWS[:1])
        tracker.epoch(ROWS)
    (path,) = (tmp_path / 'tensorboard').iterdir()
    found = events(path)
    assert ('loss', 10, 1.0) in found
    assert ('loss', 20, 0.5) in found
    assert [event for event in found if event[0] == 'dsc'] == [('dsc', 20, 0.5)]


def test_tensorboard_that_is_not_installed_is_explained(tmp_path: Path, monkeypatch) -> None:
    real = builtins.__import__

    def without(name: str, *rest: object) -> object:
        if name == 'tensorboardX':
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, '__import__', without)
    with pytest.raises(UsageError, match='tensorboardX') as caught:
        Tracker(tmp_path, tensorboard=True)
    assert 'mslesseg[training]' in caught.value.hint
