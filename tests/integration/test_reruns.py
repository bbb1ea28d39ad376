"""Running again: what is cached, what is computed anew, and what the partial modes write."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from filelock import FileLock
from running import computed_nodes, contents, states
from skeleton import files_below

#: Nodes that a new threshold concerns.
AFTER_THRESHOLD = {
    'find',
    'labels_mni',
    'labels_mask_mni',
    'regions',
    'selfcheck',
    'measure',
    'figure_lesions',
    'describe',
    'describe_lesions',
    'describe_checked',
    'describe_end',
}


@pytest.fixture(autouse=True)
def alone(shared: Path) -> Iterator[None]:
    """Let one worker at a time use the work folder of the shared run."""
    with FileLock(shared / 'reruns.lock'):
        yield


@pytest.fixture
def copy(finished, tmp_path: Path) -> Path:
    """A copy of the output of the shared run."""
    ignore = shutil.ignore_patterns('.tmp-*')
    return Path(shutil.copytree(finished.out, tmp_path / 'out', ignore=ignore))


def arguments(finished, out: Path, *options: str) -> list[object]:
    common = ['-d', f'manual={finished.manual}', '--model', 'hyperintensity']
    return [finished.bids, out, 'participant', '-w', finished.work, *common, *options]


def changed(before: dict[str, object], after: dict[str, object]) -> set[str]:
    return {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)}


def test_what_is_computed_again(finished, run, tmp_path):
    """One test, because the runs share a work folder and must follow each other."""
    results, nodes = contents(finished.out), computed_nodes(finished.work)
    assert {'align', 'conform_flair', 'segment', 'find'} <= set(nodes)

    resources = ['--nprocs', '1', '--omp-nthreads', '1', '--device', 'cpu', '--mem', '6G']
    again = run(*arguments(finished, finished.out, '--quiet', *resources))
    assert (again.code, again.stdout, again.stderr) == (0, '', ''), 'quiet is quiet'
    assert contents(finished.out) == results
    assert changed(nodes, computed_nodes(finished.work)) == set()

    other = tmp_path / 'out'
    assert run(*arguments(finished, other, '--threshold', '0.9')).code == 0
    assert changed(nodes, computed_nodes(finished.work)) == AFTER_THRESHOLD
    differing = changed(results, contents(other))
    assert 'sub-demo/ses-1/anat/sub-demo_ses-1_desc-hyperintensity_lesions.tsv' in differing
    assert not [name for name in differing if 'preproc' in name or 'xfm' in name]

    assert run(*arguments(finished, finished.out)).code == 0
    assert contents(finished.out) == results, 'computing again gives the same bytes'


def test_reports_only(finished, copy, run):
    page = copy / 'sub-demo.html'
    before, text = states(copy), page.read_text()
    page.unlink()
    done = run(*arguments(finished, copy, '--reports-only'))
    assert done.code == 0
    assert str(page) in done.stdout
    assert changed(before, states(copy)) == {'sub-demo.html'}
    assert body(page.read_text()) == body(text)


def body(page: str) -> str:
    """Return what a page says before it comes to its run."""
    start, end = page.split('<p>Run <code>')
    assert len(end) < len(start)
    return start


def test_boilerplate_only(finished, copy, run):
    before = states(copy)
    done = run(*arguments(finished, copy, '--boilerplate-only', '--ignore', 'bias-correction'))
    assert done.code == 0
    assert changed(before, states(copy)) == {'logs/CITATION.md'}
    assert 'N4' not in (copy / 'logs/CITATION.md').read_text()


def test_dry_run(finished, copy, run):
    before, work = states(copy), states(finished.work)
    done = run(*arguments(finished, copy, '--dry-run'))
    assert done.code == 0
    assert states(copy) == before
    assert changed(work, states(finished.work)) == set()
    listed = re.findall(r'-> (\S+)', done.stdout)
    assert [name for name in listed if not (copy / name).is_file()] == []


def test_group_needs_neither_the_raw_data_nor_the_work_folder(copy, run, tmp_path):
    (copy / 'group_volumes.tsv').unlink()
    before = files_below(tmp_path)
    done = run(tmp_path / 'nowhere', copy, 'group', '-w', tmp_path / 'nothing')
    assert done.code == 0
    assert '1 exams of 1 participants' in done.stdout
    assert files_below(tmp_path) == sorted([*before, 'out/group_volumes.tsv'])


def test_a_damaged_table_stops_the_group_level(copy, run, tmp_path):
    next(copy.rglob('*_metrics.tsv')).write_bytes(b'\xff\x00"')
    done = run(tmp_path / 'nowhere', copy, 'group')
    assert done.code == 65
    assert '_metrics.tsv' in done.stderr


def test_a_damaged_record_stops_the_pages(finished, copy, run):
    next(copy.rglob('*_exam.json')).write_text('{')
    done = run(*arguments(finished, copy, '--reports-only'))
    assert done.code == 65
    assert '_exam.json' in done.stderr


def test_what_is_there_already_is_not_touched(finished, copy, run):
    """Not even its time: other tools see that nothing changed."""
    stamp = 10**18
    results = [copy / name for name in contents(copy) if name.startswith('sub-')]
    for path in results:
        os.utime(path, ns=(stamp, stamp))
    assert run(*arguments(finished, copy)).code == 0
    assert {path.stat().st_mtime_ns for path in results} == {stamp}


def test_redo_computes_all_of_an_exam_again_and_once(finished, copy, run, tmp_path):
    marks = tmp_path / 'marks.tsv'
    row = 'sub-demo\tses-1\tredo\t2026-01-01T10:00:00Z\tmoved'
    marks.write_text(f'participant_id\tsession_id\tmark\tmarked\tnote\n{row}\n')
    results, nodes = contents(copy), computed_nodes(finished.work)
    done = run(*arguments(finished, copy, '--review', marks))
    assert done.code == 0
    assert 'computed anew, as the review asks for' in done.stdout
    after = computed_nodes(finished.work)
    assert changed(nodes, after) == set(nodes), 'all nodes were computed again'
    stored = contents(copy)
    kept = stored.pop('group_review.tsv').decode()
    assert kept == marks.read_text().replace('redo', 'redone')
    stored.pop('group_review.json')
    for found in (stored, results):
        found.pop('dataset_description.json')  # its links lead from another folder
    assert stored == results, 'to the same bytes'

    assert run(*arguments(finished, copy, '--review', marks)).code == 0
    assert computed_nodes(finished.work) == after, 'once is enough'
