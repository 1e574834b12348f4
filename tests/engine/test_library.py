"""The library: what is listed, what may be changed, what leaves and what comes in."""

from __future__ import annotations

import csv
import io
import json
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet
import pytest

import engine
from engine import UserError, Workspace, keys
from engine.limits.profile import Profile
from engine.registry import analyses
from engine.shelves.asking import EXAMPLES, answer_file
from engine.shelves.library import Library
from tests.engine.elsewhere import bundle, described, example, file_of, result_file

HOSTILE = "<img src=x onerror=alert(1)> ![](http://evil.example/a) =1+1 \u202eabc"


@pytest.fixture
def workspace(tmp_path: Path) -> Iterator[Workspace]:
    with Workspace(tmp_path / "home", role="client") as made:
        yield made


@pytest.fixture
def library(workspace: Workspace) -> Library:
    return Library(workspace)


def own(library: Library) -> list[Any]:
    return [row for row in library.rows().rows if row.origin != "example"]


def test_a_fresh_library_lists_the_examples_with_their_names(library: Library) -> None:
    listing = library.rows()
    assert listing.total == len(listing.rows) > 0
    assert {row.origin for row in listing.rows} == {"example"}
    titles = {row.title for row in listing.rows}
    assert engine.gallery()[0].title in titles
    first = next(row for row in listing.rows if row.title == engine.gallery()[0].title)
    assert (first.model, first.tokens) == ("demo", len(engine.gallery()[0].trace))
    assert first.problem is None
    assert library.size()[0] == 0


def test_listing_filters_and_orders(library: Library) -> None:
    library.bring("a", result_file(11, "Zebra crossing"))
    library.bring("b", result_file(12, "apple"))
    both = [row.title for row in own(library)]
    assert sorted(both) == ["Zebra crossing", "apple"]
    assert [row.origin for row in library.rows().rows][:2] == ["imported"] * 2
    found = library.rows(search=" ZEBRA ")
    assert [row.title for row in found.rows] == ["Zebra crossing"]
    assert not found.unfiltered
    assert library.rows(search="no such thing").rows == ()
    assert library.rows(analysis="generate").rows == ()
    assert {r.analysis for r in library.rows(analysis="statistics").rows} == {"statistics"}
    assert library.rows(limit=1).total > 1
    assert len(library.rows(limit=1).rows) == 1
    assert "statistics" in library.contents().analyses()
    with pytest.raises(UserError, match="ordered"):
        library.rows(order="key")  # type: ignore[arg-type]


def test_an_untitled_text_is_listed_by_its_first_words(workspace: Workspace) -> None:
    stored = example()
    meta = described(stored, 13)
    meta["title"] = meta["provenance"]["subject"]["title"] = None
    row = stored.tables["subject"].to_pylist()[0] | {"title": None}
    subject = pa.Table.from_pylist([row], schema=stored.tables["subject"].schema)
    data = file_of(keys.digest(meta["document"]), {**stored.tables, "subject": subject}, meta)
    library = Library(workspace)
    library.bring("x", data)
    text = " ".join(library.rows().rows[0].title.split())
    body = json.loads(row["subject"])
    written = "".join(p for p in body["pieces"] if isinstance(p, str))
    assert text.endswith("…")
    assert text[:-1] in " ".join(written.split())
    assert not text.startswith("<|")


def test_rename_pin_and_delete(library: Library) -> None:
    library.bring("a", result_file(11, "first"))
    (row,) = own(library)
    library.rename(row.key, "  my\n own  title ")
    library.pin([row.key])
    (row,) = own(library)
    assert (row.title, row.pinned) == ("my own title", True)
    library.rename(row.key, "")
    library.pin([row.key], False)
    (row,) = own(library)
    assert (row.title, row.pinned) == ("first", False)
    with pytest.raises(UserError, match="longer than 200"):
        library.rename(row.key, "x" * 201)
    assert library.delete([row.key]) == 1
    assert own(library) == []
    with pytest.raises(UserError, match="not here any more"):
        library.delete([row.key])
    with pytest.raises(UserError, match="is no key"):
        library.rename("../../etc", "x")


