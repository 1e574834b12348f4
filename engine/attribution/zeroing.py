"""Value zeroing: how much a layer's output turns when one token's value vector is missing.

Mohebbi, Zuidema, Chrupała and Alishahi 2023, Quantifying Context Mixing in Transformers, EACL 2023,
§3 (released code: hmohebbi/ValueZeroing). Runs on a structure of its own over the model's weights.
"""

from __future__ import annotations

import weakref
from collections.abc import Generator
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from engine.errors import UserError
from engine.schema import Progress
from engine.skeleton import skeleton

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import PreTrainedModel

    from engine.attribution.reading import Reader
    from engine.models import LoadedModel

Floats = npt.NDArray[np.float64]

ZEROING = "tokenscope_zeroing"
"""Name of the attention in transformers' registry."""

SAME = 1e-3
"""By how much the output of a layer run alone may differ from that of the whole run."""

_zeroed: ContextVar[Tensor | None] = ContextVar("tokenscope_zeroed", default=None)
_networks: weakref.WeakKeyDictionary[LoadedModel, PreTrainedModel] = weakref.WeakKeyDictionary()


def zeroing_attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, **more: Any
) -> tuple[Tensor, None]:
    """Eager attention in which sequence *b* of the batch misses the value of one of its tokens."""
    import torch

    from engine.twin import folding_attention

    zeroed = _zeroed.get()
    if zeroed is not None:
        value = value.clone()
        value[torch.arange(len(value), device=value.device), :, zeroed.to(value.device)] = 0
    return folding_attention(module, query, key, value, mask, **more)


def _network(model: LoadedModel) -> PreTrainedModel:
    """The structure with this attention, made once.

    Raises:
        UserError: the model's attention cannot be replaced.
    """
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import eager_mask

    with model.lock:
        found = _networks.get(model)
        if found is None:
            AttentionInterface.register(ZEROING, zeroing_attention)
            AttentionMaskInterface.register(ZEROING, eager_mask)
            _ = model.twin  # refuses models whose attention is written in a way of its own
            found = skeleton(model)
            found.config._attn_implementation = ZEROING
            _networks[model] = found
        return found


@dataclass
class _Calls:
    """How a forward calls its layers."""

    first: Tensor | None = None
    args: list[tuple[Any, ...]] = field(default_factory=list)
    named: list[dict[str, Any]] = field(default_factory=list)
    last: Tensor | None = None


