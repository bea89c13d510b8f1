"""Whose z is z', and what p(Z|X=D) is: a part of `zprime explain`."""

from zprime.reporting.measured import samples_cover
from zprime.results.audit import Audit
from zprime.results.names import STANDARD
from zprime.statistics.format import figures, nats


def paragraphs(audit: Audit) -> list[str]:
    """The latent of a new row, what fitting r(z) adds, and the posterior of one latent that all rows share."""
    if audit.model.posterior == "none":
        return []
    return [
        "A VAE is a model with one latent *for each row*: z⁽ⁱ⁾ is drawn from p(z), then x⁽ⁱ⁾ from p(x|z⁽ⁱ⁾), by a "
        "decoder that all rows share. So Bayes’ rule gives one posterior for each row, p(z⁽ⁱ⁾|x⁽ⁱ⁾), which the encoder "
        "approximates by q(z|x⁽ⁱ⁾). z′ is the latent of a *new* row. Given the decoder, rows are independent of each "
        "other, so D says nothing about z′: p(z′|D) = p(z′). **To draw z′ from p(Z) is to draw from the posterior "
        "predictive distribution, if the model is right.** What was learned from D is in the decoder’s parameters. (A "
        "fully Bayesian treatment would average over decoders, too. A VAE takes one.)",
        f"D would say something about z′ if p(z) had unknown parameters. {_given(audit)} To fit an r(z) to the "
        "posteriors is to give p(z) parameters and to estimate them from D (empirical Bayes). This is the update of "
        "p(Z) by D that the question asks for. Whether it is worth anything can be measured on unseen rows.",
        *_shared(audit),
    ]


def _given(audit: Audit) -> str:
    """Whether p(z) has parameters that D could say something of."""
    if audit.prior == STANDARD:
        return f"Here it has none: it is {STANDARD}, before and after training."
    return f"Here p(z) is {audit.prior}; what of it was trained on D has had its update."


def _shared(audit: Audit) -> list[str]:
    """The posterior of one z behind all rows."""
    a = audit.averages
    if a is None:
        return []
    if "product-of-experts" not in a.members:
        fails = f"For one z behind all rows the posterior could not be computed: {a.product_fails}."
        return [fails] if a.product_fails else []
    r = a.members["product-of-experts"]
    return [
        f"Taken literally, p(Z|X=D) belongs to another model, with *one* z behind all {r.forward.n:,} rows. It is in "
        "proportion to p(z) ∏ p(x⁽ⁱ⁾|z), and it is not hard to compute: as far as the encoder is exact, it is a "
        "product of Gaussians. But it concentrates, and its standard deviation falls like 1/√N: in a dimension it is "
        f"{figures(r.width, 3)} here, where that of the posterior of one row is {figures(a.width, 3)} and that of p(Z) "
        f"is {figures(a.members['prior'].width, 3)}. It is {nats(r.to_prior.value)} nats from p(Z). Draws from it are "
        f"much alike, and so are their x′{samples_cover(audit, 'product-of-experts')}. It is the right answer where "
        "all rows have one cause, such as repeated measurements of one thing, and not for new rows."
    ]
