"""The review on the group page, in a browser: marks by key and button, sorting, saving."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from grouptree import Tree, add_failure, add_images, make_tree

from mslesseg_app.bids.review import read_review
from mslesseg_app.core.settings import Settings
from mslesseg_app.group import run_group
from mslesseg_app.reports.review import ReviewRow, in_order

ROWS = "[...document.querySelectorAll('table.review tbody tr')]"
KEYS = {'ArrowDown': 40, 'ArrowUp': 38, 'a': 65, 'r': 82, 'x': 88, 'u': 85, 'n': 78, 'Enter': 13}


def settings_of(tree: Tree, **changes: Any) -> Settings:
    return Settings(tree.bids, tree.out, tree.out.parent / 'work', **changes)


@pytest.fixture(scope='module')
def tree(tmp_path_factory: pytest.TempPathFactory) -> Tree:
    made = make_tree(tmp_path_factory.mktemp('review'), 4, sessions=2, models=('unet',))
    for (label, _), mask in made.predicted.items():
        add_images(made, label, mask, np.random.default_rng(2))
    add_failure(made, 'sub-03_ses-1', 'unet', '<img src=x onerror=alert(1)>')
    (made.out / 'sub-01.html').write_text('<title>a page</title>')
    (made.out / 'group_review.tsv').write_text(
        'participant_id\tsession_id\tmark\tmarked\tnote\n'
        'sub-02\tses-1\taccept\t2026-01-01T10:00:00Z\tfine "so far" <b>\n'
    )
    assert run_group(settings_of(made), quiet=True) == 0
    return made


@pytest.fixture
def opened(tree: Tree, browser: Any) -> Iterator[Any]:
    """The page as a reader opens it for the first time."""
    path = tree.out / 'group_lesions.html'
    browser.open(path)
    browser.run('localStorage.clear()')
    browser.events.clear()
    browser.open(path)
    yield browser
    assert browser.complaints() == []
    assert browser.requests() == [path.as_uri()]


def press(browser: Any, *keys: str) -> None:
    for key in keys:
        code = {'windowsVirtualKeyCode': KEYS[key], 'key': key}
        text = {'text': key} if len(key) == 1 else {}
        browser.send('Input.dispatchKeyEvent', type='keyDown', **code, **text)
        browser.send('Input.dispatchKeyEvent', type='keyUp', **code)


def marks(browser: Any) -> dict[str, str]:
    pairs = browser.run(
        f"{ROWS}.map(r => [r.dataset.participant + ' ' + r.dataset.session, r.dataset.mark])"
    )
    return dict(pairs)


@pytest.mark.browser
def test_exams_are_marked_by_keys_and_saved(opened: Any, tree: Tree, tmp_path: Path) -> None:
    names = list(marks(opened))
    assert names[0] == 'sub-03 ses-1', 'what failed comes first'
    assert names[-1] == 'sub-02 ses-1', 'what has been marked comes last'
    opened.run(f'{ROWS}[0].focus()')
    press(opened, 'x', 'r', 'a', 'ArrowDown', 'a', 'ArrowUp', 'ArrowUp', 'u')
    found = marks(opened)
    assert [found[name] for name in names[:6]] == ['exclude', 'redo', 'accept', '', 'accept', '']
    assert opened.run("document.querySelector('#review-count').textContent") == '5 of 8 marked'
    press(opened, 'n')
    opened.send('Input.insertText', text='a\tnote ')
    press(opened, 'Enter')
    assert opened.run('document.activeElement.tagName') == 'TR'

    opened.send('Browser.setDownloadBehavior', behavior='allow', downloadPath=str(tmp_path))
    opened.run("document.querySelector('#review-save').click()")
    saved = tmp_path / 'group_review.tsv'
    deadline = time.monotonic() + 20
    while not saved.is_file():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    review = read_review(saved)
    kept = {' '.join(key): mark for key, mark in review.items()}
    assert kept['sub-03 ses-1'].mark == 'exclude'
    assert kept['sub-02 ses-1'].note == 'fine "so far" <b>'
    assert kept['sub-02 ses-1'].marked == '2026-01-01T10:00:00Z'
    assert {name: mark.mark for name, mark in kept.items() if mark.mark} == {
        name: mark for name, mark in marks(opened).items() if mark
    }
    assert [mark.note for mark in kept.values() if mark.note.startswith('a')] == ['a note']
    assert all(mark.marked for mark in kept.values())


@pytest.mark.browser
def test_marks_outlive_the_page(opened: Any, tree: Tree) -> None:
    opened.run(f"{ROWS}[1].querySelector('button[value=redo]').click()")
    before = marks(opened)
    assert list(before.values()).count('redo') == 1
    opened.open(tree.out / 'group_lesions.html')
    assert marks(opened) == before
    pressed = opened.run(f"{ROWS}[1].querySelector('[aria-pressed=true]').value")
    assert pressed == 'redo'
    opened.run(f"{ROWS}[1].querySelector('button[value=redo]').click()")
    assert list(marks(opened).values()).count('redo') == 0
    opened.events[:] = [e for e in opened.events if 'Network' not in str(e.get('method'))]
    opened.open(tree.out / 'group_lesions.html')


@pytest.mark.browser
def test_table_is_sorted_and_filtered(opened: Any) -> None:
    column = "document.querySelectorAll('table.review thead th')[3]"
    values = f'{ROWS}.map(r => Number(r.cells[3].dataset.value))'
    opened.run(f"{column}.querySelector('button').click()")
    found = opened.run(values)
    assert found == sorted(found)
    assert len(set(found)) > 3
    opened.run(f"{column}.querySelector('button').click()")
    assert opened.run(values) == found[::-1]
    assert opened.run(f"{column}.getAttribute('aria-sort')") == 'descending'
    flagged = opened.run("document.querySelectorAll('#review tr[data-flagged]').length")
    assert 0 < flagged < 8
    for value, expected in (('flagged', flagged), ('accept', 1), ('open', 7), ('all', 8)):
        opened.run(
            f"document.querySelector('#review-filter').value = '{value}';"
            "document.querySelector('#review-filter').dispatchEvent(new Event('change'))"
        )
        assert opened.run(f'{ROWS}.filter(r => !r.hidden).length') == expected, value
    for text, expected in (('sub-02', 2), ('ses-1 sub-02', 1), ('nobody', 0), ('', 8)):
        opened.run(
            f"document.querySelector('#review-search').value = '{text}';"
            "document.querySelector('#review-search').dispatchEvent(new Event('input'))"
        )
        assert opened.run(f'{ROWS}.filter(r => !r.hidden).length') == expected, text
    assert opened.run('mslessegMarks.order()') == ['sub-01.html'], 'the reports that are there'


@pytest.mark.browser
def test_images_are_seen_and_named(opened: Any) -> None:
    images = f"{ROWS}.map(r => r.querySelector('img'))"
    assert opened.run(f'{images}.every(i => i.complete && i.naturalHeight == 112)')
    assert opened.run(f'{images}.every(i => i.alt.includes("lesions outlined"))')
    unnamed = (
        "[...document.querySelectorAll('#review button, #review input, #review select')]"
        '.filter(e => !(e.textContent.trim() || e.ariaLabel || e.closest("label"))).length'
    )
    assert opened.run(unnamed) == 0
    assert opened.run("document.querySelectorAll('#review img[onerror]').length") == 0
    assert opened.run("document.querySelector('#review tbody a').getAttribute('href')") == (
        'sub-01.html?group'
    )


@pytest.mark.browser
def test_gallery_moves_by_lines(opened: Any) -> None:
    opened.run("document.querySelector('#review-gallery').click()")
    opened.run(f'{ROWS}[0].focus()')
    press(opened, 'ArrowDown')
    place = opened.run(f'{ROWS}.indexOf(document.activeElement)')
    tops = opened.run(f'{ROWS}.map(r => Math.round(r.getBoundingClientRect().top))')
    assert tops[place] > tops[0]
    assert place > 1
    press(opened, 'ArrowUp', 'a')
    assert next(iter(marks(opened).values())) == 'accept'


@pytest.mark.browser
@pytest.mark.parametrize('width', [360, 800, 1280])
def test_marking_needs_no_scrolling_sideways(opened: Any, width: int) -> None:
    opened.send(
        'Emulation.setDeviceMetricsOverride',
        width=width,
        height=900,
        deviceScaleFactor=1,
        mobile=False,
    )
    right = opened.run(
        "Math.max(...[...document.querySelectorAll('.marks button')]"
        '.map(b => b.getBoundingClientRect().right))'
    )
    assert right <= width
    assert opened.run('document.documentElement.scrollWidth') <= width
    opened.send('Emulation.clearDeviceMetricsOverride')


@pytest.mark.browser
def test_print_shows_marks_but_neither_thumbnails_nor_buttons(opened: Any) -> None:
    opened.send('Emulation.setEmulatedMedia', media='print')
    shown = "getComputedStyle(document.querySelector('{}')).display"
    assert opened.run(shown.format('.review-bar')) == 'none'
    assert opened.run(shown.format('.review .marks')) == 'none'
    assert opened.run(shown.format('.review .thumb')) == 'none', 'no pages of thumbnails'
    last = f"{ROWS}.at(-1).querySelector('.said')"
    assert opened.run(f'{last}.getBoundingClientRect().width') > 10
    opened.send('Emulation.setEmulatedMedia', media='')


@pytest.mark.browser
@pytest.mark.slow
def test_three_hundred_exams_stay_light(tmp_path: Path, browser: Any) -> None:
    tree = make_tree(tmp_path, 150, sessions=2, models=('unet',), references=False)
    generator = np.random.default_rng(4)
    for (label, _), mask in tree.predicted.items():
        add_images(tree, label, mask, generator)
    assert run_group(settings_of(tree), quiet=True) == 0
    page = tree.out / 'group_lesions.html'
    assert page.stat().st_size < 6e6
    start = time.monotonic()
    browser.open(page)
    assert time.monotonic() - start < 20
    assert browser.run(f'{ROWS}.length') == 300
    browser.run(f'{ROWS}[0].focus()')
    start = time.monotonic()
    press(browser, *['a'] * 50)
    assert time.monotonic() - start < 15
    assert browser.run("document.querySelector('#review-count').textContent") == (
        '50 of 300 marked'
    )


def test_what_has_to_be_reviewed_comes_first_the_worst_leading() -> None:
    rows = [
        ReviewRow('sub-1', '', mark='accept'),
        ReviewRow('sub-2', ''),
        ReviewRow('sub-3', '', status='check'),
        ReviewRow('sub-4', '', flags=('x',)),
        ReviewRow('sub-5', '', mark='redone'),
        ReviewRow('sub-6', '', status='pass', selfcheck='check'),
        ReviewRow('sub-7', '', status='pass', selfcheck='pass'),
        ReviewRow('sub-10', '', status='fail'),
        ReviewRow('sub-9', '', status='fail'),
    ]
    order = [row.participant.removeprefix('sub-') for row in in_order(rows)]
    assert order == ['5', '9', '10', '3', '6', '4', '2', '7', '1']


@pytest.mark.browser
def test_images_of_many_exams_lie_beside_the_page(
    tree: Tree, browser: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr('mslesseg_app.reports.group_report.MOST_EMBEDDED', 7)
    path = tree.out / 'group_lesions.html'
    embedded = path.stat().st_size
    try:
        assert run_group(settings_of(tree), quiet=True) == 0
        text = path.read_text()
        assert 'data:image' not in text.split('<section id="review"')[1].split('</section>')[0]
        assert 'src="group_figures/exams/sub-01_ses-1_desc-unet.jpg"' in text
        assert path.stat().st_size < embedded
        browser.events.clear()
        browser.open(path)
        load = 'one => { one.loading = "eager"; return one.decode().then(() => one.naturalWidth) }'
        shown = "[...document.querySelectorAll('td.thumb img')]"
        widths = browser.run(f'Promise.all({shown}.map({load}))')
        assert len(widths) == 8
        assert min(widths) > 100
        assert browser.complaints() == []
    finally:
        monkeypatch.undo()
        run_group(settings_of(tree), quiet=True)
