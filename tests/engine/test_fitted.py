"""Pairs made for one prompt: what they are fitted to, by a loop written out, and nothing else."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from engine.critical import fitting
from engine.critical.fitting import Fitted, fit
from engine.critical.pairs import BASE, COLUMNS
from engine.encode import encode_text, trace_from_ids
from engine.errors import Cancelled, UserError
from engine.execute import execute
from engine.plan import make_plan
from engine.result import Request, Result
from engine.running import run
from engine.sampling.generation import Sampler
from engine.subjects import Text, Trace
from engine.workspace import Workspace
from tests.engine.tiny import EOS, FAMILIES, VOCABULARY, tiny_folder, tiny_ids, tiny_model

PROMPT = "Q?\n"
ASKED = {"answer": "7", "checker": "contains", "n": 24, "max_new_tokens": 4, "steps": 3}
RESPONSES = [(55, EOS), (55, 10, 56, EOS), (57, 57, EOS)]


@pytest.fixture(scope="module")
def seven(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A model that likes to say 7 or 8, and to stop."""
    path = tmp_path_factory.mktemp("models") / "seven"
    model = tiny_model("phi", path=path)
    with torch.no_grad():
        model.lm_head.weight *= 0.4
        for token, bias in ((EOS, 11), (ord("7"), 10), (ord("8"), 10)):
            model.lm_head.bias[token] += bias
    model.save_pretrained(path)
    return str(path)


@pytest.fixture
def trace(workspace: Workspace, seven: str) -> Trace:
    return written(workspace, seven, "8<eos>")


def written(workspace: Workspace, model: str, response: str) -> Trace:
    tokenizer = workspace.plan_model(model).tokenizer
    return encode_text(Text(prompt=PROMPT, response=response), tokenizer)


def fitted(workspace: Workspace, trace: Trace, model: str, **params) -> Result:
    request = Request("critical.fitted", trace, model, {**ASKED, **params})
    return run(request, workspace=workspace)[0]


def column(result: Result, name: str) -> np.ndarray:
    values = result.table("tokens")[name].to_pylist()
    return np.array([np.nan if v is None else v for v in values])


def samples(workspace: Workspace, trace: Trace, model: str) -> list:
    """What ``ASKED`` draws."""
    sampler = Sampler(max_new_tokens=ASKED["max_new_tokens"])
    prompt = trace.ids[: trace.response_start]
    return list(workspace.samples(workspace.plan_model(model), prompt, sampler, ASKED["n"]))[-1]


def drained(steps) -> Fitted:
    while True:
        try:
            next(steps)
        except StopIteration as stop:
            return stop.value


def by_hand(folder: str, prompt, responses, steps: int, rate: float):
    """Adam on the mean −log p of all response tokens; one response at a time, nothing padded."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    optimiser = torch.optim.Adam(model.parameters(), lr=rate)
    losses = []
    for step in range(steps + 1):
        terms = []
        for response in responses:
            ids = torch.tensor([[*prompt, *response]])
            logs = model(ids).logits[0, :, :VOCABULARY].log_softmax(-1)
            terms += [-logs[len(prompt) - 1 + k, i] for k, i in enumerate(response)]
        loss = torch.stack(terms).mean()
        losses.append(float(loss.detach()))
        if step < steps:
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    return model, losses


def logprobs(model, ids) -> np.ndarray:
    with torch.no_grad():
        logs = model(torch.tensor([list(ids)])).logits[0, :, :VOCABULARY].log_softmax(-1)
    return np.array([float(logs[t - 1, ids[t]]) for t in range(1, len(ids))])


def weights_of(model) -> str:
    found = hashlib.sha256()
    for name, weight in model.state_dict().items():
        found.update(name.encode() + weight.numpy().tobytes())
    return found.hexdigest()


# -- the fit ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("family", "together"), [*((f, True) for f in FAMILIES), ("llama", False), ("gemma2", False)]
)
def test_as_a_loop_written_out(
    workspace: Workspace, family: str, together: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Padding, the shared prompt, sliding windows and batches change nothing."""
    if not together:
        monkeypatch.setattr(fitting, "LOGITS_BYTES", 1)
    folder = str(tiny_folder(family))
    model = workspace.load(workspace.plan_model(folder))
    before = weights_of(model.model)
    prompt, rate = tiny_ids(14), 2e-4
    made = drained(fit(model, prompt, RESPONSES, steps=3, rate=rate))
    wanted, losses = by_hand(folder, prompt, RESPONSES, 3, rate)
    assert made.tokens == sum(map(len, RESPONSES))
    assert made.before == pytest.approx(losses[0], abs=1e-4)
    assert made.after == pytest.approx(losses[-1], abs=1e-4)
    assert made.after < made.before - 0.01
    ids = [*prompt, *RESPONSES[1]]
    found = logprobs(made.model.model, ids)
    np.testing.assert_allclose(found, logprobs(wanted, ids), atol=2e-3)
    assert np.abs(found - logprobs(model.model, ids)).max() > 0.05, "it learnt something"
    assert weights_of(model.model) == before, "the shared model is left alone"
    assert not any(p.requires_grad for p in made.model.model.parameters())


