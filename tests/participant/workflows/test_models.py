"""The part of the graph that runs models: several, their uncertainty, and a GPU's slot."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from nipype.interfaces.base import isdefined
from skeleton import THIN, image_bytes

from mslesseg_app.bids.exam import Exam
from mslesseg_app.bids.names import expected_outputs
from mslesseg_app.bids.sidecars import Sidecars
from mslesseg_app.core.settings import Settings
from mslesseg_app.models.prediction.ensemble import AnyModel, Ensemble
from mslesseg_app.models.registry import get_entry
from mslesseg_app.participant.workflows.exam import init_lesion_wf
from mslesseg_app.participant.workflows.outputs import init_outputs_wf

NETWORKS = tuple(get_entry(name) for name in ('unetr', 'swinunetr', 'mssegdiff'))


@pytest.fixture
def exam(tmp_path: Path) -> Exam:
    path = tmp_path / 'bids' / 'sub-01' / 'anat' / 'sub-01_FLAIR.nii.gz'
    path.parent.mkdir(parents=True)
    path.write_bytes(image_bytes(THIN))
    return Exam('01', None, {'FLAIR': path})


def settings(tmp_path: Path, **options: Any) -> Settings:
    folders = {name: tmp_path / name.removesuffix('_dir') for name in ('out_dir', 'work_dir')}
    return Settings(bids_dir=tmp_path / 'bids', **folders, omp_nthreads=4, **options)


def lesion_nodes(exam: Exam, chosen: Settings, model: AnyModel) -> dict[str, Any]:
    workflow = init_lesion_wf(exam=exam, settings=chosen, entry=model)
    return {name: workflow.get_node(name) for name in workflow.list_node_names()}


def test_each_model_of_an_ensemble_has_its_own_node(exam: Exam, tmp_path: Path) -> None:
    chosen = settings(tmp_path, uncertainty='variance', threshold=0.3, preset='exact')
    nodes = lesion_nodes(exam, chosen, Ensemble(NETWORKS, 'staple'))
    for model in NETWORKS:
        node = nodes[f'segment_{model.name}']
        assert node.inputs.model == model.name
        assert node.inputs.model_digest == model.digest
        assert node.inputs.preset == 'exact'
        assert node.inputs.uncertainty == 'none'
        assert f'restore_model_{model.name}' in nodes
    join = nodes['combine_models']
    assert (join.inputs.method, join.inputs.uncertainty) == ('staple', 'variance')
    assert join.inputs.thresholds == nodes['find'].inputs.model_thresholds == [0.3] * 3
    assert nodes['find'].inputs.threshold == 0.5
    assert 'segment' not in nodes


def test_one_model_has_one_node_as_ever(exam: Exam, tmp_path: Path) -> None:
    nodes = lesion_nodes(exam, settings(tmp_path), get_entry('hyperintensity'))
    assert 'segment' in nodes
    assert not {'combine_models', 'restore_uncertainty', 'model_natives'} & set(nodes)
    assert nodes['segment'].inputs.preset == ''
    doubtful = lesion_nodes(exam, settings(tmp_path, uncertainty='entropy'), NETWORKS[0])
    assert doubtful['segment'].inputs.uncertainty == 'entropy'
    assert 'restore_uncertainty' in doubtful


@pytest.mark.parametrize('device', ['cpu', 'cuda:0'])
def test_a_gpu_node_takes_one_slot_whatever_its_threads(
    exam: Exam, tmp_path: Path, device: str
) -> None:
    chosen = settings(tmp_path, device=device)
    on_gpu = device != 'cpu'
    nodes = lesion_nodes(exam, chosen, Ensemble(NETWORKS, 'mean'))
    for model in NETWORKS:
        node = nodes[f'segment_{model.name}']
        assert node.is_gpu_node() == on_gpu
        assert node.n_procs == (1 if on_gpu else 4)
    floor = lesion_nodes(exam, chosen, get_entry('hyperintensity'))['segment']
    assert not floor.is_gpu_node()


def test_device_and_threads_do_not_count_for_the_cache(exam: Exam, tmp_path: Path) -> None:
    hashes = set()
    for device, threads in (('cpu', 1), ('cuda:0', 4)):
        chosen = replace(settings(tmp_path, device=device), omp_nthreads=threads)
        node = lesion_nodes(exam, chosen, NETWORKS[0])['segment']
        hashes.add(node.inputs.get_hashval(hash_method='content')[1])
    assert len(hashes) == 1


def test_outputs_carry_the_name_of_the_method(exam: Exam, tmp_path: Path) -> None:
    chosen = settings(tmp_path, uncertainty='entropy')
    model = Ensemble(NETWORKS, 'staple')
    workflow = init_outputs_wf(exam=exam, settings=chosen, engine='builtin', entry=model)
    sinks = [workflow.get_node(n) for n in workflow.list_node_names() if n.startswith('ds_')]
    uncertainty = [
        n for n in sinks if isdefined(n.inputs.suffix) and n.inputs.suffix == 'uncertainty'
    ]
    assert {n.inputs.desc for n in uncertainty} == {'staple'}
    names = [path.name for path in expected_outputs(exam, model.name, True)]
    for space in ('orig', 'MNI152NLin6Asym_res-1'):
        for suffix in ('nii.gz', 'json'):
            assert f'sub-01_space-{space}_desc-staple_uncertainty.{suffix}' in names
    assert len(names) == len(expected_outputs(exam, model.name)) + 4


def test_sidecars_list_the_members(exam: Exam, tmp_path: Path) -> None:
    model = Ensemble(NETWORKS, 'majority')
    texts = Sidecars(exam, settings(tmp_path, uncertainty='entropy'), model, 'builtin')
    content = json.loads(json.dumps(texts.lesion('lesion', 'native')))
    members = content['Model']['Members']
    assert [m['Name'] for m in members] == ['unetr', 'swinunetr', 'mssegdiff']
    assert [m['SHA256'] for m in members] == [m.digest for m in NETWORKS]
    assert {m['Preset'] for m in members} == {'fast'}
    assert content['Threshold'] == 0.5
    assert texts.lesion('uncertainty', 'mni')['Units'] == 'bit'
    assert 'Threshold' not in texts.lesion('uncertainty', 'mni')
    assert 'Share of the models' in texts.lesion('prob', 'native')['Description']


def test_an_engine_on_the_grid_of_the_flair_is_given_native_images(
    exam: Exam, tmp_path: Path
) -> None:
    """Its map goes on as it is; in an ensemble, it counts on the template as any other."""
    chosen, engine = settings(tmp_path, device='cuda:0'), get_entry('mindglide')
    workflow = init_lesion_wf(exam=exam, settings=chosen, entry=engine)
    graph = workflow._graph
    segment, find = workflow.get_node('segment'), workflow.get_node('find')
    assert segment.is_gpu_node()
    assert segment.mem_gb == engine.options['memory_gb']
    assert ('native_file', 'prob_file') in graph.edges[segment, find]['connect']
    inputs = graph.edges[workflow.get_node('inputnode'), segment]['connect']
    assert {('flair_native', 'flair'), ('flair_xfm', 'flair_xfm')} <= set(inputs)
    assert 'restore_prob' not in workflow.list_node_names()
    both = Ensemble((NETWORKS[0], engine), 'mean')
    names = set(lesion_nodes(exam, chosen, both))
    assert {'restore_prob', 'restore_model_unetr', 'combine_models'} <= names
    assert 'restore_model_mindglide' not in names


def test_an_engine_on_the_template_grid_is_given_what_our_models_are(
    exam: Exam, tmp_path: Path
) -> None:
    nodes = lesion_nodes(exam, settings(tmp_path), get_entry('mslesiontool'))
    assert 'restore_prob' in nodes
    assert not isdefined(nodes['segment'].inputs.flair_xfm)
