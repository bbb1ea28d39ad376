"""Which images of a dataset make up an exam, and what is said where one is missing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from skeleton import TEMPLATE, THICK, THIN, write_dataset

from mslesseg_app.bids.exams import (
    Exam,
    find_exams,
    open_layout,
    share_template,
    with_reference_notes,
)
from mslesseg_app.errors import InvalidBIDSError, NoInputError, NothingSelectedError
from mslesseg_app.settings import Settings


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(
        bids_dir=tmp_path / 'bids', out_dir=tmp_path / 'out', work_dir=tmp_path / 'work'
    )


def find(settings: Settings, **changes: Any) -> list[Exam]:
    from dataclasses import replace

    return find_exams(replace(settings, **changes))


def chosen(exam: Exam) -> dict[str, str]:
    return {modality: path.name for modality, path in exam.images.items()}


def test_all_three_modalities_are_found_in_the_order_of_channels(settings):
    write_dataset(settings.bids_dir, ['sub-01_T2w', 'sub-01_T1w', 'sub-01_FLAIR'])
    (exam,) = find(settings)
    assert (exam.subject, exam.session, exam.label) == ('01', None, 'sub-01')
    assert exam.folder == Path('sub-01')
    assert list(exam.images) == ['FLAIR', 'T1w', 'T2w']
    assert exam.missing == ()
    assert exam.notes == ()
    assert exam.problem is None
    assert not exam.registered
    assert exam.reference is None


def test_exams_are_sorted_by_subject_and_session(settings):
    names = ['sub-10_ses-b_FLAIR', 'sub-10_ses-a_FLAIR', 'sub-02_ses-a_FLAIR']
    write_dataset(settings.bids_dir, names)
    labels = [exam.label for exam in find(settings)]
    assert labels == ['sub-02_ses-a', 'sub-10_ses-a', 'sub-10_ses-b']
    assert find(settings)[1].folder == Path('sub-10/ses-a')


def test_sessions_hold_their_own_images(settings):
    write_dataset(
        settings.bids_dir, ['sub-01_ses-1_FLAIR', 'sub-01_ses-1_T1w', 'sub-01_ses-2_FLAIR']
    )
    first, second = find(settings)
    assert chosen(first) == {
        'FLAIR': 'sub-01_ses-1_FLAIR.nii.gz',
        'T1w': 'sub-01_ses-1_T1w.nii.gz',
    }
    assert chosen(second) == {'FLAIR': 'sub-01_ses-2_FLAIR.nii.gz'}
    assert second.missing == ('T1w', 'T2w')
    assert 'No T1w image in this exam.' in second.notes


def test_uncompressed_images_count(settings):
    write_dataset(settings.bids_dir, ['sub-01_T1w'])
    import nibabel as nb

    source = settings.bids_dir / 'sub-01/anat/sub-01_T1w.nii.gz'
    nb.save(nb.load(source), source.with_name('sub-01_FLAIR.nii'))
    assert chosen(find(settings)[0])['FLAIR'] == 'sub-01_FLAIR.nii'


# --------------------------------------------------------- one of several images


@pytest.mark.parametrize(
    ('candidates', 'sidecars', 'expected'),
    [
        pytest.param(
            ['sub-01_acq-2D_FLAIR', 'sub-01_acq-3D_FLAIR'],
            {},
            'sub-01_acq-3D_FLAIR',
            id='the-label-says-3D',
        ),
        pytest.param(
            ['sub-01_acq-ax2dtse_run-2_FLAIR', 'sub-01_acq-space3d_run-1_FLAIR'],
            {},
            'sub-01_acq-space3d_run-1_FLAIR',
            id='3D-before-a-later-run',
        ),
        pytest.param(
            {'sub-01_acq-a_FLAIR': THIN, 'sub-01_acq-b_FLAIR': THICK},
            {},
            'sub-01_acq-a_FLAIR',
            id='thin-voxels-are-3D',
        ),
        pytest.param(
            {'sub-01_acq-a_FLAIR': THIN, 'sub-01_acq-b_FLAIR': THICK},
            {
                'sub-01_acq-a_FLAIR': {'MRAcquisitionType': '2D'},
                'sub-01_acq-b_FLAIR': {'MRAcquisitionType': '3D'},
            },
            'sub-01_acq-b_FLAIR',
            id='the-sidecar-before-the-voxels',
        ),
        pytest.param(
            {'sub-01_acq-3D_FLAIR': THICK, 'sub-01_acq-b_FLAIR': THIN},
            {
                'sub-01_acq-3D_FLAIR': {'MRAcquisitionType': '2D'},
                'sub-01_acq-b_FLAIR': {'MRAcquisitionType': '2D'},
            },
            'sub-01_acq-3D_FLAIR',
            id='the-label-before-the-sidecar',
        ),
        pytest.param(
            ['sub-01_ce-gadolinium_FLAIR', 'sub-01_FLAIR'],
            {},
            'sub-01_FLAIR',
            id='no-contrast-agent',
        ),
        pytest.param(
            ['sub-01_acq-3D_ce-gd_FLAIR', 'sub-01_acq-2D_FLAIR'],
            {},
            'sub-01_acq-3D_ce-gd_FLAIR',
            id='3D-before-no-contrast-agent',
        ),
        pytest.param(
            ['sub-01_run-1_FLAIR', 'sub-01_run-10_FLAIR', 'sub-01_run-9_FLAIR'],
            {},
            'sub-01_run-10_FLAIR',
            id='the-last-run-by-number',
        ),
        pytest.param(
            ['sub-01_run-01_FLAIR', 'sub-01_ce-gd_run-02_FLAIR'],
            {},
            'sub-01_run-01_FLAIR',
            id='no-contrast-agent-before-a-later-run',
        ),
    ],
)
def test_choice_among_several(settings, candidates, sidecars, expected):
    write_dataset(settings.bids_dir, candidates, sidecars)
    (exam,) = find(settings)
    assert chosen(exam)['FLAIR'] == f'{expected}.nii.gz'
    note = next(note for note in exam.notes if note.startswith('FLAIR:'))
    others = [f'{name}.nii.gz' for name in candidates if name != expected]
    assert f'{expected}.nii.gz was chosen' in note
    assert all(other in note.split('not used:')[1] for other in others)


def test_choice_does_not_depend_on_the_order_of_files(settings, tmp_path):
    names = ['sub-01_acq-b_FLAIR', 'sub-01_acq-a_FLAIR', 'sub-01_acq-c_FLAIR']
    found = []
    for number, order in enumerate((names, names[::-1])):
        root = write_dataset(tmp_path / str(number), order)
        found.append(chosen(find(settings, bids_dir=root)[0]))
    assert found[0] == found[1]


def test_unreadable_candidates_do_not_stop_the_search(settings):
    write_dataset(settings.bids_dir, ['sub-01_acq-a_FLAIR', 'sub-01_acq-b_FLAIR'])
    (settings.bids_dir / 'sub-01/anat/sub-01_acq-b_FLAIR.nii.gz').write_bytes(b'not an image')
    assert chosen(find(settings)[0])['FLAIR'] == 'sub-01_acq-a_FLAIR.nii.gz'


def test_damaged_sidecars_do_not_stop_the_search(settings):
    write_dataset(
        settings.bids_dir,
        {'sub-01_acq-a_FLAIR': THICK, 'sub-01_acq-b_FLAIR': THIN},
        {'sub-01_acq-a_FLAIR': {}, 'sub-01_acq-b_FLAIR': {}},
    )
    folder = settings.bids_dir / 'sub-01/anat'
    (folder / 'sub-01_acq-a_FLAIR.json').write_bytes(b'\xff{')
    (folder / 'sub-01_acq-b_FLAIR.json').write_text('[1]')
    assert chosen(find(settings)[0])['FLAIR'] == 'sub-01_acq-b_FLAIR.nii.gz'


# ------------------------------------------------------------------ filter files

FILTERED = ['sub-01_FLAIR', 'sub-01_acq-3D_FLAIR', 'sub-01_ce-gd_FLAIR', 'sub-01_acq-3D_T1w']


@pytest.mark.parametrize(
    ('filters', 'expected'),
    [
        ({'acquisition': None, 'ceagent': None}, {'sub-01_FLAIR.nii.gz'}),
        ({'acquisition': '*'}, {'sub-01_acq-3D_FLAIR.nii.gz'}),
        ({'ceagent': '*'}, {'sub-01_ce-gd_FLAIR.nii.gz'}),
        ({'acquisition': ['3D', 'other']}, {'sub-01_acq-3D_FLAIR.nii.gz'}),
        ({'acquisition': 'absent'}, set()),
    ],
)
def test_filters(settings, filters, expected):
    write_dataset(settings.bids_dir, FILTERED)
    (exam,) = find(settings, bids_filters={'flair': filters})
    found = {path.name for name, path in exam.images.items() if name == 'FLAIR'}
    assert found == expected
    assert chosen(exam)['T1w'] == 'sub-01_acq-3D_T1w.nii.gz'
    assert bool(exam.problem) is not bool(expected)


def test_filters_cannot_take_another_subject(settings):
    write_dataset(settings.bids_dir, ['sub-01_FLAIR', 'sub-02_FLAIR'])
    exams = find(settings, bids_filters={'flair': {'subject': '02'}})
    assert [exam.images['FLAIR'].name for exam in exams] == [
        'sub-01_FLAIR.nii.gz',
        'sub-02_FLAIR.nii.gz',
    ]


# ------------------------------------------------------------- missing and required


def test_missing_flair_is_a_problem_of_that_exam_only(settings):
    write_dataset(settings.bids_dir, ['sub-01_T1w', 'sub-02_FLAIR'])
    bad, good = find(settings)
    assert isinstance(bad.problem, NoInputError)
    assert str(bad.problem) == 'sub-01 has no FLAIR image.'
    assert bad.problem.hint
    assert good.problem is None


def test_a_session_without_flair_does_not_harm_the_other(settings):
    write_dataset(settings.bids_dir, ['sub-01_ses-1_T1w', 'sub-01_ses-2_FLAIR'])
    bad, good = find(settings)
    assert (bad.label, bad.problem.exit_code) == ('sub-01_ses-1', 66)
    assert good.problem is None


def test_a_subject_without_any_image_is_a_problem_of_its_own(settings):
    write_dataset(settings.bids_dir, ['sub-01_FLAIR', 'sub-02_bold'])
    folder = settings.bids_dir / 'sub-02'
    (folder / 'anat').rename(folder / 'func')
    (folder / 'func/sub-02_bold.nii.gz').rename(folder / 'func/sub-02_task-rest_bold.nii.gz')
    good, bad = find(settings)
    assert good.problem is None
    assert bad.problem is not None
    assert 'sub-02' in bad.problem.message
    assert bad.problem.exit_code == 66


def test_required_modalities(settings):
    write_dataset(settings.bids_dir, ['sub-01_FLAIR', 'sub-02_FLAIR', 'sub-02_T1w'])
    bad, good = find(settings, require=('FLAIR', 'T1w'))
    assert str(bad.problem) == 'sub-01 has no T1w image.'
    assert '--require' in bad.problem.hint
    assert good.problem is None
    both, _ = find(settings, require=('FLAIR', 'T1w', 'T2w'))
    assert str(both.problem) == 'sub-01 has no T1w and no T2w image.'


def test_ignored_modalities_are_neither_used_nor_missing(settings):
    write_dataset(settings.bids_dir, ['sub-01_FLAIR', 'sub-01_T1w', 'sub-01_T2w'])
    (exam,) = find(settings, ignore=('t1w', 'bias-correction'))
    assert list(exam.images) == ['FLAIR', 'T2w']
    assert exam.missing == ()


# ------------------------------------------------------------------ what is selected


def test_participants_and_sessions_are_selected(settings):
    names = [f'sub-{s}_ses-{v}_FLAIR' for s in ('01', '02') for v in ('1', '2')]
    write_dataset(settings.bids_dir, names)
    exams = find(settings, participants=('02',), sessions=('1',))
    assert [exam.label for exam in exams] == ['sub-02_ses-1']


def test_files_without_a_session_pass_the_filter_of_sessions(settings):
    write_dataset(settings.bids_dir, ['sub-01_FLAIR', 'sub-02_ses-1_FLAIR', 'sub-02_ses-2_FLAIR'])
    exams = find(settings, sessions=('2',))
    assert [exam.label for exam in exams] == ['sub-01', 'sub-02_ses-2']


def test_no_such_participant(settings):
    write_dataset(settings.bids_dir, ['sub-01_FLAIR', 'sub-02_FLAIR'])
    with pytest.raises(NothingSelectedError, match=r'No such participant.*: 03') as caught:
        find(settings, participants=('01', '03'))
    assert caught.value.exit_code == 18
    assert '01, 02' in caught.value.hint


def test_only_the_participants_that_are_asked_for_are_indexed(settings):
    """One task of ten thousand does not walk through the folders of the others."""
    labels = ['1', '01', '011', '10', '1+1', '1x']
    write_dataset(settings.bids_dir, [f'sub-{label}_ses-1_FLAIR' for label in labels])
    for label in labels:
        layout = open_layout(settings.bids_dir, subjects=[label])
        assert layout.get_subjects() == [label]
        assert [exam.subject for exam in find(settings, participants=(label,))] == [label]
    pair = open_layout(settings.bids_dir, subjects=['01', '1+1'])
    assert sorted(pair.get_subjects()) == ['01', '1+1']
    assert len(open_layout(settings.bids_dir).get_subjects()) == len(labels)


def test_no_such_session(settings):
    write_dataset(settings.bids_dir, ['sub-01_ses-1_FLAIR'])
    with pytest.raises(NothingSelectedError, match='No image of session 7') as caught:
        find(settings, sessions=('7',))
    assert caught.value.exit_code == 18


def test_long_lists_of_participants_are_cut(settings):
    write_dataset(settings.bids_dir, [f'sub-{number:03}_FLAIR' for number in range(25)])
    with pytest.raises(NothingSelectedError) as caught:
        find(settings, participants=('x',))
    assert '(25 in all)' in caught.value.hint
    assert '024' not in caught.value.hint


def test_missing_folder(settings):
    with pytest.raises(NoInputError, match='does not exist') as caught:
        find(settings)
    assert caught.value.exit_code == 66


def test_empty_folder(settings):
    settings.bids_dir.mkdir()
    with pytest.raises(InvalidBIDSError, match='dataset_description') as caught:
        find(settings)
    assert caught.value.exit_code == 16


def test_dataset_without_subjects(settings):
    write_dataset(settings.bids_dir, [])
    with pytest.raises(NoInputError, match='no sub-'):
        find(settings)


def test_derivatives_and_hidden_places_of_a_dataset_are_not_searched(settings):
    root = write_dataset(settings.bids_dir, ['sub-01_FLAIR'])
    for place in ('derivatives/other', 'sourcedata', 'code'):
        write_dataset(root / place, ['sub-09_FLAIR', 'sub-01_acq-3D_FLAIR'])
    (exam,) = find(settings)
    assert chosen(exam) == {'FLAIR': 'sub-01_FLAIR.nii.gz'}


def test_database_of_pybids_is_made_and_used_again(settings, tmp_path):
    write_dataset(settings.bids_dir, ['sub-01_FLAIR'])
    database = tmp_path / 'database'
    first = find(settings, bids_database_dir=database)
    assert any(database.iterdir())
    assert find(settings, bids_database_dir=database) == first


@pytest.mark.parametrize('spelling', ['link', 'up'])
def test_images_lie_below_the_folder_as_the_user_spelled_it(settings, tmp_path, spelling):
    write_dataset(settings.bids_dir, ['sub-01_FLAIR'])
    if spelling == 'link':
        root = tmp_path / 'elsewhere'
        root.symlink_to(settings.bids_dir, target_is_directory=True)
    else:
        (tmp_path / 'beside').mkdir()
        root = tmp_path / 'beside' / '..' / 'bids'
    (exam,) = find(settings, bids_dir=root)
    relative = exam.images['FLAIR'].relative_to(root)
    assert relative == Path('sub-01/anat/sub-01_FLAIR.nii.gz')


# -------------------------------------------------------------- MSLesSeg's own form


def test_images_on_the_template_grid_are_registered(settings):
    names = {'sub-01_FLAIR': TEMPLATE, 'sub-01_T1w': TEMPLATE}
    write_dataset(settings.bids_dir, names)
    (exam,) = find(settings)
    assert exam.registered
    assert exam.missing == ('T2w',)


def test_one_image_on_another_grid_and_nothing_is_registered(settings):
    write_dataset(settings.bids_dir, {'sub-01_FLAIR': TEMPLATE, 'sub-01_T1w': THIN})
    assert not find(settings)[0].registered


def test_an_unreadable_image_is_not_registered_and_fails_only_later(settings):
    write_dataset(settings.bids_dir, ['sub-01_FLAIR'])
    (settings.bids_dir / 'sub-01/anat/sub-01_FLAIR.nii.gz').write_bytes(b'x')
    (exam,) = find(settings)
    assert not exam.registered
    assert exam.problem is None


# ----------------------------------------------------------------- reference masks

MASKS = 'manual'


def references(root: Path, names: dict[str, str]) -> Path:
    return write_dataset(root, names, kind='derivative')


def test_reference_masks_of_each_exam(settings, tmp_path):
    write_dataset(settings.bids_dir, [f'sub-01_ses-{v}_FLAIR' for v in (1, 2, 3)])
    root = references(
        tmp_path / MASKS,
        {
            'sub-01_ses-1_space-orig_label-lesion_mask': THIN,
            'sub-01_ses-1_desc-brain_mask': THIN,
            'sub-01_ses-2_label-L_mask': THIN,
        },
    )
    first, second, third = find(settings, derivatives={'manual': root})
    assert first.reference.name == 'sub-01_ses-1_space-orig_label-lesion_mask.nii.gz'
    assert second.reference.name == 'sub-01_ses-2_label-L_mask.nii.gz'
    assert third.reference is None


def test_reference_mask_on_the_grid_of_the_flair_is_preferred(settings, tmp_path):
    write_dataset(settings.bids_dir, ['sub-01_FLAIR'])
    root = references(
        tmp_path / MASKS,
        {
            'sub-01_space-MNI152NLin6Asym_label-lesion_mask': TEMPLATE,
            'sub-01_space-orig_label-lesion_mask': THIN,
        },
    )
    (exam,) = find(settings, derivatives={'manual': root})
    assert exam.reference.name == 'sub-01_space-orig_label-lesion_mask.nii.gz'


def test_folder_of_reference_masks_must_exist(settings, tmp_path):
    write_dataset(settings.bids_dir, ['sub-01_FLAIR'])
    with pytest.raises(NoInputError, match='reference masks') as caught:
        find(settings, derivatives={'manual': tmp_path / 'nowhere'})
    assert '--derivatives' in caught.value.hint


def test_reference_masks_within_the_dataset(settings):
    root = write_dataset(settings.bids_dir, ['sub-01_FLAIR'])
    masks = references(root / 'derivatives' / 'manual', {'sub-01_label-lesion_mask': THIN})
    (exam,) = find(settings, derivatives={'manual': masks})
    assert exam.reference == masks / 'sub-01/anat/sub-01_label-lesion_mask.nii.gz'


# ------------------------------------------------------------ the within-subject template


def test_sessions_share_a_template_where_two_can(settings):
    from dataclasses import replace

    names = [f'sub-01_ses-{k}_FLAIR' for k in (1, 2)]
    names += ['sub-02_ses-1_FLAIR', 'sub-02_ses-2_T1w', 'sub-03_FLAIR']
    write_dataset(settings.bids_dir, names)
    exams = find(settings)
    assert share_template(exams, settings) == {}
    assert with_reference_notes(exams, settings) == exams
    unbiased = replace(settings, subject_anatomical_reference='unbiased')
    shared = share_template(exams, unbiased)
    assert {k: [exam.label for exam in v] for k, v in shared.items()} == {
        '01': ['sub-01_ses-1', 'sub-01_ses-2']
    }
    alone = [
        exam.label
        for exam in with_reference_notes(exams, unbiased)
        if any('no other session' in note for note in exam.notes)
    ]
    assert alone == ['sub-02_ses-1', 'sub-03']


def test_registered_sessions_are_aligned_to_nothing(settings):
    from dataclasses import replace

    write_dataset(settings.bids_dir, {f'sub-01_ses-{k}_FLAIR': TEMPLATE for k in (1, 2)})
    unbiased = replace(settings, subject_anatomical_reference='unbiased')
    assert share_template(find(unbiased), unbiased) == {}
