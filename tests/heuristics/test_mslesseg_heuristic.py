"""The heuristic's decisions, one row a series as scanners and hospitals write them."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import tarfile
from pathlib import Path
from types import ModuleType
from typing import Any

import nibabel as nb
import numpy as np
import pydicom
import pytest
from heudiconv.utils import SeqInfo

HEURISTIC = Path(__file__).resolve().parents[2] / 'heuristics' / 'mslesseg.py'


def series(name: str = '', tr: float = -1.0, te: float = -1.0, **changes: Any) -> SeqInfo:
    """A series of 30 slices; `ti`, `scanning`, `dimensions`, `agent` go to ``custom``."""
    extra = {
        key: changes.pop(key)
        for key in ('ti', 'scanning', 'dimensions', 'agent')
        if key in changes
    }
    custom = tuple({'TI' if key == 'ti' else key: value for key, value in extra.items()}.items())
    fields = dict.fromkeys(SeqInfo._fields, '')
    fields |= {
        'total_files_till_now': 30,
        'series_id': '3-' + name,
        'series_files': 30,
        'dim1': 256,
        'dim2': 256,
        'dim3': 30,
        'dim4': 1,
        'TR': tr,
        'TE': te,
        'series_description': name,
        'is_motion_corrected': False,
        'is_derived': False,
        'image_type': ('ORIGINAL', 'PRIMARY', 'M', 'ND'),
        'custom': custom or None,
    }
    return SeqInfo(**(fields | changes))


# name, TR (s), TE (ms), TI (ms), scanning sequence -> suffix
BY_PHYSICS = [
    # FLAIR by inversion time, whatever it is called
    ('t2_tirm_tra_dark-fluid', 9.0, 94, 2500, 'SE/IR', 'FLAIR'),
    ('FLAIR_LongTR', 11.0, 125, 2800, 'IR', 'FLAIR'),
    ('Sag CUBE T2 FLAIR', 8.0, 126, 2230, 'SE/IR', 'FLAIR'),
    ('BRAIN_VIEW FLAIR', 4.8, 340, 1650, 'SE/IR', 'FLAIR'),
    ('t2_space_dark-fluid_sag_p2_iso', 5.0, 393, 1800, 'SE/IR', 'FLAIR'),
    ('Serie 7', 8.0, 120, 2200, 'IR', 'FLAIR'),
    ('T2W', 8.0, 120, 2200, 'IR', 'FLAIR'),  # the name lies
    ('3D_FLAIR_VISTA', 4.8, 276, 1660, '', 'FLAIR'),
    # T1w
    ('t1_mprage_sag_p2_iso', 2.3, 2.98, 900, 'GR/IR', 'T1w'),
    ('Ax T1 FLAIR', 2.2, 24, 860, 'SE/IR', 'T1w'),
    ('Ax FLAIR', 2.2, 24, 860, 'SE/IR', 'T1w'),  # what GE calls T1 FLAIR
    ('Sag 3D FSPGR', 0.0074, 3.0, 450, 'GR', 'T1w'),
    ('eT1 MPRAGE +C', 0.0081, 3.7, -1, 'GR', 'T1w'),
    ('SE T1 post-gado', 0.55, 12, -1, 'SE', 'T1w'),
    ('t1_se_tra', 0.45, 8.4, -1, 'SE', 'T1w'),
    ('T1W_3D_TFE', 0.0083, 3.8, -1, 'GR', 'T1w'),
    ('Serie 3', 0.5, 10, -1, 'SE', 'T1w'),
    ('Sag CUBE T1', 0.6, 16, -1, 'SE', 'T1w'),
    # T2w and PD
    ('T2W_TSE', 3.0, 80, -1, 'SE', 'T2w'),
    ('t2_tse_tra', 5.5, 99, -1, 'SE', 'T2w'),
    ('Ax FRFSE', 4.6, 102, -1, 'SE', 'T2w'),
    ('assiale DP-T2', 2.5, 98, -1, 'SE', 'T2w'),
    ('assiale DP-T2', 2.5, 12, -1, 'SE', 'PDw'),
    ('pd+t2_tse_tra', 3.2, 15, -1, 'SE', 'PDw'),
    ('Densité de protons', 2.8, 20, -1, 'SE', 'PDw'),
    ('t2_space_sag', 3.2, 408, -1, 'SE', 'T2w'),
    ('Serie 5', 5.0, 100, -1, 'SE', 'T2w'),
    # inversion unknown: the name chooses among what is possible
    ('Dunkelfluid', 9.0, 94, -1, '', 'FLAIR'),
    ('Ax T2', 9.0, 94, -1, '', 'T2w'),
    ('MPRAGE', 2.3, 2.98, -1, '', 'T1w'),
    ('T1 mit GD', 2.1, 12, -1, 'SE', 'T1w'),
    # none of ours
    ('tra STIR', 4.0, 60, 150, 'IR', ''),
    ('T1', 5.0, 40, 150, 'IR', ''),
    ('gre', 0.7, 25, -1, 'GR', ''),
    ('something', 6.0, 90, -1, 'SE/EP', ''),
]


@pytest.mark.parametrize(('name', 'tr', 'te', 'ti', 'scanning', 'suffix'), BY_PHYSICS)
def test_physics_decides_first(
    heuristic: ModuleType, name: str, tr: float, te: float, ti: float, scanning: str, suffix: str
) -> None:
    decision = heuristic.decide(series(name, tr, te, ti=ti, scanning=scanning))
    assert decision.suffix == suffix, decision.reason


@pytest.mark.parametrize(
    ('suffix', 'tr', 'te', 'ti', 'kinds'),
    [
        ('FLAIR', (6860, 1751), (276, 89), (2073, 340), 'SE/IR'),
        ('T2w', (5899, 1976), (103, 11), None, 'SE'),
    ],
)
def test_means_and_two_standard_deviations_of_the_release_are_in_the_rules(
    heuristic: ModuleType, suffix: str, tr: Any, te: Any, ti: Any, kinds: str
) -> None:
    for a, b, c in itertools.product((-1.9, 0, 1.9), repeat=3):
        values = {'ti': ti[0] + c * ti[1]} if ti else {}
        given = series('', (tr[0] + a * tr[1]) / 1000, te[0] + b * te[1], scanning=kinds, **values)
        assert heuristic.decide(given).suffix == suffix


BY_NAME = [
    ('t2_tirm_tra_dark-fluid_320', 'FLAIR'),
    ('FLAIR ax', 'FLAIR'),
    ('Dunkelfluid', 'FLAIR'),
    ('T2 FLAIR 3D sagital', 'FLAIR'),
    ('SAG 3D SUPPR LCR', 'FLAIR'),
    ('MPRAGE', 'T1w'),
    ('eT1W_TSE', 'T1w'),
    ('T1 assiale', 'T1w'),
    ('IR-FSPGR', 'T1w'),
    ('t1 flair', 'T1w'),
    ('Ponderación T1', 'T1w'),
    ('T2 axial', 'T2w'),
    ('T2 pondérée', 'T2w'),
    ('Ax PD', 'PDw'),
    ('Protonendichte', 'PDw'),
    ('densidad protónica', 'PDw'),
    ('Kopf', ''),
    ('', ''),
]


@pytest.mark.parametrize(('name', 'suffix'), BY_NAME)
def test_name_decides_without_physics(heuristic: ModuleType, name: str, suffix: str) -> None:
    assert heuristic.decide(series(name)).suffix == suffix


AGENT = [
    ('eT1 MPRAGE +C', True),
    ('SE T1 post-gado', True),
    ('AX T1 POST', True),
    ('t1_mprage_KM', True),
    ('T1 con contraste', True),
    ('T1 C/C', True),
    ('T1 dopo mdc', True),
    ('T1 après injection', True),
    ('T1 tra nach KM', True),
    ('T1 + Gd', True),
    ('T1 FS Gadolinium', True),
    ('AX T1 PRE', False),
    ('T1 pre-gado', False),
    ('T1 ohne KM', False),
    ('T1 sin contraste', False),
    ('T1 S/C', False),
    ('T1 senza mdc', False),
    ('T1 sans injection', False),
    ('T1 w/o contrast', False),
    ('T1 nativ', False),
    ('T1 SE sag', False),
]


@pytest.mark.parametrize(('name', 'given'), AGENT)
def test_contrast_agent_is_read_from_names_in_several_languages(
    heuristic: ModuleType, name: str, given: bool
) -> None:
    assert heuristic.decide(series(name, 0.5, 10, scanning='SE')).agent is given


@pytest.mark.parametrize(('agent', 'given'), [('Gadovist', True), ('', False), ('NONE', False)])
def test_contrast_agent_of_the_header_counts_when_the_name_is_silent(
    heuristic: ModuleType, agent: str, given: bool
) -> None:
    decision = heuristic.decide(series('t1_se_tra', 0.5, 10, scanning='SE', agent=agent))
    assert decision.agent is given


UNWANTED = [
    'localizer',
    '3-plane loc',
    'AAHead_Scout',
    'Survey SHC',
    'ep2d_diff_3scan_trace_p2_ADC',
    'DWI b1000',
    'SWI_Images',
    'T2* GRE',
    'TOF_3D_multi-slab',
    'FLAIR MPR tra',
    'T1 MIP',
    'MPRAGE rfmt',
    'Perfusion DSC',
    'Screen Save',
    'PhoenixZIPReport',
    'T2 cervical sag',
    'DIR sag 3D',
    't1_mp2rage_sag',
    'T1 subtraction',
]


@pytest.mark.parametrize('name', UNWANTED)
def test_unwanted_names_are_left_out_even_with_good_physics(
    heuristic: ModuleType, name: str
) -> None:
    decision = heuristic.decide(series(name, 0.5, 10, scanning='SE'))
    assert not decision.suffix
    assert decision.reason


@pytest.mark.parametrize(
    'changes',
    [
        {'image_type': ('DERIVED', 'SECONDARY', 'MPR')},
        {'image_type': ('ORIGINAL', 'PRIMARY', 'P', 'ND')},
        {'is_derived': True},
        {'is_motion_corrected': True},
        {'dim3': 3},
    ],
)
def test_derived_and_tiny_series_are_left_out(
    heuristic: ModuleType, changes: dict[str, Any]
) -> None:
    assert not heuristic.decide(series('T1', 0.5, 10, **changes)).suffix


@pytest.mark.parametrize(
    ('changes', 'acq'),
    [
        ({'dimensions': '2D', 'dim3': 200}, '2D'),
        ({'dimensions': '3D'}, '3D'),
        ({'sequence_name': '*tfl3d1_16ns'}, '3D'),
        ({'dim3': 176}, '3D'),
        ({}, '2D'),
    ],
)
def test_dimensions_come_from_header_then_names_then_slices(
    heuristic: ModuleType, changes: dict[str, Any], acq: str
) -> None:
    assert heuristic.decide(series('T1', 0.5, 10, **changes)).acq == acq


def stems(info: dict[Any, list[str]]) -> dict[str, list[str]]:
    """Names without the folder and the subject's prefix."""
    prefix = '{bids_subject_session_dir}/anat/{bids_subject_session_prefix}_'
    return {key[0].removeprefix(prefix): ids for key, ids in info.items()}


