"""The paper's tables: quirks of the release, numbers by hand, the paper's own beside."""

from __future__ import annotations

import csv
import json
import math
import statistics
from pathlib import Path

import nibabel as nb
import numpy as np
import pytest
from skeleton import write_dataset

from mslesseg_app.bids.public import acquisition
from mslesseg_app.bids.public.clinical import Cohort, number, read_cohort
from mslesseg_app.cli.main import main
from mslesseg_app.core.errors import DataError, NoInputError
from mslesseg_app.metrics.consensus import consensus
from mslesseg_app.metrics.exam import voxel_agreement
from mslesseg_app.paper import published as paper
from mslesseg_app.paper.rater_tables import consensus_table, rater_experiments
from mslesseg_app.paper.sources import Sources, mean_sd, read_rows
from mslesseg_app.paper.tables import (
    acquisition_table,
    cohort_table,
    folds_table,
    make_tables,
    models_table,
)
from mslesseg_app.reports.tabular import (
    Column,
    Interval,
    Spread,
    Table,
    latex_text,
    show,
    to_latex,
    to_markdown,
    tsv_rows,
    write_table,
)

#: With every quirk of the release's table: see the module of the reader.
CLINICAL = """\ufeffPatient;Timepoint;Sex;Age;MS Type;EDSS;Lesion Number;Lesion Volume;
P1;T1;M;34,5;SMRR;1,5;;12345.6;23
P1;T2;M;35,5;SMRR;2,0;;13345.6;25
P2;T1;F;40,1;SMSP;4;;744;9
P53;T1;F;22;SMRR;0;;1000.5;10
NONE;NONE;NONE;NONE;NONE;NONE;NONE;NONE;NONE
;;;;;;;;
P54;T1;F;36,4;SMPP;2;;919;4
P77;T1;M;50,0;SMRR;6,5;;2000;6
"""


@pytest.fixture
def clinical(tmp_path: Path) -> Path:
    path = tmp_path / 'clinical_data.csv'
    path.write_text(CLINICAL, encoding='utf-8')
    return path


def cells(table: Table) -> dict[str, list[str]]:
    """Rows of a table as people read them, by their first cell."""
    return {row[0]: row[1:] for row in table.shown()}


# ------------------------------------------------------------------------------ table 1


def test_quirks_of_the_clinical_table(clinical: Path) -> None:
    cohort = read_cohort(clinical)
    assert [scan.patient for scan in cohort.scans] == ['P1', 'P1', 'P2', 'P53', 'P54', 'P77']
    first = cohort.scans[0]
    assert (first.age, first.edss, first.volume_mm3, first.lesions) == (34.5, 1.5, 12345.6, 23)
    assert (first.ms_type, first.sex, first.timepoint) == ('RRMS', 'male', 'T1')
    assert [scan.split for scan in cohort.scans] == ['train'] * 4 + ['test'] * 2
    assert cohort.scans[4].ms_type == 'PPMS'
    assert 'column without a heading' in cohort.notes[0]
    assert cohort.notes[1].endswith('left out: 1.')


def test_table_1_by_hand(clinical: Path) -> None:
    table = cohort_table(read_cohort(clinical))
    rows = {row[0]: row[1:] for row in table.rows}
    assert rows['patients'] == (3, 2)
    assert rows['scans'] == (4, 2)
    assert (rows['male'], rows['female']) == ((1, 1), (2, 1))
    assert (rows['RRMS'], rows['SPMS'], rows['PPMS']) == ((2, 1), (1, 0), (0, 1))
    ages = [34.5, 40.1, 22.0]
    assert rows['age (years)'][0] == Spread(
        pytest.approx(statistics.mean(ages)), pytest.approx(statistics.stdev(ages))
    )
    volumes = [12345.6, 13345.6, 744, 1000.5]
    assert rows['lesion volume (mm³)'][0] == Spread(
        pytest.approx(statistics.mean(volumes)), pytest.approx(statistics.stdev(volumes))
    )
    assert rows['number of lesions'][1].mean == 5


