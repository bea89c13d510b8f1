"""Arguments of the wrong type: whatever is given, a public function raises an error of zprime's or none."""

import functools
import inspect
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

import test_bring_standins as standins
import zprime
from test_bring_wrong import CODES, DATA, RIGHT, brought, decoder, posterior
from zprime import bring
from zprime.errors import UsageError, ZprimeError

FEW = {s: x[:60] for s, x in DATA.items()}
ODD: tuple[object, ...] = (3, "x", object(), {"train": 3}, lambda *given: 3, torch.zeros(3))
LEFT = ("progress", "check", "keep_duplicates", "quick", "features", "allow_copies", "allow_rows")
"""Callbacks, and what is true or false."""
BARE = zprime.AuditSettings(rows=20, draws=32, grid=2, map=5, simulated=0, exchange=0, samples=0)


class Grids:
    def encode(self, x: Tensor) -> SimpleNamespace:
        return SimpleNamespace(latents=x.reshape(len(x), 2, 3))


def draw(x: Tensor) -> Tensor:
    return posterior(x)[0] + torch.randn(len(x), 2)


@functools.cache
def mine() -> bring.Brought:
    return brought(data=FEW)


def of_audit() -> dict[str, Any]:
    m = mine()
    given = {"posteriors": m.posteriors, "model": m.model, "rows": m.rows, "settings": BARE}
    return {"candidates": {"p": zprime.latent.Prior(2)}, **given}


CALLS: dict[str, tuple[Callable[..., object], Callable[[], dict[str, Any]]]] = {
    "bring.modules": (bring.modules, lambda: {"encoder": posterior, "decoder": decoder, "data": FEW, **RIGHT}),
    "bring.codes": (
        bring.codes,
        lambda: {"encoder": lambda x: posterior(x)[0], "data": FEW, "decoder": decoder},
    ),
    "bring.draws": (bring.draws, lambda: {"encoder": draw, "data": FEW, "decoder": decoder, "draws": 2}),
    "bring.draws of arrays": (
        bring.draws,
        lambda: {"encoder": None, "data": {s: torch.stack([draw(x), draw(x)], 1) for s, x in FEW.items()}},
    ),
    "bring.arrays": (
        bring.arrays,
        lambda: {"mean": CODES, "scale": {s: torch.full_like(x, 0.3) for s, x in CODES.items()}},
    ),
    "bring.diffusers": (bring.diffusers, lambda: {"vae": Grids(), "images": FEW}),
    "bring.scvi": (bring.scvi, lambda: {"model": standins.cells()}),
    "bring.tvae": (
        bring.tvae,
        lambda: {
            "synthesizer": standins.Synthesizer(),
            "tables": standins.TABLES,
            "encoder": standins.encoder(),
            "check": False,
        },
    ),
    "bring.pythae": (
        bring.pythae,
        lambda: {"model": standins.Pythae(), "data": {s: x[:, :1] for s, x in FEW.items()}},
    ),
    "fit": (zprime.fit, lambda: {"settings": "gaussian", **mine().splits}),
    "audit": (zprime.audit, of_audit),
    "sample": (zprime.sample, lambda: {"model": mine().generator(zprime.latent.Prior(2)), "n": 3}),
}


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("name", CALLS)
def test_an_argument_of_another_type_gives_no_error_of_pythons_own(name: str) -> None:
    call, given = CALLS[name]
    right = given()
    call(**right)
    refused = 0
    for argument in inspect.signature(call).parameters:
        for odd in () if argument in LEFT else ODD[1:3] if name == "audit" else ODD:
            try:
                call(**{**right, argument: odd})
            except ZprimeError:
                refused += 1
    assert refused >= 5


def test_a_type_is_named_in_words() -> None:
    for given, text in (
        ({"settings": {"rows": 5}}, r"^settings: expected AuditSettings, got dict; of a brought model write audit\("),
        ({"workers": "two"}, "^workers: expected a whole number, got 'two'; of"),
        ({"workers": True}, "^workers: expected a whole number, got True; of"),
        ({"groups": [1]}, "^groups: expected a mapping or None, got list; of"),
    ):
        with pytest.raises(UsageError, match=text):
            zprime.audit(**{**of_audit(), **given})
