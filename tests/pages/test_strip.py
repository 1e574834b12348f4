"""The strip's payload, legend ranges, details panel and self-contained HTML."""

from __future__ import annotations

import json
import math
import re
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from engine import Result
from engine.registry import find
from engine.render.details import details
from engine.render.signals import signals_of, values_of
from engine.render.strip import (
    ANSWER,
    PROMPT,
    SPECIAL,
    html,
    most_striking,
    names,
    payload,
    pieces,
    plain_payload,
)
from engine.render.text import markup
from engine.render.words import written
from engine.schema import Column

HOSTILE = [
    b"<bos>",
    b"</script><img src=x onerror=alert(1)>",
    b" \xf0\x9f",
    "\u202e".encode(),
    b"4",
]
SEGMENTS = ["prompt", "prompt", "response", "response", "answer"]
SURPRISAL = [None, 9.0, 0.5, 5.82, 0.01]


def make_tables() -> dict[str, pa.Table]:
    n = len(HOSTILE)
    logprob = [None if s is None else -s for s in SURPRISAL]
    floats = {"logprob": logprob, "surprisal": SURPRISAL, "entropy": [None, 1.0, 0.2, 0.03, 0.0]}
    tokens = pa.table(
        {
            "position": pa.array(range(n), pa.int64()),
            "token_id": pa.array([256, 1, 2, 3, 4], pa.int64()),
            "token": pa.array([t.decode("utf-8", "backslashreplace") for t in HOSTILE]),
            "token_bytes": pa.array(HOSTILE, pa.binary()),
            "special": pa.array([True, False, False, False, False]),
            "role": pa.array(["user", "user", "assistant", "assistant", "assistant"]),
            "segment": pa.array(SEGMENTS),
            **{name: pa.array(values, pa.float32()) for name, values in floats.items()},
            "rank": pa.array([None, 5000, 1, 2, 11], pa.int64()),
            "ties": pa.array([None, 0, 0, 1, 0], pa.int64()),
        }
    )
    rows = [
        {
            "position": p,
            "alternative_rank": k,
            "alternative_id": 100 + k if (p, k) != (3, 2) else 3,
            "alternative": "<b>x</b>",
            "alternative_bytes": b"<b>x</b>",
            "logprob": -float(k),
        }
        for p in range(1, n)
        for k in range(1, 21)
    ]
    return {"tokens": tokens, "alternatives": pa.Table.from_pylist(rows)}


def drawn(data: dict[str, Any]) -> list[str]:
    """The tokens of a payload as they are drawn."""
    return [data["words"][k] for k in data["columns"]["word"].to_pylist()]


@pytest.fixture
def tables() -> dict[str, pa.Table]:
    return make_tables()


@pytest.fixture
def declared():
    return find("statistics").tables["tokens"].columns


def test_the_payload_marks_prompt_answer_and_special_tokens(tables, declared):
    data = payload(tables, columns=declared)
    assert data["columns"]["flags"].to_pylist() == [PROMPT | SPECIAL, PROMPT, 0, 0, ANSWER]
    assert names(tables)[0] == "⟨bos⟩"
    assert names(tables)[2] == r"·\xf0\x9f"
    assert names(tables)[3] == "U+202E"


def test_a_value_belongs_to_its_own_token(tables):
    values = payload(tables)["columns"]["surprisal"].to_pylist()
    assert values[0] is None
    assert values[3] == pytest.approx(5.82)
    assert most_striking(tables["tokens"]) == 3


def test_only_the_prompt_is_no_reason_to_have_no_selection(tables):
    only = tables["tokens"].set_column(6, "segment", pa.array(["prompt"] * 5))
    assert most_striking(only) == 1
    assert most_striking(only.slice(0, 1)) == 0


def test_the_scale_fits_the_response_and_says_when_more_is_beyond(tables, declared):
    surprisal = next(s for s in signals_of(tables["tokens"], declared) if s.name == "surprisal")
    assert (surprisal.low, surprisal.high, surprisal.unit) == (0, 6, "nats")
    assert surprisal.labels == ("0", "6 or more")


def test_an_ordinary_token_is_background_for_every_signal(tables, declared):
    by_name = {s.name: s for s in signals_of(tables["tokens"], declared)}
    assert by_name["probability"].low == 1
    assert by_name["probability"].high == 0
    assert by_name["rank"].map == "buckets"
    assert by_name["rank"].labels[0] == "1"
    assert len(by_name["rank"].labels) == len(by_name["rank"].edges) + 1
    assert np.nanmax(values_of(tables["tokens"], "probability")) <= 1


