"""TokenScope's engine: from text to table. ``import engine`` imports neither torch nor streamlit.

::

    from engine import Request, Text, run
    result, = run(Request("statistics", Text(prompt="…", response="…"), "demo"))
    result.to_pandas("tokens")
"""

from __future__ import annotations

from engine.catalogue import models as available_models
from engine.encode import encode_text, trace_from_ids
from engine.errors import Cancelled, UserError
from engine.export import FORMATS, export_file, export_table
from engine.gallery import GalleryItem, gallery
from engine.generate import group_from_samples
from engine.modelref import ModelRef
from engine.records import open_rollouts, read_subject, write_rollouts, write_trace
from engine.registry import Analysis, Params, analyses, analysis
from engine.result import Request, Result
from engine.running import run
from engine.schema import Column, Progress, Table, Tables
from engine.subjects import Corpus, Group, Message, Rollouts, Span, Text, TokenizerRef, Trace
from engine.version import __version__
from engine.workspace import Workspace, default_workspace

__all__ = [
    "FORMATS",
    "Analysis",
    "Cancelled",
    "Column",
    "Corpus",
    "GalleryItem",
    "Group",
    "Message",
    "ModelRef",
    "Params",
    "Progress",
    "Request",
    "Result",
    "Rollouts",
    "Span",
    "Table",
    "Tables",
    "Text",
    "TokenizerRef",
    "Trace",
    "UserError",
    "Workspace",
    "__version__",
    "analyses",
    "analysis",
    "available_models",
    "default_workspace",
    "encode",
    "encode_text",
    "export_file",
    "export_table",
    "gallery",
    "group_from_samples",
    "open_rollouts",
    "read_subject",
    "run",
    "trace_from_ids",
    "write_rollouts",
    "write_trace",
]


def encode(text: Text, model: str | ModelRef = "demo", workspace: Workspace | None = None) -> Trace:
    """Cut a text into the tokens of a model's tokenizer; needs no torch.

    Raises:
        UserError: for empty text, lone surrogates, texts too long, unknown models.
    """
    planned = (workspace or default_workspace()).plan_model(model)
    return encode_text(text, planned.tokenizer, reader=planned.reader)
