"""A result carries what it looked at, and its subject's name does not depend on defaults."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from engine import Group, Request, Text, Trace, UserError, Workspace, encode, run
from engine.keys import digest
from engine.subjects import Candidate, simple_turns


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path, role="client")


def log_trace(**more: object) -> Trace:
    fields: dict[str, object] = {
        "ids": (-1, -1),
        "pieces": (b"a", b"b"),
        "ids_origin": "logged",
        "response_start": 1,
        "turns": simple_turns(2, 1),
    }
    return Trace.model_validate(fields | more)


def test_a_result_opens_again_with_its_trace(workspace: Workspace) -> None:
    trace = encode(Text(prompt="7+8=", response="15", title="sum"), "demo", workspace)
    made = run(Request("statistics", trace, "demo"), workspace=workspace)[0]
    for key in (made.key, made.key[:12]):
        again, subject = workspace.reopen(key)
        assert subject == trace
        assert subject is not None
        assert subject.digest == trace.digest
        assert again.table("tokens") == made.table("tokens")
        assert "subject" not in again.tables


def test_a_group_opens_again(workspace: Workspace) -> None:
    one = encode(Text(prompt="7+8=", response="15"), "demo", workspace)
    two = encode(Text(prompt="7+8=", response="14"), "demo", workspace)
    group = Group(rollouts=(one, two), rewards=(1.0, 0.0), expected="15")
    made = run(Request("statistics", group, "demo"), workspace=workspace)[0]
    assert workspace.reopen(made.key)[1] == group


@pytest.mark.parametrize(
    ("key", "reason"),
    [
        ("0" * 64, "no result"),
        ("abc", "first 12"),
        ("x" * 20, None),
        ("../../../../etc/passwd", None),
    ],
)
def test_keys_that_open_nothing(workspace: Workspace, key: str, reason: str | None) -> None:
    with pytest.raises(UserError, match=reason):
        workspace.reopen(key)


def test_a_field_left_at_its_default_does_not_change_the_digest() -> None:
    plain = log_trace()
    assert log_trace(signals={}, candidates=None, exact=True).digest == plain.digest
    assert log_trace(exact=False).digest != plain.digest
    assert log_trace(title="other").digest == plain.digest
    assert digest(["Trace", plain.record]) == plain.digest
    assert set(plain.record) == {
        "schema_version", "ids", "pieces", "ids_origin", "response_start", "turns",
    }  # fmt: skip


def test_ids_may_be_unknown_only_without_a_tokenizer(workspace: Workspace) -> None:
    trace = log_trace(candidates=((), (Candidate(piece=b"b", logprob=-0.5),)))
    assert not trace.has_ids
    assert Trace.model_validate_json(trace.model_dump_json()) == trace
    with pytest.raises(ValidationError, match="not negative"):
        log_trace(tokenizer="t")
    with pytest.raises(ValidationError, match="not negative"):
        log_trace(ids=(-2, 0))
    with pytest.raises(ValidationError, match="candidates for 1 of 2"):
        log_trace(candidates=((),))
    with pytest.raises(UserError, match="no token ids"):
        run(Request("statistics", trace, "demo"), workspace=workspace)
