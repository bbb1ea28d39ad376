"""Colours of lesions, the same in images, slice viewer and lesion map.

They stay apart on grey and for colour-blind readers.
"""

from __future__ import annotations

#: Outlines of lesions without a status.
LESION_COLOUR = '#ffb000'
#: Code in change images to status and colour of its outlines.
STATUS_COLOURS = {
    1: ('stable', LESION_COLOUR),
    2: ('new', '#ff5c5c'),
    3: ('enlarging', '#ff5cf4'),
    4: ('shrinking', '#4dd2ff'),
    5: ('resolved', '#78e678'),
    6: ('in one mask only', '#b0b0b0'),
}
#: The colours in words, by code.
COLOUR_WORDS = {1: 'orange', 2: 'red', 3: 'pink', 4: 'blue', 5: 'green', 6: 'grey'}
#: Outlines of models, by the name of the colour; further models begin again.
MODEL_COLOURS = {
    **{COLOUR_WORDS[code]: STATUS_COLOURS[code][1] for code in (1, 4, 3, 5, 2)},
    'white': '#ffffff',
}


def as_rgb(colour: str) -> tuple[float, float, float]:
    """Return red, green and blue from 0 to 1 of a colour such as ``#ffb000``."""
    red, green, blue = (int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5))
    return red, green, blue
