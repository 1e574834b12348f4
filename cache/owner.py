"""The thread that owns the index: it takes in new results, and mends what it finds."""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import threading
import time
from collections.abc import Sequence

from cache.errors import DamagedError, NewerFormatError
from cache.eviction import evict, total_bytes
from cache.files import Layout, remove_stale
from cache.index import Index, UnavailableError
from cache.indexfile import open_index, remove_index
from cache.intake import Intake
from cache.locks import ProcessLock
from cache.shelf import remove_old_damaged

logger = logging.getLogger(__name__)
START_DELAY = 0.5  # seconds in which the first page is painted before DuckDB is imported
TICK = 1.0
LULL = 0.1
PATIENCE = 1.0
BATCH = 64
RETRY = 30.0
RECONCILE = 600.0
CLOSE_SECONDS = 2.0


class Owner:
    """Keeps the index in step with the files, in one background thread.

    What it is told is only *which* keys to look at: whether a result came, changed or went is read
    from the files, which are the truth. So nothing it misses is lost, and a rebuild is the same
    work as the daily one.

    Args:
        layout: The store's folder.
        max_bytes: The size above which old results are removed.
        lock: The owner's lock; while another process holds it, it is tried again on every tick.
    """

    def __init__(self, layout: Layout, max_bytes: int, lock: ProcessLock) -> None:
        self._layout = layout
        self._max_bytes = max_bytes
        self._lock = lock
        self._cond = threading.Condition()
        # Shared with other threads, under the condition.
        self._pending: dict[str, None] = {}
        self._passes = self._urgent = 0
        self._busy = self._stop = self._rebuild = self._wanted = False
        # Written by the thread, read by others.
        self._index: Index | None = None
        self._reconciled = False
        self._off: str | None = None
        # The thread's own.
        self._intake: Intake | None = None
        self._not_before = self._next_reconcile = self._noted = 0.0
        self._strikes = self._bytes = 0
        self._complaint = ""
        self._process = os.getpid()
        self._at_exit()
        self._thread = threading.Thread(target=self._run, name="cache-owner", daemon=True)
        self._thread.start()

    @property
    def owns(self) -> bool:
        """Whether this process is the owner."""
        return self._lock.held

    @property
    def state(self) -> str:
        """`ready`, `building`, `waiting` for another process to end, or why there is no index."""
        if self._off is not None:
            return self._off
        if not self._lock.held:
            return "waiting"
        return "ready" if self.ready_index() is not None else "building"

    def ready_index(self) -> Index | None:
        """Return the index when it is complete; otherwise have it made and return None."""
        if self._index is not None and self._reconciled:
            return self._index
        with self._cond:
            self._wanted = True
            self._cond.notify_all()
        return None

    def note(self, key: str, grown: int = 0) -> None:
        """Have a key looked at.

        Args:
            key: The key of a result, or empty.
            grown: By how much the folder grew through something that is no result.
        """
        with self._cond:
            self._bytes += grown
            if key:
                self._noted = time.monotonic()
                self._pending[key] = None
                if len(self._pending) == 1:
                    self._cond.notify_all()

    def rebuild(self) -> None:
        """Have the index made anew from the files."""
        with self._cond:
            self._rebuild = True
            self._reconciled = False
            self._cond.notify_all()

    def flush(self, timeout: float) -> bool:
        """Wait until all that lies in the folder now is indexed; False if it did not happen."""
        with self._cond:
            # A pass under way may have looked at the spool already: a whole one must follow it.
            target = self._passes + 1 + self._busy
            self._urgent += 1
            self._cond.notify_all()
            try:
                done = self._cond.wait_for(
                    lambda: self._stop or (self._passes >= target and self._settled()), timeout
                )
            finally:
                self._urgent -= 1
            return done and self._reconciled and not self._pending

    def close(self) -> None:
        """Take in what is waiting, as far as that is quick, and close the index."""
        atexit.unregister(self.close)
        if os.getpid() != self._process:
            return  # after a fork the thread is only in the parent
        with self._cond:
            self._stop = True
            self._cond.notify_all()
        self._thread.join(timeout=30.0)

    def _at_exit(self) -> None:
        """Have the index closed when the process ends without ``close``.

        What is registered last comes first, and DuckDB registers its own end when it is imported.
        """
        atexit.unregister(self.close)
        atexit.register(self.close)

    def _settled(self) -> bool:
        if self._off is not None or not self._lock.held:
            return not self._busy
        return self._reconciled and not (self._pending or self._busy or self._rebuild)

    # From here on: the thread.

    def _run(self) -> None:
        with self._cond:
            self._cond.wait_for(lambda: self._stop or self._urgent or self._wanted, START_DELAY)
        while not self._stop:
            with self._cond:
                self._busy = True
            self._guarded_pass()
            self._rest()
        deadline = time.monotonic() + CLOSE_SECONDS
        try:
            while self._index is not None and time.monotonic() < deadline and self._next_batch():
                pass
        except Exception as error:
            logger.warning("The index was closed early; it catches up next time: %s", error)
        finally:
            if self._index is not None:
                self._index.close()
            self._lock.release()

    def _rest(self) -> None:
        """Wait for work, then for a lull: until then the machine is the producers'."""
        with self._cond:
            self._busy = self._wanted = False
            self._passes += 1
            self._cond.notify_all()
            if self._urgent:
                self._cond.wait(0.01)
                return
            able = self._index is not None and time.monotonic() >= self._not_before
            self._cond.wait_for(
                lambda: self._stop or self._urgent or self._rebuild or (able and self._pending),
                TICK,
            )
            latest = time.monotonic() + PATIENCE
            while self._pending and not (self._stop or self._urgent):
                lull = min(self._noted + LULL, latest) - time.monotonic()
                if lull <= 0:
                    break
                self._cond.wait(lull)

    def _guarded_pass(self) -> None:
        try:
            self._one_pass()
        except NewerFormatError as error:
            self._off = str(error)
            logger.warning("%s It is left alone; the store works without an index.", error)
        except UnavailableError as error:
            if self._complaint != str(error):
                self._complaint = str(error)
                logger.warning("%s The store works without it and tries again.", error)
            self._wait_a_while()
        except DamagedError as error:
            self._strikes += 1
            logger.warning("%s It is made anew from the files.", error)
            self._shut(remove=self._strikes > 1)
        except Exception:
            logger.exception("The store's index met an unexpected error; the results are safe.")
            self._wait_a_while()

    def _wait_a_while(self) -> None:
        # Until it has caught up, lists are made from the files.
        self._reconciled = False
        self._not_before = time.monotonic() + RETRY

    def _one_pass(self) -> None:
        if time.monotonic() < self._not_before or not self._take_lock():
            return
        if self._rebuild:
            self._shut(remove=True)
            with self._cond:
                self._rebuild = False
        if self._off is None and self._index is None:
            self._index = open_index(self._layout)
            self._at_exit()
            self._intake = Intake(self._layout, self._index)
            self._tidy()
            self._reconcile(thorough=True)
        self._take_spool()
        if time.monotonic() >= self._next_reconcile:
            self._reconcile(thorough=False)
        # What comes meanwhile waits for the next pass, in which it shares a transaction.
        left = len(self._pending)
        while left > 0 and self._index is not None and not self._stop:
            left -= self._next_batch()
            if self._rebuild:
                return
        self._reconciled = self._index is not None and not self._rebuild
        if self._bytes > self._max_bytes:
            removed, self._bytes = evict(self._layout, self._max_bytes)
            for key in removed:
                self.note(key)

    def _take_lock(self) -> bool:
        try:
            return self._lock.try_acquire()
        except OSError as error:
            raise UnavailableError(f"The store's folder cannot be locked ({error}).") from error

    def _tidy(self) -> None:
        for folder in (self._layout.results, self._layout.samples):
            remove_stale(folder)
        remove_old_damaged(self._layout)

    def _reconcile(self, *, thorough: bool) -> None:
        """Find what came, changed or went while nobody told.

        Args:
            thorough: Whether partial results are read again, which another process may have
                replaced by ones of the same size.
        """
        self._next_reconcile = time.monotonic() + RECONCILE
        self._bytes = total_bytes(self._layout)
        if self._intake is not None:
            for key in self._intake.differing(thorough=thorough):
                self.note(key)

    def _take_spool(self) -> None:
        with contextlib.suppress(OSError):
            for path in list(self._layout.spool.iterdir()):
                # Removed before the key is looked at: a note that comes meanwhile is a new file.
                path.unlink()
                if self._index is not None and len(path.name) == 64:
                    self.note(path.name)

    def _next_batch(self) -> int:
        """Take one batch in; return how many keys it had."""
        with self._cond:
            keys = list(self._pending)[:BATCH]
            for key in keys:
                del self._pending[key]
        rest: Sequence[str] = keys
        try:
            if self._intake is not None:
                rest, grown = self._intake.take(keys)
                self.note("", grown)
        finally:
            with self._cond:
                self._pending = dict.fromkeys([*rest, *self._pending])
        return len(keys) - len(rest)

    def _shut(self, *, remove: bool) -> None:
        self._reconciled = False
        if self._index is not None:
            self._index.close()
        self._index = self._intake = None
        if remove:
            self._strikes = 0
            remove_index(self._layout)
