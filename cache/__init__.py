"""The store: finished results as immutable files, with an index over them.

A result is kept under a key of 64 hexadecimal characters that says everything it depends on; the
store knows neither models nor analyses. Nothing here imports DuckDB or Arrow before it needs them.
"""

from cache.errors import StoreError
from cache.listing import Entry
from cache.results import RESULT_FORMAT, Stored, read_result, write_result
from cache.store import Store

__all__ = [
    "RESULT_FORMAT",
    "Entry",
    "Store",
    "StoreError",
    "Stored",
    "read_result",
    "write_result",
]
