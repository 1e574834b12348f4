"""Models of the Hugging Face hub: those in the local cache, and fetching one when online.

``huggingface_hub`` is imported inside the functions. Only safetensors and JSON files are ever
fetched, and only after the model's size was asked for.
"""

from __future__ import annotations

import os
from pathlib import Path

from engine.errors import UserError
from engine.modelref import HUB_ID, shown

_EXTRA_FILES = ("merges.txt", "vocab.txt", "tokenizer.model")
_ONLINE_TIMEOUT = 10.0


def offline() -> bool:
    """Return whether the environment forbids asking the hub."""
    flags = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
    return any(os.environ.get(flag, "").upper() in {"1", "ON", "YES", "TRUE"} for flag in flags)


def cache() -> Path:
    """The folder of the local cache."""
    from huggingface_hub import constants

    return Path(os.environ.get("HF_HUB_CACHE") or constants.HF_HUB_CACHE)


def cached() -> list[str]:
    """Return the ids of the models in the local cache that have a config, in order of name."""
    try:
        folders = sorted(cache().glob("models--*"))
    except OSError:
        return []
    found = []
    for folder in folders:
        repository = folder.name.removeprefix("models--").replace("--", "/")
        if HUB_ID.fullmatch(repository) and any(folder.glob("snapshots/*/config.json")):
            found.append(repository)
    return found


def _in_cache(repository: str, revision: str | None) -> Path | None:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        folder = snapshot_download(
            repository, revision=revision, local_files_only=True, cache_dir=cache()
        )
    except (LocalEntryNotFoundError, HFValidationError, OSError, ValueError):
        return None
    path = Path(folder)
    marks = ("config.json", "adapter_config.json")
    return path if any((path / mark).is_file() for mark in marks) else None


def find(repository: str, revision: str | None, max_parameters: int, *, fetch: bool) -> Path:
    """Return the folder of a hub model, fetched first when need be.

    Args:
        repository: The hub id.
        revision: Branch, tag or commit; None is the main branch.
        max_parameters: A larger model is not fetched.
        fetch: Whether the hub may be asked at all.

    Raises:
        UserError: It is not in the cache and cannot or may not be fetched.
    """
    folder = _in_cache(repository, revision)
    if folder is not None:
        return folder
    if offline() or not fetch:
        raise UserError(
            f"{shown(repository)} is not in the local Hugging Face cache and the hub cannot be "
            "asked while offline: go online, or name demo or a folder."
        )
    return _fetch(repository, revision, max_parameters)


def _fetch(repository: str, revision: str | None, max_parameters: int) -> Path:
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    try:
        info = HfApi().model_info(
            repository, revision=revision, files_metadata=True, timeout=_ONLINE_TIMEOUT
        )
    except GatedRepoError as error:
        raise UserError(
            f"{shown(repository)} asks for an agreement: accept it on the hub and log in with hf."
        ) from error
    except RepositoryNotFoundError as error:
        raise UserError(f"The hub has no model {shown(repository)}: check the id.") from error
    except Exception as error:
        raise UserError(
            f"{shown(repository)} is not in the local cache and the hub does not answer: check "
            "the id and the connection, or name demo or a folder."
        ) from error
    files = {f.rfilename: f.size or 0 for f in info.siblings or [] if "/" not in f.rfilename}
    weights = [
        name
        for name in files
        if name.endswith(".safetensors") and name.startswith(("model", "adapter_model"))
    ]
    if not weights:
        raise UserError(
            f"{shown(repository)} offers no safetensors weights: choose a model that does."
        )
    # Four bytes is the most a parameter takes, so this refuses none that is small enough;
    # the headers are counted exactly once the files are here.
    parameters = sum(files[name] for name in weights) // 4
    if info.safetensors is not None:
        parameters = info.safetensors.total
    if parameters > max_parameters:
        raise UserError(
            f"{shown(repository)} has {parameters:,} parameters, more than the "
            f"{max_parameters:,} allowed here: choose a smaller model or raise "
            "TOKENSCOPE_MAX_PARAMETERS."
        )
    wanted = [n for n in files if n.endswith(".json") or n in _EXTRA_FILES] + weights
    try:
        folder = snapshot_download(
            repository, revision=info.sha, allow_patterns=wanted, cache_dir=cache()
        )
    except Exception as error:
        raise UserError(
            f"Fetching {shown(repository)} broke off: try again, what arrived is kept."
        ) from error
    return Path(folder)
