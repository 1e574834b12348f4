"""Continuations while some tokens cannot be seen: attention edges into them are cut.

The twin's attention is given the cuts; keys and values are kept between steps, so that each new
token costs one step. Rows with different cuts run side by side.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from engine.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

    from engine.loaded import LoadedModel
    from engine.twin import Fold

BATCH = 16
"""Continuations that run side by side."""


@dataclass(frozen=True)
class Masked:
    """One continuation to be made.

    Attributes:
        hidden: positions that no later position sees.
        draws: the uniform numbers behind its tokens; None takes the most probable id each time.
    """

    hidden: frozenset[int]
    draws: np.random.Generator | None = None


def continue_masked(
    model: LoadedModel,
    ids: Sequence[int],
    rows: Sequence[Masked],
    *,
    first: int,
    limit: int,
    temperature: float = 0.0,
) -> Generator[int, None, list[tuple[int, ...]]]:
    """Continue one text several times, each time with other tokens hidden.

    Args:
        model: The model; its twin runs.
        ids: The text.
        rows: The continuations wanted.
        first: From this position on hidden tokens are not seen; 0 hides them from all later ones.
        limit: Most tokens of a continuation.
        temperature: Of those that are drawn.

    Yields:
        How many tokens were made, after each step; nothing is locked or switched then.

    Returns:
        The new ids of each row, the stop id included.

    Raises:
        UserError: The ids do not fit the model, nothing can follow them, or its attention cannot
            be read.
    """
    ids = model.check(ids)
    room = limit if model.context is None else min(limit, model.context - len(ids))
    if room < 1:
        raise UserError(
            f"The text has {len(ids):,} tokens and {model.name} reads no more: shorten it."
        )
    made: list[tuple[int, ...]] = []
    count = 0
    for start in range(0, len(rows), BATCH):
        batch = _Batch(model, ids, rows[start : start + BATCH], first, room, temperature)
        while batch.step():
            count += 1
            yield count
        made += [tuple(new) for new in batch.made]
    return made


class _Batch:
    """Rows that run side by side; all are equally long, finished ones are padded."""

    def __init__(
        self,
        model: LoadedModel,
        ids: tuple[int, ...],
        rows: Sequence[Masked],
        first: int,
        limit: int,
        temperature: float,
    ) -> None:
        import torch
        from transformers import DynamicCache

        self._model, self._ids, self._rows = model, ids, rows
        self._first, self._limit, self._temperature = first, limit, temperature
        self._hidden = torch.zeros(
            len(rows), len(ids) + limit, dtype=torch.bool, device=model.device
        )
        for row, one in enumerate(rows):
            self._hidden[row, sorted(one.hidden)] = True
        # Plain: a cache made from the config drops what a sliding window no longer sees.
        self._cache = DynamicCache()
        self._seen = 0
        self._open = set(range(len(rows)))
        self.made: list[list[int]] = [[] for _ in rows]

    def step(self) -> bool:
        """Make the next token of every row; False once all are finished."""
        import torch

        if not self._open:
            return False
        if self._seen == 0:
            prompt = torch.tensor([self._ids], device=self._model.device)
            prompt = prompt.expand(len(self._rows), -1)
            if len(self._ids) > 1:
                # Without the head: its output over the whole text would be large.
                self._run(self._model.twin.base_model, prompt[:, :-1])
            tokens = prompt[:, -1:]
        else:
            last = [new[-1] for new in self.made]
            tokens = torch.tensor(last, device=self._model.device)[:, None]
        logits = self._run(self._model.twin, tokens).logits[:, -1, : self._model.real_vocab]
        for row in sorted(self._open):
            new = self._pick(logits[row], self._rows[row].draws)
            self.made[row].append(new)
            if new in self._model.eos_ids or len(self.made[row]) == self._limit:
                self._open.remove(row)
        return True

    def _run(self, network: Any, tokens: Tensor) -> Any:
        import torch

        from engine.twin import folded

        fold = _cuts(self._hidden, self._seen, tokens.shape[1], self._first)
        inputs = {"input_ids": tokens, "past_key_values": self._cache}
        with self._model.lock, torch.no_grad():
            self._model.forwards += 1
            output = folded(network, inputs, fold)
        self._seen += tokens.shape[1]
        return output

    def _pick(self, logits: Tensor, draws: np.random.Generator | None) -> int:
        """The most probable id, or one drawn by the inverse distribution function."""
        if draws is None or self._temperature == 0:
            return int(logits.argmax())
        odds = (logits.double() / self._temperature).softmax(-1).cumsum(-1).cpu().numpy()
        # The sum may miss 1 by rounding: the last id takes what is left.
        place = int(np.searchsorted(odds, draws.random(), side="right"))
        return min(place, len(odds) - 1)


def _cuts(hidden: Tensor, offset: int, length: int, first: int) -> Fold:
    """A fold that cuts, row by row of the batch, the views of hidden positions.

    Args:
        hidden: [B, all positions], true for those that are hidden.
        offset: position of the first query.
        length: how many queries there are.
        first: positions before this one see everything.
    """
    import torch

    from engine.twin import Fold

    class RowCuts(Fold):
        """Cuts that differ between the rows of a batch."""

        def cut(
            self, layer: int, heads: int, rows: slice, device: torch.device
        ) -> torch.Tensor | None:
            """Which scores are cut, [B, 1, rows, keys]."""
            keys = torch.arange(offset + length, device=device)
            queries = torch.arange(offset + rows.start, offset + rows.stop, device=device)
            later = (queries[:, None] > keys) & (queries[:, None] >= first)
            found = hidden[:, None, None, : offset + length] & later
            return found if bool(found.any()) else None

    return RowCuts(length, layers=frozenset())
