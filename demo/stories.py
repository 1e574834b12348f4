"""Generator of multi-step arithmetic stories that knows the true cause of every step.

A story is a chain: a first number, then one operation per step on the running result. All spans are
character offsets (start, end) in ``Problem.text``, the prompt followed by the response.
"""

import random
import re
from collections.abc import Iterator
from dataclasses import dataclass

from demo import chains
from demo import phrases as ph
from demo.chains import Chain, digest

Span = tuple[int, int]
Sentence = tuple[str, str, dict[str, int]]  # key, template, numbers

LEVELS = (1, 2, 3, 4, 5)
LEVEL_WEIGHTS = (0.10, 0.28, 0.28, 0.20, 0.14)
SPLITS = ("train", "test", "strict", "one_phrasing", "all_phrasings")
GALLERY_LEVEL = 4

PROMPT_HEAD = "Question: "
PROMPT_TAIL = "\n"
RESPONSE_HEAD = "Solution: "
ANSWER_HEAD = "\nAnswer: "

# Control characters stand for the numbers of a sentence until their places in the text are known.
_FIELDS = {"\0": "a", "\1": "b", "\2": "x"}
_NUMBER = re.compile("([\0\1\2])")


@dataclass(frozen=True)
class Operand:
    """A number that a result truly depends on.

    Attributes:
        value: the number.
        source: span where it stands first: in the question, or as the result of an earlier step.
        source_step: index of that earlier step, None if the source is in the question.
        copy: span where the equation repeats it.
    """

    value: int
    source: Span
    source_step: int | None
    copy: Span


@dataclass(frozen=True)
class Step:
    """One operation; ``operands`` are its causes in the order of the equation, ``span`` is that of
    the result.
    """

    op: str
    operands: tuple[Operand, Operand]
    result: int
    span: Span
    phrase: str


@dataclass(frozen=True)
class Problem:
    """A story with its solution. ``text`` is ``prompt + response``; the end token is not part of
    it.
    """

    prompt: str
    response: str
    answer: int
    answer_span: Span
    steps: tuple[Step, ...]
    phrases: tuple[str, ...]
    distractors: tuple[Span, ...]
    split: str

    @property
    def level(self) -> int:
        """Number of steps."""
        return len(self.steps)

    @property
    def text(self) -> str:
        """Prompt and response: the coordinates of all spans."""
        return self.prompt + self.response

    @property
    def question(self) -> str:
        """The story without the prompt's frame."""
        return self.prompt[len(PROMPT_HEAD) : -len(PROMPT_TAIL)]


def combination_held_out(keys: tuple[str, ...]) -> bool:
    """Whether this tuple of phrasings belongs to the 10 % of combinations that never occur in
    training.
    """
    return digest("combination:" + "|".join(keys)) % 10 == 0


def _plan(rng: random.Random, chain: Chain, split: str) -> list[Sentence]:
    """Chooses the phrasing of every sentence, the distractors and their places."""
    new = set(range(len(chain))) if split == "all_phrasings" else set()
    if split == "one_phrasing":
        new = {rng.randrange(len(chain))}
    body: list[Sentence] = []
    op, a, b, _ = chain[0]
    product = op == "*" and 0 not in new and rng.random() < 0.5
    if product:
        key, template = rng.choice(list(ph.PRODUCTS.items()))
        body.append((key, template, {"a": a, "b": b}))
    else:
        key, template = rng.choice(list(ph.STARTS.items()))
        body.append((key, template, {"a": a}))
    used: set[str] = set()
    for i, (op, _, b, _) in enumerate(chain):
        if i == 0 and product:
            continue
        source = ph.HELD_OUT[op] if i in new else ph.PHRASES[op]
        # A held-out phrasing may have to serve twice; every other sentence occurs once in a story.
        key, template = rng.choice(
            [kv for kv in source.items() if kv[0] not in used] or list(source.items())
        )
        used.add(key)
        body.append((key, template, {"b": b}))
    taken = {n for _, a, b, r in chain for n in (a, b, r)}
    for key, template in rng.sample(
        list(ph.DISTRACTORS.items()), rng.choices((0, 1, 2), (0.4, 0.45, 0.15))[0]
    ):
        x = rng.choice([n for n in range(2, 61) if n not in taken])
        taken.add(x)
        body.insert(rng.randint(1, len(body)), (key, template, {"x": x}))
    key, template = rng.choice(list(ph.QUESTIONS.items()))
    return [*body, (key, template, {})]


def article(text: str) -> str:
    """Turns "a envelope" into "an envelope"; the corpus has no word that needs more than the first
    letter.
    """
    for vowel in "aeiou":
        text = text.replace(f" a {vowel}", f" an {vowel}").replace(f"A {vowel}", f"An {vowel}")
    return text


def fields(rng: random.Random) -> dict[str, str]:
    """Draws the words of one story: person, setting, objects, container, day and month."""
    setting = rng.choice(ph.SETTINGS)
    (singular, plural), (_, other) = rng.sample(setting.objects, 2)
    return {
        "N": rng.choice(list(ph.NAMES)),
        "o": plural,
        "s": singular,
        "q": other,
        "c": setting.container,
        "cs": setting.containers,
        "p": setting.place,
        "h": setting.shop,
        "d": rng.choice(ph.DAYS),
        "m": rng.choice(ph.MONTHS),
    }


