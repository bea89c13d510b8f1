"""Words of the field that the page explains where they first stand, on hover, on click and on the keyboard."""

import re
from collections.abc import Iterator

from markupsafe import Markup, escape

GLOSSARY = {
    "nats": "Unit of information and of log-likelihood with the natural logarithm: 1 nat is 1.44 bits. Data that are 1 "
    "nat a row likelier are 2.7 times as probable, row by row.",
    "Frechet distance": "Distance between the mean and covariance of two samples in a feature space, 0 where they are "
    "the same (as in FID). It depends on the number of samples, so read it beside real rows.",
    "p": "p-value: how often data like these come up if there is no difference. Below 0.05 is called significant.",
    "AUC": "Area under the ROC curve: the chance that a training row scores above an unseen row. 1/2 tells nothing.",
    "ELBO": "Evidence lower bound, which a VAE is trained on: reconstruction less the KL term.",
    "KL": "Kullback-Leibler divergence in nats: 0 where two distributions are the same.",
    "held-out": "Rows that no part of training, fits or choice has seen.",
    "posterior": "q(z|x): where the encoder says the latent z of a row x lies.",
}
"""Term -> what it means; a term is found as a word of its own, in this spelling."""
TERM = re.compile(
    r"(?<![\w-])(" + "|".join(re.escape(t) for t in GLOSSARY if t != "p") + r"|p(?= [<=])|p(?= below))(?![\w-])"
)


def glossed(text: str) -> Markup:
    """The text, escaped, with each term that it has explained where it first stands."""
    return Markup("").join(_parts(text))


def _parts(text: str) -> Iterator[Markup]:
    seen: set[str] = set()
    end = 0
    for found in TERM.finditer(text):
        term = found[1]
        if term in seen:
            continue
        seen.add(term)
        yield escape(text[end : found.start()])
        yield Markup('<button type="button" class="n term" data-why="{0}" title="{0}">{1}</button>').format(
            GLOSSARY[term], term
        )
        end = found.end()
    yield escape(text[end:])
