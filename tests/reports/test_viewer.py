"""The slice viewer: found, packed, drawn, moved, and left out where it cannot be."""

from __future__ import annotations

import dataclasses
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import nibabel as nb
import numpy as np
import pytest

from mslesseg_app.bids.exam import Exam
from mslesseg_app.bids.names import output_path
from mslesseg_app.reports import (
    ExamContent,
    RunProvenance,
    SubjectContent,
    viewer,
)
from mslesseg_app.reports import (
    participant_report as page,
)
from mslesseg_app.reports.collect import (
    LEAST_VIEWER,
    VIEWER_LIMIT,
    exam_files,
    gather_extras,
    viewer_room,
)
from mslesseg_app.reports.participant_report import EMBED_LIMIT, write_participant_report
from mslesseg_app.reports.viewer import Bundle, find_bundle, read_bundle
from mslesseg_app.reports.viewer_data import load_exam, viewer_scene
from tests.tools import reporttree

needs_package = pytest.mark.skipif(find_spec('ipyniivue') is None, reason='no ipyniivue')

MODULE = (
    'var v;class Q{}'
    'name:"@niivue/niivue",version:"1.2.3";'
    'if(!v){console.log("Creating new Niivue instance");let B=1;v=new Q(B)}'
    'export{v as default};\n'
)


@pytest.fixture(scope='module')
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp('out')


@pytest.fixture(scope='module')
def exams(tree: Path) -> tuple[ExamContent, ...]:
    return (
        reporttree.write_exam(tree, '1', 4),
        reporttree.write_exam(tree, '2', 6, before='1'),
        reporttree.write_exam(tree, '3', 0),
        reporttree.failed_exam('4'),
    )


def written(exams: tuple[ExamContent, ...], tree: Path, name: str = 'sub-01.html') -> Path:
    content = SubjectContent(
        '01', exams, RunProvenance('run', 'mslesseg <in> out'), '*Methods*', 'Doe'
    )
    return write_participant_report(content, tree / name, extras=gather_extras(exams, '01', tree))


# ----------------------------------------------------------------------------- the bundle


def test_the_module_becomes_a_script(tmp_path: Path) -> None:
    (tmp_path / 'widget.js').write_text(MODULE)
    found = read_bundle(tmp_path / 'widget.js', 'free')
    assert isinstance(found, Bundle)
    assert (found.version, found.licence) == ('1.2.3', 'free')


@pytest.mark.parametrize('wrong', ['', 'export{x as default};', MODULE.replace('export', 'keep')])
def test_a_module_of_another_form_is_said(tmp_path: Path, wrong: str) -> None:
    (tmp_path / 'widget.js').write_text(wrong)
    assert read_bundle(tmp_path / 'widget.js', '') == viewer.UNKNOWN_BUILD


def test_no_package_is_said() -> None:
    assert find_bundle('no_such_package_at_all') == viewer.NO_PACKAGE
    assert find_bundle('json') == viewer.UNKNOWN_BUILD


@needs_package
def test_the_installed_package_is_understood() -> None:
    found = find_bundle()
    assert isinstance(found, Bundle)
    assert 'BSD' in found.licence
    assert len(found.packed) < 3 * 2**20


# ------------------------------------------------------------------------------ the scene


def test_an_exam_without_lesions_shows_its_flair_first(
    tree: Path, exams: tuple[ExamContent, ...]
) -> None:
    content = SubjectContent('01', exams[2:], RunProvenance('run', 'mslesseg'), '*Methods*', 'Doe')
    write_participant_report(
        content, tree / 'none.html', extras=gather_extras(exams[2:], '01', tree)
    )
    text = (tree / 'none.html').read_text('utf-8')
    assert text.count('No lesion detected on the FLAIR') == 1
    assert text.index('No lesion detected on the FLAIR') < text.index('The slices are shown in')