def test_one_study_gets_the_names_of_bids(heuristic: ModuleType) -> None:
    study = [
        series('localizer', 0.01, 3, series_id='1'),
        series('t1_mprage', 2.3, 3, ti=900, dimensions='3D', series_id='2'),
        series('t2_tse', 5.0, 100, series_id='3'),
        series('flair', 9.0, 94, ti=2500, dimensions='2D', series_id='4'),
        series('flair', 9.0, 94, ti=2500, dimensions='2D', series_id='5'),
        series('t1_se +gd', 0.5, 10, series_id='6'),
    ]
    assert stems(heuristic.infotodict(study)) == {
        'acq-3D_T1w': ['2'],
        'acq-2D_T2w': ['3'],
        'acq-2D_run-01_FLAIR': ['4'],
        'acq-2D_run-02_FLAIR': ['5'],
        'acq-2D_ce-gadolinium_T1w': ['6'],
    }


def test_normalised_twin_of_a_series_is_named_so(heuristic: ModuleType) -> None:
    plain = series('t1_mprage', 2.3, 3, series_id='2')
    norm = plain._replace(series_id='3', image_type=('ORIGINAL', 'PRIMARY', 'M', 'NORM'))
    assert stems(heuristic.infotodict([plain, norm])) == {
        'acq-3D_rec-norm_T1w': ['3'],
        'acq-3D_T1w': ['2'],
    }
    assert stems(heuristic.infotodict([norm])) == {'acq-3D_T1w': ['3']}