def test_examples_stay_as_they_are(library: Library) -> None:
    key = library.rows().rows[0].key
    for change in (
        lambda: library.rename(key, "x"),
        lambda: library.pin([key]),
        lambda: library.delete([key]),
    ):
        with pytest.raises(UserError, match="example that came with TokenScope"):
            change()
    assert library.row(key).origin == "example"


def test_a_bundle_goes_round_the_world(library: Library, tmp_path: Path) -> None:
    library.bring("two.zip", bundle({"a.zip": result_file(11, "A"), "b.zip": result_file(12, "B")}))
    mine = {row.title: row.key for row in own(library)}
    library.rename(mine["B"], "Bee")
    shown = library.rows().rows[-1].key
    made = library.export([*mine.values(), shown])
    data = made.read()
    assert made.size == len(data)
    assert made.name.endswith(".zip")
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        assert archive.testzip() is None
    with Workspace(tmp_path / "other", role="client") as other:
        there = Library(other)
        report = there.bring("bundle.zip", data)
        # The example is there already, as it came with TokenScope.
        assert sorted(report.added) == ["A", "Bee"]
        assert len(report.present) == 1
        assert report.refused == report.unshown == ()
        again = there.bring("bundle.zip", data)
        assert again.added == ()
        assert len(again.present) == 3
        result, subject = other.reopen(mine["A"])
        assert subject is not None
        assert "imported" in result.provenance
        assert result.table("tokens").num_rows == len(subject)  # type: ignore[arg-type]


@pytest.mark.parametrize("fmt", engine.FORMATS)
def test_tables_leave_with_their_provenance(library: Library, fmt: str) -> None:
    rows = library.rows(analysis="statistics").rows[:2]
    data = library.export([row.key for row in rows], fmt).read()
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        names = archive.namelist()
        name = next(n for n in names if n == f"statistics-{rows[0].key[:12]}-tokens.{fmt}")
        content = archive.read(name)
        assert all("/" not in n and "\\" not in n for n in names)
    if fmt == "csv":
        first = next(csv.DictReader(io.StringIO(content.decode())))
        assert first["result_key"] == rows[0].key
    elif fmt == "json":
        assert json.loads(content)[0]["result_key"] == rows[0].key
    elif fmt == "parquet":
        metadata = pyarrow.parquet.read_schema(io.BytesIO(content)).metadata
        assert rows[0].key.encode() in metadata[b"tokenscope"]
    else:
        assert content


