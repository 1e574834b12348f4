"""What the index alone tells: rewards, lengths and divergence over steps, prompts worth a look.

Pure functions of ``RolloutLog.index``. Means of per-token values are weighted by the trained
tokens. What is undefined is null.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from engine.errors import UserError
from engine.rollouts.groups import group_codes
from engine.rollouts.logged import Floats, Ints

By = Literal["variance", "best", "worst", "length_reward", "mismatch_kl", "entropy"]
_TOKEN_MEANS = ("log_ratio", "mismatch_kl", "entropy")
_QUANTILES = {"reward_q05": 0.05, "reward_q25": 0.25, "reward_median": 0.5, "reward_q75": 0.75,
              "reward_q95": 0.95}  # fmt: skip


def by_step(index: pa.Table, *, threshold: float = 0.5) -> pa.Table:
    """One row for each step, in order; rollouts without a step last.

    Args:
        index: of a log.
        threshold: rewards of at least this count as right.

    Returns:
        ``step``, ``rollouts``, ``groups``; ``reward_mean`` and quantiles; ``tokens_mean`` and
        ``tokens_median`` of the responses, ``chars_mean`` where only text is known;
        ``judged_groups``: groups of at least two rollouts that all have a reward, and of these
        the shares ``all_right``, ``all_wrong``, ``mixed``, and ``flat`` (one reward only: GRPO's
        advantage is 0); ``log_ratio``, ``mismatch_kl``, ``entropy`` in nats.
    """
    groups = prompts(index, threshold=threshold)
    rows = []
    for step, where in _parts(index["step"]):
        part = {name: _column(index, name)[where] for name in _NUMBERS}
        inside = groups.filter(_equal(groups["step"], step))
        row: dict[str, Any] = {"step": step, "rollouts": len(where), "groups": inside.num_rows}
        rewards = part["reward"][~np.isnan(part["reward"])]
        row["reward_mean"] = _or_none(rewards.mean()) if rewards.size else None
        for name, q in _QUANTILES.items():
            row[name] = float(np.quantile(rewards, q)) if rewards.size else None
        tokens, chars = (_known(part[n]) for n in ("response_tokens", "response_chars"))
        row["tokens_mean"] = float(tokens.mean()) if tokens.size else None
        row["tokens_median"] = float(np.median(tokens)) if tokens.size else None
        row["chars_mean"] = float(chars.mean()) if chars.size else None
        row |= _shares(inside, threshold)
        for name in _TOKEN_MEANS:
            row[name] = _weighted(part[name], part["trained_tokens"])
        rows.append(row)
    return pa.Table.from_pylist(rows, schema=STEPS)


def prompts(index: pa.Table, *, threshold: float = 0.5) -> pa.Table:
    """One row for each prompt within a step, in the order of their first rollout.

    Returns:
        ``step``, ``group``, ``first`` (number of its first rollout in the index), ``rollouts``,
        ``rewarded`` (with a reward), ``reward_mean``, ``reward_min``, ``reward_max``,
        ``variance`` (of the rewards; population), ``right`` (share of at least ``threshold``),
        ``tokens_mean``, ``length_reward`` (Pearson correlation of response length and reward;
        characters where no tokens are known), ``log_ratio``, ``mismatch_kl``, ``entropy``.
    """
    if not index.num_rows:
        return PROMPTS.empty_table()
    _, first, code = np.unique(group_codes(index), return_index=True, return_inverse=True)
    count = len(first)
    reward, tokens = _column(index, "reward"), _column(index, "response_tokens")
    there = ~np.isnan(reward)
    number = np.bincount(code[there], minlength=count)
    mean = _mean(code, reward, there, count)
    spread = _mean(code, (reward - mean[code]) ** 2, there, count)
    low, high = np.full(count, np.inf), np.full(count, -np.inf)
    np.minimum.at(low, code[there], reward[there])
    np.maximum.at(high, code[there], reward[there])
    length = np.where(np.isnan(tokens), _column(index, "response_chars"), tokens)
    columns: dict[str, Any] = {
        "step": index["step"].combine_chunks().take(pa.array(first)),
        "group": index["group"].combine_chunks().take(pa.array(first)),
        "first": first,
        "rollouts": np.bincount(code, minlength=count),
        "rewarded": number,
        "reward_mean": mean,
        "reward_min": np.where(number > 0, low, np.nan),
        "reward_max": np.where(number > 0, high, np.nan),
        # Sums of equal rewards leave rounding behind; one reward has no variance at all.
        "variance": np.where(number > 0, np.where(low == high, 0.0, spread), np.nan),
        "right": _mean(code, (reward >= threshold).astype(float), there, count),
        "tokens_mean": _mean(code, tokens, ~np.isnan(tokens), count),
        "length_reward": _correlation(code, length, reward, count),
    }
    weight = _column(index, "trained_tokens")
    for name in _TOKEN_MEANS:
        found = _column(index, name)
        known = ~np.isnan(found) & (weight > 0)
        total = np.bincount(code[known], weight[known], count)
        summed = np.bincount(code[known], (weight * found)[known], count)
        columns[name] = np.divide(summed, total, np.full(count, np.nan), where=total > 0)
    order = np.argsort(first, kind="stable")
    made = pa.table({name: _array(c, PROMPTS.field(name).type) for name, c in columns.items()})
    return made.take(pa.array(order)).cast(PROMPTS)


def interesting(found: pa.Table, by: By = "variance", count: int = 20) -> pa.Table:
    """The prompts to look at first.

    Args:
        found: of :func:`prompts`.
        by: ``variance`` of the rewards, ``best`` or ``worst`` mean reward, ``length_reward``
            (strongest correlation of either sign), ``mismatch_kl``, ``entropy``.
        count: rows at most. Prompts for which the number is undefined are left out.

    Raises:
        UserError: for another ``by``.
    """
    column = {"best": "reward_mean", "worst": "reward_mean"}.get(by, by)
    if column not in ("reward_mean", "variance", "length_reward", "mismatch_kl", "entropy"):
        raise UserError(f"Prompts cannot be sorted by {by!r}: use variance, best or worst.")
    keys = found[column].to_numpy(zero_copy_only=False).astype(float)
    keys = np.abs(keys) if by == "length_reward" else keys
    order = np.argsort(keys if by == "worst" else -keys, kind="stable")
    order = order[~np.isnan(keys[order])][:count]
    return found.take(pa.array(order, pa.int64()))


def across_steps(index: pa.Table, group: str, *, threshold: float = 0.5) -> pa.Table:
    """One prompt over the steps: its rows of :func:`prompts`, by step."""
    mine = index.filter(pc.equal(index["group"], group))
    return prompts(mine, threshold=threshold).sort_by("step")


_NUMBERS = ("reward", "response_tokens", "response_chars", "trained_tokens", *_TOKEN_MEANS)
PROMPTS = pa.schema(
    [
        ("step", pa.int64()),
        ("group", pa.string()),
        *((n, pa.int64()) for n in ("first", "rollouts", "rewarded")),
        *((n, pa.float64()) for n in ("reward_mean", "reward_min", "reward_max", "variance")),
        *((n, pa.float64()) for n in ("right", "tokens_mean", "length_reward", *_TOKEN_MEANS)),
    ]
)
STEPS = pa.schema(
    [
        *((n, pa.int64()) for n in ("step", "rollouts", "groups")),
        *((n, pa.float64()) for n in ("reward_mean", *_QUANTILES)),
        *((n, pa.float64()) for n in ("tokens_mean", "tokens_median", "chars_mean")),
        ("judged_groups", pa.int64()),
        *((n, pa.float64()) for n in ("all_right", "all_wrong", "mixed", "flat", *_TOKEN_MEANS)),
    ]
)


def _shares(groups: pa.Table, threshold: float) -> dict[str, Any]:
    rewarded, rollouts, low, high = (
        groups[n].to_numpy(zero_copy_only=False)
        for n in ("rewarded", "rollouts", "reward_min", "reward_max")
    )
    judged = (rewarded == rollouts) & (rollouts >= 2)
    if not judged.any():
        return {"judged_groups": 0}
    low, high = low[judged], high[judged]
    right, wrong = low >= threshold, high < threshold
    return {
        "judged_groups": int(judged.sum()),
        "all_right": float(right.mean()),
        "all_wrong": float(wrong.mean()),
        "mixed": float((~right & ~wrong).mean()),
        "flat": float((low == high).mean()),
    }


def _correlation(code: Ints, x: Floats, y: Floats, count: int) -> Floats:
    """Pearson's, within each group of at least three pairs that vary in both."""
    there = ~np.isnan(x) & ~np.isnan(y)
    dx = np.where(there, x - _mean(code, x, there, count)[code], 0.0)
    dy = np.where(there, y - _mean(code, y, there, count)[code], 0.0)
    sums = [np.bincount(code, product, count) for product in (dx * dy, dx * dx, dy * dy)]
    enough = np.bincount(code[there], minlength=count) >= 3
    flat = [_flat(code[there], v[there], count) for v in (x, y)]
    defined = enough & ~flat[0] & ~flat[1] & (sums[1] * sums[2] > 0)
    root = np.sqrt(sums[1]) * np.sqrt(sums[2])
    return np.clip(np.divide(sums[0], root, np.full(count, np.nan), where=defined), -1.0, 1.0)


