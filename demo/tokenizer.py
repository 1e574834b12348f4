"""The two byte-level BPE tokenizers: equal but for the way in which they cut numbers.

``demo`` cuts every digit singly. ``demo-multidigit`` has the same vocabulary and the same merges,
followed by one merge for every number from 10 to 160, so that each number of the corpus is one
token.
"""

import json
import random
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from demo import stories
from demo.chains import WIDE_VALUE

SPECIALS = ("<|pad|>", "<|bos|>", "<|end|>")
PAD, BOS, END = 0, 1, 2
VOCABULARY = 1280
LARGEST_NUMBER = 160

# A space before a number is a token of its own, so that a number looks the same in a sentence and
# in an equation.
_PATTERN = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+|\p{N}%s| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
CUTS = {"single": _PATTERN % "", "multi": _PATTERN % "{1,3}"}


def _assemble(model: models.BPE, cut: str) -> Tokenizer:
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(CUTS[cut]), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{SPECIALS[BOS]} $A",
        pair=f"{SPECIALS[BOS]} $A $B",
        special_tokens=[(SPECIALS[BOS], BOS)],
    )
    tokenizer.add_special_tokens(list(SPECIALS))
    return tokenizer


def corpus(documents: int = 15_000, seed: int = 1) -> Iterator[str]:
    """Texts from which the vocabulary is learned: problems of the training split, and 15 %
    prose.
    """
    rng = random.Random(f"demo-tokenizer:{seed}")
    for _ in range(documents):
        if rng.random() < 0.15:
            yield stories.prose(rng)
        else:
            yield stories.generate(rng, rng.choice(stories.LEVELS), largest=WIDE_VALUE).text


def train(texts: Iterable[str], vocabulary: int = VOCABULARY) -> Tokenizer:
    """Trains the tokenizer that cuts every digit singly; all 256 bytes are in its vocabulary."""
    tokenizer = _assemble(models.BPE(), "single")
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=list(SPECIALS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return _assemble(tokenizer.model, "single")


def with_numbers(tokenizer: Tokenizer) -> Tokenizer:
    """Copy of a single-digit tokenizer with merges for 10 to 160 and a pattern that keeps three
    digits together.
    """
    state: dict[str, Any] = json.loads(tokenizer.to_str())["model"]
    vocabulary: dict[str, int] = dict(state["vocab"])
    merges = [(left, right) for left, right in state["merges"]]
    for number in map(str, range(10, LARGEST_NUMBER + 1)):
        merges.append((number[:-1], number[-1]))
        vocabulary[number] = len(vocabulary)
    return _assemble(models.BPE(vocab=vocabulary, merges=merges), "multi")


def save(tokenizer: Tokenizer, folder: Path, context: int) -> None:
    """Writes tokenizer.json and the tokenizer_config.json by which AutoTokenizer finds it."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer.json").write_text(tokenizer.to_str(pretty=True) + "\n", encoding="utf-8")
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": SPECIALS[BOS],
        "eos_token": SPECIALS[END],
        "pad_token": SPECIALS[PAD],
        "add_bos_token": True,
        "clean_up_tokenization_spaces": False,
        "model_max_length": context,
        "padding_side": "left",
    }
    (folder / "tokenizer_config.json").write_text(
        json.dumps(config, indent=2) + "\n", encoding="utf-8"
    )


def load(folder: Path) -> Tokenizer:
    """Reads the tokenizer of a model folder."""
    return Tokenizer.from_file(str(folder / "tokenizer.json"))
