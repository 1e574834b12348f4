"""Find the model that a reference names, and say why one cannot be had.

Works without torch and transformers: a page can list models, show their size and compute keys
before anything heavy is imported. Model names are text from strangers: they are matched against
shapes, never run through a shell, and in the hosted profile only listed names are looked at.
"""

from __future__ import annotations

import difflib
import hashlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from engine import checkpoint, hub
from engine.checkpoint import Memo
from engine.errors import UserError
from engine.limits.profile import BUNDLED as BUNDLED
from engine.limits.profile import Profile as Profile
from engine.modelref import HUB_ID, ModelRef, shown

BUNDLED_FOLDER = Path(__file__).resolve().parent.parent / "demo" / "models"

SMALL = 50_000_000
"""Below this many parameters ``auto`` means the CPU."""


@dataclass(frozen=True)
class Located:
    """A model found on this machine, checked as far as is possible without torch.

    Attributes:
        ref: The reference as it was given.
        name: What to call it in a sentence or a legend.
        path: Folder of the (base) model.
        adapter_path: Folder of the PEFT adapter put on top, if any.
        config: The parsed ``config.json``.
        parameters: Parameters of the base model, from the safetensors headers.
        context: Most tokens it reads, None when its config does not say.
        weight_files: Its safetensors files in order, the adapter's not included.
        tokenizer_path: The ``tokenizer.json`` that belongs to it.
        device: cpu, cuda or mps.
        dtype: Number type its weights are loaded in.
        kind: Where it came from.
    """

    ref: ModelRef
    name: str
    path: Path
    adapter_path: Path | None
    config: dict[str, Any]
    parameters: int
    context: int | None
    weight_files: tuple[Path, ...]
    tokenizer_path: Path
    device: str
    dtype: str
    kind: Literal["bundled", "folder", "hub"]


@dataclass(frozen=True)
class ModelInfo:
    """One line of the list of models; ``reason`` says why an unavailable one is so."""

    name: str
    path: str
    parameters: int | None
    available: bool
    reason: str | None
    context: int | None
    description: str


def locate(ref: ModelRef, profile: Profile) -> Located:
    """Find the model ``ref`` names and check that it can be used here.

    Raises:
        UserError: It is unknown, not allowed, incomplete, too large or of the wrong kind.
    """
    _check_allowed(ref, profile)
    folder, kind = _folder(ref.source, ref.revision, profile)
    name = ref.source if kind != "folder" else (folder.name or str(folder))
    adapter: Path | None = None
    if ref.adapter is not None:
        adapter, _ = _folder(ref.adapter, None, profile)
        if not (adapter / "adapter_config.json").is_file():
            raise UserError(
                f"{shown(ref.adapter)} is no PEFT adapter: it has no adapter_config.json."
            )
    elif (folder / "adapter_config.json").is_file() and not (folder / "config.json").is_file():
        adapter = folder
        folder = _base_of(adapter, profile)
    return _inspect(ref, name, folder, adapter, kind, profile)


def _inspect(
    ref: ModelRef,
    source: str,
    folder: Path,
    adapter: Path | None,
    kind: Literal["bundled", "folder", "hub"],
    profile: Profile,
) -> Located:
    name = shown(source)
    if not (folder / "config.json").is_file():
        raise UserError(
            f"{name} holds no model: choose the folder with config.json and the weights."
        )
    config = checkpoint.read_json(folder / "config.json")
    checkpoint.check_architecture(config, name)
    files = checkpoint.weight_files(folder)
    if adapter is not None:
        for path in checkpoint.weight_files(adapter, "adapter_model"):
            checkpoint.tensor_shapes(path)
    parameters = checkpoint.count_parameters(files)
    if parameters > profile.max_parameters:
        raise UserError(
            f"{name} has {parameters:,} parameters, more than the {profile.max_parameters:,} "
            "allowed here: choose a smaller model or raise TOKENSCOPE_MAX_PARAMETERS."
        )
    holders = [folder] if adapter is None else [adapter, folder]
    tokenizers = [path / "tokenizer.json" for path in holders]
    tokenizer = next((path for path in tokenizers if path.is_file()), None)
    if tokenizer is None:
        raise UserError(
            f"{name} has no tokenizer.json: save its fast tokenizer into the same folder."
        )
    return Located(
        ref=ref,
        name=name if adapter is None or adapter.name == name else f"{name}+{shown(adapter.name)}",
        path=folder,
        adapter_path=adapter,
        config=config,
        parameters=parameters,
        context=checkpoint.context_length(config),
        weight_files=files,
        tokenizer_path=tokenizer,
        device=_device(ref.device, parameters),
        dtype=ref.dtype,
        kind=kind,
    )


