"""The vector of ``attribution.steering``: how states change when strong tokens are taken away."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from engine.attribution.steered import watched
from engine.attribution.work import Ints, Part, Work
from engine.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

    from engine.loaded import LoadedModel


def read_layers(asked: str, model: LoadedModel) -> list[int]:
    """Layer numbers of ``last``, ``all`` or ``2,3``, in ascending order.

    Raises:
        UserError: it is no such list, or the model has no such layer.
    """
    asked = asked.strip()
    if asked in ("last", "all"):
        return list(range(model.layers))[-1 if asked == "last" else 0 :]
    parts = [p.strip() for p in asked.split(",")]
    if not all(re.fullmatch(r"[0-9]{1,4}", p) for p in parts):
        raise UserError("Write layers as last, all, or numbers such as 2,3.")
    found = sorted({int(p) for p in parts})
    if found[-1] >= model.layers:
        raise UserError(
            f"{model.name} has layers 0 to {model.layers - 1}: there is no layer {found[-1]}."
        )
    return found


def vectors_of(
    work: Work,
    layers: Sequence[int],
    chosen: Mapping[str, Ints],
    empty: Tensor,
    method: str,
    mode: str,
) -> tuple[dict[int, Tensor], dict[int, float]]:
    """The vector [D] of each layer in float64, and the mean length of its states.

    Args:
        work: a comparison; states are those at the rows that predict its continuations.
        layers: behind which states are read.
        chosen: sources for and against the target.
        empty: embedding [D] that stands for a token taken away.
        method: ``mean`` or ``pca``.
        mode: ``both`` or ``for``.

    Raises:
        UserError: nothing was chosen that makes a difference.
    """
    import torch

    signs = {"for": 1.0, "against": -1.0} if mode == "both" else {"for": 1.0}
    plain = [_states(work, part, layers, (), empty) for part in work.parts]
    vectors = {n: torch.zeros_like(plain[0][n][0]) for n in layers}
    for word, sign in signs.items():
        sources = chosen[word]
        if not len(sources):
            work.ctx.note("chosen", None, f"No source speaks {word} the target.")
            continue
        gone = [_states(work, part, layers, sources, empty) for part in work.parts]
        for n in layers:
            differences = [a[n] - b[n] for a, b in zip(plain, gone, strict=True)]
            vectors[n] += sign * direction(differences, method)
    if not any(bool(v.any()) for v in vectors.values()):
        raise UserError(
            "Taking the strongest tokens away changes nothing at these layers: choose earlier or "
            "later ones, or another comparison."
        )
    lengths = {n: float(torch.cat([p[n] for p in plain]).norm(dim=-1).mean()) for n in layers}
    return vectors, lengths


def direction(differences: Sequence[Tensor], method: str) -> Tensor:
    """One vector [D] from differences [k, D] of each branch.

    ``mean`` averages within a branch, then over branches. ``pca`` is the first right singular
    vector of all of them, not centred: few differences have little left of what they share once
    their mean is gone. Its sign is that of their mean.
    """
    import torch

    mean = torch.stack([d.mean(0) for d in differences]).mean(0)
    if method == "mean":
        return mean
    first = torch.linalg.svd(torch.cat(list(differences)), full_matrices=False).Vh[0]
    return first if float(first @ mean) >= 0 else -first


def sizes(
    vectors: Mapping[int, Tensor], hidden: Mapping[int, float], alpha: float
) -> dict[str, Any]:
    """Columns of the table ``layers``."""
    lengths = [float(v.norm()) for v in vectors.values()]
    return {
        "layer": list(vectors),
        "vector_norm": lengths,
        "hidden_norm": [hidden[n] for n in vectors],
        "push": [alpha * v / hidden[n] for v, n in zip(lengths, vectors, strict=True)],
    }


def _states(
    work: Work, part: Part, layers: Sequence[int], gone: Sequence[int] | Ints, empty: Tensor
) -> dict[int, Tensor]:
    """States [rows, D] of a part behind the layers, some sources taken away."""
    import torch

    with torch.no_grad(), torch.inference_mode(False), watched(work.model, layers) as found:
        embeds = part.reader.embedded[None].clone()
        for number in gone:
            source = work.sources[number]
            embeds[:, source.start : source.end] = empty
        part.reader.logits(embeds, part.rows)
        return {n: found[n][0, part.rows].double() for n in layers}
