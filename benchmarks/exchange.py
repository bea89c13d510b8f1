"""How often the exchange check passes where the likelihood gain is right, and fails where it is not.

`make bench-exchange`. A model whose posterior is known, an encoder that is exact, too narrow, or without one of two
modes, and a candidate; the estimated gain on fresh rows stands beside the exact one (closed form or quadrature).
"""

import functools
import math
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from scipy.stats import binomtest
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from harness import by_seed
from models import bent, bent_gain

import bimodal
from oracles import linear_gaussian
from zprime.data import Rows
from zprime.distribution import LatentDistribution
from zprime.latent import Defensive, Gaussian, Mixture
from zprime.measure.candidates import Candidates
from zprime.measure.likelihood.exchange import exchange_check
from zprime.measure.likelihood.gains import measure_gains
from zprime.measure.likelihood.simulation import simulate
from zprime.measure.study import Split, Study
from zprime.posteriors import MemoryPosteriors
from zprime.results.audit import AuditSettings
from zprime.rng import stream
from zprime.vae import VAE

LINEAR = linear_gaussian(D=5, d=2, var=0.05)
SETTINGS = AuditSettings(draws=400, exchange=200)
ROWS = 200

WIDE = Gaussian(torch.tensor([0.8, 0.0]), torch.tensor([0.6, 1.2]))
SHARP = Mixture(
    torch.zeros(3).log_softmax(0), torch.tensor([[1.5, 0.0], [-1.5, 0.5], [0.0, -1.0]]), torch.full((3, 2), 0.1)
)


def linear_gain(x: Tensor, r: LatentDistribution) -> Tensor:
    """Exact, in closed form."""
    parts = r.components  # type: ignore[attr-defined]
    covariance = torch.diag_embed(parts.scale.double().square())
    of_r = LINEAR.log_evidence(x, log_weight=parts.log_weight, mean=parts.mean, covariance=covariance)
    of_p = LINEAR.log_evidence(x)
    return torch.logaddexp(of_r + math.log(0.99), of_p + math.log(0.01)) - of_p


def curved_gain(x: Tensor, r: LatentDistribution) -> Tensor:
    """Exact, by quadrature."""
    return bent_gain(x, Defensive(r, 0.01))


def bimodal_gain(x: Tensor, r: LatentDistribution) -> Tensor:
    """Exact, by quadrature in the first latent."""
    parts = r.components  # type: ignore[attr-defined]
    return bimodal.exact_gain(x, parts.log_weight.double(), parts.mean.double(), parts.scale.double().square(), 0.01)


Exact = Callable[[Tensor, LatentDistribution], Tensor]


def cases() -> dict[str, tuple[VAE, LatentDistribution, Exact, bool]]:
    """Name -> model, distribution, its exact gain, and whether the check should pass."""
    one_sided = Gaussian(torch.tensor([0.8, 0.0]), torch.tensor([0.6, 1.0]))
    return {
        "linear, q exact": (LINEAR.vae(), WIDE, linear_gain, True),
        "linear, q half as wide": (LINEAR.vae(widen=0.5), WIDE, linear_gain, True),
        "linear, q exact, sharp r": (LINEAR.vae(), SHARP, linear_gain, True),
        "linear, q half as wide, sharp r": (LINEAR.vae(widen=0.5), SHARP, linear_gain, True),
        "not linear, 2 latents": (bent(), WIDE, curved_gain, True),
        "not linear, 2 latents, sharp r": (bent(), SHARP, curved_gain, True),
        "two modes, one encoded": (bimodal.vae(2), one_sided, bimodal_gain, False),
    }


def run(model: VAE, r: LatentDistribution, exact: Exact, seed: int) -> list[float]:
    """Passed, shift, its error, gain on fresh rows of the prior by the estimator, and the exact one."""
    candidates = Candidates({"r": Defensive(r, 0.01)})
    wanted = next(i for i in candidates.eligible if i.name == "r")
    # fresh rows from halfway between prior and candidate, so that both signs of the gain occur
    both = [
        simulate(d, model, ROWS // 2, dtype=torch.float64, rng=stream(seed, "rows", name))[1].x
        for name, d in (("r", r), ("p", candidates.prior))
    ]
    x = torch.cat(both)
    posteriors = MemoryPosteriors(*(v.contiguous() for v in model.encode(x)))
    split = Split("heldout", posteriors, Rows("heldout", x, torch.arange(len(x))))
    study = Study(split, split, split, prior=candidates.prior, model=model, settings=SETTINGS, seed=seed)
    rng = stream(seed, "gains")
    gains = measure_gains(candidates, split, rng=rng, model=model, draws=SETTINGS.draws).likelihood[wanted]
    found = exchange_check(study, candidates, wanted, 1.0)
    assert found is not None
    shift = found.delta
    return [float(found.passed), shift.value, shift.stderr or 0.0, float(gains.mean()), float(exact(x, r).mean())]


def main() -> None:
    runs = {name: functools.partial(run, model, r, exact) for name, (model, r, exact, _) in cases().items()}
    by_seed(str(__doc__).splitlines()[0], "exchange", runs, table)


def table(kept: dict[str, list[list[float]]]) -> str:
    lines = [
        "# The exchange check: how often it passes",
        "",
        f"{SETTINGS.exchange} rows simulated from the prior and as many from the candidate, {SETTINGS.draws} draws a "
        f"row; candidates with 1 % of the prior; seeds 0, 1, ... Beside it the likelihood gain on {ROWS} fresh rows, "
        "half of them from the prior and half from r, and the exact gain of the same rows: closed form for linear "
        "models, quadrature for the others. Rates with their 95 % Wilson intervals.",
        "",
        "| model | runs | passes | should | mean shift, nats | its mean s.e. | spread over seeds | "
        "estimated less exact gain |",
        f"|{' --- |' * 8}",
    ]
    should = {name: case[3] for name, case in cases().items()}
    for name, found in kept.items():
        passed, delta, stderr, gain, exact = torch.tensor(found, dtype=torch.float64).T
        interval = binomtest(int(passed.sum()), len(found)).proportion_ci(method="wilson")
        error = gain - exact
        lines.append(
            f"| {name} | {len(found)} | {float(passed.mean()):.1%} ({interval.low:.1%} to {interval.high:.1%}) | "
            f"{'yes' if should[name] else 'no'} | {float(delta.mean()):+.3f} | {float(stderr.mean()):.3f} | "
            f"{float(delta.std()):.3f} | {float(error.mean()):+.3f} ± {float(error.std()) / len(found) ** 0.5:.3f} |"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
