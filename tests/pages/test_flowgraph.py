"""The flow graph as data and as a file: order of the slider, folding, sums, hostile tokens."""

from __future__ import annotations

import re
from itertools import pairwise
from typing import Any
from xml.etree import ElementTree as ET

import numpy as np
import orjson
import pyarrow as pa
import pytest
from streamlit.testing.v1 import AppTest

from engine.render import palette
from engine.render.flowgraph import (
    FLOWGRAPH_HTML,
    LABEL,
    cells,
    flowgraph_css,
    flowgraph_js,
    flowgraph_payload,
    flowgraph_svg,
    folded_runs,
    shortened,
)
from engine.render.text import markup
from engine.subjects import Span
from pages.widgets.flowgraph import clicked_edge
from tests.pages.hostile import HOSTILE

SVG = "{http://www.w3.org/2000/svg}"


def graph(n: int, *, question: int, answer: int, seed: int = 0, **more: Any) -> dict[str, Any]:
    """A payload of random flow: question from 1, answer at the end, one token behind it."""
    nodes, edges = tables(n, seed)
    spans = {"question": Span(start=1, end=question), "answer": (n - answer, n)}
    return flowgraph_payload(nodes, edges, spans, text="t" * 24, **more)


def tables(n: int, seed: int = 0) -> tuple[pa.Table, pa.Table]:
    rng = np.random.default_rng(seed)
    words = [HOSTILE[k] if k < len(HOSTILE) else f" w{k}" for k in range(n + 1)]
    through = rng.pareto(1.5, n + 1)
    source, target = np.triu_indices(n, 1)
    kept = (source >= 1) & (rng.random(len(source)) < 0.7)
    source, target = source[kept], target[kept]
    nodes = pa.table(
        {
            "token_bytes": pa.array([w.encode() for w in words], pa.binary()),
            "special": pa.array([k == 0 for k in range(n + 1)]),
            "inflow": through / 2,
            "throughput": through,
            "hub": pa.array([3 if k == 5 else None for k in range(n + 1)], pa.int64()),
        }
    )
    edges = pa.table(
        {
            "source_position": source,
            "target_position": target,
            "weight": rng.random(len(source)),
            "flow": rng.pareto(1.5, len(source)) / 50,
            "share_needed": np.round(rng.random(len(source)), 2),
        }
    )
    return nodes, edges


def paths(svg: str) -> list[ET.Element]:
    lines = ET.fromstring(svg).find(f"{SVG}g/{SVG}g")
    assert lines is not None
    return lines.findall(f"{SVG}path")


def test_the_slider_keeps_exactly_the_edges_whose_share_is_below():
    payload = graph(20, question=6, answer=2)
    _, edges = tables(20)
    needed = payload["edges"]["needed"].to_numpy()
    assert (np.diff(needed) >= 0).all()
    for share in (0.0, 0.3, 0.31, 0.8, 1.0):
        expected = int((edges["share_needed"].to_numpy() < share).sum())
        assert len(paths(flowgraph_svg(payload, share))) == expected
    # Nothing is lost, moved by one, or given another's numbers.
    rows = {(s, t): (f, w) for s, t, w, f, _ in zip(*edges.to_pydict().values(), strict=True)}
    for row in payload["edges"].to_pylist():
        flow, weight = rows.pop((row["source"], row["target"]))
        assert (row["flow"], row["weight"]) == pytest.approx((flow, weight))
    assert not rows


def test_fewer_edges_end_the_slider_where_they_are_complete():
    payload = graph(20, question=6, answer=2, most_edges=40)
    _, edges = tables(20)
    reached = payload["most_share"]
    assert payload["edges"].num_rows == 40
    assert 0 < reached < 1
    assert payload["share"] == reached
    expected = int((edges["share_needed"].to_numpy() < reached).sum())
    assert len(paths(flowgraph_svg(payload, 1.0))) == expected <= 40


