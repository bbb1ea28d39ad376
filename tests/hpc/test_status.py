"""What became of the exams of an array, and the list of those that are left."""

from __future__ import annotations

import json
import shlex

import pytest
from skeleton import write_dataset

from mslesseg_app.bids.exams import Exam
from mslesseg_app.bids.names import output_path
from mslesseg_app.cli.hpc import main

NAMES = [f'sub-{label}_ses-{session}_FLAIR' for label in ('01', '02', '03') for session in '12']


@pytest.fixture
def array(tmp_path):
    """Three participants: one done, one with a failed session, one with a record cut short."""
    bids = write_dataset(tmp_path / 'bids', NAMES)
    out = tmp_path / 'out'
    failed = {'status': 'failed', 'failure': {'message': 'The image is constant.'}}
    ok = json.dumps({'status': 'ok'})
    records = {
        ('01', '1'): ok, ('01', '2'): ok, ('02', '1'): ok, ('02', '2'): json.dumps(failed),
        ('03', '1'): ok, ('03', '2'): ok[:-3],
    }  # fmt: skip
    for (label, session), text in records.items():
        path = out / output_path(Exam(label, session, {}), 'exam', desc='hyperintensity')
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return bids, out


def test_status_tells_done_failed_and_missing_and_writes_the_rest(array, tmp_path, capsys):
    bids, out = array
    words = ['status', str(bids), str(out), '--model', 'hyperintensity']
    assert main([*words, '--rest', str(tmp_path / 'rest.txt')]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[:2] == ['4 done, 1 failed, 1 missing', 'sub-02_ses-2: The image is constant.']
    assert (tmp_path / 'rest.txt').read_text() == '02\n03\n'
    again = shlex.split(lines[-1])
    assert again[:4] == ['mslesseg', 'hpc', 'sbatch', str(bids)]
    assert again[-2:] == ['--participant-label', str(tmp_path / 'rest.txt')]


def test_status_of_finished_participants_is_zero(array, tmp_path, capsys):
    bids, out = array
    words = ['status', str(bids), str(out), '--model', 'hyperintensity']
    assert main([*words, '--participant-label', '01', '--rest', str(tmp_path / 'rest.txt')]) == 0
    assert capsys.readouterr().out == '2 done, 0 failed, 0 missing\n'
    assert not (tmp_path / 'rest.txt').exists()


def test_results_of_another_model_do_not_count(array, capsys):
    bids, out = array
    assert main(['status', str(bids), str(out), '--model', 'unet']) == 1
    assert capsys.readouterr().out == '0 done, 0 failed, 6 missing\n'
