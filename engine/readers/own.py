"""TokenScope's own files: ``tokenscope.trace/1`` and ``tokenscope.rollout/1`` lines."""

from __future__ import annotations

from typing import Any

from pydantic import ValidationError

from engine.readers.dropped import LOG_BOUNDS, LOG_ONLY, READ, Dropped, Report, Unreadable
from engine.readers.logtrace import checked, text_of
from engine.readers.source import Record, Source
from engine.readers.values import MAX_ID, is_unicode, kind_of, quote
from engine.records import ROLLOUT_SCHEMA, TRACE_SCHEMA
from engine.subjects import Group, Trace


def sniff(source: Source) -> bool:
    """Whether a record names one of our schemas."""
    return any(_schema(v).startswith("tokenscope.") for _, v in source.objects)


def read(source: Source) -> Dropped:
    """All traces, or all rollouts with their groups.

    Raises:
        Unreadable: when no line can be read.
    """
    report = source.report
    rows: list[tuple[Trace, Record]] = []
    for record in source.records:
        try:
            rows.append((_trace(record), record))
        except Unreadable as error:
            report.skipped(error)
    if not rows:
        raise report.refuse("it holds no trace")
    traces = tuple(trace for trace, _ in rows)
    groups = _groups(rows, report)
    names = {t.sampling.model for t in traces if t.sampling is not None and t.sampling.model}
    return Dropped(
        kind="rollouts" if groups else "trace",
        title=_title(traces, groups),
        subjects=traces,
        texts=tuple(text_of(trace) for trace in traces),
        groups=groups,
        model=names.pop() if len(names) == 1 else None,
        expected=groups[0].expected if len(groups) == 1 else None,
        possible=_possible(traces, groups),
        problems=report.problems,
    )


def _schema(value: dict[str, Any]) -> str:
    schema = value.get("schema")
    return schema if isinstance(schema, str) else ""


def _trace(record: Record) -> Trace:
    value = record.value
    if not isinstance(value, dict):
        raise Unreadable(record.place, f"an object is expected, not {kind_of(value)}")
    schema = value.get("schema")
    if schema == ROLLOUT_SCHEMA:
        inner = value.get("trace")
        if not isinstance(inner, dict):
            raise Unreadable(record.at("trace"), "the rollout's trace is missing")
        body, path = inner, "trace."
    elif schema == TRACE_SCHEMA:
        body, path = value, ""
    else:
        raise Unreadable(
            record.at("schema"),
            f"the schema is {quote(schema)}; this version reads {TRACE_SCHEMA} and "
            f"{ROLLOUT_SCHEMA}",
        )
    try:
        trace = Trace.model_validate({k: v for k, v in body.items() if k != "schema"})
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(quote(part, 24).strip("“”") for part in map(str, first["loc"][:3]))
        reason = first["msg"].removeprefix("Value error, ")
        raise Unreadable(
            record.at(path + (where or "trace")), reason[:1].lower() + reason[1:160]
        ) from None
    if not len(trace):
        raise Unreadable(record.at(path + "ids"), "the trace has no tokens")
    if max(trace.ids) > MAX_ID:
        raise Unreadable(record.at(path + "ids"), "a token id is larger than any vocabulary")
    if not all(is_unicode(name) for name in (*trace.signals, *trace.spans)):
        raise Unreadable(record.at(path + "signals"), "a name holds half of a character")
    return checked(trace, record.place)


def _groups(rows: list[tuple[Trace, Record]], report: Report) -> tuple[Group, ...]:
    """Rollouts by the name of their prompt, in the order of the file."""
    members: dict[str, list[tuple[Trace, float | None]]] = {}
    expected: dict[str, str | None] = {}
    for trace, record in rows:
        value = record.value
        if value.get("schema") != ROLLOUT_SCHEMA:
            continue
        name = str(value.get("group", ""))[:200].encode("utf-8", "replace").decode()
        reward = value.get("reward")
        if isinstance(reward, bool) or not isinstance(reward, int | float | None):
            report.skip(record.at("reward"), "the reward is no number: taken as unknown")
            reward = None
        members.setdefault(name, []).append((trace, reward))
        answer = value.get("expected")
        if isinstance(answer, str | int | float) and is_unicode(str(answer)):
            expected.setdefault(name, str(answer))
    groups = []
    for name, rollouts in members.items():
        try:
            groups.append(
                Group(
                    rollouts=tuple(trace for trace, _ in rollouts),
                    rewards=tuple(reward for _, reward in rollouts),
                    prompt_id=name or None,
                    expected=expected.get(name),
                )
            )
        except ValidationError:  # an infinite reward
            report.skip("", f"the rewards of group {quote(name)} are no numbers: taken as unknown")
            groups.append(Group(rollouts=tuple(t for t, _ in rollouts), prompt_id=name or None))
    return tuple(groups)


def _possible(traces: tuple[Trace, ...], groups: tuple[Group, ...]) -> tuple[str, ...]:
    found: list[str] = []
    if any(t.candidates is not None for t in traces):
        found.append(LOG_BOUNDS)
    elif any("logprob" in t.signals for t in traces):
        found.append(LOG_ONLY)
    if groups:
        found.append("Look at the rollouts of each prompt under each other")
    if any(t.tokenizer is not None and t.has_ids for t in traces):
        found.append("Read it with the model whose tokens these are, or its text with any other")
    else:
        found.append(READ)
    return tuple(found)


def _title(traces: tuple[Trace, ...], groups: tuple[Group, ...]) -> str:
    count = len(traces)
    if groups:
        prompts = f"{len(groups):,} prompt{'s' if len(groups) > 1 else ''}"
        return f"TokenScope rollouts, {count:,} of {prompts}"
    if count > 1:
        return f"{count:,} TokenScope traces"
    return f"TokenScope trace, {len(traces[0]):,} token{'s' if len(traces[0]) > 1 else ''}"
