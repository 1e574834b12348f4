"""Tokenizer files that somebody dropped: kept under a workspace's home, by content."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

from engine.errors import UserError
from engine.modelref import shown
from engine.subjects import TokenizerRef
from engine.tokenizer.loading import parse_spec, reference

_ENDING = re.compile(r"\.[A-Za-z0-9]{1,12}\Z")


def keep(data: bytes, name: str, home: Path) -> TokenizerRef:
    """Keep a dropped file and name the tokenizer in it.

    Args:
        data: the file's content; looked at before it is kept.
        name: what the visitor calls it; only its ending is used on the disk.
        home: of the workspace.

    Raises:
        UserError: it is too large, no tokenizer, or cannot be written.
    """
    parse_spec(data, shown(name))
    ending = _ENDING.search(name)
    digest = hashlib.sha256(data).hexdigest()[:32]
    file = home / "tokenizers" / f"{digest}{ending[0] if ending else ''}"
    try:
        if not file.is_file():
            file.parent.mkdir(parents=True, exist_ok=True)
            partial = file.with_name(f".{file.name}.part")
            partial.write_bytes(data)
            partial.replace(file)
    except OSError:
        raise UserError(
            f"{shown(name)} could not be kept: make room on the disk of TokenScope's home."
        ) from None
    found = reference(file)
    return found.evolve(title=name[:80])
