"""The same numbers as Inseq, Captum and interpreto, in an environment of their own.

Run with ``-m peer`` after ``python -m benchmarks.peers.environment``.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch

from benchmarks.peers import environment
from benchmarks.peers.asking import ask
from tests.engine.attribution import toys
from tests.engine.tiny import tiny_folder

pytestmark = [
    pytest.mark.peer,
    pytest.mark.skipif(environment.python() is None, reason="the peers' environment is not made"),
]

PROMPT, RESPONSE = "Ann has 12 red pens", " She"
OURS = {"targets": "response", "removal": "replace", "replacement": "_"}


def peer(call: str, prompt: str = PROMPT, family: str = "llama", **more) -> np.ndarray:
    """A peer's scores [targets, tokens]."""
    job = {
        "call": call,
        "model": str(tiny_folder(family)),
        "prompt": prompt,
        "response": RESPONSE,
        "text": prompt + RESPONSE,
        "empty": "_",
        **more,
    }
    (answer,) = ask([job])
    assert "error" not in answer, answer["error"]
    return np.array([[np.nan if v is None else v for v in r] for r in answer["scores"]], float)


def own(method: str, prompt: str = PROMPT, family: str = "llama", **params) -> np.ndarray:
    """Our scores [targets, sources]."""
    model = toys.loaded(family, torch.float32)
    return toys.run(
        f"attribution.{method}", model, toys.text(prompt, RESPONSE), **OURS, **params
    ).matrix()


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_inseq_occlusion(family: str) -> None:
    """But for the sign, which Inseq drops; BOS is a source there."""
    theirs = peer("with_inseq:occlusion", family=family, explain="logit")
    found = own("occlusion", family=family, explain="logit", special=True)
    count = found.shape[1]
    np.testing.assert_allclose(np.abs(found), theirs[:, :count], atol=1e-4)
    assert (found[np.isfinite(found)] < 0).any()


def test_captum_occlusion() -> None:
    """With keys kept Captum scores later targets wrongly on transformers 5: compare without."""
    theirs = peer("with_captum:perturbation", method="occlusion", cached=False)
    found = own("occlusion")[:, : theirs.shape[1]]
    np.testing.assert_allclose(found, theirs, atol=1e-4)


def test_interpreto_occlusion() -> None:
    theirs = peer("with_interpreto:perturbation", method="Occlusion")
    found = own("occlusion", special=True)
    prompt = len(PROMPT) + 1
    np.testing.assert_allclose(found[:, :prompt], theirs[:, :prompt], atol=1e-4)


def test_captum_shapley() -> None:
    """Exact ones by all orders there, by all subsets here; draws come near them."""
    theirs = peer("with_captum:perturbation", "So it", method="shapley", cached=False)
    exact = own("shapley_sampling", "So it", permutations=200)
    np.testing.assert_allclose(exact[0, :5], theirs[0], atol=1e-4)
    kernel = own("kernel_shap", "So it")
    np.testing.assert_allclose(kernel, exact, atol=1e-4)
    drawn = peer(
        "with_captum:perturbation",
        "So it",
        method="shapley_sampling",
        cached=False,
        settings={"n_samples": 60},
    )
    assert np.abs(drawn[0] - exact[0, :5]).max() < 0.6 * np.abs(exact[0, :5]).max()
