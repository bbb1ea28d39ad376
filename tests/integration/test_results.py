"""What one finished run leaves behind."""

from __future__ import annotations

import csv
import json
import re
import subprocess
import tomllib
from pathlib import Path

import nibabel as nb
import numpy as np
import pytest
import SimpleITK as sitk
from running import RESOLUTION
from skeleton import TEMPLATE_AFFINE, TEMPLATE_SHAPE, files_below

MODEL = 'hyperintensity'
MNI = 'space-MNI152NLin6Asym_res-1_'
NATIVE_IMAGES = {
    f'space-orig_label-lesion_desc-{MODEL}_mask.nii.gz': np.uint8,
    f'space-orig_label-lesion_desc-{MODEL}_probseg.nii.gz': np.float32,
    f'space-orig_seg-lesions_desc-{MODEL}_dseg.nii.gz': np.int16,
    f'space-orig_seg-mcdonald_desc-{MODEL}_dseg.nii.gz': np.uint8,
    'desc-brain_mask.nii.gz': np.uint8,
    'desc-preproc_FLAIR.nii.gz': np.float32,
}
MNI_IMAGES = {
    f'{MNI}label-lesion_desc-{MODEL}_mask.nii.gz': np.uint8,
    f'{MNI}label-lesion_desc-{MODEL}_probseg.nii.gz': np.float32,
    f'space-MNI152NLin6Asym_seg-lesions_res-1_desc-{MODEL}_dseg.nii.gz': np.int16,
    f'{MNI}desc-brain_mask.nii.gz': np.uint8,
    f'{MNI}desc-preproc_FLAIR.nii.gz': np.float32,
    f'{MNI}desc-preproc_T1w.nii.gz': np.float32,
    f'{MNI}desc-preproc_T2w.nii.gz': np.float32,
}
LOOKUP = 'seg-mcdonald_dseg.tsv'
SEGS = ('mcdonald', 'lesions')
FORMS = ['qform_code', 'sform_code', 'srow_x', 'srow_y', 'srow_z', 'quatern_b', 'quatern_c']
FORMS += ['quatern_d', 'qoffset_x', 'qoffset_y', 'qoffset_z']


def values(path: Path) -> np.ndarray:
    return np.asanyarray(nb.load(path).dataobj)


def table(path: Path) -> list[dict[str, str]]:
    with path.open(encoding='utf-8', newline='') as file:
        return list(csv.DictReader(file, delimiter='\t'))


def test_it_ends_with_zero(finished):
    assert finished.done.code == 0, finished.done.stderr


def test_the_files_are_exactly_those_expected(finished):
    listed = Path(__file__).parents[1] / 'participant' / 'workflows' / 'expected' / 'session.txt'
    exam = [line.replace('sub-01', 'sub-demo') for line in listed.read_text().split()]
    top = ['.bidsignore', 'README.md', 'dataset_description.json', 'descriptions.tsv']
    tables = (
        'agreement',
        'cohort',
        'evaluation',
        'exams',
        'models',
        'outliers',
        'regions',
        'sizes',
        'summary',
    )
    top += [f'group_{name}.{end}' for name in (*tables, 'volumes') for end in ('tsv', 'json')]
    top += [f'seg-{name}_dseg.{end}' for name in SEGS for end in ('label', 'ctbl', 'lut')]
    top += [LOOKUP, 'group_lesions.html', 'group_tables.md', 'group_tables.tex', 'sub-demo.html']
    # Another test may run the App again meanwhile, so leave out what it is about to rename.
    found = [
        name
        for name in files_below(finished.out)
        if not name.startswith(('logs/', 'group_figures/', 'group_frequency/'))
        and '.tmp-' not in name
    ]
    assert found == sorted(exam + top)


def test_logs(finished):
    names = {re.sub('[0-9a-f]{12}', 'RUN', p.name) for p in (finished.out / 'logs').iterdir()}
    assert {
        'CITATION.md',
        'mslesseg-RUN.log',
        'mslesseg-RUN.toml',
        'mslesseg-RUN_timings.txt',
        'mslesseg-RUN_sub-demo_ses-1_prov.provn',
        'mslesseg-RUN_sub_demo_ses_1_wf_resources.json',
        'mslesseg_0_1_wf.dot',
    } <= names


