"""What a log holds, for the command line."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine import catalogue
from engine.errors import UserError
from engine.modelref import ModelRef
from engine.rollouts.convert import Converted, convert
from engine.rollouts.formats import named
from engine.rollouts.log import RolloutLog
from engine.rollouts.summary import by_step, prompts
from engine.schema import Progress
from engine.tokenization import Tokenizer

_LINES = 10


@dataclass(frozen=True, slots=True)
class Report:
    """A log that was looked at, and converted when that was asked for."""

    log: RolloutLog
    out: str | None = None
    converted: Converted | None = None

    def as_json(self) -> dict[str, Any]:
        """Everything, with steps and prompts counted."""
        log = self.log
        return {
            "path": str(log.path),
            "formats": list(log.formats),
            "files": [
                {
                    "path": state.path,
                    "format": state.format,
                    "rollouts": state.rows,
                    "waiting": state.waiting,
                    "refused": state.refused or None,
                }
                for state in log.files
            ],
            "rollouts": log.count,
            "groups": prompts(log.index).num_rows,
            "steps": by_step(log.index).to_pylist(),
            "missing": list(log.missing),
            "bad_lines": log.bad_count,
            "bad": [{"file": b.file, "line": b.line, "reason": b.reason} for b in log.bad],
            "out": self.out,
            "written": None if self.converted is None else self.converted.rollouts,
            "skipped": None if self.converted is None else self.converted.skipped_count,
            "remarks": None if self.converted is None else list(self.converted.remarks),
        }

    def lines(self) -> Iterator[str]:
        """For a person; what cannot be printed, in names of files, is a dot."""
        for line in self._lines():
            yield "".join(c if c.isprintable() else "·" for c in line)

    def _lines(self) -> Iterator[str]:
        log = self.log
        kinds = ", ".join(named(name).TITLE for name in log.formats) or "nothing recognised yet"
        used = sum(1 for state in log.files if state.rows)
        yield f"{log.path.name}: {kinds}; {_count(used, 'file')}"
        steps = by_step(log.index)
        groups = prompts(log.index).num_rows
        known = [s for s in steps["step"].to_pylist() if s is not None]
        when = ", no steps"
        if known:
            first, last = known[0], known[-1]
            when = f", step {first}" if first == last else f", steps {first} to {last}"
        yield f"{_count(log.count, 'rollout')} of {_count(groups, 'prompt')}{when}"
        yield from log.missing
        waiting = [state.path for state in log.files if state.waiting]
        if waiting:
            yield f"The end of {_listed(waiting)} is not written yet; it is read later."
        for path, reason in log.refused[:_LINES]:
            yield f"Left out {path}: {reason}."
        if log.bad_count:
            yield f"{_count(log.bad_count, 'line')} could not be read:"
            for bad in log.bad[:_LINES]:
                yield f"  {bad.file}, line {bad.line:,}: {bad.reason}"
            if log.bad_count > _LINES:
                yield f"  and {log.bad_count - _LINES:,} more"
        if self.converted is not None:
            yield from self._written(self.converted)

    def _written(self, converted: Converted) -> Iterator[str]:
        for remark in converted.remarks[:_LINES]:
            yield f"{remark[:1].upper()}{remark[1:]}."
        for place, reason in converted.skipped[:_LINES]:
            yield f"Left out {place}: {reason}."
        if converted.skipped_count > _LINES:
            yield f"Left out {converted.skipped_count - _LINES:,} more."
        yield f"{self.out}: {_count(converted.rollouts, 'rollout')}"


def report(
    path: str,
    out: str | None = None,
    tokenizer: str | None = None,
    tell: Callable[[int, Progress], None] | None = None,
) -> Report:
    """Open a log, and convert it when ``out`` is given.

    Raises:
        UserError: as ``RolloutLog.open`` and ``convert``.
    """
    if out is not None:
        if Path(out).suffix != ".jsonl":
            raise UserError(f"{Path(out).name}: a rollouts file ends in .jsonl.")
        if not Path(out).resolve().parent.is_dir():
            raise UserError(f"The folder for {Path(out).name} does not exist: make it.")
    chosen = tokenizer_named(tokenizer)
    if tell is not None:
        tell(0, Progress(None, "Reading the log"))
    log = RolloutLog.open(path)
    if out is None:
        return Report(log)

    def said(done: int, total: int) -> None:
        if tell is not None:
            tell(0, Progress(done / max(total, 1), f"Rollout {done:,} of {total:,}"))

    return Report(log, out, convert(log, out, chosen, tell=said))


def tokenizer_named(name: str | None) -> Tokenizer | None:
    """The tokenizer of a folder, a file, or a model by its name.

    Raises:
        UserError: when there is none.
    """
    if name is None:
        return None
    if Path(name).is_file() or (Path(name) / "tokenizer.json").is_file():
        return Tokenizer.load(name)
    located = catalogue.locate(ModelRef.parse(name), catalogue.Profile.from_env())
    return Tokenizer.load(located.tokenizer_path)


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def _listed(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3:,} more" if len(names) > 3 else "")
