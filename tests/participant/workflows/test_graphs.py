"""Real workflows of every layout of inputs, built but not run, and exactly what they write.

The lists of files in ``expected/`` were written by hand. What a workflow writes is found by
running its sinks, and only these, on dummy files.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import networkx as nx
import pytest
from nipype.interfaces.base import isdefined
from skeleton import TEMPLATE, THICK, THIN, files_below, image_bytes, write_dataset

from mslesseg_app.bids.names import expected_outputs
from mslesseg_app.participant.interfaces.sink import DerivativesDataSink

FLAIR, T1W, T2W = 'sub-01_FLAIR', 'sub-01_T1w', 'sub-01_T2w'
ALL = [FLAIR, T1W, T2W]
SESSION = [f'sub-01_ses-1_{name}' for name in ('FLAIR', 'T1w', 'T2w')]
SEVERAL = [*SESSION, 'sub-01_ses-2_FLAIR', 'sub-02_FLAIR', 'sub-02_T2w', 'sub-03_T1w']
RUNS = {
    'sub-01_ses-1_acq-2D_FLAIR': THICK,
    'sub-01_ses-1_acq-3D_run-1_FLAIR': THIN,
    'sub-01_ses-1_acq-3D_run-2_FLAIR': THIN,
    'sub-01_ses-1_acq-3D_ce-gd_run-3_FLAIR': THIN,
    'sub-01_ses-1_ce-gd_T1w': THIN,
    'sub-01_ses-1_T1w': THIN,
    'sub-01_ses-1_run-1_T2w': THICK,
    'sub-01_ses-1_run-2_T2w': THICK,
}
REGISTERED = dict.fromkeys(ALL, TEMPLATE)

LAYOUTS = [
    pytest.param([FLAIR], 'flair', {}, id='flair-only'),
    pytest.param([FLAIR, T1W], 'flair_t1w', {}, id='flair-t1w'),
    pytest.param([FLAIR, T2W], 'flair_t2w', {}, id='flair-t2w'),
    pytest.param(ALL, 'all', {}, id='all'),
    pytest.param(SESSION, 'session', {}, id='session'),
    pytest.param(SEVERAL, 'several', {}, id='several-exams'),
    pytest.param(RUNS, 'session', {}, id='runs-and-acquisitions'),
    pytest.param(REGISTERED, 'all', {}, id='registered'),
    pytest.param({FLAIR: TEMPLATE}, 'flair', {}, id='registered-flair-only'),
    pytest.param(ALL, 'all', {'strategy': 'independent'}, id='independent'),
    pytest.param(ALL, 'all', {'ignore': ('bias-correction',)}, id='no-bias-correction'),
    pytest.param(ALL, 'flair_t2w', {'ignore': ('t1w',)}, id='t1w-ignored'),
    pytest.param(ALL, 'flair', {'ignore': ('t1w', 't2w')}, id='only-flair-wanted'),
    pytest.param(SEVERAL, 'session', {'require': ('FLAIR', 'T1w')}, id='t1w-required'),
    pytest.param(SEVERAL, 'session', {'sessions': ('1',), 'participants': ('01',)}, id='filtered'),
    pytest.param(ALL, 'all', {'engine': 'fsl'}, id='fsl'),
    pytest.param([FLAIR], 'flair', {'engine': 'fsl'}, id='fsl-flair-only'),
    pytest.param([FLAIR, T2W], 'flair_t2w', {'engine': 'fsl'}, id='fsl-flair-t2w'),
    pytest.param(SEVERAL, 'several', {'engine': 'fsl'}, id='fsl-several-exams'),
    pytest.param(ALL, 'all', {'engine': 'fsl', 'strategy': 'independent'}, id='fsl-independent'),
    pytest.param(
        [FLAIR], 'flair', {'engine': 'fsl', 'strategy': 'independent'}, id='fsl-independent-flair'
    ),
    pytest.param(REGISTERED, 'all', {'engine': 'fsl'}, id='fsl-registered'),
    pytest.param(
        ALL, 'all', {'engine': 'fsl', 'ignore': ('bias-correction',)}, id='fsl-no-bias-correction'
    ),
]


def expected(name: str) -> list[str]:
    """Read a list of files."""
    return (Path(__file__).parent / 'expected' / f'{name}.txt').read_text().split()


def run_sinks(built, folder: Path) -> list[str]:
    """Let all sinks write a dummy and return what is there then."""
    folder.mkdir()
    dummy = folder / 'dummy.nii.gz'
    dummy.write_bytes(image_bytes(THIN))
    for node in built.graph.nodes():
        sink = node.interface
        if not isinstance(sink, DerivativesDataSink):
            continue
        source = dummy
        if isdefined(sink.inputs.extension) and sink.inputs.extension:
            source = Path(shutil.copy(dummy, folder / f'dummy{sink.inputs.extension}'))
        sink.inputs.trait_set(in_file=[str(source)], meta_dict={'x': 1})
        if not any('meta_dict' in str(c) for *_, c in built.graph.in_edges(node, data='connect')):
            sink.inputs.meta_dict = {}
        sink.run(cwd=str(folder))
    return files_below(built.settings.out_dir)


@pytest.mark.usefixtures('fsl')
@pytest.mark.parametrize(('names', 'listed', 'options'), LAYOUTS)
class TestLayouts:
    def test_outputs(self, build, tmp_path, names, listed, options):
        built = build(names, **options)
        planned = [
            path.as_posix()
            for exam in built.exams
            for path in expected_outputs(exam, built.entry.name)
        ]
        assert sorted(planned) == expected(listed)
        assert run_sinks(built, tmp_path / 'dummies') == expected(listed)

    def test_every_part_is_connected(self, build, names, listed, options):
        built = build(names, **options)
        parts = list(nx.weakly_connected_components(built.graph))
        assert len(parts) == len(built.exams)
        assert nx.is_directed_acyclic_graph(built.graph)
        for node in built.graph.nodes():
            assert missing_inputs(built.graph, node) == [], node.fullname

    def test_every_connection_begins_at_an_output(self, build, names, listed, options):
        """Nipype does not look where a node of its own, like Merge, is the source."""
        built = build(names, **options)
        for source, target, sent in built.graph.edges(data='connect'):
            outputs = source.outputs.copyable_trait_names()
            for output, _ in sent:
                name = output[0] if isinstance(output, tuple) else output
                assert name in outputs, f'{source.fullname}.{name} to {target.fullname}'

    def test_nothing_is_computed_in_vain(self, build, names, listed, options):
        """Every node leads to a sink."""
        built = build(names, **options)
        for node in built.graph.nodes():
            if built.graph.out_degree(node) == 0:
                assert isinstance(node.interface, DerivativesDataSink), node.fullname

    def test_nothing_is_written_before_everything_is_done(self, build, names, listed, options):
        """An exam that fails must leave what an earlier run wrote as it is."""
        built = build(names, **options)
        sinks = {n for n in built.graph if isinstance(n.interface, DerivativesDataSink)}
        for sink in sinks:
            part = next(p for p in nx.weakly_connected_components(built.graph) if sink in p)
            assert part - sinks <= nx.ancestors(built.graph, sink), sink.fullname


def missing_inputs(graph, node) -> list[str]:
    """Return the mandatory inputs of a node that are neither set nor connected."""
    connected = {
        target for *_, pairs in graph.in_edges(node, data='connect') for _, target in pairs
    }
    inputs = node.interface.inputs
    return [
        name
        for name in inputs.traits(mandatory=True)
        if name not in connected and not isdefined(getattr(inputs, name))
    ]


def test_metadata_reach_the_sidecars_whole(build, tmp_path):
    """niworkflows must not take a key, such as the column ``model``, for part of a name."""
    from mslesseg_app.bids.sidecars import Sidecars

    built = build(ALL)
    run_sinks(built, tmp_path / 'dummies')
    texts = Sidecars(built.exams[0], built.settings, built.entry, built.engine)
    anat = built.settings.out_dir / 'sub-01' / 'anat'
    stem = 'sub-01_desc-hyperintensity_'
    metrics = {**texts.metrics(), 'x': 1}  # the result of the self-check is added
    for kind, content in (('lesions', texts.lesion_table()), ('metrics', metrics)):
        assert json.loads((anat / f'{stem}{kind}.json').read_text()) == content
    mask = json.loads(
        (anat / 'sub-01_space-orig_label-lesion_desc-hyperintensity_mask.json').read_text()
    )
    assert mask == {**texts.lesion('lesion', 'native'), 'x': 1}


# ------------------------------------------------------------------ what is in the graph


def corrected(built):
    """Return the nodes that remove a bias field."""
    return sorted(
        name.rsplit('.', 1)[1]
        for name, node in built.nodes.items()
        if getattr(node.interface.inputs, 'correct_bias', False)
    )


def test_bias_correction_can_be_left_out(build):
    assert corrected(build(ALL)) == ['conform_flair', 'conform_t1w', 'conform_t2w']
    assert corrected(build(ALL, ignore=('bias-correction',))) == []


def test_the_papers_strategy_has_no_bias_correction(build):
    built = build(ALL, strategy='independent')
    assert corrected(built) == []
    assert built.nodes['sub_01_wf.align_wf.align'].interface.inputs.strategy == 'independent'


@pytest.mark.usefixtures('fsl')
@pytest.mark.parametrize('engine', ['builtin', 'fsl'])
def test_registered_images_are_neither_corrected_nor_aligned(build, engine):
    built = build(REGISTERED, engine=engine)
    assert built.exams[0].registered
    assert corrected(built) == built.names('flirt') == built.names('bet') == []
    assert built.nodes['sub_01_wf.align_wf.align'].interface.inputs.registered is True
    assert 'not registered again' in built.workflow.visit_desc()


def test_the_chosen_images_are_read(build):
    built = build(RUNS)
    read = {
        name.rsplit('.', 1)[1]: Path(node.interface.inputs.in_file).name
        for name, node in built.nodes.items()
        if '.conform_' in name
    }
    assert read == {
        'conform_flair': 'sub-01_ses-1_acq-3D_run-2_FLAIR.nii.gz',
        'conform_t1w': 'sub-01_ses-1_T1w.nii.gz',
        'conform_t2w': 'sub-01_ses-1_run-2_T2w.nii.gz',
    }


def test_reference_mask_goes_to_the_measures_and_changes_no_name(build, tmp_path):
    masks = write_dataset(tmp_path / 'masks', ['sub-01_label-lesion_mask'], kind='derivative')
    built = build(ALL, derivatives={'manual': masks})
    measure = built.nodes['sub_01_wf.lesion_wf.measure'].interface
    assert measure.inputs.reference == str(masks / 'sub-01/anat/sub-01_label-lesion_mask.nii.gz')
    assert run_sinks(built, tmp_path / 'dummies') == expected('all')
    without = build(ALL)
    assert not isdefined(without.nodes['sub_01_wf.lesion_wf.measure'].interface.inputs.reference)


def test_a_model_of_the_user_names_its_files(build, tmp_path):
    from mslesseg_app.models.registry import get_entry

    shipped = get_entry('hyperintensity')
    folder = tmp_path / 'models'
    folder.mkdir()
    (folder / 'mine.toml').write_text(
        f"""name = 'mine'
