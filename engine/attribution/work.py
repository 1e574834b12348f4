"""One attribution being computed: its targets, its sources, and their values on changed texts.

A method asks for values of versions of the text (:meth:`Work.kept`, :meth:`Work.replaced`,
:meth:`Work.embedded`) or reads gradients through ``parts``, and hands its scores to
:meth:`Work.tables`.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from engine.attribution.reading import SHARED_LEAST, Reader
from engine.attribution.segments import Segment, segments, texts
from engine.attribution.settings import AttributionParams, RemovalParams
from engine.attribution.targets import (
    Branch,
    branches_of,
    check_reads,
    measured,
    target_span,
    targets_of,
)
from engine.context import Context
from engine.errors import UserError
from engine.schema import Progress, Tables

if TYPE_CHECKING:
    from torch import Tensor

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int64]
Reading = Generator[Progress, None, Floats]

MODELS = ("model", "other")
"""Roles of every method; ``other`` is only needed for ``explain=kl``."""

SPREAD = 12
"""Batches into which versions that share a prefix are parted, so that each shares much."""


@dataclass
class Part:
    """Rows of one sequence: the text with the target, or with what it is compared with.

    Attributes:
        reader: reads changed versions of it.
        rows: [n] positions read; ``owner`` [n] is the target that each belongs to.
        said: signed labels; the value of a row is Σ sign · f(row, label).
        base: [n] values on the text as it is.
    """

    reader: Reader
    rows: Tensor
    owner: Ints
    said: list[tuple[Tensor, int]]
    base: Tensor
    reference: Tensor | None = None


Measure = Callable[["Tensor", Part, "Tensor"], "Tensor"]
"""Logits [b, m, V], the part, and which of its rows they are [m]; returns [b, m]."""

SoFar = Callable[[Floats, Bools], Mapping[str, pa.Table]]
"""Values [N, n] and which versions [N] have theirs already; returns the tables so far."""


class Work:
    """Targets, sources and changed texts of one request.

    Args:
        ctx: the running analysis; its params are ``AttributionParams`` unless given.
        params: other settings than the analysis's own.

    Attributes:
        targets: n of them; ``sources``: S segments that may be taken away; ``applies`` [n, S]:
            whether a source comes before a target.
        context: tokens before the tails, C; sources lie in it.
        parts: sequences that are read, one unless a continuation is compared.
        base: [n] the explained values on the text as it is.
    """

    def __init__(self, ctx: Context, params: AttributionParams | None = None) -> None:
        import torch

        self.ctx = ctx
        self.params: Any = ctx.params if params is None else params
        self.trace = trace = ctx.subject
        check_reads(trace, self.params)
        span = target_span(trace, self.params.targets)
        together = self.params.together or self.params.contrast is not None
        self.targets = targets_of(trace, span, together=together)
        self.model = ctx.models["model"]
        self.model.check(trace.ids[: span.end])
        branches = branches_of(trace, self.targets, self.params.contrast, ctx.tokenizer)
        self.context = span.start if self.params.contrast is not None else span.end - 1
        end = span.start if together else span.end - 1
        self.segments = segments(
            trace,
            end,
            self.params.granularity,
            self.params.spans,
            special=self.params.special,
            cuts=[t.start for t in self.targets],
        )
        self.sources = [s for s in self.segments if not s.fixed]
        if not self.sources:
            raise UserError(
                "Nothing that can be scored comes before the target: choose a later one."
            )
        starts = np.array([t.start for t in self.targets])
        self.applies: Bools = np.array([s.end for s in self.sources])[None] <= starts[:, None]
        with torch.no_grad(), torch.inference_mode(False):
            self.parts = list(self._parts(branches))
        self.base = sum((self._to_targets(p, p.base[None])[0] for p in self.parts), np.zeros(1))

    # -- what is read --------------------------------------------------------------------------

    def _parts(self, branches: Sequence[Branch]) -> list[Part]:
        import torch

        device, made = self.model.device, []
        same: dict[tuple[Any, ...], list[Branch]] = {}
        for branch in branches:
            same.setdefault((branch.tail, branch.rows), []).append(branch)
        for (tail, rows), group in same.items():
            ids = (*self.trace.ids[: self.context], *tail)
            reader = Reader(self.model, ids, self.params.memory)
            if len(self.targets) == len(rows):
                owner = np.arange(len(rows))
            else:
                owner = np.zeros(len(rows), np.int64)
            said = [(torch.tensor(b.labels, device=device), b.sign) for b in group]
            part = Part(reader, torch.tensor(rows, device=device), owner, said, torch.empty(0))
            part.reference = self._reference(ids, part.rows)
            logits = reader.logits(reader.embedded[None], part.rows)
            part.base = self.measure(logits, part, torch.arange(len(rows)))[0].double().cpu()
            made.append(part)
        return made

    def _reference(self, ids: Sequence[int], rows: Tensor) -> Tensor | None:
        """log q of the other model on the text as it is, for ``kl``."""
        if self.params.explain != "kl":
            return None
        if "other" not in self.ctx.models:
            raise UserError("explain=kl compares with a second model: give it as other=….")
        other = self.ctx.models["other"]
        if other.real_vocab != self.model.real_vocab:
            raise UserError(
                f"{self.model.name} and {other.name} have different vocabularies, so no "
                "divergence between them is defined: choose two models with one tokenizer."
            )
        reader = Reader(other, ids, self.params.memory)
        return reader.logits(reader.embedded[None], rows)[0].log_softmax(-1).to(self.model.device)

    def measure(self, logits: Tensor, part: Part, which: Tensor) -> Tensor:
        """The explained number of rows ``which`` of a part, [b, m], differentiable."""
        which = which.to(logits.device)
        reference = None if part.reference is None else part.reference[which]
        found = None
        for labels, sign in part.said:
            one = sign * measured(logits, labels[which], self.params.explain, reference)
            found = one if found is None else found + one
        assert found is not None
        return found

    def _to_targets(self, part: Part, rows: Tensor) -> Floats:
        """Values of rows [b, n] summed for each target, [b, targets]."""
        found = np.zeros((len(rows), len(self.targets)))
        np.add.at(found.T, part.owner, rows.double().cpu().numpy().T)
        return found

    # -- values of changed texts ---------------------------------------------------------------

    def kept(self, keep: Bools, what: str = "Taking tokens away", **more: Any) -> Reading:
        """Values [N, n] of N versions, in each of which only some sources are kept.

        Args:
            keep: [N, S].
            what: said while it runs.
            **more: as :meth:`embedded`.
        """
        tokens = self.token_mask(keep)
        if self._removal == "delete":
            return (yield from self._without(tokens, what, **more))
        import torch

        with torch.no_grad(), torch.inference_mode(False):
            empty = self._empty()
        gone = torch.as_tensor(~tokens, device=self.model.device)

        def make(part: Part, which: Tensor, first: int) -> Tensor:
            base = part.reader.embedded[first:]
            mask = torch.zeros(len(which), len(base), dtype=torch.bool, device=base.device)
            mask[:, : max(0, self.context - first)] = gone[which, first:]
            return torch.where(mask[..., None], empty, base)

        firsts = np.where(tokens.all(1), self.context, (~tokens).argmax(1))
        return (yield from self.embedded(make, firsts, what, **more))

    def replaced(self, ids: Ints, what: str = "Replacing tokens", **more: Any) -> Reading:
        """Values [N, n] of versions whose context reads ``ids`` [N, C] instead."""
        import torch

        own = np.array(self.trace.ids[: self.context])
        given = torch.as_tensor(ids, device=self.model.device)

        def make(part: Part, which: Tensor, first: int) -> Tensor:
            head = part.reader.embed(given[which, first:])
            tail = part.reader.embedded[max(first, self.context) :]
            return torch.cat([head, tail.expand(len(which), -1, -1)], 1)

        changed = ids != own
        firsts = np.where(changed.any(1), changed.argmax(1), self.context)
        return (yield from self.embedded(make, firsts, what, **more))

    def embedded(
        self,
        make: Callable[[Part, Tensor, int], Tensor],
        firsts: Ints,
        what: str,
        measure: Measure | None = None,
        base: Sequence[Tensor] | None = None,
        so_far: SoFar | None = None,
    ) -> Reading:
        """Values [N, n] of versions given as embeddings.

        Args:
            make: part, numbers of the versions [b], first token → [b, T − first, D].
            firsts: [N] the first token that a version changes; C or more for none.
            what: said while it runs.
            measure: another number of each row than the explained one.
            base: with ``measure``: its values on the text as it is, [n] for each part.
            so_far: makes tables while it runs.
        """
        found = np.zeros((len(firsts), len(self.targets)))
        known = np.zeros(len(firsts), bool)
        done, everything = 0, len(firsts) * len(self.parts)
        for number, part in enumerate(self.parts):
            same = part.base if base is None else base[number]
            for which, first, rows in self._batches(part, firsts):
                values = same.expand(len(which), -1).clone()
                if len(rows):
                    values[:, rows] = self._values(part, make, which, first, rows, measure)
                found[which] += self._to_targets(part, values)
                done += len(which)
                known[which] = number == len(self.parts) - 1
                yield _progress(done, everything, what, so_far, found, known)
        return found

    def _values(
        self, part: Part, make: Any, which: Ints, first: int, rows: Ints, measure: Measure | None
    ) -> Tensor:
        import torch

        with torch.no_grad(), torch.inference_mode(False):
            chosen = torch.as_tensor(rows)
            index = torch.as_tensor(which, device=self.model.device)
            logits = part.reader.logits(
                make(part, index, first), part.rows[chosen.to(part.rows.device)], first
            )
            return (measure or self.measure)(logits, part, chosen).double().cpu()

    def _batches(self, part: Part, firsts: Ints) -> Generator[tuple[Ints, int, Ints], None, None]:
        """Numbers of versions read at once, their common prefix, and the rows that may change."""
        length = len(part.reader.ids)
        order = np.argsort(firsts, kind="stable")
        places = part.rows.cpu().numpy()
        untouched = order[firsts[order] > places.max()]
        if len(untouched):
            yield untouched, length, np.zeros(0, np.int64)
        order = order[firsts[order] <= places.max()]
        # Those that change at once have no prefix to share: they are read as many at a time as fit.
        early = int((firsts[order] < SHARED_LEAST).sum()) if len(order) else 0
        even = max(4, -(-(len(order) - early) // SPREAD))
        at = 0
        while at < len(order):
            first = int(firsts[order[at]])
            late = part.rows[part.rows >= first]
            shared = part.reader.share(first, late)
            size = part.reader.batch_size(length, len(places))
            if part.reader.may_share:
                size = min(size, early - at if at < early else even)
            which = order[at : at + size]
            yield which, shared, np.flatnonzero(places >= first)
            at += len(which)

    def _without(
        self,
        tokens: Bools,
        what: str,
        measure: Measure | None = None,
        base: Sequence[Tensor] | None = None,
        so_far: SoFar | None = None,
    ) -> Reading:
        """Values of versions from which tokens are really taken out, so that the rest moves up.

        NaN where nothing is left to predict from.
        """
        import torch

        found = np.zeros((len(tokens), len(self.targets)))
        known = np.zeros(len(tokens), bool)
        done, everything = 0, len(tokens) * len(self.parts)
        for number, part in enumerate(self.parts):
            same = part.base if base is None else base[number]
            length = len(part.reader.ids)
            size = part.reader.batch_size(length, len(part.rows))
            places = part.rows.cpu().numpy()
            for at in range(0, len(tokens), size):
                keep = np.ones((len(tokens[at : at + size]), length), bool)
                keep[:, : self.context] = tokens[at : at + size]
                rows = keep.cumsum(1)[:, places] - 1
                order = np.argsort(~keep, axis=1, kind="stable")[
                    :, : max(1, int(keep.sum(1).max()))
                ]
                with torch.no_grad(), torch.inference_mode(False):
                    embeds = part.reader.embedded[torch.as_tensor(order, device=self.model.device)]
                    logits = part.reader.logits(embeds, torch.as_tensor(rows.clip(0)))
                    values = (measure or self.measure)(logits, part, torch.arange(len(places)))
                values = values.double().cpu()
                values[torch.as_tensor(rows < 0)] = float("nan")
                untouched = torch.as_tensor(keep.cumprod(1)[:, places].astype(bool))
                values = torch.where(untouched, same.expand_as(values), values)
                found[at : at + size] += self._to_targets(part, values)
                done += len(values)
                known[at : at + size] = number == len(self.parts) - 1
                yield _progress(done, everything, what, so_far, found, known)
        return found

    # -- what is taken away --------------------------------------------------------------------

    def token_mask(self, keep: Bools) -> Bools:
        """Sources kept [N, S] as tokens kept [N, C]; fixed tokens always are."""
        tokens = np.ones((len(keep), self.context), bool)
        for column, source in enumerate(self.sources):
            tokens[:, source.start : source.end] = keep[:, column, None]
        return tokens

    @property
    def _removal(self) -> str:
        return self.params.removal if isinstance(self.params, RemovalParams) else "neutral"

    def _empty(self) -> Tensor:
        """Embedding that stands in the place of what is taken away, [D]."""
        import torch

        reader = self.parts[0].reader
        if self._removal == "zero":
            return torch.zeros_like(reader.embedded[0])
        if self._removal == "replace":
            ids = self.ctx.tokenizer.encode(
                self.params.replacement, special=False, name="replacement"
            ).ids
            if len(ids) != 1:
                raise UserError(
                    f"The replacement has {len(ids)} tokens: give one that is a single token."
                )
            return reader.embed(torch.tensor(ids[0], device=self.model.device))
        return reader.mean_embedding()

    # -- results -------------------------------------------------------------------------------

    def per_source(self, tokens: Floats) -> Floats:
        """Scores of tokens [n, C] summed over each source, [n, S]."""
        return np.stack([tokens[:, s.start : s.end].sum(1) for s in self.sources], 1)

    def tables(self, scores: Floats, baseline: Floats | None = None, **more: pa.Table) -> Tables:
        """The result: scores [n, S] of sources that come before their target.

        Args:
            scores: NaN where a method gives none (say why with ``ctx.note``).
            baseline: [n] explained values with everything taken away, for methods whose scores
                should account for the difference.
            **more: further tables of the method.
        """
        rows, columns = np.nonzero(self.applies)
        names = texts(self.trace, self.sources)
        column: dict[str, Any] = {
            "target": [self.targets[i].text for i in rows],
            "target_position": [self.targets[i].start for i in rows],
            "target_end": [self.targets[i].end for i in rows],
            "source": [names[j] for j in columns],
            "source_position": [self.sources[j].start for j in columns],
            "source_end": [self.sources[j].end for j in columns],
            "score": _nullable(scores[rows, columns]),
        }
        total = np.where(self.applies, scores, 0.0).sum(1)
        known = baseline is not None
        base = baseline if baseline is not None else np.full(len(self.targets), np.nan)
        targets: dict[str, Any] = {
            "target": [t.text for t in self.targets],
            "target_position": [t.start for t in self.targets],
            "target_end": [t.end for t in self.targets],
            "explained": [self.params.explain] * len(self.targets),
            "contrast": pa.array([self.params.contrast] * len(self.targets), pa.string()),
            "value": self.base,
            "baseline": _nullable(base),
            "total": _nullable(total),
            "residual": _nullable(self.base - base - total if known else base),
        }
        readers = [p.reader for p in self.parts]
        cost = {
            name: [sum(getattr(r, name) for r in readers)]
            for name in ("forwards", "backwards", "tokens")
        }
        return Tables(
            attribution=pa.table(column), targets=pa.table(targets), cost=pa.table(cost), **more
        )

    def gradient_segments(self) -> list[Segment]:
        """Segments that do not move along a path of embeddings: the fixed ones."""
        return [s for s in self.segments if s.fixed]


def _progress(
    done: int, everything: int, what: str, so_far: SoFar | None, found: Floats, known: Bools
) -> Progress:
    tables = None if so_far is None else partial(so_far, found, known)
    return Progress(done / everything, f"{what}: {done:,} of {everything:,} texts", so_far=tables)


def _nullable(values: Any) -> pa.Array:
    array = np.asarray(values, float)
    return pa.array(array, pa.float64(), mask=~np.isfinite(array))