def fingerprint(located: Located, memo: Memo | None = None) -> str:
    """Return the SHA-256 that stands for a model's weights in every key.

    It covers config.json, every weight file and the adapter's files, by content: copying a model
    or touching its files does not change it. The tokenizer has a digest of its own.

    Args:
        located: The model.
        memo: Where digests of weight files are remembered by path, size and time of change.
    """
    config = (located.path / "config.json").read_bytes()
    lines = [f"config.json {hashlib.sha256(config).hexdigest()}"]
    lines += [f"{path.name} {checkpoint.file_digest(path, memo)}" for path in located.weight_files]
    if located.adapter_path is not None:
        config = (located.adapter_path / "adapter_config.json").read_bytes()
        lines.append(f"adapter_config.json {hashlib.sha256(config).hexdigest()}")
        for path in checkpoint.weight_files(located.adapter_path, "adapter_model"):
            lines.append(f"{path.name} {checkpoint.file_digest(path, memo)}")
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def models(profile: Profile) -> list[ModelInfo]:
    """Return the bundled models, present or not, then those of the hub cache, and why not."""
    found = [_info(name, profile, text) for name, text in BUNDLED.items()]
    if profile.allow_hub:
        for repository in hub.cached():
            found.append(_info(repository, profile, "From the Hugging Face cache"))
    elif profile.allowed is not None:
        extra = (name for name in profile.allowed if name not in BUNDLED)
        found += [_info(name, profile, "Offered by this site") for name in extra]
    return found


def siblings(name: str) -> dict[str, str]:
    """Return the positive and negative models that belong to the bundled model ``name``.

    Empty for any other model.
    """
    base = name.removesuffix("-positive").removesuffix("-negative")
    if name not in BUNDLED:
        return {}
    return {"positive": f"{base}-positive", "negative": f"{base}-negative"}


def _info(name: str, profile: Profile, description: str) -> ModelInfo:
    path = str(BUNDLED_FOLDER / name) if name in BUNDLED else ""
    try:
        # Asking for the CPU keeps a list of models from importing torch to look for a GPU.
        ref = ModelRef.parse(name).model_copy(update={"device": "cpu"})
        offline = replace(profile, allow_hub=False, allowed=(str(ModelRef.parse(name)),))
        located = locate(ref, offline)
    except UserError as error:
        return ModelInfo(name, path, None, False, str(error), None, description)
    return ModelInfo(
        name, str(located.path), located.parameters, True, None, located.context, description
    )


def _check_allowed(ref: ModelRef, profile: Profile) -> None:
    if profile.allowed is None:
        return
    plain = str(ref.model_copy(update={"dtype": "float32", "device": "auto"}))
    if plain not in profile.allowed:
        names = ", ".join(sorted(shown(name) for name in profile.allowed)[:8])
        raise UserError(f"{shown(plain)} is not offered here: choose one of {names}.")


def _looks_like_path(source: str) -> bool:
    return (
        source.startswith((".", "~", "/", "\\"))
        or "\\" in source
        or source.count("/") > 1
        or source.endswith("/")
        or not HUB_ID.fullmatch(source)
    )


def _folder(
    source: str, revision: str | None, profile: Profile
) -> tuple[Path, Literal["bundled", "folder", "hub"]]:
    if source in BUNDLED:
        folder = BUNDLED_FOLDER / source
        if not (folder / "config.json").is_file():
            raise UserError(f"The bundled model {source} is not there yet: run make demo-model.")
        return folder, "bundled"
    if profile.allow_folders and (path := _existing(source)) is not None and revision is None:
        return path, "folder"
    if _looks_like_path(source):
        if not profile.allow_folders:
            raise UserError("Folders cannot be named here: choose one of the offered models.")
        if _existing(source) is not None:
            raise UserError(
                f"A folder has no revision: write %40 for an @ in the path {shown(source)}."
            )
        raise UserError(f"There is no folder {shown(source)}: check the path.")
    listed = profile.allowed is not None and any(
        name.partition("@")[0] == source for name in profile.allowed
    )
    if not profile.allow_hub and not listed:
        raise UserError(
            f"{shown(source)} cannot be fetched here: choose one of {', '.join(BUNDLED)}."
        )
    try:
        return hub.find(source, revision, profile.max_parameters, fetch=profile.allow_hub), "hub"
    except UserError as error:
        close = difflib.get_close_matches(source, [*BUNDLED, *hub.cached()], n=2, cutoff=0.6)
        if not close:
            raise
        raise UserError(
            f"There is no model {shown(source)} here: did you mean {' or '.join(close)}?"
        ) from error


def _existing(source: str) -> Path | None:
    try:
        path = Path(source).expanduser()
        return path.resolve() if path.is_dir() else None
    except (OSError, RuntimeError, ValueError):
        return None


def _base_of(adapter: Path, profile: Profile) -> Path:
    base = checkpoint.read_json(adapter / "adapter_config.json").get("base_model_name_or_path")
    if not isinstance(base, str) or not base.strip():
        raise UserError(
            f"The adapter {shown(adapter.name)} does not say which model it belongs to: "
            "write base+adapter."
        )
    beside = adapter / base
    if profile.allow_folders and _looks_like_path(base) and beside.is_dir():
        return beside.resolve()
    ref = ModelRef(source=base)
    try:
        return _folder(ref.source, None, profile)[0]
    except UserError as error:
        raise UserError(
            f"The base {shown(base)} of the adapter {shown(adapter.name)} is not at hand: "
            "fetch it, or write base+adapter with the folder of the base."
        ) from error


def _device(wanted: str, parameters: int) -> str:
    if wanted != "auto":
        return wanted
    if parameters < SMALL:
        return "cpu"
    import torch

    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"