def test_physics_is_read_from_classic_and_enhanced_headers(heuristic: ModuleType) -> None:
    class Wrapper:
        dcm_data = pydicom.Dataset()

    classic = Wrapper.dcm_data
    classic.RepetitionTime, classic.EchoTime, classic.InversionTime = 9000, 94, 2500
    classic.ScanningSequence = ['SE', 'IR']
    timing, echo, modifier = pydicom.Dataset(), pydicom.Dataset(), pydicom.Dataset()
    timing.RepetitionTime, echo.EffectiveEchoTime, modifier.InversionTimes = 9000, 94, [2500]
    modifier.InversionRecovery = 'YES'
    group = pydicom.Dataset()
    group.MRTimingAndRelatedParametersSequence = [timing]
    group.MREchoSequence = [echo]
    group.MRModifierSequence = [modifier]
    enhanced = pydicom.Dataset()
    enhanced.SharedFunctionalGroupsSequence = [group]
    enhanced.EchoPulseSequence = 'SPIN'
    for dataset in (classic, enhanced):
        wrapper = Wrapper()
        wrapper.dcm_data = dataset
        custom = heuristic.custom_seqinfo(wrapper=wrapper, series_files=[])
        assert hash(custom) is not None
        physics = heuristic._physics(series(custom=custom))
        assert physics[:3] == (9.0, 94.0, 2500.0)
        assert physics.scanning == {'SE', 'IR'}
        assert heuristic.decide(series(custom=custom)).suffix == 'FLAIR'


