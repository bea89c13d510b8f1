"""The schemas of the kinds of artefacts that are no latent distributions."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from zprime import manifest
from zprime.schema import (
    ANY,
    DATUM_IDS,
    FACTOR,
    FINITE,
    LATENTS,
    LOG_SCALES,
    MOST,
    ORIGINS,
    POSITIVE,
    ROW_IDS,
    UNITS,
    WEIGHTS,
    Array,
    Flag,
    Items,
    Maybe,
    Named,
    Number,
    Part,
    Plain,
    Real,
    Record,
    Schema,
    Sizes,
    Text,
    Whole,
    guarded,
    need,
)
from zprime.schema.models import CHECKPOINT, MODEL, VAE
from zprime.schema.own import LAYOUT, OF_OWN, OWN_MODEL, SHA256, laid_out

NAME = r"(?!\.)[^/\\\x00]{1,255}"
"""Part of a path: not empty, nothing hidden, no separator."""
PATH = rf"{NAME}(/{NAME}){{0,2}}"
"""Of an artefact in the folder of its run."""
FILE = Text(pattern=manifest.FILE.pattern)
SPLITS = ("train", "selection", "heldout")
"""Train: VAE and posteriors. Selection: early stopping and choices. Held-out: what the audit reports."""
COPYING = Text(("passes", "copies", "untested"))

RUN = Schema({"artifacts": Named(Items(SHA256, 1), PATH), "dropped": Named(Items(SHA256), PATH)})


def _data(config: Mapping[str, Any], tensors: Mapping[str, Tensor], sizes: Sizes) -> None:
    _shapes(tensors, config["shape"])
    told = config.get("conditions")
    need("conditions", (told is None) == (not config["settings"].get("conditions")), "them as the settings say", told)
    if told is not None:
        laid_out(told, config["shape"])
        need("names", len(told["names"]) == told["width"], f"{told['width']}, one a number", told["names"])
    ids = [tensors[f"ids.{s}"] for s in SPLITS]
    need(
        "ids", len(torch.unique(torch.cat(ids))) == sum(map(len, ids)), "every row in one split", [len(i) for i in ids]
    )
    need("sizes", config["sizes"] == dict(zip(SPLITS, map(len, ids), strict=True)), "as many as ids", config["sizes"])


def _shapes(tensors: Mapping[str, Tensor], shape: list[int]) -> None:
    for name in ("shift", "scale"):
        need(name, list(tensors[name].shape) == shape, f"shape {shape}, that of a row", list(tensors[name].shape))


SCALING = {"shift": Array({"*": ORIGINS}, "real"), "scale": Array({"*": UNITS}, "real")}
"""In the units of the data, whatever these are."""
DATA = Schema(
    {
        "settings": Record(
            {
                "data": Text(),
                "selection": Real(0, 1, inside=True),
                "heldout": Real(0, 1, inside=True),
                "heldout_data": Maybe(Text()),
                "limit": Whole(),
                "binarise": Flag(),
                "split_seed": Maybe(Whole(-(1 << 62))),
                "group": Text(),
                "aside": Text(),
                "keep_duplicates": Flag(),
                "conditions": Maybe(Text()),
                "as_stored": Maybe(Flag()),
            }
        ),
        "seed": Whole(-(1 << 62)),
        "name": Text(),
        "shape": Items(Whole(1, MOST), 1, 8),
        "sizes": Record({s: Whole(1) for s in SPLITS}),
        "content": SHA256,
        "duplicates": Named(
            Record({"count": Whole(), "rows": Whole(), "ids": Items(Whole()), "kept": Flag()}), "selection|heldout"
        ),
        "bytes": Whole(),
        "columns": Maybe(Items(Text())),
        "brought": Maybe(Flag()),
        "conditions": Maybe(Record({**LAYOUT, "names": Items(Text(), 1), "classes": Items(Text())})),
    },
    {**SCALING, **{f"ids.{s}": Array({f"rows_of_{s}": ROW_IDS}, "int64") for s in SPLITS}},
    _data,
)


def _posteriors(config: Mapping[str, Any], tensors: Mapping[str, Tensor], sizes: Sizes) -> None:
    shards, rows, form = config["shards"], config["sizes"], config.get("form") or "diagonal"
    need("shards", len(set(shards)) == len(shards), "different files", shards)
    need("sizes", sum(rows) == config["n"], f"numbers that sum to n = {config['n']}", rows)
    ids, data = len(torch.unique(tensors["row_ids"])), config.get("data") or config["n"]
    need("row_ids", ids == data, f"{data} different ones, as many as there are data", ids)
    known = bool(config.get("log_q"))
    need("log_q", ("log_q" in tensors) == known, "a tensor of it where the settings say so, else none", sorted(tensors))
    need("log_q", form == "points" or not known, "it beside points alone", form)
    told = config.get("draws")
    need("draws", told is None or (known and config["n"] % data == 0), "them beside log_q, as many of each datum", told)


POSTERIORS = Schema(
    {
        "split": Maybe(Text()),
        "n": Whole(1, size="n"),
        "d": Whole(1, LATENTS),
        "form": Maybe(Text(("diagonal", "full", "points"))),
        "data": Maybe(Whole(1)),
        "log_q": Maybe(Flag()),
        "steps": Maybe(Whole(1)),
        "draws": Maybe(Whole(4)),
        "shards": Items(FILE, 1, size="shards"),
        "sizes": Items(Whole(1), 1, size="shards"),
    },
    {
        "row_ids": Array({"n": DATUM_IDS}, "int64"),
        "labels": Array({"n": ANY}, "int64", optional=True),
        "weights": Array({"n": WEIGHTS}, "real", optional=True),
        "log_q": Array({"n": FINITE}, "real", optional=True),
    },
    _posteriors,
)
"""Without `form` rows are Gaussians with standard deviations; without `data` each is a datum. Without `steps` they are
the encoder's own. `draws` of each datum were asked for where posteriors are flows."""
ROWS_OF_SHARD = {"rows": Whole(1, size="rows"), "d": Whole(1, size="d")}
MEANS = Array({"rows d": FINITE})
SHARDS = {
    "diagonal": Schema(ROWS_OF_SHARD, {"mean": MEANS, "scale": Array({"rows d": POSITIVE})}),
    "full": Schema(ROWS_OF_SHARD, {"mean": MEANS, "scale": Array({"rows d d": FACTOR})}),
    "points": Schema(ROWS_OF_SHARD, {"mean": MEANS}),
}
"""One file of posteriors of each form, with the rows that `sizes` says it has."""


