"""What stands beside and below the text of the Tokenizer page."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import streamlit as st

import engine
from engine import Request, Result, Text
from engine.render.strip import plain_payload
from engine.render.text import plain
from engine.tokenizer.loader import files_digest
from pages.widgets import state, tokenizercorpus, tokenizerlattice, tokenizerviews
from pages.widgets.asking import ask
from pages.widgets.downloads import downloads
from pages.widgets.notice import hint, problem
from pages.widgets.strip import token_strip
from pages.widgets.tables import plain_table
from pages.widgets.tokenizerforms import Asked, tokenizer_of
from pages.widgets.tokenizerviews import View

TABS = {
    "spellings": "Spellings",
    "ids": "Ids",
    "vocabulary": "Vocabulary",
    "next": "Next byte",
    "probe": "Probe",
    "corpus": "My corpus",
    "numbers": "All numbers",
}
FINDINGS = 10
"""Findings shown before the rest is folded away."""

BUNDLED = ("demo", "demo-multidigit")
"""Two models that differ in how numbers are cut."""

STEPS = 14
"""Merges shown of a long word."""


def details(cut: Result, view: View, position: int) -> None:
    """The selected token: bytes, id, and why it was cut here."""
    (row,) = cut.table("tokens").slice(position, 1).to_pylist()
    st.subheader(f"Position {position:,}, id {row['token_id']:,}", anchor=False)
    with st.container(key="reward-token"):
        st.text(plain(row["token_bytes"], special=row["kind"] == "special"))
    with st.container(key="facts"):
        st.text(
            f"bytes   {row['token_bytes'].hex(' ')}\n"
            f"in the text   {row['start_byte']}–{row['end_byte']}\nkind   {row['kind']}"
        )
    rule, lines = tokenizerviews.steps(cut, position)
    st.text("Why was it cut here")
    if rule:
        st.code(rule, language=None, wrap_lines=True)
    if lines:
        shown = (
            lines if len(lines) <= 14 else [*lines[:6], f"… {len(lines) - 12} more …", *lines[-6:]]
        )
        st.code("\n".join(shown), language=None, wrap_lines=True)


def findings(cut: Result) -> None:
    """What was found, the worst first."""
    rows = sorted(
        cut.table("findings").to_pylist(),
        key=lambda r: (tokenizerviews.WORSE.index(r["severity"]), r["start_byte"] or 0),
    )
    if not rows:
        return
    st.subheader("Findings", anchor=False)
    listed = [
        {
            "": row["severity"],
            "finding": row["finding"].replace("_", " "),
            "evidence": row["evidence"],
            "at byte": row["start_byte"],
            "before": _joined(row["before"]),
            "after": _joined(row["after"]),
        }
        for row in rows
    ]
    st.dataframe(
        pa.Table.from_pylist(listed),
        hide_index=True,
        row_height=28,
        height=37 + 28 * min(len(listed), FINDINGS),
        placeholder="–",
        column_config={"evidence": st.column_config.Column(width="large")},
    )


def _joined(tokens: list[str] | None) -> str:
    return "|".join(plain(t) for t in tokens or ())


def compared(asked: Asked) -> Result | None:
    """Where the other tokenizers cut otherwise."""
    if not asked.others:
        return None
    subject = asked.request("text").subject
    request = Request("tokenizer.compare", subject, None, {"others": asked.others})
    return ask("tokenizer.compare", request, "Compare", auto=True, doing="Comparing")


def beside(asked: Asked, found: Result) -> None:
    """The same text in the others' tokens, and every stretch on which they differ."""
    for number, ref in enumerate(asked.others):
        request = Request("tokenizer.text", Text(prompt=asked.text, tokenizer=ref))
        other = ask(f"tokenizer.text.{number}", request, "Cut", auto=True)
        if other is not None:
            st.text(ref.title or ref.path.rpartition("/")[2])
            tokens = other.table("tokens")
            pieces = tokens["token_bytes"].to_pylist()
            token_strip(
                plain_payload(pieces, ["text"] * len(pieces)), key=f"tokenizer-beside-{number}"
            )
    _show(found, "compare", "summary", found.table("summary").drop_columns(["digest"]))
    spans = found.table("spans")
    st.text(f"They cut {spans.num_rows:,} stretches differently" + (":" if spans.num_rows else "."))
    if spans.num_rows:
        rows = [
            {
                "tokenizer": row["tokenizer"],
                "at byte": row["start_byte"],
                "this one": _joined(row["first"]),
                "the other": _joined(row["other"]),
            }
            for row in spans.to_pylist()
        ]
        st.dataframe(
            pa.Table.from_pylist(rows),
            hide_index=True,
            row_height=28,
            height=37 + 28 * min(len(rows), 8),
        )
    downloads(found, "spans", "Differences", key="compare")


