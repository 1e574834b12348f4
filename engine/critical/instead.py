"""What may stand at a position instead of the token that does: listed, or drawn at random."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from engine.branching.forking import fork
from engine.context import Context

if TYPE_CHECKING:
    from engine.sampling.generation import Sampler

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Instead:
    """One thing to put at the position.

    Attributes:
        ids: its tokens; several for typed text.
        data: their bytes.
        probability: of all its tokens after the prefix, under the plain model.
        said: whether it is what stands there.
        exact: whether the tokens spell what was typed.
    """

    ids: tuple[int, ...]
    data: bytes
    probability: float
    said: bool = False
    exact: bool = True


def prediction(ctx: Context, position: int) -> Floats:
    """Log-probabilities [V] of the token at ``position``, nats, ids of the tokenizer only."""
    import torch

    logits = ctx.logits(position - 1, position)[0].float().cpu().double()
    return np.asarray(torch.log_softmax(logits, dim=-1).numpy(), np.float64)


def listed(
    ctx: Context, position: int, logs: Floats, k: int, ids: Sequence[int], text: str | None
) -> list[Instead]:
    """What was said, the ``k`` likeliest others, further ids and typed text; each once.

    Args:
        ctx: whose trace and model.
        position: of the token that is replaced.
        logs: ``prediction`` of it.
        k: how many of the likeliest; special tokens are left out.
        ids: further ids, special ones too.
        text: what somebody typed, or None.

    Raises:
        UserError: for ids that are none, or text that cannot be cut.
    """
    trace, tokenizer = ctx.subject, ctx.tokenizer
    said = trace.ids[position]
    found: dict[tuple[int, ...], Instead] = {}
    found[(said,)] = Instead((said,), trace.pieces[position], _share(logs[said]), said=True)
    for other in likeliest(ctx, logs, said, k):
        data = tokenizer.piece(other).data
        found[(other,)] = Instead((other,), data, _share(logs[other]))
    for forced in (*ids, *(() if text is None else (text,))):
        branch = fork(trace, position, forced, tokenizer)
        its = branch.ids[position:]
        if its not in found:
            data = b"".join(branch.pieces[position:])
            spelled = not isinstance(forced, str) or data == forced.encode("utf-8")
            total = _total(ctx, branch.ids, position, logs)
            found[its] = Instead(its, data, _share(total), exact=spelled)
    return list(found.values())


def likeliest(ctx: Context, logs: Floats, said: int, k: int) -> list[int]:
    """The ``k`` most probable ids but ``said``, best first; of equals the lower id first."""
    tokenizer = ctx.tokenizer
    found: list[int] = []
    for token_id in map(int, np.argsort(-logs, kind="stable")):
        if len(found) == k:
            break
        hidden = tokenizer.is_special(token_id) or tokenizer.piece(token_id).kind == "unused"
        if token_id != said and not hidden:
            found.append(token_id)
    return found


def replacements(
    logs: Floats, said: int, sampler: Sampler, prefix: Sequence[int], n: int
) -> list[int] | None:
    """``n`` tokens drawn from p(· | prefix) without ``said``; None when nothing else is possible.

    What was said is taken out first, then temperature and filters apply to what is left. The
    draws have a stream of their own: number *i* is the same whatever ``n`` is.

    Args:
        logs: log-probabilities [V] of the plain model.
        said: the id that may not come.
        sampler: temperature, filters and seed.
        prefix: ids before the position.
        n: how many.
    """
    import torch

    from engine.sampling.generation import uniforms, weights

    others = torch.tensor(logs)
    others[said] = -torch.inf
    if not bool(torch.isfinite(others).any()):
        return None
    mass = weights(torch.log_softmax(others, dim=-1)[None], sampler)[0].numpy()
    sums = mass.cumsum()
    # No text holds a negative id: this stream is nobody else's.
    draws = uniforms(sampler.seed, (*prefix, -1 - said), range(n), 1)[:, 0]
    last = int(np.flatnonzero(mass)[-1])
    places = np.minimum(np.searchsorted(sums, draws * sums[-1], side="right"), last)
    return [int(place) for place in places]


def _total(ctx: Context, ids: tuple[int, ...], position: int, logs: Floats) -> float:
    """Log-probability of all tokens from ``position`` on, nats."""
    if len(ids) == position + 1:
        return float(logs[ids[position]])
    import torch

    model = ctx.models["model"]
    rows = slice(position - 1, len(ids) - 1)
    logits = (
        model.logits(model.hidden(ids)[rows]) if model.head_route else model.full_logits(ids)[rows]
    )
    found = torch.log_softmax(logits[:, : model.real_vocab].float().cpu().double(), dim=-1)
    return float(found.gather(1, torch.tensor(ids[position:])[:, None]).sum())


def _share(log: float) -> float:
    return min(1.0, float(np.exp(log)))
