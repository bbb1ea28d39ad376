"""A run leaves Nipype's global configuration as it found it."""

from __future__ import annotations

from pathlib import Path

from nipype import config

from mslesseg_app.core.settings import Settings
from mslesseg_app.participant.workflows.base import configured_nipype

_SHOWN = ('hash_method', 'crashfile_format', 'write_provenance', 'poll_sleep_duration')


def shown() -> dict[str, object]:
    values = {name: config.get('execution', name) for name in _SHOWN}
    return values | {'monitored': config.resource_monitor}


def test_configuration_holds_for_one_run_only(tmp_path: Path) -> None:
    settings = Settings(
        bids_dir=tmp_path / 'bids',
        out_dir=tmp_path / 'out',
        work_dir=tmp_path / 'work',
        write_provenance=True,
        resource_monitor=True,
    )
    before = shown()
    with configured_nipype(settings):
        assert shown() != before
        assert config.get('execution', 'write_provenance') == 'True'
        assert config.resource_monitor
    assert shown() == before
