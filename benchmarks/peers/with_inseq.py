"""Inseq's methods. Runs in the peers' environment.

A job has ``model``, ``prompt`` and ``text`` (the prompt with its continuation), and ``empty``, the
token that stands in for what is taken away.
"""

from collections.abc import Callable
from typing import Any

import inseq
from transformers import AutoModelForCausalLM, AutoTokenizer


def attribution(job: dict[str, Any]) -> Callable[[], Any]:
    """Scores [targets, tokens of the whole text] of ``method``, with ``settings`` for it."""
    tokenizer = AutoTokenizer.from_pretrained(job["model"], unk_token=job.get("empty", "_"))
    network = AutoModelForCausalLM.from_pretrained(job["model"])
    model = inseq.load_model(network, job["method"], tokenizer=tokenizer, device="cpu")

    def work() -> Any:
        out = model.attribute(
            job["prompt"],
            job["text"],
            attributed_fn=job.get("explain", "probability"),
            show_progress=False,
            **job.get("settings", {}),
        )
        # [tokens, targets] or, before Inseq's own aggregation, [tokens, targets, width]
        return out.sequence_attributions[0].target_attributions.transpose(0, 1)

    return work


def occlusion(job: dict[str, Any]) -> Callable[[], Any]:
    """Occlusion: how far the value moves (its sign is dropped), [targets, tokens]."""
    return attribution({**job, "method": "occlusion"})
