"""Groups of an index: the rollouts of one prompt within one step."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from engine.rollouts.logged import Ints


def numbers_in_groups(table: pa.Table) -> Ints:
    """The number of each row within its step and group, in the order of the rows."""
    codes = group_codes(table)
    order = np.argsort(codes, kind="stable")
    ordered = codes[order]
    first = np.r_[True, ordered[1:] != ordered[:-1]] if len(ordered) else np.zeros(0, bool)
    starts = np.maximum.accumulate(np.where(first, np.arange(len(ordered)), 0))
    numbers = np.empty(len(codes), np.int64)
    numbers[order] = np.arange(len(ordered)) - starts
    return numbers


def group_codes(table: pa.Table) -> Ints:
    """A number for each row's step and group: equal for equal ones."""
    if not table.num_rows:
        return np.zeros(0, np.int64)
    parts = []
    for name in ("step", "group"):
        coded = table[name].combine_chunks().dictionary_encode(null_encoding="encode")
        parts.append(coded.indices.to_numpy(zero_copy_only=False).astype(np.int64))
    return parts[0] * (int(parts[1].max()) + 1) + parts[1]


def sorted_numbers(table: pa.Table) -> Ints:
    """All rows, those of one step and group together, in the order of their first one."""
    codes = group_codes(table)
    _, first, which = np.unique(codes, return_index=True, return_inverse=True)
    return np.argsort(first[which], kind="stable")
