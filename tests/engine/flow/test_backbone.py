"""``flow.backbone`` from text to tables: definition, choices, every family, bad input."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch

from engine.context import Context
from engine.encode import encode_text
from engine.errors import UserError
from engine.flow.graph import numbers, selection
from engine.modelref import ModelRef
from engine.models import LoadedModel
from engine.plan import make_plan
from engine.result import Request, Result
from engine.running import run
from engine.subjects import Group, Span, Text, Trace
from engine.workspace import Workspace
from tests.engine.flow.oracle import backbone_by_cuts, by_definition, marks
from tests.engine.tiny import FAMILIES, tiny_folder

TEXT = Text(prompt="Question: two and 3?\n", response="So.\nAnswer: 55\nbye")


def trace_of(workspace: Workspace, model: str, text: Text = TEXT) -> Trace:
    return encode_text(text, workspace.plan_model(model).tokenizer)


def flow(workspace: Workspace, subject, model: str | ModelRef, **params) -> Result:
    return run(Request("flow.backbone", subject, model, params), workspace=workspace)[0]


def column(result: Result, name: str, table: str = "nodes") -> np.ndarray:
    values = result.table(table)[name].to_pylist()
    return np.array([np.nan if v is None else v for v in values])


def summary(result: Result) -> dict:
    return result.table("summary").to_pylist()[0]


def phi_of(result: Result, n: int) -> np.ndarray:
    phi = np.zeros((n, n))
    edges = result.table("edges")
    phi[edges["source_position"].to_numpy(), edges["target_position"].to_numpy()] = edges[
        "flow"
    ].to_numpy()
    return phi


def attention(workspace: Workspace, trace: Trace, model: str, **choices) -> np.ndarray:
    plan = make_plan(Request("flow.backbone", trace, model), workspace)
    return Context(plan, workspace).attention(**choices).double().numpy()


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_by_definition(workspace: Workspace, family: str) -> None:
    model = str(tiny_folder(family))
    trace = trace_of(workspace, model)
    result = flow(workspace, trace, model)
    q, a = trace.spans["question"], trace.spans["answer"]
    n = a.end
    assert n < len(trace)
    rows = attention(workspace, trace, model, layers=[1])[:n, :n]
    wanted = by_definition(rows, marks(n, *range(q.start, q.end)), marks(n, n - 2, n - 1), True)
    np.testing.assert_allclose(column(result, "inflow")[:n], wanted["f"], rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(column(result, "throughput")[:n], wanted["tau"], rtol=1e-9)
    with np.errstate(divide="ignore"):
        log = np.where(wanted["h"] > 0, np.log(wanted["h"]), np.nan)
    np.testing.assert_allclose(column(result, "log_reach")[:n], log, atol=1e-9)
    np.testing.assert_allclose(phi_of(result, n), wanted["phi"], rtol=1e-9, atol=1e-15)
    edges = result.table("edges")
    i, k = (edges[x].to_numpy() for x in ("source_position", "target_position"))
    np.testing.assert_array_equal(edges["weight"].to_numpy(), rows[k, i])
    inside = edges["in_backbone"].to_numpy()
    found = set(zip(i[inside].tolist(), k[inside].tolist(), strict=True))
    assert found == backbone_by_cuts(phi_of(result, n), 0.8)
    touched = {p for edge in found for p in edge}
    assert set(np.flatnonzero(column(result, "in_backbone"))) == touched
    # Behind the answer nothing flows and nothing is reached.
    assert np.isnan(column(result, "log_reach")[n:]).all()
    assert not column(result, "inflow")[n:].any()
    row = summary(result)
    assert row["conservation_residual"] < 1e-12
    assert row["cut_residual"] < 1e-12
    assert row["sink_inflow"] == pytest.approx(1, abs=1e-12)
    assert (row["layers"], row["heads"], row["backbone_edges"]) == ("1", "0-3", len(found))


def test_the_row_of_an_answer_token(workspace: Workspace, llama: str) -> None:
    """Its own row, or the one before it: a shift by one, only at the answer."""
    trace = trace_of(workspace, llama)
    a = trace.spans["answer"]
    n = a.end
    rows = attention(workspace, trace, llama, layers=[1])[:n, :n]
    own, before = (flow(workspace, trace, llama, answer_row=r) for r in ("self", "predicting"))
    for result, shift in ((own, 0), (before, 1)):
        edges = result.to_pandas("edges")
        for t in range(a.start - 2, a.end):
            into = edges[edges.target_position == t].set_index("source_position").weight
            row = rows[t - (shift if t >= a.start else 0)]
            np.testing.assert_array_equal(into.to_numpy(), row[into.index])
            assert into.index.max() == t - 1 if t != a.start + 1 else a.start - 1
    assert np.abs(phi_of(own, n) - phi_of(before, n)).max() > 1e-3
    assert summary(before)["answer_row"] == "predicting"
    assert summary(before)["conservation_residual"] < 1e-12


def test_choices_change_the_graph_and_are_stored(workspace: Workspace, llama: str) -> None:
    trace = trace_of(workspace, llama)
    n = trace.spans["answer"].end
    q = marks(n, *range(trace.spans["question"].start, trace.spans["question"].end))
    a = marks(n, n - 2, n - 1)
    params = {"layers": "0,2", "heads": "1-2", "reduce": "sum", "absorbing": False, "share": 0.4}
    result = flow(workspace, trace, llama, **params)
    choice = {"layers": [0, 2], "heads": [1, 2], "reduce": "sum"}
    rows = attention(workspace, trace, llama, **choice)[:n, :n]
    wanted = by_definition(rows, q, a, False)
    np.testing.assert_allclose(phi_of(result, n), wanted["phi"], rtol=1e-9, atol=1e-15)
    needed = column(result, "share_needed", "edges")
    np.testing.assert_array_equal(needed < 0.4, column(result, "in_backbone", "edges"))
    for share in (0.2, 0.95):
        other = flow(workspace, trace, llama, **{**params, "share": share})
        np.testing.assert_array_equal(needed < share, column(other, "in_backbone", "edges"))
        np.testing.assert_array_equal(needed, column(other, "share_needed", "edges"))
    assert {k: summary(result)[k] for k in params} == {**params, "heads": "1,2"}
    largest = attention(workspace, trace, llama, layers=[1], reduce="max")[:n, :n]
    other = flow(workspace, trace, llama, reduce="max")
    by_max = by_definition(largest, q, a, True)
    np.testing.assert_allclose(phi_of(other, n), by_max["phi"], rtol=1e-9, atol=1e-15)


def test_the_order_of_heads_does_not_matter(
    workspace: Workspace, llama: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model whose heads are permuted (their weights, in groups) has the same flow."""
    trace = trace_of(workspace, llama)
    plain = flow(workspace, trace, llama, layers="all")
    # Heads 0, 1 share keys, as do 2, 3: groups change places, and heads within them.
    heads, groups, width = [3, 2, 1, 0], [1, 0], 8
    q = torch.tensor([h * width + i for h in heads for i in range(width)])
    kv = torch.tensor([g * width + i for g in groups for i in range(width)])
    model = workspace.load(workspace.plan_model(llama))
    before = model.logits(model.hidden(trace.ids))
    saved = {name: p.clone() for name, p in model.model.named_parameters()}
    try:
        with torch.no_grad():
            for layer in model.model.model.layers:
                attention = layer.self_attn
                attention.q_proj.weight.copy_(attention.q_proj.weight[q].clone())
                attention.k_proj.weight.copy_(attention.k_proj.weight[kv].clone())
                attention.v_proj.weight.copy_(attention.v_proj.weight[kv].clone())
                attention.o_proj.weight.copy_(attention.o_proj.weight[:, q].clone())
        after = model.logits(model.hidden((*trace.ids, trace.ids[0])))[:-1]
        torch.testing.assert_close(after, before, rtol=1e-3, atol=1e-3)
        kept = model.attention(trace.ids, keep="heads")
        permuted = flow(workspace, trace, llama, layers="all", min_flow=1e-30)
    finally:
        with torch.no_grad():
            for name, p in model.model.named_parameters():
                p.copy_(saved[name])
    assert (kept - model.attention(trace.ids, keep="heads")).abs().max() > 0.1
    np.testing.assert_allclose(
        column(permuted, "inflow"), column(plain, "inflow"), rtol=1e-3, atol=1e-6
    )


