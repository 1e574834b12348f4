"""Bundles of result files, and the zips that strangers make instead."""

from __future__ import annotations

import io
import json
import stat
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest

from cache import StoreError, write_result
from cache.errors import DamagedError, NewerFormatError
from cache.importing import MANIFEST, MAX_RESULTS, read_incoming, write_bundle
from cache.results import Limits

Key = Callable[[object], str]
Tokens = Callable[..., pa.Table]


@pytest.fixture
def files(tmp_path: Path, key: Key, tokens: Tokens) -> dict[str, Path]:
    """Two result files."""
    made = {}
    for name in ("one", "two"):
        path = tmp_path / f"{name}.zip"
        write_result(path, key(name), {"tokens": tokens(5)}, {"title": name})
        made[f"{key(name)}.zip"] = path
    return made


def packed(members: dict[str, bytes], compress: int = zipfile.ZIP_STORED) -> bytes:
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w", compress) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return sink.getvalue()


def test_a_bundle_comes_back_with_its_titles(files: dict[str, Path], key: Key) -> None:
    sink = io.BytesIO()
    results = [{"key": key("one"), "renamed": "mine"}, {"key": key("two"), "renamed": None}]
    gone = {**files, "gone.zip": Path("/no/such/file")}
    write_bundle(sink, gone.items(), results)
    with zipfile.ZipFile(sink) as archive:
        assert {i.compress_type for i in archive.infolist()} == {zipfile.ZIP_STORED}
        assert sorted(archive.namelist()) == sorted([*files, MANIFEST])
        for name, path in files.items():
            assert archive.read(name) == path.read_bytes()
    found = {i.stored.key: i for i in read_incoming(sink.getvalue()) if i.stored}
    assert found.keys() == {key("one"), key("two")}
    assert (found[key("one")].title, found[key("two")].title) == ("mine", None)
    assert found[key("one")].stored.meta == {"title": "one"}


def test_a_file_comes_alone(files: dict[str, Path], key: Key) -> None:
    path = next(iter(files.values()))
    (only,) = read_incoming(path.read_bytes())
    assert only.stored is not None
    assert (only.name, only.stored.key, only.title) == ("", key("one"), None)


def test_a_bundle_made_by_hand_needs_no_manifest(files: dict[str, Path]) -> None:
    data = packed({f"r{n}.zip": path.read_bytes() for n, path in enumerate(files.values())})
    assert [i.title for i in read_incoming(data)] == [None, None]


def test_one_bad_member_does_not_keep_the_others_out(files: dict[str, Path]) -> None:
    good = next(iter(files.values())).read_bytes()
    newer = good.replace(b'"format":1', b'"format":2')
    members = {"a.zip": good, "b.zip": good[:-10], "c.zip": b"no zip", "d.zip": newer}
    found = list(read_incoming(packed(members)))
    assert [bool(i.stored) for i in found] == [True, False, False, False]
    assert all(i.problem.endswith(".") for i in found[1:])
    nested = packed({"x.zip": packed({"a.zip": good})})
    assert [i.stored for i in read_incoming(nested)] == [None]


@pytest.mark.parametrize(
    "manifest",
    [b"", b"[]", b"[" * 100_000, b'{"format": 1}', b'{"format": 1, "results": [7, {"key": 3}]}',
     b'{"format": 2, "results": []}', b"\xff"],
)  # fmt: skip
def test_a_manifest_without_sense_says_nothing(files: dict[str, Path], manifest: bytes) -> None:
    good = next(iter(files.values())).read_bytes()
    (only,) = read_incoming(packed({"a.zip": good, MANIFEST: manifest}))
    assert only.stored is not None
    assert only.title is None


def linked(target: str) -> bytes:
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w") as archive:
        info = zipfile.ZipInfo("a.zip")
        info.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(info, target)
    return sink.getvalue()


def twice() -> bytes:
    sink = io.BytesIO(packed({"a.zip": b"x", "b.zip": b"y"}))
    return sink.getvalue().replace(b"b.zip", b"a.zip")


