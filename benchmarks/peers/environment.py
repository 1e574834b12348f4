"""The peers' environment: a virtual environment in the user's cache that borrows our torch.

``python -m benchmarks.peers.environment`` makes it (about a minute, 450 MB) and prints where it is.
It sees the packages of the environment that runs this, so that torch is there only once; what the
peers need in another version is installed beside them. ``TOKENSCOPE_PEERS`` names another place.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import platformdirs

PACKAGES = ("inseq==0.7.1", "captum==0.9.0", "interpreto==0.5.2")

_SHARED = "shared-with-tokenscope.pth"


def _ours() -> str:
    return str(Path(sysconfig.get_path("purelib")).resolve())


def place() -> Path:
    """Folder of the environment, whether it is there or not; other packages, other folder."""
    given = os.environ.get("TOKENSCOPE_PEERS")
    if given:
        return Path(given).expanduser()
    what = " ".join((*PACKAGES, sys.version, _ours()))
    name = hashlib.sha256(what.encode()).hexdigest()[:12]
    return Path(platformdirs.user_cache_dir("tokenscope")) / f"peers-{name}"


def python() -> Path | None:
    """The environment's interpreter; None while it is not made, or only in part."""
    found = place()
    return found / "bin" / "python" if (found / ".made").is_file() else None


def make() -> Path:
    """Make the environment unless it is there, and return its interpreter.

    Raises:
        subprocess.CalledProcessError: a package could not be installed.
    """
    ready = python()
    if ready is not None:
        return ready
    folder = place()
    venv.create(folder, clear=True, with_pip=False)
    program = folder / "bin" / "python"
    asked = "import sysconfig; print(sysconfig.get_path('purelib'))"
    own = subprocess.run([program, "-c", asked], check=True, capture_output=True, text=True)
    # Comes after the environment's own packages on the path, pip included.
    Path(own.stdout.strip(), _SHARED).write_text(_ours() + "\n", "utf-8")
    subprocess.run([program, "-m", "pip", "install", "--quiet", *PACKAGES], check=True)
    (folder / ".made").touch()
    return program


if __name__ == "__main__":
    print(make())