def test_signed_values_get_a_diverging_map(tables):
    signed = tables["tokens"].append_column("thr", pa.array([None, 0, 1, -2, 0], pa.float32()))
    column = type("C", (), {"label": "THR", "unit": "", "doc": "d"})()
    thr = next(s for s in signals_of(signed, {"thr": column}) if s.name == "thr")
    assert (thr.map, thr.low, thr.high) == ("diverging", -2, 2)


def test_the_payload_changes_its_name_with_its_content(tables):
    other = {**tables, "tokens": tables["tokens"].set_column(1, "token_id", pa.array([0] * 5))}
    longer = {"tokens": tables["tokens"].slice(0, 4)}
    assert payload(tables)["signature"] == payload(other)["signature"]
    assert payload(tables)["signature"] != payload(longer)["signature"]


def test_equal_tokens_are_marked_up_once_and_each_is_drawn_as_itself():
    rng = np.random.default_rng(0)
    kinds = [*HOSTILE, b" the", b"", b"<eos>", "é".encode(), b"\xc3", b" \n  x", b"y" * 300]
    tokens = [kinds[k] for k in rng.integers(0, len(kinds), 400)]
    special = (rng.random(400) < 0.3).tolist()
    table = {
        "tokens": pa.table(
            {
                "token_bytes": pa.array([t or None for t in tokens], pa.binary()),
                "special": pa.array([s or None for s in special], pa.bool_()),
                "segment": ["response"] * 400,
            }
        )
    }
    data = payload(table)
    naive = [markup(t, special=s, longest=2000) for t, s in zip(tokens, special, strict=True)]
    assert drawn(data) == naive
    assert len(data["words"]) <= 2 * len(kinds)
    assert pieces(table) == [markup(t, special=s) for t, s in zip(tokens, special, strict=True)]
    flags = data["columns"]["flags"].to_pylist()
    assert flags == [SPECIAL if s else 0 for s in special]


def test_every_token_knows_its_place_in_the_text():
    smile = "😀".encode()
    tokens = [b" a", smile[:1], smile[1:3], smile[3:], b"", "é😀".encode(), b"\xff\xfe", b"b", b""]
    text, start, stop = written(pa.array(tokens))
    assert text == r" a😀é😀\xff\xfeb"
    units = text.encode("utf-16-le")
    parts = [units[2 * a : 2 * b].decode("utf-16-le") for a, b in zip(start, stop, strict=True)]
    assert parts == [" a", "😀", "😀", "😀", "", "é😀", r"\xff\xfe", "b", ""]
    # As a log may cut it: at any byte.
    whole = "x😀é漢\u202e".encode() + b"\xf0\x9f" + "ñ".encode()
    for cut in range(1, len(whole)):
        text, start, stop = written(pa.array([whole[:cut], whole[cut:]]))
        assert text == whole.decode("utf-8", "backslashreplace")
        assert start[0] == 0
        assert stop[1] == len(text.encode("utf-16-le")) // 2
        assert 0 <= stop[0] - start[1] <= 2
    assert written(pa.array([], pa.binary()))[0] == ""


def test_the_best_alternatives_are_found_as_one_by_one(tables):
    rng = np.random.default_rng(1)
    rows = tables["alternatives"].to_pylist()
    for row in rows:
        row["alternative_bytes"] = b"<x%d>" % rng.integers(0, 9)
        row["logprob"] = float(rng.normal())
    rng.shuffle(rows)
    rows = [r for r in rows if (r["position"], r["alternative_rank"]) != (2, 3)]
    data = payload({**tables, "alternatives": pa.Table.from_pylist(rows)})
    columns = data["columns"].to_pydict()
    for k in (1, 2, 3):
        naive = {r["position"]: r for r in rows if r["alternative_rank"] == k}
        for position in range(5):
            place, chance = columns[f"alternative_{k}"][position], columns[f"chance_{k}"][position]
            if position not in naive:
                assert (place, chance) == (-1, None)
                continue
            row = naive[position]
            assert data["words"][place] == markup(row["alternative_bytes"], special=True)
            assert chance == pytest.approx(math.exp(row["logprob"]), rel=1e-6)


