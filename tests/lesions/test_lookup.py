"""Names and colours for viewers and editors, read as these programs read them."""

from __future__ import annotations

import io
import itertools
import re

import pandas as pd
import pytest

from mslesseg_app.lesions.lookup import (
    MOST_LESIONS,
    bids,
    fsleyes,
    instance_labels,
    itksnap,
    lookup_files,
    region_labels,
    slicer,
)
from mslesseg_app.lesions.topography import REGIONS

LABELS = [pytest.param(region_labels(), id='regions'), pytest.param(instance_labels(), id='many')]


@pytest.mark.parametrize('labels', LABELS)
def test_every_program_gets_the_same_numbers_names_and_colours(labels):
    wanted = {label.index: (label.name, label.colour) for label in labels}
    pattern = re.compile(r'\s*(\d+)\s+(\d+)\s+(\d+)\s+(\d+)\s+([01.]+)\s+([01])\s+([01])\s+"(.*)"')
    rows = [m.groups() for m in map(pattern.fullmatch, itksnap(labels).splitlines()) if m]
    assert rows[0] == ('0', '0', '0', '0', '0', '0', '0', 'Clear Label')
    snap = {int(r[0]): (r[7], tuple(map(int, r[1:4]))) for r in rows[1:]}
    assert snap == wanted

    lines = [row.split() for row in slicer(labels).splitlines() if not row.startswith('#')]
    assert all(len(row) == 6 for row in lines)
    assert {
        int(i): (name.replace('_', ' '), (int(r), int(g), int(b)))
        for i, name, r, g, b, a in lines
        if a == '255'
    } == wanted

    table = [row.split(' ', 4) for row in fsleyes(labels).splitlines()]
    assert {
        int(i): (name, tuple(round(255 * float(v)) for v in (r, g, b)))
        for i, r, g, b, name in table
    } == wanted

    frame = pd.read_csv(io.StringIO(bids(labels)), sep='\t')
    assert dict(zip(frame['index'], frame['name'], strict=True)) == {
        key: name for key, (name, _) in wanted.items()
    }
    assert frame['color'].str.fullmatch('#[0-9A-F]{6}').all()


def test_regions_are_those_of_the_region_image():
    assert {label.name.replace(' ', '_'): label.index for label in region_labels()} == {
        name: region.index for name, region in REGIONS.items()
    }
    assert sorted(region.index for region in REGIONS.values()) == [1, 2, 3, 4]


def test_lesions_beside_each_other_differ_in_colour():
    colours = [label.colour for label in instance_labels()]
    assert len(colours) == MOST_LESIONS
    for first, second in itertools.pairwise(colours):
        assert sum(abs(a - b) for a, b in zip(first, second, strict=True)) > 60


def test_files_at_the_root():
    assert sorted(lookup_files()) == [
        'seg-lesions_dseg.ctbl',
        'seg-lesions_dseg.label',
        'seg-lesions_dseg.lut',
        'seg-mcdonald_dseg.ctbl',
        'seg-mcdonald_dseg.label',
        'seg-mcdonald_dseg.lut',
        'seg-mcdonald_dseg.tsv',
    ]
