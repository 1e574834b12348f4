"""A model whose next token depends on the last one alone, by a table set by hand.

All layers of a tiny Llama are silenced, so that a token's embedding reaches the head through the
norm only: a one-hot embedding of the token's state, and the table's logarithms as the head.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import torch

from tests.engine.tiny import VOCABULARY, tiny_model

NEVER = -60.0
"""Log-probability of what the table does not name."""


def markov_folder(path: Path, table: Mapping[int, Mapping[int, float]], other: int) -> str:
    """Save a model with ``p(next | last) = table[last][next]``; returns its folder.

    Args:
        path: where.
        table: a distribution over next ids for some ids; byte ids, ``<eos>`` included.
        other: ids without a row behave like this one.
    """
    model = tiny_model("llama")
    states = {token: state for state, token in enumerate(table)}
    size = model.config.hidden_size
    assert len(states) <= size
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "o_proj" in name or "down_proj" in name:
                weight.zero_()
            elif "norm" in name:
                weight.fill_(1.0)
        embedding = model.get_input_embeddings().weight
        embedding.zero_()
        for token in range(VOCABULARY):
            embedding[token, states[token if token in states else other]] = 1.0
        head = model.get_output_embeddings().weight
        head.fill_(0.0)
        # The norm makes a one-hot vector √size long.
        length = 1 / math.sqrt(1 / size + model.config.rms_norm_eps)
        for token, row in table.items():
            logs = torch.full((VOCABULARY,), NEVER)
            for following, probability in row.items():
                logs[following] = math.log(probability)
            head[:, states[token]] = logs / length
    model.save_pretrained(path)
    from tests.engine.tiny import save_tokenizer

    save_tokenizer(path)
    return str(path)