def below(asked: Asked, cut: Result) -> None:
    """Spellings, ids, vocabulary, next byte and probe; only the open one is drawn."""
    tabs = st.tabs(list(TABS.values()), key="tokenizer-tabs", on_change="rerun")
    drawn = dict(zip(TABS, tabs, strict=True))
    makers = {
        "spellings": lambda: _spellings(asked),
        "ids": lambda: _ids(asked),
        "vocabulary": lambda: _vocabulary(asked),
        "next": lambda: _next_byte(asked),
        "probe": lambda: _probe(asked),
        "corpus": lambda: tokenizercorpus.corpus(asked),
        "numbers": lambda: _numbers(cut),
    }
    for name, tab in drawn.items():
        if tab.open:
            with tab:
                makers[name]()


def _columns(name: str, table: str) -> Any:
    return engine.analyses()[f"tokenizer.{name}"].tables[table].columns


def _show(found: Result, name: str, table: str, rows: pa.Table | None = None) -> None:
    plain_table(found.table(table) if rows is None else rows, _columns(name, table))


def _spellings(asked: Asked) -> None:
    given = st.text_input(
        "A string of the text, or any other",
        value=asked.text.split("\n")[0][:60],
        key="tokenizer-string",
        persist_state="session",
        max_chars=2000,
    )
    if not given:
        return
    one = Asked(given, asked.ref, asked.model)
    found = ask(
        "tokenizer.spellings", one.request("spellings", model=asked.own_model),
        "Count its spellings", doing="Counting",
    )  # fmt: skip
    if found is None:
        return
    row = found.table("spellings").to_pylist()[0]
    number = row["spellings"]
    number = f"{int(number):,}" if number and len(number) < 16 else f"2^{row['log2_spellings']:.1f}"
    st.text(
        f"{number} token sequences spell it, {row['bits_per_byte']:.2f} bits a byte; the tokenizer "
        f"takes {row['canonical_length']:,} tokens, the shortest has {row['shortest_length']:,}."
    )
    tokenizerlattice.draw(found.table("lattice"))
    left, right = st.columns(2, gap="medium")
    with left:
        st.text("The best ones")
        _show(found, "spellings", "best", _readable(found.table("best")))
    with right:
        share = found.table("share").to_pylist()
        if share and share[0]["canonical_share"] is not None:
            got = share[0]
            st.text(
                f"Of the probability the model gives to the string, {got['canonical_share']:.1%} "
                f"is on the tokenizer's own spelling ({got['low']:.1%}–{got['high']:.1%})."
            )
        st.text("Drawn at random")
        draws = found.table("draws").slice(0, 12)
        _show(found, "spellings", "draws", _readable(draws))
    downloads(found, "best", "Spellings", key="spellings")
    _phantoms(asked)
    downloads(found, "draws", "Draws", key="draws")


def _phantoms(asked: Asked) -> None:
    """Where the model might write the same word in other tokens."""
    if not asked.own_model:
        return
    request = Request("tokenizer.phantom", Text(prompt=asked.text), {"model": asked.model})
    found = ask(
        "tokenizer.phantom", request, "Where might the model respell the text?", doing="Reading"
    )
    if found is not None:
        table = found.table("words").sort_by([("risk", "descending")]).slice(0, 12)
        _show(found, "phantom", "words", _readable(table))
        downloads(found, "words", "Words", key="phantom")


def _readable(table: pa.Table) -> pa.Table:
    """Lists of tokens as one line each; ids are in the download."""
    for name in ("tokens", "given", "canonical"):
        if name in table.column_names and pa.types.is_list(table[name].type):
            at = table.column_names.index(name)
            lines = pa.array([_joined(t) for t in table[name].to_pylist()], pa.string())
            table = table.set_column(at, name, lines)
    kept = [n for n in table.column_names if not pa.types.is_list(table[n].type)]
    return table.select([n for n in kept if n not in ("part",)])


