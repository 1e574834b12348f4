"""One model under two prompts: ids to the letter, identities of the two papers, signs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from engine import cli, gallery
from engine.critical import pairs
from engine.critical.pairs import BASE, COLUMNS, Side, reward, weight
from engine.encode import encode_text, trace_from_ids
from engine.errors import UserError
from engine.limits.profile import Profile
from engine.result import Request, Result
from engine.running import run
from engine.subjects import Message, Text, Trace
from engine.workspace import Workspace
from tests.engine.tiny import BOS, CONTEXT, VOCABULARY, tiny_folder

PROMPT, RESPONSE = "2+3?\n", "It is 5."
BETTER = "{prompt}(5)\n"


@pytest.fixture
def trace(workspace: Workspace, llama: str) -> Trace:
    tokenizer = workspace.plan_model(llama).tokenizer
    return encode_text(Text(prompt=PROMPT, response=RESPONSE), tokenizer)


def prompted(workspace: Workspace, subject, model: str, **params) -> Result:
    return run(Request("critical.prompted", subject, model, params), workspace=workspace)[0]


def column(result: Result, name: str) -> np.ndarray:
    values = result.table("tokens")[name].to_pylist()
    return np.array([np.nan if v is None else v for v in values])


def distribution(folder: str, prompt: bytes, response: bytes = RESPONSE.encode()) -> np.ndarray:
    """Float64 log-probabilities of all ids at each response token, from bytes."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64).eval()
    ids = [BOS, *prompt, *response]
    with torch.no_grad():
        logs = model(torch.tensor([ids])).logits[0, :, :VOCABULARY].log_softmax(-1)
    return logs[len(prompt) : -1].numpy()


@pytest.mark.parametrize("family", ["gpt2", "gemma2"])
def test_by_brute_force(workspace: Workspace, family: str) -> None:
    folder = str(tiny_folder(family))
    text = Text(prompt=PROMPT, response=RESPONSE)
    result = prompted(workspace, text, folder, better=BETTER, beta=2, clip=1.5)
    better = distribution(folder, b"2+3?\n(5)\n")
    worse = distribution(folder, b"2+3?\n")
    ids = list(RESPONSE.encode())
    rows = np.arange(len(ids))
    start = 1 + len(PROMPT)
    p, q = better[rows, ids], worse[rows, ids]
    mixed = 3 * better - 2 * worse
    score = mixed[rows, ids] - np.log(np.exp(mixed).sum(-1))
    for name, wanted in {
        "positive_logprob": p,
        "negative_logprob": q,
        "log_ratio": p - q,
        "log_contrast": score,
        "contrast": np.exp(score),
        "reward": 1 / (1 + np.exp(q - p)) - 0.5,
        "weight": np.minimum(np.exp(p - q), 1.5),
        "logprob": q,
        "entropy": -(np.exp(worse) * worse).sum(-1),
    }.items():
        found = column(result, name)
        assert np.isnan(found[:start]).all(), name
        np.testing.assert_allclose(found[start:], wanted, atol=3e-4, err_msg=name)
        if name in ("log_ratio", "log_contrast", "positive_logprob", "entropy"):
            assert np.abs(found[start + 1 :] - wanted[:-1]).max() > 1e-2, "shifted by one"
    assert column(result, "weight").tolist().count(1.5) > 0
    notes = result.notes.to_pylist()
    assert [n["reason"] for n in notes] == ["only the response is compared: its prompts differ"]


def test_weights_average_one_over_the_whole_vocabulary(workspace: Workspace, llama: str) -> None:
    """InTRO: Σ p(v | x) w(v) = 1 over every id v that could stand in the next token's place."""
    model = workspace.load(workspace.plan_model(llama))
    response = b"It"
    better, worse = (BOS, *b"2+3?\n(5)\n", *response), (BOS, *b"2+3?\n", *response)
    sides = [Side(model, ids, len(ids) - 1) for ids in (better, worse)]
    found = [finished(pairs.compare(*sides, [token], 1.0)) for token in range(VOCABULARY)]
    ratio, q = (
        np.array([float(f[name][0]) for f in found]) for name in ("log_ratio", "negative_logprob")
    )
    assert np.exp(q).sum() == pytest.approx(1, abs=1e-5)
    assert np.exp(q) @ weight(ratio, 1e300) == pytest.approx(1, abs=1e-5)
    assert np.exp(q) @ weight(ratio, 1.5) < 0.99, "the identity does not survive the clip"


def finished(steps):
    while True:
        try:
            next(steps)
        except StopIteration as stop:
            return stop.value


def test_swapped_prompts_change_the_sign(workspace: Workspace, trace: Trace, llama: str) -> None:
    one = prompted(workspace, trace, llama, better=BETTER)
    other = prompted(workspace, trace, llama, worse=BETTER)
    start = trace.response_start
    for name in ("log_ratio", "reward"):
        np.testing.assert_array_equal(column(one, name)[start:], -column(other, name)[start:])
        assert np.abs(column(one, name)[start:]).min() > 0
    np.testing.assert_allclose(
        column(one, "weight")[start:] * column(other, "weight")[start:], 1, rtol=1e-6
    )
    np.testing.assert_array_equal(
        column(one, "positive_logprob")[start:], column(other, "negative_logprob")[start:]
    )


