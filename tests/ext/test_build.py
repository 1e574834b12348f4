"""What the build must promise: no code of newer CPUs leaks, and it installs without a compiler."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import tokenkernel as tk

SOURCE = Path(__file__).parents[2] / "ext"
FLAGS = {
    "isa_base": [],
    "isa_avx2": ["-mavx2", "-mfma", "-mf16c"],
    "isa_avx512": ["-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mfma", "-mf16c"],
    "bf16_avx512": ["-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512bf16"],
}


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("g++") or not shutil.which("nm"), reason="needs g++ and nm")
@pytest.mark.parametrize("name", FLAGS)
def test_no_weak_symbols(name: str, tmp_path: Path) -> None:
    """The linker may take any copy of a weak function: one for a newer CPU would crash an older."""
    made = tmp_path / "made.o"
    command = ["g++", "-std=c++17", "-O1", "-w", "-c", "-fno-exceptions", "-fno-rtti"]
    subprocess.run(
        [*command, *FLAGS[name], str(SOURCE / "src" / f"{name}.cpp"), "-o", str(made)], check=True
    )
    symbols = subprocess.run(["nm", "-C", made], capture_output=True, text=True, check=True).stdout
    weak = [line for line in symbols.splitlines() if " W " in line or " V " in line]
    assert not weak
    assert "tokenkernel::" in symbols


@pytest.mark.slow
def test_it_installs_without_a_compiler(tmp_path: Path) -> None:
    copy = tmp_path / "ext"
    shutil.copytree(SOURCE, copy, ignore=shutil.ignore_patterns("build", "__pycache__"))
    target = tmp_path / "site"
    command = [sys.executable, "-m", "pip", "install", "--no-deps", "--target", str(target), "-q"]
    environment = {**os.environ, "CXX": "/bin/false", "CC": "/bin/false"}
    subprocess.run([*command, str(copy)], env=environment, check=True, capture_output=True)
    assert not list(target.rglob("_kernel*"))
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); import torch, tokenkernel as tk;"
        "assert tk.__file__.startswith(sys.argv[1]); assert not tk.HAVE and tk.isa() == 'torch';"
        "s = tk.token_stats(torch.zeros(1, 8), torch.tensor([3]), 2);"
        "h = tk.stats_from_hidden(torch.ones(2, 3), torch.ones(8, 3), torch.tensor([1, 2]), 2);"
        "print(float(s.entropy), h.rank.tolist())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(target)], capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("2.079")


def test_it_is_asked_about_without_torch() -> None:
    code = "import sys, tokenkernel as t; print(t.about()); assert 'torch' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("Statistics are computed")


def test_names_say_what_is_in_use(isa: str) -> None:
    import torch

    assert tk.isa() == isa
    assert tk.backend() == isa
    assert tk.backend(torch.zeros(1, dtype=torch.float64)) == "torch"
    assert tk.backend(torch.zeros(1, device="meta")) == "torch"
