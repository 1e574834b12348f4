"""Keys: same request, same key; anything that changes the numbers changes it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.keys import canonical, digest

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
)


@given(st.dictionaries(st.text(), JSON, max_size=5))
def test_order_of_names_does_not_matter(document: dict[str, object]) -> None:
    turned = dict(reversed(list(document.items())))
    assert digest(document) == digest(turned)


@given(JSON, JSON)
def test_different_documents_have_different_canonical_forms(a: object, b: object) -> None:
    same = _typed(a) == _typed(b)
    assert (canonical(a) == canonical(b)) == same


def _typed(value: object) -> object:
    """Equality that tells True from 1."""
    if isinstance(value, dict):
        return {k: _typed(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_typed(v) for v in value]
    return (type(value), value)


def test_number_forms() -> None:
    assert digest(1) == digest(1.0) != digest(True)
    assert digest(0.1) != digest(0.1 + 1e-16 * 4)
    assert digest(b"\x01") == digest({"hex": "01"}) != digest("01")
    with pytest.raises(ValueError, match="nan"):
        digest(float("nan"))
