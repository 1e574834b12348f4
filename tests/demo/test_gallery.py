"""The gallery: every page opens on results that are there, without torch, and they are right."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from demo.verify import answer_of
from engine import Request, gallery, run
from engine.workspace import Workspace

CODE = """
import sys
from engine import Request, Workspace, gallery
with Workspace(sys.argv[1], role="client") as workspace:
    for item in gallery():
        found = workspace.lookup(Request("statistics", item.trace, item.model))
        assert found is not None, f"{item.name} is not stored: run make gallery"
        assert found.table("tokens").num_rows == len(item.trace), item.name
print(len(gallery()), "torch" in sys.modules, "transformers" in sys.modules)
"""


def test_all_results_are_stored_and_need_no_torch(tmp_path: Path) -> None:
    argv = [sys.executable, "-c", CODE, str(tmp_path / "home")]
    done = subprocess.run(argv, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    count, torch, transformers = done.stdout.split()
    assert int(count) >= 6
    assert (torch, transformers) == ("False", "False")


def test_it_opens_on_a_solved_story_and_names_right_and_wrong_ones() -> None:
    items = {item.name: item for item in gallery()}
    assert next(iter(items)) == "solved"
    for name, item in items.items():
        if item.expected is None:
            continue
        said = answer_of(item.trace.response_text)
        assert (str(said) == item.expected) == name.startswith("solved"), name
        answer = item.trace.spans["answer"]
        assert b"".join(item.trace.pieces[answer.start : answer.end]).decode() == str(said)
        assert item.trace.title == item.title


@pytest.mark.parametrize("name", ["solved", "wrong-multidigit", "unicode"])
def test_stored_numbers_are_what_the_model_says_now(tmp_path: Path, name: str) -> None:
    item = next(item for item in gallery() if item.name == name)
    with Workspace(tmp_path / "home") as workspace:
        stored = workspace.lookup(Request("statistics", item.trace, item.model))
        # Other params, so another key: it is computed here.
        fresh = run(
            Request("statistics", item.trace, item.model, {"top_k": 19}), workspace=workspace
        )[0]
    assert stored is not None
    assert (stored.origin, fresh.origin) == ("cache", "computed")
    for column in ("logprob", "entropy", "varentropy", "max_prob", "self_certainty"):
        a = stored.table("tokens")[column].to_pylist()[1:]
        b = fresh.table("tokens")[column].to_pylist()[1:]
        np.testing.assert_allclose(a, b, atol=2e-4, rtol=1e-3, err_msg=column)
