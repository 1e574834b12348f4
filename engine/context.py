"""What an analysis gets to work with: subject, params, models, and the shared forward passes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from engine.schema import NOTES, PER_TOKEN
from engine.tokenization import Tokenizer, show

if TYPE_CHECKING:
    import torch
    from tokenkernel import TokenStats

    from engine.models import LoadedModel
    from engine.plan import Plan
    from engine.result import Request, Result
    from engine.sampling.generation import Continuation, Sampler
    from engine.workspace import Workspace


class _Models(Mapping[str, "LoadedModel"]):
    """The models by role, loaded when first asked for."""

    def __init__(self, ctx: Context) -> None:
        self._ctx = ctx

    def __getitem__(self, role: str) -> LoadedModel:
        return self._ctx.workspace.load(self._ctx.plan.models[role])

    def __iter__(self) -> Iterator[str]:
        return iter(self._ctx.plan.models)

    def __len__(self) -> int:
        return len(self._ctx.plan.models)


class Context:
    """Handed to every analysis.

    Attributes:
        subject: the (already encoded) subject.
        params: validated params.
        models: loaded models by role; loading happens on first access.
        resume: tables of an earlier partial result of the same request, or None.
    """

    def __init__(
        self, plan: Plan, workspace: Workspace, resume: Mapping[str, pa.Table] | None = None
    ) -> None:
        self.plan = plan
        self.workspace = workspace
        self.subject: Any = plan.subject
        self.params: Any = plan.params
        self.models: Mapping[str, LoadedModel] = _Models(self)
        self.resume = resume
        self._notes: list[dict[str, Any]] = []

    # -- shared forward passes ---------------------------------------------------------------

    def hidden(self, role: str = "model") -> torch.Tensor:
        """Inputs of the lm_head, [T, D]; one forward however many analyses ask."""
        return self.models[role].hidden(self.subject.ids)

    def logits(self, start: int, end: int, role: str = "model") -> torch.Tensor:
        """Logits made at positions ``start`` to ``end`` − 1, [end − start, V], real ids only.

        Row *t* predicts token *t* + 1.
        """
        model = self.models[role]
        if model.head_route:
            logits = model.logits(model.hidden(self.subject.ids)[start:end])
        else:
            logits = model.full_logits(self.subject.ids)[start:end]
        return logits[:, : model.real_vocab]

    def token_stats(
        self, start: int, end: int, target: torch.Tensor, k: int = 0, role: str = "model"
    ) -> TokenStats:
        """Statistics of the predictions made at positions ``start`` to ``end`` − 1.

        One sweep over the kept hidden states; ``target`` are the ids of the tokens after them.
        """
        model = self.models[role]
        if model.head_route:
            return model.token_stats(self.hidden(role)[start:end], target, k)
        from tokenkernel import token_stats

        return token_stats(self.logits(start, end, role), target, k)

    def attention(self, role: str = "model", **choices: Any) -> torch.Tensor:
        """Attention aggregated over layers and heads, [T, T]; see ``LoadedModel.attention``."""
        return self.models[role].attention(self.subject.ids, **choices)

    def stats(self, role: str = "model", top_k: int = 20) -> Result:
        """The ``statistics`` of this trace under one of the models."""
        from engine.result import Request

        ref = self.plan.models[role].ref
        return self.run(Request("statistics", self.subject, {"model": ref}, {"top_k": top_k}))

    def samples(
        self, prefix: Sequence[int], sampler: Sampler, count: int, role: str = "model"
    ) -> Iterator[list[Continuation]]:
        """The first ``count`` continuations of ``prefix``; only those never drawn are computed."""
        yield from self.workspace.samples(self.plan.models[role], prefix, sampler, count)

    def samples_after(
        self, ids: Sequence[int], wanted: Mapping[int, int], sampler: Sampler, role: str = "model"
    ) -> Iterator[tuple[int, dict[int, list[Continuation]]]]:
        """Continuations of several prefixes of ``ids``; see ``Workspace.samples_after``."""
        model = self.plan.models[role]
        yield from self.workspace.samples_after(model, ids, wanted, sampler)

    def run(self, request: Request) -> Result:
        """Another analysis, computed inline (or read from the store)."""
        return self.workspace.run_inline(request)

    # -- results -----------------------------------------------------------------------------

    def note(
        self,
        table: str,
        column: str | None,
        reason: str,
        *,
        position: int | None = None,
        rollout: int | None = None,
    ) -> None:
        """Say why a value is empty."""
        self._notes.append(
            {
                "table": table,
                "column": column,
                "position": position,
                "rollout": rollout,
                "reason": reason,
            }
        )

    @property
    def notes(self) -> pa.Table:
        """The notes so far."""
        return pa.Table.from_pylist(self._notes, schema=NOTES)

    @property
    def tokenizer(self) -> Tokenizer:
        """Tokenizer of the first model."""
        return next(iter(self.plan.models.values())).tokenizer

    def per_token(self, columns: Mapping[str, Any]) -> pa.Table:
        """A per-token table: the common columns and ``columns``, each as long as the trace."""
        trace = self.subject
        n = len(trace)
        special = set(trace.special)
        common: dict[str, Any] = {
            "position": range(n),
            "token_id": trace.ids if trace.has_ids else [i if i >= 0 else None for i in trace.ids],
            "token": [show(piece) for piece in trace.pieces],
            "token_bytes": list(trace.pieces),
            "special": [p in special for p in range(n)],
            "start_byte": [a for a, _ in trace.offsets],
            "end_byte": [b for _, b in trace.offsets],
            "role": trace.roles,
            "segment": trace.segments,
            "ids_origin": [trace.ids_origin] * n,
        }
        types = {name: column.type for name, column in PER_TOKEN.items()}
        arrays = {name: pa.array(list(v), types[name]) for name, v in common.items()}
        return pa.table({**arrays, **columns})

    def token_texts(self, ids: np.ndarray[Any, Any]) -> tuple[pa.Array, pa.Array]:
        """Readable text and exact bytes of each id."""
        unique, inverse = np.unique(ids, return_inverse=True)
        data = [self.tokenizer.piece(int(i)).data for i in unique]
        places = pa.array(inverse, pa.int64())
        texts = pa.array([show(piece) for piece in data], pa.string())
        return texts.take(places), pa.array(data, pa.binary()).take(places)