def test_further_signals_only_change_the_numbers(tables, declared):
    plain = payload(tables, columns=declared, text="d" * 24)
    shift = Column(pa.float32(), "How far two models part.", "nats", "shift")
    chance = Column(pa.float64(), "Chance of a right answer.", "probability", "value")
    more = {
        "shift": (np.array([np.nan, -1.5, 0.2, 3.0, 0]), shift),
        "value": ([None, 0.9, 0.9, 0.1, 0.0], chance),
        "critical": ([None, False, False, True, False], Column(pa.bool_(), "The culprit.")),
    }
    data = payload(tables, columns=declared, text="d" * 24, extra=more)
    assert plain["text"] == data["text"] == "d" * 24
    assert plain["signature"] == data["signature"]
    assert plain["values"] != data["values"]
    by_name = {s["name"]: s for s in data["signals"]}
    assert by_name["shift"]["map"] == "diverging"
    assert by_name["shift"]["unit"] == "nats"
    # A high chance of a right answer is the ordinary, its fall is what is coloured.
    assert (by_name["value"]["low"], by_name["value"]["high"]) == (1, 0)
    assert by_name["critical"]["labels"] == ("no", "yes")
    assert data["columns"]["critical"].to_pylist() == [None, 0, 0, 1, 0]
    assert data["columns"]["shift"].to_pylist()[0] is None
    with pytest.raises(ValueError, match="already"):
        payload(tables, extra={"surprisal": ([0.0] * 5, chance)})
    with pytest.raises(ValueError, match="4 values for 5 tokens"):
        payload(tables, extra={"value": ([0.0] * 4, chance)})


def test_text_columns_are_no_signals(tables):
    named = tables["tokens"].append_column("class", pa.array(["a"] * 5))
    words = {"class": Column(pa.string(), "A class.")}
    assert "class" not in {s["name"] for s in payload({"tokens": named}, columns=words)["signals"]}


def test_a_text_without_numbers_can_be_drawn():
    data = plain_payload(HOSTILE, SEGMENTS, special=[0])
    assert data["signals"] == []
    assert drawn(data)[3].strip("\x02\x03") == "U+202E"
    assert data["text"] == data["signature"]
    assert not data["tools"]


def test_details_list_twenty_alternatives_and_mark_the_one_that_was_said(tables, declared):
    signals = signals_of(tables["tokens"], declared)
    shown = details(tables, 3, 3, signals)
    assert len(shown["alternatives"]) == 20
    assert [a["rank"] for a in shown["alternatives"] if a["said"]] == [2]
    facts = {f["label"]: f["value"] for f in shown["facts"]}
    assert facts["position"] == "3 of 4"
    assert facts["surprisal"] == "5.82"
    assert {f["label"] for f in shown["more"]} >= {"ties", "token id"}


def test_details_add_the_said_token_when_it_is_not_among_them(tables, declared):
    shown = details(tables, 4, 4, signals_of(tables["tokens"], declared))
    assert len(shown["alternatives"]) == 21
    assert shown["alternatives"][-1]["rank"] == 11
    assert shown["alternatives"][-1]["said"]


def test_details_say_why_a_value_is_missing(tables, declared):
    notes = pa.Table.from_pylist(
        [{"table": "tokens", "column": None, "position": 0, "rollout": None, "reason": "no past"}]
    )
    shown = details(tables, 0, 0, signals_of(tables["tokens"], declared), reasons=notes)
    assert shown["note"] == "No past."
    assert {f["value"] for f in shown["facts"][1:]} == {"–"}


def test_details_of_a_stretch_sum_it_up(tables, declared):
    shown = details(tables, 4, 2, signals_of(tables["tokens"], declared))
    facts = {f["label"]: f["value"] for f in shown["facts"]}
    assert facts["log-probability"] == "−6.33"
    assert facts["perplexity"] == f"{math.exp(6.33 / 3):.2f}"


def test_no_token_can_leave_the_data_of_the_html(tables):
    page = html(tables)
    scripts = re.findall(r"<script type=\"application/json\">(.*?)</script>", page, re.S)
    assert len(scripts) == 1
    assert "<" not in scripts[0]
    assert "&" not in scripts[0]
    data = json.loads(scripts[0])
    assert "onerror" in "".join(data["words"])
    assert "<img" not in page
    assert "\u202e" not in page
    assert data["columns"]["surprisal"][0] is None


def test_a_result_in_a_notebook_shows_one_rollout(tables):
    lifted = {
        name: pa.concat_tables(
            table.append_column("rollout", pa.array([r] * table.num_rows, pa.int64()))
            for r in (0, 1)
        )
        for name, table in tables.items()
    }
    result = Result("k" * 64, "statistics", "complete", "computed", lifted, None, {})
    page = result._repr_html_()
    data = re.search(r"<script type=\"application/json\">(.*?)</script>", page, re.S)
    assert len(json.loads(data[1])["columns"]["word"]) == len(HOSTILE)


def test_a_result_without_tokens_is_shown_as_an_escaped_table():
    table = pa.table({"text": ["<img src=x>"]})
    result = Result("k" * 64, "generate", "complete", "computed", {"samples": table}, None, {})
    assert "<img" not in result._repr_html_()


def test_the_html_needs_nothing_from_elsewhere(tables):
    page = html(tables)
    assert not re.search(r"https?://", page)
    assert "import " not in page.split('<script type="module">')[1]
