"""From a request to a plan: names resolved, text encoded, models found, key computed.

Nothing here imports torch: a plan is enough to read a stored result.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from engine import catalogue, keys
from engine.encode import encode_text
from engine.errors import UserError
from engine.limits.caps import check_code, check_cost, check_place
from engine.modelref import ModelRef
from engine.records import iter_groups
from engine.registry import Analysis, Params, find
from engine.result import Request
from engine.subjects import Group, Rollouts, Subject, Text, TokenizerRef, Trace
from engine.tokenization import Tokenizer

if TYPE_CHECKING:
    from engine.workspace import Workspace


class TextReader(NamedTuple):
    """Who is to read a text, and how many tokens of it."""

    name: str
    context: int | None


@dataclass(frozen=True, slots=True)
class PlannedModel:
    """A model that was found and named by its content, but not loaded."""

    ref: ModelRef
    located: catalogue.Located
    fingerprint: str
    tokenizer: Tokenizer
    max_tokens: int | None = None

    @property
    def reader(self) -> TextReader:
        """Who reads a text: texts that nobody here would read are refused without being cut."""
        limits = [n for n in (self.located.context, self.max_tokens) if n is not None]
        return TextReader(self.located.name, min(limits, default=None))

    def identity(self) -> dict[str, Any]:
        """What of the model decides the numbers."""
        return {
            "fingerprint": self.fingerprint,
            "tokenizer": self.tokenizer.digest,
            "dtype": self.located.dtype,
            "device": self.located.device,
        }


@dataclass(frozen=True, slots=True)
class Plan:
    """A request with every name resolved.

    Attributes:
        lifted: the subject is a group or rollouts, the analysis is of one trace.
    """

    analysis: Analysis
    subject: Subject
    models: Mapping[str, PlannedModel]
    params: Params
    document: Mapping[str, Any]
    key: str
    lifted: bool


def make_plan(request: Request, workspace: Workspace) -> Plan:
    """Resolve a request.

    Raises:
        UserError: for anything the user can mend, before any work is done.
    """
    declared = find(request.analysis)
    params = declared.parse(request.params)
    if not declared.accepts(request.subject):
        raise UserError(
            f"{declared.name} looks at a {declared.subjects[0].__name__.lower()}, "
            f"not at a {type(request.subject).__name__.lower()}."
        )
    check_place(request.subject, workspace.profile, workspace.folders)
    for ref in tokenizers_in(params):
        check_place(ref, workspace.profile, workspace.folders)
    check_code(params, workspace.profile)
    models = _models(declared, request, workspace)
    subject = _with_tokenizer(declared, request, models, workspace)
    if isinstance(subject, Text) and Text not in declared.subjects:
        first = next(iter(models.values()))
        subject = encode_text(subject, first.tokenizer, reader=first.reader)
    for trace in _traces(subject):
        for model in models.values():
            check_trace(trace, model)
    document = keys.request_document(
        analysis=declared.name,
        version=declared.version,
        subject=subject.digest,
        models={role: model.identity() for role, model in models.items()},
        params=_params_document(params, workspace),
    )
    plan = Plan(
        analysis=declared,
        subject=subject,
        models=models,
        params=params,
        document=document,
        key=keys.digest(document),
        lifted=declared.lifts(subject),
    )
    _check_cost(plan, workspace)
    return plan


def _with_tokenizer(
    declared: Analysis,
    request: Request,
    models: Mapping[str, PlannedModel],
    workspace: Workspace,
) -> Subject:
    """The subject; a text that is looked at as it is gets the tokenizer of the model named.

    Raises:
        UserError: if it has another one than the model.
    """
    subject = request.subject
    if (
        not isinstance(subject, Text)
        or Text not in declared.subjects
        or not _of_tokenizer(declared)
    ):
        return subject
    named = next(iter(models.values()), None)
    if named is None and subject.tokenizer is None and request.models is not None:
        named = workspace.plan_model(_any_model(request.models))
    if named is None:
        return subject
    digest = named.tokenizer.digest
    if subject.tokenizer is None:
        path = str(named.located.tokenizer_path)
        ref = TokenizerRef(path=path, tokenizer=digest, title=named.located.name)
        return subject.evolve(tokenizer=ref)
    if models and subject.tokenizer.tokenizer != digest:
        raise UserError(
            f"{named.located.name} has another tokenizer than the one chosen for the text: leave "
            "one of the two out."
        )
    return subject


def _of_tokenizer(declared: Analysis) -> bool:
    """Whether what it looks at is a tokenizer, which a model only names."""
    needed = set(declared.models) - set(declared.optional_models)
    return declared.name.startswith("tokenizer.") and not needed


def _any_model(given: Mapping[str, str | ModelRef] | str | ModelRef) -> str | ModelRef:
    if isinstance(given, str | ModelRef):
        return given
    if not given:
        raise UserError("No model is named: give one, for example demo.")
    return given.get("model") or next(iter(given.values()))


def _check_cost(plan: Plan, workspace: Workspace) -> None:
    """What is stored costs nothing; what a running job asks for was paid with that job."""
    if workspace.runner.inside:
        return
    contexts = [m.located.context for m in plan.models.values() if m.located.context is not None]
    try:
        check_cost(plan.subject, plan.params, workspace.profile, min(contexts, default=None))
    except UserError:
        if not workspace.has(plan):
            raise


def check_trace(trace: Trace, model: PlannedModel) -> None:
    """Refuse a trace the model cannot read.

    Raises:
        UserError: for ids of another tokenizer, ids out of range, or too many tokens.
    """
    name = model.located.name
    if not trace.has_ids:
        raise UserError(
            f"The log gives no token ids, which {name} needs: let {name} read the text instead."
        )
    if trace.tokenizer is not None and trace.tokenizer != model.tokenizer.digest:
        raise UserError(
            f"These token ids belong to another tokenizer than {name}'s: "
            "choose the model they came from, or give the text instead of ids."
        )
    context = model.located.context
    if context is not None and len(trace) > context:
        raise UserError(
            f"The text has {len(trace):,} tokens; {name} reads at most "
            f"{model.reader.context:,}: shorten it."
        )
    if trace.tokenizer is None and trace.ids and max(trace.ids) >= model.tokenizer.size:
        raise UserError(
            f"Token id {max(trace.ids)} is outside {name}'s vocabulary of "
            f"{model.tokenizer.size:,}: choose the model the ids came from."
        )


def _traces(subject: Subject) -> tuple[Trace, ...]:
    if isinstance(subject, Trace):
        return (subject,)
    if isinstance(subject, Group):
        return subject.rollouts
    return ()  # a file of rollouts is checked while it is streamed


def iter_rollouts(subject: Subject) -> list[tuple[str | None, Trace]] | Any:
    """(prompt id, trace) of every rollout; streamed for files."""
    if isinstance(subject, Group):
        return ((subject.prompt_id, trace) for trace in subject.rollouts)
    assert isinstance(subject, Rollouts)
    return ((g.prompt_id, trace) for g in iter_groups(subject) for trace in g.rollouts)


def _models(declared: Analysis, request: Request, workspace: Workspace) -> dict[str, PlannedModel]:
    given = request.models
    if not declared.models:
        return {}
    needed = [role for role in declared.models if role not in declared.optional_models]
    as_it_is = not isinstance(request.subject, Text) or Text in declared.subjects
    if given is None and not needed and as_it_is:
        return {}
    if given is None:
        raise UserError(f"{declared.name} needs a model: name one, for example demo.")
    if isinstance(given, str | ModelRef):
        given = {"model": given}
    by_role: dict[str, str | ModelRef] = dict(given)
    base = by_role.get("model")
    missing = [role for role in declared.models if role not in by_role]
    if missing and base is not None:
        name = base.source if isinstance(base, ModelRef) else base
        family = catalogue.siblings(name)
        by_role.update({role: family[role] for role in missing if role in family})
    # Who names models at all must name one, even where none is needed.
    missing = [role for role in needed or declared.models[:1] if role not in by_role]
    if missing:
        raise UserError(
            f"{declared.name} needs a model for {' and '.join(missing)}: "
            f"name it as {missing[0]}=NAME."
        )
    unknown = [r for r in by_role if r not in declared.models and r != "model"]
    if unknown:
        raise UserError(
            f"{declared.name} has no role {unknown[0]!r}; it has: {', '.join(declared.models)}."
        )
    models = {r: workspace.plan_model(by_role[r]) for r in declared.models if r in by_role}
    _check_one_tokenizer(declared, models)
    return models


def _check_one_tokenizer(declared: Analysis, models: Mapping[str, PlannedModel]) -> None:
    """Models that look at one sequence of ids must mean the same by them."""
    first = next(iter(models.values()))
    for model in models.values():
        if model.tokenizer.digest != first.tokenizer.digest:
            raise UserError(
                f"{declared.name} compares predictions of the same token ids, but "
                f"{first.located.name} and {model.located.name} have different tokenizers: "
                "choose models with one tokenizer."
            )


def _params_document(params: Params, workspace: Workspace) -> dict[str, Any]:
    """Params as JSON; models and tokenizers inside are replaced by what decides their numbers."""
    document = params.model_dump(mode="json")
    for name in type(params).model_fields:
        value = getattr(params, name)
        if isinstance(value, ModelRef):
            document[name] = workspace.plan_model(value).identity()
        elif isinstance(value, TokenizerRef):
            document[name] = value.tokenizer
        elif isinstance(value, tuple) and any(isinstance(v, TokenizerRef) for v in value):
            document[name] = [v.tokenizer for v in value]
    return document


def tokenizers_in(params: Params) -> list[TokenizerRef]:
    """Tokenizers among the params: their files, like subjects, may be anywhere."""
    found: list[TokenizerRef] = []
    for name in type(params).model_fields:
        value = getattr(params, name)
        several = value if isinstance(value, tuple) else (value,)
        found += [v for v in several if isinstance(v, TokenizerRef)]
    return found
