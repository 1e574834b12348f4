"""Which tokenizer an analysis is about: the subject's own, or the model's."""

from __future__ import annotations

from typing import TYPE_CHECKING

from engine.errors import UserError
from engine.subjects import Text, TokenizerRef, Trace
from engine.tokenizer.loading import load_spec
from engine.tokenizer.spec import TokenizerSpec

if TYPE_CHECKING:
    from engine.context import Context


def spec_of(ctx: Context) -> TokenizerSpec:
    """The tokenizer of a ``TokenizerRef``, of a ``Text`` that names one, or of the model.

    Raises:
        UserError: when there is none, its file has changed, or a model has another one.
    """
    subject = ctx.subject
    ref = subject if isinstance(subject, TokenizerRef) else None
    if isinstance(subject, Text):
        ref = subject.tokenizer
    elif isinstance(subject, Trace):
        # A trace names its tokenizer by digest only; a param may say where it lies.
        ref = getattr(ctx.params, "tokenizer", None)
    if ref is None:
        model = next(iter(ctx.plan.models.values()), None)
        if model is None:
            raise UserError(
                f"{ctx.plan.analysis.name} needs a tokenizer: name a tokenizer's file, or a model, "
                "for example demo."
            )
        return load_spec(model.located.tokenizer_path)
    spec = load(ref)
    for model in ctx.plan.models.values():
        if model.tokenizer.digest != spec.digest:
            raise UserError(
                f"{model.located.name} has another tokenizer than {spec.name}: choose the model "
                "it belongs to, or leave one of the two out."
            )
    return spec


def load(ref: TokenizerRef) -> TokenizerSpec:
    """The tokenizer a reference means.

    Raises:
        UserError: when it is gone, or its file has changed since the reference was made.
    """
    spec = load_spec(ref.path)
    if spec.digest != ref.tokenizer:
        raise UserError(
            f"The tokenizer {spec.name} is no longer the one that was chosen (its file has "
            "changed): choose it again."
        )
    return spec
