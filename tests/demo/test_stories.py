"""The generator: true causes, disjoint splits, clean sentences."""

import itertools
import re

import pytest

from demo import chains, phrases, stories
from demo.chains import compute
from demo.stories import Problem, generate, problems


def draw(
    n: int, split: str = "train", seed: str = "test", steps: int | None = None
) -> list[Problem]:
    return list(itertools.islice(problems(seed, split, steps), n))


@pytest.fixture(scope="module")
def sample() -> list[Problem]:
    """2,000 problems of all splits."""
    return [p for split in stories.SPLITS for p in draw(400, split)]


def test_spans_are_the_numbers_they_claim(sample: list[Problem]) -> None:
    for p in sample:
        text = p.text
        for i, step in enumerate(p.steps):
            assert text[slice(*step.span)] == str(step.result)
            assert compute(step.op, *(o.value for o in step.operands)) == step.result
            left, right = step.operands
            for operand in step.operands:
                assert (
                    text[slice(*operand.source)] == text[slice(*operand.copy)] == str(operand.value)
                )
            assert (
                text[left.copy[0] : step.span[1]]
                == f"{left.value}{step.op}{right.value}={step.result}"
            )
            # The first operand of a later step is the result before it; all else stands in the
            # question.
            assert left.source_step == (i - 1 if i else None)
            assert left.source == (p.steps[i - 1].span if i else left.source)
            assert right.source_step is None
            assert right.source[1] < len(p.prompt)
        assert text[slice(*p.answer_span)] == str(p.answer) == str(p.steps[-1].result)


def test_every_number_of_a_question_is_a_cause_or_a_distractor(sample: list[Problem]) -> None:
    for p in sample:
        causes = {o.source for s in p.steps for o in s.operands if o.source_step is None}
        assert len(causes) == p.level + 1
        assert not causes & set(p.distractors)
        assert {m.span() for m in re.finditer(r"\d+", p.prompt)} == causes | set(p.distractors)
        # A distractor never has the value of a cause: the true source of a copied number is never
        # in doubt.
        values = {o.value for s in p.steps for o in s.operands}
        assert not values & {int(p.text[slice(*d)]) for d in p.distractors}


def test_numbers_stay_in_range(sample: list[Problem]) -> None:
    for p in sample:
        for step in p.steps:
            assert 2 <= step.result <= chains.MAX_VALUE
            if step.op == "/":
                assert step.operands[0].value == step.result * step.operands[1].value


def test_same_seed_same_problems() -> None:
    assert draw(50) == draw(50)
    assert draw(5, seed="a") != draw(5, seed="b")
    first = draw(1, seed="pinned")[0]
    assert first == draw(3, seed="pinned")[0]


def test_enough_phrasings_names_and_settings() -> None:
    for op in "+-*/":
        assert len(set(phrases.PHRASES[op].values())) >= 12
        assert len(phrases.HELD_OUT[op]) == 1
        assert len(phrases.SOLUTIONS[op]) >= 4
    assert len(phrases.NAMES) >= 12
    assert len(phrases.SETTINGS) >= 12
    tables = [phrases.STARTS, phrases.PRODUCTS, phrases.DISTRACTORS, phrases.QUESTIONS]
    tables += [*phrases.PHRASES.values(), *phrases.HELD_OUT.values()]
    keys = [k for table in tables for k in table]
    # "p1" is a product; the question keys begin with q, so no key serves twice.
    assert len(keys) == len(set(keys))


def test_every_phrasing_occurs() -> None:
    seen = {k for p in draw(3000) for k in p.phrases}
    for table in (
        phrases.STARTS,
        phrases.PRODUCTS,
        phrases.DISTRACTORS,
        phrases.QUESTIONS,
        *phrases.PHRASES.values(),
    ):
        assert set(table) <= seen


@pytest.mark.parametrize("count", [4_000, pytest.param(20_000, marks=pytest.mark.slow)])
def test_splits_are_disjoint(count: int) -> None:
    train = draw(count)
    combinations = {p.phrases for p in train}
    pairs = {(s.op, *(o.value for o in s.operands)) for p in train for s in p.steps}
    held_out = {k for table in phrases.HELD_OUT.values() for k in table}
    assert not held_out & {k for c in combinations for k in c}
    for split in ("test", "strict"):
        for p in draw(400, split):
            assert p.phrases not in combinations
            unseen = [(s.op, *(o.value for o in s.operands)) not in pairs for s in p.steps]
            assert any(unseen)
            if split == "strict":
                assert all(unseen)
            assert all(u for u, s in zip(unseen, p.steps, strict=True) if s.op in "+-")
    for split, wanted in (("one_phrasing", lambda p: 1), ("all_phrasings", lambda p: p.level)):
        for p in draw(300, split):
            assert sum(s.phrase in held_out for s in p.steps) == wanted(p)


def test_training_drills_keep_clear_of_held_out_pairs() -> None:
    import random

    rng = random.Random("drills")
    for _ in range(300):
        for a, op, b, c in re.findall(r"(\d+)([-+*/])(\d+)=(\d+)\.", chains.drill(rng)):
            assert not chains.pair_held_out(op, int(a), int(b))
            assert compute(op, int(a), int(b)) == int(c)


def test_text_is_clean(sample: list[Problem]) -> None:
    for p in sample:
        text = p.text
        assert "  " not in text
        assert "{" not in text
        assert text.isprintable() is False
        assert text.isascii()
        assert text.count("\n") == 2
        assert not re.search(r"\b[Aa] [aeiou]", text)
        assert not re.search(r"\ban [^aeiou]", text)
        assert not re.search(r"\b[01] [a-z]", text), "no singular and no zero before a plural"
        assert not re.search(r"[a-z]\.[A-Za-z]| [,.?!]", text)
        for sentence in re.split(r'(?<=[.?!]) (?=[A-Z"])', p.question):
            assert sentence[0].isupper() or sentence[0] == '"'
        if p.split not in ("all_phrasings",):
            sentences = re.split(r'(?<=[.?!"]) (?=[A-Z"])', p.question)
            assert len(sentences) == len(set(sentences))
            assert len(p.phrases) == len(set(p.phrases))


def test_distractors_tempt(sample: list[Problem]) -> None:
    """Of the stories with a distractor most have one about the very object that is counted."""
    same = {
        k
        for k, t in phrases.DISTRACTORS.items()
        if "{x} {o}" in t or "{x} more {o}" in t or "{x} lost {o}" in t
    }
    assert len(same) >= 8
    distracted = [p for p in sample if p.distractors]
    assert 0.5 < len(distracted) / len(sample) < 0.7
    assert sum(bool(same & set(p.phrases)) for p in distracted) > len(distracted) / 2


def test_gallery() -> None:
    shown = stories.gallery_problems(12)
    assert shown == stories.gallery_problems(12)
    assert {p.level for p in shown} == {stories.GALLERY_LEVEL}
    assert all(p.split == "test" and len(p.distractors) == 1 for p in shown)


def test_unknown_split_is_refused() -> None:
    import random

    with pytest.raises(ValueError, match="unknown split"):
        generate(random.Random(0), 2, "validation")
