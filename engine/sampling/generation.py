"""Sampled continuations whose draws do not depend on how many are drawn together.

Sample *i* of a stream uses the *i*-th counter of a Philox generator keyed by seed and prefix, one
uniform per token, turned into an id by the inverse distribution function over ids in id order.
Drawing eight after three gives the same first three, and so does another batch size: on the CPU
bit for bit. (A GPU may add a batch's rows up in another order, by an ulp or so: a draw that falls
on the border between two ids can then land on its other side.)

torch is imported only when something is sampled: stored continuations are read without it.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pydantic import BaseModel, ConfigDict, Field

if TYPE_CHECKING:
    from torch import Tensor

    from engine.models import LoadedModel
    from engine.sampling.decoding import Rows

CANCEL_SECONDS = 0.2
"""An empty list is yielded when nothing finished for so long, so that a job can be cancelled."""

SCHEMA = pa.schema(
    [
        ("index", pa.int64()),
        ("ids", pa.list_(pa.int64())),
        ("logprobs", pa.list_(pa.float64())),
        ("finish", pa.string()),
    ]
)
"""Columns of :func:`to_table`."""


class Sampler(BaseModel):
    """How continuations are drawn. The filters apply in the order of the fields.

    Attributes:
        temperature: Divides the logits; 0 always takes the most probable id.
        top_k: Keep the k most probable ids.
        top_p: Keep the fewest most probable ids whose mass reaches p.
        min_p: Keep ids at least this many times as probable as the most probable one.
        max_new_tokens: Longest continuation.
        stop_ids: Ids that end a continuation; None is the model's own.
        seed: Of the stream.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    temperature: float = Field(1.0, ge=0, allow_inf_nan=False)
    top_k: int | None = Field(None, ge=1)
    top_p: float | None = Field(None, gt=0, le=1)
    min_p: float | None = Field(None, ge=0, le=1)
    max_new_tokens: int = Field(256, ge=1)
    stop_ids: tuple[int, ...] | None = None
    seed: int = Field(0, ge=0, lt=2**63)

    @property
    def filters(self) -> bool:
        """Whether any id can be left out."""
        return self.top_k is not None or self.top_p is not None or bool(self.min_p)


@dataclass(frozen=True)
class Continuation:
    """One finished sample.

    Attributes:
        index: Its number in the stream.
        ids: What was drawn, the stop id included.
        logprobs: Log-probability of each id under the plain model (temperature 1, nothing
            filtered, ids of the tokenizer only), in nats.
        finish: ``stop`` after a stop id, ``length`` at ``max_new_tokens`` or the context's end.
    """

    index: int
    ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    finish: Literal["stop", "length"]


def sample(
    model: LoadedModel,
    prefix: Sequence[int],
    sampler: Sampler,
    indices: Iterable[int],
    *,
    batch_rows: int | None = None,
) -> Iterator[list[Continuation]]:
    """Yield the samples ``indices`` of a stream as they finish.

    The prefix is read once; rows that finished leave the batch. Nothing is locked or switched
    while the generator is suspended, so it can be closed at any yield.

    Args:
        model: The model.
        prefix: Ids that every continuation follows.
        sampler: Temperature, filters, length and seed.
        indices: Numbers of the samples wanted, from 0.
        batch_rows: Samples drawn at a time; None chooses by memory.

    Yields:
        What finished since the last yield; now and then an empty list.

    Raises:
        UserError: The prefix does not fit the model, or the model cannot continue texts here.
    """
    wanted = list(dict.fromkeys(indices))
    ids = model.check(prefix)
    limit = sampler.max_new_tokens
    if model.context is not None:
        limit = min(limit, model.context - len(ids))
    if limit <= 0:
        yield [Continuation(index, (), (), "length") for index in wanted]
        return
    if not wanted:
        return
    from engine.sampling.decoding import Prefilled

    prefilled = Prefilled(model, ids)
    if sampler.temperature == 0:
        # All greedy continuations are the same one.
        for done in _batch(model, prefilled.rows(1, limit), sampler, ids, wanted[:1], limit):
            yield [Continuation(i, c.ids, c.logprobs, c.finish) for c in done for i in wanted]
        return
    size = batch_rows or prefilled.fitting_rows(limit)
    for start in range(0, len(wanted), size):
        batch = wanted[start : start + size]
        rows = prefilled.rows(len(batch), limit)
        yield from _batch(model, rows, sampler, ids, batch, limit)