def test_the_same_twice_and_in_another_job_s_inference_mode(
    workspace: Workspace, seven: str
) -> None:
    model = workspace.load(workspace.plan_model(seven))
    made = [drained(fit(model, tiny_ids(5), RESPONSES, steps=2, rate=1e-3))]
    with torch.inference_mode():
        made.append(drained(fit(model, tiny_ids(5), RESPONSES, steps=2, rate=1e-3)))
    assert weights_of(made[0].model.model) == weights_of(made[1].model.model)
    assert made[0].model.model is not model.model


def test_half_precision_is_fitted_in_float32(workspace: Workspace) -> None:
    from engine.modelref import ModelRef

    ref = ModelRef.parse(str(tiny_folder("llama"))).model_copy(update={"dtype": "bfloat16"})
    model = workspace.load(workspace.plan_model(ref))
    assert model.dtype == torch.bfloat16
    made = drained(fit(model, tiny_ids(5), RESPONSES, steps=2, rate=1e-3))
    assert made.model.dtype == torch.float32
    assert model.dtype == torch.bfloat16
    assert made.after < made.before


# -- the analysis ----------------------------------------------------------------------------


def test_by_its_parts(workspace: Workspace, trace: Trace, seven: str) -> None:
    """Samples, sets, two loops written out, and the score by its definition."""
    result = fitted(workspace, trace, seven)
    prompt, own = trace.ids[: trace.response_start], trace.ids[trace.response_start :]
    drawn = samples(workspace, trace, seven)
    finished = [c.ids for c in drawn if c.finish == "stop"]
    assert 0 < len(finished) < len(drawn), "some are cut off"
    right = [ids for ids in finished if ord("7") in ids]
    wrong = [ids for ids in finished if ord("7") not in ids]
    kept = [ids for ids in wrong if ids != own]
    assert 0 < len(kept) < len(wrong), "some equal the response"
    rows = {row["set"]: row for row in result.table("fit").to_pylist()}
    assert list(rows) == ["positive", "negative"]
    logs = {}
    for name, chosen in (("positive", right), ("negative", kept)):
        model, losses = by_hand(seven, prompt, chosen, 3, 2e-4)
        assert rows[name]["rollouts"] == len(chosen)
        assert rows[name]["tokens"] == sum(map(len, chosen))
        assert rows[name]["loss_before"] == pytest.approx(losses[0], abs=1e-4)
        assert rows[name]["loss_after"] == pytest.approx(losses[-1], abs=1e-4)
        assert rows[name]["loss_after"] < rows[name]["loss_before"]
        with torch.no_grad():
            all_logs = model(torch.tensor([trace.ids])).logits[0, :, :VOCABULARY].log_softmax(-1)
        logs[name] = all_logs.double()
    assert (rows["positive"]["left_out"], rows["positive"]["own"]) == (0, False)
    assert (rows["negative"]["left_out"], rows["negative"]["own"]) == (len(wrong) - len(kept), True)
    mixed = (2 * logs["positive"] - logs["negative"]).log_softmax(-1)
    wanted = [float(mixed[t - 1, trace.ids[t]]) for t in range(1, len(trace))]
    np.testing.assert_allclose(column(result, "log_contrast")[1:], wanted, atol=2e-3)
    ratio = logs["positive"] - logs["negative"]
    wanted = [float(ratio[t - 1, trace.ids[t]]) for t in range(1, len(trace))]
    np.testing.assert_allclose(column(result, "log_ratio")[1:], wanted, atol=2e-3)
    eight = trace.response_start
    assert column(result, "log_ratio")[eight] < 0, "the wrong ones expect the 8"
    stats = run(Request("statistics", trace, seven), workspace=workspace)[0]
    for name in BASE:
        np.testing.assert_array_equal(column(result, name), column(stats, name))
    assert np.isnan([column(result, name)[0] for name in COLUMNS]).all()
    (note,) = [r for r in result.notes.to_pylist() if r["table"] == "fit"]
    cut = len(drawn) - len(finished)
    assert note["reason"] == f"{cut} of 24 samples were cut off: they are in neither set"


