"""What is said when a program of FSL fails, is killed, cannot run, or only grumbles."""

from __future__ import annotations

import os
import traceback
from pathlib import Path

import nibabel as nb
import numpy as np
import pytest

from mslesseg_app.core.errors import MSLesSegError
from mslesseg_app.core.fsl import fsl_version, missing_fsl
from mslesseg_app.participant.interfaces.base import error_in
from mslesseg_app.participant.interfaces.fsl_programs import ReportedBET, ReportedFLIRT

#: The last argument but options decides where results go, as in FSL.
_COPY_OUT = """
while [ $# -gt 0 ]; do
  case "$1" in
    -in) input="$2"; shift ;;
    -out) cp "$input" "$2" ;;
    -omat) echo "1 0 0 0" > "$2" ;;
  esac
  shift
done
"""
_BET = 'cp "$1" "$2"; cp "$1" "${2%.nii.gz}_mask.nii.gz"'


@pytest.fixture
def fsl(tmp_path, monkeypatch):
    """An FSL whose programs are written by the test; returns the function that writes one."""
    root = tmp_path / 'fsl'
    (root / 'bin').mkdir(parents=True)
    (root / 'etc').mkdir()
    (root / 'etc' / 'fslversion').write_text('6.0.7.4:abc\n')
    monkeypatch.setenv('FSLDIR', str(root))
    monkeypatch.setenv('FSLOUTPUTTYPE', 'NIFTI_GZ')
    monkeypatch.setenv('PATH', f'{root / "bin"}{os.pathsep}/usr/bin{os.pathsep}/bin')
    (tmp_path / 'work').mkdir()
    monkeypatch.chdir(tmp_path / 'work')

    def program(name: str, script: str) -> None:
        path = root / 'bin' / name
        path.write_text(f'#!/bin/sh\n{script}\n')
        path.chmod(0o755)

    return program


@pytest.fixture
def image(tmp_path) -> str:
    path = tmp_path / 'head.nii.gz'
    nb.Nifti1Image(np.ones((4, 4, 4), np.float32), np.eye(4)).to_filename(path)
    return str(path)


def flirt(image: str) -> ReportedFLIRT:
    return ReportedFLIRT(in_file=image, reference=image, dof=12, output_type='NIFTI_GZ')


def bet(image: str) -> ReportedBET:
    return ReportedBET(in_file=image, mask=True, robust=True, output_type='NIFTI_GZ')


def told(node) -> MSLesSegError:
    """Run a node and return the error that the App makes of its traceback."""
    with pytest.raises(MSLesSegError) as caught:
        node.run()
    error = error_in(''.join(traceback.format_exception(caught.value)))
    assert error is not None
    return error


def test_a_run_tells_its_command_without_folders(fsl, image):
    fsl('flirt', _COPY_OUT)
    outputs = flirt(image).run().outputs
    assert outputs.command == (
        'flirt -in head.nii.gz -ref head.nii.gz -out head_flirt.nii.gz '
        '-omat head_flirt.mat -dof 12'
    )
    fsl('bet', _BET)
    assert bet(image).run().outputs.command == 'bet head.nii.gz head_brain.nii.gz -m -R'


@pytest.mark.parametrize(
    ('script', 'code', 'words'),
    [
        (
            'echo one >&2; echo "Cannot open volume" >&2; exit 3',
            65,
            ('exit code 3', 'Cannot open'),
        ),
        ('exit 0', 65, ('wrote no result',)),
        ('kill -9 $$', 75, ('SIGKILL', 'memory')),
        ('kill -15 $$', 75, ('SIGTERM',)),
        ('exit 137', 75, ('SIGKILL',)),
        (
            'echo "flirt: error while loading shared libraries: libopenblas.so.0" >&2; exit 127',
            64,
            ('cannot run here', 'libopenblas'),
        ),
    ],
)
@pytest.mark.parametrize('name', ['flirt', 'bet'])
def test_a_failure_is_told_in_full(fsl, image, name, script, code, words):
    fsl(name, script)
    error = told(flirt(image) if name == 'flirt' else bet(image))
    assert error.exit_code == code
    text = error.message + error.hint
    assert f"FSL's {name}" in text
    assert f'The command was: {name} ' in text
    assert Path(image).name in text
    assert all(word in text for word in words), text
    assert error.hint


def test_a_program_that_is_not_there(fsl, image):
    error = told(flirt(image))
    assert error.exit_code == 64
    assert 'could not be started' in error.message


def test_a_warning_is_no_failure_when_the_mask_is_there(fsl, image):
    fsl('bet', f'echo "Warning: unusual values" >&2; {_BET}')
    assert Path(bet(image).run().outputs.mask_file).is_file()


def test_a_warning_without_a_mask_is_one(fsl, image):
    fsl('bet', 'echo "Warning: no brain" >&2; cp "$1" "$2"')
    error = told(bet(image))
    assert error.exit_code == 65
    assert 'no brain' in error.message


def test_half_an_fsl_is_missing_what_its_scripts_call(fsl, tmp_path):
    standard = tmp_path / 'fsl/data/standard'
    standard.mkdir(parents=True)
    for name in ('MNI152_T1_1mm.nii.gz', 'MNI152_T1_1mm_brain.nii.gz'):
        (standard / name).touch()
    for name in ('flirt', 'bet', 'bet2', 'fslval', 'fslstats', 'imtest', 'remove_ext', 'dc'):
        fsl(name, 'exit 0')
    assert missing_fsl() == []
    for name in ('bet2', 'fslval', 'fslstats', 'imtest', 'remove_ext'):
        (tmp_path / 'fsl/bin' / name).unlink()
        assert missing_fsl() == [name]
        fsl(name, 'exit 0')
    assert fsl_version() == '6.0.7.4'


def test_versions_of_conda_packages(fsl, tmp_path):
    (tmp_path / 'fsl/etc/fslversion').unlink()
    assert fsl_version() == 'unknown'
    meta = tmp_path / 'fsl/conda-meta'
    meta.mkdir()
    for name, version in (('fsl-flirt', '2111.4'), ('fsl-bet2', '2111.8'), ('fsl-x', '1')):
        (meta / f'{name}-{version}-0.json').write_text(
            f'{{"name": "{name}", "version": "{version}"}}'
        )
    assert fsl_version() == 'fsl-bet2 2111.8, fsl-flirt 2111.4'
