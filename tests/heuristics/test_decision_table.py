"""The decision table: series as scanners and hospitals write them, and what becomes of them."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import nibabel as nb
import numpy as np
import pydicom
import pytest
from heudiconv.dicoms import group_dicoms_into_seqinfos

from mslesseg_app.demo.dicom import DemoStudy, Patient, write_series

GR, SE, IR, GRIR = 'GR', 'SE', 'SE\\IR', 'GR\\IR'


class Case(NamedTuple):
    """One series; times in ms, -1 for what the header does not hold.

    ``name`` is the BIDS name behind the subject, '' where the series is left out; ``why`` a part
    of the reason.
    """

    vendor: str
    description: str
    tr: float
    te: float
    ti: float
    flip: float
    scanning: str
    dimensions: str
    name: str
    why: str
    fields: dict[str, Any] = {}

    def sidecar(self) -> dict[str, Any]:
        """Return the physics in the keys and units of BIDS, without what is absent."""
        content = {
            'RepetitionTime': self.tr / 1000,
            'EchoTime': self.te / 1000,
            'InversionTime': self.ti / 1000,
            'FlipAngle': self.flip,
            'ScanningSequence': self.scanning,
            'MRAcquisitionType': self.dimensions,
        }
        return {
            key: value
            for key, value in content.items()
            if (value != '' if isinstance(value, str) else value >= 0)
        }


F2, F3, T1_2, T1_3 = 'acq-2D_FLAIR', 'acq-3D_FLAIR', 'acq-2D_T1w', 'acq-3D_T1w'
T2, T2_3, PD = 'acq-2D_T2w', 'acq-3D_T2w', 'acq-2D_PDw'
GD_2, GD_3 = 'acq-2D_ce-gadolinium_T1w', 'acq-3D_ce-gadolinium_T1w'
MPR = {'ImageType': ['DERIVED', 'PRIMARY', 'MPR', 'ND']}

SIEMENS = [
    ('t2_tirm_tra_dark-fluid', 9000, 94, 2500, 150, IR, '2D', F2, 'physics'),
    ('t2_space_dark-fluid_sag_p2_iso', 5000, 393, 1800, 120, IR, '3D', F3, 'physics'),
    ('Dunkelfluid', 8500, 83, -1, 150, '', '2D', F2, 'name among T2w/FLAIR'),
    ('T2W', 8000, 120, 2200, 150, IR, '2D', F2, 'physics'),  # the name lies
    ('t1_mprage_sag_p2_iso', 2300, 2.98, 900, 9, GRIR, '3D', T1_3, 'physics'),
    ('t1_mpr_ns_sag', 1900, 2.5, 900, 9, GRIR, '3D', T1_3, 'physics'),  # Siemens' MPRAGE
    ('t1_se_tra', 450, 8.4, -1, 90, SE, '2D', T1_2, 'physics'),
    ('t1_tse_tra_fs_KM', 650, 9.6, -1, 150, SE, '2D', GD_2, 'physics'),
    ('t1_vibe_fs_tra post', 6.7, 2.4, -1, 10, GR, '3D', GD_3, 'physics'),
    ('t1_fl2d_tra', 250, 2.5, -1, 70, GR, '2D', T1_2, 'physics'),
    ('t2_tse_tra_512', 5500, 99, -1, 150, SE, '2D', T2, 'name among T2w/FLAIR'),
    ('Serie 5', 5000, 100, -1, 150, SE, '2D', T2, 'name silent'),
    ('t2_space_sag', 3200, 408, -1, 120, SE, '3D', T2_3, 'physics'),
    ('pd+t2_tse_tra', 3200, 15, -1, 150, SE, '2D', PD, 'physics'),
    ('pd+t2_tse_tra', 3200, 102, -1, 150, SE, '2D', T2, 'physics'),
    ('t1_mp2rage_sag_INV1', 5000, 2.98, 700, 4, GRIR, '3D', '', 'other contrast'),
    ('Kopf 1', 5000, 2.98, 700, 4, GRIR, '3D', '', 'no contrast of ours'),  # MP2RAGE unnamed
    ('Kopf 2', 5000, 2.98, 2500, 5, GRIR, '3D', '', 'no contrast of ours'),
    ('dir_space_sag', 7500, 320, 3000, 120, IR, '3D', '', 'other contrast'),
    ('t1_psir_tra', 4000, 11, 400, 150, IR, '2D', '', 'other contrast'),
    ('t2_tirm_cor', 4000, 60, 150, 150, IR, '2D', '', 'no contrast of ours'),  # STIR
    ('ep2d_diff_3scan_trace', 6000, 90, -1, 90, 'EP', '2D', '', 'diffusion'),
    ('Serie 12', 6000, 90, -1, 90, 'SE\\EP', '2D', '', 'echo-planar readout'),
    ('SWI_Images', 28, 20, -1, 15, GR, '3D', '', 'susceptibility'),
    ('Serie 9', 700, 20, -1, 20, GR, '2D', '', 'no contrast of ours'),  # T2* without a name
    ('TOF_3D_multi-slab', 22, 3.6, -1, 18, GR, '3D', '', 'angiography'),
    ('Kopf 3', 22, 3.6, -1, 18, GR, '3D', '', 'angiography', {'AngioFlag': 'Y'}),
    ('gre_field_mapping', 400, 4.92, -1, 60, GR, '2D', '', 'calibration'),
    ('gre_fm', 400, 4.92, -1, 60, GR, '2D', '', 'calibration'),
    ('B0Map', 650, 4.92, -1, 60, GR, '2D', '', 'calibration'),
    ('Kopf 4', 650, 4.92, -1, 60, GR, '2D', '', 'pixels of 3.0 mm', {'PixelSpacing': [3, 3]}),
    ('Serie 11', 6000, 40, -1, 90, 'GR\\EP', '2D', '', 'echo-planar', {'SequenceVariant': 'SS'}),
    ('sag 3d', 6, 2.7, -1, 50, GR, '3D', '', 'no contrast of ours'),  # balanced
    ('localizer', 8.6, 4, -1, 20, GR, '2D', '', 'localizer'),
    ('FLAIR sag', 5000, 393, 1800, 120, IR, '3D', '', 'MPR', MPR),
    (
        't1_mprage P',
        2300,
        3,
        900,
        9,
        GRIR,
        '3D',
        '',
        'partial',
        {'ImageType': 'ORIGINAL\\PRIMARY\\P'},
    ),
    ('T2 cervical sag', 3500, 100, -1, 150, SE, '2D', '', 'not the brain'),
    ('T1 subtraction', 450, 8.4, -1, 90, SE, '2D', '', 'subtraction'),
]
GE = [
    ('Sag CUBE T2 FLAIR', 8000, 126, 2230, 90, IR, '3D', F3, 'physics'),
    ('Ax T2 FLAIR', 9000, 120, 2250, 160, SE, '2D', F2, 'physics'),
    ('OAx FLAIR FS +C', 9000, 120, 2250, 160, IR, '2D', 'acq-2D_ce-gadolinium_FLAIR', 'physics'),
    ('Ax T1 FLAIR', 2200, 24, 860, 111, IR, '2D', T1_2, 'physics'),
    ('Ax FLAIR', 2200, 24, 860, 111, IR, '2D', T1_2, 'physics'),  # GE's T1 FLAIR, the name lies
    ('Sag 3D BRAVO', 8.4, 3.2, 450, 12, GR, '3D', T1_3, 'physics'),
    ('AX 3D FSPGR POST GAD', 7.4, 3.0, -1, 12, GR, '3D', GD_3, 'physics'),
    ('3D Ax T1 MP-RAGE', 2218, 3.17, 1000, 8, 'RM\\IR', '3D', T1_3, 'physics'),
    ('eT1 MPRAGE +C', 8.1, 3.7, -1, 8, GR, '3D', GD_3, 'physics'),
    ('SE T1 post-gado', 550, 12, -1, 90, SE, '2D', GD_2, 'physics'),
    ('AX T1 PRE', 550, 12, -1, 90, SE, '2D', T1_2, 'physics', {'ContrastBolusAgent': 'GADAVIST'}),
    ('AX T1', 550, 12, -1, 90, SE, '2D', GD_2, 'physics', {'ContrastBolusAgent': 'GADAVIST'}),
    ('AX T1', 550, 12, -1, 90, SE, '2D', T1_2, 'physics', {'ContrastBolusAgent': 'NONE'}),
    ('Ax FRFSE', 4600, 102, -1, 160, SE, '2D', T2, 'name among T2w/FLAIR'),
    ('Ax T2 FSE PROPELLER', 4500, 100, -1, 160, SE, '2D', T2, 'name among T2w/FLAIR'),
    ('Ax PD', 2800, 20, -1, 160, SE, '2D', PD, 'name among'),
    ('3 Plane Loc', 5, 1.5, -1, 30, GR, '2D', '', 'localizer'),
    ('ASSET calibration', 150, 2.1, -1, 30, GR, '2D', '', 'calibration'),
    ('Ax MERGE', 600, 13, -1, 20, GR, '2D', '', 'susceptibility'),
    ('Ax FIESTA-C', 5.5, 2.2, -1, 60, GR, '3D', '', 'other contrast'),
    ('MPRAGE rfmt', 8.4, 3.2, 450, 12, GR, '3D', '', 'reformat'),
    ('Screen Save', 9000, 120, 2250, 160, IR, '2D', '', 'screen'),
    ('Kopf', 9000, 120, 2250, 160, IR, '2D', '', 'a screen shot',
     {'SOPClassUID': '1.2.840.10008.5.1.4.1.1.7'}),
    ('Ax T1', 550, 12, -1, 90, SE, '2D', '', 'derived',
     {'ImageType': ['DERIVED', 'SECONDARY', 'OTHER']}),
    ('VFA fa4', 15, 4, -1, 4, GR, '3D', 'acq-3D_PDw', 'physics'),
]  # fmt: skip
PHILIPS = [
    ('BRAIN_VIEW FLAIR', 4800, 340, 1650, 90, IR, '3D', F3, 'physics'),
    ('FLAIR_LongTR SENSE', 11000, 125, 2800, 90, IR, '2D', F2, 'physics'),
    ('WIP 3D_FLAIR_VISTA SENSE', 4800, 276, 1660, 90, IR, '3D', F3, 'physics'),
    ('T1W_3D_TFE', 8.3, 3.8, -1, 8, GR, '3D', T1_3, 'physics'),
    ('T1-FFE', 256, 3.5, -1, 80, GR, '2D', T1_2, 'physics',
     {'SequenceVariant': 'SS', 'AcquisitionContrast': 'T1'}),
    ('T1W_FFE 3D', 12, 4.6, -1, 25, GR, '3D', T1_3, 'physics',
     {'SequenceVariant': 'SS', 'AcquisitionContrast': 'T1'}),
    ('Kopf', 12, 4.6, -1, 40, GR, '3D', '', 'steady state', {'SequenceVariant': 'SS'}),
    ('sT1W_3D_FFE', 25, 4.6, -1, 30, GR, '3D', T1_3, 'physics'),
    ('T1W_IR_TSE', 2000, 15, 400, 90, IR, '2D', T1_2, 'physics'),
    ('T1W_SE +C', 500, 15, -1, 69, SE, '2D', GD_2, 'physics'),
    ('T1 con contraste', 500, 15, -1, 69, SE, '2D', GD_2, 'physics'),
    ('T1 S/C', 500, 15, -1, 69, SE, '2D', T1_2, 'physics'),
    ('T2W_TSE', 3000, 80, -1, 90, SE, '2D', T2, 'physics'),
    ('T2W_DRIVE', 3000, 100, -1, 90, SE, '2D', T2, 'physics'),
    ('assiale DP-T2', 2500, 98, -1, 90, SE, '2D', T2, 'physics'),
    ('assiale DP-T2', 2500, 12, -1, 90, SE, '2D', PD, 'name among PDw/T1w'),
    ('T1 mit GD', 2100, 12, -1, 90, SE, '2D', GD_2, 'name among PDw/T1w'),
    ('SURVEY', 11, 4.6, -1, 15, GR, '2D', '', 'localizer'),
    ('sBFFE', 5, 2.5, -1, 60, GR, '3D', '', 'no contrast of ours'),
    ('DWI_SSh', 4000, 80, -1, 90, 'SE\\EP', '2D', '', 'diffusion'),
    ('T1W_IR real', 2000, 15, 400, 90, IR, '2D', '', 'partial',
     {'ImageType': ['ORIGINAL', 'PRIMARY', 'R_IR', 'R', 'IR']}),
]  # fmt: skip
ENHANCED = [
    ('t2_spc_da-fl_sag_iso', 5000, 388, 1800, 120, IR, '3D', F3, 'physics'),
    ('t2_tirm_tra_da-fl', 9000, 85, -1, 150, '', '2D', F2, 'name among T2w/FLAIR'),
    ('t1_mprage_sag_iso', 1800, 2.4, 900, 8, GRIR, '3D', T1_3, 'physics'),
    ('t1_tse_tra_post', 600, 9, -1, 150, SE, '2D', GD_2, 'physics'),
    ('t2_qtse_tra', 5000, 100, -1, 150, SE, '2D', T2, 'name among T2w/FLAIR'),
    ('Serie 4', 9000, 85, -1, 150, '', '2D', F2, 'contrast FLUID_ATTENUATED',
     {'AcquisitionContrast': 'FLUID_ATTENUATED'}),
    ('Serie 6', 5000, 80, -1, 90, SE, '2D', '', 'contrast DIFFUSION',
     {'AcquisitionContrast': 'DIFFUSION'}),
    ('t1_mprage_sag', 1800, 2.4, 900, 8, GRIR, '3D', '', 'phase image',
     {'ComplexImageComponent': 'PHASE'}),
    ('Serie 8', 6000, 90, -1, 90, SE, '2D', '', 'echo-planar readout',
     {'EchoPlanarPulseSequence': 'YES'}),
    ('t1_mprage_sag_MPR', 1800, 2.4, 900, 8, GRIR, '3D', '', 'MPR', MPR),
]  # fmt: skip
OTHERS = [
    ('FLAIR AX', 10000, 105, 2700, 90, IR, '2D', F2, 'physics', {'Manufacturer': 'CANON_MEC'}),
    ('T1W Ax SE', 500, 14, -1, 90, SE, '2D', T1_2, 'physics', {'Manufacturer': 'Hitachi'}),
    ('Ax T2 FSE', 4000, 110, -1, 90, '', '2D', T2, 'name among', {'Manufacturer': 'UIH'}),
    # physics that is absent, half there or wrong
    ('T2 FLAIR 3D sagital', -1, -1, -1, -1, '', '', F3, 'name; no TR and TE'),
    ('Ponderación T1', -1, -1, -1, -1, '', '', T1_2, 'name; no TR and TE'),
    ('Densité de protons', -1, -1, -1, -1, '', '', PD, 'name; no TR and TE'),
    ('Kopf', -1, -1, -1, -1, '', '', '', 'neither physics nor name'),
    ('t2 tra', 5000, -1, -1, -1, SE, '2D', T2, 'name among'),
    ('Kopf', 5000, -1, -1, -1, SE, '2D', '', 'silent name'),
    ('FLAIR ax', 9000, 0.094, -1, -1, '', '2D', F2, 'no TE'),  # seconds for milliseconds
    # names of ReproIn
    ('anat-T1w_acq-3D', -1, -1, -1, -1, '', '', T1_3, 'reproin name "anat-T1w_acq-3D"; no TR'),
    ('WIP anat-FLAIR', 9000, 120, 2250, 90, IR, '2D', F2, 'reproin name'),
    ('anat-T1w_acq-tfl_ce-gd__try', 5000, 99, -1, 90, SE, '2D', 'acq-tfl_ce-gd_T1w', 'reproin'),
    ('anat_acq-thick', 9000, 120, 2250, 90, IR, '2D', 'acq-thick_FLAIR', 'without suffix'),
    ('anat-T1w_run-2', -1, -1, -1, -1, '', '3D', 'acq-3D_run-02_T1w', 'reproin'),
    ('anat-T1w__dup01', 2300, 3, 900, 9, GRIR, '3D', '', 'a duplicate'),
    ('anat-scout', 5, 2, -1, 9, GR, '3D', '', 'none of ours'),
    ('func-bold_task-rest', 2000, 30, -1, 77, 'EP', '2D', '', 'none of ours'),
    ('anat-T1w', -1, -1, -1, -1, '', '', T1_2, 'reproin',
     {'ImageType': ['DERIVED', 'SECONDARY'], 'Manufacturer': 'BIOLAB'}),
]  # fmt: skip

CASES = [
    Case(vendor, *row)
    for vendor, rows in (
        ('siemens', SIEMENS),
        ('ge', GE),
        ('philips', PHILIPS),
        ('enhanced', ENHANCED),
        ('ge', OTHERS),
    )
    for row in rows
]


# ------------------------------------------------------- the same, read from DICOM files

PATIENT = Patient('Doe^Jane', '1', dt.date(1980, 2, 29), 'F')
STUDY = DemoStudy(dt.date(2024, 3, 14))


def slab(slices: int = 12) -> nb.Nifti1Image:
    """A tilted image of 2 x 2 x 6 mm that covers 72 mm."""
    tilt = nb.affines.from_matvec(nb.eulerangles.euler2mat(x=0.1) @ np.diag([2, 2, 6]), [-30] * 3)
    values = np.random.default_rng(1).integers(0, 900, (20, 22, slices), dtype=np.int16)
    return nb.Nifti1Image(values, tilt)


def write_case(case: Case, folder: Path, number: int, **fields: Any) -> list[Path]:
    arguments = {'patient': PATIENT, 'study': STUDY, 'number': number, **case.fields, **fields}
    return write_series(
        slab(),
        folder,
        vendor=case.vendor,
        description=case.description,
        sidecar=case.sidecar(),
        **arguments,
    )


def read(heuristic: ModuleType, folder: Path) -> list[Any]:
    """What HeuDiConv tells the heuristic of a folder."""
    paths = sorted(str(path) for path in folder.rglob('*.dcm'))
    hooks = {'custom_seqinfo': heuristic.custom_seqinfo, 'dcmfilter': heuristic.filter_dicom}
    return [*group_dicoms_into_seqinfos(paths, 'all', flatten=True, **hooks)]


def rows(heuristic: ModuleType, folder: Path) -> list[Any]:
    return heuristic.decisions(read(heuristic, folder))


def test_the_table_is_as_long_as_it_must_be() -> None:
    assert len(CASES) >= 100
    assert sum(case.name != '' for case in CASES) >= 40


@pytest.mark.parametrize('case', CASES, ids=lambda c: f'{c.vendor}-{c.description}')
def test_each_series_of_the_table_is_decided_from_its_files(
    heuristic: ModuleType, tmp_path: Path, case: Case
) -> None:
    write_case(case, tmp_path, 7)
    (row,) = rows(heuristic, tmp_path)
    assert row.name == case.name, row.reason
    assert case.why in row.reason
    assert row.suffix == case.name.rpartition('_')[2]
    assert row.agent == ('_ce-' in case.name)


def case(which: str, /, **changes: Any) -> Case:
    found = next(item for item in CASES if item.description == which)
    return found._replace(**changes)


def test_two_echoes_in_one_series_are_proton_density_and_t2(
    heuristic: ModuleType, tmp_path: Path
) -> None:
    dual = case('assiale DP-T2', te=12)
    for echo, (te, first) in enumerate(((12, 1), (98, 13)), start=1):
        fields = {'EchoNumbers': echo, 'SeriesInstanceUID': '1.2.3', 'first_instance': first}
        write_case(dual._replace(te=te), tmp_path, 4, **fields)
    (row,) = rows(heuristic, tmp_path)
    assert (row.name, row.suffix) == ('acq-2D_PDT2', 'PDT2')
    assert 'echoes of 12, 98 ms' in row.reason


def test_echoes_of_a_gradient_echo_are_no_contrast_of_ours(
    heuristic: ModuleType, tmp_path: Path
) -> None:
    for te, first in ((4.92, 1), (7.38, 13)):
        given = case('Serie 9', te=te, tr=400, flip=60)
        write_case(given, tmp_path, 4, SeriesInstanceUID='1.2.3', first_instance=first)
    (row,) = rows(heuristic, tmp_path)
    assert not row.name
    assert '4.92, 7.38 ms' in row.reason


def test_planes_volumes_and_small_slabs_are_left_out(
    heuristic: ModuleType, tmp_path: Path
) -> None:
    given = case('t1_se_tra')
    write_case(given, tmp_path / 'planes', 1, SeriesInstanceUID='1.2.1')
    across = {'ImageOrientationPatient': [0, 1, 0, 0, 0, -1], 'first_instance': 13}
    write_case(given, tmp_path / 'planes', 1, SeriesInstanceUID='1.2.1', **across)
    for first in (1, 13):
        write_case(given, tmp_path / 'volumes', 2, first_instance=first)
    for path in write_case(given, tmp_path / 'few', 3)[9:]:
        path.unlink()
    write_case(given, tmp_path / 'thin', 4, SliceThickness='3', SpacingBetweenSlices='3')
    write_case(given, tmp_path / 'coarse', 5, PixelSpacing=[4, 4])
    found = {
        name: rows(heuristic, tmp_path / name)[0]
        for name in ('planes', 'volumes', 'few', 'thin', 'coarse')
    }
    assert not any(row.name for row in found.values())
    assert found['planes'].reason == 'slices of 2 orientations'
    assert found['volumes'].reason == '2 volumes in one series'
    assert found['few'].reason == 'only 9 slices'
    assert found['thin'].reason == 'covers only 36 mm'
    assert found['coarse'].reason == 'pixels of 4.0 mm'


def test_repeated_series_twins_and_reproin_names_get_their_places(
    heuristic: ModuleType, tmp_path: Path
) -> None:
    norm = {'ImageType': ['ORIGINAL', 'PRIMARY', 'M', 'DIS2D', 'NORM']}
    plain = {'ImageType': ['ORIGINAL', 'PRIMARY', 'M', 'DIS2D']}
    study = [
        (1, case('t1_mprage_sag_p2_iso'), plain),
        (2, case('t1_mprage_sag_p2_iso'), norm),
        (3, case('t2_tirm_tra_dark-fluid'), {}),
        (4, case('t2_tirm_tra_dark-fluid'), {}),
        (5, case('t2_tse_tra_512'), {}),
        (6, case('t1_se_tra', description='anat-T2w_acq-a'), {}),
        (7, case('t1_se_tra', description='anat-T2w_acq-a'), {}),
        (8, case('t1_se_tra', description='anat-PDw_run+'), {}),
        (9, case('t1_se_tra', description='anat-PDw_run+'), {}),
        (10, case('t1_tse_tra_fs_KM'), {}),
        (11, case('localizer'), {}),
    ]
    for number, given, fields in study:
        write_case(given, tmp_path, number, **fields)
    found = rows(heuristic, tmp_path)
    assert [row.name for row in found] == [
        'acq-3D_T1w',
        'acq-3D_rec-norm_T1w',
        'acq-2D_run-01_FLAIR',
        'acq-2D_run-02_FLAIR',
        'acq-2D_T2w',
        '',
        'acq-a_T2w',
        'acq-2D_run-01_PDw',
        'acq-2D_run-02_PDw',
        'acq-2D_ce-gadolinium_T1w',
        '',
    ]
    assert 'repeated by a later series' in found[5].reason
    prefix = '{bids_subject_session_dir}/anat/{bids_subject_session_prefix}_'
    assert heuristic.infotodict(read(heuristic, tmp_path)) == {
        (prefix + row.name, ('nii.gz',), None): [row.series_id] for row in found if row.name
    }


def test_an_echo_chosen_from_a_multi_frame_object_decides(
    heuristic: ModuleType, tmp_path: Path
) -> None:
    path = write_case(case('t2_qtse_tra', tr=3000, te=15), tmp_path, 3)[0]
    dataset = pydicom.dcmread(path)
    for frame in dataset.PerFrameFunctionalGroupsSequence[6:]:
        echo = pydicom.Dataset()
        echo.EffectiveEchoTime = 100.0
        frame.MREchoSequence = [echo]
    dataset.save_as(path)
    (given,) = read(heuristic, tmp_path)
    assert heuristic.decide(given).suffix == 'PDT2'
    assert heuristic.decide(given._replace(TE=15.0)).suffix == 'PDw'
    assert heuristic.decide(given._replace(TE=100.0)).suffix == 'T2w'


# ------------------------------------------------------------ field maps, marks and pixels


def test_echoes_and_phase_of_a_field_map_are_no_t1w(heuristic: ModuleType, tmp_path: Path) -> None:
    """Echoes as series of their own, as a conversion sees them that takes them apart."""
    given = case('Serie 9', tr=500, flip=60)
    phase = {'ImageType': ['ORIGINAL', 'PRIMARY', 'P', 'ND']}
    write_case(given._replace(te=4.92), tmp_path / 'echoes', 3)
    write_case(given._replace(te=7.38), tmp_path / 'echoes', 4)
    write_case(given._replace(te=4.92), tmp_path / 'phase', 3)
    write_case(given._replace(te=4.92), tmp_path / 'phase', 4, **phase)
    write_case(given._replace(te=4.92), tmp_path / 'alone', 3)
    write_case(case('T1W_SE +C'), tmp_path / 'alone', 4)
    found = {name: rows(heuristic, tmp_path / name) for name in ('echoes', 'phase', 'alone')}
    assert [row.suffix for row in found['echoes']] == ['', '']
    assert 'field map' in found['echoes'][0].reason
    assert [row.suffix for row in found['phase']] == ['', '']
    assert [row.suffix for row in found['alone']] == ['T1w', 'T1w']


DERIVED = {'ImageType': ['DERIVED', 'SECONDARY']}


def test_originals_that_are_marked_as_derived(heuristic: ModuleType, tmp_path: Path) -> None:
    hitachi = DERIVED | {'Manufacturer': 'HITACHI Medical Corporation'}
    reformat = hitachi | {'ImageType': ['DERIVED', 'SECONDARY', 'MPR']}
    write_case(case('Ax T2 FLAIR'), tmp_path / 'maker', 1, **hitachi)
    write_case(case('Ax T2 FLAIR'), tmp_path / 'maker', 2, **reformat)
    made = hitachi | {'DerivationDescription': 'average of two'}
    write_case(case('Ax T2 FLAIR'), tmp_path / 'maker', 3, **made)
    write_case(case('SE T1 post-gado'), tmp_path / 'maker', 4, Manufacturer='HITACHI')
    write_case(case('Ax T2 FLAIR'), tmp_path / 'all', 1, **DERIVED)
    write_case(case('SE T1 post-gado'), tmp_path / 'all', 2, **DERIVED)
    write_case(case('Ax T2 FLAIR'), tmp_path / 'one', 1, **DERIVED)
    write_case(case('Ax T2 FLAIR'), tmp_path / 'some', 1, **DERIVED)
    write_case(case('SE T1 post-gado'), tmp_path / 'some', 2)
    found = {name: [row.suffix for row in rows(heuristic, tmp_path / name)]
             for name in ('maker', 'all', 'one', 'some')}  # fmt: skip
    assert found == {
        'maker': ['FLAIR', '', '', 'T1w'],
        'all': ['FLAIR', 'T1w'],
        'one': [''],
        'some': ['', 'T1w'],
    }


def labels(levels: int) -> np.ndarray:
    """Blocks of labels with a background."""
    blocks = np.random.default_rng(2).integers(0, levels, (5, 6, 12)) * 30
    return np.kron(blocks, np.ones((8, 8, 1), int)).astype(np.int16)


PIXELS = {
    'mask': (labels(2), 'only 2 grey levels'),
    'few labels': (labels(6), 'only 6 grey levels'),
    'many labels': (labels(90), 'flat regions'),
    'constant': (np.full((40, 48, 12), 7, np.int16), 'all pixels are equal'),
    'of eight bits': (np.random.default_rng(3).integers(0, 60, (40, 48, 12), np.int16), ''),
}


@pytest.mark.parametrize('vendor', ['ge', 'enhanced'])
@pytest.mark.parametrize('kind', PIXELS)
def test_a_series_must_look_like_an_anatomical_image(
    heuristic: ModuleType, tmp_path: Path, kind: str, vendor: str
) -> None:
    values, reason = PIXELS[kind]
    image = nb.Nifti1Image(values, np.diag([2.0, 2, 6, 1]))
    given = case('Ax T2 FLAIR')
    write_series(image, tmp_path, vendor=vendor, description='FLAIR', sidecar=given.sidecar(),
                 patient=PATIENT, study=STUDY, number=3)  # fmt: skip
    (row,) = rows(heuristic, tmp_path)
    assert (row.suffix == 'FLAIR') == (not reason), row.reason
    assert reason in row.reason


def test_compressed_pixels_are_looked_at_or_left_to_others(
    heuristic: ModuleType, tmp_path: Path
) -> None:
    """Run-length encoding can be unpacked; of lossless JPEG nothing can be said here."""
    for name, syntax in (('rle', pydicom.uid.RLELossless), ('jpeg', pydicom.uid.JPEGLosslessSV1)):
        image = nb.Nifti1Image(labels(2), np.diag([2.0, 2, 6, 1]))
        for path in write_series(
            image, tmp_path / name, vendor='ge', description='FLAIR', patient=PATIENT,
            sidecar=case('Ax T2 FLAIR').sidecar(), study=STUDY, number=3,
        ):  # fmt: skip
            dataset = pydicom.dcmread(path)
            dataset.compress(pydicom.uid.RLELossless)
            dataset.file_meta.TransferSyntaxUID = syntax
            dataset.save_as(path)
    assert 'grey levels' in rows(heuristic, tmp_path / 'rle')[0].reason
    assert rows(heuristic, tmp_path / 'jpeg')[0].suffix == 'FLAIR'
