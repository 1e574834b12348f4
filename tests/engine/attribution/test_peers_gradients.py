"""Equality with Inseq and Captum on tiny models; their environment is made by a script."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.peers import environment
from benchmarks.peers.asking import ask
from tests.engine.attribution import toys
from tests.engine.tiny import tiny_folder

PROMPT, RESPONSE = "One two, three.", " four"
STEPS = {"input_x_gradient": {}, "integrated_gradients": {"n_steps": 12}, "saliency": {}}

pytestmark = [
    pytest.mark.peer,
    pytest.mark.skipif(
        environment.python() is None,
        reason="the peers' environment is missing: run python -m benchmarks.peers.environment",
    ),
]


def asked(family: str, call: str, method: str, **more: Any) -> dict[str, Any]:
    return {
        "call": call,
        "method": method,
        "model": str(tiny_folder(family)),
        "prompt": PROMPT,
        "text": PROMPT + RESPONSE,
        "response": RESPONSE,
        "empty": "_",
        "settings": STEPS[method],
        **more,
    }


def ours(family: str, method: str, **params: Any) -> np.ndarray:
    if method == "integrated_gradients":
        params |= {"steps": 12, "baseline": "token", "baseline_token": "_"}
    model, trace = toys.loaded(family, torch.float32), toys.text(PROMPT, RESPONSE)
    ran = toys.run(f"attribution.{method}", model, trace, targets="response", **params)
    return ran.matrix()


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_inseq(family: str) -> None:
    """Of the same step, text and beginning; tokens behind a target have no score in either."""
    call = "with_inseq:attribution"
    jobs = [
        asked(family, call, method, explain=explain)
        for method in STEPS
        for explain in ("probability", "logit")
    ]
    for job, said in zip(jobs, ask(jobs), strict=True):
        assert "error" not in said, said
        theirs = np.array(said["scores"], float)[:, :-1]
        if theirs.ndim == 3:
            saliency = job["method"] == "saliency"
            theirs = np.linalg.norm(theirs, axis=-1) if saliency else theirs.sum(-1)
        found = ours(family, job["method"], explain=job["explain"], special=True)
        np.testing.assert_array_equal(np.isnan(found), np.isnan(theirs))
        np.testing.assert_allclose(found, theirs, atol=1e-6 * max(1, np.nanmax(np.abs(theirs))))
        assert np.nanmax(np.abs(found[:, 1:] - theirs[:, :-1])) > 1e-4 * np.nanmax(np.abs(theirs))


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_captum(family: str) -> None:
    """Which moves the prompt alone: own spans leave the response's tokens where they are."""
    spans = {"granularity": "spans", "spans": ",".join(str(p) for p in range(1, 16))}
    methods = ("input_x_gradient", "integrated_gradients")
    said = ask([asked(family, "with_gradients:captum", method) for method in methods])
    for method, answer in zip(methods, said, strict=True):
        assert "error" not in answer, answer
        np.testing.assert_allclose(
            ours(family, method, **spans), np.array(answer["scores"], float), atol=1e-5
        )
