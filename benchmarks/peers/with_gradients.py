"""Captum's gradient methods for language models. Runs in the peers' environment.

A job has ``model``, ``prompt`` and ``response`` as text, and ``empty``, the token at which paths
begin. Scores are of log-probabilities and of the prompt's tokens without the first.
"""

from collections.abc import Callable
from typing import Any

import torch
from captum.attr import (
    LayerGradientXActivation,
    LayerIntegratedGradients,
    LLMGradientAttribution,
    TextTokenInput,
)
from transformers import AutoModelForCausalLM, AutoTokenizer

_METHODS = {
    "input_x_gradient": LayerGradientXActivation,
    "integrated_gradients": LayerIntegratedGradients,
}


def captum(job: dict[str, Any]) -> Callable[[], Any]:
    """Scores [targets, tokens] of ``method`` with ``settings``."""
    tokenizer = AutoTokenizer.from_pretrained(job["model"])
    network = AutoModelForCausalLM.from_pretrained(job["model"]).eval()
    method = _METHODS[job["method"]](network, network.get_input_embeddings())
    wrapped = LLMGradientAttribution(method, tokenizer)
    given = TextTokenInput(
        job["prompt"], tokenizer, baselines=job.get("empty", "_"), skip_tokens=["<bos>"]
    )
    target = torch.tensor(tokenizer.encode(job["response"], add_special_tokens=False))

    def work() -> Any:
        return wrapped.attribute(given, target=target, **job.get("settings", {})).token_attr

    return work