version = '1'
architecture = 'hyperintensity'
channels = ['FLAIR', 'T1w']
required = ['FLAIR']
missing = 'ignore'
normalisation = '{shipped.normalisation}'
threshold = 0.25
licence = 'CC0-1.0'
"""
    )
    built = build([FLAIR, T1W], model='mine', model_dir=folder)
    assert run_sinks(built, tmp_path / 'dummies') == expected('own_model')
    assert built.nodes['sub_01_wf.lesion_wf.find'].interface.inputs.threshold == 0.25


def test_threshold_of_the_user_before_that_of_the_model(build):
    built = build(ALL, threshold=0.9, min_lesion_volume=5.0, connectivity=26)
    inputs = built.nodes['sub_01_wf.lesion_wf.find'].interface.inputs
    assert (inputs.threshold, inputs.min_volume, inputs.connectivity) == (0.9, 5.0, 26)


# --------------------------------------------------------------------------------- FSL


@pytest.mark.usefixtures('fsl')
def test_fsl_independent_is_the_papers_procedure(build, fsl):
    """FLIRT with 12 DOF and BET, both with their defaults, each image on its own."""
    built = build(ALL, engine='fsl', strategy='independent')
    head = f'{fsl}/data/standard/MNI152_T1_1mm.nii.gz'
    for item in ('flair', 't1w', 't2w'):
        flirt = built.nodes[f'sub_01_wf.align_wf.flirt_{item}'].interface
        assert flirt_options(flirt) == {'reference': head, 'dof': 12}
        bet = built.nodes[f'sub_01_wf.align_wf.bet_{item}'].interface
        assert changed(bet) == {'mask': True}
        assert ('out_file', 'in_file') in edges(built, f'flirt_{item}', f'bet_{item}')
    for number, item in enumerate(('flair', 't1w', 't2w'), 1):
        assert edges(built, f'bet_{item}', 'bet_masks') == [('mask_file', f'in{number}')]
    assert edges(built, 'bet_masks', 'brain_union') == [('out', 'in_files')]
    assert edges(built, 'brain_union', 'brain') == [('out_file', 'in_file')]
    assert built.names('resample') == []


@pytest.mark.usefixtures('fsl')
@pytest.mark.parametrize('strategy', ['anchored', 'independent'])
def test_the_commands_of_flirt_and_bet_are_told(build, strategy):
    built = build(ALL, engine='fsl', strategy=strategy)
    gather = built.nodes['sub_01_wf.align_wf.align_commands']
    told = {node.name for node in built.graph.predecessors(gather)}
    stripped = {'bet_flair', 'bet_t1w', 'bet_t2w'} if strategy == 'independent' else {'bet_flair'}
    assert told == {'flirt_flair', 'flirt_t1w', 'flirt_t2w'} | stripped


@pytest.mark.usefixtures('fsl')
def test_fsl_anchored(build, fsl):
    """FLIRT begins at our start, searches nothing, and weighs the brain only."""
    built = build(ALL, engine='fsl')
    brain = f'{fsl}/data/standard/MNI152_T1_1mm_brain.nii.gz'
    for item in ('flair', 't1w', 't2w'):
        options = flirt_options(built.nodes[f'sub_01_wf.align_wf.flirt_{item}'].interface)
        schedule = Path(options.pop('schedule')).read_text()
        assert 'search' not in [line for line in schedule.splitlines() if line[:1] != '#']
        assert options.pop('reference', '') == (brain if item == 'flair' else '')
        assert options == {
            'dof': 12 if item == 'flair' else 6,
            'cost': 'normmi',
            'no_search': True,
        }
        weight = 'weight' if item == 'flair' else 'in_weight'
        assert (weight, 'ref_weight') in edges(built, 'start_flair', f'flirt_{item}')
        assert ('out_file', 'in_matrix_file') in edges(built, f'start_{item}', f'flirt_{item}')
    for item in ('t1w', 't2w'):
        assert ('out_file', 'anchor_start') in edges(built, 'start_flair', f'start_{item}')
    assert built.names('bet') == ['bet_flair']
    assert built.names('resample') == ['resample_flair', 'resample_t1w', 'resample_t2w']


@pytest.mark.usefixtures('fsl')
def test_the_start_does_not_touch_the_papers_procedure(build):
    assert build(ALL, engine='fsl', strategy='independent').names('start') == []


@pytest.mark.usefixtures('fsl')
@pytest.mark.parametrize('strategy', ['anchored', 'independent'])
def test_fsl_writes_compressed_files_whatever_the_users_shell_says(build, strategy, monkeypatch):
    monkeypatch.setenv('FSLOUTPUTTYPE', 'NIFTI_PAIR')
    built = build(ALL, engine='fsl', strategy=strategy)
    programs = [
        node
        for name, node in built.nodes.items()
        if ('.flirt_' in name or '.bet_' in name) and not name.endswith('.bet_masks')
    ]
    assert len(programs) == (6 if strategy == 'independent' else 4)
    assert {node.interface.inputs.output_type for node in programs} == {'NIFTI_GZ'}


def changed(interface) -> dict:
    """Return the inputs of a command that differ from its defaults."""
    fresh = type(interface)().inputs.get_traitsfree()
    free = interface.inputs.get_traitsfree()
    ignored = {'output_type', 'environ', 'args'}
    return {k: v for k, v in free.items() if k not in ignored and fresh.get(k) != v}


flirt_options = changed


def edges(built, source: str, target: str) -> list[tuple[str, str]]:
    """Return the connections between two nodes of the alignment."""
    nodes = [built.nodes[f'sub_01_wf.align_wf.{name}'] for name in (source, target)]
    return list(built.graph.get_edge_data(*nodes)['connect'])


# ------------------------------------------------------- the within-subject template

TWO = [*SESSION, 'sub-01_ses-2_FLAIR', 'sub-01_ses-2_T1w', 'sub-02_ses-1_FLAIR']
UNBIASED = {'subject_anatomical_reference': 'unbiased'}


def test_sessions_of_a_subject_share_a_template(build):
    built = build(TWO, **UNBIASED)
    shared = [name for name in built.nodes if name.startswith('sub_01_shared_wf.')]
    assert sorted(name.split('.')[1] for name in shared) == [
        'align_sessions', 'anchor_1', 'anchor_2', 'gather', 'place_1', 'place_2',
    ]  # fmt: skip
    joint = built.nodes['sub_01_shared_wf.align_sessions']
    assert joint.interface.inputs.sessions == ['1', '2']
    for session in '12':
        for path in ('align_wf.align', 'prepare_wf.conform_flair'):
            node = built.nodes[f'sub_01_ses_{session}_wf.{path}']
            before = {one.fullname.split('.', 1)[1] for one in nx.ancestors(built.graph, node)}
            assert f'sub_01_shared_wf.anchor_{session}' in before
    assert not isdefined(built.nodes['sub_02_ses_1_wf.align_wf.align'].interface.inputs.place)
    assert len(list(nx.weakly_connected_components(built.graph))) == 2
    for node in built.graph.nodes():
        assert missing_inputs(built.graph, node) == [], node.fullname


def test_a_shared_template_changes_no_name(build, tmp_path):
    built = build(TWO, **UNBIASED)
    planned = [path for exam in built.exams for path in expected_outputs(exam, built.entry.name)]
    assert run_sinks(built, tmp_path / 'dummies') == sorted(map(Path.as_posix, planned))


def test_flairs_are_prepared_once(build):
    """By the workflow that the sessions share."""
    built = build(TWO, **UNBIASED)
    assert corrected(built) == [
        'anchor_1',
        'anchor_2',
        'conform_flair',
        'conform_t1w',
        'conform_t1w',
        'conform_t2w',
    ]
    assert built.names('anchor') == ['anchor_1', 'anchor_2']
    plain = build(TWO, ignore=('bias-correction',), **UNBIASED)
    assert plain.nodes['sub_01_shared_wf.anchor_1'].interface.inputs.correct_bias is False


def test_only_selected_sessions_share(build):
    built = build(TWO, sessions=('1',), **UNBIASED)
    assert [name for name in built.nodes if 'shared' in name] == []


def test_registered_sessions_share_nothing(build):
    names = dict.fromkeys(['sub-01_ses-1_FLAIR', 'sub-01_ses-2_FLAIR'], TEMPLATE)
    assert [name for name in build(names, **UNBIASED).nodes if 'shared' in name] == []


def test_crash_files_of_what_is_shared_go_to_the_subjects_log(build):
    built = build(TWO, run_uuid='abc', **UNBIASED)
    node = built.nodes['sub_01_shared_wf.align_sessions']
    crashes = Path(node.config['execution']['crashdump_dir'])
    assert crashes == built.settings.out_dir / 'sub-01' / 'log' / 'abc'


def test_a_failure_of_what_is_shared_is_one_of_every_session(build):
    from contextlib import ExitStack

    from mslesseg_app.core.errors import BusyError
    from mslesseg_app.participant.batch import Batch
    from mslesseg_app.participant.interfaces.base import _marked
    from mslesseg_app.participant.subjects import SubjectRun

    built = build(TWO, run_uuid='abc', **UNBIASED)
    text = '\n'.join(_marked(BusyError('The machine ran out of memory.')).__notes__)
    built.settings.work_dir.mkdir()
    batch = Batch(built.exams, built.settings, 'builtin', built.entry, quiet=True)
    with ExitStack() as locks:
        own = [exam for exam in built.exams if exam.subject == '01']
        (job,) = SubjectRun(batch, '01', own, locks).jobs()
        step = next(one for one in job.steps if one.name == 'align_sessions')
        job.listen(step, 'start', '')
        job.fail(job.steps.index(step))
        job.listen(step, 'exception', text)
    outcome = batch.outcome
    assert sorted(outcome.problems) == ['sub-01_ses-1', 'sub-01_ses-2']
    assert set(outcome.steps.values()) == {'registration'}
    assert {error.exit_code for error in outcome.problems.values()} == {75}
    assert not any(job.steps[k].name.startswith('ds_') for k in job.ready)
    assert len(list((built.settings.out_dir / 'sub-01/log/abc').glob('crash-*'))) == 1
    assert batch.progress.unfinished() == ['sub-01_ses-1', 'sub-01_ses-2', 'sub-02_ses-1']


# ----------------------------------------------------------- caching and resources


def hashes(built) -> dict[str, str]:
    """Return the hash of every node's own inputs."""
    return {
        name: node.interface.inputs.get_hashval(hash_method='content')[1]
        for name, node in built.nodes.items()
    }