def test_table_1_beside_the_paper(clinical: Path) -> None:
    table = cohort_table(read_cohort(clinical), beside=True)
    heads = [column.title for column in table.columns]
    assert heads == ['variable', 'training', 'testing', 'paper, training', 'paper, testing']
    assert cells(table)['patients'] == ['3', '2', '53', '22']
    assert cells(table)['EDSS'][2:] == ['1.9 ± 1.73', '1.79 ± 1.70']
    assert any(paper.CITED in note for note in table.notes)


def test_names_with_the_timepoint_in_them(tmp_path: Path) -> None:
    path = tmp_path / 'a.csv'
    path.write_text('ID,Age\nP20_T1,30\nP20_T2,31\nP75,40\n')
    cohort = read_cohort(path)
    found = [(scan.patient, scan.timepoint, scan.split) for scan in cohort.scans]
    assert found == [('P20', 'T1', 'train'), ('P20', 'T2', 'train'), ('P75', '', 'test')]


def test_a_proper_column_of_counts_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / 'a.csv'
    path.write_text('Patient;Lesion Number;Lesion Volume;\nP1;5;100.5;99\n')
    assert read_cohort(path).scans[0].lesions == 5


def test_participants_of_bids(tmp_path: Path) -> None:
    path = tmp_path / 'participants.tsv'
    path.write_text('participant_id\tage\tsex\tms_type\tedss\nsub-01\t20\tF\tRR\tn/a\n')
    (scan,) = read_cohort(path).scans
    assert (scan.patient, scan.age, scan.sex, scan.ms_type) == ('sub-01', 20, 'female', 'RRMS')
    assert math.isnan(scan.edss)
    assert scan.split == ''
    table = cohort_table(Cohort((scan,)))
    assert [column.title for column in table.columns] == ['variable', 'all']


@pytest.mark.parametrize(
    ('text', 'value'),
    [('34,5', 34.5), ('34.5', 34.5), ('1.234,5', 1234.5), ('1,234.5', 1234.5), (' 7 ', 7.0)],
)
def test_numbers(text: str, value: float) -> None:
    assert number(text, '') == value


def test_no_number() -> None:
    assert math.isnan(number('NONE', ''))
    with pytest.raises(DataError, match='line 3'):
        number('about 5', 'a.csv, line 3')


@pytest.mark.parametrize('text', ['', 'a;b\n1;2\n', 'Patient;Age\n;\n', 'x\0y'])
def test_no_table_of_patients(tmp_path: Path, text: str) -> None:
    path = tmp_path / 'a.csv'
    path.write_text(text)
    with pytest.raises(DataError, match=r'a\.csv'):
        read_cohort(path)
    with pytest.raises(NoInputError):
        read_cohort(tmp_path / 'nothing.csv')


def test_volumes_of_the_references_from_the_group_level(tmp_path: Path) -> None:
    out = tmp_path / 'out'
    out.mkdir()
    (out / 'participants.tsv').write_text('participant_id\tage\nsub-01\t20\nsub-02\t40\n')
    (out / 'group_evaluation.tsv').write_text(
        'participant_id\tsession_id\tmodel\tvolume_reference_ml\tn_reference\n'
        'sub-01\tses-1\tunet\t1.5\t4\nsub-01\tses-1\tfloor\t1.5\t4\nsub-01\tses-2\tunet\t2.5\t6\n'
    )
    (table,), missing = make_tables([1], Sources(out=out))
    assert missing == {}
    rows = {row[0]: row[1] for row in table.rows}
    assert rows['patients'] == 2
    assert rows['age (years)'].mean == 30
    assert rows['lesion volume (mm³)'].mean == 2000
    assert rows['number of lesions'].mean == 5


# ------------------------------------------------------------------------------ table 2


