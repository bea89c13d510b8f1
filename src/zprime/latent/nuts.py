"""shared-nuts: draws from the exact posterior of a latent that a group of rows shares, by Hamiltonian Monte Carlo."""

import math
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, final

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from zprime.distribution import Density, LatentDistribution, is_standard
from zprime.errors import NumericalError, UsageError
from zprime.extras import imported
from zprime.latent.kind import About, Fit, Need, Outcome, Settings, Task
from zprime.latent.product_of_experts import members
from zprime.results.facts import Chosen
from zprime.rng import fork
from zprime.schema import FINITE, Array, Schema, Whole
from zprime.vae import Decoder

RHAT = 1.01  # Vehtari et al. 2021
ESS = 100.0


@final
@dataclass(frozen=True, repr=False, eq=False)
class SharedNUTS(LatentDistribution):
    """Draws from p(z | X = D), all of D sharing one z, and no density: `sample` picks among them at random."""

    kind: ClassVar[str] = "shared-nuts"
    schema: ClassVar[Schema] = Schema({"rows": Whole(1)}, {"draws": Array({"k d": FINITE})})
    density_of_kind: ClassVar[Density] = "none"
    only_shown: ClassVar[bool] = True
    draws: Float[Tensor, "k d"]
    rows: int

    @property
    def d(self) -> int:
        """Latent dimension."""
        return self.draws.shape[1]

    @property
    def label(self) -> str:
        """With the number of rows that share it."""
        return f"shared-nuts({self.rows})"

    def log_prob(self, z: Float[Tensor, "n d"]) -> Float[Tensor, " n"]:
        """Not known: Monte Carlo gives draws.

        Raises:
            UsageError: always.
        """
        raise UsageError(
            f"{self.label}: this kind consists of Monte Carlo draws and has no density, so no likelihood can be scored "
            "under it; use it for sampling, or kind product-of-experts, whose density is a closed form"
        )

    def sample(self, n: int, *, rng: torch.Generator) -> Float[Tensor, "n d"]:
        """Stored draws, picked at random with replacement."""
        return self.draws[torch.randint(len(self.draws), (n,), generator=rng, device=self.draws.device)]

    @property
    def least_rows(self) -> float:
        """Rows that share the latent: every draw is of the posterior given all of them."""
        return float(self.rows)

    def tensors(self) -> dict[str, Tensor]:
        """The draws."""
        return {"draws": self.draws}

    def config(self) -> dict[str, Any]:
        """How many rows share it."""
        return {"rows": self.rows}

    @classmethod
    def rebuild(cls, config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> LatentDistribution:
        """From its draws."""
        return cls(tensors["draws"], int(config["rows"]))


@final
@dataclass(frozen=True)
class SharedNUTSSettings(Settings):
    """The no-U-turn sampler (Hoffman & Gelman 2014, Pyro's) on `log p(z) + sum_i log p(x_i | z)` over a group of rows.

    Exact but for Monte Carlo error, for any decoder that torch can differentiate; the encoder only says where to start
    (at a draw from the posterior of a random row, for every chain another). One gradient takes one decoded datum and
    the likelihood of all rows of the group, and a draw takes 3 to 100 gradients or more.

    Attributes:
        group: row ids of the group; empty means the whole data set.
        label: take the rows of this label in place of `group`.
        draws: draws kept, of all chains together (with half as many, good chains can fail on R-hat by chance).
        chains: independent chains, one after the other.
        warmup: steps of every chain that tune it and are thrown away.
    """

    kind: ClassVar[str] = SharedNUTS.kind
    about: ClassVar[About] = About(
        "draws",
        "minutes: NUTS through the decoder",
        "as product-of-experts, without the encoder; draws without a density",
    )
    needs: ClassVar[frozenset[Need]] = frozenset({"decoder", "rows"})
    small_steps: ClassVar[bool] = True
    has_density: ClassVar[bool] = False
    group: tuple[int, ...] = ()
    label: int | None = None
    draws: int = 2000
    chains: int = 4
    warmup: int = 300

    def check(self) -> None:
        """Raise `UsageError` for a value that cannot be used."""
        least_of = {"chains": 1, "warmup": 10, "draws": 4 * self.chains}
        for name, least in least_of.items():
            value = getattr(self, name)
            if value < least:
                raise UsageError(f"{name}: expected at least {least}, got {value}")

    def fit(self, task: Task) -> Fit[SharedNUTS]:
        """Run the chains; the outcome is bad where R-hat is above 1.01 or the effective sample size below 100.

        Raises:
            UsageError: Pyro is not installed, no context, no such rows, or too few draws or chains.
            NumericalError: log p(x|z) is not finite where a chain starts.
        """
        self.check()
        context, train, rng = task.need_context(self.kind), task.train, task.rng
        take = members(train, group=self.group, label=self.label)
        x = context.train.x[take]
        mcmc = _library("pyro.infer.mcmc")
        _library("arviz_stats.base")  # asked for before hours of sampling, not after
        data = train.gather()
        row = torch.randint(len(take), (self.chains,), generator=fork(rng, "rows"))
        noise = torch.randn(self.chains, train.d, generator=fork(rng, "starts"), dtype=torch.float64)
        starts = data.mean[take[row]].double() + data.scale[take[row]].double() * noise
        target = Target(context.model, x, task.prior)
        each = -(-self.draws // self.chains)
        chains, diverged = [], 0
        for c in range(self.chains):
            with torch.no_grad():
                start = float(target({"z": starts[c]}))
            if not math.isfinite(start):
                raise NumericalError(
                    f"{self.kind}: log p(x|z) of {len(take)} rows is not finite at a code of row "
                    f"{int(train.row_ids[take[row[c]]])}; check that the rows are scaled as in training"
                )
            length = Length(draws=each, warmup=self.warmup)
            tell = partial(task.progress, f"{self.kind} chain {c + 1}")
            z, bad = _chain(mcmc, target, starts[c], length, seed=fork(rng, "chain", c), tell=tell)
            chains.append(z)
            diverged += bad
        drawn = torch.stack(chains)
        rhat, ess = diagnose(drawn)
        chosen = Chosen(settings={"rhat": max(rhat), "ess": min(ess), "diverged": diverged})
        # chains in turn, so that what is cut off is the end of each
        kept = drawn.transpose(0, 1).flatten(0, 1)[: self.draws]
        distribution = SharedNUTS(kept.to(data.mean.dtype).contiguous(), len(take))
        return Fit(distribution, _outcome(max(rhat), min(ess), diverged, self), {"rhat": rhat, "ess": ess}, chosen)


class Target:
    """-[log p(z) + sum_i log p(x_i | z)] in nats, float64, up to a constant."""

    def __init__(self, decoder: Decoder, x: Float[Tensor, "n *datum"], prior: LatentDistribution) -> None:
        self.decoder, self.x, self.prior = decoder, x, prior

    def __call__(self, parameters: Mapping[str, Tensor]) -> Tensor:
        """The potential energy at `parameters["z"]`, shape [d]."""
        z = parameters["z"]
        likelihood: Tensor = self.decoder.decode(z[None].to(self.x.dtype)).log_prob(self.x)
        log_prior = -0.5 * z.square().sum() if is_standard(self.prior) else self.prior.log_prob(z[None])[0]
        return -log_prior - likelihood.double().sum()


def diagnose(draws: Float[Tensor, "c k d"]) -> tuple[list[float], list[float]]:
    """Rank-normalised split R-hat and bulk effective sample size of every dimension (Vehtari et al. 2021)."""
    with warnings.catch_warnings():
        array_stats = _library("arviz_stats.base").array_stats
        if len(draws) == 1:  # its halves, as chains
            half = draws.shape[1] // 2
            draws = torch.cat([draws[:, :half], draws[:, -half:]])
        array = draws.double().numpy()
        rhat = array_stats.rhat(array, chain_axis=0, draw_axis=1)
        ess = array_stats.ess(array, chain_axis=0, draw_axis=1)
    return [float(v) for v in np.ravel(rhat)], [float(v) for v in np.ravel(ess)]


def _outcome(rhat: float, ess: float, diverged: int, settings: SharedNUTSSettings) -> Outcome:
    """Whether the chains agree, and gave enough draws."""
    diagnostics = f"R-hat {rhat:.3f}, effective sample size {ess:.0f} of {settings.draws}, {diverged} divergent steps"
    # not <=: a chain that never moved has R-hat NaN
    if not rhat <= RHAT:
        return Outcome(
            ok=False,
            message=f"{diagnostics}: the chains disagree (R-hat above {RHAT}), because they were too short or p(z|D) "
            f"has several modes; raise warmup to {4 * settings.warmup} and draws to {4 * settings.draws}; if that does "
            "not help do not use them",
        )
    if not ess >= ESS:
        return Outcome(
            ok=False,
            message=f"{diagnostics}: below {ESS:.0f}, too few for a mean or an interval; "
            f"raise draws to {4 * settings.draws}",
        )
    return Outcome(message=diagnostics)


def _library(module: str) -> Any:
    """A module of the `nuts` extra, imported so that torch's argument validation and warning filters stay as they are.

    Raises:
        UsageError: it is not installed.
    """
    with contained():
        user = f"kind {SharedNUTSSettings.kind}"
        return imported(module, user=user, packages="Pyro and arviz-stats", extra="nuts")


@contextmanager
def contained(seed: torch.Generator | None = None) -> Iterator[None]:
    """Run Pyro, which draws from torch's global stream, and put back all that it sets.

    Args:
        seed: where the global stream is to start inside.
    """
    validation = torch.distributions.Distribution._validate_args
    try:
        with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
            if seed is not None:
                torch.default_generator.manual_seed(seed.initial_seed())
            yield
    finally:
        torch.distributions.Distribution.set_default_validate_args(validation)


@dataclass(frozen=True)
class Length:
    """Of a chain: steps that tune it and are thrown away, and draws that are kept."""

    draws: int
    warmup: int


def _chain(
    mcmc: Any,
    target: Target,
    start: Float[Tensor, " d"],
    length: Length,
    *,
    seed: torch.Generator,
    tell: Callable[[int, int], None],
) -> tuple[Float[Tensor, "k d"], int]:
    """One chain: its draws, and how many of its steps diverged."""
    done, steps = 0, length.warmup + length.draws

    def hook(kernel: Any, parameters: Any, stage: str, step: int) -> None:
        nonlocal done
        done += 1
        tell(min(done, steps), steps)

    with contained(seed), torch.enable_grad():
        # a dense mass matrix takes out the posterior's correlations, but has to be learned: d^2 / 2 numbers
        kernel = mcmc.NUTS(potential_fn=target, full_mass=length.warmup >= 10 * len(start))
        run = mcmc.MCMC(
            kernel,
            num_samples=length.draws,
            warmup_steps=length.warmup,
            initial_params={"z": start.clone()},
            num_chains=1,
            disable_progbar=True,
            hook_fn=hook,
        )
        run.run()
        draws: Tensor = run.get_samples()["z"]
        diverged = len(run.diagnostics()["divergences"]["chain 0"])
    return draws.detach(), diverged
