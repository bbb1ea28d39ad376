"""The subject page: complete, escaped, small, alone, and alive in a browser."""

from __future__ import annotations

import dataclasses
import itertools
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from mslesseg_app.core.errors import DataError, MSLesSegError
from mslesseg_app.reports import ExamContent, Figure, LesionSummary, SubjectContent
from mslesseg_app.reports.markup import linked, markdown, readable
from mslesseg_app.reports.participant_report import write_participant_report


class Reader(HTMLParser):
    """Collects tags, headings and addresses of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.words: dict[str, list[str]] = {}
        self.feed(text)

    void = frozenset({'meta', 'input', 'img', 'link', 'br', 'hr'})

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.void:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open:
            self.words.setdefault(self.open[-1], []).append(data.strip())


@pytest.fixture
def page(content: SubjectContent, tmp_path: Path) -> Path:
    return write_participant_report(content, tmp_path / 'sub-01.html')


def test_all_sections_are_there(page: Path) -> None:
    reader = Reader(page.read_text(encoding='utf-8'))
    assert not reader.open
    assert reader.words['h2'] == [
        'Summary',
        'ses-1',
        'ses-2',
        'Exam',
        'Provenance',
        'Methods text',
        'How to cite',
    ]
    first = [
        'Lesions',
        'Quality checks',
        'Brain mask',
        'Registration to the template',
        'Agreement with the reference mask',
        'Input images',
        'Segmentation model',
    ]
    found = [word for word in reader.words['h3'] if word]
    assert [word for word in found if word in first][: len(first)] == first
    assert 'This exam has no result' in found


def test_what_must_be_said(page: Path) -> None:
    text = page.read_text(encoding='utf-8')
    for words in (
        'For research use only',
        'Not a medical device',
        'Image checks passed',
        'Do not use: an image check failed',
        'No result',
        'no T2w',
        '<strong>What to do:</strong> copy again',
        'Exit code 65',
        'crash-&lt;1&gt;.txt',
        'No lesion detected: confirm.',
        'Segmentation: not yet reviewed',
        'self-check of the segmentation: mask and FLAIR disagree',
        'No T2w image: results are less certain.',
        'About 48 ml of hyperintense tissue',
        '48.20 ml',
        '0.92',
        'ab' * 32,
    ):
        assert words in text, words


def test_everything_is_escaped(page: Path) -> None:
    text = page.read_text(encoding='utf-8')
    assert text.count('<script') == 1
    assert '<b>' not in text
    assert text.count('&lt;script&gt;alert') >= 9
    assert 'javascript:' not in text


def test_ids_are_unique_and_links_find_their_aim(page: Path) -> None:
    tags = Reader(page.read_text(encoding='utf-8')).tags
    ids = [attrs['id'] for _, attrs in tags if 'id' in attrs]
    assert len(ids) == len(set(ids))
    aims = {
        str(attrs.get('href'))[1:]
        for tag, attrs in tags
        if tag == 'a' and str(attrs.get('href')).startswith('#')
    }
    assert aims <= set(ids)
    assert 'exam-1-lesion-7' in aims


def test_nothing_is_asked_from_outside(page: Path) -> None:
    text = page.read_text(encoding='utf-8')
    for tag, attrs in Reader(text).tags:
        for name in ('src', 'href', 'srcset', 'data', 'action'):
            value = attrs.get(name) or ''
            if tag != 'a' and value:
                assert value.startswith('data:'), (tag, name, value[:60])
    assert "default-src 'none'" in text
    assert 'url(' not in text
    assert '@import' not in text


def test_basics_of_access(page: Path) -> None:
    reader = Reader(page.read_text(encoding='utf-8'))
    assert ('html', {'lang': 'en'}) in reader.tags
    for tag, attrs in reader.tags:
        if tag == 'img':
            assert attrs.get('alt')
        if tag == 'svg':
            assert attrs.get('role') == 'img'
            assert attrs.get('aria-label')
        if tag == 'th':
            assert attrs.get('scope')
    levels = [int(tag[1]) for tag, _ in reader.tags if re.fullmatch(r'h[1-6]', tag)]
    assert levels[0] == 1
    assert all(after - before <= 1 for before, after in itertools.pairwise(levels))


def contrast(one: str, two: str) -> float:
    """Contrast of two colours by WCAG 2."""

    def light(colour: str) -> float:
        parts = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
        linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    high, low = sorted((light(one), light(two)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def test_text_colours_have_contrast(page: Path) -> None:
    text = page.read_text(encoding='utf-8')
    schemes = [
        dict(re.findall(r'--(\w+):(#[0-9a-f]{3,6})', block))
        for block in re.findall(r':root\{(.*?)\}', text, re.DOTALL)
    ]
    assert len(schemes) == 2, 'light and dark'
    for scheme in schemes:
        full = {name: one if len(one) == 7 else f'#{one[1:] * 2}' for name, one in scheme.items()}
        for name in ('ink', 'soft', 'link', 'pass', 'check', 'fail', 'unknown'):
            for ground in ('paper', 'wash', 'warn', 'bad'):
                assert contrast(full[name], full[ground]) >= 4.5, (name, ground)
        for name in ('pass', 'check', 'fail', 'unknown'):
            assert contrast(full['on'], full[name]) >= 4.5, name


def test_the_review_that_is_stored_is_shown(content: SubjectContent, tmp_path: Path) -> None:
    marks = {'1': {'mark': 'accept', 'marked': '2026-01-02T03:04:05Z', 'note': 'good'}}
    links = {'previous': 'sub-00.html', 'group': 'group_lesions.html'}
    one = dataclasses.replace(content, marks=marks, links=links)
    text = write_participant_report(one, tmp_path / 'p.html').read_text(encoding='utf-8')
    assert 'Segmentation: accepted' in text
    assert 'data-session="ses-1" data-mark="accept" data-marked="2026-01-02T03:04:05Z"' in text
    assert 'rel="prev" href="sub-00.html"' in text
    assert 'href="group_lesions.html" hidden' in text, 'until it is there'
    (tmp_path / 'group_lesions.html').touch()
    text = write_participant_report(one, tmp_path / 'p.html').read_text(encoding='utf-8')
    assert 'href="group_lesions.html">' in text


def test_same_content_same_bytes_and_no_leftovers(
    content: SubjectContent, page: Path, tmp_path: Path
) -> None:
    before = page.read_bytes()
    again = SubjectContent.from_dict(content.to_dict())
    write_participant_report(again, page)
    assert page.read_bytes() == before
    assert len(before) < 15 * 2**20
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith('.')] == []


def test_beyond_the_limit_figures_are_linked(content: SubjectContent, tmp_path: Path) -> None:
    lesions = tmp_path / content.exams[0].figures[0].path
    limit = lesions.stat().st_size
    page = write_participant_report(content, tmp_path / 'sub-01.html', embed_limit=limit)
    text = page.read_text(encoding='utf-8')
    assert 'data-lesion="7"' in text
    assert '<img src="sub-01/figures/alignment.svg"' in text
    assert len(text) < 6 * limit


def test_odd_figures(content: SubjectContent, tmp_path: Path) -> None:
    (tmp_path / 'a <1>.png').write_bytes(b'\x89PNG')
    (tmp_path / 'foreign.svg').write_text('<svg xmlns="http://www.w3.org/2000/svg"/>')
    figures = (
        Figure('lesions', 'gone.svg', 'T', 'C', 'A'),
        Figure('other', 'a <1>.png', 'T', 'C', 'A'),
        Figure('brain', 'foreign.svg', 'T', 'C', 'A'),
    )
    exam = ExamContent('1', figures=figures, summary=LesionSummary(1, 0.1))
    one = dataclasses.replace(content, exams=(exam,))
    text = write_participant_report(one, tmp_path / 'p.html').read_text(encoding='utf-8')
    assert 'gone.svg</code> not found' in text
    assert 'src="data:image/png;base64,' in text
    assert 'src="data:image/svg+xml;base64,' in text
    linked_text = write_participant_report(one, tmp_path / 'p.html', embed_limit=0).read_text()
    assert 'href="a%20%3C1%3E.png"' in linked_text
    (tmp_path / 'foreign.svg').write_text('<svg')
    with pytest.raises(DataError, match=r'foreign\.svg'):
        write_participant_report(one, tmp_path / 'p.html')


def test_a_page_without_anything(tmp_path: Path) -> None:
    text = write_participant_report(SubjectContent('9'), tmp_path / 'p.html').read_text()
    assert 'No exam of this participant' in text
    bare = SubjectContent('9', (ExamContent(None), ExamContent('x', status='failed')))
    text = write_participant_report(bare, tmp_path / 'p.html').read_text()
    assert 'No reason was recorded' in text
    assert 'No image checks available' in text


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / 'file').touch()
    with pytest.raises(MSLesSegError, match='file'):
        write_participant_report(SubjectContent('9'), tmp_path / 'file' / 'p.html')


def test_markdown() -> None:
    html = markdown(
        '## One\nwith *two*, **three**, `a*b*` and [x](https://e.org/?a=1&b=2)\n\n- p\n- <q>'
    )
    assert str(html) == (
        '<h3>One</h3>\n<p>with <em>two</em>, <strong>three</strong>, <code>a*b*</code> and '
        '<a href="https://e.org/?a=1&amp;b=2" rel="noopener noreferrer">x</a></p>\n'
        '<ul><li>p</li><li>&lt;q&gt;</li></ul>'
    )
    assert str(markdown('[x](javascript:alert)')) == '<p>[x](javascript:alert)</p>'
    assert str(markdown('2 * 3 * 4')) == '<p>2 * 3 * 4</p>'
    assert str(markdown('')) == ''


def test_links() -> None:
    assert 'href="https://doi.org/10.1234/a.b"' in linked('doi:10.1234/a.b.')
    assert '&lt;' in linked('<x>')
    assert linked('see (https://e.org/a).').count('https://e.org/a') == 2


@pytest.mark.parametrize(
    ('value', 'text'),
    [
        (None, 'n/a'),
        (3, '3'),
        (12.34, '12.3'),
        (0.5, '0.500'),
        (1.234, '1.23'),
        (True, 'yes'),
        (1e-5, '1.00e-05'),
        ('a', 'a'),
        (('a', 2), 'a, 2'),
        (0.0, '0.000'),
        ((), 'none'),
    ],
)
def test_readable_numbers(value: Any, text: str) -> None:
    assert readable(value) == text


@pytest.mark.browser
def test_the_page_lives_in_a_browser(page: Path, browser: Any) -> None:
    browser.events.clear()
    browser.open(page)
    rows = (
        "[...document.querySelectorAll('.lesion-table tbody tr')].map(r => r.cells[0].innerText)"
    )
    assert browser.run(rows) == ['7', '8']
    browser.run("document.querySelectorAll('.lesion-table th button')[3].click()")
    assert browser.run(rows) == ['8', '7']
    browser.run("document.querySelector('.lesion-table a').click()")
    assert browser.run(
        "document.querySelectorAll('.msl-lesion.here').length > 0 || "
        'new Promise(r => setTimeout(() => r(document.querySelectorAll('
        "'.msl-lesion.here').length > 0), 300))"
    )
    assert (
        browser.run("getComputedStyle(document.querySelector('.msl-lesion:target path')).stroke")
        == 'rgb(255, 92, 244)'
    )
    browser.run("document.querySelectorAll('.panel')[1].click()")
    assert browser.run("document.querySelector('#viewer').open")
    browser.run("document.querySelector('[data-close]').click()")
    opacity = "getComputedStyle(document.querySelector('.alignment .msl-b')).opacity"
    assert browser.run(opacity) == '0'
    browser.run("document.querySelector('[value=template]').click()")
    assert browser.run(opacity) == '1'
    browser.run("document.querySelector('.lesions .lines input').click()")
    assert (
        browser.run("getComputedStyle(document.querySelector('.msl-lesion')).visibility")
        == 'hidden'
    )
    assert browser.complaints() == []
    assert browser.requests() == [page.as_uri()]


@pytest.mark.browser
def test_an_exam_is_marked_by_button_and_key(page: Path, browser: Any) -> None:
    browser.open(page)
    browser.run('localStorage.clear()')
    browser.open(page)
    words = "document.querySelector('.review-state .light').textContent.trim()"
    assert browser.run(words).endswith('Segmentation: not yet reviewed')
    browser.run("document.querySelector('.review-state button[value=accept]').click()")
    assert browser.run(words).endswith('Segmentation: accepted')
    browser.open(page)
    assert browser.run(words).endswith('Segmentation: accepted'), 'kept in the browser'
    browser.send('Input.dispatchKeyEvent', type='keyDown', key='c', code='KeyC')
    assert browser.run("mslessegMarks.all()['sub-01 ses-1'].mark") == 'check'
    browser.run('localStorage.clear()')


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
def test_linked_figures_are_let_in(content: SubjectContent, tmp_path: Path, browser: Any) -> None:
    page = write_participant_report(content, tmp_path / 'linked.html', embed_limit=0)
    browser.events.clear()
    browser.open(page)
    widths = browser.run(
        "Promise.all([...document.images].map(i => {i.loading = 'eager'; "
        'return i.decode().then(() => i.naturalWidth)}))'
    )
    assert len(widths) == 3
    assert min(widths) > 0
    assert browser.complaints() == []


@pytest.mark.browser
def test_print_shows_everything(page: Path, browser: Any) -> None:
    browser.open(page)
    browser.send('Emulation.setEmulatedMedia', media='print')
    assert (
        browser.run("getComputedStyle(document.querySelector('.scroll.tall')).maxHeight") == 'none'
    )
    assert browser.run("document.querySelector('.checks .trust').offsetHeight") > 0
    assert browser.run("getComputedStyle(document.querySelector('nav')).display") == 'none'
    assert browser.run("getComputedStyle(document.querySelector('.msl-b')).opacity") == '0'
    assert browser.run("document.querySelector('.lesion-table th').offsetHeight") > 0
    columns = "getComputedStyle(document.querySelector('.alignment .panels')).gridTemplateColumns"
    assert len(browser.run(columns).split()) == 7
    browser.send('Emulation.setEmulatedMedia', media='')


@pytest.mark.browser
def test_a_drawing_by_itself_flickers_when_pointed_at(page: Path, browser: Any) -> None:
    browser.open(page.parent / 'sub-01' / 'figures' / 'alignment.svg')
    name = "getComputedStyle(document.querySelector('.msl-b')).animationName"
    browser.send('Input.dispatchMouseEvent', type='mouseMoved', x=2000, y=2000)
    assert browser.run(name) == 'none'
    browser.send('Input.dispatchMouseEvent', type='mouseMoved', x=80, y=80)
    assert browser.run(name) == 'msl-flicker'
