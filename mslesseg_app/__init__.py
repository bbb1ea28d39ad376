"""MS lesion segmentation from BIDS to masks, tables and reports."""

from typing import TYPE_CHECKING, Any

__version__ = '0.1.0'

__all__ = ['__version__', 'segment']

if TYPE_CHECKING:
    from mslesseg_app.participant.api import segment as segment


def __getattr__(name: str) -> Any:
    """Import `segment` when it is asked for: it needs libraries that take seconds to import."""
    if name == 'segment':
        from mslesseg_app.participant.api import segment

        return segment
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