def test_cut_edges_are_counted(workspace: Workspace, llama: str) -> None:
    trace = trace_of(workspace, llama)
    whole = flow(workspace, trace, llama)
    flows = column(whole, "flow", "edges")
    for params, kept in (({"max_edges": 50}, 50), ({"min_flow": 0.01}, int((flows >= 0.01).sum()))):
        result = flow(workspace, trace, llama, **params)
        row = summary(result)
        assert (row["edges"], row["edges_listed"]) == (len(flows), kept)
        np.testing.assert_array_equal(column(result, "flow", "edges"), flows[:kept])
        assert row["flow_cut"] == pytest.approx(flows[kept:].sum() / flows.sum(), rel=1e-9)
        np.testing.assert_allclose(
            column(result, "share_needed", "edges"),
            column(whole, "share_needed", "edges")[:kept],
            atol=1e-12,
        )
        assert 0 < row["listed_share"] < 0.8
        reasons = " ".join(result.notes["reason"].to_pylist())
        assert f"{len(flows) - kept:,} of {len(flows):,} edges are not listed" in reasons
        assert f"only up to a share of {row['listed_share']:.3g}" in reasons
    assert summary(whole)["flow_cut"] < 1e-12
    assert summary(whole)["listed_share"] == pytest.approx(1)


