"""The panel of the selected token where a log gave no ids, and what can be forced."""

from __future__ import annotations

import pyarrow as pa

from engine.render.details import details
from engine.render.signals import signals_of

HOSTILE = b"</script><img src=x onerror=alert(1)>"


def tables(ids: tuple[int, ...], other_ids: tuple[int | None, ...]) -> dict[str, pa.Table]:
    tokens = pa.table(
        {
            "position": [0, 1],
            "token_id": pa.array(ids, pa.int64()),
            "token": ["Q", "a"],
            "token_bytes": pa.array([b"Q", b"a"], pa.binary()),
            "special": [False, False],
            "role": ["text", "text"],
            "segment": ["prompt", "response"],
            "logprob": pa.array([None, -1.5], pa.float32()),
            "surprisal": pa.array([None, 1.5], pa.float32()),
            "rank": pa.array([None, 2], pa.int64()),
        }
    )
    alternatives = pa.table(
        {
            "position": [1, 1],
            "alternative_rank": [1, 2],
            "alternative_id": pa.array(other_ids, pa.int64()),
            "alternative_bytes": pa.array([HOSTILE, b"a"], pa.binary()),
            "logprob": pa.array([-0.5, -1.5], pa.float32()),
        }
    )
    return {"tokens": tokens, "alternatives": alternatives}


def panel(ids: tuple[int, ...], other_ids: tuple[int | None, ...], at: int = 1, **more: bool):
    made = tables(ids, other_ids)
    return details(made, at, at, signals_of(made["tokens"]), **more)


def test_an_alternative_names_what_forcing_it_needs():
    shown = panel((7, 8), (9, 8), force=True)
    assert (shown["force"], shown["position"]) == (True, 1)
    assert [(a["id"], a["said"]) for a in shown["alternatives"]] == [(9, False), (8, True)]
    assert panel((7, 8), (9, 8))["force"] is False


def test_without_ids_the_bytes_tell_which_one_was_said():
    for ids in ((None, None), (-1, -1)):
        shown = panel((-1, -1), ids)
        assert [a["said"] for a in shown["alternatives"]] == [False, True]
        assert [a["id"] for a in shown["alternatives"]] == [None, None]
        assert "token id" not in {f["label"] for f in shown["more"]}


def test_a_stretch_forces_nothing():
    made = tables((7, 8), (9, 8))
    shown = details(made, 0, 1, signals_of(made["tokens"]), force=True)
    assert shown["force"] is False
    assert shown["alternatives"] == []
