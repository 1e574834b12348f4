"""Read attention weights, and cut attention edges, without changing the model.

The *twin* of a model has the same class and shares every weight, but its attention is
:func:`folding_attention`, registered through transformers' own interfaces. It walks over blocks
of query rows, computes their weights as eager attention does, adds them to an aggregate and drops
them: never are all layers times heads times T times T weights alive. The original model stays on
its own attention and is not touched.

Unlike the per-token columns, an entry ``[q, k]`` belongs to the position *q* that attends, not to
the token it predicts.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import repeat_kv
from transformers.masking_utils import eager_mask

from engine.errors import UserError

FOLDING = "tokenscope_folding"
"""Name of the attention in transformers' registry."""

BLOCK_BYTES = 2**20
"""Size of one block of float32 scores over all heads. Larger blocks are no faster and leave the
allocator with four times the memory (measured at T = 4,096)."""

KEEP_BYTES = 512 * 2**20
"""Most bytes that may be kept when layers or heads are asked for one by one."""

Reduce = Literal["mean", "sum", "max"]
Keep = Literal["layers", "heads"]
Visit = Callable[[int, int, Tensor], None]
"""Gets a layer, its first row and the weights [H, rows, T] of a block, to be read and left."""
Watch = Callable[
    [nn.Module, Tensor, Tensor, Tensor, Tensor | None, float | None, float | None], None
]
"""Gets what a layer's attention is given: module, query, key, value, mask, scaling, soft-cap."""


@dataclass(frozen=True)
class Knockout:
    """Attention edges that are cut before the softmax; the row's other weights then sum to one.

    Attributes:
        edges: Boolean [T, T]; ``[q, k]`` true cuts position q's view of position k.
        layers: Layers in which they are cut; None is all.
        heads: Heads in which they are cut; None is all.
    """

    edges: Tensor
    layers: frozenset[int] | None = None
    heads: frozenset[int] | None = None


Knockouts = Tensor | Knockout | Iterable[Knockout] | Iterable[tuple[int | None, ...]]


def as_knockouts(value: Knockouts | None, length: int) -> tuple[Knockout, ...]:
    """Return ``value`` as knockouts over a text of ``length`` tokens.

    Args:
        value: A boolean [T, T] tensor, one or several :class:`Knockout`, or edges written
            ``(q, k)``, ``(q, k, layer)`` or ``(q, k, layer, head)`` with None for all.
        length: T.

    Raises:
        UserError: A shape or a position does not fit the text.
    """
    if value is None:
        return ()
    if isinstance(value, Tensor):
        value = (Knockout(value),)
    elif isinstance(value, Knockout):
        value = (value,)
    items = list(value)
    whole = [item for item in items if isinstance(item, Knockout)]
    for item in whole:
        if item.edges.dtype != torch.bool or item.edges.shape != (length, length):
            raise UserError(
                f"A knock-out mask must be boolean of shape {length} by {length}: one row per "
                "attending position."
            )
    groups: dict[tuple[int | None, int | None], Tensor] = {}
    for item in items:
        if isinstance(item, Knockout):
            continue
        target, source, layer, head = (*item, None, None)[:4]
        if not all(isinstance(p, int) and 0 <= p < length for p in (target, source)):
            raise UserError(
                f"The edge from {source} to {target} is not in the text: positions go from 0 to "
                f"{length - 1}."
            )
        empty = torch.zeros(length, length, dtype=torch.bool)
        groups.setdefault((layer, head), empty)[target, source] = True
    return (
        *whole,
        *(
            Knockout(
                edges,
                None if layer is None else frozenset((layer,)),
                None if head is None else frozenset((head,)),
            )
            for (layer, head), edges in groups.items()
        ),
    )


