"""Which images of a dataset make up an exam, and what is said where one is missing."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from skeleton import TEMPLATE, THICK, THIN, write_dataset

from mslesseg_app.bids import exams as exams_module
from mslesseg_app.bids.exam import Exam
from mslesseg_app.bids.exams import find_exams, share_template, with_reference_notes
from mslesseg_app.bids.layout import open_layout
from mslesseg_app.core.errors import InvalidBIDSError, NoInputError, NothingSelectedError
from mslesseg_app.core.settings import Settings


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


def test_sidecars_of_other_encodings_count(settings):
    """BIDS asks for UTF-8; what other programs wrote is read all the same."""
    write_dataset(
        settings.bids_dir,
        {'sub-01_acq-a_FLAIR': THIN, 'sub-01_acq-b_FLAIR': THIN},
        {'sub-01_acq-a_FLAIR': {}, 'sub-01_acq-b_FLAIR': {}},
    )
    folder = settings.bids_dir / 'sub-01/anat'
    text = '{"ProtocolName": "Sch\u00e4del",\r\n"MRAcquisitionType": "%s"}'
    (folder / 'sub-01_acq-a_FLAIR.json').write_bytes((text % '3d').encode('latin-1'))
    (folder / 'sub-01_acq-b_FLAIR.json').write_bytes((text % '2D').encode('utf-16'))
    exam = find(settings)[0]
    assert chosen(exam)['FLAIR'] == 'sub-01_acq-a_FLAIR.nii.gz'
    assert any('2D by MRAcquisitionType' in note for note in exam.notes)


@pytest.mark.parametrize('change', ['type', 'intercept', 'bits'])
def test_a_damaged_header_does_not_stop_the_search(settings, change):
    """Headers are read before any exam is processed; one that is damaged fails alone, later."""
    write_dataset(settings.bids_dir, ['sub-01_FLAIR', 'sub-02_FLAIR'])
    path = settings.bids_dir / 'sub-01/anat/sub-01_FLAIR.nii.gz'
    content = bytearray(gzip.decompress(path.read_bytes()))
    place, value = {
        'type': (70, np.int16([1536])),  # 128-bit floats, which the platform may lack
        'intercept': (116, np.float32([np.nan])),
        'bits': (72, np.int16([64])),
    }[change]
    content[place : place + value.nbytes] = value.tobytes()
    path.write_bytes(gzip.compress(bytes(content)))
    assert [exam.label for exam in find(settings)] == ['sub-01', 'sub-02']


def test_what_nobody_thought_of_costs_one_exam(settings, monkeypatch):
    write_dataset(settings.bids_dir, ['sub-01_FLAIR', 'sub-02_FLAIR'])
    real = exams_module.came_registered

    def came_registered(images):
        if 'sub-01' in str(images['FLAIR']):
            raise ZeroDivisionError('by zero')
        return real(images)

    monkeypatch.setattr(exams_module, 'came_registered', came_registered)
    first, second = find(settings)
    assert 'sub-01 cannot be inspected: ZeroDivisionError: by zero' in str(first.problem)
    assert first.problem.exit_code == 1
    assert second.problem is None


def test_a_damaged_qform_is_noted(settings):
    write_dataset(settings.bids_dir, ['sub-01_FLAIR', 'sub-02_FLAIR'])
    path = settings.bids_dir / 'sub-01/anat/sub-01_FLAIR.nii.gz'
    content = bytearray(gzip.decompress(path.read_bytes()))
    content[252:256] = np.int16([1, 1]).tobytes()
    content[256:268] = np.array([0, 0.8, 0.8], '<f4').tobytes()
    path.write_bytes(gzip.compress(bytes(content)))
    first, second = find(settings)
    assert any('qform is damaged' in note and 'sform' in note for note in first.notes)
    assert not any('qform' in note for note in second.notes)


@pytest.mark.parametrize('name', ['sub-01_FLAIR.NII.GZ', 'sub-01_FLAIR.mgz', 'sub-01_FLAIR.img'])
def test_images_of_other_suffixes_are_named(settings, name):
    write_dataset(settings.bids_dir, ['sub-01_FLAIR', 'sub-02_FLAIR'])
    path = settings.bids_dir / 'sub-01/anat/sub-01_FLAIR.nii.gz'
    path.rename(path.with_name(name))
    first, second = find(settings)
    assert any(f'{name} is not used' in note for note in first.notes)
    assert isinstance(first.problem, NoInputError)
    assert second.problem is None


def test_patterns_of_bidsignore_that_are_none_mean_themselves(settings):
    write_dataset(settings.bids_dir, ['sub-01_FLAIR', 'sub-02_FLAIR'])
    (settings.bids_dir / '.bidsignore').write_bytes(b'\xff[z-a]\r\n[\r\nsub-02/\r\n')
    assert [exam.label for exam in find(settings)] == ['sub-01']


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


@pytest.mark.parametrize(
    'content', [b'{"Name": "M\xfcnchen"}', b'{"Name": ', b'', b'["Name"]', b'null', b'[' * 100_000]
)
def test_damaged_description(settings, content):
    root = write_dataset(settings.bids_dir, ['sub-01_FLAIR'])
    (root / 'dataset_description.json').write_bytes(content)
    with pytest.raises(InvalidBIDSError, match='is damaged') as caught:
        find(settings)
    assert 'UTF-8' in caught.value.hint


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


def test_a_kept_database_is_only_read(settings, tmp_path):
    """So that any number of tasks may share it."""
    write_dataset(settings.bids_dir, ['sub-01_FLAIR', 'sub-02_ses-1_FLAIR'])
    find(settings, bids_database_dir=tmp_path / 'database')
    index = tmp_path / 'database' / 'layout_index.sqlite'
    content, changed = index.read_bytes(), index.stat().st_mtime_ns
    found = find(settings, bids_database_dir=tmp_path / 'database', participants=('02',))
    assert [exam.label for exam in found] == ['sub-02_ses-1']
    assert index.read_bytes() == content
    assert index.stat().st_mtime_ns == changed
    left = {path.name for path in (tmp_path / 'database').iterdir()}
    assert left <= {'layout_index.sqlite', 'mslesseg.json', 'mslesseg.lock'}


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


# ------------------------------------------------------------------ the rule that decided


def note_of(exam: Exam, modality: str = 'FLAIR') -> str:
    return next(note for note in exam.notes if note.startswith(f'{modality}:'))


@pytest.mark.parametrize(
    ('candidates', 'sidecars', 'expected', 'reason'),
    [
        (
            ['sub-01_acq-2D_FLAIR', 'sub-01_acq-3D_FLAIR'],
            {},
            'sub-01_acq-3D_FLAIR',
            '2D by acq-2D',
        ),
        (
            {'sub-01_acq-a_FLAIR': THIN, 'sub-01_acq-b_FLAIR': THICK},
            {},
            'sub-01_acq-a_FLAIR',
            '2D by its voxel edge of 4 mm',
        ),
        (['sub-01_ce-gd_FLAIR', 'sub-01_FLAIR'], {}, 'sub-01_FLAIR', 'contrast agent: ce-gd'),
        (
            ['sub-01_acq-a_FLAIR', 'sub-01_acq-b_FLAIR'],
            {'sub-01_acq-b_FLAIR': {'ContrastBolusIngredient': 'GADOLINIUM'}},
            'sub-01_acq-a_FLAIR',
            'contrast agent: ContrastBolusIngredient',
        ),
        (['sub-01_run-1_FLAIR', 'sub-01_run-2_FLAIR'], {}, 'sub-01_run-2_FLAIR', 'an earlier run'),
        (['sub-01_desc-x_FLAIR', 'sub-01_FLAIR'], {}, 'sub-01_FLAIR', 'made from others: desc-x'),
        (
            ['sub-01_acq-3D_space-T1w_FLAIR', 'sub-01_acq-2D_FLAIR'],
            {},
            'sub-01_acq-2D_FLAIR',
            'made from others: space-T1w',
        ),
        (['sub-01_rec-norm_FLAIR', 'sub-01_FLAIR'], {}, 'sub-01_FLAIR', 'reconstruction rec-norm'),
        (['sub-01_echo-1_FLAIR', 'sub-01_echo-2_FLAIR'], {}, 'sub-01_echo-2_FLAIR', 'echo-1'),
        (['sub-01_echo-1_FLAIR', 'sub-01_FLAIR'], {}, 'sub-01_FLAIR', 'echo-1'),
        (['sub-01_inv-1_FLAIR', 'sub-01_FLAIR'], {}, 'sub-01_FLAIR', 'has inv-1'),
        (
            ['sub-01_part-mag_FLAIR', 'sub-01_part-phase_FLAIR'],
            {},
            'sub-01_part-mag_FLAIR',
            'part-phase is no magnitude image',
        ),
        (['sub-01_chunk-1_FLAIR', 'sub-01_FLAIR'], {}, 'sub-01_FLAIR', 'chunk-1 is a part'),
    ],
)
def test_the_note_names_the_rule_that_decided(settings, candidates, sidecars, expected, reason):
    write_dataset(settings.bids_dir, candidates, sidecars)
    (exam,) = find(settings)
    assert chosen(exam)['FLAIR'] == f'{expected}.nii.gz'
    assert reason in note_of(exam).split('not used:')[1]
    assert not any(note.startswith('Warning') for note in exam.notes)


def test_the_first_echo_of_a_t1w(settings):
    names = ['sub-01_FLAIR', 'sub-01_echo-1_T1w', 'sub-01_echo-2_T1w']
    write_dataset(settings.bids_dir, names)
    assert chosen(find(settings)[0])['T1w'] == 'sub-01_echo-1_T1w.nii.gz'


def test_a_choice_by_the_alphabet_is_a_warning(settings):
    write_dataset(settings.bids_dir, ['sub-01_acq-a_FLAIR', 'sub-01_acq-b_FLAIR'])
    (exam,) = find(settings)
    (warning,) = [note for note in exam.notes if note.startswith('Warning')]
    assert 'nothing but the alphabet decided for sub-01_acq-b_FLAIR.nii.gz' in warning
    assert '--bids-filter-file' in warning


@pytest.mark.parametrize('name', ['part-phase', 'chunk-1'])
def test_what_is_no_whole_image_is_never_used(settings, name):
    write_dataset(settings.bids_dir, [f'sub-01_{name}_FLAIR', 'sub-01_T1w'])
    (exam,) = find(settings)
    assert exam.problem is not None
    assert (exam.problem.exit_code, exam.missing) == (66, ('FLAIR', 'T2w'))
    assert name in note_of(exam)


def test_a_filter_may_ask_for_a_part(settings):
    write_dataset(settings.bids_dir, ['sub-01_part-phase_FLAIR', 'sub-01_part-mag_FLAIR'])
    (exam,) = find(settings, bids_filters={'flair': {'part': 'phase'}})
    assert chosen(exam)['FLAIR'] == 'sub-01_part-phase_FLAIR.nii.gz'


def test_sidecars_are_inherited(settings):
    write_dataset(settings.bids_dir, ['sub-01_acq-space_FLAIR', 'sub-01_acq-tse_FLAIR'])
    for label, kind in (('space', '3D'), ('tse', '2D')):
        path = settings.bids_dir / f'acq-{label}_FLAIR.json'
        path.write_text(f'{{"MRAcquisitionType": "{kind}"}}')
    (exam,) = find(settings)
    assert chosen(exam)['FLAIR'] == 'sub-01_acq-space_FLAIR.nii.gz'
    assert '2D by MRAcquisitionType' in note_of(exam)


@pytest.mark.parametrize(
    ('name', 'sidecar', 'source'),
    [
        ('sub-01_ce-gadolinium_T1w', {}, 'ce-gadolinium'),
        ('sub-01_T1w', {'ContrastBolusIngredient': 'GADOLINIUM'}, 'ContrastBolusIngredient'),
        ('sub-01_acq-mprage3dpostgd_T1w', {}, 'acq-mprage3dpostgd'),
    ],
)
def test_contrast_agent_in_the_only_image_is_reported(settings, name, sidecar, source):
    write_dataset(settings.bids_dir, ['sub-01_FLAIR', name], {name: sidecar})
    (exam,) = find(settings)
    assert chosen(exam)['T1w'] == f'{name}.nii.gz'
    assert 'shows a contrast agent' in note_of(exam, 'T1w')
    assert source in note_of(exam, 'T1w')


@pytest.mark.parametrize('name', ['sub-01_acq-pregd_T1w', 'sub-01_acq-mprage_T1w', 'sub-01_T1w'])
def test_no_contrast_agent_is_claimed_without_a_sign(settings, name):
    write_dataset(settings.bids_dir, ['sub-01_FLAIR', name], {name: {'ContrastAgent': 'none'}})
    (exam,) = find(settings)
    assert not any('contrast agent' in note for note in exam.notes)


# ------------------------------------------------------------ what is part of the dataset


def test_bidsignored_files_and_folders_are_not_used(settings):
    names = [f'sub-0{n}_acq-{kind}_FLAIR' for n in (1, 2, 3) for kind in ('good', 'zbad')]
    write_dataset(settings.bids_dir, [*names, 'sub-04_FLAIR'])
    lines = ['# bad ones', '*_acq-zbad_*', '!sub-02/**', '', 'sub-03/anat/*zbad*', 'sub-04/']
    (settings.bids_dir / '.bidsignore').write_text('\n'.join(lines))
    exams = find(settings)
    assert [exam.subject for exam in exams] == ['01', '02', '03']
    assert [exam.images['FLAIR'].name.split('_')[1] for exam in exams] == [
        'acq-good', 'acq-zbad', 'acq-good',
    ]  # fmt: skip


def test_stray_folders_are_not_searched(settings):
    root = write_dataset(settings.bids_dir, ['sub-01_ses-1_FLAIR'])
    for place in ('old', 'sub-01/backup', 'sub-01/ses-1/anat/old', 'sub-01 (copy)', 'sub-01_old'):
        write_dataset(root / place, ['sub-01_ses-1_acq-3D_FLAIR', 'sub-09_FLAIR'])
    (root / 'sub-01_old/anat').mkdir()
    write_dataset(root / 'x', ['sub-01_acq-3D_FLAIR'])
    (root / 'x/sub-01/anat/sub-01_acq-3D_FLAIR.nii.gz').rename(
        root / 'sub-01_old/anat/sub-01_ses-1_acq-3D_FLAIR.nii.gz'
    )
    (exam,) = find(settings)
    assert chosen(exam) == {'FLAIR': 'sub-01_ses-1_FLAIR.nii.gz'}
    assert exam.images['FLAIR'].parent == root / 'sub-01/ses-1/anat'


def test_a_name_of_another_folder_is_not_used(settings):
    root = write_dataset(settings.bids_dir, ['sub-01_ses-1_FLAIR', 'sub-02_ses-1_FLAIR'])
    folder = root / 'sub-01/ses-1/anat'
    for name in ('sub-02_ses-1_acq-3D_FLAIR', 'sub-01_ses-2_acq-3D_FLAIR', 'sub-01_acq-3D_FLAIR'):
        (folder / f'{name}.nii.gz').write_bytes(
            (folder / 'sub-01_ses-1_FLAIR.nii.gz').read_bytes()
        )
    first, second = find(settings)
    assert chosen(first) == {'FLAIR': 'sub-01_ses-1_FLAIR.nii.gz'}
    assert sum('its name and its folder disagree' in note for note in first.notes) == 3
    assert chosen(second) == {'FLAIR': 'sub-02_ses-1_FLAIR.nii.gz'}
    assert not any('disagree' in note for note in second.notes)


@pytest.mark.parametrize('place', ['sub-99/ses-5/acq-x_run-3/bids', 'study.nii/bids.nii.gz/anat'])
def test_the_path_of_the_dataset_does_not_matter(settings, tmp_path, place):
    root = write_dataset(
        tmp_path / place,
        {'sub-01_acq-a_FLAIR': THICK, 'sub-01_acq-b_FLAIR': THICK},
        {'sub-01_acq-a_FLAIR': {'MRAcquisitionType': '3D'}},
    )
    (exam,) = find(settings, bids_dir=root)
    assert exam.label == 'sub-01'
    assert chosen(exam) == {'FLAIR': 'sub-01_acq-a_FLAIR.nii.gz'}


def test_links_to_parent_folders_are_not_followed(settings):
    root = write_dataset(settings.bids_dir, ['sub-01_ses-1_FLAIR', 'sub-02_FLAIR'])
    for place in ('sub-01/all', 'sub-01/ses-1/anat/up', 'sub-01/ses-2', 'sub-02/func', 'loop'):
        (root / place).symlink_to(root, target_is_directory=True)
    assert [exam.label for exam in find(settings)] == ['sub-01_ses-1', 'sub-02']


def test_names_that_are_not_utf8_do_not_stop_the_search(settings, tmp_path):
    import os

    root = write_dataset(settings.bids_dir, ['sub-01_FLAIR'])
    content = (root / 'sub-01/anat/sub-01_FLAIR.nii.gz').read_bytes()
    for name in (b'sub-01/anat/Sch\xe4del.nii.gz', b'sub-01/anat/sub-01_acq-\xe4_FLAIR.nii.gz'):
        Path(os.fsdecode(os.path.join(os.fsencode(root), name))).write_bytes(content)
    os.mkdir(os.path.join(os.fsencode(root), b'sub-\xfc'))
    for database in (None, tmp_path / 'database'):
        (exam,) = find(settings, bids_database_dir=database)
        assert chosen(exam) == {'FLAIR': 'sub-01_FLAIR.nii.gz'}


# ------------------------------------------------------------------------ absent content


@pytest.mark.parametrize('modality', ['FLAIR', 'T1w'])
def test_a_link_without_content_is_a_problem_of_its_exam_only(settings, modality):
    write_dataset(settings.bids_dir, ['sub-01_FLAIR', 'sub-01_T1w', 'sub-02_FLAIR'])
    path = settings.bids_dir / f'sub-01/anat/sub-01_{modality}.nii.gz'
    path.unlink()
    path.symlink_to('../../.git/annex/objects/XX/YY/abc.nii.gz')
    bad, good = find(settings)
    assert bad.problem is not None
    assert bad.problem.exit_code == 66
    assert str(path) in bad.problem.message
    assert 'datalad get' in bad.problem.hint
    assert ('--ignore t1w' in bad.problem.hint) == (modality == 'T1w')
    assert good.problem is None


# --------------------------------------------------------------------- on the template grid


def test_a_head_that_only_lies_on_the_grid_is_not_registered(settings):
    import nibabel as nb
    import numpy as np

    write_dataset(settings.bids_dir, {'sub-01_FLAIR': TEMPLATE, 'sub-02_FLAIR': TEMPLATE})
    path = settings.bids_dir / 'sub-02/anat/sub-02_FLAIR.nii.gz'
    image = nb.load(path)
    moved = np.roll(np.asarray(image.dataobj), (12, -18, 15), (0, 1, 2))
    nb.Nifti1Image(moved, image.affine, image.header).to_filename(path)
    there, elsewhere = find(settings)
    assert there.registered
    assert not elsewhere.registered
    assert any('not registered to it (FLAIR)' in note for note in elsewhere.notes)


# ------------------------------------------------------------------------------ the index


def labels(settings: Settings, database: Path) -> list[str]:
    return [exam.label for exam in find(settings, bids_database_dir=database)]


def test_the_database_follows_the_dataset(settings, tmp_path):
    import shutil

    write_dataset(settings.bids_dir, ['sub-01_FLAIR', 'sub-02_FLAIR'])
    database = tmp_path / 'database'
    assert labels(settings, database) == ['sub-01', 'sub-02']
    write_dataset(settings.bids_dir, ['sub-03_ses-1_FLAIR'])
    assert labels(settings, database) == ['sub-01', 'sub-02', 'sub-03_ses-1']
    shutil.rmtree(settings.bids_dir / 'sub-02')
    assert labels(settings, database) == ['sub-01', 'sub-03_ses-1']
    path = settings.bids_dir / 'sub-01/anat/sub-01_FLAIR.nii.gz'
    path.rename(path.with_name('sub-01_acq-new_FLAIR.nii.gz'))
    (exam, _) = find(settings, bids_database_dir=database)
    assert chosen(exam) == {'FLAIR': 'sub-01_acq-new_FLAIR.nii.gz'}


def test_a_database_of_a_moved_dataset_is_made_anew(settings, tmp_path):
    write_dataset(settings.bids_dir, ['sub-01_FLAIR'])
    database, moved = tmp_path / 'database', tmp_path / 'moved'
    labels(settings, database)
    settings.bids_dir.rename(moved)
    (exam,) = find(settings, bids_dir=moved, bids_database_dir=database)
    assert exam.images['FLAIR'].is_relative_to(moved)


@pytest.mark.parametrize('damage', ['empty', 'text', 'half', 'state', 'absent'])
def test_a_damaged_database_is_made_anew(settings, tmp_path, damage):
    write_dataset(settings.bids_dir, [f'sub-{n:02}_FLAIR' for n in range(1, 9)])
    database = tmp_path / 'database'
    whole = labels(settings, database)
    index = database / 'layout_index.sqlite'
    content = index.read_bytes()
    changed = {'empty': b'', 'text': b'no database' * 999, 'half': content[: len(content) // 2]}
    if damage == 'state':
        (database / 'mslesseg.json').write_text('{')
    elif damage == 'absent':
        index.unlink()
    else:
        index.write_bytes(changed[damage])
    assert labels(settings, database) == whole


def test_an_index_that_was_made_by_others_is_not_trusted(settings, tmp_path):
    """A file of PyBIDS without our record of its root and age."""
    write_dataset(settings.bids_dir, ['sub-01_FLAIR'])
    database = tmp_path / 'database'
    labels(settings, database)
    write_dataset(settings.bids_dir, ['sub-02_FLAIR'])
    (database / 'mslesseg.json').unlink()
    assert labels(settings, database) == ['sub-01', 'sub-02']


def test_four_processes_make_one_database(settings, tmp_path):
    import subprocess
    import sys

    write_dataset(settings.bids_dir, [f'sub-{n:02}_FLAIR' for n in range(1, 21)])
    code = (
        'import sys; from pathlib import Path; from mslesseg_app.bids.layout import open_layout; '
        'print(len(open_layout(Path(sys.argv[1]), Path(sys.argv[2])).get_subjects()))'
    )
    command = [sys.executable, '-c', code, str(settings.bids_dir), str(tmp_path / 'database')]
    jobs = [
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(4)
    ]
    done = [job.communicate() for job in jobs]
    assert [out.strip() for out, _ in done] == ['20'] * 4, done
    assert not list((tmp_path / 'database').glob('new-*'))


# ---------------------------------------------------------------------- too long names


def test_a_label_that_makes_names_too_long_is_a_problem_of_its_exam(settings):
    long = 'x' * 190
    write_dataset(settings.bids_dir, ['sub-01_FLAIR', f'sub-{long}_FLAIR'])
    good, bad = find(settings)
    assert good.problem is None
    assert bad.problem is not None
    assert bad.problem.exit_code == 73
    assert 'more than 255 bytes' in bad.problem.message
    assert 'shorter label' in bad.problem.hint


# ------------------------------------------------------------ reference masks that are bad


def test_a_reference_mask_without_content_or_place_is_a_problem(settings, tmp_path):
    write_dataset(settings.bids_dir, ['sub-01_FLAIR', 'sub-02_FLAIR', 'sub-03_FLAIR'])
    names = {f'sub-0{n}_label-lesion_mask': THIN for n in (1, 2, 3)}
    root = references(tmp_path / MASKS, names)
    first = root / 'sub-01/anat/sub-01_label-lesion_mask.nii.gz'
    first.unlink()
    first.symlink_to('.git/annex/objects/x.nii.gz')
    (root / 'sub-02/anat/sub-02_label-lesion_mask.nii.gz').write_bytes(b'no image')
    absent, damaged, good = find(settings, derivatives={'manual': root})
    assert absent.problem is not None
    assert absent.problem.exit_code == 66
    assert 'datalad get' in absent.problem.hint
    assert damaged.problem is not None
    assert damaged.problem.exit_code == 65
    assert 'reference mask' in damaged.problem.message
    assert good.problem is None
    assert good.reference is not None
