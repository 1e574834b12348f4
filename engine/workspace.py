"""A workspace: store, models and worker of one process; ``run`` in its longer form."""

from __future__ import annotations

import atexit
import logging
import os
import threading
from collections.abc import Generator, Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import platformdirs

from cache import Store, StoreError
from engine import catalogue, hub
from engine.errors import UserError
from engine.execute import execute, from_store, result_of
from engine.jobs import Handle
from engine.limits.rates import Limiter, Visitor
from engine.limits.turns import Turns
from engine.modelref import ModelRef
from engine.plan import Plan, PlannedModel, make_plan
from engine.result import Request, Result
from engine.runner import Runner
from engine.sampling.streams import AtHand, keep_samples, samples_after, stored_samples, stream_name
from engine.schema import Progress
from engine.subjects import Group, Trace
from engine.tokenization import Tokenizer

if TYPE_CHECKING:
    from engine.models import LoadedModel, ModelPool
    from engine.sampling.generation import Continuation, Sampler

log = logging.getLogger("tokenscope")

ROOT = Path(__file__).resolve().parent.parent
GALLERY = ROOT / "demo" / "gallery"


class _Memo:
    """Remembers in the store when it can; a folder that cannot be written stops nobody."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def recall(self, name: str) -> dict[str, Any]:
        return self._store.recall(name)

    def remember(self, name: str, mapping: Mapping[str, Any]) -> None:
        try:
            self._store.remember(name, mapping)
        except StoreError as error:
            log.info("not remembered: %s", error)


class Workspace:
    """Everything a process needs to answer requests.

    Args:
        home: folder of the store; default ``TOKENSCOPE_HOME`` or the user's cache directory.
        role: ``owner`` keeps the index, ``client`` (the command line) leaves it alone, ``auto``
            owns it when nobody else does.
        profile: what may be asked for; default from ``TOKENSCOPE_PROFILE``.
        gallery: whether the results shipped with the source count as stored.

    Raises:
        UserError: when the folder cannot be the store's.
    """

    def __init__(
        self,
        home: str | Path | None = None,
        *,
        role: Literal["auto", "owner", "client"] = "auto",
        profile: catalogue.Profile | None = None,
        gallery: bool = True,
    ) -> None:
        self.home = Path(home) if home is not None else default_home()
        self.profile = allowed = profile or catalogue.Profile.from_env()
        try:
            layers = (GALLERY / "results",) if gallery else ()
            self.store = Store(self.home, role=role, layers=layers)
        except StoreError as error:
            raise UserError(str(error)) from error
        self.runner = Runner(
            turns=Turns(allowed.running, allowed.queue, allowed.one_each),
            seconds=allowed.deadline,
        )
        self._limiter = Limiter(allowed.visitor_rate, allowed.address_rate)
        self._pool: ModelPool | None = None
        self._pool_lock = threading.Lock()

    # -- requests ----------------------------------------------------------------------------

    def submit(self, request: Request, visitor: Visitor | None = None) -> Handle[Result]:
        """Start a request, or find its result; does not wait.

        Raises:
            UserError: for anything the user can mend.
        """
        return self.submit_plan(make_plan(request, self), visitor)

    def submit_plan(self, plan: Plan, visitor: Visitor | None = None) -> Handle[Result]:
        """Start a plan, or find its result: what is stored is done at once.

        Args:
            plan: what is to be computed.
            visitor: who asks, on a page; limits for visitors do not hold programs (None).

        Raises:
            UserError: when the visitor asks too often, or too much is waiting.
        """
        found = from_store(plan, self)
        if found is not None:
            return self.runner.finished(plan.key, found)
        if visitor is None:
            return self.runner.submit(plan.key, lambda: execute(plan, self))
        return self.runner.submit(
            plan.key,
            lambda: execute(plan, self),
            who=visitor.session,
            admit=lambda: self._limiter.admit(visitor),
        )

    def stored(self, plan: Plan) -> Result | None:
        """The complete result of a plan if it is stored."""
        return from_store(plan, self)

    def has(self, plan: Plan) -> bool:
        """Whether the complete result of a plan is stored."""
        return self.stored(plan) is not None

    def folders(self) -> tuple[Path, ...]:
        """Where files are TokenScope's own, whoever names them."""
        return (self.home, catalogue.BUNDLED_FOLDER, GALLERY, hub.cache())

    def lookup(self, request: Request) -> Result | None:
        """The stored result of a request, or None; never computes, never imports torch."""
        return from_store(make_plan(request, self), self)

    def reopen(self, key: str) -> tuple[Result, Trace | Group | None]:
        """A stored result by its key (or the first 12 characters), with what it looked at.

        Raises:
            UserError: when there is none, or this version cannot read it.
        """
        from engine.subjectstore import subject_of

        try:
            stored = self.store.get(self.store.complete_key(key))
        except StoreError as error:
            raise UserError(str(error)) from error
        if stored is None:
            raise UserError(
                f"There is no result {key[:12]} in this store: it was computed elsewhere or "
                "deleted. Ask for the link's text, or import the result file."
            )
        return result_of(stored), subject_of(stored.tables)

    def run_inline(self, request: Request) -> Result:
        """Answer a request inside a running job."""
        return self.run_plan_inline(make_plan(request, self))

    def run_plan_inline(self, plan: Plan) -> Result:
        """Answer a plan inside a running job."""
        found = from_store(plan, self)
        return found or self.runner.inline(plan.key, lambda: execute(plan, self))

    # -- models ------------------------------------------------------------------------------

    def plan_model(self, ref: str | ModelRef) -> PlannedModel:
        """Find a model and name it by its content; no weights are read into memory.

        Raises:
            UserError: saying why it is not available.
        """
        parsed = ref if isinstance(ref, ModelRef) else ModelRef.parse(ref)
        located = catalogue.locate(parsed, self.profile)
        return PlannedModel(
            ref=parsed,
            located=located,
            fingerprint=catalogue.fingerprint(located, _Memo(self.store)),
            tokenizer=Tokenizer.load(located.tokenizer_path),
            max_tokens=self.profile.max_tokens,
        )

    def load(self, model: PlannedModel) -> LoadedModel:
        """The model in memory; at most a few are kept."""
        from engine.models import ModelPool

        with self._pool_lock:
            if self._pool is None:
                self._pool = ModelPool()
            pool = self._pool
        loaded = pool.get(model.located, model.fingerprint)
        loaded.real_vocab = min(model.tokenizer.size, loaded.vocab_size)
        return loaded

    def warm(self, ref: str | ModelRef) -> None:
        """Begin to load a model on the worker; whoever asks next waits less.

        Raises:
            UserError: saying why the model is not available.
        """
        planned = self.plan_model(ref)

        def work() -> Generator[Progress, None, None]:
            yield Progress(None, f"Loading {planned.located.name}")
            self.load(planned)

        self.runner.submit(f"load {planned.fingerprint}", work)

    # -- samples -----------------------------------------------------------------------------

    def samples(
        self, model: PlannedModel, prefix: Sequence[int], sampler: Sampler, count: int
    ) -> Iterator[list[Continuation]]:
        """The first ``count`` samples of a stream, in growing lists; nothing is drawn twice.

        A stream is named by model, prefix and sampler; sample *i* has its own counter-based
        seed, so it is the same however many are drawn with it.
        """
        from engine.sampling import generation

        stream = stream_name(model, prefix, sampler)
        have = stored_samples(self.store, stream, count)
        done = list(have.values())
        if done:
            yield list(done)
        missing = [i for i in range(count) if i not in have]
        if not missing:
            return
        fresh: list[Continuation] = []
        try:
            for batch in generation.sample(self.load(model), prefix, sampler, missing):
                fresh += batch
                yield sorted([*done, *fresh], key=lambda c: c.index)
        finally:  # what was drawn is kept also when the job is cancelled
            keep_samples(self.store, stream, fresh)

    def samples_after(
        self,
        model: PlannedModel,
        ids: Sequence[int],
        wanted: Mapping[int, int],
        sampler: Sampler,
    ) -> Iterator[AtHand]:
        """The first samples of several prefixes of one sequence, which is read once.

        Streams are those of :meth:`samples`; what was drawn is kept also when the job is closed
        half-way. See :func:`engine.sampling.streams.samples_after`.

        Args:
            model: the model.
            ids: the sequence.
            wanted: length of each prefix to how many of its first samples; begun in this order.
            sampler: temperature, filters, length and seed.

        Yields:
            How many continuations are at hand, stored ones included, and the prefixes completed
            since the last yield, with all their continuations in the order of their numbers.
        """
        yield from samples_after(self.store, lambda: self.load(model), model, ids, wanted, sampler)

    def close(self) -> None:
        """Cancel jobs, write what is queued, close the store."""
        self.runner.close()
        self.store.close()

    def __enter__(self) -> Workspace:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def default_home() -> Path:
    """``TOKENSCOPE_HOME``, or the user's cache directory; never the source tree."""
    given = os.environ.get("TOKENSCOPE_HOME")
    return Path(given).expanduser() if given else Path(platformdirs.user_cache_dir("tokenscope"))


@lru_cache(maxsize=1)
def default_workspace() -> Workspace:
    """The workspace of this process, made on first use and closed at its end."""
    workspace = Workspace()
    # The worker must not be inside torch when the interpreter goes away.
    atexit.register(workspace.close)
    return workspace
