"""Captum's methods for language models. Runs in the peers' environment.

A job has ``model``, ``prompt`` and ``response`` as text, and ``empty``, the token that stands in
for what is taken away. Scores are of log-probabilities, and of the prompt without its first token.
"""

from collections.abc import Callable
from typing import Any

import torch
from captum.attr import (
    FeatureAblation,
    KernelShap,
    Lime,
    LLMAttribution,
    ShapleyValues,
    ShapleyValueSampling,
    TextTokenInput,
)
from transformers import AutoModelForCausalLM, AutoTokenizer

_METHODS = {
    "occlusion": FeatureAblation,
    "shapley_sampling": ShapleyValueSampling,
    "shapley": ShapleyValues,
    "lime": Lime,
    "kernel_shap": KernelShap,
}


def perturbation(job: dict[str, Any]) -> Callable[[], Any]:
    """Scores [targets, tokens], or [1, tokens] of their sum, of ``method`` with ``settings``."""
    tokenizer = AutoTokenizer.from_pretrained(job["model"])
    network = AutoModelForCausalLM.from_pretrained(job["model"]).eval()
    wrapped = LLMAttribution(_METHODS[job["method"]](network), tokenizer)
    given = TextTokenInput(
        job["prompt"], tokenizer, baselines=job.get("empty", "_"), skip_tokens=["<bos>"]
    )
    target = torch.tensor(tokenizer.encode(job["response"], add_special_tokens=False))

    def work() -> Any:
        with torch.no_grad():
            out = wrapped.attribute(
                given,
                target=target,
                use_cached_outputs=job.get("cached", True),
                **job.get("settings", {}),
            )
        return out.seq_attr[None] if out.token_attr is None else out.token_attr

    return work