def test_left_out_is_as_if_never_drawn(
    workspace: Workspace, trace: Trace, seven: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The result equals one whose samples never held the response."""
    left = fitted(workspace, trace, seven)
    own = trace.ids[trace.response_start :]
    drawn = [c for c in samples(workspace, trace, seven) if c.ids != own]
    with Workspace(tmp_path / "other") as other:
        monkeypatch.setattr(other, "samples", lambda *_: iter([drawn]))
        without = fitted(other, trace, seven)
    assert without.origin == "computed"
    for name in COLUMNS:
        np.testing.assert_array_equal(column(without, name), column(left, name))
    circular = fitted(workspace, trace, seven, leave_out=False)
    assert not np.array_equal(column(circular, "log_ratio"), column(left, "log_ratio"))


def test_circular_is_called_so(workspace: Workspace, seven: str) -> None:
    """A response that was never drawn is added to its own set, once."""
    for response, name in (("9<eos>", "negative"), ("67<eos>", "positive")):
        trace = written(workspace, seven, response)
        own = trace.ids[trace.response_start :]
        left, circular = (
            {
                r["set"]: r
                for r in fitted(workspace, trace, seven, leave_out=x).table("fit").to_pylist()
            }
            for x in (True, False)
        )
        assert left[name]["own"]
        assert left[name]["left_out"] == circular[name]["left_out"] == 0
        assert circular[name]["rollouts"] == left[name]["rollouts"] + 1
        assert circular[name]["tokens"] == left[name]["tokens"] + len(own)
        other = "positive" if name == "negative" else "negative"
        assert circular[other] == left[other]
        notes = fitted(workspace, trace, seven, leave_out=False).notes["reason"].to_pylist()
        assert sum("circular" in reason for reason in notes) == 1
        notes = fitted(workspace, trace, seven).notes["reason"].to_pylist()
        assert not any("circular" in reason for reason in notes)


def test_a_drawn_response_is_not_added_twice(
    workspace: Workspace, trace: Trace, seven: str
) -> None:
    rows = [
        {r["set"]: r for r in fitted(workspace, trace, seven, leave_out=x).table("fit").to_pylist()}
        for x in (True, False)
    ]
    left = rows[0]["negative"]
    assert left["left_out"] > 0
    assert rows[1]["negative"]["rollouts"] == left["rollouts"] + left["left_out"]
    assert rows[1]["negative"]["left_out"] == 0


def test_each_copy_is_fitted_to_the_first_ones_only(
    workspace: Workspace, trace: Trace, seven: str
) -> None:
    def rows(**more: int) -> dict[str, dict]:
        table = fitted(workspace, trace, seven, **more).table("fit")
        return {r["set"]: r for r in table.to_pylist()}

    few, whole = rows(most=2), rows(most=1024)
    assert {name: r["rollouts"] for name, r in few.items()} == dict.fromkeys(few, 2)
    assert min(r["rollouts"] for r in whole.values()) > 2
    for name, row in few.items():
        assert row["tokens"] < whole[name]["tokens"]
        assert row["left_out"] == whole[name]["left_out"]


def test_an_end_token_makes_no_other_response(
    workspace: Workspace, trace: Trace, seven: str
) -> None:
    """A response pasted without its end is still the one that was drawn."""
    open_ended = written(workspace, seven, "8")
    rows = [fitted(workspace, t, seven).table("fit").to_pylist() for t in (open_ended, trace)]
    assert rows[0] == rows[1]
    assert rows[0][1]["left_out"] > 0


def test_the_pair_moves_with_its_settings(workspace: Workspace, trace: Trace, seven: str) -> None:
    """More steps part the copies further; β = 0 is the positive copy alone."""
    few, many = (fitted(workspace, trace, seven, steps=s) for s in (1, 6))
    at = trace.response_start
    assert column(many, "log_ratio")[at] < column(few, "log_ratio")[at] < 0
    zero = fitted(workspace, trace, seven, beta=0)
    np.testing.assert_allclose(
        column(zero, "log_contrast"), column(zero, "positive_logprob"), atol=1e-6
    )


def test_it_ends_only_at_its_yields(workspace: Workspace, trace: Trace, seven: str) -> None:
    """Gradients are off and nothing hangs on the model whenever it waits; a stop leaves it so."""
    model = workspace.load(workspace.plan_model(seven))
    before = weights_of(model.model)
    request = Request("critical.fitted", trace, seven, ASKED)
    steps = execute(make_plan(request, workspace), workspace)
    grad = torch.is_grad_enabled()
    seen = []
    for step in steps:
        assert torch.is_grad_enabled() == grad
        assert not torch.is_inference_mode_enabled()
        seen.append(step)
        if "Fitting the negative copy" in step.message:
            break
    fractions = [s.fraction for s in seen if s.fraction is not None]
    assert fractions == sorted(fractions)
    assert sum("Fitting the positive copy" in s.message for s in seen) == 4
    with pytest.raises(Cancelled):
        steps.throw(Cancelled())
    assert weights_of(model.model) == before
    assert not any(p.requires_grad for p in model.model.parameters())


@pytest.mark.parametrize(
    ("params", "sentence"),
    [
        ({"answer": None}, "critical.fitted needs the right answer: give it as answer"),
        ({"answer": "Z"}, "none is right: raise n, raise temperature, or give another pair"),
        ({"answer": "7", "temperature": 0}, "raise temperature"),
        ({"checker": "gut feeling"}, "no answer checker 'gut feeling'"),
        ({"n": 1}, "n: Input should be greater than or equal to 2"),
        ({"lr": 0}, "lr: Input should be greater than 0"),
        ({"steps": 0}, "steps: Input should be greater than or equal to 1"),
    ],
)
def test_bad_input_is_a_sentence(
    workspace: Workspace, trace: Trace, seven: str, params: dict, sentence: str
) -> None:
    with pytest.raises(UserError, match=sentence):
        fitted(workspace, trace, seven, **params)


def test_prompt_and_response_are_both_needed(workspace: Workspace, seven: str) -> None:
    tokenizer = workspace.plan_model(seven).tokenizer
    with pytest.raises(UserError, match="no response to look at"):
        fitted(workspace, encode_text(Text(prompt=PROMPT), tokenizer), seven)
    alone = trace_from_ids(tiny_ids(4), tokenizer, response_start=0)
    with pytest.raises(UserError, match="give the prompt apart"):
        fitted(workspace, alone, seven)


def test_the_only_wrong_sample_is_the_response(
    workspace: Workspace, trace: Trace, seven: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = trace.ids[trace.response_start :]
    drawn = [c for c in samples(workspace, trace, seven) if ord("7") in c.ids or c.ids == own]
    monkeypatch.setattr(workspace, "samples", lambda *_: iter([drawn]))
    with pytest.raises(UserError, match=r"none is wrong, but for \d+ equal to this response"):
        fitted(workspace, trace, seven)


def test_a_large_model_is_refused_before_it_is_loaded(
    workspace: Workspace, trace: Trace, seven: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engine.critical.fitted.MOST_PARAMETERS", 1000)
    monkeypatch.setattr(workspace, "load", lambda _: pytest.fail("it was loaded"))
    with pytest.raises(UserError, match=r"parameters; two copies .* \(at most 1,000\): choose"):
        fitted(workspace, trace, seven)


def test_another_model_s_ids_are_refused(workspace: Workspace, trace: Trace) -> None:
    with pytest.raises(UserError, match="belong to another tokenizer"):
        fitted(workspace, trace, "demo")
