"""A private copy of a model's structure that shares every weight with it.

Hooks and other attention go on the copy; the shared model is never touched.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from engine.models import LoadedModel


def skeleton(model: LoadedModel) -> PreTrainedModel:
    """A new structure over the very same tensors; costs no memory for weights."""
    import torch

    with torch.inference_mode(False), model.lock:
        shared = [*model.model.parameters(), *model.model.buffers()]
        memo: dict[int, Any] = {id(tensor): tensor for tensor in shared}
        return copy.deepcopy(model.model, memo)
