"""Branches as data: what else could be said here, the tree of what was, two traces side by side."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from engine.answers import answer_text
from engine.branching.align import Row
from engine.branching.branches import ORIGIN, Branch, Place, Tree, trace_at, walk
from engine.render.text import markup, number, one_line, plain
from engine.trace import Trace

LISTED = 20
"""Alternatives shown; more can be typed."""

CONTEXT = 10
"""Tokens shown at either end of a stretch that is the same."""

MOST_PAIRS = 4_000
_ANSWER = 14
_FORCED = 6

CHOICES_HTML = '<div class="ts-choices"></div>'
TREE_HTML = '<div class="ts-tree"></div>'
ALIGNED_HTML = '<div class="ts-aligned"></div>'


# -- what else could be said ------------------------------------------------------------------


def choices_data(
    tables: Mapping[str, pa.Table],
    position: int,
    *,
    text: str,
    chosen: int | None,
    kept: Mapping[str, pa.Table] | None = None,
) -> dict[str, Any]:
    """The alternatives at a position, for the component ``choices``.

    Args:
        tables: ``statistics`` of the trace.
        position: the selected token.
        text: name of the trace.
        chosen: id that is to be forced; None for none of them.
        kept: ``sampler.kept`` at this position; None shows the plain model alone.
    """
    tokens = tables["tokens"]
    here = tokens.slice(position, 1).to_pylist()[0]
    rows = alternatives(tables, position)
    shares = {} if kept is None else {r["token_id"]: r for r in kept["kept"].to_pylist()}
    drawn = []
    for row in rows:
        after = shares.get(row["id"])
        share = None if after is None else after["after"]
        drawn.append(
            {
                "id": row["id"],
                "rank": row["rank"],
                "piece": markup(row["bytes"], special=True),
                "said": row["said"],
                "share": row["p"],
                "before": number(row["p"]),
                "afterShare": share,
                "after": "" if after is None else number(share) if after["kept"] else "cut",
                "cut": after is not None and not after["kept"],
            }
        )
    return {
        "text": text,
        "position": position,
        "piece": markup(here["token_bytes"] or b"", special=bool(here["special"])),
        "where": f"position {position:,}" + _chance(here),
        "rows": drawn,
        "chosen": chosen,
        "two": kept is not None,
        "note": "" if kept is None else _kept_note(kept),
    }


def alternatives(tables: Mapping[str, pa.Table], position: int) -> list[dict[str, Any]]:
    """Id, bytes, rank and probability of what the model thought of, the said token included."""
    here = tables["tokens"].slice(position, 1).to_pylist()[0]
    table = tables.get("alternatives")
    found: list[dict[str, Any]] = []
    if table is not None:
        mask = pc.and_(
            pc.equal(table["position"], position), pc.less_equal(table["alternative_rank"], LISTED)
        )
        found = [
            {
                "id": r["alternative_id"],
                "bytes": r["alternative_bytes"],
                "rank": r["alternative_rank"],
                "p": math.exp(r["logprob"]),
                "said": r["alternative_id"] == here["token_id"],
            }
            for r in table.filter(mask).to_pylist()
            if r["alternative_id"] is not None
        ]
    if found and not any(r["said"] for r in found) and here["logprob"] is not None:
        own = {"id": here["token_id"], "bytes": here["token_bytes"], "said": True}
        found.append({**own, "rank": here["rank"], "p": math.exp(here["logprob"])})
    return found


def _chance(here: Mapping[str, Any]) -> str:
    if here.get("logprob") is None:
        return ""
    return f" · said with p = {number(math.exp(here['logprob']))}, rank {here['rank']:,}"


def _kept_note(kept: Mapping[str, pa.Table]) -> str:
    row = kept["summary"].to_pylist()[0]
    return (
        f"{row['kept']:,} of {row['vocabulary']:,} tokens kept; the model gave them "
        f"{number(row['kept_mass'])}. Entropy {number(row['entropy_before'])} → "
        f"{number(row['entropy_after'])} nats."
    )


# -- the tree ---------------------------------------------------------------------------------


def tree_data(tree: Tree, shown: Place, compared: Place | None) -> dict[str, Any]:
    """The tree for the component ``tree``: one row a branch, one chip a continuation."""
    rows = [
        {
            "branch": ORIGIN.branch,
            "depth": 0,
            "forced": "",
            "said": "",
            "label": "as it was said",
            "facts": [],
            "chips": [_chip(ORIGIN, tree.root, tree.verdict, bool(tree.expected))],
        }
    ]
    for depth, branch in walk(tree):
        chips = [
            _chip(Place(branch=branch.id, sample=s), trace, verdict, bool(tree.expected))
            for s, trace, verdict in zip(
                branch.samples, branch.traces, branch.verdicts, strict=True
            )
        ]
        parent = trace_at(tree, branch.parent)
        here = parent.pieces[branch.position : branch.position + 1]
        rows.append(
            {
                "branch": branch.id,
                "depth": depth,
                "forced": forced_markup(branch),
                "said": markup(here[0], special=True) if here and branch.forced else "",
                "label": f"at {branch.position:,}" + _origin(branch.parent),
                "facts": facts(branch, bool(tree.expected)),
                "chips": chips,
            }
        )
    return {
        "rows": rows,
        "shown": [shown.branch, shown.sample],
        "compared": None if compared is None else [compared.branch, compared.sample],
    }


def facts(branch: Branch, expected: bool) -> list[str]:
    """What a branch is, in short phrases: log-probability, how many are right, how it was drawn."""
    found = []
    n = len(branch.traces)
    if expected:
        missing = n - branch.checked
        found.append(
            f"{branch.right:,} of {n:,} right" + (f", {missing:,} unanswered" if missing else "")
        )
    else:
        found.append(f"{n:,} not checked")
    if branch.logprob is not None:
        found.append(f"log p {number(branch.logprob)}")
    s = branch.sampling
    drawn = [f"T {s.temperature:g}"]
    for name, value in (("top-k", s.top_k), ("top-p", s.top_p), ("min-p", s.min_p)):
        if value is not None:
            drawn.append(f"{name} {value:g}")
    if s.seed:
        drawn.append(f"seed {s.seed}")
    return [*found, ", ".join(drawn)]


def forced_markup(branch: Branch) -> str:
    """What was forced, as the components draw it; empty when nothing was."""
    pieces = "".join(markup(piece, special=True) for piece in branch.pieces[:_FORCED])
    return pieces + ("…" if len(branch.pieces) > _FORCED else "")


def place_name(tree: Tree, place: Place) -> str:
    """A trace of the tree in words, as plain text."""
    if place == ORIGIN:
        return "As it was said"
    branch = next(b for b in tree.branches if b.id == place.branch)
    said = "".join(plain(piece, special=True) for piece in branch.pieces[:_FORCED])
    what = f"“{said}{'…' if len(branch.pieces) > _FORCED else ''}”" if said else "Drawn again"
    return f"{what} at {branch.position:,}, no. {place.sample + 1}{_origin(branch.parent)}"


def _origin(parent: Place) -> str:
    return "" if parent == ORIGIN else f" of no. {parent.sample + 1}"


def _chip(place: Place, trace: Trace, verdict: bool | None, expected: bool) -> dict[str, Any]:
    answer = answer_text(trace)
    said = one_line(answer, _ANSWER) if answer else ""
    mark = {True: "right", False: "wrong", None: "none" if expected else "unchecked"}[verdict]
    words = {"right": "right", "wrong": "wrong", "none": "cannot be checked"}.get(mark, "")
    title = f"no. {place.sample + 1}: " + (f"answer {said}" if said else "no answer found")
    return {
        "sample": place.sample,
        "answer": said or "–",
        "mark": mark,
        "title": f"{title}, {words}" if words else title,
    }


# -- two traces side by side ------------------------------------------------------------------


def aligned_data(
    a: Trace, b: Trace, rows: Sequence[Row], *, titles: tuple[str, str], whole: bool = False
) -> dict[str, Any]:
    """Two traces for the component ``aligned``: pairs of what stands above each other.

    Args:
        a: the upper one.
        b: the lower one.
        rows: of ``align(a, b)``.
        titles: what to call them.
        whole: also show the middle of long stretches that are the same.
    """
    pairs: list[dict[str, Any]] = []
    special = set(a.special), set(b.special)
    for pair in _pairs(rows, whole):
        if len(pairs) == MOST_PAIRS:
            pairs.append({"kind": "skipped", "text": "… and so on"})
            break
        if isinstance(pair, int):
            pairs.append({"kind": "skipped", "text": f"{pair:,} tokens the same"})
            continue
        upper = [markup(a.pieces[i], special=i in special[0]) for i in range(*pair.a)]
        lower = [markup(b.pieces[j], special=j in special[1]) for j in range(*pair.b)]
        ends = any(t.pieces[p].endswith(b"\n") for t, r in ((a, pair.a), (b, pair.b))
                   for p in range(*r))  # fmt: skip
        pairs.append({"kind": pair.kind, "a": upper, "b": lower, "ends": ends})
    return {"titles": list(titles), "pairs": pairs, "summary": alignment_summary(rows)}


def alignment_summary(rows: Sequence[Row]) -> str:
    """How much of two traces is the same, in words."""
    count = dict.fromkeys(("same", "recut", "changed", "only_a", "only_b"), 0)
    for row in rows:
        side = row.b if row.kind == "only_b" else row.a
        count[row.kind] += side[1] - side[0]
    parts = [f"{count['same']:,} tokens the same"]
    for kind, words in (
        ("recut", "cut differently"),
        ("changed", "changed"),
        ("only_a", "only above"),
        ("only_b", "only below"),
    ):
        if count[kind]:
            parts.append(f"{count[kind]:,} {words}")
    return ", ".join(parts)


def _pairs(rows: Sequence[Row], whole: bool) -> Iterator[Row | int]:
    """Rows with stretches that are the same taken apart, or their middle as a count."""
    for at, row in enumerate(rows):
        if row.kind != "same":
            yield row
            continue
        n = row.a[1] - row.a[0]
        head = 0 if at == 0 else CONTEXT
        tail = 0 if at == len(rows) - 1 and at else CONTEXT
        shown = list(range(n))
        left = n - head - tail
        if not whole and left > CONTEXT:
            yield from (_one(row, k) for k in shown[:head])
            yield left
            yield from (_one(row, k) for k in shown[n - tail :])
        else:
            yield from (_one(row, k) for k in shown)


def _one(row: Row, k: int) -> Row:
    i, j = row.a[0] + k, row.b[0] + k
    return Row("same", (i, i + 1), (j, j + 1))
