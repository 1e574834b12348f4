"""A loaded model: last hidden states, logits and attention, each forward counted and kept.

A model is never patched: a hook lives for one call, attention is read through a twin
(:mod:`engine.twin`), and gradients of the weights are off from the start.
"""

from __future__ import annotations

import contextlib
import itertools
import threading
import weakref
from collections.abc import Sequence
from typing import Any

import torch
from tokenkernel import TokenStats, stats_from_hidden, token_stats
from torch import Tensor, nn
from transformers import PreTrainedModel

from engine import twin as folding
from engine.catalogue import Located
from engine.errors import UserError
from engine.heads import HeadStep, apply_steps, find_steps
from engine.hidden import HIDDEN
from engine.twin import Fold, Keep, Knockouts, Reduce, Visit, as_knockouts

LOGITS_BYTES = 2**30
"""Most bytes of float32 logits :meth:`LoadedModel.full_logits` returns at once."""

_PROBE = 8


_serials = itertools.count()


class _HeadReachedError(Exception):
    """The forward reached the head, whose input is all that was wanted."""


class LoadedModel:
    """A causal language model ready to be asked, shared by all jobs of the process.

    Methods take the ids of one sequence, hold ``lock`` while the network runs, and leave the
    model as they found it. Returned hidden states are shared: do not write into them.

    Attributes:
        located: Where it came from.
        fingerprint: What stands for its weights in keys.
        model: The transformers model, in evaluation mode.
        device: Where it is.
        dtype: Number type of its weights.
        vocab_size: Rows of its output matrix, V.
        real_vocab: Ids its tokenizer really has, at most V; set by whoever knows the tokenizer.
        context: Most tokens it reads, None if unknown.
        eos_ids: Ids that end a generation.
        forwards: Forward passes made so far, those of its twin included.
        lock: Held while the network runs; re-entrant.
        head_route: Whether :meth:`logits` was found equal to the model's own logits.
        head_steps: Soft-caps and scales behind the output matrix.
    """

    def __init__(self, located: Located, fingerprint: str, model: PreTrainedModel) -> None:
        self.located = located
        self.fingerprint = fingerprint
        self.model = model.eval().requires_grad_(False)
        self.device = next(model.parameters()).device
        self.dtype = next(model.parameters()).dtype
        self.context = located.context
        self.eos_ids = _eos_ids(model)
        self.lock = threading.RLock()
        head = model.get_output_embeddings()
        if not isinstance(head, nn.Module):
            raise UserError(f"{self.name} has no output matrix: it predicts no next token.")
        self._head: nn.Module = head
        self._twin: PreTrainedModel | None = None
        self._serial = next(_serials)
        weakref.finalize(self, HIDDEN.drop, self._serial)
        self.forwards = 0
        self.head_route, self.head_steps, self.vocab_size = self._probe()
        self.real_vocab = self.vocab_size
        self.forwards = 0

    @property
    def name(self) -> str:
        """What to call it in a sentence."""
        return self.located.name

    @property
    def layers(self) -> int:
        """How many transformer layers it has, L."""
        return int(self.model.config.get_text_config().num_hidden_layers)

    @property
    def attention_heads(self) -> int:
        """How many query heads each layer has, H.

        Raises:
            UserError: The model has no attention.
        """
        heads = getattr(self.model.config.get_text_config(), "num_attention_heads", None)
        if not isinstance(heads, int):
            raise UserError(f"{self.name} has no attention to read: choose another model.")
        return heads

    @property
    def head_weight(self) -> Tensor:
        """The output matrix [V, D]."""
        weight = self._head.weight
        assert isinstance(weight, Tensor)
        return weight

    def check(self, ids: Sequence[int]) -> tuple[int, ...]:
        """Return ``ids`` as a tuple after checking that the model can read them.

        Raises:
            UserError: There are none, too many, or one is not in the vocabulary.
        """
        ids = tuple(int(i) for i in ids)
        if not ids:
            raise UserError("The text has no tokens: enter at least one character.")
        if self.context is not None and len(ids) > self.context:
            raise UserError(
                f"The text has {len(ids):,} tokens; {self.name} reads at most "
                f"{self.context:,}: shorten it."
            )
        worst = max(ids) if min(ids) >= 0 else min(ids)
        if not 0 <= worst < self.vocab_size:
            raise UserError(
                f"The id {worst} is not in the vocabulary of {self.name}, which has "
                f"{self.vocab_size:,} entries: use the tokenizer that belongs to it."
            )
        return ids

    def forward(self, **inputs: Any) -> Any:
        """Call the model itself and count it; gradients and caches as the caller sets them.

        The caller holds ``lock`` when it has put hooks on the model.
        """
        with self.lock:
            self.forwards += 1
            return self.model(**inputs)

    def hidden(self, ids: Sequence[int], knockout: Knockouts | None = None) -> Tensor:
        """Return the input of the lm_head at every position, [T, D] in the model's dtype.

        Row *t* predicts token *t + 1*. Kept in memory, so asking again costs no forward.

        Args:
            ids: The T ids.
            knockout: Attention edges to cut, see :func:`engine.twin.as_knockouts`; such states
                are computed through the twin and not kept.

        Raises:
            UserError: The ids do not fit the model, or the edges do not fit the ids.
        """
        ids = self.check(ids)
        if knockout is not None:
            fold = Fold(len(ids), layers=frozenset(), cuts=as_knockouts(knockout, len(ids)))
            with self.lock:
                return self._reach_head(self.twin, ids, fold)
        with self.lock:
            found = HIDDEN.get((self._serial, ids))
            if found is None:
                found = self._reach_head(self.model, ids, None)
                HIDDEN.put((self._serial, ids), found)
            return found

    def logits(self, hidden: Tensor) -> Tensor:
        """Return the logits [n, V] of hidden states [n, D], in float32 and as the model has them.

        Differentiable in ``hidden``. Ask for few rows at a time: V is large.

        Raises:
            UserError: This model's logits cannot be had from hidden states.
        """
        if not self.head_route:
            raise UserError(
                f"The logits of {self.name} are not a function of its last hidden state that is "
                "known here: choose another model for this analysis."
            )
        head_dtype = self.head_weight.dtype
        return apply_steps(self._head(hidden.to(head_dtype)), self.head_steps).float()

    def token_stats(self, hidden: Tensor, target: Tensor, k: int) -> TokenStats:
        """Next-token statistics of hidden states [n, D], over the tokenizer's ids.

        The logits are never held together. With half-precision weights they are summed in float32,
        which the model itself rounds.

        Raises:
            UserError: This model's logits cannot be had from hidden states.
        """
        plain = self._plain_head()
        if plain is None:
            return token_stats(self.logits(hidden)[:, : self.real_vocab], target, k)
        bias = getattr(self._head, "bias", None)
        return stats_from_hidden(
            hidden.to(self.head_weight.dtype),
            self.head_weight[: self.real_vocab],
            target,
            k,
            bias=bias if bias is None else bias[: self.real_vocab],
            scale=plain[0],
            softcap=plain[1],
        )

    def _plain_head(self) -> tuple[float, float] | None:
        """Scale and soft-cap of the head, None where it does something else."""
        if not (self.head_route and isinstance(self._head, nn.Linear)):
            return None
        scale, softcap = 1.0, 0.0
        for step in self.head_steps:
            if softcap:
                return None
            if step.kind == "soft-cap":
                softcap = step.value
            else:
                scale *= step.value if step.kind == "multiply" else 1 / step.value
        return scale, softcap

    def full_logits(self, ids: Sequence[int]) -> Tensor:
        """Return the model's own logits [T, V] in float32, for models without a head route.

        Raises:
            UserError: They would take more than a gigabyte, or the ids do not fit the model.
        """
        ids = self.check(ids)
        if 4 * len(ids) * self.vocab_size > LOGITS_BYTES:
            raise UserError(
                f"The logits of {len(ids):,} tokens over {self.vocab_size:,} ids need more than a "
                "gigabyte: shorten the text."
            )
        with torch.no_grad():
            if self.head_route:
                return self.logits(self.hidden(ids))
            logits: Tensor = self.forward(input_ids=self._tensor(ids), use_cache=False).logits[0]
            return logits.float()

    def require_plain_head(self) -> None:
        """Refuse models whose logits are more than ``W h + b``.

        Raises:
            UserError: Names the soft-cap or scale.
        """
        if not self.head_route:
            raise UserError(
                f"The logits of {self.name} are no known function of its last hidden state, which "
                "this method needs: choose another model."
            )
        if self.head_steps:
            raise UserError(
                f"{self.name} {self.head_steps[-1]}, for which this method is not defined: choose "
                "a model whose logits are a plain matrix product."
            )

    @property
    def twin(self) -> PreTrainedModel:
        """The model with folding attention, sharing all weights; built when first asked for.

        Raises:
            UserError: This architecture's attention cannot be read.
        """
        with self.lock:
            if self._twin is None:
                self._twin = self._checked_twin()
            return self._twin

    def attention(
        self,
        ids: Sequence[int],
        layers: Sequence[int] | None = None,
        heads: Sequence[int] | None = None,
        reduce: Reduce = "mean",
        knockout: Knockouts | None = None,
        keep: Keep | None = None,
        block_rows: int | None = None,
    ) -> Tensor:
        """Return attention weights gathered over layers and heads, float32.

        Entry ``[q, k]`` is how much position *q* takes from position *k* ≤ *q*.

        Args:
            ids: The T ids.
            layers: Which layers; None is all.
            heads: Which heads of each; None is all.
            reduce: ``mean``, ``sum`` or ``max`` over them.
            knockout: Attention edges to cut, see :func:`engine.twin.as_knockouts`.
            keep: ``layers`` for [L, T, T] or ``heads`` for [L, H, T, T], short texts only.
            block_rows: Query rows computed at a time; None chooses.

        Returns:
            [T, T], or with ``keep`` the chosen layers in ascending order.

        Raises:
            UserError: A layer or head does not exist, the text is too long for ``keep``, or the
                attention of this architecture cannot be read.
        """
        ids = self.check(ids)
        folding.check_selection("layers", layers, self.layers)
        folding.check_selection("heads", heads, self.attention_heads)
        length = len(ids)
        if keep is not None:
            count = self.layers if layers is None else len(set(layers))
            if keep == "heads":
                count *= self.attention_heads if heads is None else len(heads)
            if 4 * count * length * length > folding.KEEP_BYTES:
                raise UserError(
                    f"{count} attention maps of {length:,} tokens need more than "
                    f"{folding.KEEP_BYTES // 2**20} MB: shorten the text or choose fewer layers."
                )
        fold = Fold(
            length,
            None if layers is None else frozenset(layers),
            None if heads is None else tuple(sorted(set(heads))),
            reduce,
            keep,
            as_knockouts(knockout, length),
            block_rows,
        )
        self._read(ids, fold, layers)
        return fold.result()

    def visit_attention(
        self,
        ids: Sequence[int],
        visit: Visit,
        layers: Sequence[int] | None = None,
        knockout: Knockouts | None = None,
    ) -> Tensor:
        """Hand all attention weights to ``visit``, block by block, in one forward.

        For what is linear in the weights of each head, however long the text: nothing is kept.

        Args:
            ids: The T ids.
            visit: Called with layer, first row and weights [H, rows, T] in float32; layers and
                rows come in ascending order.
            layers: Which layers; None is all.
            knockout: Attention edges to cut, see :func:`engine.twin.as_knockouts`.

        Returns:
            The input of the lm_head at every position, [T, D], as :meth:`hidden` has it.

        Raises:
            UserError: A layer does not exist, the edges do not fit the ids, or the attention of
                this architecture cannot be read.
        """
        ids = self.check(ids)
        folding.check_selection("layers", layers, self.layers)
        fold = Fold(
            len(ids),
            None if layers is None else frozenset(layers),
            cuts=as_knockouts(knockout, len(ids)),
            visit=visit,
        )
        return self._read(ids, fold, layers)

    def _read(self, ids: tuple[int, ...], fold: Fold, layers: Sequence[int] | None) -> Tensor:
        with self.lock:
            hidden = self._reach_head(self.twin, ids, fold)
        missing = sorted(set(layers or ()) - set(fold.seen))
        if missing:
            raise UserError(f"Layer {missing[0]} of {self.name} has no attention: choose another.")
        return hidden

    def _tensor(self, ids: Sequence[int]) -> Tensor:
        return torch.tensor([ids], dtype=torch.long, device=self.device)

    def _reach_head(
        self, network: PreTrainedModel, ids: tuple[int, ...], fold: Fold | None
    ) -> Tensor:
        """Run ``network`` up to its head and return the head's input, [T, D]."""
        reached: list[Tensor] = []
        caller = threading.get_ident()

        def stop(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            # Another thread may be taking logits from hidden states it already has.
            if threading.get_ident() != caller:
                return
            reached.append(inputs[0])
            raise _HeadReachedError

        head: Any = network.get_output_embeddings()
        handle = head.register_forward_pre_hook(stop)
        self.forwards += 1
        inputs = {"input_ids": self._tensor(ids)}
        try:
            with torch.no_grad(), contextlib.suppress(_HeadReachedError):
                if fold is None:
                    network(**inputs, use_cache=False)
                else:
                    folding.folded(network, inputs, fold)
        finally:
            handle.remove()
        if not reached:
            raise UserError(f"The last hidden states of {self.name} cannot be read.")
        return reached[0].reshape(len(ids), -1)

    def _probe(self) -> tuple[bool, tuple[HeadStep, ...], int]:
        """Compare head outputs with the model's own logits on a few ids.

        Returns:
            Whether they agree, after which steps, and the width of the logits.
        """
        ids = self._probe_ids()
        own: Tensor = self._own_logits(self.model, ids)
        try:
            hidden = self._reach_head(self.model, ids, None)
            with torch.no_grad():
                raw = self._head(hidden)
        except (UserError, RuntimeError):
            return False, (), own.shape[-1]
        if raw.shape != own.shape:
            return False, (), own.shape[-1]
        steps = find_steps(raw, own, self.model.config)
        return steps is not None, steps or (), own.shape[-1]

    def _own_logits(self, network: PreTrainedModel, ids: tuple[int, ...]) -> Tensor:
        with torch.no_grad():
            logits: Tensor = network(input_ids=self._tensor(ids), use_cache=False).logits[0]
        return logits

    def _probe_ids(self) -> tuple[int, ...]:
        embedding: Any = self.model.get_input_embeddings()
        count = min(_PROBE, self.context or _PROBE)
        return tuple(int(embedding.weight.shape[0]) * (i + 1) // (count + 2) for i in range(count))

    def _checked_twin(self) -> PreTrainedModel:
        ids = self._probe_ids()
        unreadable = f"The attention of {self.name} cannot be read: choose another model."
        fold = Fold(len(ids))
        try:
            made = folding.make_twin(self.model)
            with torch.no_grad():
                logits = folding.folded(made, {"input_ids": self._tensor(ids)}, fold).logits
        except UserError:
            raise
        except Exception as error:
            # Attention written without transformers' interface fails in ways of its own.
            raise UserError(unreadable) from error
        logits = logits[0].float()
        own = self._own_logits(self.model, ids).float()
        tolerance = 1e-3 if self.dtype == torch.float32 else 0.1
        close = (logits - own).abs().max() <= tolerance * (1 + own.abs().max())
        if not fold.seen or not bool(close):
            raise UserError(unreadable)
        return made


def _eos_ids(model: PreTrainedModel) -> tuple[int, ...]:
    for config in (model.generation_config, model.config):
        value = getattr(config, "eos_token_id", None)
        if value is not None:
            return (int(value),) if isinstance(value, int) else tuple(int(i) for i in value)
    return ()
