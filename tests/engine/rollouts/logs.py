"""Records of every format, written by hand after the documented schemas."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

BOS, END = 1, 2
"""Special tokens of the bundled tokenizer."""


def verl(**changes: Any) -> dict[str, Any]:
    record = {
        "input": "Question: 2+3=?\n",
        "output": " It is 5.\nAnswer: 5",
        "gts": "5",
        "score": 1.0,
        "step": 7,
        "acc": True,
        "pred": "5",
    }
    return {**record, **changes}


def trl(**changes: Any) -> dict[str, Any]:
    record = {
        "step": 7,
        "prompt": "Question: 2+3=?\n",
        "completion": " It is 5.\nAnswer: 5",
        "accuracy_reward": 1.0,
        "format_reward": 0.5,
        "advantage": 0.75,
    }
    return {**record, **changes}


def prime_rl(**changes: Any) -> dict[str, Any]:
    """Three tokens of prompt, then two drawn, one of the environment, one drawn."""
    record = {
        "schema_version": 1,
        "step": 9,
        "export_step": 7,
        "rank": 0,
        "micro_step": 0,
        "micro_sequence_idx": 0,
        "export_sequence_idx": 0,
        "run_id": None,
        "env_name": "arithmetic",
        "token_ids": [1, 326, 28, 315, 223, 16, 2],
        "position_ids": [0, 1, 2, 3, 4, 5, 6],
        "loss_mask": [False, False, False, True, True, False, True],
        "advantages": [0.0, 0.0, 0.0, 0.5, 0.5, 0.0, 0.5],
        "losses": [{}] * 7,
        "rewards": [1.0] * 7,
        "inference_logprobs": [0.0, 0.0, 0.0, -1.0, -2.0, 0.0, -0.5],
        "trainer_logprobs": [-7.15, -3.0, -2.5, -1.5, -1.5, -4.0, -0.5],
        "entropy": [7.15, 1.0, 2.0, 0.5, 0.25, 3.0, 0.75],
        "mismatch_kl": [None] * 7,
        "log_importance_ratio": [-7.15, -3.0, -2.5, -0.5, 0.5, -4.0, 0.0],
        "importance_ratio": [1.0] * 7,
        "prob_delta": [0.0] * 7,
        "is_masked": [False, False, False, True, False, False, False],
        "is_masked_high": [False] * 7,
        "is_masked_low": [False] * 7,
    }
    return {**record, **changes}


def board(**changes: Any) -> dict[str, Any]:
    """As in RLLoggingBoard's own example: the padding at the end has no values."""
    record = {
        "prompt": "Question: 2+3=?\n",
        "response": " It is 5.<|pad|>",
        "response_tokens": [" It", " is", " ", "5", ".", "<|pad|>"],
        "logprobs": [-0.5, -0.25, -0.125, -1.5, -2.0],
        "ref_logprobs": [-0.75, -0.25, -0.5, -1.0, -2.0],
        "values": [0.1, 0.2, 0.3, 0.4, 0.5],
        "token_rewards": [0.0, 0.0, 0.0, 0.0, 1.0],
        "reward": 1.0,
        "step": 7,
        "ground_truth": "5",
    }
    return {**record, **changes}


def chat_completion(**changes: Any) -> dict[str, Any]:
    def choice(index: int, text: str) -> dict[str, Any]:
        content = [
            {"token": t, "logprob": -0.5, "bytes": list(t.encode()), "top_logprobs": []}
            for t in text
        ]
        return {
            "index": index,
            "finish_reason": "stop",
            "message": {"role": "assistant", "content": text},
            "logprobs": {"content": content},
        }

    record = {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "model": "some-model",
        "choices": [choice(0, "5"), choice(1, "56")],
    }
    return {**record, **changes}


def write(path: Path, records: Iterable[Mapping[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path