def mixing(
    model: LoadedModel, reader: Reader, ids: tuple[int, ...], chosen: list[int]
) -> Generator[Progress, None, list[Floats]]:
    """Context mixing [T, T] of each chosen layer: row *i* is what position i takes from each token.

    Entry [i, j] is 1 − cos(output i, output i without the value of token j), divided by the sum of
    its row; a row of zeros becomes all of the token itself.

    Args:
        model: counted, never changed.
        reader: says how many sequences fit into the memory; counts.
        ids: the text.
        chosen: layers from 0, ascending.

    Raises:
        UserError: the layers of this architecture cannot be run one by one.
    """
    import torch

    network = _network(model)
    layers = _layers(network, model)
    with torch.no_grad(), torch.inference_mode(False):
        calls = _called(network, layers, model, ids)
    length, states = len(ids), calls.first
    assert states is not None
    size = reader.batch_size(length)
    made: list[Floats] = []
    for number, layer in enumerate(layers):
        args, named = calls.args[number], calls.named[number]
        output = _run(model, layer, states, args, named, None)
        if number in chosen:
            turned = np.zeros((length, length))
            for at in range(0, length, size):
                tokens = torch.arange(at, min(at + size, length), device=states.device)
                other = _run(model, layer, states, args, named, tokens)
                turned[:, at : at + len(tokens)] = _turn(output, other).T
                fraction = (len(made) + (at + len(tokens)) / length) / len(chosen)
                yield Progress(
                    fraction, f"Layer {number}: token {at + len(tokens):,} of {length:,}"
                )
            made.append(_normalised(turned))
        states = output
    _check(model, states, calls.last)
    # A layer is a part of a forward.
    whole = -(-length * len(chosen) // len(layers))
    reader.forwards += whole + 2
    reader.tokens += (whole + 2) * length
    model.forwards += 2
    return made


def _layers(network: PreTrainedModel, model: LoadedModel) -> list[nn.Module]:
    from torch import nn

    for module in network.modules():
        if isinstance(module, nn.ModuleList) and len(module) == model.layers:
            layers = list(module)
            if all(any(hasattr(m, "layer_idx") for m in layer.modules()) for layer in layers):
                return layers
    raise _one_by_one(model)


def _one_by_one(model: LoadedModel) -> UserError:
    return UserError(f"The layers of {model.name} cannot be run one by one: choose another method.")


def _called(
    network: PreTrainedModel, layers: list[nn.Module], model: LoadedModel, ids: tuple[int, ...]
) -> _Calls:
    """One forward that notes what every layer is called with."""
    import torch

    calls = _Calls()

    def before(_: nn.Module, args: tuple[Any, ...], named: dict[str, Any]) -> None:
        named = dict(named)
        if "hidden_states" in named:
            states, rest = named.pop("hidden_states"), args
        else:
            states, rest = args[0], args[1:]
        if calls.first is None:
            calls.first = states
        calls.args.append(rest)
        calls.named.append(named)

    def after(_: nn.Module, __: Any, output: Any) -> None:
        calls.last = _first(output)

    with model.lock:
        handles = [layer.register_forward_pre_hook(before, with_kwargs=True) for layer in layers]
        handles.append(layers[-1].register_forward_hook(after))
        try:
            network(input_ids=torch.tensor([ids], device=model.device), use_cache=False)
        finally:
            for handle in handles:
                handle.remove()
    if len(calls.args) != len(layers):
        raise _one_by_one(model)
    return calls


def _run(
    model: LoadedModel,
    layer: nn.Module,
    states: Tensor,
    args: tuple[Any, ...],
    named: dict[str, Any],
    tokens: Tensor | None,
) -> Tensor:
    """Output of a layer [b, T, D] when each sequence misses the value of one of ``tokens`` [b]."""
    import torch

    given = states if tokens is None else states.expand(len(tokens), -1, -1)
    with torch.no_grad(), torch.inference_mode(False), model.lock:
        token = _zeroed.set(tokens)
        try:
            return _first(layer(given, *args, **named))
        finally:
            _zeroed.reset(token)


def _first(output: Any) -> Tensor:
    found: Tensor = output[0] if isinstance(output, tuple) else output
    return found


def _turn(output: Tensor, other: Tensor) -> Floats:
    """1 − cosine, [b, T]; as half the squared distance of the directions, which does not cancel.

    What rounding alone can do counts as 0.
    """
    import torch
    from torch import nn

    one = nn.functional.normalize(output.double(), dim=-1)
    two = nn.functional.normalize(other.double(), dim=-1)
    found: Floats = ((one - two).square().sum(-1) / 2).cpu().numpy()
    # Batches of another size are summed in another order; in half precision this is below eps.
    slack = 64 if output.dtype in (torch.float32, torch.float64) else 1
    found[found < (slack * torch.finfo(output.dtype).eps) ** 2] = 0
    return found


def _normalised(
    turned: Floats,
) -> Floats:
    total = turned.sum(1, keepdims=True)
    itself = np.eye(len(turned))
    return np.where(total > 0, turned / np.where(total > 0, total, 1), itself)


def _check(model: LoadedModel, states: Tensor, last: Tensor | None) -> None:
    import torch

    assert last is not None
    tolerance = SAME if states.dtype == torch.float32 else 0.05
    if float((states - last).abs().max()) > tolerance * (1 + float(last.abs().max())):
        raise _one_by_one(model)
