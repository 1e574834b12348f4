"""Predictions after many token sequences that share their beginning."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from engine.tokenizer.outcomes import Row, rows_of
from engine.tokenizer.scoring import check_fits

if TYPE_CHECKING:
    from engine.loaded import LoadedModel

LOGIT_BYTES = 128 * 2**20
"""Most bytes of float32 logits that are made at once."""

Tail = tuple[int, ...]


class Tails:
    """A beginning read once; tails after it are read side by side, many tokens at a time.

    Args:
        model: who reads.
        base: ids of the beginning, one at least.

    Raises:
        UserError: the ids do not fit the model, or it keeps more than keys and values.
    """

    def __init__(self, model: LoadedModel, base: Sequence[int]) -> None:
        from engine.sampling.decoding import Prefilled

        self._model = model
        self._prefilled = Prefilled(model, model.check(base))
        self.base = tuple(base)
        self._first = rows_of(self._prefilled.logits[:, : model.real_vocab])[0]

    def read(self, tails: Sequence[Tail]) -> Iterator[list[tuple[int, float, Row]]]:
        """(place, log-probability of the tail in nats, prediction after it), batch by batch.

        Raises:
            UserError: beginning and tail together are too long for the model.
        """
        longest = max(map(len, tails), default=0)
        check_fits(self._model, len(self.base) + longest)
        order = sorted((i for i in range(len(tails)) if tails[i]), key=lambda i: len(tails[i]))
        empty = [(i, 0.0, self._first) for i in range(len(tails)) if not tails[i]]
        if empty:
            yield empty
        at = 0
        while at < len(order):
            size = self._fitting(len(tails[order[min(at + 127, len(order) - 1)]]))
            batch = order[at : at + size]
            yield self._batch(batch, [tails[i] for i in batch])
            at += size

    def _fitting(self, length: int) -> int:
        by_logits = LOGIT_BYTES // (4 * self._model.vocab_size * length)
        return max(1, min(self._prefilled.fitting_rows(length), by_logits))

    def _batch(self, places: list[int], tails: list[Tail]) -> list[tuple[int, float, Row]]:
        import torch
        from tokenkernel import token_stats
        from transformers.cache_utils import Cache

        length = max(map(len, tails))
        # Filled up on the right: no position looks ahead, so what follows a tail changes nothing.
        padded = [[*tail, *tail[-1:] * (length - len(tail))] for tail in tails]
        layers = [layer.repeated(len(tails), length) for layer in self._prefilled.cache.layers]
        ids = torch.tensor(padded, device=self._model.device)
        with torch.no_grad():
            logits = self._model.forward(
                input_ids=ids, past_key_values=Cache(layers=layers), use_cache=True
            ).logits[:, :, : self._model.real_vocab]
            last = torch.tensor([len(tail) - 1 for tail in tails], device=ids.device)
            ended = logits[torch.arange(len(tails), device=ids.device), last]
            sums = [float(self._first.logits[tail[0]]) - self._first.log_z for tail in tails]
            inner = [(r, n) for r, tail in enumerate(tails) for n in range(len(tail) - 1)]
            if inner:
                rows, at = (list(x) for x in zip(*inner, strict=True))
                following = torch.tensor([tails[r][n + 1] for r, n in inner], device=ids.device)
                logs = token_stats(logits[rows, at].float(), following).logprob.tolist()
                for row, log in zip(rows, logs, strict=True):
                    sums[row] += log
        return list(zip(places, sums, rows_of(ended), strict=True))
