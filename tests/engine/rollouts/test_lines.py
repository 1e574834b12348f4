"""Lines and their places: against a split by hand, in hostile files, and while a file grows."""

from __future__ import annotations

import io
import json

import pytest

from engine.rollouts.lines import Cursor, Line, no_lines, read_lines


def lines(data: bytes, cursor: Cursor | None = None, limit: int = 1 << 20) -> list[Line]:
    return list(read_lines(io.BytesIO(data), cursor or Cursor(), limit=limit))


def test_numbers_offsets_and_sizes_agree_with_a_split_by_hand() -> None:
    parts = [b'{"a": 1}\n', b"\n", b'{"a": "\xc3\xa9"}\r\n', b"  \r\n", b"[1]\n", b'{"a": 3}\n']
    data = b"".join(parts)
    found = lines(data)
    assert [line.number for line in found] == [1, 3, 5, 6]
    for line in found:
        assert data[line.offset : line.offset + line.size] == parts[line.number - 1]
    assert [line.record for line in found] == [{"a": 1}, {"a": "é"}, None, {"a": 3}]
    assert found[2].reason == "a JSON object is expected"


def test_a_byte_order_mark_is_no_part_of_the_first_line() -> None:
    assert lines(b'\xef\xbb\xbf{"a": 1}\n')[0].record == {"a": 1}


def test_what_python_writes_beyond_json_is_read() -> None:
    record = lines(b'{"a": NaN, "b": -Infinity}\n')[0].record
    assert record is not None
    assert record["a"] != record["a"]
    assert record["b"] == float("-inf")


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b'{"a": ' + b"[" * 100_000 + b"\n", "nested too deeply"),
        (b'{"a": ' + b"[" * 5_000 + b"]" * 5_000 + b"}\n", "nested too deeply"),
        (b'{"a": ' + b"9" * 100_000 + b"}\n", "too long"),
        (b'{"a": "\xff"}\n', "not UTF-8"),
        (b'{"a": 1\n', "not whole JSON"),
        (b"null\n", "a JSON object is expected"),
    ],
)
def test_bad_lines_say_why_and_the_next_one_is_read(data: bytes, reason: str) -> None:
    bad, good = lines(data + b'{"a": 1}\n')
    assert bad.record is None
    assert reason in bad.reason
    assert (good.number, good.record) == (2, {"a": 1})


def test_a_long_line_is_skipped_without_being_held() -> None:
    class Counting(io.BytesIO):
        largest = 0

        def readline(self, size: int | None = -1) -> bytes:
            data = super().readline(size)
            self.largest = max(self.largest, len(data))
            return data

    handle = Counting(b'{"a": 1}\n{"a": "' + b"x" * 5_000_000 + b'"}\n{"a": 2}\n')
    found = list(read_lines(handle, Cursor(), limit=1000))
    assert [line.record for line in found] == [{"a": 1}, None, {"a": 2}]
    assert found[1].reason == "longer than 1,000 bytes"
    assert found[2].number == 3
    assert handle.largest <= 1 << 20


def test_a_line_that_is_as_long_as_allowed_is_read() -> None:
    line = b'{"a": "xx"}'
    assert lines(line + b"\n" + line, limit=len(line) + 1)[0].record == {"a": "xx"}
    assert lines(line + b"\n", limit=len(line) - 2)[0].record is None


def test_reading_a_growing_file_at_every_byte_gives_what_reading_it_once_gives() -> None:
    records = [{"a": 1}, {"b": "é\n"}, {"c": [1, 2]}]
    data = b"\r\n".join(json.dumps(r).encode() for r in records) + b"\n"
    whole = [(line.number, line.offset, line.record) for line in lines(data)]
    for cut in range(len(data) + 1):
        cursor = Cursor()
        found = lines(data[:cut], cursor)
        assert cursor.offset <= cut
        found += lines(data, cursor)
        assert [(line.number, line.offset, line.record) for line in found] == whole


def test_a_last_line_that_is_not_whole_waits() -> None:
    cursor = Cursor()
    assert len(lines(b'{"a": 1}\n{"a":', cursor)) == 1
    assert (cursor.offset, cursor.lines) == (9, 1)
    (line,) = lines(b'{"a": 1}\n{"a": 2}\n', cursor)
    assert (line.number, line.offset, line.record) == (2, 9, {"a": 2})


def test_a_long_line_that_goes_on_is_told_once() -> None:
    cursor = Cursor()
    (bad,) = lines(b"x" * 50, cursor, limit=10)
    assert cursor.skipping
    assert bad.number == 1
    assert not lines(b"x" * 90, cursor, limit=10)
    (good,) = lines(b"x" * 95 + b'\n{"a": 1}\n', cursor, limit=10)
    assert (good.number, good.offset, good.record) == (2, 96, {"a": 1})


def test_archives_and_utf16_are_named() -> None:
    assert "UTF-16" in str(no_lines("x".encode("utf-16")))
    assert "gzip" in str(no_lines(b"\x1f\x8b\x08"))
    assert no_lines(b'{"a": 1}') is None