@pytest.mark.parametrize(
    'options', [{'nprocs': 7}, {'omp_nthreads': 5}, {'mem_gb': 3.0}, {'device': 'cuda:0'}]
)
def test_resources_do_not_count_for_the_cache(build, options):
    assert hashes(build(ALL)) == hashes(build(ALL, **options))


def test_a_new_threshold_changes_only_what_follows_the_probability(build):
    first, second = hashes(build(ALL)), hashes(build(ALL, threshold=0.7))
    different = {name for name in first if first[name] != second[name]}
    allowed = ('.find', '.describe', '.ds_lesion', '.ds_instances', '.ds_metrics')
    assert 'sub_01_wf.lesion_wf.find' in different
    assert [name for name in different if not any(word in name for word in allowed)] == []


def test_threads_are_declared_to_the_scheduler(build):
    built = build(ALL, nprocs=4, omp_nthreads=3)
    many = {name.rsplit('.', 1)[1] for name, node in built.nodes.items() if node.n_procs == 3}
    assert many == {'segment'}


def test_crash_files_go_to_the_exams_log(build):
    built = build(SEVERAL, run_uuid='abc')
    for name, node in built.nodes.items():
        folder = {'sub_01_ses_1_wf': 'sub-01/ses-1', 'sub_01_ses_2_wf': 'sub-01/ses-2'}.get(
            name.split('.')[0], 'sub-02'
        )
        crashes = Path(node.config['execution']['crashdump_dir'])
        assert crashes == built.settings.out_dir / folder / 'log' / 'abc'


