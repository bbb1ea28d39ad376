"""Sessions that share a within-subject template, from end to end."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from running import QUICK, RESOLUTION, computed_nodes
from skeleton import path_of

OPTIONS = ('--subject-anatomical-reference', 'unbiased', '--ignore', 't1w', 't2w', *QUICK)
MASK = 'space-orig_label-lesion_desc-hyperintensity_mask.json'


def anat(root: Path, exam: str, name: str) -> Path:
    subject, session = exam.split('_')
    return root / 'out' / subject / session / 'anat' / f'{exam}_{name}'


def determinant(root: Path, exam: str) -> float:
    name = 'from-FLAIR_to-MNI152NLin6Asym_mode-image_xfm.txt'
    transform = sitk.AffineTransform(sitk.ReadTransform(str(anat(root, exam, name))))
    return float(np.linalg.det(np.array(transform.GetMatrix()).reshape(3, 3)))


def make_input(bids: Path) -> None:
    """Write two subjects; one session of each has a file that is broken."""
    from phantom_dataset import make_dataset

    dataset = make_dataset(bids, n_sessions=2, resolution=RESOLUTION)
    for name in ('sub-demo_ses-3', 'sub-late_ses-1', 'sub-late_ses-2'):
        path = bids / path_of(f'{name}_FLAIR')
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(dataset.images['1', 'FLAIR'], path)
    for name in ('sub-demo_ses-3', 'sub-late_ses-2'):
        path = bids / path_of(f'{name}_FLAIR')
        path.write_bytes(path.read_bytes()[:20_000])


@pytest.mark.slow
def test_sessions_share_a_template(run, tmp_path):
    """One run for all: it takes a minute."""
    make_input(tmp_path / 'bids')
    command = [tmp_path / 'bids', tmp_path / 'out', 'participant', '-w', tmp_path / 'work']
    done = run(*command, *OPTIONS)
    check_broken_sessions(tmp_path, done)
    sizes = [determinant(tmp_path, f'sub-demo_ses-{k}') for k in (1, 2)]
    assert sizes[0] == pytest.approx(sizes[1], rel=1e-12)
    check_records(tmp_path)
    check_lonely_session(tmp_path)
    before = computed_nodes(tmp_path / 'work')
    assert run(*command, *OPTIONS).code == 65
    now = computed_nodes(tmp_path / 'work')
    again = {name for name in before if before[name] != now.get(name)}
    # the table of the later session has just been written anew, without what became of its lesions
    assert again <= {'conform_flair', 'compare_1_2'}, 'only those of the broken sessions try again'


def check_broken_sessions(root, done):
    """They harm no other."""
    assert done.code == 65, done.stderr
    assert '3 of 5 exams done' in done.stdout
    assert 'truncated' in done.stderr
    for exam in ('sub-demo_ses-3', 'sub-late_ses-2'):
        assert f'{exam}: ' in done.stderr
        assert not list(anat(root, exam, '').parent.glob('*.nii.gz'))


def check_records(root):
    for k in (1, 2):
        sidecar = json.loads(anat(root, f'sub-demo_ses-{k}', MASK).read_text())
        assert sidecar['SubjectAnatomicalReference'] == 'unbiased'
        assert sidecar['SubjectAnatomicalReferenceSessions'] == ['1', '2']
    page = (root / 'out/sub-demo.html').read_text()
    assert 'within-subject template of the sessions 1, 2' in page
    assert 'half-way between them' in (root / 'out/logs/CITATION.md').read_text()
    (settings,) = (root / 'out/logs').glob('*.toml')
    assert 'subject_anatomical_reference = "unbiased"' in settings.read_text()


def check_lonely_session(root):
    """The only usable session of a subject is aligned on its own, and says so."""
    sidecar = json.loads(anat(root, 'sub-late_ses-1', MASK).read_text())
    assert sidecar['SubjectAnatomicalReference'] == 'sessionwise'
    assert 'no other session' in sidecar['SubjectAnatomicalReferenceNote']
    assert 'Aligned on its own, sessionwise' in (root / 'out/sub-late.html').read_text()
