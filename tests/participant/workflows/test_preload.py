"""What workers share is loaded before there are any."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from multiprocessing import forkserver

import pytest

from mslesseg_app.participant.workflows import preload

SHARED = """
import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from mslesseg_app.participant.workflows.preload import begin_loading

if __name__ == '__main__':
    begin_loading(network=False)
    with ProcessPoolExecutor(1, multiprocessing.get_context('forkserver')) as pool:
        found = pool.submit(eval, '''(
            __import__('mslesseg_app').spatial.tissues.template_maps.cache_info().currsize,
            'torch' in __import__('sys').modules,
            'mslesseg_app.participant.subjects' in __import__('sys').modules,
        )''').result()
    print(*found)
"""


def test_asked_for_while_the_server_starts_and_not_longer(monkeypatch):
    asked = []
    monkeypatch.setattr(forkserver, 'ensure_running', lambda: asked.append(dict(os.environ)))
    preload.begin_loading(network=True)
    preload.begin_loading(network=False)
    assert [one[preload._ASKED] for one in asked] == ['network', 'steps']
    assert preload._ASKED not in os.environ


def test_what_fails_is_left_to_the_step_that_needs_it(monkeypatch):
    done = []
    tasks = [lambda: done.append(1), lambda: 1 / 0, lambda: done.append(3)]
    monkeypatch.setattr(preload, '_tasks', lambda *, network: iter(tasks))
    before = signal.getsignal(signal.SIGINT)
    preload._load('steps')
    assert done == [1, 3]
    assert signal.getsignal(signal.SIGINT) is before


def test_nothing_is_loaded_for_a_run_that_ended(monkeypatch):
    done, parents = [], iter([10, 10, 1])
    monkeypatch.setattr(os, 'getppid', lambda: next(parents))
    tasks = [lambda k=k: done.append(k) for k in range(5)]
    monkeypatch.setattr(preload, '_tasks', lambda *, network: iter(tasks))
    preload._load('steps')
    assert done == [0, 1]


@pytest.mark.slow
def test_workers_share_what_was_loaded(tmp_path):
    script = tmp_path / 'shared.py'
    script.write_text(SHARED)
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ['1', 'False', 'True'], done.stderr
