"""A trace from the tokens of a log."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic import ValidationError

from engine.encode import with_spans
from engine.errors import UserError
from engine.readers.dropped import Report, Unreadable
from engine.readers.joining import join
from engine.readers.tokens import Logged
from engine.readers.values import LEAST, quote
from engine.spans import find_spans
from engine.subjects import Candidate, Sampling, Text, Trace, Turn, simple_turns
from engine.tokenization import Tokenizer


@dataclass(slots=True)
class Reading:
    """One response of a log, before it becomes a trace.

    Attributes:
        place: where it stands.
        tokens: of the response.
        text: of the response, None when the log does not say.
        thoughts: text a parser has taken out of the response, None when there is none.
        prompt: tokens of the prompt, empty when the log has none.
        prompt_text: of the prompt.
        appended: the chosen token may stand in its list without being one of the likeliest.
    """

    place: str
    tokens: list[Logged]
    text: str | None = None
    thoughts: str | None = None
    prompt: list[Logged] = field(default_factory=list)
    prompt_text: str | None = None
    appended: bool = False


def trace_of(
    reading: Reading, report: Report, *, title: str | None, sampling: Sampling | None = None
) -> Trace:
    """The trace of a response, with what the log says of each token.

    Raises:
        Unreadable: when there are no tokens.
    """
    prompt, tokens = reading.prompt, reading.tokens
    if not prompt and not tokens:
        raise Unreadable(reading.place, "there are no tokens")
    before = join(prompt, reading.prompt_text)
    after = join(tokens, reading.text)
    _say(reading.place, before.shared, after.shared, before.exact, after.exact, report)
    everything = [*prompt, *tokens]
    pieces = before.pieces + after.pieces
    start = len(prompt)
    faint = [t for t in everything if t.logprob is not None and t.logprob <= LEAST]
    if faint:
        report.skip(
            reading.place,
            f"{len(faint):,} times −9999, which means “very unlikely”: no number is shown there",
        )
    signals: dict[str, tuple[float | None, ...]] = {}
    if any(t.logprob is not None for t in everything):
        signals["logprob"] = tuple(
            None if t.logprob is None or t.logprob <= LEAST else t.logprob for t in everything
        )
    if any(t.rank is not None for t in everything):
        signals["rank"] = tuple(None if t.rank is None else float(t.rank) for t in everything)
    listed = any(t.others for t in everything)
    appended = [True] * len(prompt) + [reading.appended] * len(tokens)
    bare = Trace(
        ids=tuple(-1 if t.id is None else t.id for t in everything),
        pieces=pieces,
        ids_origin="logged",
        response_start=start,
        turns=_turns(reading, after.start, after.pieces, start),
        special=tuple(start + p for p in after.special),
        exact=before.exact and after.exact,
        sampling=sampling,
        title=title,
    )
    # A question, a reasoning or an answer is only looked for where the bytes are known.
    known = {"question"} if before.exact else set()
    known |= {"answer", "reasoning"} if after.exact else set()
    made = bare.evolve(
        spans={n: s for n, s in find_spans(bare).items() if n in known},
        signals=signals,
        candidates=tuple(map(_candidates, everything, pieces, appended)) if listed else None,
    )
    return checked(made, reading.place)


def checked(trace: Trace, place: str) -> Trace:
    """The trace, if it can be named: numbers beyond 64 bits have no canonical JSON.

    Raises:
        Unreadable: if it cannot.
    """
    try:
        _ = trace.digest
    except (TypeError, ValueError, OverflowError):
        raise Unreadable(place, "a number is larger than 64 bits") from None
    return trace


def _say(
    place: str,
    prompt: Sequence[int],
    shared: Sequence[int],
    prompt_exact: bool,
    exact: bool,
    report: Report,
) -> None:
    for name, places in (("prompt", prompt), ("response", shared)):
        if places:
            first = ", ".join(str(p) for p in places[:4]) + (", …" if len(places) > 4 else "")
            report.skip(
                place,
                f"how tokens {first} of the {name} share the bytes of their characters: the log "
                "does not say, so each character stands at its last token",
            )
    for name, known in (("prompt", prompt_exact), ("response", exact)):
        if not known:
            report.skip(
                place,
                f"the exact bytes of the {name}'s tokens: they do not give its text, or the log "
                "writes them with ids or replacement characters",
            )


def _candidates(token: Logged, piece: bytes, appended: bool) -> tuple[Candidate, ...]:
    """The likeliest tokens of a place, best first.

    vLLM, and the old completions, put the chosen token in the list whether it belongs to the
    likeliest or not. Where that cannot be told it is left out, so that what remains is always the
    top of the distribution.
    """
    if not token.others:
        return ()
    self_at = next((n for n, other in enumerate(token.others) if other.same(token)), None)
    if self_at is not None:
        own = token.others[self_at].logprob
        rest = [o.logprob for n, o in enumerate(token.others) if n != self_at]
        lowest = all(value > own for value in rest)  # type: ignore[operator]
        ranked = token.rank is not None and token.rank <= len(token.others)
        if appended and lowest and not ranked:
            without = [o for n, o in enumerate(token.others) if n != self_at]
            return _sorted(without, None, piece)
    return _sorted(token.others, self_at, piece)


def _sorted(others: Sequence[Logged], own: int | None, piece: bytes) -> tuple[Candidate, ...]:
    found = [
        Candidate(
            piece=piece if n == own else other.shown,
            logprob=other.logprob if other.logprob is not None else LEAST,
            id=other.id,
        )
        for n, other in enumerate(others)
    ]
    return tuple(sorted(found, key=lambda c: -c.logprob))


def is_appended(tokens: Sequence[Logged], *, likely: bool) -> bool:
    """Whether lists of alternatives hold the chosen token even where it is not among the best.

    A list without the chosen token proves that they do not; a list that begins with it although
    others are likelier proves that they do.

    Args:
        tokens: of one response.
        likely: what to believe when nothing proves it.
    """
    for token in tokens:
        if token.others and not any(other.same(token) for other in token.others):
            return False
    for token in tokens:
        others = token.others or []
        if len(others) > 1 and others[0].same(token):
            first = others[0].logprob
            if any(o.logprob > first for o in others[1:]):  # type: ignore[operator]
                return True
    return likely or all(len(token.others or ()) <= 1 for token in tokens)


def _turns(
    reading: Reading, at: int | None, pieces: Sequence[bytes], start: int
) -> tuple[Turn, ...]:
    turns = simple_turns(start + len(pieces), start)
    thoughts = (reading.thoughts or "").strip().encode("utf-8", "replace")
    if not at or not thoughts or thoughts not in b"".join(pieces)[:at]:
        return turns
    length, cut = 0, 0
    while cut < len(pieces) and length + len(pieces[cut]) <= at:
        length += len(pieces[cut])
        cut += 1
    if not 0 < cut < len(pieces):
        return turns
    end = start + len(pieces)
    return (
        *(t for t in turns if t.end <= start),
        Turn(role="thinking", start=start, end=start + cut),
        Turn(role="assistant", start=start + cut, end=end),
    )


def sampling_of(
    request: Mapping[str, Any] | None, model: str | None, finish: Any
) -> Sampling | None:
    """How the response was drawn, when the request is known; OpenAI's defaults fill in."""
    if request is None:
        return None
    fields: dict[str, Any] = {"model": model, "temperature": request.get("temperature")}
    fields |= {name: request.get(name) for name in ("top_k", "top_p", "min_p", "seed")}
    limit = request.get("max_completion_tokens") or request.get("max_tokens")
    fields |= {"max_new_tokens": limit, "finish": finish if finish in ("stop", "length") else None}
    try:
        return Sampling(**{name: value for name, value in fields.items() if value is not None})
    except ValidationError:
        return None


