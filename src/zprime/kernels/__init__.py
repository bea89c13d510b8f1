"""The hot paths, as plain functions on tensors: compiled where they can be, else in torch, with the same signatures."""

from zprime.kernels import far, ratios
from zprime.kernels.dense import (
    FullMixture,
    Whitened,
    full_log_ratio,
    full_mixture_log_prob,
    trainable_full_mixture_log_prob,
)
from zprime.kernels.expectation import Expectation
from zprime.kernels.low_rank import LowRankMixture
from zprime.kernels.mixture import (
    Components,
    DiagonalMixture,
    LabelledMixture,
    diagonal_log_ratio,
    diagonal_ratio_form,
    mixture_log_prob,
    trainable_mixture_log_prob,
)
from zprime.kernels.neighbours import ExactIndex, nearest
from zprime.kernels.products import Products
from zprime.kernels.ratios import log_ratio_sums

__all__ = [
    "Components",
    "DiagonalMixture",
    "ExactIndex",
    "Expectation",
    "FullMixture",
    "LabelledMixture",
    "LowRankMixture",
    "Products",
    "Whitened",
    "diagonal_log_ratio",
    "diagonal_ratio_form",
    "far",
    "full_log_ratio",
    "full_mixture_log_prob",
    "log_ratio_sums",
    "mixture_log_prob",
    "nearest",
    "ratios",
    "trainable_full_mixture_log_prob",
    "trainable_mixture_log_prob",
]