def test_the_validator_accepts_the_output(finished):
    from mslesseg_app.bids.validation import find_validator

    program = find_validator()
    if program is None:
        pytest.skip('bids-validator-deno is not installed')
    done = subprocess.run([program, str(finished.out)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


# -------------------------------------------------------------------------- terminal


def test_plain_lines_where_it_is_no_terminal(finished):
    lines = finished.done.stderr.splitlines()
    assert lines[0].endswith('[1 of 1] sub-demo_ses-1: started')
    assert any('[1 of 1] sub-demo_ses-1: done in ' in line for line in lines)
    assert all(re.match(r'\d\d:\d\d:\d\d ', line) for line in lines)
    assert '\x1b' not in finished.done.stdout + finished.done.stderr


def test_the_end_says_where_the_results_are(finished):
    text = finished.done.stdout
    assert f'1 of 1 exams done; results are in {finished.out}' in text
    assert str(finished.out / 'sub-demo.html') in text
    assert 'The input is valid BIDS.' in text


# ---------------------------------------------------------------------------- images


@pytest.mark.parametrize('name', NATIVE_IMAGES)
def test_native_images_lie_on_the_grid_of_the_flair_bit_for_bit(finished, name):
    raw, made = nb.load(finished.raw('FLAIR')), nb.load(finished.file(name))
    assert made.shape == raw.shape
    assert made.affine.tobytes() == raw.affine.tobytes()
    for field in FORMS:
        assert made.header[field].tobytes() == raw.header[field].tobytes(), field
    assert made.header['pixdim'][:4].tobytes() == raw.header['pixdim'][:4].tobytes()
    assert made.get_data_dtype() == NATIVE_IMAGES[name]


@pytest.mark.parametrize('modality', ['T1w', 'T2w'])
def test_preprocessed_images_stay_on_their_own_grid(finished, modality):
    raw = nb.load(finished.raw(modality))
    made = nb.load(finished.file(f'desc-preproc_{modality}.nii.gz'))
    assert made.shape == raw.shape
    assert made.affine.tobytes() == raw.affine.tobytes()
    # Nothing but a smooth factor, the bias field, lies between the two.
    bright = np.asarray(raw.dataobj, dtype=float) > np.percentile(raw.dataobj, 70)
    ratio = made.get_fdata()[bright] / raw.get_fdata()[bright]
    assert np.corrcoef(made.get_fdata()[bright], raw.get_fdata()[bright])[0, 1] > 0.9
    assert ratio.std() / ratio.mean() < 0.3


@pytest.mark.parametrize('name', MNI_IMAGES)
def test_template_images_lie_on_the_template_grid(finished, name):
    made = nb.load(finished.file(name))
    assert made.shape == TEMPLATE_SHAPE
    assert np.array_equal(made.affine, TEMPLATE_AFFINE)
    assert np.array_equal(made.get_qform(), TEMPLATE_AFFINE)
    assert (made.header['qform_code'], made.header['sform_code']) == (4, 4)
    assert made.get_data_dtype() == MNI_IMAGES[name]


def test_images_have_no_time_and_no_name_in_their_compression(finished):
    for path in finished.anat.glob('*.nii.gz'):
        head = path.read_bytes()[:10]
        assert head[4:8] == bytes(4), path.name
        assert head[3] & 8 == 0, path.name


def test_mask_instances_and_probability_agree(finished):
    prefix, suffix = 'space-orig_', f'_desc-{MODEL}_'
    mask = values(finished.file(f'{prefix}label-lesion{suffix}mask.nii.gz'))
    labels = values(finished.file(f'{prefix}seg-lesions{suffix}dseg.nii.gz'))
    prob = values(finished.file(f'{prefix}label-lesion{suffix}probseg.nii.gz'))
    assert set(np.unique(mask)) == {0, 1}
    assert np.array_equal(mask > 0, labels > 0)
    assert 0 <= prob.min() <= prob.max() <= 1
    threshold = json.loads(finished.file(f'{prefix}label-lesion{suffix}mask.json').read_text())[
        'Threshold'
    ]
    assert prob[mask > 0].min() >= threshold
    assert set(np.unique(labels)) == set(range(labels.max() + 1))
    sizes = np.bincount(labels.ravel())[1:]
    assert np.all(np.diff(sizes) <= 0), 'the largest lesion is number one'
    voxel = abs(np.linalg.det(nb.load(finished.raw('FLAIR')).affine[:3, :3]))
    assert sizes.min() * voxel >= 3


def test_lesions_lie_in_the_brain(finished):
    mask = values(finished.file(f'space-orig_label-lesion_desc-{MODEL}_mask.nii.gz')) > 0
    brain = values(finished.file('desc-brain_mask.nii.gz')) > 0
    assert (mask & brain).sum() / mask.sum() > 0.95


def test_template_labels_are_the_native_ones(finished):
    """Each lesion keeps its number; where and how big it is, follows from the affine."""
    native = nb.load(finished.file(f'space-orig_seg-lesions_desc-{MODEL}_dseg.nii.gz'))
    mni = nb.load(
        finished.file(f'space-MNI152NLin6Asym_seg-lesions_res-1_desc-{MODEL}_dseg.nii.gz')
    )
    mask = values(finished.file(f'{MNI}label-lesion_desc-{MODEL}_mask.nii.gz'))
    there, here = np.asarray(mni.dataobj), np.asarray(native.dataobj)
    assert np.array_equal(mask > 0, there > 0)
    points = np.argwhere(there > 0)
    flair_from_mni = read_affine(finished.file('from-FLAIR_to-MNI152NLin6Asym_mode-image_xfm.txt'))
    home = np.linalg.inv(native.affine) @ flair_from_mni @ mni.affine
    voxels = nb.affines.apply_affine(home, points)
    nearest = np.round(voxels).astype(int)
    inside = np.all((nearest >= 0) & (nearest < here.shape), axis=1)
    clear = inside & np.all(np.abs(voxels - nearest) < 0.49, axis=1)  # no ties
    assert clear.sum() > 1000
    assert np.array_equal(here[tuple(nearest[clear].T)], there[tuple(points[clear].T)])
    large = np.flatnonzero(np.bincount(here.ravel()) * voxel_volume(native) > 20)[1:]
    assert set(large) <= set(np.unique(there))


def voxel_volume(image: nb.Nifti1Image) -> float:
    return float(abs(np.linalg.det(image.affine[:3, :3])))


def test_the_known_lesions_are_found(finished):
    truth = values(next(finished.manual.rglob('*label-lesion_mask.nii.gz'))) > 0
    mask = values(finished.file(f'space-orig_label-lesion_desc-{MODEL}_mask.nii.gz')) > 0
    dice = 2 * (truth & mask).sum() / (truth.sum() + mask.sum())
    assert dice > 0.5
    (row,) = table(finished.file(f'desc-{MODEL}_metrics.tsv'))
    assert float(row['DSC']) == pytest.approx(dice, abs=1e-5)


# ------------------------------------------------------------------------ transforms


def read_affine(path: Path) -> np.ndarray:
    """Read an ITK text file by hand: RAS+ millimetres, reference to moving."""
    lines = dict(line.split(': ', 1) for line in path.read_text().splitlines() if ': ' in line)
    numbers = [float(word) for word in lines['Parameters'].split()]
    centre = np.array([float(word) for word in lines['FixedParameters'].split()])
    matrix = np.array(numbers[:9]).reshape(3, 3)
    lps = np.eye(4)
    lps[:3, :3] = matrix
    lps[:3, 3] = np.array(numbers[9:]) + centre - matrix @ centre
    flip = np.diag([-1.0, -1, 1, 1])
    return flip @ lps @ flip


@pytest.mark.parametrize('modality', ['FLAIR', 'T1w', 'T2w'])
def test_transforms_are_inverse_to_each_other_and_itk_reads_them(finished, modality):
    there = finished.file(f'from-{modality}_to-MNI152NLin6Asym_mode-image_xfm.txt')
    back = finished.file(f'from-MNI152NLin6Asym_to-{modality}_mode-image_xfm.txt')
    assert np.allclose(read_affine(there) @ read_affine(back), np.eye(4), atol=1e-9)
    for path in (there, back):
        transform = sitk.ReadTransform(str(path))
        for point in ((0.0, 0.0, 0.0), (30.0, -40.0, 50.0)):
            ras = np.array(point) * [-1, -1, 1]
            mapped = np.array(transform.TransformPoint(point)) * [-1, -1, 1]
            assert np.allclose(mapped, nb.affines.apply_affine(read_affine(path), ras))


@pytest.mark.parametrize('modality', ['FLAIR', 'T1w', 'T2w'])
def test_itk_resamples_the_image_to_the_template_by_the_file_of_that_name(finished, modality):
    """``from-X_to-MNI`` resamples X onto MNI in any ITK tool, and gives our own image there."""
    native = sitk.ReadImage(
        str(finished.file(f'desc-preproc_{modality}.nii.gz')), sitk.sitkFloat32
    )
    ours = sitk.ReadImage(str(finished.file(f'{MNI}desc-preproc_{modality}.nii.gz')))
    transform = sitk.ReadTransform(
        str(finished.file(f'from-{modality}_to-MNI152NLin6Asym_mode-image_xfm.txt'))
    )
    theirs = sitk.Resample(native, ours, transform, sitk.sitkLinear, 0.0)
    first, second = sitk.GetArrayFromImage(ours), sitk.GetArrayFromImage(theirs)
    both = (first != 0) & (second != 0)
    assert both.mean() > 0.2
    assert np.allclose(first[both], second[both], rtol=0.02, atol=0.02 * first.max())


def test_itk_brings_an_atlas_to_the_raw_flair(finished):
    """``from-MNI_to-FLAIR`` lays anything in MNI space over the FLAIR as it came."""
    raw = sitk.ReadImage(str(finished.raw('FLAIR')))
    atlas = sitk.ReadImage(str(finished.file(f'{MNI}desc-brain_mask.nii.gz')))
    transform = sitk.ReadTransform(
        str(finished.file('from-MNI152NLin6Asym_to-FLAIR_mode-image_xfm.txt'))
    )
    there = sitk.Resample(atlas, raw, transform, sitk.sitkNearestNeighbor, 0)
    moved = sitk.GetArrayFromImage(there) > 0
    ours = sitk.GetArrayFromImage(sitk.ReadImage(str(finished.file('desc-brain_mask.nii.gz')))) > 0
    assert moved.shape == ours.shape
    assert 2 * (moved & ours).sum() / (moved.sum() + ours.sum()) > 0.98


def test_the_alignment_is_right(finished):
    """Landmarks: the truth is known, because the head is synthetic."""
    from phantom_dataset import make_dataset

    truth = make_dataset(finished.root / 'again', n_sessions=1, resolution=RESOLUTION)
    corners = np.array([[x, y, z] for x in (-50, 50) for y in (-70, 50) for z in (-20, 50)])
    affines = {
        name: read_affine(finished.file(f'from-{name}_to-MNI152NLin6Asym_mode-image_xfm.txt'))
        for name in ('FLAIR', 'T1w', 'T2w')
    }
    flair = truth.scanner_from_subject['1', 'FLAIR']
    for name in ('T1w', 'T2w'):
        true = truth.scanner_from_subject['1', name] @ np.linalg.inv(flair)
        found = affines[name] @ np.linalg.inv(affines['FLAIR'])
        there = nb.affines.apply_affine(affines['FLAIR'], corners)
        difference = nb.affines.apply_affine(true, there) - nb.affines.apply_affine(found, there)
        assert np.linalg.norm(difference, axis=1).max() < 2.5, name


# ------------------------------------------------------------------ tables, sidecars

REQUIRED = {
    'Type': 'Lesion',
    'SpatialReference': 'bids:raw:sub-demo/ses-1/anat/sub-demo_ses-1_FLAIR.nii.gz',
    'Connectivity': 6,
    'MinimumLesionVolume_mm3': 3.0,
    'Strategy': 'anchored',
    'SpatialEngine': 'builtin',
    'RandomSeed': 1,
}


def test_sidecar_of_the_mask(finished):
    content = json.loads(
        finished.file(f'space-orig_label-lesion_desc-{MODEL}_mask.json').read_text()
    )
    assert {key: content[key] for key in REQUIRED} == REQUIRED
    assert len(content['Model']['SHA256']) == 64
    assert content['Modalities']['used'] == ['FLAIR', 'T1w']
    (row,) = table(finished.file(f'desc-{MODEL}_metrics.tsv'))
    assert content['LesionCount'] == int(row['lesion_count'])
    assert content['LesionVolume_mm3'] / 1000 == pytest.approx(float(row['lesion_volume_ml']))


def test_sidecars_have_what_bids_wants(finished):
    for path in finished.anat.glob('*.json'):
        content = json.loads(path.read_text())
        if not path.with_suffix('.nii.gz').is_file():
            continue
        assert content['Description'], path.name
        assert content['Sources'], path.name
        assert content['SpatialReference'], path.name
        assert ('Resolution' in content) == ('_res-' in path.name), path.name
        if '_mask' in path.name:
            assert content['Type'] in ('Brain', 'Lesion')
        if 'preproc' in path.name:
            assert content['SkullStripped'] is False


def test_nothing_depends_on_the_run_or_the_machine(finished):
    settings = first_log(finished, '*.toml').read_text()
    run_uuid = re.search(r'run_uuid = "(\w+)"', settings).group(1)
    unstable = [str(finished.root), run_uuid]
    for path in sorted(finished.anat.iterdir()):
        if path.suffix in ('.json', '.tsv', '.txt'):
            text = path.read_text()
            assert [word for word in unstable if word in text] == [], path.name


@pytest.mark.parametrize('kind', ['lesions', 'metrics'])
def test_every_column_is_explained(finished, kind):
    rows = table(finished.file(f'desc-{MODEL}_{kind}.tsv'))
    dictionary = json.loads(finished.file(f'desc-{MODEL}_{kind}.json').read_text())
    described = {key for key, item in dictionary.items() if isinstance(item, dict)}
    described -= {'SelfCheck'}  # its result, beside the columns
    assert set(rows[0]) == described
    assert all(dictionary[name]['Description'] for name in rows[0])
    assert '' not in {value for row in rows for value in row.values()}, 'n/a, not nothing'


def test_lesion_table_describes_the_labels(finished):
    rows = table(finished.file(f'desc-{MODEL}_lesions.tsv'))
    image = nb.load(finished.file(f'space-orig_seg-lesions_desc-{MODEL}_dseg.nii.gz'))
    prob = values(finished.file(f'space-orig_label-lesion_desc-{MODEL}_probseg.nii.gz'))
    labels = np.asarray(image.dataobj)
    assert [int(row['lesion_id']) for row in rows] == list(range(1, labels.max() + 1))
    for row in rows:
        here = labels == int(row['lesion_id'])
        assert int(row['n_voxels']) == here.sum()
        assert float(row['volume_mm3']) == pytest.approx(
            here.sum() * voxel_volume(image), rel=1e-4
        )
        assert float(row['max_prob']) == pytest.approx(prob[here].max(), rel=1e-4)
        assert float(row['mean_prob']) == pytest.approx(prob[here].mean(), rel=1e-4)
        centre = nb.affines.apply_affine(image.affine, np.argwhere(here).mean(axis=0))
        stored = [float(row[f'centroid_{axis}']) for axis in 'xyz']
        assert np.allclose(stored, centre, atol=0.01)


def test_every_lesion_has_a_region_and_its_image_agrees(finished):
    rows = table(finished.file(f'desc-{MODEL}_lesions.tsv'))
    labels = values(finished.file(f'space-orig_seg-lesions_desc-{MODEL}_dseg.nii.gz'))
    image = finished.file(f'space-orig_seg-mcdonald_desc-{MODEL}_dseg.nii.gz')
    names = {row['name']: int(row['index']) for row in table(finished.out / LOOKUP)}
    assert np.array_equal(values(image) > 0, labels > 0)
    (metrics,) = table(finished.file(f'desc-{MODEL}_metrics.tsv'))
    volumes = dict.fromkeys(names, 0.0)
    for row in rows:
        region = row['region'].replace('_', ' ')
        assert set(values(image)[labels == int(row['lesion_id'])]) == {names[region]}
        assert float(row['distance_ventricle_mm']) >= 0
        assert float(row['distance_cortex_mm']) >= 0
        assert float(row['flair_ratio']) > 1
        assert float(row['min_diameter_mm']) <= float(row['max_diameter_mm'])
        volumes[region] += float(row['volume_mm3']) / 1000
    for region, volume in volumes.items():
        stored = float(metrics[region.replace(' ', '_') + '_volume_ml'])
        assert stored == pytest.approx(volume, rel=1e-4, abs=1e-6)
    sidecar = json.loads(image.with_name(image.name.replace('.nii.gz', '.json')).read_text())
    assert sidecar['Landmarks'] == {'Source': 'subject'}
    for edition in ('2017', '2024'):
        judged = sidecar['DisseminationInSpace'][edition]
        assert metrics[f'dissemination_{edition}'] == judged['Result']
    assert float(metrics['lesion_load_percent']) == pytest.approx(
        100 * float(metrics['lesion_volume_ml']) / float(metrics['brain_volume_ml']), rel=1e-4
    )


def test_template_centroids_follow_the_transform(finished):
    to_mni = read_affine(finished.file('from-MNI152NLin6Asym_to-FLAIR_mode-image_xfm.txt'))
    for row in table(finished.file(f'desc-{MODEL}_lesions.tsv')):
        native = [float(row[f'centroid_{axis}']) for axis in 'xyz']
        stored = [float(row[f'mni_{axis}']) for axis in 'xyz']
        assert np.allclose(stored, nb.affines.apply_affine(to_mni, native), atol=0.02)


def test_metrics_sum_up_the_lesions(finished):
    rows = table(finished.file(f'desc-{MODEL}_lesions.tsv'))
    (metrics,) = table(finished.file(f'desc-{MODEL}_metrics.tsv'))
    volumes = [float(row['volume_mm3']) for row in rows]
    assert int(metrics['lesion_count']) == len(rows)
    assert float(metrics['lesion_volume_ml']) == pytest.approx(sum(volumes) / 1000, rel=1e-4)
    assert float(metrics['largest_lesion_ml']) == pytest.approx(max(volumes) / 1000, rel=1e-4)
    brain = nb.load(finished.file('desc-brain_mask.nii.gz'))
    litres = np.asarray(brain.dataobj).sum() * voxel_volume(brain) / 1e6
    assert float(metrics['brain_volume_ml']) == pytest.approx(1000 * litres, rel=1e-4)
    assert metrics['participant_id'] == 'sub-demo'
    assert metrics['session_id'] == 'ses-1'
    assert metrics['reference_grid'] == 'orig'
    for name in ('DSC', 'TPR', 'PPV', 'LTPR', 'LFPR', 'AVD', 'ASSD'):
        assert float(metrics[name]) >= 0


def test_group_table(finished):
    (group,) = table(finished.out / 'group_volumes.tsv')
    (exam,) = table(finished.file(f'desc-{MODEL}_metrics.tsv'))
    assert {name: group[name] for name in exam} == exam
    assert set(group) <= set(json.loads((finished.out / 'group_volumes.json').read_text()))


# ------------------------------------------------------------------ page and records


def test_page(finished):
    text = (finished.out / 'sub-demo.html').read_text()
    for word in ('sub-demo', 'FLAIR', MODEL, 'DSC', 'SimpleITK', 'N4', 'not a medical device'):
        assert word in text, word
    assert 'http://' not in re.sub(r'http://www\.w3\.org/\S+', '', text)


def test_citation(finished):
    text = (finished.out / 'logs' / 'CITATION.md').read_text()
    assert 'N4' in text
    assert 'MSLesSeg' in text


def test_graph_holds_the_nodes(finished):
    text = (finished.out / 'logs' / 'mslesseg_0_1_wf.dot').read_text()
    assert text.startswith('digraph')
    assert all(name in text for name in ('align', 'segment', 'find', 'measure'))


def test_provenance_names_the_nodes(finished):
    text = first_log(finished, '*_prov.provn').read_text()
    assert 'document' in text
    assert all(name in text for name in ('AlignExam', 'SegmentLesions', 'FindLesions'))
    assert list(finished.work.glob('workflow_provenance*')) == []


def test_nothing_is_left_where_the_run_was_started(finished, users_folder):
    assert list(users_folder.iterdir()) == []


def test_resources_of_the_nodes_that_work(finished):
    content = json.loads(first_log(finished, '*_resources.json').read_text())
    measured = {name.rsplit('.', 1)[-1] for name in content['name']}
    assert {'align', 'segment', 'conform_flair'} <= measured
    assert len(content['rss_GiB']) == len(content['name'])


def test_settings_of_the_run(finished):
    settings = tomllib.loads(first_log(finished, '*.toml').read_text())
    assert settings['out_dir'] == str(finished.out)
    assert settings['nprocs'] == 2
    assert settings['command'].startswith('mslesseg ')


def test_timings(finished):
    text = first_log(finished, 'mslesseg-*_timings.txt').read_text()
    assert text.startswith('node\tseconds\n')
    assert re.search(r'^sub_demo_ses_1_wf\.align\t\d+\.\d\d$', text, re.MULTILINE)


def first_log(finished, pattern: str) -> Path:
    """Return a log of the shared run: others may have been added to it."""
    return min((finished.out / 'logs').glob(pattern), key=lambda path: path.stat().st_mtime_ns)


def test_the_input_is_left_alone(finished, tmp_path):
    from phantom_dataset import make_dataset

    make_dataset(tmp_path / 'fresh', n_sessions=1, resolution=RESOLUTION)
    assert files_below(finished.bids) == files_below(tmp_path / 'fresh')
    for name in files_below(finished.bids):
        assert (finished.bids / name).read_bytes() == (tmp_path / 'fresh' / name).read_bytes()