def sample_after(
    model: LoadedModel,
    ids: Sequence[int],
    wanted: Mapping[int, Sequence[int]],
    sampler: Sampler,
    *,
    rows: int | None = None,
) -> Iterator[list[tuple[int, Continuation]]]:
    """Yield samples of several prefixes of one sequence as they finish.

    The sequence is read once and all prefixes share its keys and values, see
    :mod:`engine.sampling.prefixes`. A sample is that of :func:`sample` with the same prefix and
    number: the same draws, so on the CPU the same ids, unless a draw falls so close to the
    border between two ids that rounding decides: in float32 rarer than one token in ten
    thousand (none in 23,000 of the bundled model), in half precision more often. Models that
    cannot share are continued prefix by prefix.

    Args:
        model: The model.
        ids: The sequence.
        wanted: Length n of each prefix ``ids[:n]``, 1 to ``len(ids)``, to numbers of samples.
            Prefixes are begun in this order.
        sampler: Temperature, filters, length and seed.
        rows: Rows decoded side by side; None chooses by memory.

    Yields:
        Pairs (n, continuation) finished since the last yield; now and then an empty list.

    Raises:
        UserError: The sequence does not fit the model, a prefix is not in it, or the model cannot
            continue texts here.
    """
    from engine.sampling.waves import continue_prefixes

    yield from continue_prefixes(model, ids, wanted, sampler, rows)


def _batch(
    model: LoadedModel,
    rows: Rows,
    sampler: Sampler,
    prefix: tuple[int, ...],
    indices: list[int],
    limit: int,
) -> Iterator[list[Continuation]]:
    stops = set(model.eos_ids if sampler.stop_ids is None else sampler.stop_ids)
    draws = uniforms(sampler.seed, prefix, indices, limit)
    tokens: list[list[int]] = [[] for _ in indices]
    logprobs: list[list[float]] = [[] for _ in indices]
    slots = np.arange(len(indices))
    alive = np.ones(len(indices), dtype=bool)
    last = time.monotonic()
    for step in range(limit):
        chosen, logs = _draw(rows.logits, sampler, draws[slots, step])
        done: list[Continuation] = []
        for place in np.flatnonzero(alive):
            row, token = int(slots[place]), chosen[place]
            tokens[row].append(token)
            logprobs[row].append(logs[place])
            if token in stops or step + 1 == limit:
                alive[place] = False
                done.append(
                    Continuation(
                        indices[row],
                        tuple(tokens[row]),
                        tuple(logprobs[row]),
                        "stop" if token in stops else "length",
                    )
                )
        if done or time.monotonic() - last > CANCEL_SECONDS:
            yield done
            last = time.monotonic()
        if not alive.any():
            return
        # Leaving finished rows in for a while costs less than copying the cache at every end.
        if alive.sum() <= 0.85 * len(alive):
            keep = np.flatnonzero(alive)
            rows.keep(keep.tolist())
            chosen, slots, alive = [chosen[i] for i in keep], slots[keep], alive[keep]
        rows.step(chosen)


def _draw(
    logits: Tensor, sampler: Sampler, draws: npt.NDArray[np.float64]
) -> tuple[list[int], list[float]]:
    """Choose an id per row; return ids and their plain log-probabilities (nats)."""
    import torch

    plain = torch.log_softmax(logits.double(), dim=-1)
    if sampler.temperature == 0:
        chosen = plain.argmax(-1, keepdim=True)
    else:
        chosen = inverse(weights(plain, sampler), torch.as_tensor(draws, device=logits.device))
    return chosen[:, 0].tolist(), plain.gather(1, chosen)[:, 0].tolist()