def make_text(place: str, **fields: Any) -> Text:
    """A ``Text``; what pydantic refuses becomes a sentence.

    Raises:
        Unreadable: for half characters and wrong types.
    """
    try:
        return Text(**fields)
    except ValidationError as error:
        first = error.errors()[0]
        reason = first["msg"].removeprefix("Value error, ")
        raise Unreadable(place, f"{reason[:1].lower()}{reason[1:]}") from None


def text_of(trace: Trace) -> Text | None:
    """The trace's text for another model; None when its bytes are no text."""
    if not trace.exact:
        return None
    try:
        cut = trace.offsets[trace.response_start][0] if trace.response_start < len(trace) else None
        data = trace.text_bytes
        prompt, response = data if cut is None else data[:cut], b"" if cut is None else data[cut:]
        return Text(prompt=prompt.decode(), response=response.decode(), title=trace.title)
    except (UnicodeDecodeError, ValidationError):
        return None


def with_tokenizer(trace: Trace, tokenizer: Tokenizer) -> Trace:
    """A logged trace with the bytes that its ids have in ``tokenizer``, and its special tokens.

    Raises:
        UserError: when ids are missing, or the tokenizer gives other bytes than the log.
    """
    if not trace.has_ids:
        raise UserError("The log does not give the id of every token: read its text instead.")
    pieces = tokenizer.pieces(trace.ids)
    if trace.exact and b"".join(pieces) != b"".join(trace.pieces):
        here = next(
            (p for p, (a, b) in enumerate(zip(pieces, trace.pieces, strict=True)) if a != b), 0
        )
        raise UserError(
            f"Token {here} is {quote(pieces[here].decode('utf-8', 'backslashreplace'))} in "
            f"{tokenizer.name}, but not in the log: choose the model that wrote it."
        )
    named = trace.candidates and tuple(
        tuple(
            c if c.id is None else c.evolve(piece=tokenizer.piece(c.id).data or c.piece)
            for c in listed
        )
        for listed in trace.candidates
    )
    made = trace.evolve(
        pieces=pieces,
        candidates=named,
        tokenizer=tokenizer.digest,
        special=tokenizer.special_positions(trace.ids),
        exact=True,
        spans={},
    )
    return with_spans(made)
