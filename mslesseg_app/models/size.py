"""How large a network is, without making it: its parameters are counted on the meta device."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from mslesseg_app.core.errors import ModelError
from mslesseg_app.models.networks import build
from mslesseg_app.models.networks.spec import AUXILIARY

if TYPE_CHECKING:
    from torch import nn

    from mslesseg_app.models.entry import ModelEntry


def parameter_count(entry: ModelEntry) -> int:
    """Return the number of parameters that inference needs; 0 for a model without.

    That of an external engine is not known: 0, too.

    Raises
    ------
    ModelError
        If the options of the entry do not make a network.
    """
    if not entry.needs_weights or entry.is_engine:
        return 0
    network = empty_network(entry.architecture, len(entry.channels), entry.options)
    return sum(p.numel() for n, p in network.named_parameters() if not n.startswith(AUXILIARY))


def empty_network(architecture: str, inputs: int, options: Mapping[str, Any]) -> nn.Module:
    """Build a network without memory for its parameters.

    Only the functions that allocate parameters go to torch's meta device: networks compute
    small tables of their own (indices, rates) while they are built, and these need values.
    """
    import torch
    from torch.overrides import TorchFunctionMode

    makers = {torch.empty, torch.zeros, torch.ones, torch.rand, torch.randn}

    class OnMeta(TorchFunctionMode):
        def __torch_function__(
            self,
            func: Callable[..., Any],
            types: Iterable[type],
            args: tuple[Any, ...] = (),
            kwargs: Mapping[str, Any] | None = None,
        ) -> Any:
            given = dict(kwargs or {})
            if func in makers and given.get('device') is None:
                given['device'] = 'meta'
            return func(*args, **given)

    try:
        with OnMeta():
            return build(architecture, inputs, dict(options))
    except (RuntimeError, NotImplementedError) as error:
        raise ModelError(
            f'The network {architecture!r} cannot be built: {error}',
            'Correct the options in its description.',
        ) from error
