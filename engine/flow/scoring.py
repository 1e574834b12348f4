"""The answer's log-probability with some attention edges cut, token by token."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from engine.errors import UserError
from engine.flow.recurrences import Floats
from engine.subjects import Span

if TYPE_CHECKING:
    from torch import Tensor

    from engine.models import LoadedModel


def require_scores(model: LoadedModel, answer: Span) -> None:
    """Refuse what has no log-probability under cut edges.

    Raises:
        UserError: the answer starts the text, or the model's logits need its own forward.
    """
    if answer.start == 0:
        raise UserError("The answer starts the text, where nothing predicts it: mark a later one.")
    if not model.head_route:
        raise UserError(
            f"The logits of {model.name} are no known function of its last hidden state, which a "
            "knock-out needs: choose another model."
        )


def answer_logprobs(model: LoadedModel, hidden: Tensor, ids: Sequence[int], answer: Span) -> Floats:
    """log p of each answer token, [n] nats, over the tokenizer's ids, from hidden states [T, D].

    Token *t* is predicted at position *t* − 1.
    """
    import torch

    with torch.no_grad():
        logits = model.logits(hidden[answer.start - 1 : answer.end - 1])[:, : model.real_vocab]
        logs = torch.log_softmax(logits.double(), -1)
        target = torch.tensor(list(ids[answer.start : answer.end]), device=logs.device)
        found = logs.gather(1, target[:, None])[:, 0]
    return np.asarray(found.cpu().numpy(), np.float64)
