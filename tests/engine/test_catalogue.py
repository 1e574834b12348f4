"""Finding models: every refusal is one sentence, and nothing heavy is imported."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine import catalogue
from engine.catalogue import BUNDLED, Profile, fingerprint, locate, siblings
from engine.errors import UserError
from engine.modelref import ModelRef, shown
from tests.engine.tiny import tiny_folder

LOCAL = Profile()
HOSTED = Profile("hosted", tuple(BUNDLED), 4_000_000_000, False, False)


class Notebook:
    """A memo in memory that counts what it was asked."""

    def __init__(self) -> None:
        self.held: dict[str, dict[str, Any]] = {}
        self.writes = 0

    def recall(self, name: str) -> dict[str, Any]:
        return self.held.get(name, {})

    def remember(self, name: str, mapping: Any) -> None:
        self.writes += 1
        self.held.setdefault(name, {}).update(mapping)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_folder("llama"), tmp_path / "copy"))


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))


def refusal(source: str | ModelRef, profile: Profile = LOCAL) -> str:
    with pytest.raises(UserError) as caught:
        locate(source if isinstance(source, ModelRef) else ModelRef.parse(source), profile)
    text = str(caught.value)
    assert "\n" not in text
    assert text.endswith((".", "?"))
    return text


def edit_config(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    config = json.loads(path.read_text())
    config.update(changes)
    path.write_text(json.dumps({k: v for k, v in config.items() if v is not None}))


def test_locates_a_folder(folder: Path) -> None:
    found = locate(ModelRef.parse(str(folder)), LOCAL)
    assert (found.name, found.kind, found.device, found.dtype) == (
        "copy",
        "folder",
        "cpu",
        "float32",
    )
    assert found.parameters == 39_840
    assert found.context == 256
    assert found.weight_files == (folder / "model.safetensors",)
    assert found.tokenizer_path == folder / "tokenizer.json"


def test_imports_neither_torch_nor_transformers(folder: Path) -> None:
    code = (
        "import sys; from engine.catalogue import *; from engine.modelref import ModelRef\n"
        f"p = Profile(); fingerprint(locate(ModelRef.parse({str(folder)!r}), p)); models(p)\n"
        "assert not {'torch', 'transformers'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env=os.environ | {"PYTHONPATH": "."})


def test_sharded_weights_and_a_missing_shard(folder: Path) -> None:
    shards = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
    for name in shards:
        shutil.copy(folder / "model.safetensors", folder / name)
    (folder / "model.safetensors").unlink()
    index = {"weight_map": {"a": shards[1], "b": shards[0]}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    found = locate(ModelRef.parse(str(folder)), LOCAL)
    assert tuple(path.name for path in found.weight_files) == shards
    (folder / shards[1]).unlink()
    assert shards[1] in refusal(str(folder))
    index = {"weight_map": {"a": "../secret.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert "no safetensors file beside it" in refusal(str(folder))


def test_unknown_names() -> None:
    assert "did you mean demo" in refusal("dmeo")
    assert "offline" in refusal("some-owner/some-model")
    assert "offline" in refusal("some-owner/some-model@v1")
    assert "There is no folder ./nothing" in refusal("./nothing")
    assert "no revision" in refusal(f"{tiny_folder('llama')}@v1")
    texts = {"control characters": "a\0b", "longer than": "a" * 5000, "No model is named": "  "}
    for reason, text in texts.items():
        with pytest.raises(UserError, match=reason):
            ModelRef.parse(text)


def test_what_is_no_usable_model(folder: Path) -> None:
    text = refusal(str(folder.parent))
    assert "holds no model" in text
    weights = folder / "model.safetensors"
    data = weights.read_bytes()
    weights.write_bytes(data[:-100])
    assert "copy it again" in refusal(str(folder))
    for broken in (b"", b"PK\x03\x04", b"\xff" * 64, (2**40).to_bytes(8, "little") + b"{}"):
        weights.write_bytes(broken)
        assert "damaged or not a safetensors file" in refusal(str(folder))
    weights.unlink()
    assert "add the weights" in refusal(str(folder))
    (folder / "pytorch_model.bin").write_bytes(b"")
    assert "save_pretrained" in refusal(str(folder))
    weights.write_bytes(data)
    (folder / "tokenizer.json").unlink()
    assert "tokenizer.json" in refusal(str(folder))
    (folder / "config.json").write_text("{nonsense")
    assert "not valid JSON" in refusal(str(folder))


def test_wrong_kinds_of_models(folder: Path) -> None:
    edit_config(folder, architectures=["BertForMaskedLM"], model_type="bert")
    assert "no causal language model (BertForMaskedLM)" in refusal(str(folder))
    edit_config(folder, architectures=["T5ForConditionalGeneration"], model_type="t5")
    assert "no causal language model" in refusal(str(folder))
    edit_config(folder, architectures=["XForCausalLM"], model_type="my_own")
    assert "unknown to the installed transformers" in refusal(str(folder))
    edit_config(folder, auto_map={"AutoModelForCausalLM": "x.X"})
    assert "never run here" in refusal(str(folder))
    edit_config(folder, model_type=None)
    assert "no model_type" in refusal(str(folder))
    edit_config(folder, model_type="llama", architectures=None, quantization_config={"bits": 4})
    assert "quantised" in refusal(str(folder))


def test_parameter_cap(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = refusal(str(folder), replace(LOCAL, max_parameters=1000))
    assert "39,840 parameters" in text
    assert "1,000" in text
    monkeypatch.setenv("TOKENSCOPE_MAX_PARAMETERS", "1e3")
    assert Profile.from_env().max_parameters == 1000
    monkeypatch.setenv("TOKENSCOPE_MAX_PARAMETERS", "many")
    with pytest.raises(UserError, match="set it to a number"):
        Profile.from_env()


def test_profiles(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKENSCOPE_PROFILE", "hosted")
    monkeypatch.setenv("TOKENSCOPE_MODELS", "org/name@0123abc")
    hosted = Profile.from_env()
    assert hosted.allowed == (*BUNDLED, "org/name@0123abc")
    assert not hosted.allow_hub
    assert not hosted.allow_folders
    assert "offline" in refusal("org/name@0123abc", hosted)
    monkeypatch.setenv("TOKENSCOPE_PROFILE", "somewhere")
    with pytest.raises(UserError, match="local or hosted"):
        Profile.from_env()


@pytest.mark.parametrize(
    "source",
    ["/etc", "..", "demo/../../x", "./demo", "~/x", "org/name", "demo@main", "demo+/etc", "C:\\x"],
)
def test_hosted_looks_at_nothing_but_its_list(source: str) -> None:
    assert "not offered here: choose one of demo" in refusal(source, HOSTED)


def test_paths_are_refused_without_folders() -> None:
    closed = Profile("hosted", None, 10**9, False, False)
    for source in ("/etc", "../x", "a/b/c", "~/x"):
        assert "Folders cannot be named here" in refusal(source, closed)
    assert "cannot be fetched here" in refusal("org/name", closed)


def test_adapter_without_a_base(tmp_path: Path) -> None:
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text("{}")
    assert "does not say which model" in refusal(str(adapter))
    (adapter / "adapter_config.json").write_text('{"base_model_name_or_path": "org/gone"}')
    assert "base org/gone" in refusal(str(adapter))
    assert "no PEFT adapter" in refusal(f"{tiny_folder('llama')}+{tiny_folder('gpt2')}")
    assert "adapter_model.safetensors" in refusal(f"{tiny_folder('llama')}+{adapter}")


def test_a_model_in_the_hub_cache(tmp_path: Path) -> None:
    root = tmp_path / "hub" / "models--org--tiny"
    shutil.copytree(tiny_folder("gpt2"), root / "snapshots" / "abc")
    (root / "refs").mkdir()
    (root / "refs" / "main").write_text("abc")
    found = locate(ModelRef.parse("org/tiny"), LOCAL)
    assert (found.kind, found.name, found.parameters) == ("hub", "org/tiny", 54_656)
    listed = {info.name: info for info in catalogue.models(LOCAL)}
    assert listed["org/tiny"].available
    assert "org/tiny" not in {info.name for info in catalogue.models(HOSTED)}


class Answer:
    """What the hub says about a model."""

    sha = "abc"

    def __init__(self, total: int | None, files: dict[str, int]) -> None:
        self.siblings = [SimpleNamespace(rfilename=n, size=s) for n, s in files.items()]
        self.safetensors = None if total is None else SimpleNamespace(total=total)


def test_the_hub_is_asked_for_the_size_first(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import huggingface_hub

    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    fetched: list[list[str]] = []
    answers: list[Any] = []
    real = huggingface_hub.snapshot_download

    def model_info(self: Any, repository: str, **options: Any) -> Any:
        if isinstance(answers[0], Exception):
            raise answers[0]
        return answers[0]

    def download(repository: str, **options: Any) -> str:
        if options.get("local_files_only"):
            return real(repository, **options)
        fetched.append(sorted(options["allow_patterns"]))
        assert options["revision"] == "abc"
        return str(tiny_folder("gpt2"))

    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", model_info)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    files = {
        "config.json": 1,
        "tokenizer.json": 1,
        "model.safetensors": 4000,
        "pytorch_model.bin": 4000,
        "modeling_own.py": 1,
        "onnx/model.safetensors": 1,
    }
    small = replace(LOCAL, max_parameters=100_000)
    answers[:] = [Answer(200_000, files)]
    assert "200,000 parameters" in refusal("org/large", small)
    answers[:] = [Answer(None, files | {"model.safetensors": 800_000})]
    assert "200,000 parameters" in refusal("org/large", small)
    answers[:] = [Answer(None, {"pytorch_model.bin": 1})]
    assert "no safetensors weights" in refusal("org/pickled", small)
    answers[:] = [TimeoutError()]
    assert "does not answer" in refusal("org/slow", small)
    assert fetched == []
    answers[:] = [Answer(54_656, files)]
    assert locate(ModelRef.parse("org/tiny"), small).kind == "hub"
    assert fetched == [["config.json", "model.safetensors", "tokenizer.json"]]


def test_models_lists_the_bundled_names() -> None:
    infos = catalogue.models(LOCAL)
    assert [info.name for info in infos[:6]] == list(BUNDLED)
    for info in infos:
        assert info.available or info.reason
    assert siblings("demo") == {"positive": "demo-positive", "negative": "demo-negative"}
    assert siblings("demo-positive") == siblings("demo")
    assert siblings("demo-multidigit")["negative"] == "demo-multidigit-negative"
    assert siblings("/some/folder") == {}


def test_fingerprint_follows_the_bytes(folder: Path) -> None:
    memo = Notebook()
    located = locate(ModelRef.parse(str(folder)), LOCAL)
    first = fingerprint(located, memo)
    assert len(first) == 64
    assert fingerprint(located, memo) == first
    assert memo.writes == 1
    weights = folder / "model.safetensors"
    os.utime(weights, ns=(1, 1))
    assert fingerprint(located, memo) == first == fingerprint(located, None)
    assert memo.writes == 2
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    assert fingerprint(located, memo) != first
    data[-1] ^= 1
    weights.write_bytes(data)
    (folder / "tokenizer.json").write_text("{}")
    assert fingerprint(located, memo) == first
    edit_config(folder, rope_theta=5.0)
    assert fingerprint(located, memo) != first


def test_the_memo_is_believed(folder: Path) -> None:
    memo = Notebook()
    located = locate(ModelRef.parse(str(folder)), LOCAL)
    first = fingerprint(located, memo)
    (entry,) = memo.held["weights"].values()
    entry["sha256"] = "0" * 64
    assert fingerprint(located, memo) != first


names = st.text(st.characters(min_codepoint=33, max_codepoint=0x2FF), min_size=1, max_size=12)


@given(
    source=names.filter(lambda text: text.isprintable()),
    revision=st.none() | st.from_regex(r"[a-z0-9][a-z0-9/-]{0,8}", fullmatch=True),
    adapter=st.none() | names.filter(lambda text: text.isprintable()),
    dtype=st.sampled_from(["float32", "bfloat16", "float16"]),
    device=st.sampled_from(["auto", "cpu", "cuda", "mps"]),
)
def test_references_round_trip(
    source: str, revision: Any, adapter: Any, dtype: Any, device: Any
) -> None:
    ref = ModelRef(source=source, revision=revision, adapter=adapter, dtype=dtype, device=device)
    assert ModelRef.parse(str(ref)) == ref


def test_reference_options_are_checked() -> None:
    for text in ("demo?dtype=int8", "demo?device=tpu", "demo?x=1", "a@..", "a@", "a+"):
        with pytest.raises(UserError):
            ModelRef.parse(text)
    assert shown("a\n" + "b" * 200).startswith("a\\x0ab")
    assert len(shown("x" * 200)) == 80
