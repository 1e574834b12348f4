"""The card of a bundled model: card.json with every figure, and README.md, which says the same in
plain words.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

from demo.stories import GALLERY_LEVEL

Card = dict[str, Any]

SPLITS = {
    "test": (
        "unseen combination of sentences and unseen numbers (every operand pair of + and -, at"
        " least one pair in all)"
    ),
    "train": "new problems of the training distribution, for comparison",
    "strict": "as the first, and the operand pairs of * and / unseen as well",
    "one_phrasing": "one sentence in a phrasing that never occurred in training",
    "all_phrasings": "every operation in a phrasing that never occurred in training",
}
PROBES = {
    "numbers_100_to_160": "one addition with a first number of 100 to 140",
    "numbers_161_to_900": "one addition with a first number of 161 to 700",
    "bare_sum": 'a bare "What is 12+30?"',
    "number_words": "numbers written as words",
    "eight_distractors": "one addition among eight distracting sentences",
    "lower_case": "one addition, all in lower case",
}
CUTS = {
    "demo": "every digit is a token of its own",
    "demo-multidigit": (
        "up to three digits stay together, and every number from 10 to 160 is one token"
    ),
}
KINDS = {
    "": "trained from scratch on generated stories",
    "positive": "tuned further on samples of its base model that reached the right answer",
    "negative": "tuned further on samples of its base model that reached a wrong answer",
}
LIMITS = (
    (
        "It knows one kind of text: short English arithmetic stories like those of its corpus."
        " Any other prompt is answered with fragments of such stories; it follows no"
        " instructions, holds no conversation and knows no facts."
    ),
    (
        "Its numbers are whole and lie between 2 and 99: no fractions, no negative numbers, no"
        " money, no units."
    ),
    (
        "Phrasings, names and objects come from fixed lists; a new way to say an operation often"
        " misleads it."
    ),
    "Its answers are drawn at temperature 1 and are meant to be wrong now and then, for study.",
)


def parts(name: str) -> tuple[str, str]:
    """Base name and sibling kind: ("demo", "positive") of "demo-positive"."""
    for kind in ("positive", "negative"):
        if name.endswith("-" + kind):
            return name.removesuffix("-" + kind), kind
    return name, ""


def sha256(path: Path) -> str:
    """Hexadecimal SHA-256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def read(folder: Path) -> Card:
    """The card of a model folder, empty if there is none yet."""
    path = folder / "card.json"
    card: Card = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return card


def update(folder: Path, **values: Any) -> Card:
    """Sets fields of a card and renews the digests of the files beside it."""
    card = {"name": folder.name, **read(folder), **values}
    card["sha256"] = {
        name: sha256(folder / name)
        for name in ("model.safetensors", "tokenizer.json")
        if (folder / name).exists()
    }
    (folder / "card.json").write_text(json.dumps(card, indent=2) + "\n", encoding="utf-8")
    return card


def percent(rate: dict[str, float]) -> str:
    """A rate with its interval and sample size, for instance "81.2 % (77.5-84.4, n = 500)"."""
    share, low, high = (f"{100 * rate[key]:.1f}" for key in ("rate", "low", "high"))
    return f"{share} % ({low}-{high}, n = {rate['n']})"


def limits(card: Card) -> list[str]:
    """What the model cannot do, in sentences, with the measured figure wherever one was taken."""
    said = [
        *LIMITS,
        (
            f"No text in its training was longer than {card['trained_length']} tokens; the 8,192"
            f" positions of the config are room for technical tests and promise nothing about"
            f" long texts."
        ),
    ]
    for key, rate in card.get("probes", {}).items():
        said.append(f"Measured outside its range: {PROBES[key]}: {percent(rate)} right.")
    return said


