"""Templates for schedulers that no test can start: run by a shell, with a stand-in for the App."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from standin import calls, value

from mslesseg_app.cli.bids_app import build_parser


@pytest.fixture
def folder(project_root: Path) -> Path:
    return project_root / 'hpc'


def run(folder: Path, name: str, stand_in: Path, *words: str, **environment: str):
    """Run a template where a scheduler would: in the folder it was submitted from."""
    here = stand_in.parent
    (here / 'participants.txt').write_text('01\n02\nsub-03\n')
    kept = {key: word for key, word in os.environ.items() if not key.startswith('SLURM')}
    settings = {
        'BIDS': str(here / 'my bids'),
        'OUT': str(here / 'my out'),
        'PROGRAM': f'{sys.executable} {stand_in}',
        'LIST': str(here / 'participants.txt'),
        'SCRATCH': str(here),
    }
    return subprocess.run(
        ['bash', name, *words],
        env=kept | settings | environment,
        capture_output=True,
        text=True,
        check=False,
        cwd=folder,
    )


ARRAYS = [
    ('lsf-array.sh', {'LSB_JOBINDEX': '3', 'LSB_DJOB_NUMPROC': '4'}, 75),
    ('sge-array.sh', {'SGE_TASK_ID': '3', 'NSLOTS': '4'}, 99),
]


@pytest.mark.parametrize(('name', 'environment', 'again'), ARRAYS, ids=lambda x: str(x)[:9])
def test_a_task_is_one_participant(folder, stand_in, name, environment, again) -> None:
    """75 becomes the code at which the scheduler starts a task again; others stay."""
    assert run(folder, name, stand_in, **environment).returncode == 0
    (call,) = calls(stand_in)
    assert value(call, '--participant-label') == '03'
    assert value(call, '--nprocs') == '4'
    assert call[:2] == [str(stand_in.parent / 'my bids'), str(stand_in.parent / 'my out')]
    assert not list(stand_in.parent.glob('mslesseg-*'))
    for code, expected in ((75, again), (66, 66)):
        (stand_in.parent / 'code.txt').write_text(str(code))
        assert run(folder, name, stand_in, **environment).returncode == expected


@pytest.mark.parametrize('name', ['lsf-array.sh', 'sge-array.sh', 'slurm-array.sh', 'srun.sh'])
def test_outside_of_an_array_nothing_is_started(folder, stand_in, name) -> None:
    assert run(folder, name, stand_in).returncode != 0
    assert calls(stand_in) == []


def test_lsf_starts_75_again(folder: Path) -> None:
    assert re.search(r'^#BSUB -Q "75"$', (folder / 'lsf-array.sh').read_text(), re.M)


def test_a_participant_in_an_image(folder, stand_in, tmp_path) -> None:
    tools = tmp_path / 'tools'
    tools.mkdir()
    (tools / 'apptainer').write_text(f'#!/bin/sh\nexec "{sys.executable}" "{stand_in}" "$@"\n')
    (tools / 'apptainer').chmod(0o755)
    image = str(tmp_path / 'i.sif')
    done = run(
        folder, 'participant.sh', stand_in, '01', '--threshold', '0.4',
        IMAGE=image, GPU='1', PATH=f'{tools}:{os.environ["PATH"]}',
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (call,) = calls(stand_in)
    cut = call.index(image)
    assert {'--cleanenv', '--containall', '--nv'} <= set(call[:cut])
    build_parser().parse_args(call[cut + 1 :])
    assert value(call, '--device') == 'cuda'


def test_what_arrives_is_what_the_app_takes(folder, stand_in) -> None:
    run(folder, 'participant.sh', stand_in, 'sub-01')
    (call,) = calls(stand_in)
    options = build_parser().parse_args(call)
    assert options.participant_label == ('01',)
    assert options.mem == pytest.approx(3.686)


# --------------------------------------------------------------------------------- BABS


def test_babs(folder: Path) -> None:
    """The command that BABS 0.5 makes of the file is one that the App takes."""
    content = yaml.safe_load((folder / 'babs.yaml').read_text(encoding='utf-8'))
    assert set(content) == {
        'input_datasets', 'bids_app_args', 'singularity_args', 'all_results_in_one_zip',
        'zip_foldernames', 'cluster_resources', 'script_preamble', 'job_compute_space',
        'alert_log_messages',
    }  # fmt: skip
    arguments = dict(content['bids_app_args'])
    selection = arguments.pop('$SUBJECT_SELECTION_FLAG')
    words = ['/ds/inputs/data/BIDS', '/ds/outputs/mslesseg', 'participant']
    for name, word in arguments.items():
        words += [name, '/ds/.git/tmp/wkdir' if word == '$BABS_TMPDIR' else word]
    options = build_parser().parse_args([word for word in words if word] + [selection, 'sub-01'])
    assert options.participant_label == ('01',)
    assert options.skip_bids_validation
    assert options.nprocs == int(content['cluster_resources']['number_of_cpus'])
    (name,) = content['zip_foldernames']
    assert re.fullmatch(r'[a-z]+', name)
