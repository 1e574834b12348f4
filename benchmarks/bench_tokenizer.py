"""The tokenizer side: trie, spelling counts, canonicality, against encoding by the library.

With mistral-common installed the vocabulary is Tekken's (131,072 ids), else one of as many pieces
cut from Python's standard library. Texts are the standard library's sources.
"""

from __future__ import annotations

import random
import re
import sysconfig
import time
from collections import Counter
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

from tokenkernel import Trie

from engine.tokenizer import TokenizerSpec, installed, load_spec
from engine.tokenizer.canonical import canonical, regions

PIECES = 130_072


@cache
def sources(size: int) -> bytes:
    """Python sources, ``size`` bytes of valid UTF-8."""
    found = bytearray()
    for file in sorted(Path(sysconfig.get_path("stdlib")).glob("**/*.py")):
        if "test" not in file.parts:
            found += file.read_bytes()
        if len(found) >= size:
            break
    return bytes(found[:size]).decode("utf-8", "ignore").encode()


def pieces(text: bytes) -> list[bytes]:
    """As many different pieces as Tekken has: bytes, words, their beginnings, other scripts."""
    rng = random.Random(0)
    words = Counter(re.findall(rb" ?[A-Za-z_]{2,}| ?[^\sA-Za-z_]{2,6}|\s{2,12}", text))
    found = dict.fromkeys(bytes([byte]) for byte in range(256))
    for word, _ in words.most_common(40_000):
        found[word] = None
    for word, _ in words.most_common(20_000):
        found[word[: rng.randint(2, 5)]] = None
    while len(found) < PIECES:  # most of Tekken's never occur in English
        found["".join(chr(rng.randint(0x4E00, 0x9FFF)) for _ in range(2)).encode()] = None
    return list(found)


def took(work: Callable[[], object], rounds: int) -> float:
    """Shortest processor time of a few, in seconds: all of this runs in one thread."""
    times = []
    for _ in range(rounds):
        start = time.process_time()
        work()
        times.append(time.process_time() - start)
    return min(times)


def row(what: str, target: str, measured: str) -> dict[str, str]:
    """One line of the table."""
    return {"part": "tokenizer", "what": what, "target": target, "measured": measured}


def run(quick: bool = False) -> Iterator[dict[str, str]]:
    """Rows for ``make bench``."""
    rounds = 3 if quick else 7
    text = sources(4_000_000 if quick else 20_000_000)
    tekken = any(found.name == "tekken_240911" for found in installed())
    spec = load_spec("installed:tekken_240911" if tekken else _demo())
    tokens = [spec.pieces[i].data for i in spec.segmenting] if tekken else pieces(text)
    name = "Tekken" if tekken else "stand-in for Tekken"
    build = took(lambda: Trie(tokens), rounds)
    yield row(f"trie of {len(tokens):,} tokens ({name})", "<= 0.1 s", f"{build:.3f} s")
    trie = Trie(tokens)
    rate = len(text) / 1e6 / took(lambda: trie.log2_count(text), 1 if quick else 3)
    yield row(f"log2 spelling count of {len(text) / 1e6:.0f} MB", ">= 5 MB/s", f"{rate:.1f} MB/s")
    exact = took(lambda: trie.count(text[:4096]), rounds)
    yield row("exact spelling count of 4 KB", "", f"{exact * 1e3:.0f} ms")
    shortest = took(lambda: trie.best(text[:1024], 100), rounds)
    yield row("100 shortest spellings of 1 KB", "", f"{shortest * 1e3:.1f} ms")
    yield from _against_encoding(spec, text[:200_000].decode("utf-8", "ignore"), rounds)


def _demo() -> str:
    return str(Path(__file__).resolve().parent.parent / "demo" / "models" / "demo")


def _against_encoding(spec: TokenizerSpec, text: str, rounds: int) -> Iterator[dict[str, str]]:
    """In one run: ids alone, ids with exact bounds, and ids checked against their own text."""
    times = {"ids": float("inf"), "bounds": float("inf"), "regions": float("inf")}
    own = spec.encode(text).ids

    def check() -> object:
        again = canonical(spec, own)
        return regions(spec, own, again.ids, again.ends)

    for _ in range(rounds):
        works = {
            "ids": lambda: spec.encode_ids([text]),
            "bounds": lambda: spec.encode(text),
            "regions": check,
        }
        for label, work in works.items():
            times[label] = min(times[label], took(work, 1))
    for label, what in (
        ("bounds", "ids with exact byte bounds / ids alone"),
        ("regions", "canonical check of the ids / ids alone"),
    ):
        yield row(f"{what}, {spec.name}", "", f"{times[label] / times['ids']:.2f} x")
