"""What a program that stood in for the App was called with (see the fixture `stand_in`)."""

from __future__ import annotations

from pathlib import Path


def calls(program: Path) -> list[list[str]]:
    """Return the arguments of all calls, in their order."""
    return [path.read_text().splitlines() for path in sorted((program.parent / 'seen').iterdir())]


def value(call: list[str], option: str) -> str:
    """Return what follows an option."""
    return call[call.index(option) + 1]
