"""The architecture of a VAE, as values."""

from dataclasses import dataclass, field, replace

from torch import nn

from zprime import likelihoods
from zprime.errors import UsageError
from zprime.heads import Ends
from zprime.per_entry import PerEntry, sees, width
from zprime.serialise import LATER

FORMS = ("diagonal", "full", "flow", "points")
BOUND = 120
"""Of a log-variance: beyond it float32 has no such scale."""
FLOW_STEPS = 4


@dataclass(frozen=True)
class VAESettings:
    """The architecture of a VAE.

    Attributes:
        latents: latent dimension d.
        network: `mlp`, `gated-mlp`, `conv`, `residual` (convolutions with group norm), or `auto`: conv for images of
            16 x 16 and more, else mlp.
        likelihood: `gaussian` or `bernoulli`; `laplace`; `gaussian-per-entry`, with a scale of each entry; `logistic`,
            pixels of 256 levels; `categorical`; or `poisson` and `negative-binomial`, counts.
        scale: fixed standard deviation of the Gaussian likelihood (b of Laplace) in units of the scaled data; 0 learns
            it.
        hidden: widths of the hidden layers of `mlp` and `gated-mlp`.
        width: channels of the first convolution of `conv` and `residual`.
        posterior: form of q(z|x): `diagonal`, a Gaussian of independent dimensions; `full`, one with a full covariance;
            `flow`, an inverse autoregressive flow that begins as the first; or `points`, one code a row and no q, a
            deterministic autoencoder (--objective rae, or wae-mmd).
        log_variance: least and greatest log-variance of q(z|x), two numbers, beyond which they are cut off; of `full`
            twice the log of the factor's diagonal. Empty for no bounds.
        components: logistics in the mixture of each pixel of `logistic`.
        classes: codes of `categorical`: an entry is one of 0 to classes - 1.
        flow_steps: autoregressive steps of --posterior flow.
    """

    latents: int = 8
    network: str = "auto"
    likelihood: str = "gaussian"
    scale: float = 0.0
    hidden: tuple[int, ...] = (256, 256)
    width: int = 24
    posterior: str = field(default="diagonal", metadata=LATER)
    log_variance: tuple[float, ...] = field(default=(), metadata=LATER)
    components: int = field(default=1, metadata=LATER)
    classes: int = field(default=0, metadata=LATER)
    flow_steps: int = field(default=FLOW_STEPS, metadata=LATER)

    def resolve(self, shape: tuple[int, ...]) -> "VAESettings":
        """These settings with `auto` replaced by the network for data of this shape.

        Raises:
            UsageError: a value that cannot be used.
        """
        if self.latents < 1:
            raise UsageError(f"latents: expected at least 1, got {self.latents}")
        if any(h < 1 for h in self.hidden) or self.width < 1:
            raise UsageError(f"hidden and width: expected at least 1, got {self.hidden} and {self.width}")
        if self.posterior not in FORMS:
            raise UsageError(f"posterior: expected one of {', '.join(FORMS)}, got {self.posterior!r}")
        bounds = self.log_variance
        if bounds and not (len(bounds) == 2 and -BOUND <= bounds[0] < bounds[1] <= BOUND):
            raise UsageError(
                f"log_variance: expected two numbers from {-BOUND} to {BOUND}, the least and the greatest, got "
                f"{' '.join(f'{b:g}' for b in bounds)}"
            )
        if bounds and self.posterior == "points":
            raise UsageError("log_variance: codes have none, got bounds with --posterior points; leave them out")
        if bounds and self.posterior == "flow":
            raise UsageError(
                "log_variance: the steps of a flow stretch the Gaussian that they begin at, so bounds on its variance "
                "are none on that of q(z|x), got bounds with --posterior flow; leave them out"
            )
        if self.flow_steps < 1:
            raise UsageError(f"flow_steps: expected at least 1, got {self.flow_steps}")
        if self.flow_steps != FLOW_STEPS and self.posterior != "flow":
            raise UsageError(
                f"flow_steps: they are of --posterior flow, got {self.flow_steps} with --posterior {self.posterior}; "
                "leave them out"
            )
        network = self.network
        if network == "auto":
            network = "conv" if len(shape) == 3 and min(shape[1:]) >= 16 else "mlp"
        return replace(self, network=network, hidden=tuple(self.hidden), log_variance=tuple(bounds))

    def new_likelihood(self) -> nn.Module:
        """p(x|z) of the decoder's output, before anything is learned.

        Raises:
            UsageError: a likelihood that cannot be made.
        """
        return likelihoods.build(
            self.likelihood, scale=self.scale or None, components=self.components, classes=self.classes
        )

    @property
    def ends(self) -> Ends:
        """What the encoder answers and sees, and how much the decoder answers."""
        likelihood = self.new_likelihood()
        outputs = likelihood.outputs if isinstance(likelihood, PerEntry) else 1
        seen = width(likelihood), sees(likelihood)
        return Ends(self.posterior, self.log_variance, outputs, *seen, steps=self.flow_steps)
