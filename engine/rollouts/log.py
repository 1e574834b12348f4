"""``RolloutLog``: a file or a folder of rollouts, indexed once and read by place."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from engine.errors import UserError
from engine.readers.dropped import Unreadable
from engine.rollouts import kept
from engine.rollouts.folder import SUFFIXES, paths_of
from engine.rollouts.formats import named
from engine.rollouts.groups import numbers_in_groups
from engine.rollouts.index import Rows
from engine.rollouts.lines import MAX_LINE
from engine.rollouts.logged import LoggedRollout, Place
from engine.rollouts.scan import Bad, FileState, changed, read_place, scan
from engine.rollouts.traces import Traced, trace_of
from engine.subjects import Group
from engine.tokenization import Tokenizer

MOST_BAD = 100
MOST_ROLLOUTS = 4_096
"""Rollouts of one group that are read into memory."""
_SAVE_EVERY = 0.05


class RolloutLog:
    """An opened log.

    Attributes:
        root: the folder; of a file, the folder it is in.
        path: what was opened.
        files: what is known of each file.
        bad: lines that could not be read, at most ``MOST_BAD`` of them.
        bad_count: how many there are.
    """

    def __init__(
        self, path: str | Path, *, home: str | Path | None = None, limit: int = MAX_LINE
    ) -> None:
        """Open without reading; see :meth:`open`."""
        self.path = Path(path).resolve()
        self.root = self.path if self.path.is_dir() else self.path.parent
        self.files: list[FileState] = []
        self.bad: list[Bad] = []
        self.bad_count = 0
        self._limit = limit
        self._kept = None if home is None else kept.place_of(Path(home), self.path)
        self._saved = 0
        self._rows = Rows()
        self._table = self._rows.table()
        self._index: pa.Table | None = None

    @classmethod
    def open(
        cls, path: str | Path, *, home: str | Path | None = None, limit: int = MAX_LINE
    ) -> RolloutLog:
        """Open a file or a folder and index it; what is stored of it is not read again.

        Args:
            path: a file, or a folder with files of rollouts, in folders of its own or not.
            home: the workspace's folder, where the index is kept; None keeps it in memory.
            limit: bytes of the longest line that is read.

        Raises:
            UserError: when it is not there, or nothing in it is a log of rollouts.
        """
        log = cls(path, home=home, limit=limit)
        if not log.path.exists():
            raise UserError(f"{log.path.name} is not there: check the path.")
        found = None if log._kept is None else kept.load(log._kept, log.path)
        if found is not None:
            log.files, log.bad, more, log._table = found
            log.bad_count = len(log.bad) + more
            log._saved = log._table.num_rows
        log.refresh()
        if not log.count and not any(state.waiting for state in log.files):
            raise UserError(log._nothing())
        return log

    def refresh(self) -> int:
        """Read what was added since; files that were rewritten or removed are taken out first.

        Returns:
            How many rollouts were read, those of rewritten files included.
        """
        known = {state.path: state for state in self.files}
        todo: list[FileState] = []
        stale: list[str] = []
        present = paths_of(self.path)
        for path in present:
            state = known.get(path)
            what = "rewritten" if state is None else changed(self.root, state)
            if what == "rewritten":
                stale.append(path)
                todo.append(FileState(path))
            elif what == "grown" and state is not None:
                todo.append(state)
        gone = known.keys() - set(present)
        dropped = self._drop({*stale, *gone} & known.keys())
        before = self.count
        for state in todo:
            self._read(state)
        added = self.count - before
        if added or dropped:
            self._index = None
            self._keep(dropped)
        elif todo and self._kept is not None and not self._saved:
            self._keep(True)
        return added

    @property
    def count(self) -> int:
        """Rollouts in the log."""
        return self._table.num_rows + len(self._rows)

    @property
    def index(self) -> pa.Table:
        """One row for each rollout: ``index.SCHEMA``, and ``rollout``, its number in its group.

        Groups are the rollouts of one prompt within one step.
        """
        if self._index is None:
            self._collect()
            table = self._table
            self._index = table.append_column(
                "rollout", pa.array(numbers_in_groups(table), pa.int64())
            )
        return self._index

    @property
    def formats(self) -> tuple[str, ...]:
        """Names of the formats found, in order of their first file."""
        return tuple(dict.fromkeys(s.format for s in self.files if s.format is not None))

    @property
    def refused(self) -> tuple[tuple[str, str], ...]:
        """Files that are no logs: path and reason."""
        return tuple((s.path, s.refused) for s in self.files if s.refused and not s.waiting)

    @property
    def missing(self) -> tuple[str, ...]:
        """For each format one sentence on the columns that no line has."""
        sentences = []
        for name in self.formats:
            files = [s for s in self.files if s.format == name and s.rows]
            seen = {column for state in files for column in state.columns}
            lacks = {c: gives for c, gives in named(name).COLUMNS.items() if c not in seen}
            if files and lacks:
                listed = ", ".join(f"{column} ({gives})" for column, gives in lacks.items())
                sentences.append(f"{named(name).TITLE}: there is no {listed}.")
        if self.count and not pc.any(self.index["has_ids"]).as_py():
            sentences.append(
                "There are no token ids: they are made from the text with a tokenizer, and may "
                "differ from those that were trained on."
            )
        return tuple(sentences)

    # -- rollouts ----------------------------------------------------------------------------

    def place(self, number: int) -> Place:
        """Where rollout ``number`` of the index stands.

        Raises:
            UserError: when there is none.
        """
        if not 0 <= number < self.count:
            raise UserError(f"There is no rollout {number:,}; there are {self.count:,}, from 0.")
        row = self.index.slice(number, 1).to_pylist()[0]
        path = self.files[row["file"]].path
        return Place(path, row["line"], row["offset"], row["size"], row["part"])

    def rollout(self, number: int) -> LoggedRollout:
        """Rollout ``number`` of the index, read from its place.

        Raises:
            UserError: when there is none, or the file has changed since it was indexed.
        """
        place = self.place(number)
        state = next(s for s in self.files if s.path == place.file)
        try:
            return read_place(self.root, state, place)
        except (Unreadable, OSError):
            raise UserError(f"{place} is no longer what it was: open the log again.") from None

    def trace(self, number: int, tokenizer: Tokenizer | None = None) -> Traced:
        """Rollout ``number`` as a trace; see :func:`engine.rollouts.traces.trace_of`."""
        return self.traced(self.rollout(number), tokenizer)

    def traced(self, rollout: LoggedRollout, tokenizer: Tokenizer | None = None) -> Traced:
        """A rollout of this log as a trace."""
        return trace_of(rollout, tokenizer)

    def numbers(self, group: str, step: int | None = None) -> list[int]:
        """The rollouts of a prompt within a step, as numbers of the index."""
        index = self.index
        here = pc.is_null(index["step"]) if step is None else pc.equal(index["step"], step)
        found = pc.and_(pc.equal(index["group"], group), pc.fill_null(here, False))
        return [int(n) for n in np.flatnonzero(found.to_numpy(zero_copy_only=False))]

    def group(
        self, group: str, step: int | None = None, tokenizer: Tokenizer | None = None
    ) -> Group:
        """The rollouts of one prompt within a step, as a subject.

        Args:
            group: a value of the index's column ``group``.
            step: a value of its column ``step``.
            tokenizer: for logs without token ids, and to see the text of those with ids only.

        Raises:
            UserError: when there is none, there are too many, or a tokenizer is needed.
        """
        numbers = self.numbers(group, step)
        if not numbers:
            when = "" if step is None else f" in step {step:,}"
            raise UserError(f"There is no prompt {group[:40]!r}{when}.")
        if len(numbers) > MOST_ROLLOUTS:
            raise UserError(
                f"The group has {len(numbers):,} rollouts; at most {MOST_ROLLOUTS:,} are read "
                "together."
            )
        rollouts = [self.rollout(number) for number in numbers]
        return Group(
            rollouts=tuple(self.traced(each, tokenizer).trace for each in rollouts),
            rewards=tuple(each.reward for each in rollouts),
            prompt_id=group,
            expected=next((each.expected for each in rollouts if each.expected is not None), None),
        )

    # -- reading -----------------------------------------------------------------------------

    def _read(self, state: FileState) -> None:
        number = next((n for n, s in enumerate(self.files) if s is state), len(self.files))
        if number == len(self.files):
            self.files.append(state)
        try:
            for found in scan(self.root, state, limit=self._limit):
                if isinstance(found, Bad):
                    self._note(found)
                else:
                    self._rows.add(number, found)
        except OSError as error:
            state.refused = f"it cannot be read ({error.strerror or 'no reason given'})"

    def _note(self, bad: Bad) -> None:
        self.bad_count += 1
        if len(self.bad) < MOST_BAD:
            self.bad.append(bad)

    def _collect(self) -> None:
        if len(self._rows):
            self._table = pa.concat_tables([self._table, self._rows.table()])
            self._rows = Rows()

    def _drop(self, paths: set[str]) -> bool:
        """Take files out; the numbers of the others move."""
        if not paths:
            return False
        self._collect()
        moved = {}
        left: list[FileState] = []
        for number, state in enumerate(self.files):
            if state.path not in paths:
                moved[number] = len(left)
                left.append(state)
        old = self._table["file"].to_numpy()
        lookup = np.full(len(self.files), -1, np.int32)
        for number, new in moved.items():
            lookup[number] = new
        files = lookup[old]
        table = self._table.set_column(0, "file", pa.array(files, pa.int32()))
        self._table = table.filter(pa.array(files >= 0)).combine_chunks()
        self.files = left
        before = len(self.bad)
        self.bad = [bad for bad in self.bad if bad.file not in paths]
        self.bad_count -= before - len(self.bad)
        return True

    def _keep(self, whole: bool) -> None:
        """Store the index when it has grown enough to be worth a file."""
        if self._kept is None:
            return
        grown = self.count - self._saved
        if whole or grown >= max(1, _SAVE_EVERY * self._saved):
            self._collect()
            more = self.bad_count - len(self.bad)
            if kept.save(self._kept, self.path, self.files, self.bad, more, self._table):
                self._saved = self._table.num_rows

    def _nothing(self) -> str:
        name = self.path.name
        if not self.files:
            kinds = ", ".join(SUFFIXES)
            return f"{name} holds no file of rollouts ({kinds}): open another folder."
        for state in self.files:
            if state.refused:
                return f"{state.path}: {state.refused}; expected {_expected()}."
        if self.bad:
            first = self.bad[0]
            return f"{first.file}, line {first.line:,}: {first.reason}."
        return f"{name} is empty: it should hold one rollout a line."


def _expected() -> str:
    return (
        "verl (input, output, score), TRL (prompt, completion), prime-rl (token_ids, loss_mask), "
        "RLLoggingBoard (prompt, response, reward), OpenAI or vLLM responses, or TokenScope "
        "rollouts"
    )