@dataclass
class Fold:
    """One pass over the twin: what is cut, what is added up, and the result so far.

    Attributes:
        length: T.
        layers: Layers to add up; None is all, an empty set none.
        heads: Heads to add up; None is all.
        reduce: How layers and heads become one number.
        keep: Keep the layers, or layers and heads, apart.
        cuts: Edges to cut.
        block_rows: Query rows per block; None chooses by :data:`BLOCK_BYTES`.
        visit: Gets every block of the chosen layers and heads, which are then not added up.
        watch: Gets what each layer's attention is given, before it runs.
        total: The [T, T] aggregate in float32.
        kept: Layer to [T, T] or [H, T, T], when ``keep`` is given.
        seen: Layers whose attention went through the fold, with their number of heads.
        added: Number of (layer, head) pairs in ``total``.
    """

    length: int
    layers: frozenset[int] | None = None
    heads: tuple[int, ...] | None = None
    reduce: Reduce = "mean"
    keep: Keep | None = None
    cuts: tuple[Knockout, ...] = ()
    block_rows: int | None = None
    visit: Visit | None = None
    watch: Watch | None = None
    total: Tensor | None = None
    kept: dict[int, Tensor] = field(default_factory=dict)
    seen: dict[int, int] = field(default_factory=dict)
    added: int = 0

    def wants(self, layer: int) -> bool:
        """Return whether this layer's weights are added up."""
        return self.layers is None or layer in self.layers

    def add(self, layer: int, start: int, weights: Tensor) -> None:
        """Add the rows ``start``… of one layer; ``weights`` is [H, rows, T]."""
        chosen = weights if self.heads is None else weights[list(self.heads)]
        chosen = chosen.detach().float()
        if self.visit is not None:
            self.visit(layer, start, chosen)
            return
        rows = slice(start, start + weights.shape[1])
        if self.keep == "heads":
            self._kept(layer, chosen, (chosen.shape[0],))[:, rows] = chosen
            return
        block = chosen.amax(0) if self.reduce == "max" else chosen.sum(0)
        if self.keep == "layers":
            block = block / len(chosen) if self.reduce == "mean" else block
            self._kept(layer, chosen, ())[rows] = block
            return
        if self.total is None:
            self.total = chosen.new_zeros(self.length, self.length)
        if self.reduce == "max":
            torch.maximum(self.total[rows], block, out=self.total[rows])
        else:
            self.total[rows] += block

    def result(self) -> Tensor:
        """Return [T, T], [L, T, T] or [L, H, T, T]; layers in ascending order."""
        if self.keep is not None:
            return torch.stack([self.kept[layer] for layer in sorted(self.kept)])
        if self.total is None:
            raise UserError("No attention was read: choose at least one layer.")
        return self.total / self.added if self.reduce == "mean" else self.total

    def cut(self, layer: int, heads: int, rows: slice, device: torch.device) -> Tensor | None:
        """Return which scores of a block are cut, [1 or H, rows, T], or None for none."""
        found: Tensor | None = None
        for knockout in self.cuts:
            if knockout.layers is not None and layer not in knockout.layers:
                continue
            edges = knockout.edges[rows].to(device)
            if not bool(edges.any()):
                continue
            if knockout.heads is not None:
                chosen = torch.tensor([h in knockout.heads for h in range(heads)], device=device)
                here = chosen[:, None, None] & edges
            else:
                here = edges[None]
            found = here if found is None else found | here
        return found

    def _kept(self, layer: int, like: Tensor, lead: tuple[int, ...]) -> Tensor:
        if layer not in self.kept:
            self.kept[layer] = like.new_zeros(*lead, self.length, self.length)
        return self.kept[layer]


_active: ContextVar[Fold | None] = ContextVar("tokenscope_fold", default=None)


