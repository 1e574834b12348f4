"""Files of others: texts, chats and our own; what is recognised and what is kept."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from engine.encode import _ROLES, encode_text
from engine.errors import UserError
from engine.readers import recognise
from engine.readers.chat import ROLES
from engine.records import write_rollouts, write_trace
from engine.subjects import Group, Text
from tests.engine.logs import (
    ASKED,
    drop,
    reasons,
    rollout,
)
from tests.engine.test_tokenization import byte_level


@pytest.mark.parametrize(
    "data",
    [
        "Grüße 🤗\r\n# Titel".encode(),
        b"\xef\xbb\xbf" + "Grüße 🤗\r\n# Titel".encode(),
        "\ufeffGrüße 🤗\r\n# Titel".encode("utf-16-le"),
        "\ufeffGrüße 🤗\r\n# Titel".encode("utf-16-be"),
        "\ufeffGrüße 🤗\r\n# Titel".encode("utf-32-le"),
    ],
)
def test_text_is_the_response_of_an_empty_prompt(data: bytes) -> None:
    found = drop(data, "notes.md")
    assert found.kind == "text"
    assert found.subjects == (Text(response="Grüße 🤗\r\n# Titel", title="notes.md"),)
    assert found.texts == found.subjects
    assert found.title == "Plain text, 16 characters in 2 lines"


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (b"", "x.txt: it is empty."),
        (b" \n\t", "x.txt: there is nothing in it but blanks."),
        (b"\x89PNG\r\n\x1a\n", "x.txt: this is a picture: bring text instead."),
        (b"PK\x03\x04abc", "no TokenScope result"),
        (b"a\nb\xff", "x.txt, line 2, byte 3: this is not UTF-8 text: save the file as UTF-8."),
        ("a\ud800".encode("utf-8", "surrogatepass"), "lone surrogate"),
        ("héllo".encode("utf-16-le"), "this is not UTF-8"),
        ("hello".encode("utf-16-le"), "zero bytes stand here"),
        (b"\xff\xfea", "byte 2: this is not UTF-16 although the file says so"),
    ],
)
def test_what_is_no_text(data: bytes, sentence: str) -> None:
    with pytest.raises(UserError) as caught:
        recognise("x.txt", data)
    assert sentence in str(caught.value)


def test_too_large_is_said_before_anything_is_read() -> None:
    with pytest.raises(UserError, match=r"has 1.0 MB; at most 100 bytes are read here"):
        recognise("x.txt", b"a" * (1 << 20), limit=100)


@pytest.mark.parametrize("text", ["[1] Introduction", "{name} is here", "{{ jinja }}", "42", "[x]"])
def test_what_only_looks_like_json_is_text(text: str) -> None:
    assert drop(text.encode(), "a.json").kind == "text"


@pytest.mark.parametrize(
    "data",
    [
        json.dumps({"messages": ASKED, "model": "m"}),
        json.dumps(ASKED),
        json.dumps({"messages": ASKED}, indent=1),
        "\n".join(json.dumps(m) for m in ASKED),
        json.dumps(
            {
                "messages": [
                    ASKED[0],
                    {"role": "user", "content": [{"type": "text", "text": "2+2?"}]},
                ]
            }
        ),
        json.dumps(
            {
                "conversations": [
                    {"from": "system", "value": "Be brief."},
                    {"from": "user", "value": "2+2?"},
                ]
            }
        ),
    ],
)
def test_chats(data: str) -> None:
    found = drop(data.encode())
    assert (found.kind, found.title) == ("chat", "Chat, 2 messages")
    (text,) = found.subjects
    assert isinstance(text, Text)
    assert [(m.role, m.content) for m in text.messages or ()] == [
        ("system", "Be brief."),
        ("user", "2+2?"),
    ]
    assert not found.problems
    assert found.model == ("m" if '"model"' in data else None)


def test_pictures_and_tool_calls_are_named_and_left_out() -> None:
    parts = [
        {"type": "text", "text": "Look "},
        {"type": "image_url", "image_url": {"url": "http://x"}},
    ]
    found = drop(
        [
            {"role": "user", "content": parts},
            {"role": "assistant", "content": None, "tool_calls": [{"id": "1"}]},
        ]
    )
    (text,) = found.subjects
    assert isinstance(text, Text)
    assert [m.content for m in text.messages or ()] == ["Look ", ""]
    assert "messages[0].content[1]: a part of type “image_url” is left out" in reasons(found)
    assert "messages[1].tool_calls" in reasons(found)


def test_unknown_roles_are_refused_by_place_and_roles_are_the_encoders() -> None:
    with pytest.raises(
        UserError, match=r"messages\[1\].role: the role is “wizard”; use one of sys"
    ):
        drop([ASKED[0], {"role": "wizard", "content": "x"}])
    assert set(ROLES) == set(_ROLES)


def test_many_chats_a_line_with_a_bad_one() -> None:
    lines = [json.dumps({"messages": ASKED}), '{"messages": [', json.dumps({"messages": []})]
    found = drop("\n".join([*lines, json.dumps({"messages": ASKED[1:]})]).encode())
    assert found.title == "2 chats"
    assert [place for place, _ in found.problems] == ["line 2", "line 3"]


def test_prompt_and_response() -> None:
    found = drop({"prompt": "2+2=", "response": "4"})
    assert found.subjects == (Text(prompt="2+2=", response="4"),)
    assert found.kind == "text"


def test_unknown_json_says_what_it_has_and_stays_a_text() -> None:
    found = drop({"foo": 1, "<img src=x>\u202e\n": 2})
    assert found.kind == "unknown"
    assert found.subjects
    assert "“foo”" in reasons(found)
    assert "\u202e" not in reasons(found).replace("\n", "", len(found.problems) - 1)
    with pytest.raises(UserError, match="the server answered with an error: “no such model”"):
        drop({"error": {"message": "no such model", "code": 404}})


def test_own_files(tmp_path: Path) -> None:
    trace = encode_text(Text(prompt="2+2? ", response="Answer: 4"), byte_level(merges=False))
    write_trace(tmp_path / "t.jsonl", trace)
    found = drop((tmp_path / "t.jsonl").read_bytes(), "t.jsonl")
    assert (found.kind, found.subjects) == ("trace", (trace,))
    assert found.texts == (Text(prompt="2+2? ", response="Answer: 4"),)

    group = Group(rollouts=(trace, trace), rewards=(1.0, 0.0), prompt_id="p", expected="4")
    write_rollouts(tmp_path / "r.jsonl", [group])
    data = (tmp_path / "r.jsonl").read_bytes()
    found = drop(data, "r.jsonl")
    assert (found.kind, found.expected) == ("rollouts", "4")
    assert found.title == "TokenScope rollouts, 2 of 1 prompt"
    assert found.groups == (group,)
    assert len(found.subjects) == 2

    cut = drop(data[:-50] + b"\n" + json.dumps({"schema": "tokenscope.trace/9"}).encode(), "r")
    assert len(cut.subjects) == 1
    assert [place for place, _ in cut.problems] == ["line 2", "line 3, schema"]
    with pytest.raises(UserError, match=r"trace.ids: the trace has no tokens"):
        drop(rollout(ids=[], pieces=[], response_start=0, turns=[]))
    with pytest.raises(UserError, match="larger than any vocabulary"):
        drop(rollout(ids=[2**40]))
    with pytest.raises(UserError, match=r"trace.turns: |trace.trace: turns cover 1 of 2"):
        drop(rollout(ids=[1, 2], pieces=["a", "b"]))
    with pytest.raises(UserError, match=r"trace\.sampling\.seed: .*exceeded|64 bits"):
        drop(rollout(sampling={"seed": 2**70}))


def test_a_result_file_is_handed_on_unread() -> None:
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w") as archive:
        archive.writestr("meta.json", "{ not read")
    found = recognise("r.zip", sink.getvalue(), limit=10)
    assert (found.kind, found.subjects) == ("result", ())


def test_reading_needs_no_torch() -> None:
    code = "import sys, engine.readers, engine.logged; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
