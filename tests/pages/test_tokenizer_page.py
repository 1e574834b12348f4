"""The Tokenizer page without a browser: what it says, asks, refuses and offers."""

from __future__ import annotations

from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

import engine
from engine import Request, Text, UserError
from engine.catalogue import BUNDLED_FOLDER
from engine.subjects import Corpus
from engine.tokenizer import reference, uploads
from pages.widgets import tokenizerbytes
from pages.widgets.tokenizerbytes import REPAIRS
from tests.pages.cold import Cold
from tests.pages.navigation import open_page
from tests.pages.test_tokens_page import idle, texts, until

DEMO = BUNDLED_FOLDER / "demo"


def test_it_opens_without_torch(cold: Cold) -> None:
    seen = cold["tokenizer"]
    assert seen["title"] == ["What does the tokenizer do to this text?"]
    assert (seen["torch"], seen["transformers"], seen["exceptions"]) == (False, False, 0)
    assert any("bytes in" in t and "tokens" in t for t in seen["text"])
    assert any("evidence" in columns for columns in seen["tables"])
    # Each tab opens on a stored result (its ids on one quickly made): nothing waits for a click.
    for said in ("token sequences spell it", "They are canonical.", "ids that cannot occur",
                 "The boundary misplaces", "Small tasks about letters"):  # fmt: skip
        assert any(said in t for t in seen["text"]), said
    for asked in ("Count its spellings", "Look at them", "Audit the vocabulary",
                  "Whose letters are they?", "What comes next?", "Run the tasks"):  # fmt: skip
        assert asked not in seen["buttons"], asked


@pytest.fixture
def app(app_home: Path) -> AppTest:
    opened = open_page("tokenizer")
    opened.session_state["tokenscope.drawn"] = True
    return healthy(until(opened.run(), idle))


def healthy(app: AppTest) -> AppTest:
    assert not app.exception
    assert "wrong inside" not in " ".join(texts(app))
    return app


def test_the_numbers_are_those_of_the_analysis(app: AppTest) -> None:
    text = "naïve e\u0301 1234567"
    app.text_area(key="tokenizer-text").set_value(text).run()
    until(app, idle)
    (result,) = engine.run(Request("tokenizer.text", Text(prompt=text), "demo"))
    tokens = result.table("tokens")
    size = len(text.encode())
    assert any(f"{size:,} bytes in {tokens.num_rows:,} tokens" in t for t in texts(healthy(app)))
    shown = next(d.value for d in app.dataframe if "evidence" in d.value.columns)
    assert sorted(shown["evidence"]) == sorted(result.table("findings")["evidence"].to_pylist())


def test_one_byte_is_one_token(app: AppTest) -> None:
    app.text_area(key="tokenizer-text").set_value("a").run()
    assert any("1 byte in 1 token, 1.00 each" in t for t in texts(healthy(until(app, idle))))


def test_spellings_and_ids(app: AppTest) -> None:
    app.text_input(key="tokenizer-string").set_value("cat").run()
    app.button(key="go-tokenizer.spellings").click().run()
    until(app, idle)
    (result,) = engine.run(Request("tokenizer.spellings", Text(prompt="cat"), "demo"))
    number = result.table("spellings")["spellings"][0].as_py()
    assert any(t.startswith(f"{number} token sequences spell it") for t in texts(healthy(app)))
    app.session_state["tokenizer-tabs"] = "Ids"
    app.run()
    app.text_area(key="tokenizer-ids").set_value("20, x").run()
    assert any("x is no id: give whole numbers" in t for t in texts(healthy(app)))
    app.text_area(key="tokenizer-ids").set_value("99999999").run()
    until(app, idle)
    assert any("99999999" in t.replace(",", "") and t.endswith(".") for t in texts(healthy(app)))


def test_the_next_bytes_that_are_drawn(app_home: Path) -> None:
    """Whatever one of the four ways of asking finds probable, by the exact probability."""
    text = engine.gallery()[0].trace.spelled.decode()[:200]
    request = Request("tokenizer.next_byte", Text(prompt=text), "demo")
    found = engine.default_workspace().lookup(request)
    assert found is not None
    rows = tokenizerbytes.outcomes(found)
    assert [row["label"] for row in rows][:3] == ["y", "n", "space"]
    assert rows[0]["alignment"] > 0.99 > 0.01 > rows[0]["token_view"]
    exact = [row["probability"] for row in rows]
    assert exact == sorted(exact, reverse=True)
    likely = {row["token"] for row in found.table("bytes").to_pylist() if row["token_view"] > 0.01}
    assert likely <= {row["token"] for row in rows}
    assert all(max(r[n] for n in ("probability", "token_view", *REPAIRS)) > 4e-4 for r in rows)


def test_another_tokenizer_beside_it(app: AppTest) -> None:
    beside = app.multiselect(key="tokenizer-others")
    assert "demo" not in beside.options, "it is the one that is looked at"
    assert "demo-multidigit" in beside.options
    app.multiselect(key="tokenizer-others").set_value(["model:demo-multidigit"]).run()
    until(app, idle)
    trace = engine.gallery()[0].trace
    subject = Text(prompt=trace.spelled.decode(), tokenizer=reference(DEMO / "tokenizer.json"))
    others = (reference(DEMO.parent / "demo-multidigit" / "tokenizer.json"),)
    request = Request("tokenizer.compare", subject, None, {"others": others})
    spans = engine.run(request)[0].table("spans")
    assert spans.num_rows > 0
    assert f"They cut {spans.num_rows} stretches differently:" in texts(healthy(app))
    assert any(
        list(d.value["at byte"]) == spans["start_byte"].to_pylist()
        for d in app.dataframe
        if "at byte" in d.value.columns and "the other" in d.value.columns
    )