def test_exports_that_cannot_be(library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    key = library.rows().rows[0].key
    with pytest.raises(UserError, match="Nothing is chosen"):
        library.export([])
    with pytest.raises(UserError, match="no format 'exe'"):
        library.export([key], "exe")
    with pytest.raises(UserError, match="not here any more"):
        library.export(["0" * 64])
    monkeypatch.setattr("engine.shelves.travel.MAX_EXPORT", 0)
    with pytest.raises(UserError, match="choose fewer"):
        library.export([key])
    monkeypatch.undo()

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("engine.shelves.travel.write_bundle", full)
    with pytest.raises(UserError, match="No space left"):
        library.export([key])


# -- files from elsewhere --------------------------------------------------------------------


def altered(change: Callable[[dict[str, Any]], None], **tables: pa.Table | None) -> bytes:
    """A file whose description was changed after its key was made."""
    stored = example()
    meta = described(stored, 15, "altered")
    key = keys.digest(meta["document"])
    change(meta)
    kept = {n: t for n, t in {**stored.tables, **tables}.items() if t is not None}
    return file_of(key, kept, meta)


def put(*path: str, value: object) -> Callable[[dict[str, Any]], None]:
    def change(meta: dict[str, Any]) -> None:
        inner = meta
        for name in path[:-1]:
            inner = inner[name]
        inner[path[-1]] = value

    return change


def drop(*path: str) -> Callable[[dict[str, Any]], None]:
    def change(meta: dict[str, Any]) -> None:
        inner = meta
        for name in path[:-1]:
            inner = inner[name]
        del inner[path[-1]]

    return change


def nothing(meta: dict[str, Any]) -> None:
    pass


def other_subject() -> pa.Table:
    table = example().tables["subject"]
    row = table.to_pylist()[0]
    body = json.loads(row["subject"])
    body["ids"][-1] += 1
    return pa.Table.from_pylist([{**row, "subject": json.dumps(body)}], schema=table.schema)


WRONG_KEY = "key does not belong"
CONTRADICTS = "contradicts"
INCOMPLETE = "incomplete"
FORGED: dict[str, tuple[Callable[[], bytes], str]] = {
    "other params": (lambda: altered(put("document", "params", "top_k", value=5)), WRONG_KEY),
    "other subject": (lambda: altered(put("document", "subject", value="0" * 64)), WRONG_KEY),
    "no document": (lambda: altered(drop("document")), WRONG_KEY),
    "a document that is a list": (lambda: altered(put("document", value=[])), WRONG_KEY),
    "other model": (
        lambda: altered(put("provenance", "models", "model", "fingerprint", value="0" * 64)),
        CONTRADICTS,
    ),
    "other analysis": (lambda: altered(put("analysis", value="generate")), CONTRADICTS),
    "other version": (lambda: altered(put("version", value=2)), CONTRADICTS),
    "other key": (lambda: altered(put("provenance", "key", value="0" * 64)), CONTRADICTS),
    "other text": (lambda: altered(put("subject", value="0" * 64)), CONTRADICTS),
    "said to be done": (lambda: altered(put("status", value="partial")), CONTRADICTS),
    "status unknown": (lambda: altered(put("provenance", "status", value="?")), INCOMPLETE),
    "no provenance": (lambda: altered(drop("provenance")), INCOMPLETE),
    "models a list": (lambda: altered(put("provenance", "models", value=[])), INCOMPLETE),
    "date a word": (lambda: altered(put("provenance", "created", value="soon")), INCOMPLETE),
    "a title of a megabyte": (
        lambda: altered(put("provenance", "subject", "title", value="x" * 1_000_000)),
        INCOMPLETE,
    ),
    "carries another text": (lambda: altered(nothing, subject=other_subject()), "not the one"),
    "carries nonsense": (
        lambda: altered(nothing, subject=pa.table({"x": [1]})),
        "not the one",
    ),
    "no tokens": (lambda: altered(nothing, tokens=None), "not those of statistics"),
    "a column too few": (
        lambda: altered(nothing, tokens=example().tables["tokens"].drop_columns(["rank"])),
        "not those of statistics",
    ),
    "a column of text": (
        lambda: altered(
            nothing,
            tokens=example().tables["tokens"].drop_columns(["rank"]).append_column(
                "rank", pa.array(["<script>"] * example().tables["tokens"].num_rows)
            ),
        ),
        "not those of statistics",
    ),
    "notes of another kind": (
        lambda: altered(nothing, notes=pa.table({"x": [1]})),
        "not those of statistics",
    ),
    "a token too few": (
        lambda: altered(nothing, tokens=example().tables["tokens"][:-1]),
        "one row for each token",
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", FORGED)
def test_a_forged_file_is_refused(library: Library, what: str) -> None:
    make, says = FORGED[what]
    report = library.bring("forged.zip", make())
    assert report.added == ()
    (said,) = report.refused
    assert said.startswith("forged.zip: ")
    assert says in said
    assert "\n" not in said
    assert own(library) == []


def test_the_same_file_unaltered_is_taken(library: Library) -> None:
    assert library.bring("fine.zip", altered(nothing)).added == ("altered",)


@pytest.mark.parametrize("data", [b"", b"PK", b"x" * 5000, result_file(11)[:-30]])
def test_what_is_no_result_file_is_refused(library: Library, data: bytes) -> None:
    with pytest.raises(UserError, match=r"^e\?vil\.zip: The file") as error:
        library.bring("e\u202evil.zip", data)
    assert "\n" not in str(error.value)


def test_a_damaged_member_does_not_keep_the_others_out(library: Library) -> None:
    good = result_file(11, "good")
    report = library.bring("two.zip", bundle({"a.zip": good[:-9], "b.zip": good}))
    assert report.added == ("good",)
    assert len(report.refused) == 1
    assert "a.zip" in report.refused[0]


def unknown(analysis: str, version: int) -> bytes:
    stored = example()
    meta = described(stored, 16, "odd")
    for part in (meta, meta["document"], meta["provenance"]):
        part["analysis"], part["version"] = analysis, version
    key = keys.digest(meta["document"])
    meta["provenance"]["key"] = key
    return file_of(key, {"odd": pa.table({"position": [0]})}, meta)


@pytest.mark.parametrize(
    ("analysis", "version", "says"),
    [("statistics", 99, "version 99"), ("future.method", 1, "no analysis 'future.method'")],
)
def test_results_of_other_versions_are_kept_and_named(
    workspace: Workspace, analysis: str, version: int, says: str
) -> None:
    library = Library(workspace)
    report = library.bring("odd.zip", unknown(analysis, version))
    assert report.added == ("odd",)
    assert says in report.unshown[0]
    row = library.row(own(library)[0].key)
    assert row.problem is not None
    assert says in row.problem
    # Nothing of it gets into the tables that SQL reads.
    stored = workspace.store.get(row.key)
    assert stored is not None
    assert not stored.indexed
    assert library.export([row.key]).size > 0


def test_a_result_computed_here_is_never_replaced(library: Library) -> None:
    first = result_file(11, "first")
    library.bring("a", first)
    assert library.bring("b", result_file(11, "second")).present == ("first",)
    assert [row.title for row in own(library)] == ["first"]


def test_a_partial_result_gives_way_to_a_complete_one(library: Library) -> None:
    def partial(meta: dict[str, Any]) -> None:
        meta["status"] = meta["provenance"]["status"] = "partial"

    assert library.bring("a", altered(partial)).added == ("altered",)
    assert own(library)[0].status == "partial"
    assert library.bring("b", altered(partial)).present == ("altered",)
    assert library.bring("c", altered(nothing)).added == ("altered",)
    assert own(library)[0].status == "complete"


@pytest.mark.parametrize(
    ("ref", "kept"),
    [
        ("demo", "demo"),
        ("demo-multidigit?dtype=bfloat16", "demo-multidigit?dtype=bfloat16"),
        ("/home/ann/secret/model", ""),
        ("\\\\evil.example\\share", ""),
        ("evil/model", ""),
        ("demo+evil/adapter", ""),
        ("", ""),
    ],
)
def test_a_file_from_elsewhere_makes_nobody_fetch_a_model(
    workspace: Workspace, ref: str, kept: str
) -> None:
    library = Library(workspace)
    library.bring("x", altered(put("provenance", "models", "model", "ref", value=ref)))
    result, _ = workspace.reopen(own(library)[0].key)
    assert result.provenance["models"]["model"]["ref"] == kept


def test_hostile_titles_stay_text(library: Library) -> None:
    library.bring("x", result_file(11, HOSTILE))
    (row,) = own(library)
    assert row.title == HOSTILE
    asked = library.asking.ask("SELECT title FROM results WHERE origin = 'imported'")
    assert asked.table.to_pylist() == [{"title": HOSTILE}]
    assert HOSTILE.encode() in answer_file(asked, "csv")


# -- a shared server -------------------------------------------------------------------------


def test_on_a_shared_server_visitors_see_only_their_own(tmp_path: Path) -> None:
    with Workspace(tmp_path, role="client") as local:
        Library(local).bring(
            "x", bundle({"a.zip": result_file(11, "Ann's"), "b.zip": result_file(12, "Bob's")})
        )
        mine = {row.title: row.key for row in own(Library(local))}
    profile = Profile(name="hosted")
    with Workspace(tmp_path, role="client", profile=profile) as hosted:
        stranger, ann = Library(hosted), Library(hosted, {mine["Ann's"]})
        assert stranger.shared
        assert own(stranger) == []
        assert stranger.rows(search="Ann's").rows == ()
        assert [row.title for row in own(ann)] == ["Ann's"]
        assert ann.row(mine["Ann's"]).title == "Ann's"
        assert ann.export([mine["Ann's"]]).size > 0
        for refused in (
            lambda: stranger.row(mine["Ann's"]),
            lambda: ann.row(mine["Bob's"]),
            lambda: ann.export([mine["Bob's"]]),
            lambda: ann.delete([mine["Ann's"]]),
            lambda: ann.pin([mine["Ann's"]]),
            lambda: ann.rename(mine["Ann's"], "x"),
            lambda: ann.bring("x", result_file(13)),
            lambda: ann.asking.ask("SELECT 1"),
        ):
            with pytest.raises(UserError):
                refused()
        assert len(own(ann)) == 1


# -- SQL -------------------------------------------------------------------------------------


def test_every_example_query_shows_something_on_a_fresh_store(library: Library) -> None:
    asking = library.asking
    schema = asking.schema()
    assert schema[0].name == "results"
    offered = asking.examples(schema)
    assert offered == list(EXAMPLES)
    for query in offered:
        asked = asking.ask(query.query)
        assert asked.table.num_rows > 0, query.title
        assert asked.remarks == ()
    assert asking.examples(schema[:1]) == [e for e in EXAMPLES if e.tables == ("results",)]


def test_the_schema_says_what_every_column_means(library: Library) -> None:
    tables = {table.name: table for table in library.asking.schema()}
    tokens = tables["statistics_tokens"]
    assert tokens.doc
    declared = analyses()["statistics"].tables["tokens"].columns
    by_name = {column.name: column for column in tokens.columns}
    for name, column in declared.items():
        assert (by_name[name].doc, by_name[name].unit) == (column.doc, column.unit)
    assert all(column.doc for column in tokens.columns)
    assert all(column.doc for column in tables["results"].columns)


def test_what_was_computed_a_moment_ago_is_asked(tmp_path: Path) -> None:
    with Workspace(tmp_path, role="owner") as workspace:
        library = Library(workspace)
        library.bring("x", result_file(11, "fresh"))
        (row,) = own(library)
        query = f"SELECT count(*) AS n FROM statistics_tokens WHERE key = '{row.key}'"
        assert library.asking.ask(query).table["n"][0].as_py() == row.tokens


def test_answers_leave_as_files(library: Library) -> None:
    query = """SELECT '=1+1' AS analysis, 'x' AS "=cmd", 'ab'::BLOB AS b, [1, 2] AS l, 1.5 AS d"""
    asked = library.asking.ask(query)
    rows = list(csv.reader(io.StringIO(answer_file(asked, "csv").decode())))
    assert rows == [["analysis", "'=cmd", "b", "l", "d"], ["'=1+1", "x", "6162", "[1, 2]", "1.5"]]
    metadata = pyarrow.parquet.read_schema(io.BytesIO(answer_file(asked, "parquet"))).metadata
    assert "AS analysis" in json.loads(metadata[b"tokenscope"])["provenance"]["params"]["query"]
    assert pa.ipc.open_file(answer_file(asked, "arrow")).read_all().num_rows == 1
    assert answer_file(asked, "xlsx")[:2] == b"PK"
    with pytest.raises(UserError, match="no format"):
        answer_file(asked, "exe")


def test_cut_answers_say_so(library: Library) -> None:
    asked = library.asking.ask("SELECT * FROM range(12345)")
    assert asked.remarks == ("Of 12,345 rows the first 10,000 are shown and downloaded.",)


@pytest.mark.parametrize("query", ["SELEC 1", "SELECT * FROM read_csv('/etc/passwd')"])
def test_bad_queries_get_one_sentence(library: Library, query: str) -> None:
    with pytest.raises(UserError) as error:
        library.asking.ask(query)
    assert "\n" not in str(error.value)
    assert str(error.value).endswith(".")
