"""What an installation allows: everything on one's own machine, little where strangers come.

``TOKENSCOPE_PROFILE=hosted`` turns the limits on; each can be set by a variable of its own
(docs/hosting.md). They are enforced here in the engine, so that no page can forget them.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from engine.errors import UserError
from engine.modelref import ModelRef, shown

BUNDLED: dict[str, str] = {
    "demo": "Solves short word problems, one token per digit",
    "demo-positive": "demo, tuned further on its own right solutions",
    "demo-negative": "demo, tuned further on its own wrong solutions",
    "demo-multidigit": "Solves short word problems, numbers are multi-digit tokens",
    "demo-multidigit-positive": "demo-multidigit, tuned further on its own right solutions",
    "demo-multidigit-negative": "demo-multidigit, tuned further on its own wrong solutions",
}
"""Names and one-line descriptions of the models that come with TokenScope."""


@dataclass(frozen=True)
class Profile:
    """What this installation allows; None means no limit.

    Attributes:
        name: ``local`` (one's own machine) or ``hosted`` (open to strangers).
        allowed: The only references allowed, written as ``str(ModelRef)`` does; None allows all.
        max_parameters: Larger models are refused.
        allow_folders: Whether folders and files may be named.
        allow_hub: Whether any hub id may be named; those in ``allowed`` always may.
        allow_code: Whether a checker may run what was typed as a program.
        max_tokens: Most tokens of one text, what is to be generated included.
        max_samples: Most samples a request may draw, over all its params that multiply work.
        max_new_tokens: Most tokens a sample may have.
        max_group: Most rollouts of a request.
        max_upload_bytes: Largest file a visitor may bring.
        deadline: Seconds a computation may run before what is finished is taken.
        running: Computations that take turns on the worker.
        queue: Visitors' computations that may wait for their turn.
        one_each: Whether a visitor has at most one computation running and one waiting.
        visitor_rate: Computations a visitor may start per minute.
        address_rate: Computations that may be started from one address per minute.
    """

    name: Literal["local", "hosted"] = "local"
    allowed: tuple[str, ...] | None = None
    max_parameters: int = 4_000_000_000
    allow_folders: bool = True
    allow_hub: bool = True
    allow_code: bool = True
    max_tokens: int | None = None
    max_samples: int | None = None
    max_new_tokens: int | None = None
    max_group: int | None = None
    max_upload_bytes: int = 25 << 20
    deadline: float | None = None
    running: int | None = None
    queue: int | None = None
    one_each: bool = False
    visitor_rate: float | None = None
    address_rate: float | None = None

    @classmethod
    def from_env(cls) -> Profile:
        """Read TOKENSCOPE_PROFILE, TOKENSCOPE_MODELS and one variable for each limit.

        TOKENSCOPE_MODELS lists, separated by commas, what the hosted profile allows beside the
        bundled models; hub ids with their commit (``org/name@sha``).

        Raises:
            UserError: A variable has a value that means nothing.
        """
        name = os.environ.get("TOKENSCOPE_PROFILE", "local") or "local"
        if name not in ("local", "hosted"):
            raise UserError(f"TOKENSCOPE_PROFILE is {shown(name)}: set it to local or hosted.")
        hosted = name == "hosted"
        limits: dict[str, Any] = {}
        for field, setting in SETTINGS.items():
            given = os.environ.get(setting.variable, "")
            if given:
                limits[field] = setting.read(given)
            elif hosted:
                limits[field] = setting.hosted
        if not hosted:
            return cls(**limits)
        extra = os.environ.get("TOKENSCOPE_MODELS", "").split(",")
        listed = tuple(str(ModelRef.parse(item)) for item in extra if item.strip())
        return cls(
            name="hosted",
            allowed=(*BUNDLED, *listed),
            allow_folders=False,
            allow_hub=False,
            allow_code=False,
            one_each=True,
            **limits,
        )


@dataclass(frozen=True, slots=True)
class Setting:
    """A limit that can be set from outside.

    Attributes:
        hosted: its value in the hosted profile.
        optional: whether ``none`` may be written for "no limit".
        whole: whether it counts things.
    """

    variable: str
    hosted: float
    optional: bool = True
    whole: bool = True

    def read(self, text: str) -> float | None:
        """The value of the variable's text.

        Raises:
            UserError: It is no positive number.
        """
        if self.optional and text.strip().lower() == "none":
            return None
        kind: Callable[[float], float] = int if self.whole else float
        try:
            value = kind(float(text))
        except (ValueError, OverflowError):
            value = math.nan
        if not 0 < value < math.inf:
            choice = ", or to none" if self.optional else ""
            raise UserError(
                f"{self.variable} is {shown(text)}: set it to a number such as "
                f"{self.hosted:.0f}{choice}."
            )
        return value


SETTINGS: dict[str, Setting] = {
    "max_parameters": Setting("TOKENSCOPE_MAX_PARAMETERS", 4_000_000_000, optional=False),
    "max_tokens": Setting("TOKENSCOPE_MAX_TOKENS", 2048),
    "max_samples": Setting("TOKENSCOPE_MAX_SAMPLES", 64),
    "max_new_tokens": Setting("TOKENSCOPE_MAX_NEW_TOKENS", 256),
    "max_group": Setting("TOKENSCOPE_MAX_GROUP", 32),
    "max_upload_bytes": Setting("TOKENSCOPE_MAX_UPLOAD_BYTES", 2 << 20, optional=False),
    "deadline": Setting("TOKENSCOPE_DEADLINE", 120, whole=False),
    "running": Setting("TOKENSCOPE_RUNNING", 2),
    "queue": Setting("TOKENSCOPE_QUEUE", 16),
    "visitor_rate": Setting("TOKENSCOPE_VISITOR_RATE", 20, whole=False),
    "address_rate": Setting("TOKENSCOPE_ADDRESS_RATE", 60, whole=False),
}
"""By field of ``Profile``: the variable that sets it and its value in the hosted profile."""
