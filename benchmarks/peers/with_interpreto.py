"""Interpreto's methods. Runs in the peers' environment.

A job has ``model``, ``prompt`` and ``response`` as text, and ``empty``, the token that stands in
for what is taken away. The response must begin with a space: interpreto puts one there otherwise.
"""

from collections.abc import Callable
from typing import Any

import interpreto
import torch
from interpreto.attributions import InferenceModes
from transformers import AutoModelForCausalLM, AutoTokenizer


def perturbation(job: dict[str, Any]) -> Callable[[], Any]:
    """Scores [targets, tokens of prompt and response] of log-probabilities by ``method``."""
    tokenizer = AutoTokenizer.from_pretrained(job["model"], mask_token=job.get("empty", "_"))
    network = AutoModelForCausalLM.from_pretrained(job["model"]).eval()
    explainer = getattr(interpreto, job["method"])(
        network,
        tokenizer,
        batch_size=job.get("batch", 64),
        granularity=interpreto.Granularity.ALL_TOKENS,
        inference_mode=InferenceModes.LOG_SOFTMAX,
        **job.get("settings", {}),
    )

    # As ids: text would be encoded with a BOS of its own, in the middle.
    target = torch.tensor([tokenizer.encode(job["response"], add_special_tokens=False)])

    def work() -> Any:
        return explainer(job["prompt"], targets=target)[0].attributions

    return work
