"""A tiny model over the tokens a, b, aa, ab, ba, aab, whose covers can all be written down."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM

from tests.engine.tiny import tiny_model

PIECES = ("<bos>", "a", "b", "aa", "ab", "ba", "aab", "<pad>", "<eos>")
MERGES = [["a", "a"], ["a", "b"], ["b", "a"], ["aa", "b"]]
BOS, PAD, EOS = 0, 7, 8
TEXT = range(1, 7)


def folder(path: Path) -> str:
    """Save the model and its tokenizer, which puts ``<bos>`` in front."""
    tiny_model("llama", vocab=len(PIECES), path=path)
    added = [
        {
            "id": i,
            "content": PIECES[i],
            "special": True,
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
        }
        for i in (BOS, PAD, EOS)
    ]
    around = [
        {"SpecialToken": {"id": "<bos>", "type_id": 0}},
        {"Sequence": {"id": "A", "type_id": 0}},
    ]
    tree = {
        "version": "1.0",
        "added_tokens": added,
        "normalizer": None,
        "pre_tokenizer": None,
        "post_processor": {
            "type": "TemplateProcessing",
            "single": around,
            "pair": around,
            "special_tokens": {"<bos>": {"id": "<bos>", "ids": [0], "tokens": ["<bos>"]}},
        },
        "decoder": {"type": "Fuse"},
        "model": {"type": "BPE", "vocab": {p: i for i, p in enumerate(PIECES)}, "merges": MERGES},
    }
    (path / "tokenizer.json").write_text(json.dumps(tree), "utf-8")
    return str(path)


class Oracle:
    """The model's own next-token distributions in float64, one forward for each prefix."""

    def __init__(self, path: str, real: int) -> None:
        self._model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float64).eval()
        self._real = real
        self._known: dict[tuple[int, ...], list[float]] = {}

    def after(self, ids: tuple[int, ...]) -> list[float]:
        """p(· | ids)."""
        if ids not in self._known:
            with torch.no_grad():
                logits = self._model(torch.tensor([ids])).logits[0, -1, : self._real]
            self._known[ids] = torch.softmax(logits, -1).tolist()
        return self._known[ids]

    def probability(self, context: tuple[int, ...], ids: tuple[int, ...]) -> float:
        """p(ids | context)."""
        p = 1.0
        for n, i in enumerate(ids):
            p *= self.after((*context, *ids[:n]))[i]
        return p