def _flat(code: Ints, values: Floats, count: int) -> Any:
    low, high = np.full(count, np.inf), np.full(count, -np.inf)
    np.minimum.at(low, code, values)
    np.maximum.at(high, code, values)
    return low >= high


def _mean(code: Ints, values: Floats, where: Any, count: int) -> Floats:
    number = np.bincount(code[where], minlength=count)
    total = np.bincount(code[where], values[where], count)
    return np.divide(total, number, np.full(count, np.nan), where=number > 0)


def _parts(column: pa.ChunkedArray) -> list[tuple[int | None, Ints]]:
    """Each value, sorted, with the rows that have it; null last."""
    missing = column.is_null().to_numpy()
    values = column.fill_null(0).to_numpy()
    known = np.flatnonzero(~missing)
    order = known[np.argsort(values[known], kind="stable")]
    steps, starts = np.unique(values[order], return_index=True)
    parts = np.split(order, starts[1:]) if len(steps) else []
    found: list[tuple[int | None, Ints]] = [(int(s), p) for s, p in zip(steps, parts, strict=True)]
    return [*found, (None, np.flatnonzero(missing))] if missing.any() else found


def _equal(column: pa.ChunkedArray, step: int | None) -> pa.ChunkedArray:
    return column.is_null() if step is None else pc.fill_null(pc.equal(column, step), False)


def _weighted(values: Floats, weight: Floats) -> float | None:
    known = ~np.isnan(values) & (weight > 0)
    return float(np.average(values[known], weights=weight[known])) if known.any() else None


def _column(index: pa.Table, name: str) -> Floats:
    return index[name].cast(pa.float64()).to_numpy(zero_copy_only=False)


def _known(values: Floats) -> Floats:
    return values[~np.isnan(values)]


def _or_none(value: Any) -> float | None:
    return float(value) if np.isfinite(value) else None


def _array(values: Any, kind: pa.DataType) -> pa.Array:
    if isinstance(values, pa.Array | pa.ChunkedArray):
        return values
    return pa.array(values, kind, from_pandas=True)
