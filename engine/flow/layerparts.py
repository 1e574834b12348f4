"""What each layer adds to the residual stream, taken apart: per head and key, bias, MLP.

One pass of the twin shows, for every layer, the stream before and after it, what its attention
was given, and what attention and MLP wrote. How the writes enter the stream differs by family (one
after the other or side by side; a norm behind them; a factor) and is not declared anywhere, so it
is found by comparing tensors, and a layer for which nothing fits is refused by name.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from engine.errors import UserError
from engine.flow.streams import STREAM_BYTES, decoder_layers, is_norm

if TYPE_CHECKING:
    from torch import Tensor, nn

    from engine.loaded import LoadedModel


@dataclass(frozen=True)
class Attended:
    """What the attention of one layer was given.

    Attributes:
        query: [H, T, d].
        key: [H_kv, T, d].
        value: [H_kv, T, d_v].
        mask: additive, [1 or H, T or 1, T], or None.
        scaling: factor of the scores.
        softcap: bound of the scores, or None.
    """

    query: Tensor
    key: Tensor
    value: Tensor
    mask: Tensor | None
    scaling: float
    softcap: float | None

    def weights(self, rows: Sequence[int]) -> Tensor:
        """Attention of some query rows, [H, rows, T] in float32, rounded as the model does."""
        import torch

        at = list(rows)
        groups = len(self.query) // len(self.key)
        keys = self.key.repeat_interleave(groups, 0).transpose(1, 2)
        scores = torch.matmul(self.query[:, at], keys) * self.scaling
        if self.softcap is not None:
            scores = torch.tanh(scores / self.softcap) * self.softcap
        if self.mask is not None:
            scores = scores + (self.mask if self.mask.shape[1] == 1 else self.mask[:, at])
        weights = torch.nn.functional.softmax(scores, dim=-1, dtype=torch.float32)
        return weights.to(self.query.dtype).float()


@dataclass(frozen=True)
class LayerParts:
    """One layer taken apart; tensors in the model's dtype, [T, D] unless said otherwise.

    Attributes:
        before: stream that enters the layer.
        after: stream that leaves it.
        attention: what attention adds to the stream.
        mlp: what the MLP adds to it.
        parallel: whether the MLP reads the stream before attention wrote to it.
        attended: what attention was given.
        project: [H · d_v, D] output matrix of attention.
        bias: [D] its bias, or None.
        gain: factor of what comes out of it: a number, or [T, D] for a norm held fixed.
    """

    before: Tensor
    after: Tensor
    attention: Tensor
    mlp: Tensor
    parallel: bool
    attended: Attended
    project: Tensor
    bias: Tensor | None
    gain: Tensor | float

    @property
    def middle(self) -> Tensor:
        """Stream between attention and MLP."""
        return self.before + self.attention

    def gain_at(self, row: int) -> Tensor | float:
        """Factor of what attention writes at a row: a number or [D]."""
        return self.gain if isinstance(self.gain, float) else self.gain[row].float()


def read_parts(model: LoadedModel, ids: Sequence[int]) -> list[LayerParts]:
    """Take every layer apart; one pass of the twin, which stops before the head.

    Args:
        model: The model; only its twin gets hooks, for this one call.
        ids: The T ids.

    Raises:
        UserError: The ids do not fit, this needs too much memory, or the model's layers cannot be
            taken apart.
    """
    import torch

    from engine.twin import Fold, folded

    ids = model.check(ids)
    _check_size(model, len(ids))
    twin = model.twin
    _, layers = decoder_layers(twin, model.layers, model.name)
    seen = [_Seen(model.name) for _ in layers]
    fold = Fold(len(ids), layers=frozenset(), watch=_watcher(seen))
    with contextlib.ExitStack() as stack, model.lock, torch.no_grad():
        for layer, record in zip(layers, seen, strict=True):
            for handle in record.hooks(layer):
                stack.callback(handle.remove)
        model.forwards += 1
        inputs = torch.tensor([ids], dtype=torch.long, device=model.device)
        folded(twin.base_model, {"input_ids": inputs}, fold)
    factor = getattr(model.model.config.get_text_config(), "residual_multiplier", 1.0)
    with torch.no_grad():
        return [record.parts(float(factor)) for record in seen]


def _check_size(model: LoadedModel, length: int) -> None:
    width = int(model.model.config.get_text_config().hidden_size)
    need = 8 * model.layers * length * width * model.dtype.itemsize
    if need > STREAM_BYTES:
        raise UserError(
            f"Taking the layers of {model.name} apart over {length:,} tokens needs "
            f"{need / 2**30:.1f} GB: shorten the text."
        )


def _watcher(seen: list[_Seen]) -> Any:
    def watch(module: Any, query: Tensor, key: Tensor, value: Tensor, *rest: Any) -> None:
        mask, scaling, softcap = rest
        scaling = query.shape[-1] ** -0.5 if scaling is None else float(scaling)
        mask = None if mask is None else mask[0]
        attended = Attended(query[0], key[0], value[0], mask, scaling, softcap)
        record = seen[int(module.layer_idx)]
        record.module, record.attended = module, attended

    return watch


@dataclass
class _Seen:
    """What a forward shows of one layer: its streams, the calls of its parts, its attention."""

    name: str
    before: Tensor | None = None
    after: Tensor | None = None
    children: list[tuple[nn.Module, Tensor, Tensor]] = field(default_factory=list)
    module: nn.Module | None = None
    attended: Attended | None = None
    projection: tuple[nn.Module, Tensor] | None = None

    def hooks(self, layer: nn.Module) -> list[Any]:
        """Hooks on the layer, on its direct parts, and on the parts of those."""

        def enter(_: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            self.before = _flat(args[0] if args else kwargs["hidden_states"])

        def leave(_: Any, args: Any, output: Any) -> None:
            self.after = _flat(_first(output))

        def child(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
            given = args[0] if args else kwargs.get("hidden_states")
            if given is not None:
                self.children.append((module, _flat(given), _flat(_first(output))))

        def inner(module: Any, args: Any, output: Any) -> None:
            # The first module that runs after the attention itself is its output projection.
            if self.attended is not None and self.projection is None:
                self.projection = module, _flat(_first(output))

        inside = [m for part in layer.children() for m in part.modules() if m is not part]
        return [
            layer.register_forward_pre_hook(enter, with_kwargs=True),
            layer.register_forward_hook(leave),
            *(m.register_forward_hook(child, with_kwargs=True) for m in layer.children()),
            *(m.register_forward_hook(inner) for m in inside),
        ]

    def refuse(self, what: str) -> UserError:
        """The sentence for a layer that cannot be taken apart."""
        return UserError(
            f"The layers of {self.name} cannot be taken apart ({what}): choose another model."
        )

    def parts(self, factor: float) -> LayerParts:
        """Find out how the layer adds up.

        Args:
            factor: with which the model's config multiplies what a layer writes.

        Raises:
            UserError: In no way that is known here.
        """
        at = next((i for i, c in enumerate(self.children) if c[0] is self.module), None)
        if at is None or self.attended is None or self.projection is None:
            raise self.refuse("a layer has no attention that can be read")
        assert self.before is not None
        assert self.after is not None
        write, later = self.children[at][2], self.children[at + 1 :]
        project, bias = self._linear(write)
        gain: Tensor | float = factor
        for module, given, made in later:
            if is_norm(module) and _close(given, write):
                gain = self._gain(module, write, made) * factor
                write = made
                break
        attention, mlp = write * factor, self.children[-1][2] * factor
        middle = self.before + attention
        if mlp.shape != self.after.shape or not _close(middle + mlp, self.after):
            raise self.refuse("attention and MLP do not add up to what a layer returns")
        # In half precision a small write hides in the rounding: the nearer of the two decides.
        parallel = not any(
            _close(given, middle) and _gap(given, middle) < _gap(given, self.before)
            for _, given, _ in later
        )
        ends = self.before, self.after
        return LayerParts(*ends, attention, mlp, parallel, self.attended, project, bias, gain)

    def _linear(self, write: Tensor) -> tuple[Tensor, Tensor | None]:
        """Output matrix [H · d_v, D] and bias of the attention."""
        from torch import nn
        from transformers.pytorch_utils import Conv1D

        assert self.projection is not None
        assert self.attended is not None
        module, made = self.projection
        if not _close(made, write):
            raise self.refuse("something stands between the attention's output and the stream")
        if isinstance(module, nn.Linear) and module.weight.is_floating_point():
            weight = module.weight.T
        elif isinstance(module, Conv1D):
            weight = module.weight
        else:
            raise self.refuse(f"the attention's output goes through a {type(module).__name__}")
        if weight.shape[0] != len(self.attended.query) * self.attended.value.shape[-1]:
            raise self.refuse("the attention's output matrix does not fit its heads")
        return weight, module.bias

    def _gain(self, norm: nn.Module, given: Tensor, made: Tensor) -> Tensor:
        """Factors [T, D] that an RMSNorm, held fixed at its input, multiplies with."""
        import torch

        epsilon = getattr(norm, "variance_epsilon", getattr(norm, "eps", None))
        what = f"a {type(norm).__name__} stands behind the attention"
        if not isinstance(epsilon, float):
            raise self.refuse(what)
        weight = norm(torch.ones_like(given[:1])).float() * (1 + epsilon) ** 0.5
        wide = given.float()
        gain = weight * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + epsilon)
        if not _close((wide * gain).to(made.dtype), made):
            raise self.refuse(what)
        return gain


def _first(output: Any) -> Tensor:
    made: Tensor = output[0] if isinstance(output, tuple) else output
    return made


def _flat(tensor: Tensor) -> Tensor:
    return tensor.reshape(-1, tensor.shape[-1])


def _close(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors are one, up to the rounding of their dtype."""
    import torch

    tolerance = 4 * torch.finfo(one.dtype).eps
    return one is other or _gap(one, other) <= tolerance * float(other.abs().max())


def _gap(one: Tensor, other: Tensor) -> float:
    if one.shape != other.shape:
        return math.inf
    return float((one.float() - other.float()).abs().max())
