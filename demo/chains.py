"""Chains of operations: the numbers of a problem, before any word of it is chosen."""

import hashlib
import random
from functools import cache

MAX_VALUE = 99
WIDE_VALUE = 160  # the first phase of training reaches further than the stories that are shown
WEIGHTS = (0.28, 0.28, 0.24, 0.20)  # of + - * /
Chain = list[tuple[str, int, int, int]]  # op, first operand, second operand, result of every step


def digest(key: str) -> int:
    """A number in [0, 2**64) that depends on the key alone, on every machine."""
    return int.from_bytes(hashlib.md5(key.encode(), usedforsecurity=False).digest()[:8], "big")


@cache
def pair_held_out(op: str, a: int, b: int) -> bool:
    """Whether the operand pair belongs to the 4 % that never occur in training, drills included."""
    return digest(f"pair:{a}{op}{b}") % 25 == 0


def compute(op: str, a: int, b: int) -> int:
    """Value of ``a op b`` for the exact operations of the corpus."""
    return {"+": a + b, "-": a - b, "*": a * b, "/": a // b}[op]


@cache
def _second_operands(op: str, a: int, largest: int) -> tuple[int, ...]:
    """All b for which ``a op b`` stays inside the corpus' range of numbers."""
    if op == "+":
        return tuple(range(2, min(99, largest - a) + 1))
    if op == "-":
        return tuple(range(2, min(99, a - 2) + 1))
    if op == "*":
        return tuple(b for b in range(2, 13) if a <= 12 and min(a, b) <= 9 and a * b <= largest)
    return tuple(
        b for b in range(2, 13) if a % b == 0 and 2 <= a // b <= 12 and min(b, a // b) <= 9
    )


@cache
def _first_operands(op: str, largest: int) -> tuple[int, ...]:
    if op == "+":
        return tuple(range(3, largest - 49))
    if op == "-":
        return tuple(range(8, largest + 1))
    if op == "*":
        return tuple(range(2, 13))
    products = {a * b for a in range(2, 10) for b in range(2, 13)}
    return tuple(sorted(p for p in products if p <= largest))


@cache
def _options(op: str, a: int, numbers: str, following: str, largest: int) -> tuple[int, ...]:
    """Second operands that the split allows and after which ``following`` is still possible."""
    options = _second_operands(op, a, largest)
    if numbers == "train":
        options = tuple(b for b in options if not pair_held_out(op, a, b))
    elif numbers == "strict" or op in "+-":
        options = tuple(b for b in options if pair_held_out(op, a, b))
    if following:
        options = tuple(
            b for b in options if _second_operands(following, compute(op, a, b), largest)
        )
    return options


def draw(
    rng: random.Random,
    steps: int,
    numbers: str,
    largest: int = MAX_VALUE,
    weights: tuple[float, ...] = WEIGHTS,
) -> Chain | None:
    """Draws the numbers of every step; None where the drawn operations cannot be continued.

    ``numbers`` says which operand pairs may occur: "train", "test" or "strict" (see ``stories``).
    """
    ops = rng.choices("+-*/", weights, k=steps)
    value = rng.choice(_first_operands(ops[0], largest))
    chain: Chain = []
    for op, following in zip(ops, [*ops[1:], ""], strict=True):
        options = _options(op, value, numbers, following, largest)
        if not options:
            return None
        b = rng.choice(options)
        chain.append((op, value, b, compute(op, value, b)))
        value = chain[-1][3]
    if numbers == "test" and not any(pair_held_out(op, a, b) for op, a, b, _ in chain):
        return None
    return chain


def drill(
    rng: random.Random,
    largest: int = MAX_VALUE,
    weights: tuple[float, ...] = WEIGHTS,
    facts: int = 14,
) -> str:
    """A line of bare arithmetic with operand pairs of the training split."""
    parts: list[str] = []
    while len(parts) < facts:
        chain = draw(rng, 1, "train", largest, weights)
        if chain is not None:
            op, a, b, result = chain[0]
            parts.append(f"{a}{op}{b}={result}.")
    return "Facts: " + " ".join(parts)
