"""The output matrix alone: how a step on it along some tokens' gradients changes every token."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from engine.errors import UserError
from engine.reward.scored import Floats, Scored
from engine.schema import Progress

if TYPE_CHECKING:
    from torch import Tensor

    from engine.models import LoadedModel


@dataclass(frozen=True, slots=True)
class Head:
    """log p = log softmax(cap · tanh(scale · (W h + b) / cap)), without tanh where cap is 0.

    Attributes:
        weight: W, [V, D], rows of real ids only.
        bias: b, [V] or None.
        scale: of the logits.
        softcap: cap, 0 for none.
    """

    weight: Tensor
    bias: Tensor | None
    scale: float
    softcap: float


@dataclass(frozen=True, slots=True)
class Rows:
    """The trained tokens of a group, as the output matrix sees them.

    Attributes:
        head: the output matrix.
        hidden: [N, D] its inputs, at the positions before the tokens.
        target: [N] the tokens' ids.
    """

    head: Head
    hidden: Tensor
    target: Tensor

    def pull(self, weights: Floats) -> Floats:
        """s_k = Σ_t w_t ⟨g_k, g_t⟩ ⟨h_k, h_t⟩ [N]: change of log p of every token, in nats per
        unit of a step on W along Σ_t w_t ∇ log p_t. Exact over all ids; linear in tokens.

        g is the gradient of log p in the head's output: one-hot minus p, through scale and cap.
        """
        import torch
        from tokenkernel import influence_from_hidden

        wide = torch.float64 if self.hidden.dtype == torch.float64 else torch.float32
        found = influence_from_hidden(
            self.hidden,
            self.head.weight,
            self.target,
            torch.as_tensor(weights, dtype=wide, device=self.hidden.device),
            bias=self.head.bias,
            scale=self.head.scale,
            softcap=self.head.softcap,
        )
        return found.double().cpu().numpy()


def head_of(model: LoadedModel) -> Head:
    """The model's output matrix, with scale and soft-cap.

    Raises:
        UserError: its logits are no such function of the last hidden state.
    """
    from torch import nn

    head = model.model.get_output_embeddings()
    scale, softcap = 1.0, 0.0
    for step in model.head_steps:
        if softcap or step.kind == "soft-cap":
            # Something behind a soft-cap is not the form above; no known model does it.
            softcap = step.value if not softcap else -1.0
        else:
            scale *= step.value if step.kind == "multiply" else 1 / step.value
    if not model.head_route or not isinstance(head, nn.Linear) or softcap < 0:
        raise UserError(
            f"The logits of {model.name} are no known function of its last hidden state, which "
            "this method needs: choose another model."
        )
    real = model.real_vocab
    bias = None if head.bias is None else head.bias.detach()[:real]
    return Head(head.weight.detach()[:real], bias, scale, softcap)


def read_rows(model: LoadedModel, scored: Scored) -> Generator[Progress, None, Rows]:
    """Hidden states of a group's rows; one forward for each rollout that was not read before.

    Only these rows are held, not the prompts' states.

    Raises:
        UserError: as ``head_of``; an id is outside the vocabulary.
    """
    import torch

    head = head_of(model)
    parts = []
    for index, trace in enumerate(scored.traces):
        places = scored.position[scored.rollout == index]
        if places.size:
            # Row p − 1 predicts the token at p.
            rows = torch.as_tensor(places - 1, device=model.device)
            with torch.inference_mode(False), torch.no_grad():
                parts.append(model.hidden(trace.ids)[rows])
        done, count = index + 1, len(scored.traces)
        yield Progress(done / count, f"Read rollout {done:,} of {count:,}")
    target = scored.target
    if target.size and target.max() >= len(head.weight):
        raise UserError(
            f"The id {target.max():,} is outside the vocabulary of {model.name}: use the "
            "tokenizer that belongs to it."
        )
    # Not inference mode, in which a waiting job may have left this thread: a step is learnt later.
    with torch.inference_mode(False), torch.no_grad():
        hidden = torch.cat(parts) if parts else head.weight.new_empty(0, head.weight.shape[1])
        return Rows(head, hidden, torch.tensor(target, device=model.device))


def sums(values: Floats, scored: Scored) -> Floats:
    """Sum over the rows of each rollout, [G]."""
    return np.bincount(scored.rollout, values, minlength=len(scored.traces)).astype(np.float64)
