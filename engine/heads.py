"""What a model does to its logits after the output matrix: soft-caps and scales.

``h`` is the input of the lm_head. Most models stop at ``W h + b``; Gemma 2 bounds the result with
tanh, Cohere multiplies and Granite divides it. Which step a model takes is not declared anywhere,
so the candidates its config suggests are tried against the model's own logits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor


@dataclass(frozen=True)
class HeadStep:
    """One operation on all logits, with the config setting it comes from."""

    kind: Literal["soft-cap", "multiply", "divide"]
    value: float
    setting: str

    def __str__(self) -> str:
        if self.kind == "soft-cap":
            return f"soft-caps its logits at {self.value:g} ({self.setting})"
        word = "multiplies" if self.kind == "multiply" else "divides"
        return f"{word} its logits by {self.value:g} ({self.setting})"


_SETTINGS: tuple[tuple[str, tuple[Literal["soft-cap", "multiply", "divide"], ...]], ...] = (
    ("final_logit_softcapping", ("soft-cap",)),
    ("logit_scale", ("multiply",)),
    ("logits_scaling", ("divide", "multiply")),
    ("lm_head_multiplier", ("multiply",)),
    ("output_multiplier", ("multiply",)),
)


def candidates(config: Any) -> list[tuple[HeadStep, ...]]:
    """Return the sequences of steps that ``config`` makes thinkable, none at all first."""
    sources = [config, config.get_text_config()]
    single: list[HeadStep] = []
    for setting, kinds in _SETTINGS:
        value = next((v for s in sources if (v := getattr(s, setting, None)) is not None), None)
        if isinstance(value, int | float) and value:
            single += [HeadStep(kind, float(value), setting) for kind in kinds]
    caps = [step for step in single if step.kind == "soft-cap"]
    scales = [step for step in single if step.kind != "soft-cap"]
    chains = [(scale, cap) for scale in scales for cap in caps]
    return [(), *((step,) for step in single), *chains]


def apply_steps(logits: Tensor, steps: Sequence[HeadStep]) -> Tensor:
    """Return ``logits`` after ``steps``, in their own dtype and order as the models do it."""
    for step in steps:
        if step.kind == "soft-cap":
            logits = torch.tanh(logits / step.value) * step.value
        elif step.kind == "multiply":
            logits = logits * step.value
        else:
            logits = logits / step.value
    return logits


def find_steps(raw: Tensor, wanted: Tensor, config: Any) -> tuple[HeadStep, ...] | None:
    """Return the steps that turn head outputs into the model's logits, None if none does.

    Args:
        raw: [n, V] outputs of the head itself.
        wanted: [n, V] the model's own logits for the same positions.
        config: The model's config.
    """
    tolerance = 1e-5 if raw.dtype == torch.float32 else 2e-2
    scale = 1.0 + float(wanted.float().abs().max())
    errors = [
        (float((apply_steps(raw, steps).float() - wanted.float()).abs().max()), index, steps)
        for index, steps in enumerate(candidates(config))
    ]
    error, _, best = min(errors)
    return best if error <= tolerance * scale else None
