"""Which rows are decoded when: waiting ones begin in waves, so that the batch stays full.

Rows that begin together form a wave. They are of one age for ever, so that their suffixes need no
filling up; those that finish leave it at once.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from engine.errors import UserError
from engine.loaded import LoadedModel
from engine.sampling import generation
from engine.sampling.decoding import refuse_state
from engine.sampling.draws import draw_rows
from engine.sampling.generation import Continuation, Sampler, uniforms
from engine.sampling.prefixes import Shared, fitting_rows, sharing_twin
from engine.sampling.sharing import Suffixes

WAVE = 4
"""Waiting rows begin when one in so many places is free, together: the Python work of a layer is
done once for each wave."""

SMALL = 50_000_000
"""Parameters below which one thread decodes. A step is then hundreds of pieces of about a
millisecond, at whose ends two threads wait for each other: on a machine with other work to do
that took eight times the CPU time of one thread (measured)."""

Found = list[tuple[int, Continuation]]
Numbers = Mapping[int, Sequence[int]]
"""Lengths of prefixes to numbers of samples."""


class _Wave:
    """Rows that began together.

    Args:
        rows: Prefix length and number of each sample.
        draws: Uniform numbers of each row, [R, steps].
        limits: Tokens that each row may have.
        device: Where they are decoded.
    """

    def __init__(
        self,
        rows: Sequence[tuple[int, int]],
        draws: npt.NDArray[np.float64],
        limits: npt.NDArray[np.int64],
        device: torch.device,
    ) -> None:
        self._rows = np.array(rows, dtype=np.int64)
        self._draws = draws
        self._limits = limits
        self._tokens = np.zeros(draws.shape, dtype=np.int64)
        self._logs = np.zeros(draws.shape, dtype=np.float64)
        self.suffixes = Suffixes(self._rows[:, 0], draws.shape[1], device)

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def draws(self) -> npt.NDArray[np.float64]:
        """The numbers by which the next tokens are drawn, [R]."""
        return self._draws[:, self.suffixes.age]

    @property
    def last(self) -> npt.NDArray[np.int64]:
        """The tokens drawn last, [R]."""
        return self._tokens[:, self.suffixes.age]

    def take(
        self, ids: npt.NDArray[np.int64], logs: npt.NDArray[np.float64], stops: Sequence[int]
    ) -> Found:
        """Note the tokens just drawn; return the rows that are finished, which leave."""
        at = self.suffixes.age
        self._tokens[:, at], self._logs[:, at] = ids, logs
        stopped = np.isin(ids, stops)
        ended = stopped | (self._limits <= at + 1)
        if not ended.any():
            return []
        done: Found = []
        for row in np.flatnonzero(ended):
            length, index = self._rows[row].tolist()
            tokens, logprobs = (a[row, : at + 1].tolist() for a in (self._tokens, self._logs))
            made = Continuation(
                index, tuple(tokens), tuple(logprobs), "stop" if stopped[row] else "length"
            )
            done.append((length, made))
        order = self.suffixes.keep(~ended)
        self._rows, self._limits = self._rows[order], self._limits[order]
        self._draws, self._logs = self._draws[order], self._logs[order]
        self._tokens = self._tokens[order]
        return done


class Batch:
    """All rows of one call."""

    def __init__(
        self,
        shared: Shared,
        ids: tuple[int, ...],
        wanted: Numbers,
        limits: Mapping[int, int],
        sampler: Sampler,
        rows: int,
    ) -> None:
        model = shared.model
        self._shared = shared
        self._ids = ids
        self._limits = limits
        self._sampler = sampler
        self._places = rows
        parameters = sum(weight.numel() for weight in model.model.parameters())
        self._small = model.device.type == "cpu" and parameters < SMALL
        self._stops = list(model.eos_ids if sampler.stop_ids is None else sampler.stop_ids)
        self._waiting = ((length, i) for length, indices in wanted.items() for i in indices)
        self._waves: list[_Wave] = []

    def run(self) -> Iterator[Found]:
        last = time.monotonic()
        while True:
            with self._threads():
                begun, done = self._begin()
                if not begun and not self._waves:
                    return
                if self._waves:
                    tokens = np.concatenate([wave.last for wave in self._waves])
                    logits = self._shared.step([wave.suffixes for wave in self._waves], tokens)
                    done += self._take(self._waves, logits)
            if done or time.monotonic() - last > generation.CANCEL_SECONDS:
                yield done
                last = time.monotonic()

    @contextmanager
    def _threads(self) -> Iterator[None]:
        """Use one thread for a small model inside the block; nothing is yielded in it."""
        before = torch.get_num_threads()
        if not self._small or before == 1:
            yield
            return
        torch.set_num_threads(1)
        try:
            yield
        finally:
            torch.set_num_threads(before)

    def _begin(self) -> tuple[bool, Found]:
        """Let waiting rows begin when enough places are free; their first tokens are drawn."""
        free = self._places - sum(map(len, self._waves))
        if self._waves and free < max(1, self._places // WAVE):
            return False, []
        rows = list(itertools.islice(self._waiting, free))
        if not rows:
            return False, []
        lengths = np.array([length for length, _ in rows])
        limits = np.array([self._limits[length] for length in lengths.tolist()])
        draws = np.concatenate(
            [
                uniforms(
                    self._sampler.seed, self._ids[:length], [i for _, i in group], limits.max()
                )
                for length, group in itertools.groupby(rows, key=lambda row: row[0])
            ]
        )
        wave = _Wave(rows, draws, limits, self._shared.model.device)
        done = self._take([wave], self._shared.first(lengths))
        if len(wave):
            self._waves.append(wave)
        return True, done

    def _take(self, waves: Sequence[_Wave], logits: Tensor) -> Found:
        """Draw the next token of each row; return what is finished."""
        draws = np.concatenate([wave.draws for wave in waves])
        ids, logs = draw_rows(logits, self._sampler, draws)
        done: Found = []
        ends = np.cumsum([len(wave) for wave in waves])[:-1]
        for wave, own, log in zip(waves, np.split(ids, ends), np.split(logs, ends), strict=True):
            done += wave.take(own, log, self._stops)
        self._waves = [wave for wave in self._waves if len(wave)]
        return done


def continue_prefixes(
    model: LoadedModel,
    ids: Sequence[int],
    wanted: Numbers,
    sampler: Sampler,
    rows: int | None = None,
) -> Iterator[Found]:
    """Yield samples of prefixes as they finish; see ``generation.sample_after``."""
    ids = model.check(ids)
    groups = {int(n): list(dict.fromkeys(numbers)) for n, numbers in wanted.items()}
    for n in groups:
        if not 1 <= n <= len(ids):
            raise UserError(
                f"There is no prefix of {n} tokens: choose a length between 1 and {len(ids)}."
            )
    limits = dict.fromkeys(groups, sampler.max_new_tokens)
    if model.context is not None:
        limits = {n: min(limit, model.context - n) for n, limit in limits.items()}
    full = [(n, i) for n, numbers in groups.items() if limits[n] < 1 for i in numbers]
    if full:
        yield [(n, Continuation(i, (), (), "length")) for n, i in full]
    groups = {n: numbers for n, numbers in groups.items() if numbers and limits[n] >= 1}
    if not groups:
        return
    refuse_state(model)
    if sampler.temperature:
        yield from _drawn(model, ids, groups, limits, sampler, rows)
        return
    # All greedy continuations of a prefix are the same one.
    ones = {n: numbers[:1] for n, numbers in groups.items()}
    for found in _drawn(model, ids, ones, limits, sampler, rows):
        yield [
            (n, Continuation(i, c.ids, c.logprobs, c.finish)) for n, c in found for i in groups[n]
        ]


def _drawn(
    model: LoadedModel,
    ids: tuple[int, ...],
    wanted: Numbers,
    limits: Mapping[int, int],
    sampler: Sampler,
    rows: int | None,
) -> Iterator[Found]:
    twin = sharing_twin(model)
    if twin is None:
        for n, numbers in wanted.items():
            for batch in generation.sample(model, ids[:n], sampler, numbers, batch_rows=rows):
                yield [(n, continuation) for continuation in batch]
        return
    shared = Shared(model, twin, ids[: max(wanted)], list(wanted))
    if rows is None:
        rows = fitting_rows(shared, max(wanted), max(limits[n] for n in wanted))
    yield from Batch(shared, ids, wanted, limits, sampler, rows).run()