def encrypted() -> bytes:
    data = bytearray(packed({"a.zip": b"x" * 50}))
    at = data.index(b"PK\1\2")
    struct.pack_into("<H", data, at + 8, 1)
    return bytes(data)


def overlapping() -> bytes:
    """Many names for one and the same stretch of the file: the flat bomb of Fifield."""
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w") as archive:
        archive.writestr("a.zip", b"x" * 100_000)
        for n in range(50):
            copy = zipfile.ZipInfo(f"b{n}.zip")
            first = archive.infolist()[0]
            copy.file_size = copy.compress_size = first.file_size
            copy.header_offset, copy.CRC = first.header_offset, first.CRC
            archive.filelist.append(copy)
        archive._didModify = True
    return sink.getvalue()


HOSTILE: dict[str, Callable[[], bytes]] = {
    "empty": lambda: b"",
    "no zip": lambda: b"x" * 1000,
    "an image": lambda: b"\x89PNG\r\n\x1a\n" + bytes(500),
    "nothing inside": lambda: packed({}),
    "only a manifest": lambda: packed({MANIFEST: b"{}"}),
    "deflated bomb": lambda: packed({"a.zip": bytes(50 << 20)}, zipfile.ZIP_DEFLATED),
    "bzip2": lambda: packed({"a.zip": bytes(1000)}, zipfile.ZIP_BZIP2),
    "lzma": lambda: packed({"a.zip": bytes(1000)}, zipfile.ZIP_LZMA),
    "leads out": lambda: packed({"../../evil.zip": b"x"}),
    "absolute": lambda: packed({"/etc/cron.d/evil.zip": b"x"}),
    "other system": lambda: packed({"..\\evil.zip": b"x"}),
    "drive": lambda: packed({"C:evil.zip": b"x"}),
    "folder": lambda: packed({"a/": b"", "a/b.zip": b"x"}),
    "hidden": lambda: packed({".ssh.zip": b"x"}),
    "program": lambda: packed({"setup.py": b"import os"}),
    "name with line end": lambda: packed({"a\nb.zip": b"x"}),
    "link": lambda: linked("/etc/passwd"),
    "name twice": twice,
    "locked": encrypted,
    "overlapping": overlapping,
    "too many": lambda: packed({f"r{n}.zip": b"" for n in range(MAX_RESULTS + 2)}),
    "comment": lambda: packed({"a.zip": b"x"})[:-2] + b"\x01\0x",
}


@pytest.mark.parametrize("what", HOSTILE)
def test_hostile_zips_are_refused_in_one_sentence(what: str) -> None:
    with pytest.raises(DamagedError) as error:
        list(read_incoming(HOSTILE[what]()))
    said = str(error.value)
    assert said.endswith(".")
    assert "\n" not in said
    assert len(said) < 200


def test_limits_hold(files: dict[str, Path]) -> None:
    data = next(iter(files.values())).read_bytes()
    with pytest.raises(DamagedError, match="too large"):
        list(read_incoming(data, limits=Limits(file_bytes=len(data) - 1)))
    with pytest.raises(DamagedError, match="larger"):
        list(read_incoming(data, limits=Limits(table_rows=4)))


def test_a_newer_file_says_so(files: dict[str, Path]) -> None:
    data = next(iter(files.values())).read_bytes().replace(b'"format":1', b'"format":2')
    # The check sum of the description must fit, or it would be damaged instead.
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = {}
        for info in archive.infolist():
            start = info.header_offset + 30 + len(info.filename)
            members[info.filename] = data[start : start + info.file_size]
    assert json.loads(members["meta.json"])["format"] == 2
    with pytest.raises(NewerFormatError, match="newer TokenScope"):
        list(read_incoming(packed(members)))


def test_a_bundle_too_large_for_a_zip_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zipfile, "ZIP64_LIMIT", 1000)
    with pytest.raises(StoreError, match="export fewer"):
        write_bundle(io.BytesIO(), [("a.zip", b"x" * 5000)], [])
