"""The causal check: cuts by explicit masks, a model that copies one token, counts by hand."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, GPT2Config

from engine.critical.curve import clopper_pearson, difference
from engine.encode import encode_text
from engine.errors import UserError
from engine.flow import causal, masked, reanswer
from engine.flow.causaltables import Case, condition_rows, rate_of
from engine.flow.masked import Masked, continue_masked
from engine.loaded import LoadedModel
from engine.modelref import ModelRef
from engine.records import open_rollouts, write_rollouts
from engine.result import Request, Result
from engine.running import run
from engine.subjects import Group, Span, Text, Trace
from engine.workspace import Workspace
from tests.engine.tiny import (
    BOS,
    EOS,
    FAMILIES,
    PAD,
    VOCABULARY,
    save_tokenizer,
    tiny_folder,
    tiny_ids,
)

STEPS = 3


def finish(steps: Generator[int, None, Any]) -> Any:
    while True:
        try:
            next(steps)
        except StopIteration as stop:
            return stop.value


def loaded(workspace: Workspace, folder: object) -> LoadedModel:
    return workspace.load(workspace.plan_model(str(folder)))


def by_knockout(model: LoadedModel, ids: list[int], hidden: set[int], first: int) -> list[Tensor]:
    """Logits of a greedy continuation, all read anew with an explicit [T, T] mask at each step."""
    ids, found = list(ids), []
    for _ in range(STEPS):
        q, k = torch.meshgrid(torch.arange(len(ids)), torch.arange(len(ids)), indexing="ij")
        edges = torch.isin(k, torch.tensor(sorted(hidden))) & (k < q) & (q >= first)
        found.append(model.logits(model.hidden(ids, knockout=edges)[-1:])[0, : model.real_vocab])
        ids.append(int(found[-1].argmax()))
    return found


@pytest.mark.parametrize("family", FAMILIES)
def test_hidden_tokens_are_explicit_knockouts(
    workspace: Workspace, family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Kept keys, batches, windows and soft-caps of every family; nothing hidden is the model."""
    model = loaded(workspace, tiny_folder(family))
    model.eos_ids = ()
    seen: list[Tensor] = []

    def pick(self: object, logits: Tensor, draws: object) -> int:
        seen.append(logits)
        return int(logits.argmax())

    monkeypatch.setattr(masked._Batch, "_pick", pick)
    ids, plain = tiny_ids(15), torch.zeros(VOCABULARY)
    for first, sets in ((0, [set(), {10, 11, 12, 13}, set(range(1, 14))]), (14, [{9, 14}])):
        seen.clear()
        rows = [Masked(frozenset(hidden)) for hidden in sets]
        finish(continue_masked(model, ids, rows, first=first, limit=STEPS))
        for row, hidden in enumerate(sets):
            wanted = by_knockout(model, ids, hidden, first)
            for found, logits in zip(seen[row :: len(sets)], wanted, strict=True):
                torch.testing.assert_close(found, logits, rtol=1e-4, atol=1e-4)
            if hidden:
                assert (seen[row] - plain).abs().max() > 1e-2
            else:
                plain = seen[row]
                with torch.no_grad():
                    own = model.model(torch.tensor([ids]), use_cache=False).logits[0, -1]
                torch.testing.assert_close(plain, own[:VOCABULARY], rtol=1e-4, atol=1e-4)


def test_drawn_answers_follow_the_distribution(workspace: Workspace) -> None:
    """Each uniform number picks the id in whose stretch of the distribution it falls."""
    model = loaded(workspace, tiny_folder("llama"))
    ids = tiny_ids(9)
    edges = torch.zeros(9, 9, dtype=torch.bool)
    edges[5:, 4] = True
    z = model.logits(model.hidden(ids, knockout=edges)[-1:])[0, :VOCABULARY].double() / 1.5
    ends = np.cumsum(z.softmax(-1).numpy())
    rows = [Masked(frozenset({4}), np.random.default_rng(i)) for i in range(20)]
    made = finish(continue_masked(model, ids, rows, first=0, limit=1, temperature=1.5))
    wanted = [int(np.sum(ends <= np.random.default_rng(i).random())) for i in range(20)]
    assert [new[0] for new in made] == wanted
    assert len(set(wanted)) > 3


