"""Building workflows of tiny datasets without running them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from fakefsl import install
from skeleton import write_dataset

from mslesseg_app.bids.exam import Exam
from mslesseg_app.bids.exams import find_exams
from mslesseg_app.core.settings import Settings
from mslesseg_app.models.entry import ModelEntry
from mslesseg_app.models.registry import get_entry


@dataclass(frozen=True)
class Built:
    """A workflow and what it was made of."""

    workflow: Any
    graph: Any
    exams: list[Exam]
    settings: Settings
    entry: ModelEntry
    engine: str

    @property
    def nodes(self) -> dict[str, Any]:
        """Nodes of the expanded graph by their full name without that of the whole workflow."""
        return {node.fullname.split('.', 1)[1]: node for node in self.graph.nodes()}

    def names(self, word: str) -> list[str]:
        """Last words of the names of all nodes that begin with ``word``."""
        last = [name.rsplit('.', 1)[1] for name in self.nodes]
        return sorted(name for name in last if name.split('_')[0] == word)


@pytest.fixture
def fsl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Install a stand-in for FSL whose standard images are empty."""
    folder = tmp_path / 'fsl'
    for name, value in install(folder, images=False).items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv('FSLOUTPUTTYPE', raising=False)
    return folder


@pytest.fixture
def build(tmp_path: Path) -> Callable[..., Built]:
    """Return a function that writes a dataset and builds its workflow."""

    def make(
        names: Iterable[str] | Mapping[str, str],
        *,
        engine: str = 'builtin',
        model: str = 'hyperintensity',
        sidecars: Mapping[str, Mapping[str, Any]] | None = None,
        **options: Any,
    ) -> Built:
        from nipype.pipeline.engine.utils import generate_expanded_graph

        from mslesseg_app.participant.workflows.base import init_run_wf

        bids_dir = write_dataset(tmp_path / 'bids', names, sidecars)
        settings = Settings(
            bids_dir=bids_dir,
            out_dir=tmp_path / 'out',
            work_dir=tmp_path / 'work',
            model=model,
            **options,
        )
        entry = get_entry(model, settings.model_dir)
        exams = [exam for exam in find_exams(settings) if exam.problem is None]
        workflow = init_run_wf(exams=exams, settings=settings, engine=engine, entry=entry)
        graph = generate_expanded_graph(workflow._create_flat_graph())
        return Built(workflow, graph, exams, settings, entry, engine)

    return make
