"""Settings are written as TOML, and tell what is derived from them."""

from __future__ import annotations

import dataclasses
import tomllib
from pathlib import Path

import pytest

from mslesseg_app.core.settings import Settings

BASE = Settings(bids_dir=Path('/data'), out_dir=Path('/out'), work_dir=Path('/work'))
FULL = dataclasses.replace(
    BASE,
    participants=('01', '02'),
    sessions=('1',),
    bids_filters={'flair': {'acquisition': None, 'run': 2, 'ceagent': '*'}, 't1w': {}},
    derivatives={'manual': Path('/masks')},
    bids_database_dir=Path('/database'),
    skip_bids_validation=True,
    model=('mine', 'yours'),
    ensemble='staple',
    preset='exact',
    uncertainty='entropy',
    model_dir=Path('/models'),
    engine='fsl',
    strategy='independent',
    subject_anatomical_reference='unbiased',
    on_failed_alignment='flag',
    require=('FLAIR', 'T1w'),
    ignore=('t2w',),
    threshold=0.25,
    min_lesion_volume=0.0,
    connectivity=26,
    device='cuda:1',
    rules='isbi2015',
    change_threshold=7.0,
    change_extent=5.0,
    min_change_volume=20.0,
    longitudinal='independent',
    review=Path('/review.tsv'),
    random_seed=7,
    nprocs=8,
    omp_nthreads=4,
    mem_gb=1.5,
    discard_intermediates=True,
    stop_on_first_crash=True,
    resource_monitor=True,
    write_graph=True,
    write_provenance=True,
    offline=True,
    run_uuid='abc',
    command="mslesseg 'a b' “out”",
)


def test_one_model_may_be_given_by_its_name():
    assert dataclasses.replace(BASE, model='mine').model == ('mine',)


def test_the_full_example_changes_every_setting():
    same = [
        item.name
        for item in dataclasses.fields(Settings)
        if getattr(BASE, item.name) == getattr(FULL, item.name)
    ]
    assert same == ['bids_dir', 'out_dir', 'work_dir']


def test_toml_holds_plain_values(tmp_path):
    FULL.to_toml(tmp_path / 's.toml')
    content = tomllib.loads((tmp_path / 's.toml').read_text())
    assert content['bids_dir'] == '/data'
    assert content['participants'] == ['01', '02']
    assert content['threshold'] == 0.25
    assert content['bids_filters'] == {
        'flair': {'acquisition': [], 'run': 2, 'ceagent': '*'}, 't1w': {},
    }  # fmt: skip
    assert content.keys() == {item.name for item in dataclasses.fields(Settings)}


def test_settings_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        BASE.nprocs = 2


@pytest.mark.parametrize(
    ('changes', 'corrected'),
    [
        ({}, True),
        ({'ignore': ('t1w',)}, True),
        ({'ignore': ('bias-correction',)}, False),
        ({'strategy': 'independent'}, False),
    ],
)
def test_bias_correction(changes, corrected):
    assert dataclasses.replace(BASE, **changes).bias_correction is corrected
