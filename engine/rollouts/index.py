"""The index of a log: one row for each rollout, with its place and a few numbers."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import orjson
import pyarrow as pa

from engine.rollouts.logged import Flags, Floats, LoggedRollout

SCHEMA = pa.schema(
    [
        ("file", pa.int32()),
        ("line", pa.int64()),
        ("part", pa.int32()),
        ("offset", pa.int64()),
        ("size", pa.int64()),
        ("step", pa.int64()),
        ("group", pa.string()),
        ("reward", pa.float64()),
        ("advantage", pa.float64()),
        ("prompt_tokens", pa.int32()),
        ("response_tokens", pa.int32()),
        ("response_chars", pa.int64()),
        ("trained_tokens", pa.int32()),
        ("has_ids", pa.bool_()),
        ("log_ratio", pa.float64()),
        ("mismatch_kl", pa.float64()),
        ("entropy", pa.float64()),
        ("logprob", pa.float64()),
        ("finish", pa.string()),
    ]
)
"""``file`` is a number in the log's list of files; ``log_ratio``, ``mismatch_kl``, ``entropy`` and
``logprob`` are means over the trained tokens that have a value, in nats. Null where unknown."""

_FLUSH = 20_000


class Rows:
    """Collects rows and turns them into Arrow as they come."""

    def __init__(self) -> None:
        self._rows: list[tuple[Any, ...]] = []
        self._batches: list[pa.RecordBatch] = []
        self._flushed = 0

    def __len__(self) -> int:
        return self._flushed + len(self._rows)

    def add(self, file: int, rollout: LoggedRollout) -> None:
        """One rollout of the file with that number."""
        self._rows.append(_row(file, rollout))
        if len(self._rows) >= _FLUSH:
            self._flush()

    def table(self) -> pa.Table:
        """All rows so far."""
        self._flush()
        return pa.Table.from_batches(self._batches, schema=SCHEMA)

    def _flush(self) -> None:
        if self._rows:
            columns = zip(*self._rows, strict=True)
            arrays = [pa.array(c, f.type) for c, f in zip(columns, SCHEMA, strict=True)]
            self._batches.append(pa.RecordBatch.from_arrays(arrays, schema=SCHEMA))
            self._flushed += len(self._rows)
            self._rows = []


def _row(file: int, rollout: LoggedRollout) -> tuple[Any, ...]:
    """The values of ``SCHEMA``, in its order."""
    place = rollout.place
    count = rollout.response_tokens
    text = rollout.response_text if count is None or rollout.trace is None else None
    return (
        file,
        place.line,
        place.part,
        place.offset,
        place.size,
        rollout.step,
        group_of(rollout),
        rollout.reward,
        rollout.advantage,
        None if count is None else rollout.prompt_tokens,
        count,
        None if text is None else len(text),
        *_numbers(rollout),
        rollout.finish,
    )


def _numbers(rollout: LoggedRollout) -> tuple[Any, ...]:
    """``trained_tokens``, ``has_ids``, and the means of per-token values."""
    where = trained(rollout)
    if where is None:
        return None, rollout.has_ids, None, None, None, None
    ratio = log_ratio(rollout)
    return (
        int(where.sum()),
        rollout.has_ids,
        mean(ratio, where),
        mean(None if ratio is None else k3(ratio), where),
        mean(rollout.signals.get("entropy"), where),
        mean(_policy(rollout), where),
    )


def trained(rollout: LoggedRollout) -> Flags | None:
    """The tokens the trainer learns from: the loss mask, or else the response."""
    if rollout.loss_mask is not None:
        return rollout.loss_mask
    count = rollout.response_tokens
    if count is None:
        return None
    return np.arange(rollout.prompt_tokens + count) >= rollout.prompt_tokens


def log_ratio(rollout: LoggedRollout) -> Floats | None:
    """Per token: the trainer's log-probability minus the inference engine's, in nats."""
    ours, theirs = (rollout.signals.get(f"{who}_logprob") for who in ("trainer", "inference"))
    return None if ours is None or theirs is None else ours - theirs


def k3(ratio: Floats) -> Floats:
    """e^r - 1 - r, never negative; infinite where e^r is too large for a number.

    Schulman (2020), Approximating KL Divergence; prime-rl calls it mismatch KL with r the log of
    trainer over inference probability, whose mean estimates KL(inference, trainer).
    """
    with np.errstate(over="ignore"):
        return np.expm1(ratio) - ratio


def mean(found: Floats | None, where: Flags | None) -> float | None:
    """Mean over the tokens ``where`` that have a finite value, None when there is none."""
    if found is None or where is None or len(found) != len(where):
        return None
    known = found[where & np.isfinite(found)]
    return float(known.mean()) if known.size else None


def _policy(rollout: LoggedRollout) -> Floats | None:
    drawn = rollout.signals.get("inference_logprob")
    return rollout.signals.get("trainer_logprob") if drawn is None else drawn


def group_of(rollout: LoggedRollout) -> str:
    """The log's name for the prompt, or a digest of the prompt's ids or text.

    A rollout whose prompt nobody knows is a group of its own.
    """
    if rollout.name is not None:
        return rollout.name
    if rollout.prompt_ids is not None:
        return (
            _digest(b"ids", rollout.prompt_ids.tobytes())
            if len(rollout.prompt_ids)
            else _own(rollout)
        )
    if rollout.messages:
        said = [[m.role, m.text.encode("utf-8", "surrogatepass").hex()] for m in rollout.messages]
        return _digest(b"chat", orjson.dumps(said))
    if rollout.prompt is not None:
        return _digest(b"text", rollout.prompt.encode("utf-8", "surrogatepass"))
    if rollout.trace is not None and rollout.trace.response_start:
        trace = rollout.trace
        start = trace.response_start
        return _digest(b"trace", repr((trace.ids[:start], trace.pieces[:start])).encode())
    return _own(rollout)


def _own(rollout: LoggedRollout) -> str:
    place = rollout.place
    return _digest(b"place", f"{place.file}:{place.line}:{place.part}".encode())


def _digest(kind: bytes, data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=8, person=kind).hexdigest()
