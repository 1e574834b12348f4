"""Small questions about the letters of words and about numbers, made from a seed.

Counting and locating letters are the tasks of CharBench (Uzan and Pinter 2025), spelling,
reversing and comparing those of the character-level benchmarks SubTokenTest (Hou, Hu and Zhang
2026) sets out from. Wordings, answers offered and sizes are ours: the papers' data are not used.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

_WORDS = """
apple banana cherry pepper carrot butter bottle window garden summer winter letter number
paper pencil basket market kitchen station harbour village teacher student farmer marbles
stickers shells books boxes cards drawers screws brushes blueberry raspberry committee
different important strawberry beautiful president community education tomorrow yesterday
mountain elephant umbrella football sandwich airplane tree moon sun cat dog house river
stone bread queue rhythm zebra lynx
"""
WORDS = tuple(_WORDS.split())
"""Common words of different lengths, and words of the bundled models' stories (ours)."""

Task = Literal["count", "locate", "compare", "reverse", "spell", "add", "subtract"]
CHARACTER_TASKS: tuple[Task, ...] = ("count", "locate", "compare", "reverse", "spell")
NUMBER_TASKS: tuple[Task, ...] = ("add", "subtract")
CHOICES = 4
LONGEST = 9
"""Places are asked for as one digit, so that no answer is the beginning of another."""


@dataclass(frozen=True, slots=True)
class Puzzle:
    """One question.

    Attributes:
        task: its kind.
        prompt: what the model reads.
        options: answers offered, all of one length.
        answer: which of them is right.
        subjects: (first, after) characters of the prompt with the word or the numbers asked about.
        letter: character of the prompt that holds the letter asked about, if there is one.
        digits: of the larger number, for questions about numbers.
    """

    task: str
    prompt: str
    options: tuple[str, ...]
    answer: int
    subjects: tuple[tuple[int, int], ...]
    letter: int | None = None
    digits: int | None = None

    def after(self, shots: str) -> Puzzle:
        """The same question after some worked ones."""
        n = len(shots)
        moved = tuple((a + n, b + n) for a, b in self.subjects)
        letter = None if self.letter is None else self.letter + n
        return replace(self, prompt=shots + self.prompt, subjects=moved, letter=letter)


def _shuffled(
    rng: random.Random, right: str, wrong: Sequence[str]
) -> tuple[tuple[str, ...], int] | None:
    """The right answer among wrong ones, or None when there are too few."""
    others = sorted(set(wrong) - {right})
    if len(others) < CHOICES - 1:
        return None
    options = [right, *rng.sample(others, CHOICES - 1)]
    rng.shuffle(options)
    return tuple(options), options.index(right)


def _swaps(text: str) -> list[str]:
    return [text[:n] + text[n + 1] + text[n] + text[n + 2 :] for n in range(len(text) - 1)]


def _count(rng: random.Random, word: str) -> Puzzle | None:
    most = max(word.count(letter) for letter in word)
    wanted = rng.choice([1, most])
    letters = sorted({letter for letter in word if word.count(letter) == wanted})
    if wanted > CHOICES or not letters:
        return None
    letter = rng.choice(letters)
    head = f"How many times does the letter {letter} occur in the word "
    start = len(head)
    options = tuple(f" {n}" for n in range(1, CHOICES + 1))
    span = (start, start + len(word))
    return Puzzle(
        "count", f"{head}{word}? Answer:", options, wanted - 1, (span,), start + word.index(letter)
    )


def _locate(rng: random.Random, word: str) -> Puzzle | None:
    letters = [letter for letter in word if word.count(letter) == 1]
    if len(word) > LONGEST or not letters:
        return None
    letter = rng.choice(letters)
    at = word.index(letter)
    made = _shuffled(rng, f" {at + 1}", [f" {n}" for n in range(1, len(word) + 1)])
    if made is None:
        return None
    head = f"Counting from 1, at which place is the letter {letter} in the word "
    span = (len(head), len(head) + len(word))
    return Puzzle("locate", f"{head}{word}? Answer:", *made, (span,), len(head) + at)


