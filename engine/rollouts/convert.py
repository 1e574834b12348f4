"""From any log to ``tokenscope.rollout/1``, streamed: what every analysis of rollouts reads."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import orjson

from engine.errors import UserError
from engine.records import MAX_LINE_BYTES, ROLLOUT_SCHEMA, whole_file
from engine.rollouts.formats import own
from engine.rollouts.groups import sorted_numbers
from engine.rollouts.lines import Cursor, read_lines
from engine.rollouts.log import RolloutLog
from engine.tokenization import Tokenizer

VERSION = 1
"""Raised whenever the same log would give another file."""
_PROBED = 8
_MOST_SKIPPED = 100


@dataclass(frozen=True, slots=True)
class Converted:
    """What was written.

    Attributes:
        rollouts: how many.
        skipped: those that could not be: place and reason, at most 100.
        skipped_count: how many there are.
        remarks: what a person must know, each once.
    """

    rollouts: int
    skipped: tuple[tuple[str, str], ...]
    skipped_count: int
    remarks: tuple[str, ...]


def convert(
    log: RolloutLog,
    out: str | Path,
    tokenizer: Tokenizer | None = None,
    *,
    tell: Callable[[int, int], None] | None = None,
) -> Converted:
    """Write a log as TokenScope rollouts; the file appears whole or not at all.

    Rollouts of one step and prompt stand together, named ``step/prompt``. One rollout is in memory
    at a time. A line also holds ``step``, ``advantage`` and all named ``rewards``.

    Args:
        log: what to convert.
        out: the file to write.
        tokenizer: makes ids where the log has only text, and bytes where it has only ids.
        tell: called with rollouts done and in all.

    Raises:
        UserError: when a tokenizer is needed, nothing can be converted, or ``out`` cannot be
            written.
    """
    skipped: list[tuple[str, str]] = []
    remarks: dict[str, None] = {}
    written = failed = 0
    with whole_file(out) as temporary, temporary.open("wb") as handle:
        for done, number in enumerate(sorted_numbers(log.index).tolist()):
            try:
                line, said = _line(log, number, tokenizer)
            except UserError as error:
                if tokenizer is None and not log.index["has_ids"][number].as_py():
                    raise
                failed += 1
                if len(skipped) < _MOST_SKIPPED:
                    skipped.append((str(log.place(number)), str(error).rstrip(".")))
                continue
            handle.write(line)
            written += 1
            if len(remarks) < _MOST_SKIPPED:
                remarks.update(dict.fromkeys(said))
            if tell is not None and done % 100 == 0:
                tell(done, log.count)
        if not written:
            place, reason = skipped[0] if skipped else (log.path.name, "it holds no rollout yet")
            raise UserError(f"{place}: {reason.removeprefix(place + ': ')}.")
    return Converted(written, tuple(skipped), failed, tuple(remarks))


def _line(
    log: RolloutLog, number: int, tokenizer: Tokenizer | None
) -> tuple[bytes, tuple[str, ...]]:
    rollout = log.rollout(number)
    traced = log.traced(rollout, tokenizer)
    row = log.index.slice(number, 1).to_pylist()[0]
    name = row["group"] if row["step"] is None else f"{row['step']}/{row['group']}"
    trace = traced.trace
    if rollout.format == own.NAME:
        name = row["group"]
    line = orjson.dumps(
        {
            "schema": ROLLOUT_SCHEMA,
            "group": name,
            "rollout": row["rollout"],
            "reward": rollout.reward,
            "expected": rollout.expected,
            "step": row["step"],
            "advantage": rollout.advantage,
            "rewards": dict(rollout.rewards),
            "prompt": trace.prompt_text,
            "response": trace.response_text,
            "trace": trace.model_dump(mode="json", exclude_defaults=True),
        },
        option=orjson.OPT_APPEND_NEWLINE,
    )
    if len(line) > MAX_LINE_BYTES:
        raise UserError(f"as a trace it is longer than {MAX_LINE_BYTES >> 20} MiB.")
    return line, traced.remarks


def own_file(path: str | Path, home: str | Path, tokenizer: Callable[[], Tokenizer | None]) -> Path:
    """The file of TokenScope rollouts for a log: itself, or a converted one kept under ``home``.

    A converted file is named by the content of the log and the tokenizer, so it is made once.

    Args:
        path: a file or a folder.
        home: the workspace's folder.
        tokenizer: asked only for logs of others.

    Raises:
        UserError: as :func:`convert`, and as :meth:`RolloutLog.open`.
    """
    given = Path(path)
    if not given.is_dir() and _is_own(given):
        return given
    log = RolloutLog.open(given, home=home)
    chosen = tokenizer()
    digest = hashlib.sha256(f"{VERSION} {chosen.digest if chosen else ''}".encode())
    for state in log.files:
        digest.update(state.path.encode("utf-8", "surrogateescape") + b"\0")
        for chunk in _chunks(log.root / state.path):
            digest.update(chunk)
    place = Path(home) / "rollouts" / f"{digest.hexdigest()[:32]}.jsonl"
    if not place.is_file():
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"The store's folder cannot be written: {error.strerror}.") from None
        convert(log, place, chosen)
    return place


def _is_own(file: Path) -> bool:
    """Whether to leave a file to ``engine.records``: ours, missing, or nothing that is known."""
    try:
        with file.open("rb") as handle:
            if handle.read(4) == b"PAR1":
                return False
            for number, line in enumerate(read_lines(handle, Cursor())):
                if line.record is not None:
                    schema = line.record.get("schema")
                    return isinstance(schema, str) and schema.startswith("tokenscope.")
                if number >= _PROBED:
                    break
    except OSError:
        pass
    return True


def _chunks(file: Path) -> Iterator[bytes]:
    with file.open("rb") as handle:
        while chunk := handle.read(1 << 20):
            yield chunk
