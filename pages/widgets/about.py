"""The closed box under every picture: what the number means and where it comes from."""

from __future__ import annotations

import streamlit as st

from engine import Result, kernel
from engine.registry import Analysis
from engine.render.signals import Signal
from engine.render.text import escape_markdown

FORMULAS = {
    "surprisal": r"s_t = -\ln p_t(x_t), \qquad p_t = \mathrm{softmax}(z_{t-1})",
    "probability": r"p_t(x_t) = e^{z_{t-1}[x_t]} \,/\, \sum_v e^{z_{t-1}[v]}",
    "entropy": r"H_t = -\sum_v p_t(v) \ln p_t(v)",
    "varentropy": r"V_t = \sum_v p_t(v)\,\bigl(-\ln p_t(v) - H_t\bigr)^2",
    "rank": r"r_t = 1 + \bigl|\{v : z_{t-1}[v] > z_{t-1}[x_t]\}\bigr|",
    "margin": r"m_t = \ln p_t(v_1) - \ln p_t(v_2)",
    "max_prob": r"\max_v p_t(v)",
    "sum_p2": r"\sum_v p_t(v)^2",
    "self_certainty": r"\ln \sum_v e^{z_{t-1}[v]} - \tfrac{1}{|V|}\sum_v z_{t-1}[v]",
}


def about(analysis: Analysis, signal: Signal, result: Result) -> None:
    """Definition, formula, sources, caveats and provenance of what is shown."""
    box = st.expander("About this number", key="about", on_change="rerun")
    if not box.open:
        return
    with box:
        unit = f" In {signal.unit}." if signal.unit else ""
        st.markdown(f"**{_capital(signal.title)}.** {escape_markdown(signal.doc)}{unit}")
        if signal.name in FORMULAS:
            st.latex(FORMULAS[signal.name])
        st.markdown(
            "The value of token *t* describes the prediction **of** *t*, made after reading the "
            "tokens before it. Logarithms are natural: values are in nats, and 1 nat is 1.44 bits."
        )
        if analysis.caveats:
            st.markdown("**Keep in mind.** " + " ".join(map(escape_markdown, analysis.caveats)))
        if analysis.cite:
            sources = "".join(f"\n- {escape_markdown(source)}" for source in analysis.cite)
            st.markdown("**Sources**" + sources)
        st.markdown(f"**How it was computed.** {kernel_line(result)}")
        st.json(dict(result.provenance), expanded=False)


def kernel_line(result: Result | None = None) -> str:
    """Which kernel is in use and for which instruction set, as Markdown.

    Args:
        result: what is shown: where another kernel computed it, that is said too.
    """
    provenance = {} if result is None else result.provenance
    return escape_markdown(kernel.sentence(provenance.get("kernel")))


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