def _ids(asked: Asked) -> None:
    st.text(
        "Are these the ids the tokenizer itself would give, and where not, what differs? Leave the "
        "first field empty for the ids of the text chosen at the left."
    )
    left, right = st.columns(2, gap="medium")
    with left:
        given = _id_field("Ids, separated by commas or spaces", "tokenizer-ids")
    with right:
        other = _id_field("Compared with these instead (a phantom edit?)", "tokenizer-ids-other")
    if given is None or other is None:
        return
    params: dict[str, Any] = {"other": other} if other else {}
    trace = state.shown_trace()
    if given:
        request = asked.request("ids", ids=given, **params)
    elif trace is not None and trace.has_ids and asked.own_model:
        request = Request("tokenizer.ids", trace, {"model": asked.model}, params)
    else:
        hint("Paste ids of a log or of an engine.", key="ids")
        return
    found = ask("tokenizer.ids", request, "Look at them", auto=bool(given), doing="Reading the ids")
    if found is None:
        return
    (row,) = found.table("summary").to_pylist()
    same = "They are the same." if other else "They are canonical."
    st.text(
        same
        if row["canonical"]
        else f"{row['regions']:,} stretches differ in how the same text is cut, "
        f"{row['replaced'] or 0:,} in the text itself; {row['given_tokens']:,} ids are given, "
        f"against {row['canonical_tokens']:,}."
    )
    if found.table("regions").num_rows:
        _show(found, "ids", "regions", _readable(found.table("regions")))
    downloads(found, "regions", "Regions", key="regions")


def _id_field(label: str, key: str) -> tuple[int, ...] | None:
    """Ids that were typed; None when something typed is none, which is then said."""
    given = st.text_area(
        label, key=key, height=80, persist_state="session", placeholder="12, 345, 67"
    )
    words = given.replace(",", " ").split()
    wrong = next((w for w in words if not (w.isascii() and w.isdecimal() and len(w) < 10)), None)
    if wrong is not None:
        problem(f"{plain(wrong[:20])} is no id: give whole numbers such as 12, 345.", key=key)
        return None
    return tuple(map(int, words))


def _vocabulary(asked: Asked) -> None:
    st.text("Which tokens can ever occur? Each answer has its proof; nothing is guessed.")
    found = ask(
        "tokenizer.vocabulary", asked.vocabulary(), "Audit the vocabulary", doing="Auditing"
    )
    if found is None:
        return
    _show(found, "vocabulary", "summary")
    ids = found.table("ids")
    odd = ids.filter(
        pc.or_(pc.not_equal(ids["reachable"], "yes"), pc.not_equal(ids["utf8"], "whole"))
    )
    st.text(f"{odd.num_rows:,} ids that cannot occur, stay open, or hold parts of characters:")
    plain_table(odd.drop_columns(["token_bytes"]).slice(0, 500), _columns("vocabulary", "ids"))
    if found.table("bigrams").num_rows:
        st.text("Pairs that share a character and belong to different scripts:")
        _show(found, "vocabulary", "bigrams")
    downloads(found, "ids", "All ids", key="ids")
    spoken = ask(
        "tokenizer.languages", asked.vocabulary("languages"), "Whose letters are they?",
        doing="Comparing letters",
    )  # fmt: skip
    if spoken is not None:
        st.text("Tokens by the alphabets that hold their letters; shared ones count as 1/n")
        _show(spoken, "languages", "languages", spoken.table("languages").slice(0, 40))
        downloads(spoken, "languages", "Languages", key="languages")
    if asked.own_model:
        _of_model(asked)


def _of_model(asked: Asked) -> None:
    """What needs the model or its folder: loader mismatch, ids that were never trained."""
    ref = tokenizer_of(asked.model)
    beside = {"files": files_digest(Path(ref.path).parent)}
    found = ask(
        "tokenizer.loader", Request("tokenizer.loader", ref, None, beside),
        "Does transformers load this very tokenizer?", doing="Loading it both ways",
    )  # fmt: skip
    if found is not None:
        (row,) = found.table("summary").to_pylist()
        st.text(
            f"transformers {row['transformers']} makes a {row['loaded_class']} of it: "
            f"{row['differences']:,} settings differ, {row['different_probes']:,} of "
            f"{row['probes']:,} texts give other ids."
        )
        if found.table("differences").num_rows:
            _show(found, "loader", "differences")
    request = Request("tokenizer.undertrained", ref, {"model": asked.model})
    found = ask(
        "tokenizer.undertrained", request, "Look for ids that were never trained", doing="Looking"
    )
    if found is not None:
        _show(found, "undertrained", "candidates", _readable(found.table("candidates")))
        downloads(found, "tokens", "Embeddings", key="undertrained")