def weights(plain: Tensor, sampler: Sampler) -> Tensor:
    """Return what ids are drawn by, [n, V] float64: temperature, then the filters.

    Args:
        plain: [n, V] log-probabilities of the model, float64.
        sampler: Temperature and filters.

    Returns:
        Probabilities of the ids that are left, 0 for the others; not renormalised.
    """
    import torch

    if sampler.temperature == 0:
        return torch.zeros_like(plain).scatter(-1, plain.argmax(-1, keepdim=True), 1.0)
    if sampler.temperature == 1:
        probabilities = plain.exp()
    else:
        probabilities = torch.softmax(plain / sampler.temperature, dim=-1)
    if sampler.filters:
        probabilities = probabilities * kept(probabilities, sampler)
    return probabilities


def inverse(probabilities: Tensor, draws: Tensor) -> Tensor:
    """Return the id at which the distribution function passes each draw.

    Args:
        probabilities: [n, V] float64, not necessarily summing to one.
        draws: [n] float64 in [0, 1).

    Returns:
        [n, 1] ids, never one of probability 0.
    """
    import torch

    sums = probabilities.cumsum(-1)
    targets = (draws * sums[:, -1])[:, None]
    found = torch.searchsorted(sums, targets, right=True)
    # Rounding can put a draw just below 1 at the total itself, behind the last possible id.
    positive = torch.arange(sums.shape[-1], device=sums.device) * (probabilities > 0)
    return torch.minimum(found, positive.amax(-1, keepdim=True))


def kept(probabilities: Tensor, sampler: Sampler) -> Tensor:
    """Return which ids the sampler's filters leave, boolean [n, V]; at least one per row.

    Top-k, then top-p over what is left renormalised, then min-p. Of equally probable ids the lower
    one goes first, so that exactly k, and the smallest possible set, remain.

    Args:
        probabilities: [n, V], after the temperature.
        sampler: Its ``top_k``, ``top_p`` and ``min_p`` are used.
    """
    import torch

    ordered, ids = probabilities.sort(dim=-1, descending=True, stable=True)
    keep = torch.ones_like(ordered, dtype=torch.bool)
    if sampler.top_k is not None:
        keep[:, sampler.top_k :] = False
    if sampler.top_p is not None and sampler.top_p < 1:
        masses = ordered * keep
        before = masses.cumsum(-1) - masses
        keep &= before < sampler.top_p * masses.sum(-1, keepdim=True)
    if sampler.min_p:
        keep &= ordered >= sampler.min_p * ordered[:, :1]
    keep[:, 0] = True
    return torch.zeros_like(keep).scatter(1, ids, keep)


def uniforms(
    seed: int, prefix: Sequence[int], indices: Sequence[int], steps: int
) -> npt.NDArray[np.float64]:
    """Return the draws of some samples of a stream, [n, steps] in [0, 1), 53 bits each.

    Args:
        seed: The sampler's seed.
        prefix: Ids that the samples follow.
        indices: Numbers of the samples; each has a counter of its own.
        steps: Draws per sample, one per token.
    """
    text = f"tokenscope.samples/1 {seed} ".encode() + np.asarray(prefix, "<i8").tobytes()
    key = np.frombuffer(hashlib.sha256(text).digest()[:16], "<u8")
    draws = np.empty((len(indices), steps), dtype=np.float64)
    for row, index in enumerate(indices):
        raw = np.random.Philox(key=key, counter=[0, 0, index, 0]).random_raw(steps)
        draws[row] = (raw >> np.uint64(11)) * 2.0**-53
    return draws


def to_table(continuations: Iterable[Continuation]) -> pa.Table:
    """Return continuations as a table of :data:`SCHEMA`, one row each."""
    items = list(continuations)
    return pa.table(
        {
            "index": [c.index for c in items],
            "ids": [list(c.ids) for c in items],
            "logprobs": [list(c.logprobs) for c in items],
            "finish": [c.finish for c in items],
        },
        schema=SCHEMA,
    )


def from_table(table: pa.Table) -> dict[int, Continuation]:
    """Return the continuations of :func:`to_table` by index."""
    return {
        row["index"]: Continuation(
            row["index"], tuple(row["ids"]), tuple(row["logprobs"]), row["finish"]
        )
        for row in table.select(SCHEMA.names).to_pylist()
    }
