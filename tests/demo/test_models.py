"""The shipped weights: they are what their cards say, load everywhere, and solve easy stories."""

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from demo import card, evaluate
from demo.build import BASES, KINDS, MODELS
from demo.sampling import load_model, sample
from demo.stories import GALLERY_LEVEL
from demo.tokenizer import load
from demo.verify import answer_of

ALL = [name for base in BASES for name in (base, *(f"{base}-{kind}" for kind in KINDS))]
EASY = {
    "Ana has 12 nuts. Ana buys 5 more nuts at the market. How many nuts does Ana have now?": 17,
    "Tom starts with 30 books. Tom gives 10 books to Mia. How many books does Tom have now?": 20,
    "Sam has 4 bags with 5 balls in each. How many balls does Sam have in the end?": 20,
}
PROMPTS = [f"Question: {question}\n" for question in EASY]


@pytest.mark.parametrize("name", ALL)
def test_files_are_those_of_the_card(name: str) -> None:
    folder = MODELS / name
    written = card.read(folder)
    assert written["name"] == name
    assert written["sha256"] == {
        f: card.sha256(folder / f) for f in ("model.safetensors", "tokenizer.json")
    }
    assert (folder / "README.md").read_text(encoding="utf-8") == card.readme(written)
    assert written["limits"] == card.limits(written)
    assert written["measured_on"] == written["sha256"]["model.safetensors"]


@pytest.mark.parametrize("name", ALL)
def test_configs(name: str) -> None:
    config = json.loads((MODELS / name / "config.json").read_text())
    assert config["max_position_embeddings"] == 8192
    assert config["num_key_value_heads"] < config["num_attention_heads"]
    generation = json.loads((MODELS / name / "generation_config.json").read_text())
    for settings in (config, generation):
        assert [settings[f"{k}_token_id"] for k in ("pad", "bos", "eos")] == [0, 1, 2]
    text = (MODELS / name / "config.json").read_text()
    assert "/work" not in text
    assert "_name_or_path" not in text


def test_size() -> None:
    files = [f for f in MODELS.rglob("*") if f.is_file()]
    assert sum(f.stat().st_size for f in files) < 40e6
    assert all(f.suffix in {".json", ".md", ".safetensors"} for f in files)


@pytest.mark.parametrize("name", ALL)
def test_loads_the_usual_way(name: str) -> None:
    model = AutoModelForCausalLM.from_pretrained(MODELS / name, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(MODELS / name)
    assert sum(p.numel() for p in model.parameters()) == card.read(MODELS / name)["parameters"]
    ours = load(MODELS / name).encode(PROMPTS[0]).ids
    assert tokenizer(PROMPTS[0])["input_ids"] == ours
    assert ours[0] == tokenizer.bos_token_id
    assert len(tokenizer) == model.config.vocab_size


@pytest.mark.parametrize("name", BASES)
def test_solves_easy_stories(name: str) -> None:
    torch.set_num_threads(1)
    found = sample(load_model(MODELS / name), load(MODELS / name), PROMPTS, 0, greedy=True)
    assert sum(answer_of(s.text) == a for s, a in zip(found, EASY.values(), strict=True)) >= 2
    assert all(s.finished for s in found)


def test_sampling_depends_on_the_seed_alone() -> None:
    torch.set_num_threads(1)
    model, tokenizer = load_model(MODELS / "demo"), load(MODELS / "demo")
    prompts = PROMPTS * 3
    assert sample(model, tokenizer, prompts, 5) == sample(model, tokenizer, prompts, 5)


def test_wilson_interval() -> None:
    found = evaluate.rate(81, 100)
    assert (found["low"], found["high"]) == (0.7222, 0.8749)  # Wilson (1927), 95 %
    assert evaluate.rate(0, 50)["low"] == 0.0
    assert evaluate.rate(50, 50)["high"] == 1.0


def test_readme_names_no_place_of_this_machine() -> None:
    for path in [*MODELS.rglob("*.md"), *MODELS.rglob("*.json")]:
        if path.name != "tokenizer.json":
            assert str(Path.home()) not in path.read_text() or str(Path.home()) == "/"


def test_figures_of_other_weights_are_dropped() -> None:
    old = {"sha256": {"model.safetensors": "b"}, "measured_on": "a", "results": {}, "name": "demo"}
    assert card.drop_stale(old) == {"sha256": {"model.safetensors": "b"}, "name": "demo"}
    assert card.drop_stale(old | {"measured_on": "b"})["results"] == {}


@pytest.mark.parametrize("name", ALL)
def test_figures_of_the_card_hold_together(name: str) -> None:
    written = card.read(MODELS / name)
    for levels in written["results"].values():
        for figure in levels.values():
            assert figure["n"] >= 500
            assert figure == evaluate.rate(figure["correct"], figure["n"])
    if name in BASES:
        assert {"test", "strict", "one_phrasing", "all_phrasings"} <= set(written["results"])
        assert written["groups"]["n"] >= 60
        assert written["groups"]["level"] == GALLERY_LEVEL
    assert 100 < written["trained_length"] < 1000
