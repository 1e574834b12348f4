"""The command line as a user meets it: a process, its exit code, its two streams, its files."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from engine import cli
from engine.workspace import Workspace
from tests.engine.tiny import tiny_folder

ROOT = Path(__file__).resolve().parents[2]
RUN = ["--prompt", "What is 2+3?", "--response", " 5"]


def process(home: Path, *argv: str | bytes, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "TOKENSCOPE_HOME": str(home), "HF_HUB_OFFLINE": "1"}
    env["PYTHONPATH"] = str(ROOT)
    return subprocess.run(
        [sys.executable, "-m", "engine", *argv],
        capture_output=True,
        text=True,
        env=env,
        cwd=cwd,
        timeout=120,
    )


@pytest.fixture
def here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Path:
    """Calls of ``main`` in this process use a store of their own."""
    monkeypatch.setenv("TOKENSCOPE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return tmp_path


def call(capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[int, str, str]:
    capsys.readouterr()  # building a tiny model talks too
    code = cli.main(argv)
    out, err = capsys.readouterr()
    return code, out, err


def test_statistics_twice_computed_then_cache(tmp_path: Path) -> None:
    model = str(tiny_folder("llama"))
    for origin in ("computed", "cache"):
        out = tmp_path / f"{origin}.parquet"
        done = process(
            tmp_path / "home", "run", "statistics", "--model", model, *RUN, "--out", str(out)
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout.strip() == f"{out}: 15 rows, {origin}"
        assert done.stderr == ""
    tables = [pq.read_table(tmp_path / f"{o}.parquet") for o in ("computed", "cache")]
    assert tables[0].equals(tables[1])


def test_beside_a_running_app(tmp_path: Path) -> None:
    """The app's process owns the store; the command line works, and each sees the other's work."""
    from engine.result import Request
    from engine.running import run
    from engine.subjects import Text

    model = str(tiny_folder("llama"))
    home = tmp_path / "home"
    with Workspace(home, role="owner") as app:
        out = tmp_path / "a.csv"
        done = process(home, "run", "statistics", "--model", model, *RUN, "--out", str(out))
        assert done.stdout.strip().endswith("computed"), done.stderr
        request = Request("statistics", Text(prompt="What is 2+3?", response=" 5"), model)
        assert run(request, workspace=app)[0].origin == "cache"
        other = Request("statistics", Text(prompt="x", response="y"), model)
        run(other, workspace=app)
        done = process(
            home, "run", "statistics", "--model", model, "--prompt", "x", "--response", "y",
            "--out", str(out),
        )  # fmt: skip
        assert done.stdout.strip().endswith("cache"), done.stderr


def test_generate_writes_what_rollouts_reads(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = str(tiny_folder("llama"))
    file, table = here / "r.jsonl", here / "t.json"
    argv = ["generate", "--model", model, "--prompt", "hi", "--n", "3", "--max-new-tokens", "5"]
    code, out, err = call(capsys, *argv, "--seed", "1", "--out", str(file))
    assert (code, out.strip(), err) == (0, f"{file}: 3 rollouts, computed", "")
    code, out, err = call(
        capsys, "run", "statistics", "--model", model, "--rollouts", str(file), "--out", str(table)
    )
    assert code == 0, err
    rows = json.loads(table.read_text())
    assert {row["rollout"] for row in rows} == {0, 1, 2}
    assert {row["ids_origin"] for row in rows} == {"generated"}


def test_models_and_analyses_as_json(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = call(capsys, "models", "--json")
    found = {entry["name"]: entry for entry in json.loads(out)}
    assert code == 0
    assert {"demo", "demo-positive", "demo-negative"} <= set(found)
    assert {"name", "path", "parameters", "available"} <= set(found["demo"])
    code, out, _ = call(capsys, "analyses", "--json")
    statistics = {entry["name"]: entry for entry in json.loads(out)}["statistics"]
    assert statistics["params"]["top_k"]["default"] == 20
    assert list(statistics["tables"]) == ["tokens", "alternatives"]
    assert call(capsys, "models")[0] == call(capsys, "analyses")[0] == 0


@pytest.mark.parametrize("compiled", [True, False])
def test_models_say_which_kernel_computes(
    here: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    compiled: bool,
) -> None:
    import tokenkernel
    from tokenkernel import build

    if compiled and not tokenkernel.HAVE:
        pytest.skip("tokenkernel was installed without a compiler")
    monkeypatch.setattr(build, "HAVE", compiled)
    monkeypatch.setattr(tokenkernel, "HAVE", compiled)
    code, out, _ = call(capsys, "models", "--json")
    kernels = [entry["kernel"] for entry in json.loads(out)]
    assert code == 0
    assert kernels
    for kernel in kernels:
        assert kernel["compiled"] is compiled
        assert (kernel["isa"] == "torch") is not compiled
        assert (kernel["isa"] in kernel["available"]) is compiled
    code, out, _ = call(capsys, "models")
    last = out.splitlines()[-1]
    assert (code, last) == (0, tokenkernel.about())
    assert (tokenkernel.isa() in last) if compiled else ("without a C++ compiler" in last)


def test_trace_files_and_tables(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trace = here / "t.json"
    trace.write_text(json.dumps({"prompt": "a", "response": "bc"}))
    out = here / "o.csv"
    argv = ["run", "statistics", "--model", str(tiny_folder("gpt2")), "--trace", str(trace)]
    code, _, err = call(
        capsys, *argv, "--set", "top_k=2", "--table", "alternatives", "--out", str(out)
    )
    assert code == 0, err
    assert len(out.read_text().splitlines()) == 1 + 2 * 3


def bad(here: Path) -> dict[str, tuple[list[str], str]]:
    model = str(tiny_folder("llama"))
    (here / "empty").mkdir()
    (here / "pickled").mkdir()
    shutil.copy(tiny_folder("llama") / "config.json", here / "pickled")
    (here / "pickled" / "pytorch_model.bin").write_bytes(b"\x80\x04.")
    (here / "broken.jsonl").write_text('{"schema": "tokenscope.rollout/1"}\n')
    out = ["--out", str(here / "o.csv")]
    base = ["run", "statistics", "--model", model]
    return {
        "no verb": ([], "required"),
        "unknown verb": (["dance"], "invalid choice"),
        "unknown analysis": (["run", "statistic", *RUN, *out], "did you mean statistics"),
        "no out": ([*base, *RUN], "--out"),
        "bad suffix": ([*base, *RUN, "--out", "x.pkl"], "must end in"),
        "no folder": ([*base, *RUN, "--out", str(here / "no" / "o.csv")], "does not exist"),
        "no subject": ([*base, *out], "no subject"),
        "two subjects": ([*base, *RUN, "--trace", "t", *out], "Give one subject"),
        "missing file": ([*base, "--trace", str(here / "no.json"), *out], "could not be opened"),
        "broken line": (
            [*base, "--rollouts", str(here / "broken.jsonl"), *out],
            "broken.jsonl, line 1: the field trace is missing",
        ),
        "unknown param": ([*base, *RUN, "--set", "k=1", *out], "no parameter 'k'"),
        "bad param": ([*base, *RUN, "--set", "top_k=x", *out], "top_k"),
        "no equals": ([*base, *RUN, "--set", "top_k", *out], "name=value"),
        "unknown table": ([*base, *RUN, "--table", "x", *out], "no table 'x'"),
        "empty text": ([*base, "--prompt", "", *out], "There is no text"),
        "too long": ([*base, "--prompt", "x" * 300, *out], "shorten it"),
        "huge": ([*base, "--prompt", "x" * 100_000, *out], "cannot hold it"),
        "surrogate": ([*base, "--prompt", "a\udc80", *out], "lone surrogate"),
        "no model": (["run", "statistics", "--model", "nonsense-x", *RUN, *out], "nonsense-x"),
        "empty folder": (
            ["run", "statistics", "--model", str(here / "empty"), *RUN, *out],
            "config.json",
        ),
        "pickle": (
            ["run", "statistics", "--model", str(here / "pickled"), *RUN, *out],
            "safetensors",
        ),
        "hub offline": (["run", "statistics", "--model", "org/name", *RUN, *out], "org/name"),
        "bad n": (["generate", "--prompt", "a", "--n", "0", "--out", "r.jsonl"], "n: "),
        "bad rollouts name": (["generate", "--prompt", "a", "--out", "r.csv"], ".jsonl"),
    }


@pytest.mark.parametrize(
    "case",
    [
        "no verb", "unknown verb", "unknown analysis", "no out", "bad suffix", "no folder",
        "no subject", "two subjects", "missing file", "broken line", "unknown param", "bad param",
        "no equals", "unknown table", "empty text", "too long", "huge", "surrogate", "no model",
        "empty folder", "pickle", "hub offline", "bad n", "bad rollouts name",
    ],
)  # fmt: skip
def test_bad_input_is_one_line_and_exit_2(
    here: Path, capsys: pytest.CaptureFixture[str], case: str
) -> None:
    argv, sentence = bad(here)[case]
    if case == "bad n":
        argv = [*argv, "--model", str(tiny_folder("llama"))]
    before = sorted(p.name for p in here.iterdir())
    code, out, err = call(capsys, *argv)
    assert code == 2
    assert out == ""
    assert sentence in err
    assert err.count("\n") == 1
    assert "Traceback" not in err
    assert [n for n in sorted(p.name for p in here.iterdir()) if n not in (*before, "home")] == []


def test_a_result_that_cannot_be_stored_is_written_and_said_in_one_line(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from cache import Store, StoreError

    def full(*args: object, **kwargs: object) -> None:
        raise StoreError("The disk is full.")

    monkeypatch.setattr(Store, "put", full)
    out = here / "o.csv"
    argv = ["run", "statistics", "--model", str(tiny_folder("llama")), *RUN, "--out", str(out)]
    code, said, err = call(capsys, *argv)
    assert (code, said.strip()) == (0, f"{out}: 15 rows, computed")
    assert err == "tokenscope: the result was not stored: The disk is full.\n"
    assert out.is_file()


def test_undecodable_bytes_on_the_command_line(tmp_path: Path) -> None:
    model = str(tiny_folder("llama"))
    argv = ["run", "statistics", "--model", model, "--prompt", b"a\xff", "--out", "o.csv"]
    done = process(tmp_path, *argv)
    assert done.returncode == 2
    assert "lone surrogate" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_fault_of_ours_is_one_line_too(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(options: object) -> None:
        raise RuntimeError("first\nsecond")

    monkeypatch.setattr(cli, "_do_models", broken)
    code, _, err = call(capsys, "models")
    assert code == 1
    assert "RuntimeError: first second" in err
    assert err.count("\n") == 1
