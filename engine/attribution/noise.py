"""Random numbers of a version that do not depend on how many versions are read together."""

from __future__ import annotations

import hashlib

import numpy as np


def generator(seed: int, what: str, number: int) -> np.random.Generator:
    """Random numbers of version ``number``: one Philox stream for each purpose and seed."""
    name = f"tokenscope.attribution/1 {what} {seed}".encode()
    key = np.frombuffer(hashlib.sha256(name).digest()[:16], "<u8")
    return np.random.Generator(np.random.Philox(key=key, counter=[0, 0, number, 0]))
