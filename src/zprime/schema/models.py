"""What may stand in the artefacts of a model that zprime trains, and in its checkpoints."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from zprime.schema import (
    ANY,
    FINITE,
    LATENTS,
    LOG_SCALES,
    MOST,
    Array,
    Flag,
    Items,
    Maybe,
    Number,
    Part,
    Real,
    Record,
    Schema,
    Sizes,
    Text,
    Whole,
    need,
)
from zprime.schema.own import SHA256

LIKELIHOODS = ("gaussian", "bernoulli", "laplace", "gaussian-per-entry", "logistic", "categorical")
COUNTS_BY = ("poisson", "negative-binomial")

VAE = Record(
    {
        "shape": Items(Whole(1, MOST), 1, 8),
        "settings": Record(
            {
                "latents": Whole(1, LATENTS),
                "network": Text(("mlp", "gated-mlp", "conv", "residual")),
                "likelihood": Text((*LIKELIHOODS, *COUNTS_BY)),
                "scale": Real(0),
                "hidden": Items(Whole(1, MOST), 0, 64),
                "width": Whole(1, MOST),
                "posterior": Maybe(Text(("diagonal", "full", "flow", "points"))),
                "log_variance": Maybe(Items(Real(-120, 120), 0, 2)),
                "components": Maybe(Whole(1, MOST)),
                "classes": Maybe(Whole(0, MOST)),
                "flow_steps": Maybe(Whole(1, MOST)),
            }
        ),
    }
)
EPOCH = Record({"beta": Real(0), "loss": Number(), "selection": Number()})
WEIGHTS_OF_VAE = {
    "likelihood.log_scale": Array({"": LOG_SCALES}, "real", optional=True),
    "*": Array({"*": FINITE}, "real"),
}
"""Their names and shapes are compared with those of the network, before it takes any memory (`vae.rebuild`)."""

LEARNED = Record({"kind": Text(("vamp", "mixture", "flow", "exemplars", "aggregated", "coreset"))})
"""The kind of a prior that was learned in training; beside it the settings of it."""
REFINED = Record({"model": SHA256, "fit": SHA256, "name": Text(), "learned": Flag(), "selection": Number()})
"""What a model was trained on from: hashes of the model before and of the fit that took the prior's place, its name,
whether it was trained too, and the ELBO on the selection split before (of another objective: minus its loss)."""


def _model(config: Mapping[str, Any], tensors: Mapping[str, Tensor], sizes: Sizes) -> None:
    need("epoch", config["epoch"] > 0 or config.get("refined") is not None, "one from 1", config["epoch"])


MODEL = Schema(
    {
        "vae": VAE,
        "training": Record(
            {
                "epochs": Whole(),
                "batch": Whole(1),
                "lr": Real(0),
                "beta": Real(0),
                "warmup": Real(0, 1),
                "patience": Whole(),
                "objective": Maybe(Text(("elbo", "iwae", "wae-mmd", "infovae", "rae"))),
                "free_bits": Maybe(Real(0)),
                "iwae_draws": Maybe(Whole(1)),
                "mmd": Maybe(Real(0)),
                "regulariser": Maybe(Text(("l2", "spectral", "gradient"))),
                "penalty": Maybe(Real(0)),
                "warmup_epochs": Maybe(Whole()),
                "cycles": Maybe(Whole(1)),
                "lr_schedule": Maybe(Text(("cosine", "constant"))),
                "optimiser": Maybe(Text(("adam", "adam-normgrad"))),
            }
        ),
        "epoch": Whole(),
        "history": Items(EPOCH, 1),
        "stopped": Text(),
        "prior": Maybe(Part()),
        "learned": Maybe(LEARNED),
        "refined": Maybe(REFINED),
    },
    {"prior.*": Array({"*": ANY}, "any"), **WEIGHTS_OF_VAE},
    _model,
)
"""Without `prior` it is N(0, I); without `learned` it was not trained."""


def _checkpoint(config: Mapping[str, Any], tensors: Mapping[str, Tensor], sizes: Sizes) -> None:
    epochs, best = len(config["history"]), config["best_epoch"]
    need("epoch", config["epoch"] == epochs, f"{epochs}, as many as history has", config["epoch"])
    need("best_epoch", best <= epochs, f"one up to {epochs}; 0 is the start", best)


CHECKPOINT = Schema(
    {"epoch": Whole(), "best_epoch": Whole(), "history": Items(EPOCH)},
    {
        **{f"{which}.prior.*": Array({"*": FINITE}, "any") for which in ("now", "best")},
        "*": Array({"*": FINITE}, "real"),
    },
    _checkpoint,
)
"""A prior that is learned may hold masks of networks."""
