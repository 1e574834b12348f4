"""Hidden states of single layers: read, or turned towards a vector, while the network runs.

Hooks are put on this family's private copy of the model's structure, under its lock, and taken off
when the block ends, after an error too.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from engine.attribution.reading import private
from engine.errors import UserError

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from engine.loaded import LoadedModel


def layers_of(model: LoadedModel) -> nn.ModuleList:
    """The transformer layers of the private copy, in order.

    Raises:
        UserError: they cannot be found.
    """
    import torch

    for module in private(model).modules():
        if isinstance(module, torch.nn.ModuleList) and len(module) == model.layers:
            return module
    raise UserError(f"The layers of {model.name} cannot be found: choose another model.")


@contextlib.contextmanager
def watched(model: LoadedModel, numbers: Iterable[int]) -> Iterator[dict[int, Tensor]]:
    """Inside, outputs [b, T, D] of these layers appear in the dictionary after a forward pass."""
    found: dict[int, Tensor] = {}
    blocks = layers_of(model)

    def keep(number: int) -> Any:
        def hook(_: Any, __: Any, output: Any) -> None:
            found[number] = _states(output)

        return hook

    with model.lock, contextlib.ExitStack() as hooks:
        for number in numbers:
            hooks.callback(blocks[number].register_forward_hook(keep(number)).remove)
        yield found


@contextlib.contextmanager
def turned(
    model: LoadedModel, vectors: Mapping[int, Tensor], strength: float, first: int
) -> Iterator[None]:
    """Inside, h becomes (h + αv)·‖h‖/‖h + αv‖ behind each of the layers.

    Args:
        model: whose private copy is used.
        vectors: layer to v [D].
        strength: α.
        first: states of tokens before this one, counted in what is read now, stay as they are.
    """
    blocks = layers_of(model)

    def turning(vector: Tensor) -> Any:
        def hook(_: Any, __: Any, output: Any) -> Any:
            states = _states(output)
            changed = states.clone()
            changed[:, first:] = turn(states[:, first:], vector, strength)
            return (changed, *output[1:]) if isinstance(output, tuple) else changed

        return hook

    with model.lock, contextlib.ExitStack() as hooks:
        for number, vector in vectors.items():
            hooks.callback(blocks[number].register_forward_hook(turning(vector)).remove)
        yield


def turn(states: Tensor, vector: Tensor, strength: float) -> Tensor:
    """(h + αv)·‖h‖/‖h + αv‖ of states [..., D], in their number type."""
    import torch

    wide = states if states.dtype == torch.float64 else states.float()
    moved = wide + strength * vector.to(wide)
    size = moved.norm(dim=-1, keepdim=True).clamp_min(torch.finfo(wide.dtype).tiny)
    return (moved * (wide.norm(dim=-1, keepdim=True) / size)).to(states.dtype)


def _states(output: Any) -> Tensor:
    found: Tensor = output[0] if isinstance(output, tuple) else output
    return found


class Steered:
    """Stands in for a ``LoadedModel`` where texts are continued; its states are turned.

    Args:
        model: the shared model; counted, never changed.
        vectors: layer to v [D].
        strength: α.
        first: the first token whose states are turned: the prompt's last, which predicts the first
            new one.
    """

    def __init__(
        self, model: LoadedModel, vectors: Mapping[int, Tensor], strength: float, first: int
    ) -> None:
        self._shared = model
        self._vectors, self._strength, self._first = vectors, strength, first
        self.model = private(model)
        self.name, self.context, self.eos_ids = model.name, model.context, model.eos_ids
        self.device: torch.device = model.device
        self.real_vocab = model.real_vocab

    def check(self, ids: Sequence[int]) -> tuple[int, ...]:
        """As ``LoadedModel.check``."""
        return self._shared.check(ids)

    def forward(self, **inputs: Any) -> Any:
        """As ``LoadedModel.forward``, with states turned from ``first`` on."""
        cache = inputs.get("past_key_values")
        read = 0 if cache is None else int(cache.get_seq_length())
        first = max(0, self._first - read)
        with turned(self._shared, self._vectors, self._strength, first):
            self._shared.forwards += 1
            return self.model(**inputs)
