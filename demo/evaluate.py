"""Measures a bundled model at temperature 1: accuracy by split and steps, mixed groups, and where
it ends.
"""

import itertools
import math
import random
from collections import Counter
from collections.abc import Iterable

from tokenizers import Tokenizer
from transformers import LlamaForCausalLM

from demo import phrases, stories
from demo.sampling import sample
from demo.verify import answer_of, verify

GROUP = 16
SEED = 3

# Split -> levels. "train" is new problems of the training distribution: the figure to compare
# "test" with.
FULL: dict[str, tuple[int, ...]] = {
    "test": (1, 2, 3, 4, 5, 6),
    "train": (2,),
    "strict": (2, 4),
    "one_phrasing": (2, 4),
    "all_phrasings": (2, 4),
}
BRIEF: dict[str, tuple[int, ...]] = {"test": (2, 4)}

Rate = dict[str, float]


def rate(correct: int, n: int, z: float = 1.959964) -> Rate:
    """Share of right answers with the 95 % Wilson interval."""
    p = correct / n
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    return {
        "n": n,
        "correct": correct,
        "rate": round(p, 4),
        "low": round(max(0.0, centre - half), 4),
        "high": round(min(1.0, centre + half), 4),
    }


def accuracy(
    model: LlamaForCausalLM, tokenizer: Tokenizer, split: str, steps: int, n: int
) -> tuple[Rate, Counter[str]]:
    """One sample for each of n problems; the kinds of the first error of every wrong answer
    besides.
    """
    problems = list(itertools.islice(stories.problems(f"evaluation:{SEED}", split, steps), n))
    responses = sample(
        model, tokenizer, [p.prompt for p in problems], SEED + steps, limit=40 * steps + 40
    )
    correct = 0
    errors: Counter[str] = Counter()
    for problem, response in zip(problems, responses, strict=True):
        verdict = verify(problem, response.text)
        if verdict.correct and response.finished:
            correct += 1
        elif verdict.step_errors:
            first = verdict.step_errors[0]
            op = problem.steps[first.step].op if first.kind == "arithmetic" else ""
            errors[f"{first.kind} {op}".strip()] += 1
        else:
            errors["no answer"] += 1
    return rate(correct, n), errors


def groups(model: LlamaForCausalLM, tokenizer: Tokenizer, steps: int, n: int) -> Rate:
    """Share of groups of 16 responses to one test prompt that hold right and wrong answers."""
    problems = list(itertools.islice(stories.problems(f"groups:{SEED}", "test", steps), n))
    prompts = [p.prompt for p in problems for _ in range(GROUP)]
    responses = sample(model, tokenizer, prompts, SEED + 100 + steps, limit=40 * steps + 40)
    mixed, right = 0, 0
    for i, problem in enumerate(problems):
        mine = responses[i * GROUP : (i + 1) * GROUP]
        hits = sum(r.finished and answer_of(r.text) == problem.answer for r in mine)
        mixed += 0 < hits < GROUP
        right += hits
    share = rate(mixed, n)
    return {
        "level": steps,
        "n": n,
        "mixed": mixed,
        "rate": share["rate"],
        "low": share["low"],
        "high": share["high"],
        "mean_accuracy": round(right / (n * GROUP), 4),
    }


def _frame(question: str) -> str:
    return stories.PROMPT_HEAD + question + stories.PROMPT_TAIL


_WORDS = [
    "zero",
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
    "eleven",
    "twelve",
]


def probes(n: int = 200) -> dict[str, list[tuple[str, int]]]:
    """Prompts just outside of what the model was trained on, with their answers."""
    rng = random.Random("demo-probes")
    found: dict[str, list[tuple[str, int]]] = {
        "numbers_100_to_160": [],
        "numbers_161_to_900": [],
        "bare_sum": [],
        "number_words": [],
        "eight_distractors": [],
        "lower_case": [],
    }
    ask = "How many {o} does {N} have now?"
    for _ in range(n):
        words = stories.fields(rng)
        for key, a, b in (
            ("numbers_100_to_160", rng.randint(100, 140), rng.randint(2, 20)),
            ("numbers_161_to_900", rng.randint(161, 700), rng.randint(20, 200)),
        ):
            text = "{N} has " + str(a) + " {o}. {N} finds " + str(b) + " more {o} in the {p}. "
            found[key].append((_frame((text + ask).format(**words)), a + b))
        a, b = rng.randint(2, 60), rng.randint(2, 39)
        found["bare_sum"].append((_frame(f"What is {a}+{b}?"), a + b))
        a, b = rng.randint(2, 12), rng.randint(2, 12)
        text = (
            "{N} has " + _WORDS[a] + " {o}. {N} finds " + _WORDS[b] + " more {o} in the {p}. " + ask
        )
        found["number_words"].append((_frame(text.format(**words)), a + b))
        a, b = rng.randint(12, 60), rng.randint(2, 39)
        crowd = [
            t.format(
                **words,
                F=rng.choice([f for f in phrases.NAMES if f != words["N"]]),
                x=rng.randint(2, 60),
            )
            for t in rng.sample(list(phrases.DISTRACTORS.values()), 8)
        ]
        text = (
            f"{words['N']} has {a} {words['o']}. {' '.join(crowd[:4])} {words['N']} finds {b} more "
        )
        text += f"{words['o']} in the {words['p']}. {' '.join(crowd[4:])} {ask.format(**words)}"
        found["eight_distractors"].append((_frame(stories.article(text)), a + b))
        text = "{N} has " + str(a) + " {o}. {N} finds " + str(b) + " more {o} in the {p}. " + ask
        found["lower_case"].append((_frame(text.format(**words).lower()), a + b))
    return found


def probe(model: LlamaForCausalLM, tokenizer: Tokenizer, cases: Iterable[tuple[str, int]]) -> Rate:
    """Share of right answers on prompts with known answers."""
    listed = list(cases)
    responses = sample(model, tokenizer, [p for p, _ in listed], SEED + 900, limit=120)
    hits = sum(
        r.finished and answer_of(r.text) == answer
        for r, (_, answer) in zip(responses, listed, strict=True)
    )
    return rate(hits, len(listed))
