"""Rows of a model's embedding matrices as signs of training, and prompts that make it repeat."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from engine.errors import UserError
from engine.schema import Progress

if TYPE_CHECKING:
    from engine.loaded import LoadedModel
    from engine.tokenizer.spec import TokenizerSpec

Floats = npt.NDArray[np.float64]

_BLOCK = 8192
"""Rows read at once."""
_BYTES = 2**28
"""Bytes of logits a batch of prompts may have."""

PROMPTS = (("", " ", " ", " "), ('Repeat: "', '"\nAgain: "', '"\nAgain: "'), ("«", "» «", "» «"))
"""Texts around the token: each is followed by the token, which the last one asks for again."""


@dataclass(frozen=True, slots=True)
class Indicators:
    """What the rows look like.

    Attributes:
        input_norm: Euclidean length of each row of the input embedding, [V].
        output_norm: the same of the output matrix, [V].
        output_cosine: cosine distance of each output row to the mean of the reference rows, [V];
            None without reference rows.
        tied: input and output are one matrix.
    """

    input_norm: Floats
    output_norm: Floats
    output_cosine: Floats | None
    tied: bool


def indicators(model: LoadedModel, reference: npt.NDArray[np.int64]) -> Indicators:
    """Norms and distances of all rows, a block at a time.

    Args:
        model: whose matrices.
        reference: rows known to be untrained.

    Raises:
        UserError: when the model has no input embedding of its own for each id.
    """
    import torch

    table = model.model.get_input_embeddings()
    into = getattr(table, "weight", None)
    out = model.head_weight
    if into is None or into.shape[0] < model.vocab_size:
        raise UserError(f"{model.name} has no embedding matrix to read: choose another model.")
    tied = into.data_ptr() == out.data_ptr()
    with torch.no_grad():
        mean = None
        if len(reference):
            rows = out[torch.as_tensor(reference, device=out.device)].double()
            mean = rows.mean(0)
        norms: tuple[list[Any], list[Any], list[Any]] = ([], [], [])
        for start in range(0, model.vocab_size, _BLOCK):
            part = slice(start, min(start + _BLOCK, model.vocab_size))
            wide = out[part].double()
            norms[0].append(into[part].double().norm(dim=1).cpu().numpy())
            norms[1].append(wide.norm(dim=1).cpu().numpy())
            if mean is not None:
                cosine = torch.nn.functional.cosine_similarity(wide, mean[None], dim=1)
                norms[2].append((1 - cosine).cpu().numpy())
    found = [np.concatenate(part) if part else None for part in norms]
    assert found[0] is not None
    assert found[1] is not None
    return Indicators(found[0], found[1], found[2], tied)


def repeated(
    model: LoadedModel, spec: TokenizerSpec, ids: Sequence[int], chances: dict[int, float]
) -> Iterator[Progress]:
    """The largest probability, over the prompts, of the token being repeated.

    Args:
        model: who is asked.
        spec: its tokenizer, for the texts around the token.
        ids: tokens.
        chances: filled by id.
    """
    import torch

    for number, prompt in enumerate(PROMPTS):
        parts = spec.encode_ids(prompt)
        before = list(spec.around[0])
        row, places = before + parts[0], []
        for part in parts[1:]:
            places.append(len(row))
            row = [*row, 0, *part]
        if not row:
            continue
        size = max(1, _BYTES // (4 * len(row) * model.vocab_size))
        for start in range(0, len(ids), size):
            done = (number + start / max(1, len(ids))) / len(PROMPTS)
            yield Progress(0.5 + 0.5 * done, "Asking the model to repeat candidates")
            batch = list(ids[start : start + size])
            rows = [_with(row, places, i) for i in batch]
            model.check(rows[0])
            with torch.no_grad():
                inputs = torch.tensor(rows, device=model.device)
                logits = model.forward(input_ids=inputs, use_cache=False).logits[:, -1]
                logs = logits[:, : model.real_vocab].double().log_softmax(-1)
            for at, i in enumerate(batch):
                chance = float(logs[at, i].exp()) if i < model.real_vocab else 0.0
                chances[i] = max(chances.get(i, 0.0), chance)


def _with(row: Sequence[int], places: Sequence[int], token_id: int) -> list[int]:
    filled = list(row)
    for place in places:
        filled[place] = token_id
    return filled
