"""The shipped reduced relatives of the paper's four networks: weights, cards and figures."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from mslesseg_app.core.errors import ModelError
from mslesseg_app.models.check import check_model
from mslesseg_app.models.networks import NETWORKS as ALL
from mslesseg_app.models.registry import get_entry, verified_weights

PAGES = Path(__file__).parents[2] / 'docs' / 'models'
NETWORKS = ('mssegdiff', 'swinunetr', 'transbts', 'unetr')


def rows() -> list[dict[str, str]]:
    """Return the table of the exams of fold 1."""
    with (PAGES / 'reduced.tsv').open() as file:
        return list(csv.DictReader(file, delimiter='\t'))


def mean_dsc(model: str) -> float:
    return float(np.mean([float(row['DSC']) for row in rows() if row['model'] == model]))


@pytest.mark.parametrize('network', NETWORKS)
def test_weights_are_small_and_fit_the_network_of_the_full_one(network: str) -> None:
    entry, full = get_entry(f'{network}small'), get_entry(network)
    check_model(entry, thorough=True)
    assert entry.weights_path is not None
    assert entry.weights_path.stat().st_size <= 12e6
    assert entry.architecture == full.architecture == entry.card['reduced_from']
    assert set(entry.options) == set(full.options)
    assert entry.sampler['exact'] == full.sampler['exact']


@pytest.mark.parametrize('network', NETWORKS)
def test_the_card_states_who_was_left_out_and_the_mean_of_the_table(network: str) -> None:
    entry = get_entry(f'{network}small')
    fold = json.loads((PAGES / 'unet-folds.json').read_text())['folds'][0]
    people = {name.split('_')[0].removeprefix('sub-') for name in entry.card['training_data']}
    left = {name.removeprefix('sub-') for name in entry.card['not_trained_on']}
    assert left == set(fold)
    assert not left & people
    (figure,) = entry.card['figures']
    assert figure['exams'] == len(fold)
    assert figure['DSC'] == pytest.approx(mean_dsc(entry.name), abs=5e-4)
    assert {float(r['threshold']) for r in rows() if r['model'] == entry.name} == {entry.threshold}
    assert 'says nothing about the published network' in ' '.join(
        entry.card['description'].split()
    )


@pytest.mark.parametrize('network', NETWORKS)
def test_an_error_about_missing_weights_names_it_and_the_training(network: str) -> None:
    with pytest.raises(ModelError) as caught:
        verified_weights(get_entry(network))
    assert 'no trained weights' in caught.value.message
    assert f'mslesseg train BIDS_DIR RUN_DIR --network {network}' in caught.value.hint
    assert f'its reduced version: --model {network}small' in caught.value.hint


def test_there_is_one_for_each_network_of_the_paper() -> None:
    assert set(NETWORKS) == set(ALL) - {'unet'}
