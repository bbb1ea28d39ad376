"""Sphinx configuration: MyST pages, warnings are errors (see `make docs`)."""

from __future__ import annotations

import re
from pathlib import Path

_INIT = Path(__file__).parent.parent / 'mslesseg_app' / '__init__.py'
_FOUND = re.search(r"__version__ = '([^']+)'", _INIT.read_text(encoding='utf-8'))

project = 'mslesseg'
author = 'The mslesseg developers'
copyright = author
release = version = _FOUND.group(1) if _FOUND else ''

extensions = ['myst_parser']
myst_enable_extensions = ['colon_fence', 'deflist']
myst_heading_anchors = 3
exclude_patterns = ['_build']
html_theme = 'furo'
html_title = f'mslesseg {release}'
