"""The group page in a browser: tables, figures, no script error, no request, light and dark."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from grouptree import Tree, add_failure, make_tree, write_participants

from mslesseg_app.core.settings import Settings
from mslesseg_app.group import run_group
from mslesseg_app.reports.charts import ChartSeries, strips
from mslesseg_app.reports.group_report import Fact, Section, write_group_report
from mslesseg_app.reports.tabular import Column, Table


@pytest.fixture(scope='module')
def tree(tmp_path_factory: pytest.TempPathFactory) -> Tree:
    made = make_tree(tmp_path_factory.mktemp('group'), 6)
    write_participants(made.bids)
    add_failure(made, 'sub-20', 'unet', '<script>alert("1")</script> & <b>')
    settings = Settings(
        made.bids, made.out, made.out.parent / 'work', derivatives={'manual': made.manual}
    )
    assert run_group(settings, quiet=True) == 0
    return made


@pytest.fixture(scope='module')
def page(tree: Tree) -> Path:
    return tree.out / 'group_lesions.html'


def test_what_is_written_is_escaped(page: Path) -> None:
    text = page.read_text(encoding='utf-8')
    assert text.count('<script') == 1
    assert '&lt;script&gt;alert' in text
    assert '<b>' not in text


def test_an_empty_page(tmp_path: Path) -> None:
    section = Section('only', 'Nothing & more', warnings=('<i>',))
    path = write_group_report(
        tmp_path / 'a.html',
        title='Group <1>',
        folder='o"ut',
        facts=[Fact('0', 'exams')],
        sections=[section],
        version='0',
    )
    text = path.read_text(encoding='utf-8')
    assert 'Group &lt;1&gt;' in text
    assert '<i>' not in text


@pytest.mark.browser
def test_the_page_lives_in_a_browser(page: Path, browser: Any) -> None:
    browser.events.clear()
    browser.open(page)
    assert browser.run("document.querySelectorAll('table').length") >= 7
    shown = browser.run(
        "[...document.querySelectorAll('.chart svg')].filter("
        's => s.getBoundingClientRect().width > 200 && '
        "s.querySelectorAll('circle, path').length).length"
    )
    assert shown == browser.run("document.querySelectorAll('.chart').length") >= 15
    assert 'DSC' in browser.run("document.querySelector('#accuracy').innerText")
    assert browser.complaints() == []
    assert browser.requests() == [page.as_uri()]


@pytest.mark.browser
def test_tables_are_sorted_by_their_numbers(page: Path, browser: Any) -> None:
    browser.open(page)
    cells = (
        "[...document.querySelectorAll('#accuracy table')[1].tBodies[0].rows]"
        '.map(r => Number(r.cells[4].dataset.value))'
    )
    browser.run(
        "document.querySelectorAll('#accuracy table')[1].querySelectorAll('button')[4].click()"
    )
    values = [value for value in browser.run(cells) if value is not None]
    assert values == sorted(values)
    assert len(set(values)) > 5


@pytest.mark.browser
@pytest.mark.parametrize('width', [360, 800, 1280])
def test_no_width_scrolls_sideways(page: Path, browser: Any, width: int) -> None:
    browser.send(
        'Emulation.setDeviceMetricsOverride',
        width=width,
        height=900,
        deviceScaleFactor=1,
        mobile=False,
    )
    browser.open(page)
    assert browser.run('document.documentElement.scrollWidth') <= width
    browser.send('Emulation.clearDeviceMetricsOverride')


@pytest.mark.browser
@pytest.mark.parametrize('scheme', ['light', 'dark'])
def test_text_can_be_read_in_light_and_dark(page: Path, browser: Any, scheme: str) -> None:
    feature = [{'name': 'prefers-color-scheme', 'value': scheme}]
    browser.send('Emulation.setEmulatedMedia', features=feature)
    browser.open(page)
    style = "getComputedStyle(document.querySelector('{}')).{}"
    paper = luminance(browser.run(style.format('body', 'backgroundColor')))
    assert (paper > 0.5) == (scheme == 'light')
    for selector, what in (
        ('body', 'color'),
        ('.prose', 'color'),
        ('.chart text', 'fill'),
        ('.chart .soft', 'fill'),
        ('a[href]', 'color'),
        ('figcaption', 'color'),
    ):
        ink = luminance(browser.run(style.format(selector, what)))
        high, low = max(ink, paper), min(ink, paper)
        assert (high + 0.05) / (low + 0.05) >= 4.5, selector
    for series in range(8):
        ink = luminance(
            browser.run(
                "(() => {const s = document.querySelector('.chart svg');"
                f"return getComputedStyle(s).getPropertyValue('--s{series}')}})()"
            )
        )
        high, low = max(ink, paper), min(ink, paper)
        assert (high + 0.05) / (low + 0.05) >= 3, f'colour {series}'
    browser.send('Emulation.setEmulatedMedia', features=[])


@pytest.mark.browser
def test_a_figure_by_itself(tree: Tree, browser: Any) -> None:
    browser.events.clear()
    browser.open(tree.out / 'group_figures' / 'metric_DSC.svg')
    fill = browser.run("getComputedStyle(document.querySelector('circle')).fill")
    assert fill not in ('none', 'rgb(0, 0, 0)'), 'the style came along'
    assert browser.complaints() == []


def luminance(colour: str) -> float:
    """Relative luminance (WCAG) of ``rgb(…)`` or ``#rrggbb``."""
    if colour.strip().startswith('#'):
        digits = colour.strip()[1:]
        parts = [int(digits[k : k + 2], 16) for k in (0, 2, 4)]
    else:
        parts = [int(part) for part in colour[colour.index('(') + 1 : -1].split(',')[:3]]
    linear = [
        c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4
        for c in (part / 255 for part in parts)
    ]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_a_long_table_keeps_its_numbers_for_sorting(tmp_path: Path) -> None:
    import numpy as np

    table = Table(
        'x', 'X', (Column('a', 'a'), Column('b', 'b')), tuple((f'r{k}', k / 3) for k in range(20))
    )
    chart = strips(
        'k', 'K', 'k (mm)', [ChartSeries('<s>', np.array([1.0, 2.0]), labels=['&', '"'])]
    )
    path = write_group_report(
        tmp_path / 'a.html',
        title='t',
        folder='f',
        facts=[],
        sections=[Section('only', 'Only', tables=(table,), charts=(chart,))],
        version='0',
    )
    text = path.read_text(encoding='utf-8')
    assert 'data-value="0.3333333333333333"' in text
    assert 'class="scroll tall"' in text
    assert '&lt;s&gt;' in text