def test_table_2_by_hand(tmp_path: Path) -> None:
    root = write_dataset(
        tmp_path / 'bids',
        {'sub-01_FLAIR': 'thick', 'sub-02_ses-1_FLAIR': 'thick', 'sub-01_T1w': 'thin'},
        {
            'sub-01_FLAIR': {'RepetitionTime': 9, 'EchoTime': 0.12, 'InversionTime': 2.5},
            'sub-02_ses-1_FLAIR': {'RepetitionTime': 8, 'FlipAngle': '90', 'SliceThickness': 3.0},
        },
    )
    (root / 'T1w.json').write_text(json.dumps({'FlipAngle': 8, 'RepetitionTime': 2.0}))
    (root / 'sub-01' / 'sub-01_T1w.json').write_text(json.dumps({'RepetitionTime': 2.3}))
    table = acquisition_table(acquisition.read_bids(root))
    rows = {
        row[0]: dict(zip([c.name for c in table.columns], row, strict=True)) for row in table.rows
    }
    flair, t1w = rows['FLAIR'], rows['T1w']
    assert flair['n'] == 2
    assert flair['matrix'].mean == 10.5, 'in-plane 10 × 11'
    assert flair['spacing'].mean == pytest.approx(0.9)
    assert flair['thickness'].mean == pytest.approx(3.5), 'header 4 mm, sidecar 3 mm'
    assert flair['TR'].mean == pytest.approx(8500)
    assert flair['TR'].sd == pytest.approx(707.1, abs=0.1)
    assert flair['TE'].mean == pytest.approx(120)
    assert t1w['TR'].mean == pytest.approx(2300), 'the nearest sidecar decides'
    assert t1w['flip'].mean == 8, 'inherited from the top'
    assert any('TE in 1' in note for note in table.notes)
    assert any('There is no T2w image' in note for note in table.notes)


def test_the_slice_axis(tmp_path: Path) -> None:
    folder = tmp_path / 'sub-01' / 'anat'
    folder.mkdir(parents=True)
    sagittal = nb.Nifti1Image(np.zeros((12, 20, 20), np.uint8), np.eye(4))
    nb.save(sagittal, folder / 'sub-01_T1w.nii.gz')
    image = nb.Nifti1Image(np.zeros((20, 30, 16), np.uint8), np.eye(4))
    image.header.set_dim_info(0, 2, 1)
    nb.save(image, folder / 'sub-01_T2w.nii.gz')
    found = acquisition.read_bids(tmp_path)
    assert found['T1w'][0]['matrix'] == 20
    assert found['T2w'][0]['matrix'] == 18, 'the header says which axis'


def test_scanner_tables_of_the_release(tmp_path: Path) -> None:
    path = tmp_path / 'info' / 'patient_scanners_info_FLAIR.csv'
    path.parent.mkdir()
    path.write_text(
        'Patient;Rows;Columns;Pixel Spacing;Slice Thickness;Repetition Time;Echo Time;Flip Angle\n'
        'P1;256;512;[0.5, 0.7];3;9000;120;90\nP2;NONE;NONE;NONE;NONE;NONE;NONE;NONE\n'
    )
    found = acquisition.read_scanner_tables(tmp_path)
    (row,) = found['FLAIR']
    assert row['matrix'] == 384
    assert row['spacing'] == pytest.approx(0.6)
    assert (row['thickness'], row['TR'], row['TE'], row['flip']) == (3, 9000, 120, 90)
    assert math.isnan(row['TI'])
    with pytest.raises(NoInputError):
        acquisition.read_scanner_tables(tmp_path / 'nothing')


def test_table_2_beside_the_paper(tmp_path: Path) -> None:
    root = write_dataset(tmp_path / 'bids', ['sub-01_FLAIR'])
    table = acquisition_table(acquisition.read_bids(root), beside=True)
    assert cells(table)['FLAIR (paper)'][1] == '455.82 ± 314.71'
    assert cells(table)['T2w'][0] == '0'


# ------------------------------------------------------------------------------ table 3


def cases() -> list[tuple[dict[str, np.ndarray], np.ndarray]]:
    generator = np.random.default_rng(3)
    made = []
    for _ in range(3):
        truth = np.zeros((20, 20, 12), bool)
        truth[5:14, 6:12, 4:9] = True
        raters = {
            f'r{k}': truth ^ (generator.random(truth.shape) < 0.01 * (k + 1)) for k in range(7)
        }
        made.append((raters, truth))
    return made


def test_the_best_raters_are_the_best_over_all_scans() -> None:
    made = cases()
    rows = {row['rater']: row for row in rater_experiments(made)}
    assert list(rows) == ['reference', *(f'r{k}' for k in range(7))]
    assert [name for name, row in rows.items() if row['in_C2']] == [f'r{k}' for k in range(5)]
    by_hand = []
    for raters, truth in made:
        c2 = consensus([raters[f'r{k}'] for k in range(5)], 'staple').mask
        assert voxel_agreement(raters['r3'], truth)['DSC'] < 1
        by_hand.append(voxel_agreement(raters['r3'], c2)['DSC'])
    assert rows['r3']['DSC_C2'] == pytest.approx(np.mean(by_hand))
    assert rows['reference']['DSC_reference'] == 1