def test_spans_can_be_corrected(workspace: Workspace, llama: str) -> None:
    """Special tokens are no part of a question, even where they are in its span."""
    trace = trace_of(workspace, llama)
    result = flow(workspace, trace, llama, question="0:4", answer="20:22")
    f = column(result, "inflow")
    assert f[0] == 0
    assert result.table("nodes")["part"].to_pylist()[:5] == [None, *["question"] * 3, "between"]
    assert f[20] + f[21] == pytest.approx(1)
    moved = trace.evolve(spans={"question": Span(start=1, end=4), "answer": Span(start=20, end=22)})
    np.testing.assert_array_equal(column(flow(workspace, moved, llama), "inflow"), f)


def test_half_precision_and_groups(workspace: Workspace, llama: str) -> None:
    half = ModelRef(source=llama, dtype="bfloat16")
    trace = trace_of(workspace, llama)
    result = flow(workspace, trace, half)
    n = trace.spans["answer"].end
    rows = workspace.load(workspace.plan_model(half)).attention(trace.ids, layers=[1])[:n, :n]
    q = marks(n, *range(trace.spans["question"].start, trace.spans["question"].end))
    wanted = by_definition(rows.double().numpy(), q, marks(n, n - 2, n - 1), True)
    np.testing.assert_allclose(phi_of(result, n), wanted["phi"], rtol=1e-9, atol=1e-15)
    assert summary(result)["conservation_residual"] < 1e-12
    other = trace_of(workspace, llama, Text(prompt=TEXT.prompt, response="Answer: 7"))
    both = flow(workspace, Group(rollouts=(trace, other)), llama)
    assert both.table("summary")["rollout"].to_pylist() == [0, 1]
    alone = flow(workspace, other, llama)
    np.testing.assert_array_equal(column(both, "inflow")[len(trace) :], column(alone, "inflow"))


def test_one_forward(workspace: Workspace, llama: str) -> None:
    trace = trace_of(workspace, llama)
    model = workspace.load(workspace.plan_model(llama))
    before = model.forwards
    flow(workspace, trace, llama)
    assert model.forwards == before + 1
    assert flow(workspace, trace, llama).origin == "cache"