def test_positions_and_parts_are_the_texts_own():
    payload = graph(20, question=6, answer=2)
    assert (payload["offset"], payload["outside"]) == (1, 2)
    assert payload["total_edges"] == tables(20)[1].num_rows
    assert payload["columns"]["part"].to_pylist() == [0] * 5 + [1] * 12 + [2] * 2
    nodes, _ = tables(20)
    shown = payload["columns"]["piece"].to_pylist()
    assert shown == [markup(b) for b in nodes["token_bytes"].to_pylist()[1:20]]
    assert payload["columns"]["throughput"].to_numpy() == pytest.approx(
        nodes["throughput"].to_numpy()[1:20]
    )
    hubs = payload["columns"]["hub"].to_numpy()
    assert np.flatnonzero(~np.isnan(hubs)).tolist() == [4]


@pytest.mark.parametrize(
    ("spans", "message"),
    [
        ({"question": (1, 5)}, "answer"),
        ({"answer": (1, 5)}, "question"),
        ({"question": (5, 9), "answer": (2, 4)}, "before"),
        ({"question": (1, 1), "answer": (2, 4)}, "no token"),
        ({"question": (1, 3), "answer": (4, 99)}, "inside"),
    ],
)
def test_spans_that_make_no_graph_are_refused(spans, message):
    nodes, edges = tables(10)
    with pytest.raises(ValueError, match=message):
        flowgraph_payload(nodes, edges, spans, text="t")