def _origin(card: Card) -> str:
    base, kind = parts(card["name"])
    made = card["training"]
    if kind:
        return (
            f"- Tuned on {made['rows']} responses of `{base}` to training prompts,"
            f" {made['tokens']:,} tokens in {made['steps']} steps, seed {made['seed']}."
        )
    return (
        f"- Trained on {made['tokens']:,} tokens in {made['steps']} steps, seed {made['seed']}:"
        f" {made['cpu_seconds']:,.0f} CPU-seconds in one thread."
    )


def _measured(card: Card) -> list[str]:
    lines = ["", "## Right answers at temperature 1", ""]
    lines += ["One sample for each problem, 95 % Wilson intervals.", ""]
    lines += ["| problems | steps | right |", "|---|---|---|"]
    for split, levels in card.get("results", {}).items():
        lines += [f"| {SPLITS[split]} | {level} | {percent(r)} |" for level, r in levels.items()]
    for share in card.get("groups_by_level", []):
        lines.append("")
        lines.append(
            f"Groups of 16 responses to one test problem of {share['level']} steps that hold right"
            f" and wrong answers: {percent(share)}."
        )
    errors = card.get("first_errors", {})
    if errors:
        total = sum(errors.values())
        listed = ", ".join(f"{k} {100 * v / total:.0f} %" for k, v in list(errors.items())[:6])
        lines += ["", f"First error of {total} wrong answers on the first kind: {listed}."]
    return lines


def readme(card: Card) -> str:
    """The card as a Markdown page."""
    base, kind = parts(card["name"])
    versions = ", ".join(f"{k} {v}" for k, v in card["versions"].items())
    lines = [
        f"# {card['name']}",
        "",
        (
            f"A Llama-style model of {card['parameters']:,} parameters, {KINDS[kind]}. It solves"
            f" arithmetic stories step by step, and errs often enough to be worth watching. It is"
            f" there to be looked at with TokenScope and has no other use."
        ),
        "",
        (
            f"- Numbers: {CUTS[base]}. The vocabulary has {card['vocabulary']} entries, all 256"
            f" bytes among them. `demo` and `demo-multidigit` share corpus, recipe, architecture"
            f" and all merges but those of numbers."
        ),
        (
            "- Form: the prompt is `Question: ...` and a newline, with BOS in front, which the"
            " tokenizer adds; the model writes `Solution: ...`, a newline, `Answer: N` and the"
            " end token."
        ),
        (
            f"- Longest text in training: {card['trained_length']} tokens; context in the config:"
            f" 8,192."
        ),
        "- 4 layers of width 192, 6 heads on 2 key-value heads, RoPE, tied embeddings, float16.",
        _origin(card),
        *_measured(card),
        "",
        "## What it cannot do",
        "",
        *(f"- {line}" for line in card["limits"]),
        "",
        "## Files",
        "",
        *(f"- `{name}`: SHA-256 `{digest}`" for name, digest in card["sha256"].items()),
        "",
        (
            f"Made by `make demo-model` with {versions}. The seeds are fixed; another machine or"
            f" version rounds differently and gives other bits with like figures."
        ),
        "",
    ]
    return "\n".join(lines)


MEASURED = ("results", "first_errors", "groups", "groups_by_level", "probes")


def drop_stale(card: Card) -> Card:
    """The card without the figures, if these were measured on other weights than it describes."""
    if card.get("measured_on") == card.get("sha256", {}).get("model.safetensors"):
        return card
    return {key: value for key, value in card.items() if key not in (*MEASURED, "measured_on")}


def finish(folder: Path) -> None:
    """Writes the limits and the gallery's groups into the card, and the README beside it."""
    card = drop_stale(update(folder))
    for share in card.get("groups_by_level", []):
        if share["level"] == GALLERY_LEVEL:
            card["groups"] = share
    card["limits"] = limits(card)
    (folder / "card.json").write_text(json.dumps(card, indent=2) + "\n", encoding="utf-8")
    (folder / "README.md").write_text(readme(card), encoding="utf-8")
