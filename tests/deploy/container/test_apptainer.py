"""The image of Singularity.def, built and run by a real Apptainer."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest
from apptainer import USER_ID, Apptainer
from images import APP, Demo, copied, different, writable

from mslesseg_app import __version__

pytestmark = [pytest.mark.slow, pytest.mark.apptainer]

ALONE = ('--cleanenv', '--containall')


def test_test_section_passes(apptainer: Apptainer, sif: Path) -> None:
    done = apptainer('test', *ALONE, sif, user=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f'mslesseg {__version__}' in done.stdout
    assert 'FAILED' not in done.stdout
    assert 'default model: ' in done.stdout


def test_labels_and_help(apptainer: Apptainer, sif: Path) -> None:
    found = json.loads(apptainer('inspect', '--labels', '--json', sif).stdout)
    labels = found['data']['attributes']['labels']
    assert labels['org.opencontainers.image.version'] == __version__
    text = apptainer('run-help', sif).stdout
    assert 'research use only' in text
    assert '-w /scratch' in text


def test_app_is_the_same_inside(
    apptainer: Apptainer, sif: Path, outside: Demo, tmp_path: Path, note: list[str]
) -> None:
    """As an ordinary user, with nothing of the host but the three folders."""
    uid = USER_ID if os.geteuid() == 0 else os.getuid()
    bids = copied(outside.bids, tmp_path / 'bids')
    out, work = (writable(tmp_path / name, uid) for name in ('out', 'work'))
    start = time.monotonic()
    done = apptainer(
        'run', *ALONE, '--nv',
        *('-B', f'{bids}:/bids:ro', '-B', f'{out}:/out', '-B', f'{work}:/scratch'),
        *(sif, '/bids', '/out', 'participant', 'group', '-w', '/scratch', *APP),
        *('--derivatives', 'manual=/bids/derivatives/manual'),
        user=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    note.append(f'the App on the demo: {time.monotonic() - start:.0f} s in Apptainer')
    assert different(outside.out, out) == []
    description = json.loads((out / 'dataset_description.json').read_text())
    assert description['GeneratedBy'][0]['Container']['Type'] == 'singularity'


def test_folders_that_are_not_bound(apptainer: Apptainer, sif: Path) -> None:
    done = apptainer('run', *ALONE, sif, '/home/me/bids', '/out', 'participant', user=True)
    assert done.returncode == 66, done.stderr
    assert '-B /home/me/bids:/home/me/bids:ro -B /path/on/your/computer:/out\n' in done.stderr


def test_little_room_for_work_is_said(
    apptainer: Apptainer, sif: Path, outside: Demo, tmp_path: Path
) -> None:
    uid = USER_ID if os.geteuid() == 0 else os.getuid()
    bids, out = copied(outside.bids, tmp_path / 'bids'), writable(tmp_path / 'out', uid)
    done = apptainer(
        *('run', *ALONE, '-B', f'{bids}:/bids:ro', '-B', f'{out}:/out', '--pwd', '/tmp'),
        *(sif, '/bids', '/out', 'participant', '--dry-run'),
        user=True,
    )
    assert done.returncode == 0, done.stderr
    assert 'are free for the work folder' in done.stderr
