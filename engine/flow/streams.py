"""The residual streams of all layers from one forward, and the model's way from there to its head.

Stream 0 enters the first layer (the embeddings), stream *l* leaves layer *l*. What a model does
after its last layer (a final norm, OPT's projection) is not declared anywhere, so it is watched:
the modules that run after the last layer must form a chain that ends at the head, else the model
is refused by name.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from engine.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor, nn

    from engine.loaded import LoadedModel

STREAM_BYTES = 2**31
"""Most bytes of streams kept at once."""


class _HeadReachedError(Exception):
    """The forward reached the head, whose input is all that was wanted."""


@dataclass(frozen=True)
class Streams:
    """All residual streams of one text.

    Attributes:
        layers: L + 1 tensors [n, D] in the model's dtype: the embeddings, then after each layer.
        tail: the modules between the last layer and the head, in order.
    """

    layers: list[Tensor]
    tail: tuple[nn.Module, ...]

    def head_input(self, layer: int, rows: slice, *, norm: bool = True) -> Tensor:
        """What the head would read if the model stopped after ``layer``, [rows, D].

        Args:
            layer: 0 for the embeddings, L for the last layer.
            rows: which of the n rows.
            norm: whether the final norm is applied; projections always are.
        """
        import torch

        hidden = self.layers[layer][rows]
        with torch.no_grad():
            for module in self.tail:
                if norm or not is_norm(module):
                    hidden = module(hidden)
        return hidden


def is_norm(module: nn.Module) -> bool:
    """Whether a module is a LayerNorm, an RMSNorm or one of their relatives."""
    return "norm" in type(module).__name__.lower()


def decoder_layers(network: nn.Module, count: int, name: str) -> tuple[str, list[nn.Module]]:
    """The layers of a transformer, and the name of the list that holds them.

    Args:
        network: the model or its twin.
        count: how many layers it has.
        name: what to call it in a sentence.

    Raises:
        UserError: no list of so many layers is found.
    """
    from torch import nn

    for path, module in network.named_modules():
        if isinstance(module, nn.ModuleList) and len(module) == count:
            return path, list(module)
    raise UserError(f"The layers of {name} cannot be told apart: choose another model.")


def read_streams(
    model: LoadedModel, ids: Sequence[int], rows: Sequence[int] | None = None
) -> Streams:
    """Read the residual streams of all layers; one forward, which stops before the head.

    Args:
        model: The model; hooks are on it for this one call only.
        ids: The T ids.
        rows: Positions to keep, ascending; None keeps all.

    Raises:
        UserError: The ids do not fit, the streams need too much memory, or the model does
            something between its last layer and its head that is not known here.
    """
    import torch

    ids = model.check(ids)
    _check_size(model, len(ids) if rows is None else len(rows))
    watched = _Watched(model, rows)
    caller = threading.get_ident()
    with contextlib.ExitStack() as stack, model.lock, torch.no_grad():
        for handle in watched.hooks(caller):
            stack.callback(handle.remove)
        inputs = torch.tensor([ids], dtype=torch.long, device=model.device)
        with contextlib.suppress(_HeadReachedError):
            model.forward(input_ids=inputs, use_cache=False)
    return watched.streams()


def _check_size(model: LoadedModel, rows: int) -> None:
    width = int(model.model.config.get_text_config().hidden_size)
    need = (model.layers + 1) * rows * width * model.dtype.itemsize
    if need > STREAM_BYTES:
        raise UserError(
            f"The layers of {rows:,} tokens of {model.name} need {need / 2**30:.1f} GB: "
            "shorten the text."
        )


class _Watched:
    """What one forward shows: streams after each layer, and what runs after the last one."""

    def __init__(self, model: LoadedModel, rows: Sequence[int] | None) -> None:
        self._model = model
        self._rows = None if rows is None else list(rows)
        self._layers: list[Tensor] = []
        self._whole: Tensor | None = None
        self._after: list[tuple[nn.Module, Tensor, Tensor]] = []
        self._head: Tensor | None = None

    def hooks(self, caller: int) -> list[Any]:
        """Handles of all hooks; they see nothing of other threads."""
        network = self._model.model
        path, layers = decoder_layers(network, self._model.layers, self._model.name)
        head: Any = network.get_output_embeddings()

        def mine() -> bool:
            return threading.get_ident() == caller

        def enter(_: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            if mine():
                self._take(args[0] if args else kwargs["hidden_states"])

        def leave(_: Any, args: Any, output: Any) -> None:
            if mine():
                self._take(output[0] if isinstance(output, tuple) else output)

        def later(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            if mine() and args and len(self._layers) == len(layers) + 1:
                self._after.append((module, args[0], output))

        def stop(_: Any, args: tuple[Any, ...]) -> None:
            if mine():
                self._head = args[0]
                raise _HeadReachedError

        outside = [
            module
            for name, module in network.named_modules()
            if not name.startswith(path + ".") and not any(True for _ in module.children())
        ]
        return [
            layers[0].register_forward_pre_hook(enter, with_kwargs=True),
            *(layer.register_forward_hook(leave) for layer in layers),
            *(module.register_forward_hook(later) for module in outside if module is not head),
            head.register_forward_pre_hook(stop),
        ]

    def _take(self, stream: Tensor) -> None:
        self._whole = stream
        flat = stream.reshape(-1, stream.shape[-1])
        self._layers.append(flat if self._rows is None else flat[self._rows])

    def streams(self) -> Streams:
        """What was seen, once the chain from the last layer to the head is closed."""
        import torch

        name = self._model.name
        if self._whole is None or len(self._layers) != self._model.layers + 1:
            raise UserError(f"The layers of {name} do not run one after another: choose another.")
        at, tail = self._whole, []
        for module, given, made in self._after:
            if isinstance(made, torch.Tensor) and _same(given, at):
                tail.append(module)
                at = made
        if self._head is None or not _same(self._head, at):
            raise UserError(
                f"{name} does something after its last layer that is not known here, so its "
                "layers cannot be read through its head: choose another model."
            )
        return Streams(self._layers, tuple(tail))


def _same(one: Tensor, other: Tensor) -> bool:
    import torch

    return one.shape == other.shape and (one is other or torch.equal(one, other))
