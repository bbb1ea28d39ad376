"""FLIRT is given a start, and what it finds from there depends on it."""

from __future__ import annotations

import os
import shlex
from pathlib import Path

import nibabel as nb
import numpy as np
import pytest
from fakefsl import flirt, install

from mslesseg_app.core.errors import AlignmentError
from mslesseg_app.demo.phantom import make_phantom, scan
from mslesseg_app.demo.protocols import session_protocols
from mslesseg_app.participant.interfaces.fsl import CheckAlignment, StartMatrix, read_matrix
from mslesseg_app.spatial import pose
from mslesseg_app.spatial.affines import apply_affine, compose, fsl_to_ras, invert, write_itk
from mslesseg_app.spatial.exam_alignment import align_exam
from mslesseg_app.spatial.resample import resample
from mslesseg_app.spatial.template import load_template


@pytest.fixture(scope='module')
def fsl(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        for name, value in install(tmp_path_factory.mktemp('fsl') / 'fsl').items():
            patch.setenv(name, value)
        patch.setenv('FSLOUTPUTTYPE', 'NIFTI_GZ')
        yield Path(os.environ['FSLDIR'])


#: A head lies elsewhere within its image: FLIRT does not look at headers.
MOVES = {
    'FLAIR': pose.matrix(np.array([25.0, -30, 45, 40, -25, 30]), np.zeros(3), np.eye(4)),
    'T1w': pose.matrix(np.array([-20.0, 40, -25, -35, 20, 45]), np.zeros(3), np.eye(4)),
}


@pytest.fixture(scope='module')
def head(tmp_path_factory):
    """FLAIR and T1w of the demo, displaced in different ways, and where they truly lie."""
    folder = tmp_path_factory.mktemp('head')
    phantom = make_phantom(1, 3.0)
    grid = np.diag([3.0, 3.0, 3.0, 1.0])
    grid[:3, 3] = -150
    paths, place = {}, {}
    for name, move in MOVES.items():
        image = scan(phantom, session_protocols(1, 3.0)[name], 1)
        moved = resample(image, (100, 100, 100), grid, invert(move))
        paths[name] = folder / f'{name}.nii.gz'
        moved.to_filename(paths[name])
        place[name] = compose(move, phantom.scanner_from_subject(name, 1))
    return paths, place


def start(folder, **inputs):
    folder.mkdir()
    node = StartMatrix(**{name: str(value) for name, value in inputs.items()})
    return node.run(cwd=str(folder)).outputs


@pytest.fixture(scope='module')
def to_template(fsl, head, tmp_path_factory):
    brain = fsl / 'data/standard/MNI152_T1_1mm_brain.nii.gz'
    folder = tmp_path_factory.mktemp('start')
    return brain, start(folder / 'flair', in_file=head[0]['FLAIR'], template=brain)


def points():
    mask = load_template().mask
    return apply_affine(mask.affine, np.argwhere(np.asarray(mask.dataobj) > 0)[::2000])


def apart(first, second, where):
    return np.linalg.norm(apply_affine(first, where) - apply_affine(second, where), axis=1).mean()


def run_flirt(folder, dof, **inputs):
    """Run the stand-in with the command line that the workflow's node makes."""
    from mslesseg_app.participant.workflows.align_fsl import _flirt

    node = _flirt(dof, **{name: str(value) for name, value in inputs.items()})
    node.inputs.out_file = str(folder / 'out.nii.gz')
    node.inputs.out_matrix_file = str(folder / 'out.mat')
    assert flirt.main(shlex.split(node.cmdline)[1:]) == 0
    return read_matrix(folder / 'out.mat')


def test_displaced_head_is_found_through_the_start_only(to_template, head, tmp_path):
    """The schedule has no search: without our matrix the head is lost."""
    brain, found = to_template
    flair, reference = nb.load(head[0]['FLAIR']), nb.load(brain)
    right = align_exam({'FLAIR': flair}).moving_from_mni['FLAIR']
    inputs = {'in_file': head[0]['FLAIR'], 'reference': brain, 'ref_weight': found.weight}
    with_start = run_flirt(tmp_path, 12, in_matrix_file=found.out_file, **inputs)
    assert apart(fsl_to_ras(with_start, flair, reference), right, points()) < 2
    lost = fsl_to_ras(run_flirt(tmp_path, 12, **inputs), flair, reference)
    assert apart(lost, right, points()) > 20
    wrong = write_itk(tmp_path / 'lost.txt', lost)
    check = CheckAlignment(flair=str(head[0]['FLAIR']), flair_matrix=str(wrong), anchor='FLAIR')
    with pytest.raises(AlignmentError, match='cannot be trusted'):
        check.run(cwd=str(tmp_path))


def test_start_is_near_and_its_regions_fit(to_template, head):
    brain, found = to_template
    flair, reference = nb.load(head[0]['FLAIR']), nb.load(brain)
    weight, in_weight = nb.load(found.weight), nb.load(found.in_weight)
    assert weight.shape == reference.shape
    assert in_weight.shape == flair.shape
    assert np.allclose(in_weight.affine, flair.affine, atol=1e-4)
    flair_from_mni = fsl_to_ras(read_matrix(found.out_file), flair, reference)
    there = apply_affine(invert(in_weight.affine), apply_affine(flair_from_mni, points()))
    there = np.rint(there[((there > 0) & (there < np.array(flair.shape) - 1)).all(axis=1)])
    assert (np.asarray(in_weight.dataobj)[tuple(there.astype(int).T)] > 0).mean() > 0.99


def test_other_image_is_brought_to_the_anchor(to_template, head, tmp_path):
    brain, found = to_template
    (flair, t1w), place = (head[0]['FLAIR'], head[0]['T1w']), head[1]
    begin = start(
        tmp_path / 't1w', in_file=t1w, template=brain, anchor=flair,
        anchor_weight=found.in_weight, anchor_start=found.out_file,
    )  # fmt: skip
    matrix = run_flirt(
        tmp_path, 6, in_file=t1w, reference=flair, ref_weight=found.in_weight,
        in_matrix_file=begin.out_file,
    )  # fmt: skip
    t1w_from_flair = fsl_to_ras(matrix, nb.load(t1w), nb.load(flair))
    true = compose(place['T1w'], invert(place['FLAIR']))
    assert apart(t1w_from_flair, true, apply_affine(place['FLAIR'], points())) < 1


# ------------------------------------------------------- the stand-in behaves as FLIRT does


def tiny(path, affine):
    grid = np.indices((24, 24, 24))
    data = np.exp(-((grid - 12.0) ** 2).sum(axis=0) / 40) * 100 + grid[0]
    nb.Nifti1Image(data.astype(np.float32), affine).to_filename(path)
    return path


@pytest.mark.parametrize(
    'words', ['-norsearch', '-init', '-searchrx 1', '-dof 5', '-cost ssd', '-refweigth x']
)
def test_words_that_flirt_does_not_know_are_refused(tmp_path, words, capsys):
    image = tiny(tmp_path / 'a.nii.gz', np.diag([-2.0, 2, 2, 1]))
    with pytest.raises(SystemExit):
        flirt.main(['-in', str(image), '-ref', str(image), *words.split()])
    assert 'flirt' in capsys.readouterr().err


def test_weights_of_another_grid_are_refused(tmp_path):
    image = tiny(tmp_path / 'a.nii.gz', np.diag([-2.0, 2, 2, 1]))
    other = nb.Nifti1Image(np.ones((4, 4, 4), np.uint8), np.eye(4))
    other.to_filename(tmp_path / 'w.nii.gz')
    with pytest.raises(SystemExit, match='same size'):
        flirt.main(['-in', str(image), '-ref', str(image), '-refweight', f'{tmp_path}/w.nii.gz'])


def test_a_schedule_of_unknown_words_is_refused(tmp_path):
    image = tiny(tmp_path / 'a.nii.gz', np.diag([-2.0, 2, 2, 1]))
    (tmp_path / 's.sch').write_text('# words\nsetscale 4\nstart here\n')
    with pytest.raises(SystemExit, match='start'):
        flirt.main(['-in', str(image), '-ref', str(image), '-schedule', str(tmp_path / 's.sch')])


def test_without_a_schedule_the_centres_of_gravity_meet_first(tmp_path, monkeypatch):
    """Which is why the workflow has one: -nosearch alone forgets the shift of -init."""
    reference = tiny(tmp_path / 'ref.nii.gz', np.diag([-2.0, 2, 2, 1]))
    moving = tiny(tmp_path / 'mov.nii.gz', np.diag([-2.0, 2, 2, 1]))
    started = []
    monkeypatch.setattr(flirt, 'register', lambda *_, start, **__: started.append(start) or start)
    np.savetxt(tmp_path / 'init.mat', [[1, 0, 0, 9], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
    command = ['-in', str(moving), '-ref', str(reference), '-init', str(tmp_path / 'init.mat')]
    assert flirt.main([*command, '-nosearch']) == 0
    (tmp_path / 's.sch').write_text('setscale 4\n')
    assert flirt.main([*command, '-schedule', str(tmp_path / 's.sch')]) == 0
    np.testing.assert_allclose(started[0], np.eye(4), atol=1e-6)
    # By hand: radiological, so that 9 mm further in FLIRT's x is 9 mm to the left.
    np.testing.assert_allclose(started[1][:3, 3], [9, 0, 0], atol=1e-6)