def test_the_scene_holds_all_that_is_there(tree: Path, exams: tuple[ExamContent, ...]) -> None:
    images = load_exam(exam_files(exams[1], '01', tree, exams))
    assert images is not None
    scene = viewer_scene(images, 10**8)
    assert scene is not None
    assert set(scene.images) == {'FLAIR', 'T1w', 'T2w', 'before', 'template'}
    assert set(scene.overlays) == {
        'lesions', 'probability', 'uncertainty', 'change', 'outline', 'outline_before',
    }  # fmt: skip
    labels = nb.load(exam_files(exams[1], '01', tree).labels)
    before = nb.load(exam_files(exams[0], '01', tree).labels)
    assert images.outlines is not None
    for drawn, mask in zip(images.outlines, (before, labels), strict=True):
        own = np.asarray(mask.dataobj) > 0
        assert np.array_equal(np.asarray(drawn.dataobj) > 0, own), 'each its own mask'
    assert scene.before == 'ses-1'
    labels = nb.load(exam_files(exams[1], '01', tree).labels)
    for value, point in scene.points.items():
        voxel = np.round(nb.affines.apply_affine(np.linalg.inv(labels.affine), point))
        assert np.asarray(labels.dataobj)[tuple(voxel.astype(int))] == int(value)


def test_room_is_kept(tree: Path, exams: tuple[ExamContent, ...]) -> None:
    images = load_exam(exam_files(exams[0], '01', tree))
    assert images is not None
    small = viewer_scene(images, 120_000)
    assert small is not None
    assert small.size <= 120_000
    assert viewer_scene(images, 2_000) is None


def test_images_are_brought_to_the_flair_by_their_transforms(
    tree: Path, exams: tuple[ExamContent, ...], tmp_path: Path
) -> None:
    from mslesseg_app.spatial.affines import write_itk

    files = exam_files(exams[0], '01', tree)
    shift = np.eye(4)
    shift[:3, 3] = 4.0, 0.0, 0.0
    moved = nb.load(files.images['T1w'])
    nb.save(nb.Nifti1Image(moved.get_fdata(), shift @ moved.affine), tmp_path / 't1w.nii.gz')
    write_itk(tmp_path / 'xfm.txt', shift)  # template to image
    other = dataclasses.replace(
        files,
        images={**files.images, 'T1w': tmp_path / 't1w.nii.gz'},
        to_mni={**files.to_mni, 'T1w': tmp_path / 'xfm.txt'},
    )
    images = load_exam(other)
    assert images is not None
    wanted = nb.as_closest_canonical(moved).get_fdata()
    assert np.allclose(images.images['T1w'].get_fdata(), wanted, atol=1e-3)


def test_damaged_files_leave_a_note_not_an_error(tmp_path: Path) -> None:
    exam = reporttree.write_exam(tmp_path, '1', 3, figures=False)
    files = exam_files(exam, '01', tmp_path)
    assert files.brain is not None
    files.brain.write_bytes(b'no image')
    (extra,) = gather_extras((exam,), '01', tmp_path)
    assert extra.scene is None
    assert extra.note == viewer.NO_IMAGES
    assert extra.measures['lesion_load_percent'] == 0.4
    for path in tmp_path.rglob('*.nii.gz'):
        path.unlink()
    (extra,) = gather_extras((exam,), '01', tmp_path)
    assert extra.note == viewer.NO_IMAGES


def test_the_models_of_separate_runs_are_drawn_together(tmp_path: Path) -> None:
    exam = reporttree.write_exam(tmp_path, '1', 3, figures=False)
    (alone,) = gather_extras((exam,), '01', tmp_path)
    assert 'models' not in [drawing.figure.kind for drawing in alone.drawings]
    labels = reporttree.head(3)['labels']
    mask = nb.Nifti1Image((np.asarray(labels.dataobj) > 0).astype(np.uint8), labels.affine)
    for model in (reporttree.MODEL, 'floor', 'mean'):
        path = output_path(Exam('01', '1', {}), 'lesion_native', desc=model)
        nb.save(mask, tmp_path / path)
    (extra,) = gather_extras((exam,), '01', tmp_path)
    (drawn,) = [one.figure for one in extra.drawings if one.figure.kind == 'models']
    assert f'Outlines: floor orange, {reporttree.MODEL} blue.' in drawn.caption