def test_only_mr_images_are_read(heuristic: ModuleType) -> None:
    dataset = pydicom.Dataset()
    assert not heuristic.filter_dicom(dataset)
    dataset.Modality = 'SR'
    assert heuristic.filter_dicom(dataset)


@pytest.mark.realdata
@pytest.mark.parametrize('minimal', [True, False])
def test_heudiconv_turns_a_real_series_into_bids(
    tmp_path: Path, real_data: Path, venv_bin: Path, minimal: bool
) -> None:
    with tarfile.open(real_data / 'dicom-t1' / 'ge-mprage.tgz') as archive:
        archive.extractall(tmp_path / 'dicom', filter='data')
    command = [venv_bin / 'heudiconv', '--files', tmp_path / 'dicom', '-s', '01', '-f', HEURISTIC]
    command += ['-c', 'dcm2niix', '-b', '-o', tmp_path / 'bids', *(['--minmeta'] * minimal)]
    path = f'{venv_bin}{os.pathsep}{os.environ["PATH"]}'  # where HeuDiConv looks for dcm2niix
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
        env={**os.environ, 'PATH': path},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    anat = tmp_path / 'bids' / 'sub-01' / 'anat'
    assert [path.name for path in anat.glob('*.nii.gz')] == ['sub-01_acq-3D_T1w.nii.gz']
    image = nb.load(anat / 'sub-01_acq-3D_T1w.nii.gz')
    assert np.ptp(np.asanyarray(image.dataobj)) > 0
    assert json.loads((anat / 'sub-01_acq-3D_T1w.json').read_text())['Manufacturer'] == 'GE'