def _generator(config: Mapping[str, Any], tensors: Mapping[str, Tensor], sizes: Sizes) -> None:
    both = [config.get(name) is not None for name in ("vae", "own")]
    need("vae", sum(both) == 1, "a VAE of zprime, or own, a model of the user's own", both)
    shape, image = (config.get("vae") or config["own"])["shape"], config["image"]
    _shapes(tensors, shape)
    need("image", image is None or (image == shape and len(shape) == 3 and shape[0] in (1, 3)), f"{shape}", image)
    unfit = config["copying"] == "copies"
    need("unfit_to_publish", config["unfit_to_publish"] == unfit, f"{unfit}, as copying says", not unfit)


GENERATOR = Schema(
    {
        "vae": Maybe(VAE),
        "own": Maybe(Record(OF_OWN)),
        "prior": Maybe(Part()),
        "latent": Part(),
        "image": Maybe(Items(Whole(1, MOST), 3, 3)),
        "holds_training_rows": Flag(),
        "least_rows": Maybe(Real(0)),
        "copying": COPYING,
        "unfit_to_publish": Flag(),
        "says": Text(),
    },
    {
        **SCALING,
        "decoder.likelihood.log_scale": Array({"": LOG_SCALES}, "real", optional=True),
        "decoder.*": Array({"*": FINITE}, "real"),
        "encoder.*": Array({"*": FINITE}, "real"),
        "latent.*": Array({"*": ANY}, "any"),
        "own.*": Array({"*": ANY}, "any"),
        "prior.*": Array({"*": ANY}, "any"),
    },
    _generator,
)
"""A VAE of zprime without its encoder, or with encoder and prior, by which it can be measured again. Or a model of the
user's own, as `OWN_MODEL` tells of it, whose code is not there."""
FIT = Record(
    {
        "outcome": Record({"ok": Flag(), "message": Text()}),
        "chosen": Record(
            {
                "epsilon": Maybe(Real(0, 1, inside=True)),
                "gain": Maybe(Number()),
                "active": Maybe(Items(Whole(0, LATENTS), 1)),
                "weights": Text(),
                "settings": Named(Plain()),
            }
        ),
        "curve": Items(
            Record(
                {
                    "setting": Text(),
                    "value": Number(),
                    "bytes": Whole(),
                    "epsilon": Real(0, 1),
                    "gain": Number(),
                    "stderr": Maybe(Number()),
                }
            )
        ),
        "trace": Named(Items(Number())),
        "settings": Record({"kind": Text()}),
        "described": Named(Plain()),
    }
)
"""How the fit of a latent distribution went."""


SHOWN = ("data.rows", "data.reconstructions")


def _audit(config: Mapping[str, Any], tensors: Mapping[str, Tensor], sizes: Sizes) -> None:
    """Pictures of one size."""
    pictures = {n: tuple(t.shape[1:]) for n, t in tensors.items() if n.startswith(("grid.", "near.", *SHOWN))}
    need("pictures", len(set(pictures.values())) <= 1, "rows of one shape", sorted(set(pictures.values())))


AUDIT = Schema(
    {"verdict": Text(), "choice": Text(pattern=NAME), "copying": Named(COPYING, NAME)},
    {
        "data.codes": Array({"codes latents": FINITE}, "real", optional=True),
        "data.labels": Array({"codes": ANY}, "int64", optional=True),
        "data.*": Array({"*": FINITE}, "real"),
        "map.*": Array({"* latents": FINITE}, "real"),
        "grid.*": Array({"*": FINITE}, "real"),
        "near.*": Array({"*": FINITE}, "real"),
        "*": Array({"*": ANY}, "any"),
    },
    _audit,
)
KINDS = {
    "run": RUN,
    "data": DATA,
    "model": MODEL,
    "own-model": OWN_MODEL,
    "posteriors": POSTERIORS,
    "audit": AUDIT,
    "drift": Schema(),
    "seeds": Schema({"audits": Named(Text(), r"-?[0-9]{1,20}")}),
    "generator": GENERATOR,
    "checkpoint": CHECKPOINT,
}


def check_settings(where: Path | str, kind: str, config: Mapping[str, Any]) -> None:
    """Compare the settings of an artefact with what its kind has; those of a fit with what is told of fits.

    Raises:
        ArtifactError: one is missing, or is another.
    """
    wanted = Schema({"fit": FIT}) if kind.startswith("latent/") else KINDS.get(kind, Schema())
    with guarded(where):
        wanted.settings(config)


def check(where: Path | str, kind: str, config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    """Compare settings and tensors with what the kind has.

    Raises:
        ArtifactError: one is missing, or is another.
    """
    with guarded(where):
        KINDS[kind].check(config, tensors)