def test_reward_and_weight_at_their_ends() -> None:
    values = np.array([-1e4, -2.0, 0.0, 2.0, 1e4, np.nan])
    found = reward(values)
    np.testing.assert_allclose(
        found[:5], [-0.5, 1 / (1 + np.exp(2)) - 0.5, 0, 0.5 - 1 / (1 + np.exp(2)), 0.5]
    )
    np.testing.assert_allclose(weight(values, 200)[:5], [0, np.exp(-2), 1, np.exp(2), 200])
    assert np.isnan(found[5])
    assert np.isnan(weight(values, 200)[5])


def sides(monkeypatch: pytest.MonkeyPatch) -> list[tuple[tuple[int, ...], int]]:
    """Ids and first row of both sides of every comparison."""
    seen: list[tuple[tuple[int, ...], int]] = []
    real = pairs.compare

    def compare(positive, negative, targets, beta):
        seen.extend((tuple(side.ids), side.first) for side in (positive, negative))
        return (yield from real(positive, negative, targets, beta))

    monkeypatch.setattr("engine.critical.prompted.compare", compare)
    return seen


def test_the_ids_of_both_prompts(
    workspace: Workspace, trace: Trace, llama: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = sides(monkeypatch)
    prompted(workspace, trace, llama, better="Say {prompt} and {prompt}", worse="{0} {x}")
    response = tuple(RESPONSE.encode())
    better = (BOS, *b"Say 2+3?\n and 2+3?\n")
    worse = (BOS, *b"{0} {x}")
    assert seen == [(better + response, len(better) - 1), (worse + response, len(worse) - 1)]
    seen.clear()
    prompted(workspace, trace, llama, better="x")
    assert seen[1] == (trace.ids, trace.response_start - 1)


def test_the_prompt_itself_is_the_trace_s_own_to_the_id(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the tokenizer would cut its text otherwise, or put no BOS in front."""
    seen = sides(monkeypatch)
    tokenizer = workspace.plan_model("demo").tokenizer
    text = "Question: Ann has 12 pens.\n"
    encoded = tokenizer.encode(text, special=True).ids
    cut = tokenizer.encode("Question: Ann ha", special=True).ids
    cut += tokenizer.encode("s 12 pens.\n", special=False).ids
    assert tokenizer.decode_bytes(cut) == tokenizer.decode_bytes(encoded)
    assert cut != encoded
    answer = tokenizer.encode("Answer: 12", special=False).ids
    trace = trace_from_ids(cut + answer, tokenizer, response_start=len(cut))
    result = prompted(workspace, trace, "demo", better="{prompt}x")
    assert seen[1][0] == trace.ids
    new = tokenizer.encode(text + "x", special=True).ids
    assert seen[0][0] == new + answer
    reasons = result.notes["reason"].to_pylist()
    assert "with words added, the prompt is not cut into the same ids as before" in reasons
    assert prompted(workspace, trace, "demo", better=text).table("tokens").num_rows == len(trace)


def test_a_chat_s_special_tokens_do_not_come_twice(
    workspace: Workspace, llama: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its template wrote them into the text already."""
    seen = sides(monkeypatch)
    tokenizer = workspace.plan_model(llama).tokenizer
    monkeypatch.setattr(tokenizer, "chat_template", "<bos>{{ messages[0].content }}|")
    chat = Text(messages=(Message(role="user", content="2+3?"),))
    prompt = encode_text(chat, tokenizer)
    assert prompt.ids == (BOS, *b"2+3?|")
    assert not prompt.added
    trace = encode_text(Text(prompt="x", response="5"), tokenizer)
    trace = trace.evolve(
        ids=(*prompt.ids, *trace.ids[2:]),
        pieces=(*prompt.pieces, *trace.pieces[2:]),
        response_start=len(prompt),
        special=(0,),
        added=(),
        turns=(
            trace.turns[0].evolve(start=0, end=len(prompt)),
            trace.turns[-1].evolve(start=len(prompt), end=len(prompt) + 1),
        ),
        spans={},
    )
    prompted(workspace, trace, llama, better="{prompt}5")
    assert seen[0][0] == (BOS, *b"2+3?|5", ord("5"))
    assert seen[1][0] == trace.ids


def test_nothing_before_the_response(workspace: Workspace, llama: str) -> None:
    """A response without a prompt: its first token has a prediction on one side only."""
    tokenizer = workspace.plan_model(llama).tokenizer
    alone = trace_from_ids(tuple(b"abc"), tokenizer, response_start=0)
    result = prompted(workspace, alone, llama, better="Say it: ")
    for name in COLUMNS:
        assert np.isnan(column(result, name)).tolist() == [True, False, False], name
    (note,) = result.notes.to_pylist()
    assert (note["position"], note["reason"]) == (
        0,
        "nothing stands before it in one of the prompts",
    )
    with torch.no_grad():
        model = AutoModelForCausalLM.from_pretrained(llama, dtype=torch.float64).eval()
        logs = model(torch.tensor([list(b"abc")])).logits[0, :, :VOCABULARY].log_softmax(-1)
    assert column(result, "negative_logprob")[2] == pytest.approx(
        float(logs[1, ord("c")]), abs=1e-4
    )
    assert column(result, "positive_logprob")[2] == pytest.approx(
        distribution(llama, b"Say it: ", b"abc")[2, ord("c")], abs=1e-4
    )


def test_baselines_are_of_the_own_prompt(workspace: Workspace, trace: Trace, llama: str) -> None:
    result = prompted(workspace, trace, llama, better="x", worse="y")
    stats = run(Request("statistics", trace, llama), workspace=workspace)[0]
    start = trace.response_start
    for name in BASE:
        np.testing.assert_array_equal(column(result, name)[start:], column(stats, name)[start:])
        assert np.isnan(column(result, name)[:start]).all()


@pytest.mark.parametrize(
    ("params", "sentence"),
    [
        ({}, "better and worse are the same one: change one of them"),
        ({"better": "a", "worse": "a"}, "change one of them"),
        ({"better": "{prompt}", "worse": PROMPT}, "change one of them"),
        ({"better": "a" * 200 + "{prompt}" * 20}, "The prompt better and the response have 309 t"),
        ({"worse": "a" * 100_000}, "The prompt worse has 100,000 characters; .* cannot hold it"),
        ({"better": "a\ud800"}, "better holds half of a character"),
        ({"better": "x", "clip": 0}, "clip: Input should be greater than 0"),
        ({"better": "x", "beta": -1}, "beta: Input should be greater than or equal to 0"),
    ],
)
def test_bad_input_is_a_sentence(
    workspace: Workspace, trace: Trace, llama: str, params: dict, sentence: str
) -> None:
    with pytest.raises(UserError, match=sentence):
        prompted(workspace, trace, llama, **params)


def test_as_long_as_the_model_reads(workspace: Workspace, trace: Trace, llama: str) -> None:
    most = CONTEXT - 1 - len(RESPONSE)
    result = prompted(workspace, trace, llama, better="a" * most)
    assert not np.isnan(column(result, "contrast")[trace.response_start :]).any()
    with pytest.raises(UserError, match=f"have 257 tokens together; .* at most {CONTEXT}: shorten"):
        prompted(workspace, trace, llama, better="a" * (most + 1))


def test_a_hosted_limit_holds_for_both_prompts(tmp_path: Path) -> None:
    """The prompts are params, not the subject: no longer text slips in with them."""
    allowed = Profile(max_tokens=32)
    with Workspace(tmp_path / "hosted", profile=allowed) as hosted:
        text = Text(prompt="Question: 2+3?\n", response="Answer: 5")
        assert prompted(hosted, text, "demo", better="Answer five. {prompt}")
        with pytest.raises(UserError, match="at most 32: shorten the prompt"):
            prompted(hosted, text, "demo", better="{prompt}" * 5)


def test_a_response_is_needed(workspace: Workspace, llama: str) -> None:
    with pytest.raises(UserError, match="no response to compare"):
        prompted(workspace, Text(prompt="a"), llama, better="b")


def test_a_prompt_that_is_no_text(workspace: Workspace, llama: str) -> None:
    tokenizer = workspace.plan_model(llama).tokenizer
    trace = trace_from_ids((BOS, 0xC3, 65), tokenizer, response_start=2)
    with pytest.raises(UserError, match=r"no valid UTF-8 text: write .* without \{prompt\}"):
        prompted(workspace, trace, llama, better="{prompt}x")
    result = prompted(workspace, trace, llama, better="x")
    assert not np.isnan(column(result, "contrast")[2])


def test_the_answer_in_the_prompt_finds_the_mistake(workspace: Workspace) -> None:
    """A wrong story of the gallery, told with and without the right answer."""
    item = next(i for i in gallery() if i.culprit is not None)
    result = prompted(
        workspace, item.trace, item.model, better="Answer: " + str(item.expected) + "\n{prompt}"
    )
    values = column(result, "reward")[item.trace.response_start :]
    assert np.isfinite(values).all()
    assert np.abs(values).max() <= 0.5


def test_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, llama: str) -> None:
    monkeypatch.setenv("TOKENSCOPE_HOME", str(tmp_path / "home"))
    out = tmp_path / "x.csv"
    argv = ["run", "critical.prompted", "--model", llama, "--prompt", PROMPT, "--response", "5"]
    argv += ["--set", "better={prompt} 5", "--set", "clip=3", "--out", str(out), "--quiet"]
    assert cli.main(argv) == 0
    assert "reward" in out.read_text().splitlines()[0]
