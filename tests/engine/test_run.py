"""The one path: run, store, shared forwards, lifting, cancelling, resuming."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from pydantic import Field

from cache import StoreError
from engine import registry
from engine.context import Context
from engine.encode import encode_text, trace_from_ids
from engine.errors import Cancelled, UserError
from engine.generate import group_from_samples
from engine.modelref import ModelRef
from engine.records import open_rollouts, write_rollouts
from engine.registry import Params, analysis
from engine.result import Request
from engine.running import run
from engine.schema import Column, Progress, Table, Tables
from engine.subjects import Group, Text, TokenizerRef, Trace
from engine.tokenization import Tokenizer
from engine.workspace import Workspace
from tests.engine.tiny import tiny_folder

TEXT = Text(prompt="What is 2+3?", response="It is 5.")


@pytest.fixture
def register() -> Iterator[None]:
    """Analyses declared in a test are gone after it."""
    registry.analyses()
    before = dict(registry._registry)
    yield
    registry._registry.clear()
    registry._registry.update(before)


def test_computed_then_cache_with_equal_tables(workspace: Workspace, llama: str) -> None:
    request = Request("statistics", TEXT, llama)
    first, second = run(request, workspace=workspace)[0], run(request, workspace=workspace)[0]
    assert (first.origin, second.origin) == ("computed", "cache")
    assert first.key == second.key
    for name, table in first.tables.items():
        assert second.tables[name].equals(table), name
    assert second.notes.equals(first.notes)
    assert second.provenance == first.provenance


def test_a_new_process_finds_it_without_torch(workspace: Workspace, llama: str) -> None:
    key = run(Request("statistics", TEXT, llama), workspace=workspace)[0].key
    code = (
        "import sys; from engine import *; import engine\n"
        f"ws = Workspace({str(workspace.home)!r}, role='client')\n"
        f"r = run(Request('statistics', Text(prompt={TEXT.prompt!r}, response={TEXT.response!r}),"
        f" {llama!r}), workspace=ws)[0]\n"
        "print(r.origin, r.key, 'torch' in sys.modules, 'transformers' in sys.modules)"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.split() == ["cache", key, "False", "False"]


def test_one_forward_serves_several_requests(workspace: Workspace, llama: str) -> None:
    model = workspace.load(workspace.plan_model(llama))
    before = model.forwards
    requests = [Request("statistics", TEXT, llama, {"top_k": k}) for k in (1, 5, 20)]
    results = run(*requests, workspace=workspace)
    assert model.forwards - before == 1
    assert len({result.key for result in results}) == 3


def test_many_threads_one_computation(workspace: Workspace, llama: str) -> None:
    model = workspace.load(workspace.plan_model(llama))
    before = model.forwards
    with ThreadPoolExecutor(16) as pool:
        futures = [
            pool.submit(run, Request("statistics", TEXT, llama), workspace=workspace)
            for _ in range(32)
        ]
        results = [future.result(30)[0] for future in futures]
    assert model.forwards - before == 1
    assert len({result.key for result in results}) == 1
    assert sum(result.origin == "computed" for result in results) >= 1


def test_keys_differ_for_whatever_changes_the_numbers(workspace: Workspace, llama: str) -> None:
    def key(subject: Text, model: str | ModelRef, **params: object) -> str:
        return workspace.submit(Request("statistics", subject, model, params)).key

    base = key(TEXT, llama)
    others = {
        key(Text(prompt="What is 2+3?", response="It is 6."), llama),
        key(Text(prompt="What is 2+3?It", response=" is 5."), llama),
        key(TEXT, str(tiny_folder("llama", seed=1))),
        key(TEXT, ModelRef(source=llama, dtype="bfloat16")),
        key(TEXT, llama, top_k=3),
    }
    assert base not in others
    assert len(others) == 5
    assert key(TEXT, llama, top_k=20) == base, "a default spelled out is the same request"
    assert key(TEXT.evolve(title="named"), llama) == base


def test_params_that_name_a_model_are_keyed_by_its_content(
    workspace: Workspace, llama: str, register: None, tmp_path: Path
) -> None:
    import shutil

    class With(Params):
        other: ModelRef = Field()

    @analysis("test.other", version=1, subject=Trace, params=With, tables={}, title="")
    def other(ctx: Context) -> Iterator[Progress | Tables]:
        """Nothing."""
        yield Tables()

    copy = tmp_path / "copy"
    shutil.copytree(llama, copy)

    def key(source: str) -> str:
        params = {"other": ModelRef(source=source)}
        return workspace.submit(Request("test.other", TEXT, llama, params)).key

    assert key(llama) == key(str(copy))
    assert key(llama) != key(str(tiny_folder("llama", seed=1)))


def group(workspace: Workspace, llama: str, n: int = 3) -> Group:
    tokenizer = Tokenizer.load(llama)
    rollouts = [encode_text(Text(prompt="q", response="a" * (i + 1)), tokenizer) for i in range(n)]
    return Group(rollouts=tuple(rollouts), prompt_id="q0")


def test_a_trace_analysis_lifts_over_groups(workspace: Workspace, llama: str) -> None:
    subject = group(workspace, llama)
    lifted = run(Request("statistics", subject, llama), workspace=workspace)[0]
    singles = run(
        *(Request("statistics", trace, llama) for trace in subject.rollouts), workspace=workspace
    )
    assert [single.origin for single in singles] == ["cache"] * 3
    table = lifted.table("tokens")
    assert table.column_names[0] == "rollout"
    for index, single in enumerate(singles):
        part = table.filter(pa.compute.equal(table["rollout"], index)).drop_columns("rollout")
        assert part.equals(single.table("tokens").combine_chunks()) or (
            part.to_pylist() == single.table("tokens").to_pylist()
        )
    assert lifted.notes["rollout"].to_pylist() == [0, 1, 2]


def test_rollouts_files_are_streamed_with_their_group(
    workspace: Workspace, llama: str, tmp_path: Path
) -> None:
    file = tmp_path / "r.jsonl"
    subject = group(workspace, llama)
    write_rollouts(file, [subject, subject.evolve(prompt_id="q1")])
    result = run(Request("statistics", open_rollouts(file), llama), workspace=workspace)[0]
    table = result.table("tokens")
    assert table.column_names[:2] == ["group", "rollout"]
    assert set(table["group"].to_pylist()) == {"q0", "q1"}
    assert max(table["rollout"].to_pylist()) == 5


class Slow(Params):
    """How many steps, and where to stand still."""

    steps: int = 3


VALUES = Table(columns={"step": Column(pa.int64(), "")})


def declare_slow(log: list[str], reached: threading.Event, go: threading.Event) -> None:
    @analysis(
        "test.slow", version=1, subject=Trace, params=Slow, tables={"values": VALUES}, title=""
    )
    def slow(ctx: Context) -> Iterator[Progress | Tables]:
        """Counts, resuming where an earlier try stopped."""
        done = ctx.resume["values"]["step"].to_pylist() if ctx.resume else []
        for step in range(len(done), ctx.params.steps):
            log.append(f"step {step}")
            done.append(step)
            ctx.note("values", None, f"note {step}")
            yield Tables(values=pa.table({"step": pa.array(done, pa.int64())}))
            if step == 1:
                reached.set()
                go.wait(10)
                yield Progress(0.5, "half")


def test_cancel_keeps_what_is_finished_and_resumes(
    workspace: Workspace, llama: str, register: None
) -> None:
    log: list[str] = []
    reached, go = threading.Event(), threading.Event()
    declare_slow(log, reached, go)
    request = Request("test.slow", TEXT, llama, {"steps": 5})
    handle = workspace.submit(request)
    assert reached.wait(10)
    handle.cancel()
    go.set()
    partial = handle.result(10)
    assert partial.status == "partial"
    assert partial.table("values")["step"].to_pylist() == [0, 1]
    assert workspace.lookup(request) is None, "a partial result never passes for a complete one"
    complete = run(request, workspace=workspace)[0]
    assert complete.status == "complete"
    assert complete.table("values")["step"].to_pylist() == [0, 1, 2, 3, 4]
    assert log == [f"step {i}" for i in range(5)], "finished steps are not done twice"
    assert run(request, workspace=workspace)[0].origin == "cache"


def test_cancelled_before_any_table(workspace: Workspace, llama: str) -> None:
    cancel = threading.Event()
    cancel.set()
    with pytest.raises(Cancelled):
        run(Request("statistics", TEXT, llama), cancel=cancel, workspace=workspace)
    assert run(Request("statistics", TEXT, llama), workspace=workspace)[0].status == "complete"


def test_nested_runs_are_stored_under_their_own_key(
    workspace: Workspace, llama: str, register: None
) -> None:
    @analysis("test.nested", version=1, subject=Trace, tables={"values": VALUES}, title="")
    def nested(ctx: Context) -> Iterator[Progress | Tables]:
        """Asks for statistics."""
        inner = ctx.stats(top_k=4)
        yield Tables(values=pa.table({"step": pa.array([inner.table().num_rows], pa.int64())}))

    outer = run(Request("test.nested", TEXT, llama), workspace=workspace)[0]
    inner = run(Request("statistics", TEXT, llama, {"top_k": 4}), workspace=workspace)[0]
    assert inner.origin == "cache"
    assert outer.table()["step"].to_pylist() == [inner.table().num_rows]


@pytest.mark.parametrize(
    ("tables", "message"),
    [
        ({"other": pa.table({"x": [1]})}, "undeclared tables"),
        ({"values": pa.table({"x": [1]})}, "columns are"),
    ],
)
def test_a_method_that_breaks_its_own_schema_is_stopped(
    workspace: Workspace, llama: str, register: None, tables: dict[str, pa.Table], message: str
) -> None:
    @analysis("test.broken", version=1, subject=Trace, tables={"values": VALUES}, title="")
    def broken(ctx: Context) -> Iterator[Progress | Tables]:
        """Wrong."""
        yield Tables(tables)

    with pytest.raises(TypeError, match=message):
        run(Request("test.broken", TEXT, llama), workspace=workspace)


def test_a_full_disk_loses_no_numbers(
    workspace: Workspace, llama: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: object, **kwargs: object) -> None:
        raise StoreError("The disk is full: free some space.")

    monkeypatch.setattr(workspace.store, "put", full)
    result = run(Request("statistics", TEXT, llama), workspace=workspace)[0]
    assert result.not_stored == "The disk is full: free some space."
    assert result.table().num_rows == len(TEXT.prompt) + len(TEXT.response) + 1


def test_a_folder_that_cannot_be_written_computes_all_the_same(
    tmp_path: Path, llama: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise StoreError("The folder is read-only.")

    with Workspace(tmp_path / "home") as workspace:
        for method in ("remember", "put", "append_samples"):
            monkeypatch.setattr(workspace.store, method, refuse)
        result = run(Request("statistics", TEXT, llama), workspace=workspace)[0]
        drawn = run(Request("generate", Text(prompt="a"), llama, {"n": 2}), workspace=workspace)[0]
    assert result.not_stored == "The folder is read-only."
    assert drawn.table("samples").num_rows == 2


def test_a_home_that_is_a_file_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "home").write_text("")
    with pytest.raises(UserError, match="TOKENSCOPE_HOME"):
        Workspace(tmp_path / "home")


def test_progress_is_told_in_the_callers_thread(
    workspace: Workspace, llama: str, register: None
) -> None:
    heard: list[tuple[int, str, bool]] = []
    here = threading.current_thread()

    @analysis("test.chatty", version=1, subject=Trace, tables={"values": VALUES}, title="")
    def chatty(ctx: Context) -> Iterator[Progress | Tables]:
        """Talks."""
        import time

        for step in range(4):
            yield Progress(step / 4, f"step {step}")
            time.sleep(0.1)
        yield Tables(values=VALUES.schema().empty_table())

    run(
        Request("test.chatty", TEXT, llama),
        workspace=workspace,
        on_progress=lambda n, p: heard.append((n, p.message, threading.current_thread() is here)),
    )
    assert heard
    assert all(number == 0 and mine for number, _, mine in heard)


REFUSALS = [
    ("statistic", TEXT, "demo", {}, "There is no analysis 'statistic'; did you mean statistics"),
    ("statistics", TEXT, "LLAMA", {"topk": 1}, "no parameter 'topk'; it has: top_k"),
    ("statistics", TEXT, "LLAMA", {"top_k": -1}, "top_k: Input should be greater than"),
    ("statistics", TEXT, "LLAMA", {"top_k": "many"}, "top_k: Input should be a valid integer"),
    ("statistics", TEXT, None, {}, "needs a model"),
    ("statistics", TEXT, {"judge": "LLAMA"}, {}, "needs a model for model"),
    ("statistics", TEXT, {"model": "LLAMA", "judge": "LLAMA"}, {}, "no role 'judge'"),
    ("statistics", Text(), "LLAMA", {}, "There is no text"),
    ("statistics", Text(prompt="a\ud800"), "LLAMA", {}, "lone surrogate"),
    ("statistics", Text(prompt="x" * 300), "LLAMA", {}, "has 301 tokens; .* reads at most 256"),
    (
        "statistics",
        Text(prompt="x" * (1 << 20)),
        "LLAMA",
        {},
        "1,048,576 characters; .* cannot hold it",
    ),
    ("statistics", TokenizerRef(path="p", tokenizer="0"), "LLAMA", {}, "looks at a trace"),
]


@pytest.mark.parametrize(("name", "subject", "model", "params", "sentence"), REFUSALS)
def test_bad_requests_are_one_sentence(
    workspace: Workspace,
    llama: str,
    name: str,
    subject: Text,
    model: object,
    params: dict[str, object],
    sentence: str,
) -> None:
    if isinstance(model, dict):
        model = dict.fromkeys(model, llama)
    elif model == "LLAMA":
        model = llama
    with pytest.raises(UserError, match=sentence) as caught:
        workspace.submit(Request(name, subject, model, params))  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


def test_ids_of_another_tokenizer_are_refused(workspace: Workspace, llama: str) -> None:
    from tests.engine.test_tokenization import byte_level

    foreign = encode_text(TEXT, byte_level())
    with pytest.raises(UserError, match="another tokenizer"):
        workspace.submit(Request("statistics", foreign, llama))
    unknown = trace_from_ids([1, 2], byte_level(), response_start=1).evolve(
        tokenizer=None, ids=(1, 5_000)
    )
    with pytest.raises(UserError, match="outside"):
        workspace.submit(Request("statistics", unknown, llama))


def test_samples_are_never_drawn_twice(workspace: Workspace, llama: str) -> None:
    model = workspace.load(workspace.plan_model(llama))

    def draw(n: int, **more: object) -> list[tuple[int, ...]]:
        params = {"n": n, "max_new_tokens": 6, "seed": 3, **more}
        result = run(Request("generate", Text(prompt="hello"), llama, params), workspace=workspace)
        return [tuple(ids) for ids in result[0].table("samples")["ids"].to_pylist()]

    three = draw(3)
    before = model.forwards
    assert draw(3) == three
    assert model.forwards == before
    eight = draw(8)
    assert eight[:3] == three
    assert len(set(eight)) > 1
    before = model.forwards
    assert draw(5) == eight[:5]
    assert model.forwards == before
    assert draw(3, seed=4) != three


def test_generated_traces_know_their_prompt_and_parent(workspace: Workspace, llama: str) -> None:
    params = {"n": 2, "max_new_tokens": 4}
    result = run(Request("generate", Text(prompt="hello"), llama, params), workspace=workspace)[0]
    made = group_from_samples(result)
    prompt = encode_text(Text(prompt="hello"), Tokenizer.load(llama))
    for trace, row in zip(made.rollouts, result.table("samples").to_pylist(), strict=True):
        assert trace.ids == prompt.ids + tuple(row["ids"])
        assert trace.response_start == len(prompt)
        assert trace.roles == ("user",) * 6 + ("assistant",) * row["tokens"]
        assert trace.ids_origin == "generated"
        assert trace.sampling is not None
        assert trace.sampling.index == row["index"]
        assert trace.parent is None
        assert row["logprob"] == pytest.approx(sum(row["logprobs"]))
    stats = run(Request("statistics", made.rollouts[0], llama), workspace=workspace)[0]
    tail = stats.table("tokens")["logprob"].to_pylist()[len(prompt) :]
    assert tail == pytest.approx(list(made.rollouts[0].sampling.logprobs), abs=2e-5)  # type: ignore[union-attr, arg-type]

    branch = made.rollouts[0]
    again = run(Request("generate", branch, llama, {"max_new_tokens": 2}), workspace=workspace)[0]
    child = group_from_samples(again).rollouts[0]
    assert child.parent is not None
    assert (child.parent.digest, child.parent.position) == (branch.digest, len(branch))
    assert child.response_start == branch.response_start
    assert np.all([turn.start < turn.end for turn in child.turns])