def test_table_3_beside_the_paper() -> None:
    table = consensus_table(rater_experiments(cases()[:1]), beside=True)
    assert len(table.rows) == 16
    shown = cells(table)
    assert shown['reference'][-3:] == ['1.00', '0.69', '0.75']
    assert shown['paper: team 15'][-3:] == ['0.50', '0.62', 'n/a']


def test_table_3_from_folders(tmp_path: Path) -> None:
    made = cases()
    for number_, (raters, truth) in enumerate(made, start=1):
        for name, mask in {**raters, 'reference': truth}.items():
            folder = tmp_path / name
            folder.mkdir(exist_ok=True)
            image = nb.Nifti1Image(mask.astype(np.uint8), np.eye(4))
            if not (name == 'r6' and number_ == 3):
                nb.save(image, folder / f'sub-0{number_}_label-lesion_mask.nii.gz')
    sources = Sources(
        raters={f'r{k}': tmp_path / f'r{k}' for k in range(7)}, reference=tmp_path / 'reference'
    )
    (table,), missing = make_tables([3], sources)
    assert missing == {}
    assert any('2 scans, 7 raters' in note for note in table.notes)
    assert any('1 scans that some raters lack' in note for note in table.notes)
    expected = {row['rater']: row for row in rater_experiments(made[:2])}
    for row in table.rows:
        assert row[2] == pytest.approx(expected[row[0]]['DSC_C1'])


# ----------------------------------------------------------------------- tables 5 and 6


def evaluation(path: Path, fold: str | None = None) -> Path:
    rows = [('a', 0.5, 20.0), ('a', 0.7, 40.0), ('b', 0.4, 10.0), ('b', 'n/a', 30.0)]
    lines = ['participant_id\tmodel\tDSC\tAVD_percent' + ('\tfold' if fold else '')]
    shift = float(fold or 0) / 10
    for place, (model, dsc, avd) in enumerate(rows):
        value = dsc if isinstance(dsc, str) else dsc + shift
        lines.append(f'sub-{place}\t{model}\t{value}\t{avd}' + (f'\t{fold}' if fold else ''))
    path.write_text('\n'.join(lines) + '\n')
    return path


def test_table_5_is_the_mean_of_the_folds_means(tmp_path: Path) -> None:
    files = tuple(evaluation(tmp_path / f'e{k}.tsv', str(k)) for k in (1, 2))
    (table,), _ = make_tables([5], Sources(evaluations=files))
    rows = {row[0]: row[1:] for row in table.rows}
    assert rows['a'][:2] == (2, 4)
    assert rows['a'][2] == Spread(pytest.approx(0.75), pytest.approx(math.sqrt(0.005)))
    assert rows['b'][2].mean == pytest.approx(0.55), 'what is not defined is left out'
    assert any('DSC in 2' in note for note in table.notes)


def test_table_5_without_folds(tmp_path: Path) -> None:
    rows = read_rows(evaluation(tmp_path / 'e.tsv'))
    table = models_table(rows, beside=True)
    found = {row[0]: row[1:] for row in table.rows}
    assert found['a'][0] is None
    assert found['a'][2] == Spread(pytest.approx(0.6), pytest.approx(math.sqrt(0.02)))
    assert found['MSSegDiff (paper)'][2:] == ('0.6851', '24.45')


def test_the_papers_values_stand_below_the_model_of_the_same_name(tmp_path: Path) -> None:
    path = evaluation(tmp_path / 'e.tsv')
    path.write_text(path.read_text().replace('\ta\t', '\tunetr\t'))
    names = [row[0] for row in models_table(read_rows(path), beside=True).rows]
    assert names[:2] == ['unetr', 'UNETR (paper)']
    assert names.count('UNETR (paper)') == 1