def test_a_dropped_file_is_kept_or_refused_in_one_sentence(app_home: Path) -> None:
    home = engine.default_workspace().home
    with pytest.raises(UserError) as caught:
        uploads.keep(b"{}", "my<b>.json", home)
    assert str(caught.value).endswith(".")
    assert not (home / "tokenizers").exists() or not list((home / "tokenizers").iterdir())
    data = (DEMO / "tokenizer.json").read_bytes()
    kept = uploads.keep(data, "../../x.json", home)
    assert kept.tokenizer == reference(DEMO / "tokenizer.json").tokenizer
    assert Path(kept.path).parent == home / "tokenizers"
    assert uploads.keep(data, "other.json", home).path == kept.path
    (result,) = engine.run(Request("tokenizer.text", Text(prompt="a 12", tokenizer=kept)))
    assert result.table("tokens").num_rows > 1


def test_the_shown_ids_and_a_phantom_edit(app: AppTest) -> None:
    app.session_state["tokenizer-tabs"] = "Ids"
    app.run()
    assert "They are canonical." in texts(healthy(app))
    first = engine.gallery()[0].trace.ids[3]
    app.text_area(key="tokenizer-ids").set_value(f"{first}").run()
    app.text_area(key="tokenizer-ids-other").set_value(f"{first}").run()
    until(app, idle)
    assert "They are the same." in texts(healthy(app))


def corpus_tab(app: AppTest) -> AppTest:
    app.session_state["tokenizer-tabs"] = "My corpus"
    return until(app.run(), idle)


def test_a_corpus_of_mine(app: AppTest) -> None:
    """Counted, compared by what it costs there, and what new tokens would save."""
    app.multiselect(key="tokenizer-others").set_value(["model:demo-multidigit"])
    corpus_tab(app)
    lines = ["12 stickers and 31 stickers", "the 64 boxes", "12 12 12"]
    data = "\n".join(lines).encode()
    app.file_uploader(key="tokenizer-corpus").set_value(("mine.txt", data, "text/plain"))
    app.text_input(key="tokenizer-add").set_value("12, stick").run()
    healthy(until(app, idle))
    whose = reference(DEMO / "tokenizer.json")
    subject = Corpus(documents=tuple(lines))
    params = {"tokenizer": whose, "add": ("12", " stick")}
    counted = engine.run(Request("tokenizer.corpus", subject, None, params))[0]
    shown = {tuple(d.value.columns): d.value for d in app.dataframe}
    summary = next(v for columns, v in shown.items() if "measure" in columns)
    wanted = {r["measure"]: r["value"] for r in counted.table("summary").to_pylist()}
    assert dict(zip(summary["measure"], summary["value"], strict=True)) == wanted
    assert wanted["documents"] == 3
    other = reference(DEMO.parent / "demo-multidigit" / "tokenizer.json")
    params = {"tokenizer": whose, "others": (other,)}
    impact = engine.run(Request("tokenizer.compare", subject, None, params))[0].table("impact")
    assert impact.num_rows > 0
    assert any("largest impact" in t for t in texts(app))
    app.file_uploader(key="tokenizer-corpus").set_value(("x.jsonl", b'{"txt": 1}\n', ""))
    app.run()
    healthy(until(app, idle))
    assert 'x.jsonl, line 1: an object with "text" is expected.' in texts(app)


def test_parallel_sentences(app: AppTest) -> None:
    corpus_tab(app)
    app.text_area(key="tokenizer-language-a").set_value("the cat sat\nthe box")
    app.text_area(key="tokenizer-language-b").set_value("die Katze").run()
    assert any("There are 2 and 1 lines" in t for t in texts(healthy(app)))
    app.text_area(key="tokenizer-language-b").set_value("die Katze saß\ndie Kiste").run()
    healthy(until(app, idle))
    assert any("premium" in d.value.columns for d in app.dataframe)


def test_a_dropped_tokenizer(app: AppTest) -> None:
    app.selectbox(key="tokenizer-which").set_value("file").run()
    data = (DEMO.parent / "demo-multidigit" / "tokenizer.json").read_bytes()
    app.file_uploader(key="tokenizer-file").set_value(("mine.json", data, "")).run()
    healthy(until(app, idle))
    text = engine.gallery()[0].trace.spelled.decode()
    ref = reference(DEMO.parent / "demo-multidigit" / "tokenizer.json")
    (result,) = engine.run(Request("tokenizer.text", Text(prompt=text, tokenizer=ref)))
    tokens = result.table("tokens").num_rows
    assert any(f"bytes in {tokens} tokens" in t for t in texts(app))
    app.file_uploader(key="tokenizer-file").set_value(("bad.json", b"{", "")).run()
    assert any("is not valid JSON" in t for t in texts(healthy(app)))
