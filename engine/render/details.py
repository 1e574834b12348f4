"""The selected tokens in numbers, and what else the model might have said there."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from engine.render.signals import Signal, values_of
from engine.render.text import markup, number

TITLE = "What else it might have said"
MAIN = ("surprisal", "probability", "entropy", "rank", "margin")
_QUOTE = 60


def details(
    tables: Mapping[str, pa.Table],
    first: int,
    last: int,
    signals: Collection[Signal],
    *,
    reasons: pa.Table | None = None,
    force: bool = False,
) -> dict[str, Any]:
    """What the panel at the right shows for one token, or for a stretch of them.

    Args:
        tables: ``tokens`` and ``alternatives``.
        first: first selected position.
        last: last selected position.
        signals: the values to list, in order.
        reasons: the result's notes: why a value is missing.
        force: offer to force an alternative; the component then reports ``position`` and ``id``.
    """
    first, last = min(first, last), max(first, last)
    if first < last:
        return _stretch(tables["tokens"], first, last)
    tokens = tables["tokens"]
    row = tokens.slice(first, 1).to_pylist()[0]
    position = _fact("position", f"{first:,} of {tokens.num_rows - 1:,}", "Counted from 0.")
    main = [_value(tokens, s, first) for s in signals if s.name in MAIN]
    more = [_value(tokens, s, first) for s in signals if s.name not in MAIN]
    if row.get("ties"):
        more.append(_fact("ties", number(row["ties"]), "Other ids with exactly the same logit."))
    if row["token_id"] is not None and row["token_id"] >= 0:
        more.append(_fact("token id", f"{row['token_id']}", "Place in the model's vocabulary."))
    others = _alternatives(tables.get("alternatives"), first, row)
    return {
        "position": first,
        "force": force,
        "piece": markup(row["token_bytes"] or row["token"], special=row["special"]),
        "context": row["segment"] if row["segment"] == row["role"] else _speaker(row),
        "facts": [position, *main],
        "more": more,
        "title": TITLE,
        "alternatives": others,
        "note": _reason(reasons, first),
    }


def _speaker(row: Mapping[str, Any]) -> str:
    return row["segment"] if row["role"] == "text" else f"{row['segment']} · {row['role']}"


def _value(tokens: pa.Table, signal: Signal, at: int) -> dict[str, str]:
    if signal.name == "rank":
        value = tokens["rank"][at].as_py()
    else:
        value = float(values_of(tokens, signal.name)[at])
    shown = number(value)
    return _fact(signal.title, shown, signal.doc, signal.unit if shown != "–" else "")


def _fact(label: str, value: str, help_text: str = "", unit: str = "") -> dict[str, str]:
    return {"label": label, "value": value, "unit": unit, "help": help_text}


def _alternatives(
    alternatives: pa.Table | None, at: int, row: Mapping[str, Any]
) -> list[dict[str, Any]]:
    if alternatives is None:
        return []
    here = alternatives.filter(pc.equal(alternatives["position"], at)).to_pylist()
    rows = [
        _alternative(
            r["alternative_bytes"], r["alternative_rank"], r["logprob"], said, r["alternative_id"]
        )
        for r in here
        for said in [_said(r, row)]
    ]
    if rows and not any(r["said"] for r in rows) and row["logprob"] is not None:
        rows.append(_alternative(row["token_bytes"], row["rank"], row["logprob"], True))
    return rows


def _said(alternative: Mapping[str, Any], row: Mapping[str, Any]) -> bool:
    """Whether it is the token that was said: by id, by bytes where a log gave no ids."""
    one, other = alternative["alternative_id"], row["token_id"]
    if one is None or other is None or min(one, other) < 0:
        return bool(alternative["alternative_bytes"] == row["token_bytes"])
    return bool(one == other)


def _alternative(
    token: bytes, rank: int, logprob: float, said: bool, token_id: int | None = None
) -> dict[str, Any]:
    share = math.exp(logprob)
    return {
        "id": None if token_id is None or token_id < 0 else token_id,
        "piece": markup(token, special=True),
        "share": share,
        "chance": number(share),
        "said": said,
        "rank": rank,
    }


def _reason(reasons: pa.Table | None, at: int) -> str:
    if reasons is None:
        return ""
    here = {r["reason"] for r in reasons.to_pylist() if r["position"] == at}
    return " ".join(f"{reason[:1].upper()}{reason[1:]}." for reason in sorted(here))


def _stretch(tokens: pa.Table, first: int, last: int) -> dict[str, Any]:
    part = tokens.slice(first, last - first + 1)
    surprisal = values_of(part, "surprisal").astype(np.float64)
    known = surprisal[np.isfinite(surprisal)]
    facts = [
        _fact("positions", f"{first:,}–{last:,}"),
        _fact("tokens", number(part.num_rows)),
    ]
    if known.size:
        total, mean = float(known.sum()), float(known.mean())
        facts += [
            _fact("log-probability", number(-total), "Of all these tokens together.", "nats"),
            _fact("mean surprisal", number(mean), "Per token.", "nats"),
            _fact("perplexity", number(math.exp(min(mean, 700))), "exp of the mean surprisal."),
        ]
    pieces = [t or b"" for t in part["token_bytes"].to_pylist()]
    marks = part["special"].to_pylist()
    quoted = zip(pieces[:_QUOTE], marks[:_QUOTE], strict=True)
    quote = "".join(markup(p, special=s) for p, s in quoted)
    return {
        "position": first,
        "force": False,
        "piece": quote + ("…" if len(pieces) > _QUOTE else ""),
        "context": "a stretch of tokens; click one to see its alternatives",
        "facts": facts,
        "more": [],
        "title": TITLE,
        "alternatives": [],
        "note": "",
    }
