"""coreset: the exemplar prior on K weighted pseudo-data in place of all N rows (after ByPE-VAE, Ai et al. 2021).

The prior has two trainings at once, which share no gradients. The objective takes pseudo-data and weights as they are:
its gradients go to encoder, decoder and width. The prior's own loss takes encoder and width as they are: its gradients
go to pseudo-data and weights. It is, nats a row of the batch,

    -log p(z_i),  z_i = mean(x_i) + width * noise,

the cross-entropy of p with the exemplar prior of all rows (Norouzi et al. 2020), `e(z) = 1/N sum_i N(z; mean(x_i),
width^2 I)`, of which the z_i are draws. As e depends on neither pseudo-data nor weights, to minimise it in expectation
over batches and noise is to minimise KL(e || p) over these.
"""

from dataclasses import dataclass
from typing import ClassVar, final

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from zprime.arrays import variances
from zprime.distribution import LatentDistribution
from zprime.kernels import trainable_mixture_log_prob
from zprime.latent.coreset import Coreset
from zprime.latent.gaussians import Mixture
from zprime.latent.reduction import least_rows
from zprime.learned.inputs import InputsPrior
from zprime.learned.settings import LearnedPrior, at_least, cannot_go_on
from zprime.posteriors import MemoryPosteriors
from zprime.trainable_prior import Encode, TrainablePrior


@final
@dataclass(frozen=True)
class CoresetPrior(LearnedPrior):
    """`p(z) = sum_k w_k N(z; mean(u_k), width^2 I)`, with pseudo-data u_k and weights w_k that stand for all rows.

    The mixture is that of ByPE-VAE (Ai et al. 2021). How u and w are found differs. There they go down KL(p || e), e
    being the prior of all rows, by the gradient of a Bayesian pseudocoreset (Manousakas et al. 2020): covariances, over
    codes drawn from p, of the decoder's log-likelihoods of rows and of pseudo-data, in a pass over the rows at every
    tenth epoch (in the authors' code). Here they go down KL(e || p), e being the exemplar prior of all rows, under
    encoder and width as they are, at every step and without the decoder. The gradient is unbiased, but it is that of
    another divergence: this one spreads p over all of e, while the paper's lets p leave out parts of e.

    The ELBO's own gradient in u and w is that of the same cross-entropy with q(z|x_i) in the place of
    N(mean(x_i), width^2 I), times beta. So what sets this prior apart from `vamp` is one width for all components, and
    that pseudo-data follow neither the posteriors' scales nor the weight of the KL term.

    No row leaves anything out of p: pseudo-data that have left their rows (`InputsPrior.moved`) are none. With K near N
    each row can have a pseudo-datum of its own, and where the width suits its posterior its KL term is then log(1/w_k)
    nats at most; so K should be far below N.

    Attributes:
        components: K; at most as many as there are training rows. Every step encodes K rows twice beside its batch, and
            the batch a second time.
    """

    kind: ClassVar[str] = Coreset.kind
    components: int = 50

    def check(self) -> None:
        """Raise `UsageError` for a value that cannot be used."""
        at_least("components", self.components, 1)

    def make(self, d: int) -> TrainablePrior:
        """A prior in `d` dimensions that is not begun yet."""
        return TrainableCoreset(self.components)

    def going_on(self, r: LatentDistribution) -> TrainablePrior:
        """Not possible.

        Raises:
            UsageError: always: a `Coreset` keeps no pseudo-data, and other ones would begin at a worse ELBO.
        """
        raise cannot_go_on(r, "keeps no pseudo-data")


@final
class TrainableCoreset(InputsPrior):
    """Pseudo-data and weights, trained by the prior's own loss, and a width, trained by the objective.

    Attributes:
        log_width: the logarithm of the standard deviation that all components have in every dimension.
    """

    kind: ClassVar[str] = Coreset.kind

    def begin(self, encode: Encode, x: Float[Tensor, "n *datum"], rng: torch.Generator) -> None:
        """Pseudo-data are the training rows nearest to k-means centres of the codes, with equal weights.

        Raises:
            UsageError: the encoder's answer has no gradient in its input, so that they would stay these rows.
        """
        super().begin(encode, x, rng)
        self._noise = torch.empty(0, 0)
        self._place = torch.zeros(len(x), dtype=torch.int64, device=x.device)
        """Where in the batch a row is, whose noise is there too."""

    def start(self, data: MemoryPosteriors) -> None:
        """The width of the encoder's posteriors, by the mean of their variances."""
        self.log_width = nn.Parameter(0.5 * variances(data.mean, data.scale).mean().log())
        self.d = data.d

    def before_batch(self, rows: Int[Tensor, " b"], rng: torch.Generator) -> None:
        """Pseudo-data back into their box; the noise of the draws of the exemplar prior, for the whole batch."""
        super().before_batch(rows, rng)
        like = self.log_width
        self._noise = torch.randn(len(rows), self.d, generator=rng, dtype=like.dtype, device=like.device)
        self._place[rows] = torch.arange(len(rows), device=rows.device)

    def log_prob(self, z: Float[Tensor, "b d"], rows: Int[Tensor, " b"] | None = None) -> Float[Tensor, " b"]:
        """Of a code, with gradients in z, in the width and through the encoder; in no pseudo-datum, in no weight."""
        return self._density(z, (self.free.detach(), self.logits.detach()), self.log_width)

    def own_loss(self, x: Float[Tensor, "b *datum"], rows: Int[Tensor, " b"]) -> Float[Tensor, ""]:
        """Sum over these rows of -log p at a draw of each row's exemplar, with gradients in pseudo-data and weights.

        The encoder passes gradients on to the pseudo-data and gets none, however it holds its parameters: the gradients
        are computed here, and what is returned is linear in pseudo-data and weights and has these gradients.
        """
        log_width = self.log_width.detach()
        with torch.no_grad():
            z = self.encode(x)[0] + log_width.exp() * self._noise[self._place[rows]]
        own = (self.free, self.logits)
        loss = -self._density(z, own, log_width).sum()
        slopes = torch.autograd.grad(loss, own)
        linear = torch.stack([(p * slope).sum() for p, slope in zip(own, slopes, strict=True)]).sum()
        return loss.detach() + linear - linear.detach()

    def _density(self, z: Tensor, own: tuple[Tensor, Tensor], log_width: Tensor) -> Float[Tensor, " b"]:
        """Log p(z) with these pseudo-data, in units of their box, and logits of weights."""
        free, logits = own
        mean, _ = self.at(free)
        return trainable_mixture_log_prob(z, mean, log_width.exp().expand_as(mean), logits.log_softmax(0))

    def frozen(self) -> Coreset:
        """The K Gaussians, without the pseudo-data, and the effective training rows behind the one that has fewest.

        A row counts for a component by its share of the density at the row's code. A pseudo-datum that is still at
        the row it began at (`moved`) is one row.
        """
        with torch.no_grad():
            mean, codes = self.at(self.free)[0].clone(), self.codes().mean
            width, log_weight = self.log_width.exp().to(mean), self.logits.log_softmax(0).to(mean)
            alike = Mixture(log_weight, mean, width.expand_as(mean))
            rows = least_rows(MemoryPosteriors(codes, width.expand_as(codes)), alike)
            return Coreset(log_weight, mean, width, rows if self.moved(codes) else min(rows, 1.0))
