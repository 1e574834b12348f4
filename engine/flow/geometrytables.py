"""Tables of ``flow.geometry``."""

from __future__ import annotations

import pyarrow as pa

from engine.schema import Column, Table


def _share(label: str, doc: str) -> Column:
    return Column(pa.float64(), doc, "", label)


LAYERS = Table(
    doc="One row per layer, over all tokens of the population.",
    columns={
        "layer": Column(pa.int64(), "0 is before the first layer, L after the last.", "", "layer"),
        "linearity": _share(
            "linearity", "How much of this layer is a linear map of the one before: 0 to 1."
        ),
        "linearity_increment": _share(
            "linearity of the step", "The same for what the layer adds to the one before."
        ),
        "intrinsic_dimension": _share("dimension", "Intrinsic dimension of the cloud (TwoNN)."),
        "anisotropy": _share(
            "anisotropy", "Share of the variance along the longest direction: 1/D to 1."
        ),
        "overlap": _share(
            "overlap", "Share of each token's nearest neighbours kept from the layer before."
        ),
        "overlap_shuffled": _share("shuffled", "The same with the tokens shuffled: a control."),
        "residual": _share(
            "prediction residual", "Share of the next id's variance that no linear fit explains."
        ),
        "residual_fitted": _share("law", "The residual by the fitted law."),
    },
)

SUMMARY = Table(
    doc="The population and the law of next-token prediction: one row.",
    columns={
        "tokens": Column(pa.int64(), "Tokens of the population, N.", "", "tokens"),
        "traces": Column(pa.int64(), "Traces they come from.", "", "traces"),
        "width": Column(pa.int64(), "Size of a hidden state, D.", "", "width"),
        "overlap_chance": _share("chance", "Overlap that shuffled tokens have on average."),
        "rho": _share("ρ", "Factor of the prediction residual from one layer to the next."),
        "correlation": _share("correlation", "Between the layer and the log of the residual."),
        "law_layers": Column(pa.int64(), "Layers the law is fitted to.", "", "layers"),
    },
)

TOKENS = Table(
    per_token=True,
    doc="One row per token; a value describes the states that predict that token.",
    columns={
        "rollout": Column(pa.int64(), "Number of the rollout, from 0.", "", "rollout"),
        "nonlinearity": Column(
            pa.float64(),
            "Mean over the layers of what the linear maps miss here; its square averages 1 − "
            "linearity.",
            "",
            "non-linearity",
        ),
        "nonlinear_layer": Column(pa.int64(), "The layer into which most is missed.", "", "layer"),
    },
)
