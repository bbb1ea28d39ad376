"""Names and colours of label images, as viewers and editors want them.

ITK-SNAP reads label descriptions, 3D Slicer colour tables (``.ctbl``), FSLeyes lookup tables
(``.lut``), and BIDS has a table of its own (``.tsv``).
"""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from dataclasses import dataclass

from mslesseg_app.lesions.topography import REGIONS

#: Lesions that get a name and a colour of their own in the files for editors.
MOST_LESIONS = 255
_BIDS_LESION = 7
_GOLDEN = 0.6180339887498949


@dataclass(frozen=True)
class Label:
    """One value of a label image.

    Attributes
    ----------
    index : int
        The value, from 1 on; 0 is what is no label.
    name : str
    colour : tuple of int
        Red, green, blue, 0 to 255.
    abbreviation : str
        Short name, where there is one.
    """

    index: int
    name: str
    colour: tuple[int, int, int]
    abbreviation: str = ''


def region_labels() -> list[Label]:
    """Return the values of the region image."""
    return [
        Label(region.index, name.replace('_', ' '), region.colour, region.abbreviation)
        for name, region in REGIONS.items()
    ]


def instance_labels(count: int = MOST_LESIONS) -> list[Label]:
    """Return the values of an instance image; neighbours in number differ in colour."""
    labels = []
    for number in range(1, count + 1):
        lightness = (0.5, 0.65, 0.4)[number % 3]
        red, green, blue = colorsys.hls_to_rgb(number * _GOLDEN % 1, lightness, 0.9)
        colour = round(255 * red), round(255 * green), round(255 * blue)
        labels.append(Label(number, f'lesion {number}', colour))
    return labels


def itksnap(labels: Sequence[Label]) -> str:
    """Return label descriptions of ITK-SNAP: number, colour, opacity, two visibilities, name."""
    lines = ['# ITK-SNAP label descriptions', '# IDX R G B A VIS MSH LABEL']
    lines.append('    0     0    0    0        0  0  0    "Clear Label"')
    for label in labels:
        red, green, blue = label.colour
        lines.append(
            f'{label.index:5d} {red:5d} {green:4d} {blue:4d}        1  1  1    "{label.name}"'
        )
    return '\n'.join(lines) + '\n'


def slicer(labels: Sequence[Label]) -> str:
    """Return a colour table of 3D Slicer: number, name, colour, opacity."""
    lines = ['# Color table for 3D Slicer', '0 background 0 0 0 0']
    for label in labels:
        red, green, blue = label.colour
        lines.append(f'{label.index} {label.name.replace(" ", "_")} {red} {green} {blue} 255')
    return '\n'.join(lines) + '\n'


def fsleyes(labels: Sequence[Label]) -> str:
    """Return a lookup table of FSLeyes: number, colour from 0 to 1, name."""
    lines = []
    for label in labels:
        colour = ' '.join(f'{value / 255:.4f}' for value in label.colour)
        lines.append(f'{label.index} {colour} {label.name}')
    return '\n'.join(lines) + '\n'


def bids(labels: Sequence[Label]) -> str:
    """Return a BIDS lookup table; ``mapping`` 7 is BIDS's number of lesions."""
    lines = ['index\tname\tabbreviation\tcolor\tmapping']
    for label in labels:
        colour = '#{:02X}{:02X}{:02X}'.format(*label.colour)
        short = label.abbreviation or 'n/a'
        lines.append(f'{label.index}\t{label.name}\t{short}\t{colour}\t{_BIDS_LESION}')
    return '\n'.join(lines) + '\n'


def lookup_files() -> dict[str, str]:
    """Return name and content of the files at the root of the output."""
    files = {'seg-mcdonald_dseg.tsv': bids(region_labels())}
    for stem, labels in (('mcdonald', region_labels()), ('lesions', instance_labels())):
        files[f'seg-{stem}_dseg.label'] = itksnap(labels)
        files[f'seg-{stem}_dseg.ctbl'] = slicer(labels)
        files[f'seg-{stem}_dseg.lut'] = fsleyes(labels)
    return files
