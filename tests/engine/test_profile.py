"""The hosted profile: a limit is one sentence, and holds for any analysis by its declaration."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pydantic import BaseModel, Field

from engine import registry
from engine.context import Context
from engine.encode import encode_text
from engine.errors import UserError
from engine.limits.caps import DRAWS, NEW_TOKENS, READS_PER_SAMPLE
from engine.limits.profile import SETTINGS, Profile
from engine.limits.rates import Limiter, Visitor
from engine.plan import make_plan
from engine.records import open_rollouts, write_rollouts
from engine.registry import Params, analysis
from engine.result import Request
from engine.running import run
from engine.schema import Column, Progress, Table, Tables
from engine.subjects import Group, Text
from engine.tokenization import Tokenizer
from engine.workspace import Workspace
from tests.engine.test_cli import call, here, process
from tests.engine.test_run import declare_slow, register
from tests.engine.tiny import tiny_folder

__all__ = ["here", "register"]

ROOT = Path(__file__).resolve().parents[2]
SMALL = Profile(
    name="hosted",
    max_tokens=40,
    max_samples=8,
    max_new_tokens=16,
    max_group=2,
    allow_folders=True,
)
VALUES = Table(columns={"step": Column(pa.int64(), "")})


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Workspace]:
    with Workspace(tmp_path / "home", profile=SMALL) as made:
        yield made


@pytest.fixture
def clean(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for setting in SETTINGS.values():
        monkeypatch.delenv(setting.variable, raising=False)
    return monkeypatch


def refusal(workspace: Workspace, *args: Any) -> str:
    with pytest.raises(UserError) as caught:
        make_plan(Request(*args), workspace)
    text = str(caught.value)
    assert "\n" not in text
    assert text.endswith(".")
    assert text.count(". ") == 0, "one sentence"
    return text


# -- the profile -----------------------------------------------------------------------------------


def test_one_setting_turns_every_limit_on(clean: pytest.MonkeyPatch) -> None:
    clean.setenv("TOKENSCOPE_PROFILE", "local")
    local = Profile.from_env()
    assert local == Profile()
    assert local.max_tokens is local.deadline is local.queue is None
    assert local.max_upload_bytes == 25 * 2**20
    clean.setenv("TOKENSCOPE_PROFILE", "hosted")
    hosted = Profile.from_env()
    assert (hosted.max_tokens, hosted.max_samples, hosted.max_new_tokens) == (2048, 64, 256)
    assert (hosted.deadline, hosted.queue, hosted.max_upload_bytes) == (120, 16, 2 * 2**20)
    assert hosted.one_each
    assert not hosted.allow_folders
    unlimited = [f.name for f in fields(hosted) if getattr(hosted, f.name) is None]
    assert unlimited == [], "no limit is left out"
    assert set(SETTINGS) <= {f.name for f in fields(Profile)}


@pytest.mark.parametrize("profile", ["local", "hosted"])
def test_each_limit_can_be_set(clean: pytest.MonkeyPatch, profile: str) -> None:
    clean.setenv("TOKENSCOPE_PROFILE", profile)
    for field, setting in SETTINGS.items():
        clean.setenv(setting.variable, "7")
        assert getattr(Profile.from_env(), field) == 7
        if setting.optional:
            clean.setenv(setting.variable, "none")
            assert getattr(Profile.from_env(), field) is None
        for nonsense in ("0", "-1", "many", "nan", "inf", "0.0001" if setting.whole else "-0.1"):
            clean.setenv(setting.variable, nonsense)
            with pytest.raises(UserError, match=f"{setting.variable} is .*: set it to a number"):
                Profile.from_env()
        clean.delenv(setting.variable)


def test_the_documentation_gives_the_same_numbers() -> None:
    page = (ROOT / "docs" / "hosting.md").read_text(encoding="utf-8")
    rows = {
        name: [cell.strip() for cell in rest.split("|")]
        for name, rest in re.findall(r"^\| `(TOKENSCOPE_[A-Z_]+)` \|(.*)\|$", page, re.MULTILINE)
    }
    for field, setting in SETTINGS.items():
        hosted, local = rows[setting.variable][:2]
        assert hosted == f"{setting.hosted:,.0f}", setting.variable
        default = getattr(Profile(), field)
        assert local == ("none" if default is None else f"{default:,}"), setting.variable


# -- what one request may cost ---------------------------------------------------------------------


def test_long_texts(small: Workspace, llama: str) -> None:
    make_plan(Request("statistics", Text(prompt="x" * 39), llama), small)
    said = refusal(small, "statistics", Text(prompt="x" * 40), llama)
    assert "has 41 tokens; at most 40 are read here: shorten it" in said
    huge = refusal(small, "statistics", Text(prompt="x" * 100_000), llama)
    assert "reads at most 40 tokens, which cannot hold it" in huge, "refused without being cut"


def test_what_is_stored_may_be_longer(tmp_path: Path, llama: str) -> None:
    request = Request("statistics", Text(prompt="x" * 60), llama)
    with Workspace(tmp_path / "home") as local:
        trace = encode_text(request.subject, Tokenizer.load(llama))
        run(Request("statistics", trace, llama), workspace=local)
    with Workspace(tmp_path / "home", profile=SMALL) as hosted:
        found = hosted.submit(Request("statistics", trace, llama)).result(5)
        assert found.origin == "cache"
        assert "at most 40" in refusal(hosted, "statistics", trace, llama, {"top_k": 3})


def test_samples_and_their_length(small: Workspace, llama: str) -> None:
    text = Text(prompt="x" * 19)
    make_plan(Request("generate", text, llama, {"n": 8, "max_new_tokens": 16}), small)
    said = refusal(small, "generate", text, llama, {"n": 9, "max_new_tokens": 16})
    assert "At most 8 samples are drawn for a request here, not 9: set n to 8 or less" in said
    said = refusal(small, "generate", text, llama, {"max_new_tokens": 17})
    assert "At most 16 tokens are generated at once here: set max_new_tokens to 16" in said
    said = refusal(small, "generate", Text(prompt="x" * 29), llama, {"max_new_tokens": 16})
    assert "has 30 tokens and 16 more are asked for; at most 40 together" in said
    assert "set max_new_tokens to 10" in said
    make_plan(Request("generate", Text(prompt="x" * 29), llama, {"max_new_tokens": 10}), small)


def test_the_context_of_the_model_bounds_what_is_generated(tmp_path: Path, llama: str) -> None:
    roomy = replace(SMALL, max_tokens=256, max_new_tokens=300)  # the model reads 256
    with Workspace(tmp_path / "home", profile=roomy) as workspace:
        request = Request("generate", Text(prompt="x" * 200), llama, {"max_new_tokens": 300})
        make_plan(request, workspace)


class Inner(BaseModel):
    repeats: int = Field(1, json_schema_extra=DRAWS)


class Costly(Params):
    draws: int | None = Field(2, json_schema_extra=DRAWS)
    seeds: tuple[int, ...] = Field((0,), json_schema_extra=DRAWS)
    inner: Inner = Inner()
    length: int | None = Field(1, json_schema_extra=NEW_TOKENS)
    other: int = 10_000


def test_a_new_analysis_is_held_by_its_declaration_alone(
    small: Workspace, llama: str, register: None
) -> None:
    @analysis("test.costly", version=1, subject=Text, models=(), params=Costly, tables={}, title="")
    def costly(ctx: Context) -> Iterator[Progress | Tables]:
        """Nothing."""
        yield Tables()

    def said(**params: Any) -> str:
        return refusal(small, "test.costly", Text(prompt="a"), None, params)

    make_plan(Request("test.costly", Text(prompt="a"), None, {"draws": 4, "seeds": (1, 2)}), small)
    assert "not 12: set draws × seeds × repeats to 8" in said(draws=4, seeds=(1, 2, 3))
    assert "not 16" in said(inner={"repeats": 8}), "nested params count"
    assert "set draws × seeds × repeats to 8" in said(draws=None), "None is as many as there are"
    assert "set length to 16" in said(length=None)
    assert "1,000 bytes; at most 640" in refusal(
        small, "test.costly", Text(prompt="a" * 999, response="b"), None
    ), "texts that are never cut into tokens"


def test_every_sampling_analysis_declares_its_cost() -> None:
    multiply = {"n", "samples", "count", "draws", "repeats", "continuations"}
    lengthen = {"max_new_tokens", "max_tokens", "length"}
    for name, declared in registry.analyses().items():
        for field, info in declared.params.model_fields.items():
            extra = info.json_schema_extra if isinstance(info.json_schema_extra, dict) else {}
            if field in multiply:
                cost = extra.get("cost")
                assert cost in ("samples", "reads"), f"{name}: {field} needs DRAWS or READS"
            if field in lengthen:
                assert extra.get("cost") == "new tokens", f"{name}: {field} needs NEW_TOKENS"


def test_readings_are_limited_as_samples_are(small: Workspace, llama: str) -> None:
    text = Text(prompt="a b", response="c d")
    most = READS_PER_SAMPLE * (small.profile.max_samples or 0)
    sentence = refusal(small, "attribution.lime", text, llama, {"samples": most + 1})
    assert sentence == (
        f"A text is read at most {most:,} times for a request here: set samples to {most} or less."
    )
    make_plan(Request("attribution.lime", text, llama, {"samples": most}), small)


def test_groups_and_files_of_rollouts(small: Workspace, llama: str, tmp_path: Path) -> None:
    tokenizer = Tokenizer.load(llama)
    short, long = (encode_text(Text(prompt="x" * n), tokenizer) for n in (5, 60))
    two = Group(rollouts=(short, short), prompt_id="a")
    make_plan(Request("statistics", two, llama), small)
    three = Group(rollouts=(short,) * 3, prompt_id="a")
    assert "There are 3 rollouts; at most 2" in refusal(small, "statistics", three, llama)
    mixed = Group(rollouts=(short, long), prompt_id="a")
    assert "61 tokens" in refusal(small, "statistics", mixed, llama)
    for name, group, sentence in (("many", three, "3 rollouts"), ("long", mixed, "61 tokens")):
        file = tmp_path / f"{name}.jsonl"
        write_rollouts(file, [group])
        assert sentence in refusal(small, "statistics", open_rollouts(file), llama)


def test_no_file_is_named_from_outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from engine import catalogue

    folder = tiny_folder("llama")
    monkeypatch.setattr(catalogue, "BUNDLED_FOLDER", folder.parent)
    monkeypatch.setitem(catalogue.BUNDLED, folder.name, "")
    closed = replace(SMALL, allow_folders=False, allow_hub=False, allowed=(folder.name,))
    group = Group(rollouts=(encode_text(Text(prompt="a"), Tokenizer.load(folder)),))
    with Workspace(tmp_path / "home", profile=closed) as workspace:
        outside, inside = tmp_path / "r.jsonl", tmp_path / "home" / "r.jsonl"
        link = tmp_path / "home" / "link.jsonl"
        link.symlink_to(outside)
        for file in (outside, inside):
            write_rollouts(file, [group])
        make_plan(Request("statistics", open_rollouts(inside), folder.name), workspace)
        for file in (outside, link):
            said = refusal(workspace, "statistics", open_rollouts(file), folder.name)
            assert "Files cannot be named here" in said
        said = refusal(workspace, "statistics", Text(prompt="a"), str(folder))
        assert "is not offered here" in said


# -- how often, how long ---------------------------------------------------------------------------


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_a_bucket_empties_and_fills() -> None:
    clock = Clock()
    limiter = Limiter(visitor_rate=3, clock=clock)
    a, b = Visitor("a"), Visitor("b")
    for _ in range(3):
        limiter.admit(a)
    with pytest.raises(UserError, match="wait 20 seconds, then ask again"):
        limiter.admit(a)
    limiter.admit(b)
    clock.now += 19
    with pytest.raises(UserError, match="wait 1 second,"):
        limiter.admit(a)
    clock.now += 1
    limiter.admit(a)
    clock.now += 3600
    for _ in range(3):
        limiter.admit(a)
    with pytest.raises(UserError):
        limiter.admit(a)


def test_many_sessions_from_one_address_share_a_bucket() -> None:
    clock = Clock()
    limiter = Limiter(visitor_rate=2, address_rate=4, clock=clock)
    for n in range(4):
        limiter.admit(Visitor(f"s{n}", "198.51.101.7"))
    with pytest.raises(UserError, match="wait 15 seconds"):
        limiter.admit(Visitor("s9", "198.51.101.7"))
    limiter.admit(Visitor("s9", "198.51.101.8"))
    limiter.admit(Visitor("s9", None))
    with pytest.raises(UserError, match="wait 30 seconds"):
        limiter.admit(Visitor("s9", "198.51.101.9"))
    for n in range(4):
        limiter.admit(Visitor(f"t{n}", "198.51.101.9"))  # the refused one took nothing


@pytest.mark.parametrize(
    ("address", "origin"),
    [
        ("8.8.8.8", "8.8.8.8"),
        ("::ffff:8.8.8.8", "8.8.8.8"),
        ("2600:1234:5678:9abc:1::1", "2600:1234:5678:9abc::/64"),
        ("10.1.2.3", None),
        ("127.0.0.1", None),
        ("::1", None),
        ("unix", None),
        (None, None),
    ],
)
def test_what_an_address_says(address: str | None, origin: str | None) -> None:
    assert Visitor("s", address).origin == origin


def test_forgotten_buckets_are_the_full_ones() -> None:
    from engine.limits import rates as limits

    buckets = limits.Buckets(60)
    for n in range(limits._KEPT):
        buckets.take(f"early {n}", 0.0)
    buckets.take("a", 100.0)
    assert list(buckets._levels) == ["a"]
    assert buckets.wait("early 0", 100.0) == 0.0


def test_only_what_has_to_be_computed_counts(tmp_path: Path, llama: str) -> None:
    profile = replace(SMALL, visitor_rate=2)
    with Workspace(tmp_path / "home", profile=profile) as workspace:
        visitor = Visitor("a")
        requests = [Request("statistics", Text(prompt=p), llama) for p in "xyz"]
        for _ in range(3):
            for request in requests[:2]:
                workspace.submit(request, visitor).result(60)
        with pytest.raises(UserError, match="Too many computations"):
            workspace.submit(requests[2], visitor)
        workspace.submit(requests[2], Visitor("b")).result(60)
        workspace.submit(requests[2], visitor).result(60)
        for prompt in "klmn":
            run(Request("statistics", Text(prompt=prompt), llama), workspace=workspace)


def test_the_deadline_keeps_what_is_finished_and_says_so(
    tmp_path: Path, llama: str, register: None
) -> None:
    import threading

    log: list[str] = []
    reached, go = threading.Event(), threading.Event()
    declare_slow(log, reached, go)
    clock = Clock()
    request = Request("test.slow", Text(prompt="a"), llama, {"steps": 5})
    with Workspace(tmp_path / "home", profile=replace(SMALL, deadline=30.0)) as workspace:
        workspace.runner._clock = clock
        handle = workspace.submit(request, Visitor("a"))
        assert reached.wait(10)
        clock.now += 30
        go.set()
        partial = handle.result(10)
        said = partial.notes["reason"].to_pylist()
        assert partial.status == "partial"
        assert said[0].startswith("Stopped after 30 seconds, the most a computation may take here")
        assert said[1:] == ["note 0", "note 1"]
        assert partial.notes["table"].to_pylist()[0] == "values"
        again = workspace.submit(request, Visitor("a")).result(10)
        assert again.status == "complete"
        assert log == [f"step {n}" for n in range(5)], "it went on where it had stopped"
        assert not any("Stopped" in reason for reason in again.notes["reason"].to_pylist())


# -- the command line ------------------------------------------------------------------------------


def test_the_command_line_is_held_too(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from engine import catalogue

    folder = tiny_folder("llama")
    monkeypatch.setattr(catalogue, "BUNDLED_FOLDER", here)
    (here / "demo").symlink_to(folder)
    monkeypatch.setenv("TOKENSCOPE_PROFILE", "hosted")
    monkeypatch.setenv("TOKENSCOPE_MAX_TOKENS", "50")
    out = ["--out", str(here / "o.csv")]
    text = ["--prompt", "a"]
    cases = [
        (["run", "statistics", "--model", str(folder), *text, *out], "is not offered here"),
        (["run", "statistics", "--model", "org/name", *text, *out], "is not offered here"),
        (["run", "statistics", "--model", "demo", "--prompt", "x" * 60, *out], "at most 50"),
        (["generate", *text, "--n", "65", "--out", str(here / "r.jsonl")], "set n to 64"),
    ]
    for argv, sentence in cases:
        code, said, err = call(capsys, *argv)
        assert (code, said) == (2, ""), argv
        assert sentence in err
        assert err.count("\n") == 1
    assert call(capsys, "run", "statistics", "--model", "demo", *text, *out)[0] == 0
    assert not (here / "r.jsonl").exists()


def test_a_profile_that_does_not_exist_opens_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOKENSCOPE_PROFILE", "hosetd")
    done = process(tmp_path, "models")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "tokenscope: TOKENSCOPE_PROFILE is hosetd: set it to local or hosted.\n"
    code = "import asyncio, asgi; asyncio.run(asgi.lifespan(asgi.app).__aenter__())"
    served = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert served.returncode == 1
    assert "set it to local or hosted" in served.stderr.splitlines()[-1]
