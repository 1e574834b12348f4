"""Knock-outs: a cut edge really is out, what it does equals a mask, and who carries an edge."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from engine.errors import UserError
from engine.flow.cutting import mask_of
from engine.result import Request, Result
from engine.running import run
from engine.subjects import Span
from engine.workspace import Workspace
from tests.engine.flow.test_backbone import trace_of
from tests.engine.tiny import tiny_folder


def ask(workspace: Workspace, analysis: str, subject, model: str, **params) -> Result:
    return run(Request(analysis, subject, model, params), workspace=workspace)[0]


def eager(model: str, ids, cut: list[tuple[int, int]] = ()) -> tuple[np.ndarray, np.ndarray]:
    """log p of every token but the first [T − 1], attention [L, H, T, T], under a mask."""
    network = AutoModelForCausalLM.from_pretrained(model, attn_implementation="eager").eval()
    n = len(ids)
    least = torch.finfo(torch.float32).min
    mask = torch.full((1, 1, n, n), least).triu(1)
    for query, key in cut:
        mask[..., query, key] = least
    with torch.no_grad():
        out = network(torch.tensor([list(ids)]), attention_mask=mask, output_attentions=True)
    logs = torch.log_softmax(out.logits[0, :-1].double(), -1)
    target = torch.tensor(list(ids[1:]))
    found = logs.gather(1, target[:, None])[:, 0].numpy()
    return found, torch.stack([a[0] for a in out.attentions]).numpy()


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2", "gpt_neox"])
def test_equals_a_model_under_an_explicit_mask(workspace: Workspace, family: str) -> None:
    model = str(tiny_folder(family))
    trace = trace_of(workspace, model)
    a = trace.spans["answer"]
    if family == "gemma2":
        # Its windows differ from layer to layer: a mask for all is the same only inside them.
        trace = trace.evolve(spans={})
        trace, a = trace_short(trace), Span(start=6, end=8)
    edges = [(3, a.start - 1), (1, 5), (a.start - 2, a.start)]
    text = ",".join(f"{i}>{k}" for i, k in edges)
    result = ask(workspace, "flow.knockout", trace, model, edges=text, answer=f"{a.start}:{a.end}")
    before, weights = eager(model, trace.ids)
    after, cut = eager(model, trace.ids, [(k, i) for i, k in edges])
    here = slice(a.start - 1, a.end - 1)
    table = result.to_pandas("answer")
    assert table.position.tolist() == list(range(a.start, a.end))
    np.testing.assert_allclose(table.before, before[here], atol=2e-5)
    np.testing.assert_allclose(table.after, after[here], atol=2e-5)
    np.testing.assert_allclose(table.change, (after - before)[here], atol=4e-5)
    assert np.abs(table.change).max() > 1e-3
    row = result.table("summary").to_pylist()[0]
    assert row["change"] == pytest.approx((after - before)[here].sum(), abs=1e-4)
    assert row["change"] == pytest.approx(row["after"] - row["before"])
    cuts = result.to_pandas("cuts")
    assert (cuts.weight_after == 0).all()
    mean = weights.mean((0, 1))
    np.testing.assert_allclose(cuts.weight, [mean[k, i] for i, k in edges], atol=1e-6)
    assert (cuts.weight > 0).all()
    assert cut[:, :, 5, 1].max() == 0


def trace_short(trace):
    """The first 8 tokens: all within one window."""
    from engine.subjects import simple_turns

    return trace.evolve(
        ids=trace.ids[:8], pieces=trace.pieces[:8], response_start=8, turns=simple_turns(8, 8)
    )


def test_the_answers_own_row_changes_only_later_tokens(workspace: Workspace, llama: str) -> None:
    """A shift by one: an edge into the first answer token leaves its own probability alone."""
    trace = trace_of(workspace, llama)
    a = trace.spans["answer"]
    edge = f"5>{a.start}"
    own = ask(workspace, "flow.knockout", trace, llama, edges=edge).to_pandas("answer")
    assert own.change[0] == 0
    assert abs(own.change[1]) > 1e-5
    row = ask(workspace, "flow.knockout", trace, llama, edges=edge, answer_row="predicting")
    assert abs(row.to_pandas("answer").change[0]) > 1e-5
    before = ask(workspace, "flow.knockout", trace, llama, edges=f"5>{a.start - 1}")
    assert before.table("answer").equals(row.table("answer"))


def test_a_node_is_every_later_view_of_it(workspace: Workspace, llama: str) -> None:
    trace = trace_of(workspace, llama)
    a = trace.spans["answer"]
    n = len(trace)
    result = ask(workspace, "flow.knockout", trace, llama, nodes="4, 6-7")
    cut = [(k, i) for i in (4, 6, 7) for k in range(i + 1, n)]
    _, weights = eager(llama, trace.ids)
    after, _ = eager(llama, trace.ids, cut)
    here = slice(a.start - 1, a.end - 1)
    np.testing.assert_allclose(result.to_pandas("answer").after, after[here], atol=2e-5)
    cuts = result.to_pandas("cuts")
    assert (cuts.weight_after == 0).all()
    assert cuts.target_position.isna().all()
    mean = weights.mean((0, 1))
    np.testing.assert_allclose(cuts.weight, [mean[i + 1 :, i].sum() for i in (4, 6, 7)], rtol=1e-5)
    np.testing.assert_array_equal(np.argwhere(mask_of([], [4], 6, None, "self").numpy()), [[5, 4]])


def test_only_the_chosen_layers_and_heads(workspace: Workspace, llama: str) -> None:
    trace = trace_of(workspace, llama)
    a = trace.spans["answer"]
    edge = f"3>{a.start - 1}"
    some = ask(workspace, "flow.knockout", trace, llama, edges=edge, layers="1", heads="0,3")
    model = workspace.load(workspace.plan_model(llama))
    hidden = model.hidden(trace.ids, [(a.start - 1, 3, 1, 0), (a.start - 1, 3, 1, 3)])
    logs = torch.log_softmax(model.logits(hidden)[:, :259].double(), -1)
    wanted = [float(logs[t - 1, trace.ids[t]]) for t in range(a.start, a.end)]
    np.testing.assert_allclose(some.to_pandas("answer").after, wanted, rtol=1e-6)
    kept = model.attention(trace.ids, layers=[1], heads=[0, 3])
    assert some.to_pandas("cuts").weight[0] == pytest.approx(float(kept[a.start - 1, 3]), rel=1e-5)
    # What looks from behind the answer cannot change it, to the bit.
    behind = ask(workspace, "flow.knockout", trace, llama, edges=f"3>{len(trace) - 1}")
    assert set(behind.to_pandas("answer").change) == {0.0}


def test_carriers(workspace: Workspace, llama: str) -> None:
    """Weights are those of all maps; effects are those of knock-outs of one head."""
    trace = trace_of(workspace, llama)
    a = trace.spans["answer"]
    edge = f"3>{a.start - 1}"
    model = workspace.load(workspace.plan_model(llama))
    result = ask(workspace, "flow.carriers", trace, llama, edge=edge, effects=True, most=3)
    table = result.to_pandas("carriers")
    kept = model.attention(trace.ids, keep="heads")[:, :, a.start - 1, 3].numpy()
    np.testing.assert_allclose(
        table.pivot(index="layer", columns="head", values="weight").to_numpy(), kept, rtol=2e-4
    )
    assert table.share.sum() == pytest.approx(1)
    tried = table.dropna(subset="effect")
    assert len(tried) == 3
    assert tried.weight.min() >= table.weight[table.effect.isna()].max()
    for row in tried.itertuples():
        alone = ask(
            workspace, "flow.knockout", trace, llama, edges=edge,
            layers=str(row.layer), heads=str(row.head),
        )  # fmt: skip
        assert row.effect == pytest.approx(alone.table("summary")["change"][0].as_py(), abs=2e-5)
    assert "only the 3 heaviest heads" in " ".join(result.notes["reason"].to_pylist())
    # No answer is needed for weights alone, and the text behind the target is not read.
    bare = trace.evolve(spans={})
    before = model.forwards
    plain = ask(workspace, "flow.carriers", bare, llama, edge=edge).to_pandas("carriers")
    assert model.forwards == before + 1
    np.testing.assert_array_equal(plain.weight, table.weight)
    assert plain.effect.isna().all()
    row = ask(
        workspace, "flow.carriers", trace, llama, edge=f"3>{a.start}", answer_row="predicting"
    )
    np.testing.assert_array_equal(row.to_pandas("carriers").weight, table.weight)


def test_bad_input_is_a_sentence(workspace: Workspace, llama: str) -> None:
    trace = trace_of(workspace, llama)
    for params, sentence in (
        ({}, "Nothing is cut: give edges such as 12>40"),
        ({"edges": "5-9"}, "Write edges as SOURCE>TARGET"),
        ({"edges": "5>400"}, "The edge 5>400 is not in the text: positions go from 0 to 39"),
        ({"edges": "9>9"}, "does not lead forwards"),
        ({"nodes": "40"}, "There are no tokens 40 here"),
        ({"edges": "3>9", "answer": "0:1"}, "The answer starts the text"),
        ({"edges": "3>9", "layers": "7"}, "There are no layers 7 here"),
    ):
        with pytest.raises(UserError, match=sentence):
            ask(workspace, "flow.knockout", trace, llama, **params)


def test_carriers_take_one_edge(workspace: Workspace, llama: str) -> None:
    trace = trace_of(workspace, llama)
    with pytest.raises(UserError, match="Give one edge"):
        ask(workspace, "flow.carriers", trace, llama, edge="1>2,1>3")
    with pytest.raises(UserError, match="edge: Field required"):
        ask(workspace, "flow.carriers", trace, llama)
