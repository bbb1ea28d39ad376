"""What tasks ask for: never less than was measured, and readable by SLURM."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from skeleton import write_dataset

from mslesseg_app.cli import parsing
from mslesseg_app.core.errors import InvalidBIDSError, NoInputError, NothingSelectedError
from mslesseg_app.deploy.hpc.participants import Participant, find_participants
from mslesseg_app.deploy.hpc.resources import (
    COSTS,
    EXAM_MEMORY,
    EXAM_SECONDS,
    MEMORY_MARGIN,
    TIME_MARGIN,
    JobResources,
    estimate,
)
from mslesseg_app.models.registry import list_entries

NAMES = st.lists(st.sampled_from([*COSTS, 'unheard of']), min_size=1, max_size=4)


@given(
    NAMES, st.sampled_from(['fast', 'exact']), st.integers(1, 12), st.integers(1, 64),
)  # fmt: skip
def test_margins_hold_and_more_exams_need_more(
    names: list[str], preset: str, exams: int, cpus: int
) -> None:
    found = estimate(names, preset=preset, exams=exams, cpus=cpus)
    more = estimate(names, preset=preset, exams=exams + 1, cpus=cpus)
    assert found.minutes * 60 >= TIME_MARGIN * exams * EXAM_SECONDS
    assert found.minutes % 30 == 0
    assert more.minutes >= found.minutes
    assert found.memory_mb / 1024 >= MEMORY_MARGIN * EXAM_MEMORY
    assert estimate([*names, 'mssegdiff'], preset=preset, exams=exams, cpus=cpus).minutes >= (
        found.minutes
    )
    assert estimate(names, preset=preset, exams=exams, cpus=1).minutes >= found.minutes


def test_what_is_assumed_is_said() -> None:
    assert not any('assumed' in line for line in estimate(['hyperintensity', 'unetr']).why)
    assert any('swinunetr' in line and 'assumed' in line for line in estimate(['swinunetr']).why)
    assert any('No GPU was measured' in line for line in estimate(['unetr'], gpu='gpu:1').why)


def test_every_built_in_architecture_has_figures() -> None:
    assert {entry.architecture for entry in list_entries()} <= set(COSTS)


def test_measured_figures_are_those_of_the_page(project_root: Path) -> None:
    page = (project_root / 'docs' / 'performance.md').read_text(encoding='utf-8')
    sums = [int(n) for n in re.findall(r'^\| nodes of sub_LJ\w+, summed \| (\d+) \|', page, re.M)]
    assert max(sums) <= EXAM_SECONDS
    memory = re.search(r'Most memory of all processes together: ([\d.]+) GiB', page)
    assert memory is not None
    assert float(memory[1]) <= EXAM_MEMORY
    for name in ('unetr', 'swinunetr'):
        row = re.search(rf'^\| `{name}` \| ([\d.]+) \| [\d.]+ \| 0\.000 \|', page, re.M)
        assert row is not None
        assert float(row[1]) <= COSTS[name].memory + 0.1


@given(st.integers(1, 20 * 1440))
def test_times_can_be_read_again(minutes: int) -> None:
    assert parsing.minutes(JobResources(1, 1, minutes).time) == minutes


@pytest.mark.parametrize(
    ('text', 'minutes'), [('90', 90), ('1:30:00', 90), ('2-00', 2880), ('1-02:30', 1590)]
)
def test_times_as_slurm_writes_them(text: str, minutes: int) -> None:
    assert parsing.minutes(text) == minutes


# -------------------------------------------------------------------------- participants


def test_participants_and_their_exams(tmp_path: Path) -> None:
    write_dataset(
        tmp_path,
        ['sub-02_FLAIR', 'sub-10_ses-1_FLAIR', 'sub-10_ses-2_FLAIR', 'sub-10_ses-3_T1w',
         'sub-1_T1w'],
    )  # fmt: skip
    everybody = [Participant('02', 1), Participant('1', 0), Participant('10', 2)]
    assert find_participants(tmp_path) == everybody
    assert find_participants(tmp_path, ['10'], ['2']) == [Participant('10', 1)]
    with pytest.raises(NothingSelectedError, match='11'):
        find_participants(tmp_path, ['10', '11'])


def test_what_is_no_dataset(tmp_path: Path) -> None:
    with pytest.raises(NoInputError):
        find_participants(tmp_path / 'nowhere')
    with pytest.raises(InvalidBIDSError):
        find_participants(tmp_path)
    write_dataset(tmp_path, [])
    with pytest.raises(NoInputError, match='no sub-'):
        find_participants(tmp_path)
    (tmp_path / 'sub-a b').mkdir()
    with pytest.raises(InvalidBIDSError, match='no BIDS label'):
        find_participants(tmp_path)
