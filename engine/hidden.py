"""The process's memory of last hidden states, so that later requests need no forward."""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

HIDDEN_BYTES = 256 * 2**20
"""Most bytes of hidden states kept by the process, over all models."""


class HiddenStore:
    """Hidden states by model and ids, the least recently used dropped first. Thread-safe."""

    def __init__(self, capacity: int = HIDDEN_BYTES) -> None:
        self.capacity = capacity
        self._kept: OrderedDict[tuple[int, tuple[int, ...]], Tensor] = OrderedDict()
        self._bytes = 0
        self._lock = threading.RLock()

    def get(self, key: tuple[int, tuple[int, ...]]) -> Tensor | None:
        """Return what is kept under ``key`` and mark it as used."""
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
            return self._kept.get(key)

    def put(self, key: tuple[int, tuple[int, ...]], hidden: Tensor) -> None:
        """Keep ``hidden`` unless it is larger than everything together may be."""
        with self._lock:
            if hidden.nbytes > self.capacity or key in self._kept:
                return
            self._kept[key] = hidden
            self._bytes += hidden.nbytes
            while self._bytes > self.capacity:
                self._bytes -= self._kept.popitem(last=False)[1].nbytes

    def drop(self, serial: int) -> None:
        """Forget everything of one model."""
        with self._lock:
            for key in [key for key in self._kept if key[0] == serial]:
                self._bytes -= self._kept.pop(key).nbytes


HIDDEN = HiddenStore()
"""The one store of this process."""
