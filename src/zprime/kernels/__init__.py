"""The hot paths, as plain functions on tensors. Signatures are fixed; a compiled twin may take their place."""

from zprime.kernels.dense import full_log_ratio, full_mixture_log_prob
from zprime.kernels.diagonal import diagonal_log_ratio, mixture_log_prob
from zprime.kernels.neighbours import nearest
from zprime.kernels.score import full_mixture_score, mixture_score

__all__ = [
    "diagonal_log_ratio",
    "full_log_ratio",
    "full_mixture_log_prob",
    "full_mixture_score",
    "mixture_log_prob",
    "mixture_score",
    "nearest",
]
