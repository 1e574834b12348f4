"""The trainer: the loss falls, the schedule is a function of the step, a resumed run is the same
run.
"""

import itertools
import re
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer

from demo import chains, training
from demo import tokenizer as tokenization
from demo.stories import problems
from demo.training import Recipe

TINY = Recipe(steps=10, batch=2, warmup=4, decay_start=8, second_steps=0)


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return tokenization.train(tokenization.corpus(300), 500)


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def test_loss_falls(tokenizer: Tokenizer) -> None:
    model = training.initialise(tokenizer.get_vocab_size(), 1)
    batches = list(training.batches(tokenizer, TINY))
    with torch.no_grad():
        before = sum(float(training.loss(model, *b)[1]) for b in batches[:4]) / 4
    trained, meta = training.train(tokenizer, TINY)
    with torch.no_grad():
        after = sum(float(training.loss(trained, *b)[1]) for b in batches[:4]) / 4
    assert before > 5.5
    assert after < before - 2.5
    assert meta["tokens"] == sum(int((w > 0).sum()) for _, w in batches)


def test_resumed_run_is_the_same_run(
    tokenizer: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = training.config(tokenizer.get_vocab_size())
    full.update({"hidden_size": 24, "intermediate_size": 32, "num_hidden_layers": 1, "head_dim": 4})
    monkeypatch.setattr(training, "config", lambda _: full)
    recipe = Recipe(
        steps=4, batch=2, decay_start=2, second_steps=4, second_decay_start=2, checkpoint_every=3
    )
    whole, _ = training.train(tokenizer, recipe)
    path = tmp_path / "state.safetensors"

    class StopError(Exception):
        pass

    real = training._save_state

    def save_and_stop(*arguments: object) -> None:
        real(*arguments)  # type: ignore[arg-type]
        raise StopError

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "_save_state", save_and_stop)
        with pytest.raises(StopError):
            training.train(tokenizer, recipe, path)
    resumed, meta = training.train(tokenizer, recipe, path)
    assert meta["step"] == 8
    for (name, a), (_, b) in zip(whole.named_parameters(), resumed.named_parameters(), strict=True):
        torch.testing.assert_close(a, b, msg=name)


def test_rate_rises_stays_and_falls_in_both_phases() -> None:
    recipe = Recipe(
        steps=100,
        rate=1.0,
        warmup=10,
        decay_start=50,
        second_steps=40,
        second_rate=0.5,
        second_decay_start=20,
    )
    values = [training.rate(recipe, s) for s in range(recipe.total)]
    assert values[0] == 0.1
    assert values[9:50] == [1.0] * 41
    assert values[75] == pytest.approx(0.5)
    assert values[99] == recipe.final_rate
    assert values[109:120] == [0.5] * 11
    assert values[130] == pytest.approx(0.25)
    assert all(a >= b for a, b in itertools.pairwise(values[110:]))


def test_second_phase_is_mostly_sums_of_small_numbers(tokenizer: Tokenizer) -> None:
    recipe = Recipe(steps=0, second_steps=4)
    texts = [
        tokenizer.decode(row)
        for ids, _ in training.batches(tokenizer, recipe)
        for row in ids.tolist()
    ]
    drills = [t for t in texts if t.startswith("Facts:")]
    assert 0.5 < len(drills) / len(texts) < 0.8
    numbers = {int(n) for t in texts for n in re.findall(r"\d+", t)}
    assert max(numbers) <= chains.MAX_VALUE


def test_a_document_is_prompt_response_end(tokenizer: Tokenizer) -> None:
    p = next(problems("document"))
    ids, weights = training.encode(tokenizer, p)
    assert ids[0] == tokenization.BOS
    assert ids[-1] == tokenization.END
    assert tokenizer.decode(ids) == p.text
    assert sorted(weights) == weights
    assert set(weights) == {0.2, 1.0}
    response = ids[weights.index(1.0) :]
    assert tokenizer.decode(response) == p.response


@pytest.mark.slow
def test_smoke() -> None:
    from demo.build import main

    assert main(["demo", "--smoke"]) == 0
