"""A trace cut off at a token, with something else put in its place to go on from."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import takewhile
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from engine.branching.align import common_prefix
from engine.encode import with_spans
from engine.errors import UserError
from engine.result import Request
from engine.tokenization import Encoding, Tokenizer, show
from engine.trace import Parent, Role, Trace, Turn

if TYPE_CHECKING:
    from engine.workspace import Workspace

_GUARDS = ("\n", "0", "a")


def fork(trace: Trace, position: int, forced: int | bytes | str, tokenizer: Tokenizer) -> Trace:
    """The tokens before ``position`` and the forced ones after them.

    The forced tokens belong to the speaker who spoke there. They count as response: a fork inside
    the prompt moves ``response_start`` back to ``position``, so that the prompt is what both have
    in common and the response what was changed and everything after it. ``parent`` names the first
    position where the fork and the trace differ, which lies behind the forced tokens when they are
    what was said anyway. Spans that end before the fork stay; values of a log do not.

    Args:
        trace: what to fork; with known ids.
        position: where; ``len(trace)`` goes on after its end.
        forced: a token id, or text (as bytes if need be) that the tokenizer cuts without adding
            special tokens; special tokens written out are taken as such. Empty text forces
            nothing: the model draws again from here.
        tokenizer: the one the ids belong to.

    Raises:
        UserError: for a position outside, a token that is none, text that cannot be cut, or ids
            of another tokenizer.
    """
    if not trace.has_ids:
        raise UserError(
            "The log gives no token ids, which a branch needs: let a model read the text instead."
        )
    if trace.tokenizer not in (None, tokenizer.digest):
        raise UserError(
            "These token ids belong to another tokenizer than the model's: choose the model they "
            "came from."
        )
    n = len(trace)
    if not 0 <= position <= n:
        raise UserError(f"Position {position} is outside the text: choose one from 0 to {n}.")
    added = set(trace.added)
    if position < len(list(takewhile(added.__contains__, range(n)))):
        raise UserError(
            f"Position {position} holds a token that the tokenizer puts in front of every text: "
            "choose a later one."
        )
    encoded = _encode(forced, tokenizer)
    end = position + len(encoded.ids)
    if not end:
        raise UserError("There is nothing to go on from: force a token, or choose a later one.")
    ids = trace.ids[:position] + encoded.ids
    forked = Trace(
        ids=ids,
        pieces=trace.pieces[:position] + encoded.pieces,
        tokenizer=trace.tokenizer,
        ids_origin=trace.ids_origin,
        response_start=min(trace.response_start, position),
        turns=_turns(trace, position, end),
        spans={name: span for name, span in trace.spans.items() if span.end <= position},
        special=(
            *(p for p in trace.special if p < position),
            *(position + p for p in encoded.special),
        ),
        added=tuple(p for p in trace.added if p < position),
        exact=trace.exact and encoded.exact,
        parent=Parent(digest=trace.digest, position=common_prefix(ids, trace.ids)),
        title=trace.title,
    )
    return with_spans(forked)


def continuation(
    trace: Trace,
    position: int,
    forced: int | bytes | str,
    model: str,
    workspace: Workspace,
    **params: Any,
) -> Request:
    """The request that forces something at a position and lets the model go on from there.

    Args:
        trace: what to fork.
        position: where.
        forced: see ``fork``.
        model: who goes on.
        workspace: where the model is found.
        params: of ``generate`` (n, temperature, top_k, top_p, min_p, seed, max_new_tokens).

    Raises:
        UserError: when the trace cannot be forked there.
    """
    forked = fork(trace, position, forced, workspace.plan_model(model).tokenizer)
    return Request("generate", forked, {"model": model}, params)


def forced_logprob(
    tables: Mapping[str, pa.Table], position: int, forced: tuple[int, ...]
) -> float | None:
    """Log-probability of forced tokens, nats, from ``statistics`` where they hold it.

    Args:
        tables: of the fork (any number of tokens), or of its parent (one token).
        position: where they stand.
        forced: their ids.
    """
    if not forced:
        return None
    tokens = tables["tokens"]
    end = position + len(forced)
    if tuple(tokens["token_id"][position:end].to_pylist()) == forced:
        values = tokens["logprob"][position:end].to_pylist()
        return None if None in values else min(0.0, float(sum(values)))
    if len(forced) > 1 or "alternatives" not in tables:
        return None
    rows = tables["alternatives"]
    here = pc.and_(
        pc.equal(rows["position"], position), pc.equal(rows["alternative_id"], forced[0])
    )
    found = rows.filter(here)["logprob"].to_pylist()
    return min(0.0, float(found[0])) if found else None


def _encode(forced: int | bytes | str, tokenizer: Tokenizer) -> Encoding:
    if isinstance(forced, bytes):
        try:
            return _encode(forced.decode("utf-8"), tokenizer)
        except UnicodeDecodeError:
            return _encode(_token_of(forced, tokenizer), tokenizer)
    if isinstance(forced, int):
        if not 0 <= forced < tokenizer.size or tokenizer.piece(forced).kind == "unused":
            raise UserError(
                f"{tokenizer.name} has no token {forced}; its ids run from 0 to "
                f"{tokenizer.size - 1}."
            )
        special = (0,) if tokenizer.is_special(forced) else ()
        return Encoding((forced,), tokenizer.pieces((forced,)), special, (), True)
    return _spelled(forced, tokenizer)


def _token_of(data: bytes, tokenizer: Tokenizer) -> int:
    """The token with exactly these bytes, which are no text."""
    for token_id in range(tokenizer.size):
        if tokenizer.piece(token_id).data == data:
            return token_id
    raise UserError(
        f"The bytes {show(data)} are neither text nor one token: give the token's id instead."
    )


def _spelled(text: str, tokenizer: Tokenizer) -> Encoding:
    """``text`` as it is cut in the middle of a text, where no space is put in front of it."""
    plain = tokenizer.encode(text, special=False, name="typed text")
    if b"".join(tokenizer.pieces(plain.ids)) == text.encode("utf-8"):
        return plain
    for guard in _GUARDS:
        front = tokenizer.encode(guard, special=False).ids
        ids = tokenizer.encode(guard + text, special=False).ids
        rest = ids[len(front) :]
        pieces = tokenizer.pieces(rest)
        if ids[: len(front)] == front and b"".join(pieces) == text.encode("utf-8"):
            return Encoding(rest, pieces, tokenizer.special_positions(rest), (), True)
    return Encoding(plain.ids, tokenizer.pieces(plain.ids), plain.special, (), False)


def _turns(trace: Trace, position: int, end: int) -> tuple[Turn, ...]:
    """The speakers before the fork; the forced tokens go to the one who spoke there."""
    turns = [t.evolve(end=min(t.end, position)) for t in trace.turns if t.start < position]
    if end == position:
        return tuple(turns)
    after_end = position == len(trace)
    within = any(t.start < position < t.end for t in trace.turns)
    if turns and (within or (after_end and trace.response_start < len(trace))):
        turns[-1] = turns[-1].evolve(end=end)
        return tuple(turns)
    role: Role = "assistant" if after_end else trace.roles[position]
    return (*turns, Turn(role=role, start=position, end=end))