def test_table_6_and_folds_in_names_of_files(tmp_path: Path) -> None:
    files = tuple(evaluation(tmp_path / f'model_fold-{k}.tsv') for k in (10, 2))
    (table,), _ = make_tables([6], Sources(evaluations=files), beside=True)
    assert [column.name for column in table.columns] == ['model', 'fold_2', 'fold_10']
    assert cells(table)['a'] == ['0.6000', '0.6000']
    assert cells(table)['TransBTS (paper)'] == ['0.4668', 'n/a']


def test_table_6_needs_folds(tmp_path: Path) -> None:
    with pytest.raises(NoInputError, match='fold'):
        folds_table(read_rows(evaluation(tmp_path / 'e.tsv')))


def test_the_paper_agrees_with_itself() -> None:
    """Table 5 is the mean of Table 6, to the rounding of four digits."""
    for model, values in paper.FOLDS.items():
        assert statistics.mean(values) == pytest.approx(paper.MODELS[model][0], abs=2e-4)
    assert {len(values) for values in paper.CONSENSUS.values()} == {16}


# ----------------------------------------------------------------------- every format


def test_formats(tmp_path: Path) -> None:
    table = Table(
        'table-x',
        'A_title with 50 % & more',
        (Column('a', 'name_'), Column('b', 'x ± y', units='mm'), Column('c', 'c', digits=2)),
        (
            ('p|q', Spread(1.23456, 0.5), Interval(0.5, 0.4, 0.6)),
            ('r', Spread(float('nan')), None),
        ),
        ('5 < 6',),
    )
    header, rows = tsv_rows(table)
    assert header == ['a', 'b', 'b_sd', 'c', 'c_low', 'c_high']
    assert rows[0] == ['p|q', '1.23456', '0.5', '0.5', '0.4', '0.6']
    assert rows[1] == ['r', *['n/a'] * 5]
    text = to_markdown(table)
    assert '| p\\|q | 1.23 ± 0.500 | 0.50 (0.40 to 0.60) |' in text
    latex = to_latex(table)
    assert r'50 \% \& more' in latex
    assert r'1.23 $\pm$ 0.500' in latex
    paths = write_table(table, tmp_path)
    with paths[0].open(newline='') as file:
        found = next(csv.DictReader(file, delimiter='\t'))
    assert set(found) == set(json.loads(paths[1].read_text()))


def test_cells() -> None:
    assert show(-0.0001, 2) == '0.00', 'no minus zero'
    assert show(float('nan')) == 'n/a'
    assert show(Interval(1.0)) == '1.00'
    assert latex_text('-0.5 to −1') == '$-$0.5 to $-$1'
    with pytest.raises(ValueError, match='do not fit'):
        Table('k', 't', (Column('a', 'a'),), (('1', '2'),))


def test_mean_and_sd() -> None:
    assert math.isnan(mean_sd([float('nan')]).mean)
    assert mean_sd([2.0, float('nan'), 4.0]) == Spread(3.0, pytest.approx(math.sqrt(2)))


# ------------------------------------------------------------------------- command line


def test_command_line(tmp_path: Path, clinical: Path, capsys: pytest.CaptureFixture) -> None:
    root = write_dataset(tmp_path / 'bids', ['sub-01_FLAIR'])
    arguments = ['report', 'tables', '--output', str(tmp_path / 'o'), '--bids', str(root)]
    code = main([*arguments, '--which', '1,2', '--clinical', str(clinical), '--beside-paper'])
    said = capsys.readouterr()
    assert code == 0
    assert '**Table 1. Cohort**' in said.out
    names = {path.name for path in (tmp_path / 'o').iterdir()}
    assert names == {f'table-{n}.{end}' for n in (1, 2) for end in ('tsv', 'json', 'md', 'tex')}


def test_what_is_missing_is_said(
    tmp_path: Path, clinical: Path, capsys: pytest.CaptureFixture
) -> None:
    arguments = ['report', 'tables', '--output', str(tmp_path / 'o'), '--clinical', str(clinical)]
    assert main(arguments) == 66
    said = capsys.readouterr()
    for number_ in (2, 3, 5, 6):
        assert f'Table {number_} was not made' in said.err
    assert (tmp_path / 'o' / 'table-1.tsv').is_file()
    assert main([*arguments, '--which', '4']) == 64
    broken = tmp_path / 'e.tsv'
    broken.write_text('name\tDSC\nx\t0.5\n')
    assert main([*arguments, '--which', '5', '--evaluation', str(broken)]) == 65
