"""Which sessions are compared, found in output folders of dummy files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from nipype.interfaces.base import isdefined
from skeleton import THIN, image_bytes

from mslesseg_app.bids.exam import Exam
from mslesseg_app.bids.names import output_path, sidecar_of
from mslesseg_app.core.settings import Settings
from mslesseg_app.participant.workflows.change import find_visits, init_change_wf

MODEL = 'hyperintensity'


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(tmp_path / 'bids', tmp_path / 'out', tmp_path / 'work')


def finish(
    settings: Settings, session: str | None, status='ok', edited=False, subject='01', t2w=False
):
    """Write what a finished exam leaves."""
    flair = f'sub-{subject}/ses-{session}/anat/sub-{subject}_ses-{session}_FLAIR.nii.gz'
    exam = Exam(subject, session, {'FLAIR': settings.bids_dir / flair})
    for key, extra in (
        ('preproc_native', {'suffix': 'FLAIR'}),
        ('to_mni', {'from': 'FLAIR'}),
        ('brain_native', {}),
        ('instances_native', {'desc': MODEL}),
    ):
        path = settings.out_dir / output_path(exam, key, **extra)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(image_bytes(THIN))
    mask = settings.out_dir / output_path(exam, 'lesion_native', desc=MODEL)
    sidecar_of(mask).write_text(json.dumps({'Edited': edited, 'Threshold': 0.5}))
    record = settings.out_dir / output_path(exam, 'exam', desc=MODEL)
    record.parent.mkdir(parents=True, exist_ok=True)
    images = [{'modality': 'FLAIR', 'path': flair}]
    if t2w:
        images.append({'modality': 'T2w', 'path': flair.replace('FLAIR', 'T2w')})
    record.write_text(json.dumps({'session': session, 'status': status, 'images': images}))
    return exam


def date(settings: Settings, **days: str) -> None:
    path = settings.bids_dir / 'sub-01' / 'sub-01_sessions.tsv'
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [f'ses-{name[1:]}\t{day}' for name, day in days.items()]
    path.write_text('\n'.join(['session_id\tacq_time', *rows]) + '\n')


def nodes(settings: Settings) -> list[str]:
    workflow = init_change_wf(subjects=['01'], settings=settings, model=MODEL)
    return [] if workflow is None else sorted(n.split('.')[-1] for n in workflow.list_node_names())


def test_each_session_is_compared_with_the_one_before_and_the_last_with_the_first(settings):
    for session in ('1', '2', '10'):
        finish(settings, session)
    assert [visit.name for visit in find_visits('01', settings, MODEL)] == ['1', '2', '10']
    found = nodes(settings)
    assert [n for n in found if n.startswith('compare')] == [
        'compare_1_10', 'compare_1_2', 'compare_2_10',
    ]  # fmt: skip
    written = [n for n in found if n.startswith('ds_')]
    later = ('change', 'change_native', 'difference_native')
    earlier = ('change_next_native', 'difference_next_native')
    expected = ['ds_changes', *(f'ds_{k}_{s}' for k in later for s in ('2', '10'))]
    expected += [f'ds_{k}_{s}' for k in earlier for s in ('1', '2')]
    assert written == sorted(expected)


def test_dates_give_the_order(settings):
    for session in ('1', '2'):
        finish(settings, session)
    date(settings, s1='2021-03-01T00:00:00', s2='2020-03-01T00:00:00')
    assert [visit.name for visit in find_visits('01', settings, MODEL)] == ['2', '1']
    assert 'compare_2_1' in nodes(settings)


@pytest.mark.parametrize('what', ['failed', 'no instances', 'damaged record', 'other model'])
def test_sessions_without_a_result_are_left_out(settings, what):
    finish(settings, '1')
    exam = finish(settings, '2', status='failed' if what == 'failed' else 'ok')
    record = settings.out_dir / output_path(exam, 'exam', desc=MODEL)
    if what == 'no instances':
        (settings.out_dir / output_path(exam, 'instances_native', desc=MODEL)).unlink()
    if what == 'damaged record':
        record.write_text('{')
    if what == 'other model':
        record.rename(record.with_name(record.name.replace(MODEL, 'mssegdiff')))
    assert [visit.name for visit in find_visits('01', settings, MODEL)] == ['1']
    assert nodes(settings) == []


def test_nothing_to_compare(settings):
    assert nodes(settings) == []
    finish(settings, '1')
    assert nodes(settings) == []


def test_t2w_counts_where_both_sessions_used_one(settings):
    exams = [finish(settings, session, t2w=True) for session in ('1', '2')]

    def given():
        workflow = init_change_wf(subjects=['01'], settings=settings, model=MODEL)
        inputs = workflow.get_node('sub_01_change_wf.compare_1_2').interface.inputs
        return inputs.t2w, inputs.t2w_xfms

    assert not any(isdefined(one) for one in given())
    for exam in exams:
        for key, extra in (('preproc_native', {'suffix': 'T2w'}), ('to_mni', {'from': 'T2w'})):
            (settings.out_dir / output_path(exam, key, **extra)).write_bytes(image_bytes(THIN))
    images, xfms = given()
    assert ['ses-1' in images[0], 'ses-2' in images[1]] == [True, True]
    assert [Path(one).name.split('from-')[1].split('_')[0] for one in xfms] == [
        'FLAIR', 'FLAIR', 'T2w', 'T2w',
    ]  # fmt: skip
    assert ['ses-1' in one for one in xfms] == [True, False, True, False]
    finish(settings, '2')  # its last run ignored T2w, whatever an earlier one left
    assert not any(isdefined(one) for one in given())


def test_what_is_known_before(settings):
    finish(settings, '1', edited=True)
    finish(settings, '2')
    workflow = init_change_wf(subjects=['01', '02'], settings=settings, model=MODEL)
    compare = workflow.get_node('sub_01_change_wf.compare_1_2').interface.inputs
    assert compare.pair['edited'] == ['ses-1']
    assert compare.pair['years'] is None
    sink = workflow.get_node('sub_01_change_wf.ds_change_2').interface
    metadata = sink._metadata
    assert 'no rates' in metadata['Notes'][0]
    assert metadata['SessionDates'] == ['n/a', 'n/a']
    assert metadata['ChangeThreshold'] == settings.change_threshold
    assert compare.seed == settings.change_threshold
    assert 'half-way between them' in workflow.visit_desc()
    date(settings, s1='2020-03-01T00:00:00', s2='2021-03-01T00:00:00')
    workflow = init_change_wf(subjects=['01'], settings=settings, model=MODEL)
    compare = workflow.get_node('sub_01_change_wf.compare_1_2').interface.inputs
    assert compare.pair['years'] == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize('longitudinal', ['joint', 'independent'])
def test_sessions_are_segmented_together_unless_a_person_edited_one(tmp_path, longitudinal):
    settings = Settings(
        tmp_path / 'bids', tmp_path / 'out', tmp_path / 'work', longitudinal=longitudinal
    )
    for session in ('1', '2', '3'):
        exam = finish(settings, session, edited=session == '3')
        prob = settings.out_dir / output_path(exam, 'prob_native', desc=MODEL)
        prob.write_bytes(image_bytes(THIN))
    found = [name for name in nodes(settings) if 'joint' in name or name.startswith('combine_')]
    expected = ['combine_1', 'combine_2', 'ds_joint_native_1', 'ds_joint_native_2']
    expected += ['ds_joint_prob_native_1', 'ds_joint_prob_native_2']
    assert found == (expected if longitudinal == 'joint' else [])
