"""``tokenizer.text``: how a text was cut, why, and what went wrong with it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any, Literal

import pyarrow as pa
from pydantic import Field

from engine.context import Context
from engine.errors import UserError
from engine.pieces import show
from engine.registry import Params, analysis
from engine.schema import Progress, Table, Tables
from engine.subjects import Text
from engine.tokenizer import texttables as tables
from engine.tokenizer.detectors import DETECTORS
from engine.tokenizer.detectors.words import variants
from engine.tokenizer.injection import MOST_TEMPLATE, injectable
from engine.tokenizer.looked import Looked
from engine.tokenizer.resolve import spec_of
from engine.tokenizer.spec import Pretoken

MOST_LETTERS = 100_000
LONGEST_FORM = 2000
"""Characters of a pre-token whose steps are listed."""


class TextParams(Params):
    """Settings of ``tokenizer.text``."""

    steps: int = Field(
        10_000,
        ge=0,
        le=1_000_000,
        title="Steps",
        description="Most rows that say why it was cut here; 0 for none.",
    )
    template: Literal["found", "all", "none"] = Field(
        "found",
        title="Through the template",
        description="Which special tokens are tried through the chat template: those the text "
        "contains, all, or none.",
    )
    chat_template: str | None = Field(
        None,
        max_length=MOST_TEMPLATE,
        title="Chat template",
        description="Jinja source through which special tokens are tried; none without it.",
    )


@analysis(
    "tokenizer.text",
    version=1,
    subject=Text,
    models=(),
    params=TextParams,
    tables={
        "findings": tables.FINDINGS,
        "tokens": tables.TOKENS,
        "cuts": tables.CUTS,
        "letters": tables.LETTERS,
        "words": tables.WORDS,
        "specials": tables.SPECIALS,
    },
    title="What does this tokenizer do to the text?",
    cite=(
        "Singh and Strouse 2024, Tokenization counts, arXiv 2402.14903 (numbers)",
        "Unicode Standard Annex 29 (grapheme clusters), Technical Standard 39 (mixed scripts)",
        "Lundberg 2023, The art of prompt design: prompt boundaries and token healing (guidance)",
    ),
    caveats=(
        "A finding is a risk, not an error of the model: many are read well.",
        "Special tokens written in the text are read as text, and reported.",
        "The prompt's end is tried with a few hundred continuations, not with all there are.",
    ),
)
def text(ctx: Context) -> Iterator[Progress | Tables]:
    """The tokens of a text with their exact bytes, the rules and merges that made them, findings.

    Findings: text that does not come back, with the stage that lost it; Unicode forms; invisible
    characters and mixed scripts; emoji of several tokens; numbers and how they are cut; words whose
    tokens depend on case and space; special tokens in the text; added tokens that cut words; and
    the end of the prompt, where the tokens depend on what follows.
    """
    yield Progress(None, "Cutting the text")
    look = _look(ctx)
    found: list[dict[str, Any]] = []
    for at, (name, detect) in enumerate(DETECTORS.items()):
        yield Progress(at / len(DETECTORS), f"Looking for {name.replace('_', ' ')}")
        for finding in detect(look):
            found.append(
                {
                    "finding": finding.finding,
                    "start_byte": finding.start,
                    "end_byte": finding.end,
                    "severity": finding.severity,
                    "evidence": finding.evidence,
                    "before": list(finding.before),
                    "after": list(finding.after),
                }
            )
    found.sort(key=lambda row: (row["start_byte"], row["end_byte"], row["finding"]))
    if not look.encoded.exact:
        ctx.note("tokens", "start_byte", "Bytes could not be followed; the library's are given.")
    yield Tables(
        findings=_table(tables.FINDINGS, found),
        tokens=_tokens(look),
        cuts=_table(tables.CUTS, list(_cuts(ctx, look))),
        letters=_letters(ctx, look),
        words=_words(look),
        specials=_table(tables.SPECIALS, list(_specials(ctx, look))),
    )


def _look(ctx: Context) -> Looked:
    subject = ctx.subject
    if subject.messages is not None:
        raise UserError("tokenizer.text looks at plain text: give it as a prompt.")
    whole = subject.prompt + subject.response
    if not whole:
        raise UserError("There is no text: type one.")
    if ctx.params.chat_template is not None and not ctx.workspace.profile.allow_code:
        raise UserError("A chat template is a program, which is not run here: leave it out.")
    return Looked(spec_of(ctx), whole, len(subject.prompt) or len(whole))


def _table(table: Table, rows: list[dict[str, Any]]) -> pa.Table:
    return pa.Table.from_pylist(rows, schema=table.schema())


def _columns(table: Table, columns: Mapping[str, Any]) -> pa.Table:
    types = {name: column.type for name, column in table.columns.items()}
    return pa.table({name: pa.array(list(columns[name]), types[name]) for name in types})


def _tokens(look: Looked) -> pa.Table:
    ids, bounds = look.encoded.ids, look.encoded.bounds
    pieces = [look.spec.pieces[i] for i in ids]
    numbers: list[int | None] = []
    at = 0
    for start, end in bounds:
        while at + 1 < len(look.pretokens) and look.pretokens[at].end <= start < end:
            at += 1
        numbers.append(at if look.pretokens else None)
    return _columns(
        tables.TOKENS,
        {
            "position": range(len(ids)),
            "token_id": ids,
            "token": [show(p.data) for p in pieces],
            "token_bytes": [p.data for p in pieces],
            "start_byte": [start for start, _ in bounds],
            "end_byte": [end for _, end in bounds],
            "pretoken": numbers,
            "rule": [look.pretokens[n].rule if n is not None else None for n in numbers],
            "kind": [p.kind for p in pieces],
        },
    )


def _cuts(ctx: Context, look: Looked) -> Iterator[dict[str, Any]]:
    count = 0
    for number, cut in enumerate(look.pretokens):
        for row in _steps(look, number, cut):
            if count >= ctx.params.steps:
                ctx.note("cuts", None, f"Only the first {count:,} steps are listed.")
                return
            yield row
            count += 1
        if len(cut.form) > LONGEST_FORM:
            reason = f"Steps are not listed for stretches of more than {LONGEST_FORM:,} characters."
            ctx.note("cuts", "step", reason)


def _steps(look: Looked, number: int, cut: Pretoken) -> Iterator[dict[str, Any]]:
    common = {
        "pretoken": number,
        "start_byte": cut.start,
        "end_byte": cut.end,
        "text": show(look.data[cut.start : cut.end]),
        "rule": cut.rule,
    }
    if cut.added is not None:
        yield {**common, "step": 0, "action": "added", "parts": [cut.form]}
        return
    if len(cut.form) > LONGEST_FORM:
        yield {**common, "step": 0, "action": "start"}
        return
    parts = list(look.spec.backend.parts(cut.form))
    yield {**common, "step": 0, "action": "start", "parts": parts}
    for at, step in enumerate(look.spec.merge_steps(cut.form), 1):
        row = {**common, "step": at, "action": step.action, "rank": step.rank}
        if step.action == "merge":
            row.update(left=parts[step.at], right=parts[step.at + 1])
        parts = list(step.parts)
        yield {**row, "parts": parts}


def _letters(ctx: Context, look: Looked) -> pa.Table:
    rows: list[dict[str, Any]] = []
    bounds = look.encoded.bounds
    if len(look.text) > MOST_LETTERS:
        ctx.note("letters", None, f"Only the first {MOST_LETTERS:,} letters are listed.")
    inside: Counter[int] = Counter()
    for at, letter in enumerate(look.text[:MOST_LETTERS]):
        start, end = look.span(at, at + 1)
        holding = look.covering(start, end)
        whole = (
            len(holding) == 1 and bounds[holding[0]][0] <= start and (end <= bounds[holding[0]][1])
        )
        rows.append(
            {
                "letter": letter,
                "start_byte": start,
                "end_byte": end,
                "first_token": holding[0] if holding else None,
                "last_token": holding[-1] if holding else None,
                "place": inside[holding[0]] if whole else None,
                "split": len(holding) > 1,
            }
        )
        for place in holding:
            inside[place] += 1
    return _table(tables.LETTERS, rows)


def _words(look: Looked) -> pa.Table:
    rows = [
        {"word": found.word, "occurrences": found.occurrences, **found.counts}
        for found in variants(look.spec, look.text)
    ]
    return _table(tables.WORDS, rows)


def _specials(ctx: Context, look: Looked) -> Iterator[dict[str, Any]]:
    spec, template = look.spec, ctx.params.chat_template
    ids = Counter(spec.encode(look.text, "parse").ids)
    wanted = ctx.params.template
    listed = [i for i in spec.specials if wanted == "all" or (wanted == "found" and ids[i])]
    if template is None:
        ctx.note("specials", "through_template", "No chat template was given.")
    through = injectable(spec, template, listed) if template is not None else {}
    for i, name in spec.specials.items():
        yield {
            "token_id": i,
            "special": name,
            "in_text": ids[i],
            "through_template": through.get(i),
        }
