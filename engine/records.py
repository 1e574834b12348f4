"""TokenScope's own files: traces and rollouts as JSONL, one object a line, with a version.

``tokenscope.trace/1``: one line, the fields of ``Trace``. ``tokenscope.rollout/1``: one line per
rollout: ``group``, ``reward``, ``expected``, readable ``prompt`` and ``response``, and ``trace``;
lines of one group stand together. Tokens are strings, or ``{"hex": …}`` when they are no valid
UTF-8. The schema is documented in ``docs/files.md``.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import orjson
from pydantic import ValidationError

from engine.errors import UserError
from engine.subjects import Group, Rollouts, Text, Trace

TRACE_SCHEMA = "tokenscope.trace/1"
ROLLOUT_SCHEMA = "tokenscope.rollout/1"
MAX_LINE_BYTES = 64 * 1024 * 1024


def write_trace(path: str | Path, trace: Trace) -> None:
    """Write one trace; the file appears whole or not at all."""
    _write(Path(path), [{"schema": TRACE_SCHEMA, **trace.model_dump(mode="json")}])


def write_rollouts(path: str | Path, groups: Iterable[Group]) -> None:
    """Write groups of rollouts; the file appears whole or not at all."""
    _write(Path(path), (line for group in groups for line in rollout_records(group)))


def rollout_records(group: Group) -> Iterator[dict[str, Any]]:
    """The lines of one group as JSON objects."""
    name = group.prompt_id or group.rollouts[0].digest[:16]
    for index, (trace, reward) in enumerate(zip(group.rollouts, group.rewards, strict=True)):
        yield {
            "schema": ROLLOUT_SCHEMA,
            "group": name,
            "rollout": index,
            "reward": reward,
            "expected": group.expected,
            "prompt": trace.prompt_text,
            "response": trace.response_text,
            "trace": trace.model_dump(mode="json"),
        }


def read_subject(path: str | Path) -> Trace | Text:
    """Read a trace file: a ``tokenscope.trace/1`` line, or plain prompt/response or messages.

    Raises:
        UserError: for a missing, empty or malformed file, naming the line.
    """
    file = Path(path)
    lines = [(n, record) for n, record in _lines(file)]
    if not lines:
        raise UserError(f"{file.name} is empty: it should hold one trace.")
    number, record = lines[0]
    if len(lines) > 1:
        raise UserError(
            f"{file.name} holds {len(lines)} lines: a trace file holds one "
            "(pass files of several rollouts as rollouts)."
        )
    return _subject(record, file, number)


def open_rollouts(path: str | Path) -> Rollouts:
    """Check a rollouts file line by line and name it as a subject; memory stays bounded.

    Raises:
        UserError: for a missing, empty or malformed file, naming the line.
    """
    file = Path(path)
    count = sum(len(group.rollouts) for group in _groups(file))
    if not count:
        raise UserError(f"{file.name} is empty: it should hold one rollout a line.")
    content = hashlib.sha256()
    with file.open("rb") as handle:
        while chunk := handle.read(1 << 20):
            content.update(chunk)
    return Rollouts(path=str(file.resolve()), content=content.hexdigest(), count=count)


def iter_groups(rollouts: Rollouts) -> Iterator[Group]:
    """The groups of a rollouts file, streamed in file order.

    Raises:
        UserError: when the file is gone or is no longer the one that was opened.
    """
    yield from _groups(Path(rollouts.path))


def _groups(file: Path) -> Iterator[Group]:
    name: str | None = None
    lines: list[tuple[int, dict[str, Any]]] = []
    for number, record in _lines(file):
        if record.get("schema") != ROLLOUT_SCHEMA:
            raise UserError(
                f"{file.name}, line {number}: the schema is {record.get('schema')!r}, "
                f"expected {ROLLOUT_SCHEMA!r}."
            )
        group = str(record.get("group", ""))
        if lines and group != name:
            yield _group(lines, file)
            lines = []
        name = group
        lines.append((number, record))
    if lines:
        yield _group(lines, file)


def _group(lines: list[tuple[int, dict[str, Any]]], file: Path) -> Group:
    traces: list[Trace] = []
    rewards: list[float | None] = []
    for number, record in lines:
        subject = _subject({"schema": TRACE_SCHEMA, **_object(record, file, number)}, file, number)
        assert isinstance(subject, Trace)
        traces.append(subject)
        reward = record.get("reward")
        if reward is not None and (isinstance(reward, bool) or not isinstance(reward, int | float)):
            raise UserError(f"{file.name}, line {number}: reward must be a number or null.")
        rewards.append(reward)
    first = lines[0][1]
    expected = first.get("expected")
    return Group(
        rollouts=tuple(traces),
        rewards=tuple(rewards),
        prompt_id=str(first.get("group", "")) or None,
        expected=None if expected is None else str(expected),
    )


def _object(record: dict[str, Any], file: Path, number: int) -> dict[str, Any]:
    trace = record.get("trace")
    if not isinstance(trace, dict):
        raise UserError(f"{file.name}, line {number}: the field trace is missing.")
    return {k: v for k, v in trace.items() if k != "schema"}


def _subject(record: dict[str, Any], file: Path, number: int) -> Trace | Text:
    schema = record.get("schema")
    body = {k: v for k, v in record.items() if k != "schema"}
    try:
        if schema == TRACE_SCHEMA:
            return Trace.model_validate(body)
        if schema is None and ("prompt" in body or "messages" in body):
            known = {k: v for k, v in body.items() if k in Text.model_fields}
            return Text.model_validate(known)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"][:3])
        reason = first["msg"].removeprefix("Value error, ")
        raise UserError(
            f"{file.name}, line {number}: {where + ': ' if where else ''}{reason}."
        ) from None
    raise UserError(
        f"{file.name}, line {number}: the schema is {schema!r}, expected {TRACE_SCHEMA!r}, "
        "or an object with prompt and response, or with messages."
    )


def _lines(file: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    try:
        handle = file.open("rb")
    except OSError as error:
        raise UserError(f"{file.name} could not be opened: {error.strerror}.") from None
    with handle:
        number = 0
        while line := handle.readline(MAX_LINE_BYTES + 1):
            number += 1
            if len(line) > MAX_LINE_BYTES:
                raise UserError(
                    f"{file.name}, line {number}: longer than {MAX_LINE_BYTES >> 20} MiB; split it."
                )
            line = line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line
            if not line.strip():
                continue
            try:
                record = orjson.loads(line)
            except orjson.JSONDecodeError as error:
                raise UserError(f"{file.name}, line {number}: not valid JSON ({error}).") from None
            if not isinstance(record, dict):
                raise UserError(f"{file.name}, line {number}: expected a JSON object.")
            yield number, record


def _write(path: Path, records: Iterable[dict[str, Any]]) -> None:
    with whole_file(path) as temporary, temporary.open("wb") as handle:
        for record in records:
            handle.write(orjson.dumps(record, option=orjson.OPT_APPEND_NEWLINE))


class whole_file:  # noqa: N801 - reads as a function: with whole_file(path) as temporary
    """Write to a temporary file beside ``path``; renamed on success, removed on failure.

    Raises:
        UserError: when the folder is missing, read-only or full.
    """

    def __init__(self, path: str | Path) -> None:
        self._path = Path(path)
        self._temporary: Path | None = None

    def __enter__(self) -> Path:
        try:
            handle, name = tempfile.mkstemp(
                dir=self._path.parent, prefix=f".{self._path.name}.", suffix=self._path.suffix
            )
        except OSError as error:
            raise self._refusal(error) from None
        os.close(handle)
        self._temporary = Path(name)
        return self._temporary

    def __exit__(self, kind: type[BaseException] | None, value: object, trace: object) -> None:
        assert self._temporary is not None
        try:
            if kind is None:
                mask = os.umask(0)
                os.umask(mask)
                self._temporary.chmod(0o666 & ~mask)
                self._temporary.replace(self._path)
        except OSError as error:
            raise self._refusal(error) from None
        finally:
            self._temporary.unlink(missing_ok=True)
        if isinstance(value, OSError):
            raise self._refusal(value) from None

    def _refusal(self, error: OSError) -> UserError:
        return UserError(
            f"{self._path.name} could not be written: {error.strerror or error}; "
            "choose another place with --out."
        )
