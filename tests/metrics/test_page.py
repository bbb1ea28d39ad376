"""``docs/metrics.md`` says what the code does: columns, options, constants, empty masks."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest

from mslesseg_app.cli import consensus as consensus_command
from mslesseg_app.cli import evaluate as evaluate_command
from mslesseg_app.metrics.calibration import BINS, MARGIN_MM
from mslesseg_app.metrics.consensus import MARGIN_VOXELS
from mslesseg_app.metrics.evaluation import evaluate, evaluation_columns
from mslesseg_app.metrics.raters import rater_columns
from mslesseg_app.metrics.rules import RULES, SIZE_BOUNDS_MM3, OverlapRule


@pytest.fixture(scope='module')
def page(project_root):
    return (project_root / 'docs' / 'metrics.md').read_text(encoding='utf-8')


def section(page, title):
    return page.partition(f'\n## {title}\n')[2].partition('\n## ')[0]


def test_every_column_and_rule_set_is_described(page):
    columns = {name for rules in RULES for name in evaluation_columns(rules)}
    for name in columns | set(RULES) | set(rater_columns(True)) - {'rater'}:
        assert f'`{name}`' in page, name


@pytest.mark.parametrize(
    ('title', 'command'),
    [
        ('`mslesseg evaluate`', evaluate_command),
        ('`mslesseg consensus`', consensus_command),
    ],
)
def test_every_option_is_described_and_exists(page, title, command):
    table = re.findall(r'^\| (`.*?) \|', section(page, title), re.M)
    named = set(re.findall(r'(?<![\w-])--?[a-z][a-z-]*', ' '.join(table)))
    known = {
        option for action in command.build_parser()._actions for option in action.option_strings
    }
    assert named <= known
    assert known - named <= {'-h', '--help', '--n-cpus'}


def test_constants_are_those_of_the_code(page):
    low, high = SIZE_BOUNDS_MM3
    for text in (f'lesions below {low:g} mm³', f'{low:g} to below {high:g} mm³'):
        assert text in page
    assert f'{BINS} bins of equal width' in page
    assert f'{MARGIN_MM:g} mm more' in page
    assert MARGIN_VOXELS == 1
    rule = OverlapRule()
    text = ' '.join(page.split())
    assert f'cover more than {rule.min_overlap:.0%}'.replace('%', ' %') in text
    assert f'hold {rule.enough:.0%}'.replace('%', ' %') in text
    assert f'at most {rule.max_outside:.0%}'.replace('%', ' %') in text
    assert RULES['msseg2016'].min_volume_mm3 == 3
    for column, rules in enumerate(RULES.values()):
        row = next(line for line in page.splitlines() if line.startswith('| a lesion |'))
        assert f'{rules.connectivity}-connected' in row.split('|')[2 + column]


def parse(cell):
    """Read a cell; words in brackets or after a semicolon explain it."""
    text = cell.split(' (code')[0].split(' (the')[0].split(';')[0]
    words = {
        'n/a': math.nan,
        'inf': math.inf,
        'Vp': 0.008,
        'Vr': 0.008,
        'n / (n + 0.001)': 1 / 1.001,
    }
    return words[text] if text in words else float(text)


def rows(page):
    """Yield rule set, name, and the three cells of each line of the table of empty masks."""
    rules = 'mslesseg'
    for line in section(page, 'Empty masks').splitlines():
        cells = [cell.strip() for cell in line.strip('|').split('|')]
        if not line.startswith('| ') or len(cells) < 4 or cells[0] == 'number':
            continue
        if cells[0].startswith('**'):
            rules = 'mslesseg-official'
        names = re.findall(r'`(\w+)`', cells[0])
        if cells[0].startswith('numbers') or cells[0].startswith('**') or 'ECE' in names:
            continue
        for number, name in enumerate(names):
            values = [[part.strip() for part in cell.split(',')] for cell in cells[1:4]]
            chosen = [parts[number] if len(parts) > 1 else parts[0] for parts in values]
            yield rules, name, chosen


def test_the_table_of_empty_masks_is_true(page):
    cube = np.zeros((6, 6, 6), bool)
    cube[1:3, 1:3, 1:3] = True
    nothing = np.zeros_like(cube)
    cases = [(nothing, nothing), (cube, nothing), (nothing, cube)]
    owners = {'SensL': 'msseg2016', 'PPVL': 'msseg2016', 'F1': 'msseg2016'}
    owners['ISBI_partial'] = 'isbi2015'
    seen = set()
    for rules, name, cells in rows(page):
        chosen = owners.get(name, rules)
        for pair, cell in zip(cases, cells, strict=True):
            value = evaluate(*pair, (1, 1, 1), chosen).values[name]
            assert value == pytest.approx(parse(cell), nan_ok=True), (rules, name, cell)
        seen.add((rules, name))
    assert len(seen) == 23
