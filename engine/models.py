"""Load models and keep the last few of them.

Importing this module imports torch and transformers; pages do so only when something is computed.
Only safetensors are read, code from a model's author is never run, and the hub is never asked:
:mod:`engine.catalogue` has put everything on the disk before.
"""

from __future__ import annotations

import contextlib
import threading
import warnings
from collections import OrderedDict
from collections.abc import Iterator
from typing import Any

import torch
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.utils import logging as transformers_logging

from engine import checkpoint
from engine.catalogue import Located
from engine.errors import UserError
from engine.hidden import HIDDEN
from engine.loaded import LoadedModel
from engine.modelref import shown

__all__ = ["HIDDEN", "LoadedModel", "ModelPool", "load"]

MERGEABLE = {"BOFT", "HRA", "IA3", "LOHA", "LOKR", "LORA", "OFT", "VERA"}
"""Kinds of PEFT adapters that can be merged into plain weights."""

_quiet_lock = threading.Lock()


def load(located: Located, fingerprint: str) -> LoadedModel:
    """Load a located model; its adapter, if any, is merged into the loaded copy.

    Args:
        located: From :func:`engine.catalogue.locate`.
        fingerprint: From :func:`engine.catalogue.fingerprint`.

    Raises:
        UserError: The device is missing, the weights do not fit the config, memory is short.
    """
    device = _device(located)
    with _quiet():
        model = _pretrained(located)
        if located.adapter_path is not None:
            model = _merged(model, located)
    try:
        return LoadedModel(located, fingerprint, model.to(device))
    except torch.OutOfMemoryError as error:
        raise UserError(
            f"{located.name} does not fit into the memory of {device}: choose device cpu, "
            "bfloat16 or a smaller model."
        ) from error


def _device(located: Located) -> str:
    device = located.device
    missing = (device == "cuda" and not torch.cuda.is_available()) or (
        device == "mps" and not torch.backends.mps.is_available()
    )
    if missing:
        raise UserError(f"There is no {device} device on this machine: choose cpu or auto.")
    return device


def _pretrained(located: Located) -> PreTrainedModel:
    try:
        model, report = AutoModelForCausalLM.from_pretrained(
            located.path,
            dtype=getattr(torch, located.dtype),
            trust_remote_code=False,
            use_safetensors=True,
            local_files_only=True,
            output_loading_info=True,
        )
    except Exception as error:
        # The folder is a stranger's: whatever goes wrong while it is read lies in it.
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(
            f"{located.name} could not be loaded ({shown(first, 160)}): check its config.json."
        ) from error
    missing = sorted(report["missing_keys"])
    if missing or report["mismatched_keys"]:
        example = missing[0] if missing else report["mismatched_keys"][0][0]
        raise UserError(
            f"The weights of {located.name} do not fit its config ({shown(str(example))} and "
            "perhaps more is missing): save the whole causal model again."
        )
    loaded: PreTrainedModel = model
    return loaded


def _merged(model: PreTrainedModel, located: Located) -> PreTrainedModel:
    from peft import PeftModel

    path = located.adapter_path
    assert path is not None
    kind = str(checkpoint.read_json(path / "adapter_config.json").get("peft_type"))
    if kind not in MERGEABLE:
        raise UserError(
            f"The adapter {shown(path.name)} is of the kind {shown(kind)}, which cannot be merged "
            "into the weights: use a LoRA adapter."
        )
    try:
        adapted = PeftModel.from_pretrained(model, str(path), is_trainable=False)
        merged: Any = adapted.merge_and_unload()
    except Exception as error:
        raise UserError(
            f"The adapter {shown(path.name)} does not fit {shown(located.path.name)}: name the "
            "base it was trained on."
        ) from error
    plain: PreTrainedModel = merged
    return plain


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence progress bars, logs and warnings of a load, then set everything back."""
    with _quiet_lock, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        level = transformers_logging.get_verbosity()
        bars = transformers_logging.is_progress_bar_enabled()
        transformers_logging.set_verbosity_error()
        transformers_logging.disable_progress_bar()
        try:
            yield
        finally:
            transformers_logging.set_verbosity(level)
            if bars:
                transformers_logging.enable_progress_bar()


class ModelPool:
    """Loaded models by fingerprint, dtype and device; the least recently used leaves first.

    Thread-safe. Two jobs that ask for the same model at once load it once.
    """

    def __init__(self, max_models: int = 3) -> None:
        self.max_models = max_models
        self._models: OrderedDict[tuple[str, str, str], LoadedModel] = OrderedDict()
        self._loading: dict[tuple[str, str, str], threading.Lock] = {}
        self._lock = threading.Lock()

    def get(self, located: Located, fingerprint: str) -> LoadedModel:
        """Return the loaded model, loading it first if need be.

        Raises:
            UserError: It cannot be loaded; the next call tries again.
        """
        key = (fingerprint, located.dtype, located.device)
        with self._lock:
            gate = self._loading.setdefault(key, threading.Lock())
        with gate:
            with self._lock:
                if key in self._models:
                    self._models.move_to_end(key)
                    return self._models[key]
            model = load(located, fingerprint)
            with self._lock:
                self._models[key] = model
                while len(self._models) > self.max_models:
                    self._models.popitem(last=False)
            return model

    def clear(self) -> None:
        """Forget all models; those in use live on until their jobs end."""
        with self._lock:
            self._models.clear()

    def __len__(self) -> int:
        """Return how many models are held."""
        return len(self._models)
