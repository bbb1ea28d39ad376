"""Would a model run? Asked before anything is computed, and before a model is listed."""

from __future__ import annotations

from pathlib import Path

from mslesseg_app.core.errors import ModelError
from mslesseg_app.models.entry import ModelEntry
from mslesseg_app.models.registry import load_engine, load_predictor, verified_files


def check_model(entry: ModelEntry, *, thorough: bool = False) -> None:
    """Make sure that a model would run.

    An external engine is installed, and its weights are what they should be. Of other models: the
    normalisation exists; the network takes the windows of
    each preset; the weights are there, have the right SHA256, and names and shapes of the
    network's tensors.

    Parameters
    ----------
    entry : ModelEntry
    thorough : bool
        Load it too: this also finds numbers that are none, and mistakes in the sampler.

    Raises
    ------
    ModelError
        With the first thing that is wrong.
    """
    from mslesseg_app.models.prediction.normalise import METHODS
    from mslesseg_app.models.prediction.presets import PRESETS, resolve

    if entry.is_engine:
        verified_files(entry)
        if thorough:
            load_engine(entry)
        return
    if entry.normalisation not in METHODS:
        raise ModelError(
            f'There is no normalisation {entry.normalisation!r}.',
            f'Known: {", ".join(sorted(METHODS))}.',
        )
    paths = verified_files(entry)
    if not entry.needs_weights:
        return
    resolved = {preset: resolve(entry, preset) for preset in PRESETS}
    for one in resolved.values():
        _check_window(one)
    _check_shapes(entry, paths)
    if thorough:
        load_predictor(resolved['fast'])


def _check_window(entry: ModelEntry) -> None:
    from mslesseg_app.models.networks import edge_rule

    rule = edge_rule(entry.architecture, entry.options)
    edges = entry.patch or rule.fixed
    problem = rule.problem(edges) if edges and not entry.sampler.get('fit') else ''
    if problem:
        raise ModelError(
            f'The windows of the model {entry.name!r} do not fit its network: {problem}.',
            'Correct patch, or the options.',
        )


def _check_shapes(entry: ModelEntry, paths: tuple[Path, ...]) -> None:
    from mslesseg_app.models.networks import check_fit, read_shapes
    from mslesseg_app.models.size import empty_network

    network = empty_network(entry.architecture, len(entry.channels), entry.options)
    own = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    for path in paths:
        check_fit(path, own, read_shapes(path))