def test_folding_keeps_the_heaviest_and_never_crosses_parts():
    rng = np.random.default_rng(3)
    for n, most in ((400, 60), (400, 300), (61, 60), (5, 60), (300, 3)):
        through = rng.pareto(1.2, n)
        parts = np.repeat([0, 1, 2], [n // 3, n - n // 3 - 2, 2])
        runs = folded_runs(through, parts, most)
        folded = np.zeros(n, bool)
        for start, end in runs:
            assert end - start > 1
            assert len(set(parts[start:end])) == 1
            folded[start:end] = True
        drawn = n - sum(end - start - 1 for start, end in runs)
        assert drawn <= max(most, 3)
        assert all(a[1] <= b[0] for a, b in pairwise(runs))
        if runs and not folded.all():
            # As many as fit: with one token more there would be too many.
            assert drawn >= most - 2
        else:
            assert folded.all() or n <= most


def test_what_is_folded_is_summed():
    payload = graph(60, question=20, answer=4, most_nodes=20)
    offset, runs = payload["offset"], payload["folds"]
    owner = np.arange(offset, offset + len(payload["labels"]))
    for start, end in runs:
        owner[start - offset : end - offset] = start
    pairs: dict[tuple[int, int], float] = {}
    for row in payload["edges"].to_pylist():
        ends = tuple(int(owner[row[name] - offset]) for name in ("source", "target"))
        if row["needed"] < 0.8 and ends[0] != ends[1]:
            pairs[ends] = pairs.get(ends, 0) + row["flow"]
    svg = flowgraph_svg(payload, 0.8)
    assert len(paths(svg)) == len(pairs)
    widths = sorted(float(p.get("stroke-width", 0)) for p in paths(svg))
    everything: dict[tuple[int, int], float] = {}
    for row in payload["edges"].to_pylist():
        ends = tuple(int(owner[row[name] - offset]) for name in ("source", "target"))
        if ends[0] != ends[1]:
            everything[ends] = everything.get(ends, 0) + row["flow"]
    most = max(everything.values())
    assert widths == pytest.approx(sorted(max(0.7, 9 * f / most) for f in pairs.values()), abs=0.01)
    texts = ["".join(node.itertext()) for node in ET.fromstring(svg).iter(f"{SVG}text")]
    assert [t for t in texts if t.startswith("… ")] == [f"… {b - a} tokens" for a, b in runs]


@pytest.mark.parametrize("theme", palette.THEMES)
@pytest.mark.parametrize("width", [420, 960, 1600])
def test_hostile_tokens_make_a_well_formed_file_of_text_alone(theme, width):
    title = "\x00<b>&\ud800 title"
    payload = graph(60, question=30, answer=4, title=title, note="<i>")
    svg = flowgraph_svg(payload, 0.9, theme, width)
    root = ET.fromstring(svg.encode())
    tags = {node.tag.removeprefix(SVG) for node in root.iter()}
    assert tags == {"svg", "title", "rect", "g", "text", "tspan", "path", "circle"}
    names = {name for node in root.iter() for name in node.attrib}
    assert not any(name.startswith("on") or "href" in name for name in names)
    texts = ["".join(node.itertext()) for node in root.iter(f"{SVG}text")]
    assert texts[0] == "<b>& title"
    for label in payload["labels"]:
        assert re.sub("[\x01-\x03]", "", label) in texts
    view = [float(v) for v in root.get("viewBox", "").split()]
    for path in root.iter(f"{SVG}path"):
        places = [float(v) for v in re.findall(r"-?[\d.]+", path.get("d", ""))]
        assert all(-1 <= x <= view[2] + 1 for x in places[::2])


def test_all_flow_runs_right_or_down():
    for one in paths(flowgraph_svg(graph(60, question=20, answer=4), 1.0)):
        x1, y1, *_, x2, y2 = (float(v) for v in re.findall(r"-?[\d.]+", one.get("d", "")))
        assert x2 > x1 + 9 or y2 > y1


def test_labels_are_cut_but_codes_are_whole():
    assert shortened(markup("short")) == "short"
    assert shortened("x" * LABEL) == "x" * LABEL
    assert shortened("x" * (LABEL + 1)) == "x" * (LABEL - 1) + "…"
    for word in HOSTILE:
        label = shortened(markup(word))
        assert cells(label) <= LABEL
        assert label.count("\x03") == label.count("\x01") + label.count("\x02")
    assert cells("漢字") == 4


def test_a_page_of_256_tokens_stays_below_a_megabyte():
    payload = graph(256, question=80, answer=4)
    rest = {k: v for k, v in payload.items() if k not in ("columns", "edges")}
    size = payload["columns"].nbytes + payload["edges"].nbytes + len(orjson.dumps(rest))
    assert size < 1_000_000
    assert len(payload["columns"]) == 255
    assert payload["folds"]


def test_the_signature_names_what_is_drawn():
    nodes, edges = tables(20)
    spans = {"question": (1, 6), "answer": (18, 20)}
    other = edges.set_column(3, "flow", pa.array(edges["flow"].to_numpy() / 2))
    made = [
        flowgraph_payload(nodes, edges, spans, text="t"),
        flowgraph_payload(nodes, edges, spans, text="t"),
        flowgraph_payload(nodes, other, spans, text="t"),
        flowgraph_payload(nodes, edges, spans, text="t", note="x"),
        flowgraph_payload(nodes, edges, spans, text="u"),
    ]
    assert len({one["signature"] for one in made}) == 4
    assert made[0]["signature"] == made[1]["signature"]


def test_scripts_write_no_html_and_colours_come_from_the_palette():
    script = flowgraph_js()
    for way in ("innerHTML", "outerHTML", "insertAdjacent", "document.write", "eval("):
        assert way not in script
    assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", script)
    assert not re.search(r"#[0-9a-f]{6}\b", script)
    assert not re.search(r"#[0-9a-f]{3,8}\b", flowgraph_css().split("@media")[-1])
    assert "{" not in FLOWGRAPH_HTML


def test_only_edges_of_this_text_are_taken_from_the_browser():
    payload = graph(20, question=6, answer=2)
    event = {"signature": payload["text"], "edge": [2, 19], "stamp": 1}
    assert clicked_edge(event, payload) == (2, 19)
    for wrong in (
        None,
        {**event, "signature": "other"},
        {**event, "edge": [19, 2]},
        {**event, "edge": [0, 2]},
        {**event, "edge": [2, 20]},
        {**event, "edge": [2.0, 3]},
        {**event, "edge": "ab"},
        {**event, "edge": [True, 3]},
    ):
        assert clicked_edge(wrong, payload) is None


def _app() -> None:
    import streamlit as st

    from pages.widgets.flowgraph import flowgraph
    from tests.pages.test_flowgraph import graph

    st.write(repr(flowgraph(graph(30, question=8, answer=2), key="flow")))


def test_the_component_stands_in_a_page():
    at = AppTest.from_function(_app, default_timeout=30).run()
    assert not at.exception
    assert at.markdown[0].value == "(None, None)"