def test_timings_and_memory(tmp_path: Path) -> None:
    exam = reporttree.write_exam(tmp_path, '1', 0, figures=False)
    logs = tmp_path / 'logs'
    logs.mkdir()
    (logs / 'mslesseg-1_timings.txt').write_text(
        'node\tseconds\nsub_01_ses_1_wf.conform_t1w\t2.5\nsub_01_ses_1_wf.a.conform_flair\t1.5\n'
        'sub_01_ses_10_wf.align\t99\n'
    )
    (extra,) = gather_extras((exam,), '01', tmp_path)
    assert dict(extra.seconds) == {'reading': 4.0}
    assert '--resource-monitor' in extra.memory


# ------------------------------------------------------------------------------- the page


def test_without_the_package_the_page_says_so(
    tree: Path, exams: tuple[ExamContent, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(page, 'find_bundle', lambda: find_bundle('no_such_package_at_all'))
    text = written(exams[:1], tree, 'bare.html').read_text(encoding='utf-8')
    assert 'pip install &#39;mslesseg[viewer]&#39;' in text
    assert text.count('<script') == 1
    assert 'Lesions on all images' in text


@needs_package
def test_the_page_is_small_and_the_same_again(tree: Path, exams: tuple[ExamContent, ...]) -> None:
    path = written(exams, tree)
    before = path.read_bytes()
    assert len(before) < 15e6
    assert written(exams, tree).read_bytes() == before
    text = before.decode()
    for words in (
        'Since ses-1 (6 months): 1 new, 1 enlarging, 2 stable',
        'Change since the previous session',
        'Lesions in detail',
        'Lesions in ses-1 and ses-2',
        'Computing',
        'Contrast to noise: pass',
        'Motion: not measured',
        'NiiVue',
        'Redistribution and use',
    ):
        assert words in text, words
    assert 'connect-src' not in text


def start(browser: Any, key: str = 'exam-1-viewer') -> None:
    browser.run(f"mslessegViewers.get('{key}').start().then(() => 1)")
    state = browser.run(f"document.getElementById('{key}').dataset.state")
    assert state == 'open', browser.run(f"document.querySelector('#{key} .nv-note').textContent")


#: Share of the pixels of the main pane that are not black.
LIT = (
    "(() => { const c = mslessegViewers.get('exam-1-viewer').main; c.nv.drawScene();"
    'const g = c.nv.gl, n = 4 * c.canvas.width * c.canvas.height, p = new Uint8Array(n);'
    'g.readPixels(0, 0, c.canvas.width, c.canvas.height, g.RGBA, g.UNSIGNED_BYTE, p);'
    'let lit = 0; for (let i = 0; i < n; i += 4) lit += p[i] > 40; return 4 * lit / n; })()'
)
WHERE = (
    "(v => v.frac2mm(v.scene.crosshairPos, 0, true))(mslessegViewers.get('exam-1-viewer').main.nv)"
)
WORDS = "document.querySelector('#exam-1-viewer .nv-where').textContent"


@pytest.fixture(scope='module')
def shown(tree: Path, exams: tuple[ExamContent, ...]) -> Path:
    return written(exams, tree)


@needs_package
@pytest.mark.browser
def test_the_viewer_draws_and_moves(shown: Path, browser: Any) -> None:
    browser.events.clear()
    browser.open(shown)
    start(browser)
    assert browser.run(LIT) > 0.1
    assert browser.run(WORDS).startswith('Lesion 1: 80 mm³, juxtacortical')
    # letters of the sides are where NiiVue itself puts the patient's right
    assert browser.run(
        "(() => { const v = mslessegViewers.get('exam-1-viewer').main;"
        'const t = v.nv.screenSlices.find(s => s.axCorSag === 0).leftTopWidthHeight;'
        'const x = s => v.nv.frac2mm(v.nv.canvasPos2frac([t[0] + s * t[2], t[1] + t[3] / 2]))[0];'
        "return v.letters[0].join('') + (x(0.3) > x(0.7)); })()"
    ) in ('RLtrue',)
    # a row of the table goes to its lesion
    browser.run('document.querySelector(\'tr[data-lesion="3"] a\').click()')
    browser.run('new Promise(r => setTimeout(r, 200))')
    assert browser.run(WORDS).startswith('Lesion 3')
    point = browser.run("mslessegViewers.get('exam-1-viewer').scene.points['3']")
    at = browser.run(f'[...{WHERE}]')[:3]
    assert np.allclose(at, point, atol=0.1)
    # the other panes are at the same place
    others = browser.run(
        "mslessegViewers.get('exam-1-viewer').panes.map(p => "
        '[...p.nv.frac2mm(p.nv.scene.crosshairPos, 0, true)].slice(0, 3))'
    )
    assert np.allclose(others, point, atol=0.1)
    assert browser.complaints() == []
    assert browser.requests() == [shown.as_uri()]


@needs_package
@pytest.mark.browser
def test_click_and_keys_move_the_slices(shown: Path, browser: Any) -> None:
    browser.open(shown)
    start(browser)
    browser.run("document.querySelector('#exam-1-viewer').scrollIntoView()")
    box = browser.run(
        "(() => { const r = mslessegViewers.get('exam-1-viewer').main.canvas"
        '.getBoundingClientRect(); return [r.left, r.top, r.width, r.height]; })()'
    )
    before = browser.run(f'[...{WHERE}]')
    at = {'x': box[0] + 0.3 * box[2], 'y': box[1] + 0.7 * box[3], 'button': 'left'}
    for kind in ('mousePressed', 'mouseReleased'):
        browser.send('Input.dispatchMouseEvent', type=kind, clickCount=1, **at)
    browser.run('new Promise(r => setTimeout(r, 300))')
    after = browser.run(f'[...{WHERE}]')
    assert not np.allclose(before[:3], after[:3], atol=0.5)
    browser.run("mslessegViewers.get('exam-1-viewer').main.canvas.focus()")
    browser.send('Input.dispatchKeyEvent', type='keyDown', key='PageUp', code='PageUp')
    up = browser.run(f'[...{WHERE}]')
    assert up[2] - after[2] == pytest.approx(5 * np.cos(np.radians(5)), abs=0.1)
    browser.send('Input.dispatchKeyEvent', type='keyDown', key='n', code='KeyN')
    assert browser.run(WORDS).startswith('Lesion ')
    assert browser.complaints() == []


@needs_package
@pytest.mark.browser
def test_contours_lie_on_the_lesion(shown: Path, browser: Any) -> None:
    """The middle of the lines that are drawn is where NiiVue puts the lesion's point."""
    browser.open(shown)
    start(browser)
    found = browser.run(
        "(() => { const v = mslessegViewers.get('exam-1-viewer'); v.goTo('2');"
        "v.main.nv.setSliceType(0); const p = v.main, c = p.lines.getContext('2d');"
        'const at = p.nv.frac2canvasPos(p.nv.scene.crosshairPos);'
        'const w = 24, d = c.getImageData(at[0] - w, at[1] - w, 2 * w, 2 * w).data;'
        'let n = 0, x = 0, y = 0; for (let i = 0; i < d.length; i += 4)'
        'if (d[i] > 200 && d[i + 2] < 90 && d[i + 3] > 90)'
        '{ n += 1; x += (i / 4) % (2 * w) - w; y += Math.floor(i / 4 / (2 * w)) - w; }'
        'const mm = p.canvas.width / p.nv.volumes[0].dimsRAS[1];'
        'return [n, x / n / mm, y / n / mm]; })()'
    )
    assert found[0] > 10
    assert abs(found[1]) < 1.5  # voxels
    assert abs(found[2]) < 1.5


@needs_package
@pytest.mark.browser
def test_overlays_flicker_and_layouts(shown: Path, browser: Any) -> None:
    browser.open(shown)
    start(browser)
    lit = browser.run(LIT)

    def choose(what: str) -> None:
        browser.run(f"document.querySelector('#exam-1-viewer [data-do={what}]').click()")

    for name in ('probability', 'uncertainty', 'template'):
        choose(name)
        layer = f"mslessegViewers.get('exam-1-viewer').main.layers.{name}.opacity"
        assert browser.run(layer) > 0.5
        choose(name)
        assert browser.run(layer) == 0
    choose('flicker')
    seen = browser.run(
        'new Promise(r => { const s = new Set(); const t = setInterval(() => s.add('
        "document.querySelector('#exam-1-viewer [data-do=template]').checked), 100);"
        'setTimeout(() => { clearInterval(t); r([...s].length); }, 2000); })'
    )
    assert seen == 2
    choose('flicker')
    select = "document.querySelector('#exam-1-viewer [data-do=layout]')"
    sizes = (
        "(() => { const p = mslessegViewers.get('exam-1-viewer').panes; return p.map(one =>"
        '[one.holder.clientWidth, one.holder.clientHeight, one.nv.screenSlices[0].axCorSag]); })()'
    )
    for name in ('three', 'map', 'coronal', 'sagittal', 'axial'):
        browser.run(f"{select}.value = '{name}'; {select}.dispatchEvent(new Event('change'))")
        browser.run('new Promise(r => setTimeout(r, 200))')
        shown = browser.run(sizes)
        alike = {tuple(one) for one in shown[:-1]}
        if name in ('axial', 'coronal', 'sagittal'):
            assert len(alike) == 1, 'all images have panes of one size and one plane'
        else:
            assert len({tuple(one[:2]) for one in shown}) > 1
    browser.run('new Promise(r => setTimeout(r, 400))')
    assert browser.run(LIT) == pytest.approx(lit, rel=0.2)
    assert browser.complaints() == []


@needs_package
@pytest.mark.browser
def test_sessions_lie_side_by_side_and_few_viewers_stay_open(shown: Path, browser: Any) -> None:
    browser.open(shown)
    start(browser)
    start(browser, 'exam-2-viewer')
    panes = "[...document.querySelectorAll('#exam-2-viewer .nv-pane')].map(p => p.dataset.image)"
    assert browser.run(panes) == ['FLAIR', 'before', 'T1w', 'T2w', 'map']
    words = browser.run("document.querySelector('#exam-2-viewer .nv-where').textContent")
    assert '· stable ·' in words
    start(browser, 'exam-3-viewer')
    states = "[...document.querySelectorAll('.nv')].map(v => v.dataset.state)"
    assert browser.run(states) == ['closed', 'open', 'open']
    start(browser)
    assert browser.run(states) == ['open', 'closed', 'open']
    assert browser.complaints() == []


@needs_package
@pytest.mark.browser
def test_without_webgl_the_images_are_left(shown: Path, browser: Any) -> None:
    script = browser.send(
        'Page.addScriptToEvaluateOnNewDocument',
        source='HTMLCanvasElement.prototype.getContext = () => null;',
    )
    try:
        browser.open(shown)
        note = browser.run("document.querySelector('.nv-note').textContent")
        assert 'WebGL 2' in note
        assert browser.run("document.querySelector('.nv-start').hidden")
        browser.run('document.querySelector(\'tr[data-lesion="3"] a\').click()')
        assert browser.run('location.hash') == '#exam-1-lesion-3'
    finally:
        browser.send('Page.removeScriptToEvaluateOnNewDocument', **script)


@needs_package
@pytest.mark.browser
@pytest.mark.parametrize('width', [400, 900, 1600])
def test_no_width_scrolls_sideways_with_the_viewer(shown: Path, browser: Any, width: int) -> None:
    size = {'width': width, 'height': 900, 'deviceScaleFactor': 1, 'mobile': False}
    browser.send('Emulation.setDeviceMetricsOverride', **size)
    try:
        browser.open(shown)
        start(browser)
        assert browser.run('document.documentElement.scrollWidth') <= width
        heights = browser.run(
            "[...document.querySelectorAll('#exam-1-viewer .nv-pane')].map(p => p.clientHeight)"
        )
        assert min(heights) > 80
    finally:
        browser.send('Emulation.clearDeviceMetricsOverride')


@needs_package
@pytest.mark.browser
def test_keys_switch_contours_crosshair_and_window(shown: Path, browser: Any) -> None:
    browser.open(shown)
    start(browser)
    viewer_of = "mslessegViewers.get('exam-1-viewer')"
    first = browser.run(f'[{viewer_of}.main.nv.volumes[0].cal_min, {viewer_of}.main.window]')
    assert first[0] == first[1][0]
    assert 1 <= first[1][0] < first[1][1] <= 127
    browser.run(f'{viewer_of}.main.nv.volumes[0].cal_max = 60; {viewer_of}.main.canvas.focus()')
    for key in 'oxw':
        browser.send('Input.dispatchKeyEvent', type='keyDown', key=key, code=f'Key{key.upper()}')
    box = "document.querySelector('#exam-1-viewer [data-do={}]').checked"
    assert browser.run(f'[{viewer_of}.shown, {box.format("lesions")}, {box.format("cross")}]') == [
        False, False, False,
    ]  # fmt: skip
    assert browser.run(f'{viewer_of}.main.nv.opts.crosshairWidth') == 0
    assert browser.run(f'{viewer_of}.main.nv.volumes[0].cal_max') == first[1][1]
    assert browser.complaints() == []


@needs_package
@pytest.mark.browser
def test_print_cuts_no_table_and_no_card(shown: Path, browser: Any) -> None:
    """On the width of A4 less its margins; a card is no higher than a page."""
    width, height = 186 * 96 / 25.4, 273 * 96 / 25.4
    size = {'width': round(width), 'height': 900, 'deviceScaleFactor': 1, 'mobile': False}
    browser.send('Emulation.setDeviceMetricsOverride', **size)
    browser.send('Emulation.setEmulatedMedia', media='print')
    try:
        browser.open(shown)
        tables = browser.run(
            "[...document.querySelectorAll('table')].filter(t => t.offsetWidth)"
            '.map(t => t.getBoundingClientRect().right)'
        )
        cards = browser.run(
            "[...document.querySelectorAll('.card')].map(c => [c.offsetHeight,"
            'getComputedStyle(c).breakInside])'
        )
    finally:
        browser.send('Emulation.setEmulatedMedia', media='')
        browser.send('Emulation.clearDeviceMetricsOverride')
    assert len(tables) > 6
    assert max(tables) <= width + 1
    assert len(cards) == 4
    assert all(tall < height and how == 'avoid' for tall, how in cards)


def test_figures_come_before_the_viewer(tree: Path, exams: tuple[ExamContent, ...]) -> None:
    assert viewer_room(exams[:1], tree) == VIEWER_LIMIT
    (tree / 'large.png').write_bytes(bytes(5 * 2**20))
    figure = dataclasses.replace(exams[0].figures[0], path='large.png')
    large = dataclasses.replace(exams[0], figures=(figure,))
    room = viewer_room([large], tree)
    assert LEAST_VIEWER < room < EMBED_LIMIT - 5 * 2**20
    (tree / 'large.png').write_bytes(bytes(20 * 2**20))
    assert viewer_room([large], tree) == LEAST_VIEWER
    (tree / 'large.png').unlink()