def _compare(rng: random.Random, word: str, other: str) -> Puzzle | None:
    if len(word) == len(other):
        return None
    first, second = (word, other) if rng.random() < 0.5 else (other, word)
    head = "Which word has more letters, A: "
    middle = " or B: "
    a = (len(head), len(head) + len(first))
    b = (a[1] + len(middle), a[1] + len(middle) + len(second))
    prompt = f"{head}{first}{middle}{second}? Answer:"
    return Puzzle("compare", prompt, (" A", " B"), int(len(second) > len(first)), (a, b))


def _rewritten(
    task: str, tail: str, change: Callable[[str], str], rng: random.Random, word: str
) -> Puzzle | None:
    right = change(word)
    # Two letters change places: every answer has the same letters, so none is shorter.
    wrong = map(change, _swaps(word)) if task == "spell" else _swaps(right)
    made = _shuffled(rng, f" {right}", [f" {other}" for other in wrong])
    if made is None:
        return None
    head = "The word "
    span = (len(head), len(head) + len(word))
    return Puzzle(task, f"{head}{word} {tail}", *made, (span,))


def _character(task: str, rng: random.Random, words: Sequence[str]) -> Puzzle | None:
    word = rng.choice(words)
    if task == "count":
        return _count(rng, word)
    if task == "locate":
        return _locate(rng, word)
    if task == "compare":
        return _compare(rng, word, rng.choice(words))
    if task == "reverse":
        return _rewritten(task, "written backwards is", lambda w: w[::-1], rng, word)
    return _rewritten(task, "spelled letter by letter is", "-".join, rng, word)


def _number(task: str, rng: random.Random, digits: int, frame: str) -> Puzzle | None:
    low, high = (2 if digits == 1 else 10 ** (digits - 1)), 10**digits - 1
    a, b = rng.randint(low, high), rng.randint(2, high)
    if task == "subtract":
        a, b = max(a, b), min(a, b)
    result, sign = (a + b, "+") if task == "add" else (a - b, "-")
    if result < 1 or max(a, b) < low:
        return None
    right = str(result)
    near = [result + d for d in (-20, -11, -10, -9, -2, -1, 1, 2, 9, 10, 11, 20, 100, -100)]
    made = _shuffled(rng, right, [str(n) for n in near if n > 0 and len(str(n)) == len(right)])
    if made is None:
        return None
    prompt = frame.replace("{a}", str(a)).replace("{op}", sign).replace("{b}", str(b))
    start = prompt.rfind(f"{a}{sign}{b}")
    first = start if start >= 0 else prompt.find(str(a))
    second = prompt.find(str(b), first + len(str(a)))
    spans = ((first, first + len(str(a))), (second, second + len(str(b))))
    return Puzzle(task, prompt, *made, spans, None, digits)


def _many(
    make: Callable[[random.Random], Puzzle | None], seed: str, count: int
) -> Iterator[Puzzle]:
    """The first ``count`` different puzzles of a stream, or as many as 40 tries each give."""
    seen: set[str] = set()
    for n in range(count * 40):
        made = make(random.Random(f"{seed}:{n}"))  # noqa: S311 - a seeded stream
        if made is not None and made.prompt not in seen:
            seen.add(made.prompt)
            yield made
            if len(seen) == count:
                return


def character_puzzles(
    task: str, words: Sequence[str], count: int, shots: int, seed: int
) -> list[Puzzle]:
    """Questions about words, each after ``shots`` worked ones of its kind."""
    examples = list(_many(lambda rng: _character(task, rng, WORDS), f"shot:{seed}:{task}", shots))
    head = "".join(f"{e.prompt}{e.options[e.answer]}\n" for e in examples)
    told = {e.prompt for e in examples}
    made = _many(lambda rng: _character(task, rng, words), f"{seed}:{task}", count + len(told))
    return [puzzle.after(head) for puzzle in made if puzzle.prompt not in told][:count]


def number_puzzles(task: str, digits: int, count: int, frame: str, seed: int) -> list[Puzzle]:
    """Sums or differences, the larger number of ``digits`` digits."""
    return list(
        _many(lambda rng: _number(task, rng, digits, frame), f"{seed}:{task}:{digits}", count)
    )