def test_bad_input_is_a_sentence(workspace: Workspace, llama: str) -> None:
    trace = trace_of(workspace, llama)
    for params, sentence in (
        ({"answer": "30:30"}, "The answer 30:30 holds no token"),
        ({"answer": "2:999"}, "ends after the text's 40 tokens"),
        ({"answer": "x"}, "Write answer as START:END in token positions"),
        ({"question": "20:24", "answer": "3:5"}, "stands before the question"),
        ({"question": "3:9", "answer": "8:12"}, "share tokens: mark them apart"),
        ({"question": "0:1"}, "has only special tokens"),
        ({"layers": "3"}, "There are no layers 3 here: the model has 3, from 0 to 2"),
        ({"layers": "first"}, "Write layers as all, middle, or numbers such as 1,2,5 or 3-7"),
        ({"heads": "2-1"}, "There are no heads 2-1 here"),
        ({"share": 0}, "share: Input should be greater than 0"),
    ):
        with pytest.raises(UserError, match=sentence):
            flow(workspace, trace, llama, **params)


def test_missing_spans_are_a_sentence(workspace: Workspace, llama: str) -> None:
    for text, sentence in (
        (Text(prompt="Question: a?", response="No."), "No answer was found in this text: mark it"),
        (Text(prompt="", response="Answer: 5"), "No question was found in this text"),
    ):
        with pytest.raises(UserError, match=sentence):
            flow(workspace, trace_of(workspace, llama, text), llama)


def test_an_answer_nothing_reaches(workspace: Workspace) -> None:
    """All attention over one place is cut."""
    model = str(tiny_folder("mistral"))
    trace = trace_of(workspace, model)
    loaded = workspace.load(workspace.plan_model(model))
    whole = loaded.attention
    with pytest.MonkeyPatch.context() as patch:
        gap = torch.zeros(len(trace), len(trace), dtype=torch.bool)
        gap[24:, :24] = True
        patch.setattr(loaded, "attention", lambda ids, **c: whole(ids, knockout=gap, **c))
        with pytest.raises(UserError, match="No attention leads from the question to the answer"):
            flow(workspace, trace, model)


@pytest.mark.parametrize("family", ["gptj", "mamba"])
def test_models_without_readable_attention(workspace: Workspace, family: str) -> None:
    model = str(tiny_folder(family))
    with pytest.raises(UserError, match="choose another model"):
        flow(workspace, trace_of(workspace, model), model)


def test_layers_as_people_write_them() -> None:
    assert [selection("layers", "middle", n) for n in (1, 2, 3, 4, 36)] == [
        (0,), (0, 1), (1,), (1, 2), tuple(range(12, 24)),
    ]  # fmt: skip
    assert selection("layers", " 3-5, 1,4 ", 6) == (1, 3, 4, 5)
    assert numbers((1, 3, 4, 5)) == "1,3-5"
    for values in ((0,), (0, 1), (2, 3, 4, 7, 8, 9, 11)):
        assert selection("layers", numbers(values), 12) == values
    with pytest.raises(UserError):
        selection("layers", "", 4)


def test_attention_is_visited_block_by_block(workspace: Workspace, llama: str) -> None:
    """``LoadedModel.visit_attention``: rows in order, the chosen layers, hidden states as ever."""
    trace = trace_of(workspace, llama)
    model: LoadedModel = workspace.load(workspace.plan_model(llama))
    seen: dict[int, list[torch.Tensor]] = {}

    def visit(layer: int, start: int, weights: torch.Tensor) -> None:
        assert sum(w.shape[1] for w in seen.setdefault(layer, [])) == start
        seen[layer].append(weights.clone())

    hidden = model.visit_attention(trace.ids, visit, layers=[0, 2])
    kept = model.attention(trace.ids, layers=[0, 2], keep="heads")
    assert torch.equal(torch.stack([torch.cat(seen[x], 1) for x in (0, 2)]), kept)
    torch.testing.assert_close(hidden, model.hidden(trace.ids), rtol=1e-4, atol=1e-4)
    with pytest.raises(RuntimeError, match="stop"):
        model.visit_attention(trace.ids, lambda *_: (_ for _ in ()).throw(RuntimeError("stop")))
    assert not model.twin.get_output_embeddings()._forward_pre_hooks
    assert torch.equal(model.attention(trace.ids, layers=[0, 2], keep="heads"), kept)


def test_the_family_is_declared_without_torch() -> None:
    code = (
        "import sys\n"
        "from engine.flow import backbone, carriers, knockout, maxflow, paths, rhythm, rollout\n"
        "from engine.flow import export\n"
        "print({'torch', 'scipy', 'networkx'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