def test_engines_share_inputs_and_outputs(build, fsl):
    """That is the protocol: the rest of the workflow does not know which one it has."""
    from mslesseg_app.participant.workflows.align import init_builtin_align_wf
    from mslesseg_app.participant.workflows.align_fsl import init_fsl_align_wf

    settings = build(ALL).settings
    for strategy in ('anchored', 'independent'):
        given = {
            'modalities': ('FLAIR', 'T1w', 'T2w'),
            'settings': dataclasses.replace(settings, strategy=strategy),
        }
        made = [init_builtin_align_wf(**given, registered=False), init_fsl_align_wf(**given)]
        for node in ('inputnode', 'outputnode'):
            first, second = (set(wf.get_node(node).inputs.copyable_trait_names()) for wf in made)
            assert first == second


# ----------------------------------------------------------------------- methods text


@pytest.mark.usefixtures('fsl')
@pytest.mark.parametrize(
    ('options', 'said', 'unsaid'),
    [
        ({}, ['N4', 'rigidly', 'one interpolation', '6-connected'], ['FLIRT', 'BET']),
        ({'ignore': ('bias-correction',)}, ['No bias-field correction'], ['N4']),
        ({'strategy': 'independent'}, ['12 degrees of freedom'], ['N4', 'rigidly']),
        ({'engine': 'fsl'}, ['FLIRT', 'BET', 'N4', '6 degrees of freedom'], ['fitted best']),
        (
            {'engine': 'fsl', 'strategy': 'independent'},
            ['FLIRT', 'BET', 'whole-head'],
            ['N4', 'fitted best', '6 degrees'],
        ),
        ({'threshold': 0.3, 'connectivity': 26}, ['0.3', '26-connected'], []),
        ({'subject_anatomical_reference': 'unbiased'}, ['fitted best'], ['half-way']),
    ],
)
def test_methods_text_says_what_is_done(build, options, said, unsaid):
    text = build(ALL, **options).workflow.visit_desc()
    assert [word for word in said if word not in text] == []
    assert [word for word in unsaid if word in text] == []


def test_methods_text_of_a_shared_template(build):
    text = build(TWO, **UNBIASED).workflow.visit_desc()
    assert 'half-way between them' in text
    assert 'through the within-subject template' in text
