"""Whether the KL term of the ELBO makes the posteriors equal to the prior: part (1) of `zprime explain`."""

from zprime.reporting.words import bullets
from zprime.results.audit import Audit
from zprime.results.latents import Surgery
from zprime.results.names import STANDARD
from zprime.statistics.format import figures, nats, prose


def alike(s: Surgery) -> bool:
    """Whether the average posterior is nearly N(0, I) in mean and covariance, compared with a single posterior."""
    return s.gaussian_part.value < 0.1 * max(s.mean_kl.value, 1.0)


def collapsed(s: Surgery) -> bool:
    """Whether the posteriors are so near the prior that the codes tell hardly anything about the data."""
    return s.mean_kl.value < 0.1


def paragraphs(audit: Audit) -> list[str]:
    """What the term pulls on, what is left of it, its two parts, and what is nearly equal."""
    if not audit.surgery:
        return []
    s = audit.surgery["train"]
    n, info, seen = s.mean_kl.n, s.information, s.gaussian_part.value
    full = "nearly all" if info.value > s.log_n - 0.5 else "not all"
    percentage = 100 * seen / s.hole.value if s.hole.value > 0 else 100.0
    outcome = (
        "Here it outweighs the reconstruction: the codes tell hardly anything about the data."
        if collapsed(s)
        else "Reconstruction pulls the other way, and outweighs it: a posterior equal to p(z) tells nothing of its x."
    )
    return [
        f"{'Here it does' if collapsed(s) else 'No'}. The KL term is the mean of KL(q(z|x)‖p(z)) over rows. It pulls "
        "every posterior towards p(z), and with them the mean, the covariance and the shape of their average. "
        f"{outcome} {_left(audit, s)} Those nats have two parts (Hoffman & Johnson 2016):",
        bullets(
            [
                f"**I = {prose(info)} nats tell the rows apart.** I could be log N = {nats(s.log_n)} at most; exp(I) = "
                f"{prose(s.told_apart)} of {n:,} rows can be told apart: {full}.",
                f"**{prose(s.hole)} nats are the hole**, the distance of the average from p(z). {nats(seen)} of them "
                f"({percentage:.0f} %) can be seen in its mean and covariance. The rest is shape.",
            ]
        ),
        _moments(audit),
        "So (1) is not why one draws from p(Z): that is what the model says of a new row. But the KL term is why "
        "drawing from p(Z) works at all: nothing else in the ELBO asks the average to be near p(Z). How near it is has "
        "to be measured.",
    ]


def _left(audit: Audit, s: Surgery) -> str:
    """How far a posterior still is from the prior."""
    a = audit.averages
    width = ""
    if a is not None:
        width = (
            f", and its standard deviation about {figures(a.width, 3)} (that of p(z) is "
            f"{figures(a.members['prior'].width, 3)})"
        )
    return f"Here a posterior is {nats(s.mean_kl.value)} nats from p(z) on average{width}."


def _moments(audit: Audit) -> str:
    """What is known of mean and covariance of the average."""
    s = audit.surgery["train"]
    near = alike(s)
    if audit.prior != STANDARD:
        return (
            f"Mean and covariance of the average say {'hardly anything' if near else 'part'} of the hole. The shape of "
            "the average need not agree with the prior’s in any case."
        )
    why = (
        "The reason: an affine change of z costs the reconstruction nothing, since an affine layer of the decoder can "
        "undo it. There the KL term decides alone. "
    )
    linear = (
        "For a linear VAE at its optimum mean and covariance are exactly those of N(0, I), whatever the data (Tipping "
        "& Bishop 1999); where only the encoder’s last layer and the decoder’s first are affine, the mean and the "
        "variances are."
    )
    if near:
        return (
            "So the average and N(0, I) are nearly equal in mean and covariance "
            f"({nats(s.gaussian_part.value)} nats). {why}{linear} A change of shape can cost reconstruction, and then "
            "the KL term does not decide alone."
        )
    return (
        f"{why}{linear} Here they are not near ({nats(s.gaussian_part.value)} nats). Possible causes: training ended "
        "before, latents depend on each other, the layers are others, or so is the prior. The shape of the average "
        "need not agree in any case."
    )
