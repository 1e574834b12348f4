"""Small groups of rollouts for the tests of the reward signals."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForCausalLM

from engine.encode import encode_text
from engine.records import open_rollouts, write_rollouts
from engine.result import Request, Result
from engine.running import run
from engine.subjects import Group, Rollouts, Text, Trace
from engine.workspace import Workspace
from tests.engine.tiny import VOCABULARY

RESPONSES = ("Answer: 7", "Answer: 8, so", "well.\nAnswer: 7", "Answer: 9")
REWARDS = (1.0, 0.0, 1.0, 0.0)


def traces(workspace: Workspace, model: str, responses: Sequence[str] = RESPONSES) -> list[Trace]:
    tokenizer = workspace.plan_model(model).tokenizer
    return [encode_text(Text(prompt="What is 3+4?\n", response=r), tokenizer) for r in responses]


def group_of(
    workspace: Workspace,
    model: str,
    rewards: Sequence[float | None] = REWARDS,
    responses: Sequence[str] = RESPONSES,
    **fields: Any,
) -> Group:
    return Group(
        rollouts=tuple(traces(workspace, model, responses)),
        rewards=tuple(rewards),
        **{"prompt_id": "sum", **fields},
    )


def file_of(path: Path, *groups: Group) -> Rollouts:
    write_rollouts(path, groups)
    return open_rollouts(path)


def compute(workspace: Workspace, name: str, subject, model=None, **params: Any) -> Result:
    return run(Request(name, subject, model, params), workspace=workspace)[0]


def column(result: Result, name: str, table: str | None = None) -> np.ndarray:
    values = result.table(table)[name].to_pylist()
    return np.array([np.nan if v is None else v for v in values], dtype=np.float64)


def response_rows(subject: Group) -> np.ndarray:
    """Which rows of a per-token table are of responses."""
    return np.concatenate([np.arange(len(t)) >= t.response_start for t in subject.rollouts])


def logits64(folder: str, ids: Sequence[int]) -> np.ndarray:
    """Float64 logits of a model, [T, V] over real ids; row t predicts token t + 1."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64).eval()
    with torch.no_grad():
        return model(torch.tensor([list(ids)])).logits[0, :, :VOCABULARY].numpy()


def log_softmax(logits: np.ndarray) -> np.ndarray:
    shifted = logits - logits.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