def folding_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    softcap: float | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attend block by block, exactly as eager attention does, feeding the active fold.

    Args:
        module: The attention layer; its ``layer_idx`` names the layer.
        query: [B, H, Q, d].
        key: [B, H_kv, K, d].
        value: [B, H_kv, K, d_v].
        attention_mask: Additive float mask, broadcastable to [B, H, Q, K].
        scaling: Factor of the scores; one over the root of d if None.
        softcap: Gemma 2's bound of the scores.
        **kwargs: Arguments meant for other kinds of attention.

    Returns:
        [B, Q, H, d_v], and None in the place of the weights.
    """
    if kwargs.get("s_aux") is not None or kwargs.get("position_bias") is not None:
        raise UserError(
            "The attention of this model adds sinks or position biases, which cannot be read: "
            "choose a model without them."
        )
    fold = _active.get()
    if fold is not None and fold.watch is not None:
        fold.watch(module, query, key, value, attention_mask, scaling, softcap)
    batch, heads, length, width = query.shape
    groups = heads // key.shape[1]
    key, value = repeat_kv(key, groups), repeat_kv(value, groups)
    keys = key.transpose(2, 3)
    scaling = width**-0.5 if scaling is None else scaling
    rows = fold.block_rows if fold is not None else None
    if rows is None:
        rows = max(16, BLOCK_BYTES // (4 * batch * heads * key.shape[2]))
    layer = _note_layer(fold, module, heads)
    outputs = []
    for start in range(0, length, rows):
        here = slice(start, min(start + rows, length))
        scores = torch.matmul(query[:, :, here], keys) * scaling
        if softcap is not None:
            scores = torch.tanh(scores / softcap) * softcap
        mask = attention_mask
        if mask is not None:
            mask = mask if mask.shape[-2] == 1 else mask[:, :, here]
            scores = scores + mask
        cut = fold.cut(layer, heads, here, scores.device) if fold is not None else None
        if cut is not None:
            scores, dead = _without(scores, cut, mask)
        weights = nn.functional.softmax(scores, dim=-1, dtype=torch.float32)
        if cut is not None:
            weights = weights.masked_fill(dead, 0.0)
        weights = weights.to(query.dtype)
        if fold is not None and fold.wants(layer):
            fold.add(layer, start, weights[0])
        outputs.append(torch.matmul(weights, value))
    output = outputs[0] if len(outputs) == 1 else torch.cat(outputs, dim=2)
    return output.transpose(1, 2).contiguous(), None


def _note_layer(fold: Fold | None, module: nn.Module, heads: int) -> int:
    layer = getattr(module, "layer_idx", None)
    if fold is None:
        return -1 if layer is None else int(layer)
    if layer is None:
        raise UserError("The attention layers of this model are not numbered and cannot be read.")
    fold.seen[int(layer)] = heads
    if fold.wants(int(layer)):
        fold.added += heads if fold.heads is None else len(fold.heads)
    return int(layer)


def _without(scores: Tensor, cut: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """Cut edges from masked scores; return them and which rows have nothing left.

    The mask's own places become minus infinity too: they hold a finite minimum, to which a row
    without any edge would otherwise give all its weight.
    """
    gone = cut if mask is None else cut | (mask <= torch.finfo(mask.dtype).min / 2)
    gone = gone.expand_as(scores)
    return scores.masked_fill(gone, -math.inf), gone.all(-1, keepdim=True)


AttentionInterface.register(FOLDING, folding_attention)
AttentionMaskInterface.register(FOLDING, eager_mask)


def make_twin(model: PreTrainedModel) -> PreTrainedModel:
    """Return a model of the same class that shares every weight and attends by folding.

    Args:
        model: Left exactly as it is.

    Raises:
        UserError: The architecture cannot be doubled this way.
    """
    config = copy.deepcopy(model.config)
    config._attn_implementation = FOLDING
    with torch.device("meta"):
        twin: PreTrainedModel = type(model)(config)
    # load_state_dict would otherwise switch gradients on in the shared parameters.
    twin.requires_grad_(False)
    twin.load_state_dict(model.state_dict(keep_vars=True), assign=True)
    for name, module in model.named_modules():
        other = twin.get_submodule(name)
        for key, tensor in [*module.named_buffers(recurse=False), *vars(module).items()]:
            if isinstance(tensor, Tensor):
                setattr(other, key, tensor)
    if any(t.is_meta for t in (*twin.parameters(), *twin.buffers())):
        raise UserError(
            f"The attention of a {type(model).__name__} cannot be read: its weights cannot be "
            "shared with a second copy."
        )
    return twin.eval()


def folded(twin: PreTrainedModel, inputs: dict[str, Any], fold: Fold) -> Any:
    """Run the twin once with ``fold`` active and return its output; gradients as the caller set."""
    token = _active.set(fold)
    try:
        return twin(**inputs, use_cache=False)
    finally:
        _active.reset(token)


def check_selection(what: str, chosen: Sequence[int] | None, count: int) -> None:
    """Refuse layers or heads that the model does not have.

    Raises:
        UserError: An index is outside 0 … count − 1, or none is chosen.
    """
    if chosen is None:
        return
    if not chosen or any(not 0 <= index < count for index in chosen):
        raise UserError(f"Choose {what} between 0 and {count - 1}: the model has {count}.")
