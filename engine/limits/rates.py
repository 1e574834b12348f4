"""Who asks, and how often they may: a bucket of computations for each visitor and each address."""

from __future__ import annotations

import ipaddress
import math
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from engine.errors import UserError

_KEPT = 4096


@dataclass(frozen=True, slots=True)
class Visitor:
    """Somebody at a browser.

    Attributes:
        session: one browser tab; it is cheap to open another.
        address: where they come from, None when that is not known.
    """

    session: str
    address: str | None = None

    @property
    def origin(self) -> str | None:
        """What the address says about who it is: an IPv6 network counts as one.

        None for private addresses: behind a proxy everybody has the proxy's.
        """
        try:
            parsed = ipaddress.ip_address(self.address or "")
        except ValueError:
            return None
        if isinstance(parsed, ipaddress.IPv6Address) and parsed.ipv4_mapped is not None:
            parsed = parsed.ipv4_mapped
        if not parsed.is_global:
            return None
        if isinstance(parsed, ipaddress.IPv6Address):
            return str(ipaddress.ip_network((parsed, 64), strict=False))
        return str(parsed)


class Buckets:
    """One bucket for each name, filled steadily; not thread-safe.

    Args:
        rate: how many are put in per minute; a bucket holds as many.
    """

    def __init__(self, rate: float) -> None:
        self._second = rate / 60
        self._size = max(rate, 1.0)
        self._levels: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def wait(self, name: str, now: float) -> float:
        """Seconds until there is one to take; 0 when there is."""
        level = self._level(name, now)
        return 0.0 if level >= 1 else (1 - level) / self._second

    def take(self, name: str, now: float) -> None:
        """Take one."""
        self._levels[name] = (self._level(name, now) - 1, now)
        self._levels.move_to_end(name)
        if len(self._levels) > _KEPT:
            # Of those that are full again nothing need be known; else the oldest is forgotten.
            full = [n for n in self._levels if self._level(n, now) >= self._size]
            for each in full or [next(iter(self._levels))]:
                del self._levels[each]

    def _level(self, name: str, now: float) -> float:
        level, then = self._levels.get(name, (self._size, now))
        return min(self._size, level + (now - then) * self._second)


class Limiter:
    """How often computations may be started; None is no limit.

    Args:
        visitor_rate: per minute, for each visitor.
        address_rate: per minute, for each address: sessions are cheap to open.
        clock: seconds from anywhere.
    """

    def __init__(
        self,
        visitor_rate: float | None = None,
        address_rate: float | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._visitors = None if visitor_rate is None else Buckets(visitor_rate)
        self._addresses = None if address_rate is None else Buckets(address_rate)

    def admit(self, visitor: Visitor) -> None:
        """Count one computation of this visitor.

        Raises:
            UserError: There were too many; this one is not counted.
        """
        with self._lock:
            now = self._clock()
            asked: list[tuple[Buckets, str]] = []
            if self._visitors is not None:
                asked.append((self._visitors, visitor.session))
            origin = visitor.origin
            if self._addresses is not None and origin is not None:
                asked.append((self._addresses, origin))
            wait = max((buckets.wait(name, now) for buckets, name in asked), default=0.0)
            if wait > 0:
                seconds = math.ceil(wait)
                unit = "second" if seconds == 1 else "seconds"
                raise UserError(
                    "Too many computations were started in a short time: wait "
                    f"{seconds} {unit}, then ask again."
                )
            for buckets, name in asked:
                buckets.take(name, now)
