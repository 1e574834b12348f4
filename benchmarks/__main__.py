"""``python -m benchmarks [--quick] [PART …]``: run every ``bench_*.py`` and print one table.

Each module has ``run(quick) -> rows``; a row names part, what, target and measured. Figures are
ratios within one run wherever there is a rival: machines differ, ratios less so.
"""

from __future__ import annotations

import argparse
import importlib
import os
import platform
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))


def main() -> None:
    """Run the chosen parts and print their rows as they come."""
    parts = sorted(p.stem.removeprefix("bench_") for p in Path(__file__).parent.glob("bench_*.py"))
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="smaller sizes, seconds not minutes")
    parser.add_argument("part", nargs="*", help=f"which of {', '.join(parts)}; default: all")
    options = parser.parse_args()
    print(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}")
    print(f"{'part':<12}{'what':<62}{'target':>16}{'measured':>18}")
    for name in options.part or parts:
        module = importlib.import_module(f"benchmarks.bench_{name}")
        for row in module.run(quick=options.quick):
            what = str(row["what"])
            print(f"{row['part']!s:<12}{what:<62}{row['target']!s:>16}{row['measured']!s:>18}")


main()
