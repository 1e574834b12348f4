"""``critical.prompted``: one model under two prompts, compared on the same response."""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa
from pydantic import Field, field_validator

from engine.context import Context
from engine.critical.pairs import (
    CAVEATS,
    COLUMNS,
    SOURCE,
    Side,
    aligned,
    baselines,
    compare,
    reward,
    weight,
)
from engine.errors import UserError
from engine.registry import Params, analysis
from engine.schema import Column, Progress, Table, Tables
from engine.subjects import Trace
from engine.tokenization import utf8

OWN = "{prompt}"
"""Stands for the trace's own prompt."""


class PromptedParams(Params):
    """Settings of ``critical.prompted``."""

    better: str = Field(
        OWN,
        title="Better prompt",
        description="{prompt} stands for the text's own prompt; add the answer, for example.",
    )
    worse: str = Field(
        OWN, title="Worse prompt", description="{prompt} stands for the text's own prompt."
    )
    beta: float = Field(
        1.0, ge=0, le=100, title="β", description="How much the worse prompt counts in the score."
    )
    clip: float = Field(
        200.0, gt=0, le=1e300, title="Largest weight", description="Weights are cut off there."
    )

    @field_validator("better", "worse")
    @classmethod
    def _is_text(cls, value: str) -> str:
        try:
            utf8(value, name="prompt")
        except UserError as error:
            raise ValueError(str(error).rstrip(".")) from None
        return value


TOKENS = Table(
    per_token=True,
    doc="One row per token; a value describes the prediction of that response token.",
    columns={
        **COLUMNS,
        "reward": Column(
            pa.float64(),
            "T-REG: σ(log-ratio) − ½, from −½ (the worse prompt expects it) to ½.",
            "",
            "token reward",
        ),
        "weight": Column(
            pa.float64(),
            "InTRO: p under the better prompt / p under the worse one, cut off at the largest.",
            "",
            "weight",
        ),
    },
)


@analysis(
    "critical.prompted",
    version=1,
    subject=Trace,
    params=PromptedParams,
    tables={"tokens": TOKENS},
    title="Which tokens does the other prompt change?",
    cite=(
        SOURCE,
        "Zhou et al. (2024), T-REG, arXiv 2412.02685: token rewards from two prompts.",
        "Zhu et al. (2025), InTRO, arXiv 2511.09865: weight of a token given the answer.",
    ),
    caveats=(
        *CAVEATS,
        "It says what the other prompt changes, not what is right.",
        "InTRO's weights average 1 under the worse prompt only before they are cut off.",
        "The baselines are of the text's own prompt.",
    ),
)
def prompted(ctx: Context) -> Iterator[Progress | Tables]:
    """Contrastive score, T-REG reward and InTRO weight of one model under two prompts.

    The ids of the response are kept and put behind each prompt; p⁺ is the model's prediction after
    ``better``, p⁻ after ``worse``. A prompt is encoded as prompts always are, with the tokenizer's
    special tokens; ``{prompt}`` alone is the trace's own prompt to the id.

    reward = σ(log p⁺ − log p⁻) − ½ (T-REG); weight = min(p⁺ / p⁻, clip) (InTRO, where the better
    prompt holds the answer and the worse one does not). Prompt rows are empty.
    """
    trace, params = ctx.subject, ctx.params
    better, worse = (_prompt_ids(ctx, name) for name in ("better", "worse"))
    if better == worse:
        raise UserError(
            "critical.prompted compares two prompts, and better and worse are the same one: "
            "change one of them, for example better='{prompt} The answer is 42.'"
        )
    response = trace.ids[trace.response_start :]
    if not response:
        raise UserError("There is no response to compare under two prompts: give one.")
    # Without anything before it the first token has no prediction.
    skip = 0 if better and worse else 1
    first = trace.response_start + skip
    if trace.response_start:
        ctx.note("tokens", None, "only the response is compared: its prompts differ")
    if skip:
        ctx.note(
            "tokens", None, "nothing stands before it in one of the prompts", position=first - 1
        )
    yield Progress(None, "Loading the model")
    model = ctx.models["model"]
    positive = Side(model, (*better, *response), len(better) - 1 + skip)
    negative = Side(model, (*worse, *response), len(worse) - 1 + skip)
    values = yield from compare(positive, negative, response[skip:], params.beta)
    values["reward"] = reward(values["log_ratio"])
    values["weight"] = weight(values["log_ratio"], params.clip)
    base = yield from baselines(ctx, first)
    columns = {**aligned(ctx, values, first), **base}
    yield Tables(tokens=ctx.per_token({name: columns[name] for name in TOKENS.columns}))


def _prompt_ids(ctx: Context, name: str) -> tuple[int, ...]:
    """The ids of one of the prompts.

    Raises:
        UserError: the trace's prompt is no text, or the new one is too long.
    """
    trace: Trace = ctx.subject
    given: str = getattr(ctx.params, name)
    own = trace.ids[: trace.response_start]
    if given == OWN:
        return own
    text, special = given, True
    if OWN in given:
        prompt, special = _prompt_text(ctx, trace)
        text = given.replace(OWN, prompt)
        if text == prompt:
            return own
    reader = ctx.plan.models["model"].reader
    response = len(trace) - trace.response_start
    tokenizer = ctx.tokenizer
    # A token holds at most max_piece bytes: what cannot fit is not cut into tokens at all.
    if reader.context is not None and len(text) > reader.context * tokenizer.max_piece:
        raise UserError(
            f"The prompt {name} has {len(text):,} characters; {reader.name} reads at most "
            f"{reader.context:,} tokens, which cannot hold it: shorten it."
        )
    ids = tokenizer.encode(text, special=special, name=f"prompt {name}").ids
    if reader.context is not None and len(ids) + response > reader.context:
        raise UserError(
            f"The prompt {name} and the response have {len(ids) + response:,} tokens together; "
            f"{reader.name} reads at most {reader.context:,}: shorten the prompt."
        )
    return ids


def _prompt_text(ctx: Context, trace: Trace) -> tuple[str, bool]:
    """The trace's own prompt as text, and whether the tokenizer's special tokens come on top.

    A chat's template has written them into the text itself, so that they must not come twice.
    """
    before = range(trace.response_start)
    added = set(trace.added).intersection(before)
    try:
        text = b"".join(trace.pieces[p] for p in before if p not in added).decode("utf-8")
    except UnicodeDecodeError:
        raise UserError(
            "The prompt's tokens are no valid UTF-8 text: write better and worse without {prompt}."
        ) from None
    own = trace.ids[: trace.response_start]
    for special in (True, False):
        if ctx.tokenizer.encode(text, special=special).ids == own:
            return text, special
    ctx.note("tokens", None, "with words added, the prompt is not cut into the same ids as before")
    return text, bool(added)