def _render(
    rng: random.Random,
    template: str,
    words: dict[str, str],
    friend: str,
    pronoun: bool,
    opener: bool,
) -> str:
    """Fills a template except for its numbers, which stay as the characters \\0 (a), \\1 (b) and
    \\2 (x).
    """
    if pronoun and template.startswith("{N} ") and template.count("{N}") == 1:
        template = template.replace("{N}", ph.NAMES[words["N"]], 1)
    if opener and template.startswith(("{N} ", "{F} ", "She ", "He ")):
        template = rng.choice(ph.OPENERS) + (
            template if template[0] == "{" else template[0].lower() + template[1:]
        )
    return article(template.format(**words, F=friend, a="\0", b="\1", x="\2"))


def _write(rng: random.Random, chain: Chain, plan: list[Sentence], split: str) -> Problem:
    words = fields(rng)
    friends = rng.sample([n for n in ph.NAMES if n != words["N"]], len(plan))
    text = PROMPT_HEAD
    start: Span = (0, 0)
    seconds: list[Span] = []
    distractors: list[Span] = []
    alone = False  # whether the sentence before spoke of the main person only
    for i, ((key, template, numbers), friend) in enumerate(zip(plan, friends, strict=True)):
        middle = 0 < i < len(plan) - 1
        sentence = _render(
            rng,
            template,
            words,
            friend,
            middle and alone and rng.random() < 0.4,
            middle and key not in ph.NO_OPENER and rng.random() < 0.25,
        )
        alone = "{F}" not in template and "{N}" in template
        if i:
            text += " "
        for piece in _NUMBER.split(sentence):
            if piece not in _FIELDS:
                text += piece
                continue
            value = str(numbers[_FIELDS[piece]])
            span = (len(text), len(text) + len(value))
            text += value
            if piece == "\0":
                start = span
            elif piece == "\1":
                seconds.append(span)
            else:
                distractors.append(span)
    prompt = text + PROMPT_TAIL
    text = prompt + RESPONSE_HEAD
    steps: list[Step] = []
    keys = [key for key, _, _ in plan if key[0] in "pabcd"]
    previous: str | None = None
    for i, (op, a, b, result) in enumerate(chain):
        template = rng.choice([t for t in ph.SOLUTIONS[op] if t != previous])
        previous = template
        head, tail = template.format(e="\0", N=words["N"], o=words["o"]).split("\0")
        at = len(text) + len(head) + bool(i)
        left = (at, at + len(str(a)))
        right = (left[1] + 1, left[1] + 1 + len(str(b)))
        span = (right[1] + 1, right[1] + 1 + len(str(result)))
        first = Operand(a, steps[-1].span, i - 1, left) if i else Operand(a, start, None, left)
        steps.append(Step(op, (first, Operand(b, seconds[i], None, right)), result, span, keys[i]))
        text += f"{' ' if i else ''}{head}{a}{op}{b}={result}{tail}"
    text += ANSWER_HEAD
    answer = chain[-1][3]
    return Problem(
        prompt,
        (text + str(answer))[len(prompt) :],
        answer,
        (len(text), len(text) + len(str(answer))),
        tuple(steps),
        tuple(key for key, _, _ in plan),
        tuple(distractors),
        split,
    )


def generate(
    rng: random.Random, steps: int, split: str = "train", largest: int = chains.MAX_VALUE
) -> Problem:
    """Draws one problem.

    Args:
        rng: source of randomness; the same state gives the same problem.
        steps: number of operations, 1 to 6.
        split: "train"; "test" (an unseen combination of sentences, every operand pair of + and -
            unseen, at least one unseen pair in all); "strict" (as "test", and the pairs of * and /
            are unseen as well); "one_phrasing" and "all_phrasings" (one sentence, or every one, in
            a phrasing held out of training, with operand pairs as in training).
    """
    if split not in SPLITS:
        raise ValueError(f"unknown split {split!r}; known: {', '.join(SPLITS)}")
    numbers = split if split in ("test", "strict") else "train"
    while True:
        chain = chains.draw(rng, steps, numbers, largest)
        if chain is None:
            continue
        for _ in range(60):
            plan = _plan(rng, chain, split)
            held = combination_held_out(tuple(key for key, _, _ in plan))
            if "phras" in split or held == (split != "train"):
                return _write(rng, chain, plan, split)


def problems(seed: int | str, split: str = "train", steps: int | None = None) -> Iterator[Problem]:
    """Endless stream of problems; problem i depends on (seed, split, steps, i) only."""
    index = 0
    while True:
        rng = random.Random(f"demo:{seed}:{split}:{steps}:{index}")
        yield generate(rng, steps or rng.choices(LEVELS, LEVEL_WEIGHTS)[0], split)
        index += 1


def gallery_problems(n: int, seed: int = 0) -> list[Problem]:
    """The first n problems of the gallery: test split, the gallery's level, short stories with one
    distractor.
    """
    stream = problems(f"gallery:{seed}", "test", GALLERY_LEVEL)
    chosen: list[Problem] = []
    while len(chosen) < n:
        problem = next(stream)
        if len(problem.distractors) == 1 and len(problem.prompt) < 420:
            chosen.append(problem)
    return chosen


def prose(rng: random.Random) -> str:
    """A few sentences without arithmetic, so that names, quotes and punctuation occur outside
    problems.
    """
    words = fields(rng)
    friend = rng.choice([n for n in ph.NAMES if n != words["N"]])
    chosen = rng.sample(ph.PROSE, rng.randint(4, 8))
    return "Story: " + article(" ".join(t.format(**words, F=friend) for t in chosen))