def _next_byte(asked: Asked) -> None:
    if not asked.own_model:
        hint("Choose the model's own tokenizer above: the model is asked here.", key="next")
        return
    st.text(
        "What the model says next, byte by byte, when the prompt's last tokens are not taken as "
        "they happen to be cut. Try a prompt that ends in a space or inside a word."
    )
    prompt = st.text_area(
        "Prompt",
        value=asked.text[:200],
        key="tokenizer-prompt",
        height=80,
        max_chars=4000,
        persist_state="session",
    )
    if not prompt:
        return
    request = Request("tokenizer.next_byte", Text(prompt=prompt), {"model": asked.model})
    found = ask("tokenizer.next_byte", request, "What comes next?", doing="Asking the model")
    if found is None:
        return
    (row,) = found.table("summary").to_pylist()
    st.text(
        f"The boundary misplaces {row['total_variation']:.1%} of the probability; after token "
        f"healing {_percent(row['healing_variation'])}, after token alignment "
        f"{_percent(row['alignment_variation'])}."
    )
    table = found.table("bytes").sort_by([("probability", "descending")]).slice(0, 20)
    _show(found, "next_byte", "bytes", table)
    st.text("The ways to cut the prompt's end that count")
    _show(found, "next_byte", "covers", _readable(found.table("covers")))
    downloads(found, "bytes", "Next byte", key="next")


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{value:.1%}"


def _probe(asked: Asked) -> None:
    """Tasks about letters and digits; of the bundled models the other one stands beside."""
    st.text(
        "Small tasks about letters and digits: does the model see what is inside its tokens? The "
        "two bundled models learned the same stories, one with a token for each digit."
    )
    found = ask("tokenizer.probe", _probing(asked.model), "Run the tasks", doing="Asking the model")
    if found is None:
        return
    other = dict([BUNDLED, BUNDLED[::-1]]).get(asked.model)
    beside = None if other is None else state.workspace().lookup(_probing(other))
    results = {asked.model: found} | ({str(other): beside} if beside is not None else {})
    _accuracies(results)
    with st.expander("By length of the tokens and by how the word is cut"):
        for name, result in results.items():
            st.text(name)
            _show(result, "probe", "tasks")
    downloads(found, "tasks", "Tasks", key="probe")
    downloads(found, "cases", "Cases", key="probe-cases")


def _accuracies(results: dict[str, Result]) -> None:
    """One row for each task, and for each number of digits; one column for each model."""
    rows: dict[tuple[str, str], dict[str, Any]] = {}
    for name, result in results.items():
        for row in result.table("tasks").to_pylist():
            if row["by"] not in ("all", "digits"):
                continue
            group = "all" if row["by"] == "all" else f"{row['group']} digits"
            line = rows.setdefault((row["task"], group), {"task": row["task"], "of": group})
            line["questions"], line["chance"] = row["n"], row["chance"]
            line[name] = row["accuracy"]
            line[f"{name}, 95 %"] = f"{row['low']:.2f}–{row['high']:.2f}"
    order = ["task", "of", "questions", *(n for m in results for n in (m, f"{m}, 95 %")), "chance"]
    table = pa.Table.from_pylist([{n: row.get(n) for n in order} for row in rows.values()])
    plain_table(table, {})


def _probing(model: str) -> Request:
    return Request("tokenizer.probe", Text(prompt=""), {"model": model})


def _numbers(cut: Result) -> None:
    for table, label in (("tokens", "Tokens"), ("words", "Words"), ("letters", "Letters")):
        rows = cut.table(table)
        if rows.num_rows:
            st.text(label)
            shown = rows.drop_columns(["token_bytes"]) if table == "tokens" else rows
            _show(cut, "text", table, shown.slice(0, 2000))
    for table in ("findings", "tokens", "cuts", "letters", "words"):
        downloads(cut, table, table.capitalize(), key=f"cut-{table}")