def test_stops_and_limits(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    model = loaded(workspace, tiny_folder("llama"))
    ids = tiny_ids(12)
    (whole,) = finish(continue_masked(model, ids, [Masked(frozenset())], first=0, limit=6))
    model.eos_ids = (whole[2],)
    stop = whole.index(whole[2])
    monkeypatch.setattr(masked, "BATCH", 2)
    rows = [Masked(frozenset(s)) for s in ((), (5, 6, 7), ())]
    made = finish(continue_masked(model, ids, rows, first=0, limit=6))
    assert made[0] == made[2] == whole[: stop + 1]
    long = tiny_ids(254)
    assert len(finish(continue_masked(model, long, rows[:1], first=0, limit=9))[0]) <= 2
    with pytest.raises(UserError, match="reads no more"):
        finish(continue_masked(model, tiny_ids(256), rows[:1], first=0, limit=1))


@pytest.fixture(scope="module")
def copier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One layer, one head: says again the earlier token it sees best, 7 before 3."""
    path = tmp_path_factory.mktemp("models") / "copier"
    special = {"bos_token_id": BOS, "eos_token_id": EOS, "pad_token_id": PAD}
    config = GPT2Config(
        vocab_size=VOCABULARY, n_embd=264, n_layer=1, n_head=1, n_positions=128, **special
    )
    model = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            weight.fill_(1.0 if ".ln_" in name and name.endswith("weight") else 0.0)
        model.transformer.wte.weight[:, :VOCABULARY] = torch.eye(VOCABULARY)
        # How well a token is seen; what it says is in its own dimension.
        model.transformer.wte.weight[ord("7"), 260] = 2.0
        model.transformer.wte.weight[ord("3"), 260] = 1.0
        attention = model.transformer.h[0].attn
        attention.c_attn.bias[0] = 100.0
        attention.c_attn.weight[260, 264] = 10.0
        attention.c_attn.weight[:VOCABULARY, 528 : 528 + VOCABULARY] = torch.eye(VOCABULARY)
        attention.c_proj.weight[:] = 100 * torch.eye(264)
    model.save_pretrained(path)
    save_tokenizer(path)
    return path


STORY = Text(
    prompt="Question: which one?\n", response="I see 7 and then 3 here, so be it.\nAnswer: 7"
)


def story(workspace: Workspace, copier: Path, text: Text = STORY) -> Trace:
    return encode_text(text, workspace.plan_model(str(copier)).tokenizer)


def look(workspace: Workspace, copier: Path, subject: Any, **params: Any) -> Result:
    request = Request("flow.causal", subject, str(copier), {"max_new_tokens": 1, **params})
    return run(request, workspace=workspace)[0]


def test_the_answer_changes_iff_the_copied_token_is_hidden(
    workspace: Workspace, copier: Path
) -> None:
    trace = story(workspace, copier)
    answer, reasoning = reanswer.spans_of(trace)
    assert trace.pieces[answer.start] == b"7"
    rows = [Masked(frozenset({p})) for p in reasoning]
    model = loaded(workspace, copier)
    for first in (0, answer.start - 1):
        made = finish(continue_masked(model, trace.ids[: answer.start], rows, first=first, limit=1))
        said = {p: chr(new[0]) for p, new in zip(reasoning, made, strict=True)}
        seven = next(p for p in reasoning if trace.pieces[p] == b"7")
        assert said == {p: "3" if p == seven else "7" for p in reasoning}


@pytest.fixture
def flow_of_seven(monkeypatch: pytest.MonkeyPatch) -> None:
    """A throughput that is highest at the 7 and lowest at the end of the reasoning."""

    def throughput(self: object, trace: Trace) -> list[float]:
        return [9.0 if p == b"7" else 1.0 / (1 + i) for i, p in enumerate(trace.pieces)]

    monkeypatch.setattr(causal._Run, "_throughput", throughput)


@pytest.mark.usefixtures("flow_of_seven")
@pytest.mark.parametrize("mask", ["later", "answer"])
def test_conditions_on_the_copier(workspace: Workspace, copier: Path, mask: str) -> None:
    trace = story(workspace, copier)
    _, reasoning = reanswer.spans_of(trace)
    seven = next(p for p in reasoning if trace.pieces[p] == b"7")
    result = look(workspace, copier, trace, mask=mask, draws=8, answer="7", share=0.25)
    cases = result.table("cases").to_pylist()
    count = round(0.25 * len(reasoning))
    for case in cases:
        assert len(case["masked"]) == (0 if case["condition"] == "none" else count)
        assert set(case["masked"]) <= set(reasoning)
        gone = seven in case["masked"]
        assert case["changed"] == case["flipped"] == gone
        assert case["right"] == (not gone)
        assert case["answer"] == ("3" if gone else "7")
        assert case["greedy_answer"] == case["trace_answer"] == "7"
    masked_by = {c["condition"]: c["masked"] for c in cases}
    assert seven in masked_by["top"]
    assert masked_by["bottom"] == reasoning[-count:]
    assert [c["condition"] for c in cases] == ["none", "top", *["random"] * 8, "bottom"]
    choices = {tuple(c["masked"]) for c in cases if c["condition"] == "random"}
    assert len(choices) > 4
    rows = {r["condition"]: r for r in result.table("conditions").to_pylist()}
    assert (rows["none"]["rate"], rows["top"]["rate"], rows["bottom"]["rate"]) == (0, 1, 0)
    drawn = np.mean([seven in c["masked"] for c in cases if c["condition"] == "random"])
    assert rows["random"]["rate"] == pytest.approx(drawn)
    assert rows["top"]["broken"] == 1
    assert rows["top"]["minus_random"] == pytest.approx(1 - drawn)
    summary = result.table("summary").to_pylist()[0]
    assert "cut in all layers and heads" in summary["masking"]
    assert (summary["reproduced"], summary["known"], summary["skipped"]) == (1, 1, 0)


@pytest.mark.usefixtures("flow_of_seven")
def test_a_population_with_rewards(workspace: Workspace, copier: Path, tmp_path: Path) -> None:
    """The rewarded rollout says what is right; one without an answer is skipped and said."""
    texts = [
        STORY,
        Text(prompt=STORY.prompt, response="It is 3, not 7.\nAnswer: 3"),
        Text(prompt=STORY.prompt, response="Who knows."),
    ]
    members = tuple(story(workspace, copier, t) for t in texts)
    group = Group(rollouts=members, rewards=(1.0, 0.0, 0.0))
    result = look(workspace, copier, group, draws=1)
    cases = result.table("cases").to_pylist()
    assert {c["rollout"] for c in cases} == {0, 1}
    assert all(c["greedy_answer"] == "7" for c in cases)
    assert all(c["right"] == (c["answer"] == "7") for c in cases)
    summary = result.table("summary").to_pylist()[0]
    assert (summary["traces"], summary["skipped"], summary["reproduced"]) == (2, 1, 1)
    notes = [n for n in result.notes.to_pylist() if n["rollout"] == 2]
    assert notes[0]["reason"].startswith("skipped: No answer was found")
    top = next(r for r in result.table("conditions").to_pylist() if r["condition"] == "top")
    assert (top["traces"], top["changed"], top["judged"], top["broken"]) == (2, 2, 2, 2)
    write_rollouts(tmp_path / "log.jsonl", [group])
    again = look(workspace, copier, open_rollouts(tmp_path / "log.jsonl"), draws=1)
    assert again.table("cases").equals(result.table("cases"))
    unknown = look(workspace, copier, Group(rollouts=members[:1]), draws=1)
    assert unknown.table("cases")["flipped"].to_pylist() == [None] * 4
    assert any("nobody knows" in n["reason"] for n in unknown.notes.to_pylist())
    first = look(workspace, copier, group, draws=1, most=1)
    assert set(first.table("cases")["rollout"].to_pylist()) == {0}


@pytest.mark.usefixtures("flow_of_seven")
def test_draws_depend_on_the_seed_alone(workspace: Workspace, copier: Path, tmp_path: Path) -> None:
    trace = story(workspace, copier)
    params = {"temperature": 8.0, "n": 6, "max_new_tokens": 2}
    one = look(workspace, copier, trace, **params).table("cases")
    with Workspace(tmp_path / "other") as other:
        result = look(other, copier, trace, **params)
        assert result.origin == "computed"
        assert result.table("cases").equals(one)
    seeded = look(workspace, copier, trace, seed=1, **params).table("cases")
    assert seeded["masked"].to_pylist() != one["masked"].to_pylist()
    assert seeded["generated"].to_pylist() != one["generated"].to_pylist()
    assert len(set(one["generated"].to_pylist()[:6])) > 1
    # Fewer random choices are the first ones.
    fewer = look(workspace, copier, trace, draws=1, **params).table("cases").to_pylist()
    drawn = [c for c in one.to_pylist() if c["condition"] == "random" and c["draw"] == 0]
    assert [c for c in fewer if c["condition"] == "random"] == drawn


def test_counts_and_intervals_by_hand() -> None:
    def case(rollout: int, condition: str, changed: bool, right: bool | None) -> Case:
        flipped = None if right is None else not right
        return Case(rollout, condition, 0, 0, (1, 2), "a", "b", "c", changed, right, flipped, "")

    cases = [case(r, "top", r < 4, r >= 2) for r in range(5)]
    cases += [case(r, "random", r == 0 and d < 2, None) for r in range(5) for d in range(3)]
    top, random = condition_rows(cases)
    assert (top["traces"], top["changed"], top["rate"]) == (5, 4, 0.8)
    low, high = clopper_pearson(4, 5)
    assert (top["low"], top["high"]) == (pytest.approx(low), pytest.approx(high))
    assert (top["judged"], top["flipped"], top["broken"], top["flip_rate"]) == (5, 2, 2, 0.4)
    # Two of fifteen are two thirds of one of five traces: the interval of 0 and of 1.
    assert (random["cases"], random["changed"]) == (15, 2)
    assert random["rate"] == pytest.approx(2 / 15)
    assert random["low"] == 0
    assert random["high"] == pytest.approx(clopper_pearson(1, 5)[1])
    assert random["flip_rate"] is None
    points = [
        rate_of([c for c in cases if c.condition == name], [c.changed for c in cases if
                c.condition == name]) for name in ("top", "random")
    ]  # fmt: skip
    ends = difference(*points)
    assert top["minus_random"] == pytest.approx(0.8 - 2 / 15)
    assert (top["minus_random_low"], top["minus_random_high"]) == pytest.approx(ends)


def test_what_is_said() -> None:
    said = reanswer.answer_said
    assert said(b"So it is.\nAnswer: ", b"42\nand on") == "42"
    assert said(rb"So \boxed{", b"42} is it.") == "42"
    assert said(b"the answer is 5.\nSo: ", b"5\n") == "5"
    assert said(b"Well, ", b" 17 \nmore") == "17"
    assert said(b"Answer: ", b"") == ""


def test_with_the_real_flow(workspace: Workspace) -> None:
    """Top and bottom are those of flow.backbone on a model of its own."""
    folder = tiny_folder("llama")
    trace = story(workspace, folder)
    result = look(workspace, folder, trace, draws=1)
    nodes = run(Request("flow.backbone", trace, str(folder)), workspace=workspace)[0]
    flow = nodes.table("nodes")["throughput"].to_pylist()
    _, reasoning = reanswer.spans_of(trace)
    masked_by = {c["condition"]: c["masked"] for c in result.table("cases").to_pylist()}
    values = sorted((flow[p] or 0.0 for p in reasoning), reverse=True)
    count = round(0.2 * len(reasoning))
    assert sorted((flow[p] or 0.0 for p in masked_by["top"]), reverse=True) == values[:count]
    assert sorted(flow[p] or 0.0 for p in masked_by["bottom"]) == values[::-1][:count]


def test_bad_input_is_a_sentence(workspace: Workspace, copier: Path) -> None:
    trace = story(workspace, copier)
    with pytest.raises(UserError, match="set a temperature"):
        look(workspace, copier, trace, n=2)
    with pytest.raises(UserError, match="no answer checker"):
        look(workspace, copier, trace, checker="none")
    with pytest.raises(UserError, match="No answer was found"):
        look(workspace, copier, Text(prompt="Question: a?", response="b c d"))
    late = trace.evolve(
        spans={"answer": Span(start=25, end=26), "reasoning": Span(start=30, end=35)}
    )
    with pytest.raises(UserError, match="does not come before"):
        look(workspace, copier, late)


@pytest.mark.cuda
def test_cuda_hides_the_same(workspace: Workspace, copier: Path) -> None:
    trace = story(workspace, copier)
    answer, reasoning = reanswer.spans_of(trace)
    ref = ModelRef(source=str(copier), device="cuda")
    model = workspace.load(workspace.plan_model(ref))
    rows = [Masked(frozenset({p})) for p in reasoning]
    made = finish(continue_masked(model, trace.ids[: answer.start], rows, first=0, limit=1))
    assert [chr(new[0]) for new in made] == [
        "3" if trace.pieces[p] == b"7" else "7" for p in reasoning
    ]
