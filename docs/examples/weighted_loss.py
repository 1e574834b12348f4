"""Train one step with per-token weights from TokenScope.

The file comes from the rewards page, or from the command line::

    python -m engine run reward.weights --model demo --rollouts rollouts.jsonl \\
        --set recipe=thr --table weights --out weights.parquet

and then::

    python docs/examples/weighted_loss.py weights.parquet --model demo/models/demo

Without a file the weights of an example group of the bundled model are computed first. Needs no
network. ``load`` and ``weighted_loss`` need only pyarrow, numpy and torch: copy them.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch

ROOT = Path(__file__).resolve().parents[2]
BUNDLED = ROOT / "demo" / "models" / "demo"


@dataclass
class Sequence:
    """One rollout: ids, and per token the weight, the advantage and whether the loss counts it."""

    ids: torch.Tensor
    weight: torch.Tensor
    advantage: torch.Tensor
    mask: torch.Tensor


def load(path: str | Path) -> tuple[dict[str, Any], list[Sequence]]:
    """The recipe (provenance: params, model, digests) and the rollouts of a weights file."""
    table = pq.read_table(path)
    provenance = json.loads(table.schema.metadata[b"tokenscope"])["provenance"]
    frame = table.sort_by([("rollout", "ascending"), ("position", "ascending")])
    columns = {name: frame[name].to_numpy() for name in ("rollout", "token_id", "mask")}
    # A token without a weight is outside the loss: its 0 is never looked at.
    for name in ("weight", "advantage"):
        columns[name] = np.nan_to_num(frame[name].to_numpy().astype(np.float64))
    starts = np.flatnonzero(np.diff(columns["rollout"], prepend=-1))
    sequences = []
    for rows in np.split(np.arange(len(frame)), starts[1:]):
        sequences.append(
            Sequence(
                ids=torch.tensor(columns["token_id"][rows], dtype=torch.long),
                weight=torch.tensor(columns["weight"][rows], dtype=torch.float32),
                advantage=torch.tensor(columns["advantage"][rows], dtype=torch.float32),
                mask=torch.tensor(columns["mask"][rows].astype(bool)),
            )
        )
    return provenance, sequences


def logprobs(model: torch.nn.Module, ids: torch.Tensor) -> torch.Tensor:
    """Log-probability of every token but the first, [T − 1]: row t − 1 predicts token t."""
    logits = model(input_ids=ids[None]).logits[0, :-1].float()
    return logits.log_softmax(-1).gather(-1, ids[1:, None])[:, 0]


def weighted_loss(
    model: torch.nn.Module,
    sequences: list[Sequence],
    old: list[torch.Tensor] | None = None,
    clip: float = 0.2,
) -> torch.Tensor:
    """−Σ mask · min(ratio · wA, clip(ratio) · wA) / Σ mask: GRPO's loss, averaged over tokens.

    Args:
        old: log-probabilities when the rollouts were drawn; without them this is the first step,
            and every ratio is 1.
    """
    total = torch.zeros(())
    count = 0
    for index, one in enumerate(sequences):
        if not one.mask.any():
            continue
        now = logprobs(model, one.ids)
        ratio = (now - (now.detach() if old is None else old[index])).exp()
        gain = (one.weight * one.advantage)[1:]
        objective = torch.minimum(ratio * gain, ratio.clamp(1 - clip, 1 + clip) * gain)
        kept = one.mask[1:]
        total = total - objective[kept].sum()
        count += int(kept.sum())
    return total / max(1, count)


def gains(model: torch.nn.Module, sequences: list[Sequence]) -> dict[str, float]:
    """Mean log-probability of rollouts with positive and with negative advantage."""
    sums: dict[str, list[float]] = {"raised": [], "lowered": []}
    with torch.no_grad():
        for one in sequences:
            if one.mask.any():
                side = "raised" if one.advantage[one.mask].sum() > 0 else "lowered"
                kept = one.mask[1:]
                sums[side].append(float(logprobs(model, one.ids)[kept].mean()))
    return {side: sum(values) / len(values) for side, values in sums.items() if values}


def step(model: torch.nn.Module, sequences: list[Sequence], rate: float) -> float:
    """One step of plain gradient descent; returns the loss before it."""
    model.requires_grad_(True)
    optimizer = torch.optim.SGD(model.parameters(), lr=rate)
    loss = weighted_loss(model, sequences)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return float(loss.detach())


def example_file(folder: Path) -> Path:
    """Weights of the bundled group by Token Hidden Reward (forking tokens where it is missing)."""
    sys.path.insert(0, str(ROOT))
    from engine import Request, analyses, export_file, gallery, run

    group = next(item.group for item in gallery() if item.group is not None)
    recipe = "thr" if "reward.thr" in analyses() else "forking"
    (result,) = run(Request("reward.weights", group, "demo", {"recipe": recipe}))
    path = folder / "weights.parquet"
    export_file(result, "weights", path)
    return path


def main(argv: list[str] | None = None) -> int:
    """Load a file, take one step, say what changed."""
    parser = argparse.ArgumentParser(description="One training step with TokenScope's weights.")
    parser.add_argument("weights", nargs="?", help="a Parquet file of reward.weights")
    parser.add_argument("--model", default=str(BUNDLED), help="a folder with the same tokenizer")
    parser.add_argument("--rate", type=float, default=0.01, help="of the step")
    arguments = parser.parse_args(argv)
    from transformers import AutoModelForCausalLM

    path = Path(arguments.weights) if arguments.weights else example_file(Path.cwd())
    provenance, sequences = load(path)
    params = provenance["params"]
    kept = sum(int(one.mask.sum()) for one in sequences)
    print(f"{path.name}: recipe {params['recipe']}, {len(sequences)} rollouts, {kept} tokens")
    model = AutoModelForCausalLM.from_pretrained(arguments.model, dtype=torch.float32)
    before = gains(model, sequences)
    loss = step(model, sequences, arguments.rate)
    after = gains(model, sequences)
    print(f"loss {loss:.4f}")
    for side, value in before.items():
        print(f"{side}: mean log p of a token {value:.4f} -> {after[side]:.4f}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
