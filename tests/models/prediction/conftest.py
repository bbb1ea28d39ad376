"""Every processor computes in float32 here, so that numbers can be compared closely."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def without_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr('mslesseg_app.models.prediction.windows.cpu_has_bfloat16', lambda: False)
