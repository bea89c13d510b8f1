"""Models of whose posteriors only draws are known, e.g. flow posteriors."""

from collections.abc import Mapping
from numbers import Integral
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from zprime.arrays import check_finite
from zprime.bring.brought import Brought, groups_of, told
from zprime.bring.callables import asked
from zprime.bring.codes import CALL, rows_and_model
from zprime.bring.coordinates import Moved, known
from zprime.bring.encoded import encoding
from zprime.bring.named import Likelihood
from zprime.bring.places import Place
from zprime.bring.refusals import check_codes, check_plain
from zprime.bring.splits import seen, split, whole
from zprime.calls import called
from zprime.data import Rows
from zprime.decoders import evaluating
from zprime.errors import ArrayError, UsageError
from zprime.latent.priors import Given
from zprime.measure.prior import prior_log_prob
from zprime.posteriors import MemoryPosteriors
from zprime.statistics.design import Design
from zprime.statistics.estimate import mean_estimate

BATCH = 512


@called(
    "bring.draws",
    instead="a VAE with Gaussian posteriors goes to bring.modules",
    types={"draws": Integral, "log_q": Mapping | None, "seed": Integral},
)
def draws(
    encoder: CALL | None,
    data: Mapping[str, Any],
    decoder: CALL | None = None,
    *,
    draws: int = 16,
    log_q: Mapping[str, Any] | None = None,
    likelihood: Likelihood = None,
    prior: Given = None,
    labels: Mapping[str, Any] | None = None,
    groups: Mapping[str, Any] | None = None,
    seed: int = 0,
) -> Brought:
    """Bring a model of whose posteriors only draws are known, e.g. flow posteriors: z is what the prior is on.

    Kinds are fitted to the draws. The ELBO gain is the mean of log r/p over the draws of a datum, the exact-posterior
    gain the log of the mean of r/p over them: a lower bound in expectation. Where log q is known at the draws, there is
    a KL, and with a decoder the likelihood gain, by importance sampling with q as its proposal. Errors count data.
    (docs/theory.md, section 10.)

    Args:
        encoder: x, shape [n, *datum] -> one draw z ~ q(z|x) each, shape [n, d], or (z, log q(z|x)), another at every
            call; None where `data` holds the draws themselves, [n, draws, d].
        data: `train`, `heldout` and perhaps `selection`: see `modules`.
        decoder: as for `codes`.
        draws: draws a row, where there is an encoder; a likelihood gain has a k-hat from 25 on.
        log_q: split -> [n, draws], nats, beside draws that are given.
        likelihood: decoder's output -> Distribution; or a name, see `modules`.
        prior: what the VAE was trained with; see `modules`.
        labels: split -> integers.
        groups: split -> one name a row; see `modules`.
        seed: decides the selection split, and what torch draws in the encoder.

    Raises:
        UsageError: a split is missing, fewer than two draws, a prior that cannot be used, or `log_q` beside an encoder.
        ArrayError: shapes that do not fit, numbers that are not finite.
    """
    if encoder is None and decoder is not None:
        raise UsageError("encoder: expected one beside a decoder, got None: rows are needed to compare samples with")
    if encoder is not None and log_q is not None:
        raise UsageError("log_q: expected it as the encoder's second answer, (z, log q(z|x)), got it beside an encoder")
    rows, model, says = rows_and_model(encoder, decoder, data, likelihood, (labels, groups, seed))
    if encoder is None:
        z = {s: r.x for s, r in rows.items()}
        log_density = {} if log_q is None else _log_q(log_q, data, groups, seed)
    else:
        z, log_density = _drawn(encoder, model.place, rows, draws, seed)
    shape = z["train"].shape
    if len(shape) != 3 or shape[1] < 2:
        raise UsageError(
            f"draws: expected [n, draws, d] with at least 2 draws a row, got {list(shape)}; one code a row goes to "
            "bring.codes"
        )
    m, d = shape[1:]
    at, learned = known(prior, d)
    if torch.equal(z["train"][:, 0], z["train"][:, 1]):
        raise UsageError("draws: all draws of a row are equal, so the encoder draws nothing; bring.codes takes codes")
    check_codes(z["train"][:, 0], "draws")
    flat = {s: v.reshape(-1, d) for s, v in z.items()}
    log_flat = {s: v.reshape(-1).double() for s, v in log_density.items()}
    if at is not None:
        flat = {s: at.into(v).to(v.dtype) for s, v in flat.items()}
        log_flat = {s: v + at.log_volume for s, v in log_flat.items()}
    again = {s: r.take(torch.arange(len(r)).repeat_interleave(m)) for s, r in rows.items()}
    posteriors = {
        s: MemoryPosteriors(flat[s], None, row_ids=r.ids, labels=r.labels, log_q=log_flat.get(s))
        for s, r in again.items()
    }
    says = (f"of the posteriors {m} draws a row are known: no surgery and no likelihood gain", *says)
    if log_flat:
        gap = (log_flat["train"] - prior_log_prob(learned, flat["train"])).reshape(-1, m).mean(1)
        design = Design(groups=rows["train"].groups)
        kl = mean_estimate(gap, unit="nats per row", split="train", seed=seed, design=design)
        what = (
            "no likelihood gain without a decoder" if decoder is None else "they are what the likelihood gain draws on"
        )
        says = (
            f"of the posteriors {m} draws a row are known, with log q there: no surgery; {what}",
            f"mean KL(q||p) of training rows, from log q at their draws: {kl} nats per row",
            *says[1:],
        )
    moved = model if at is None or decoder is None else Moved(model, at)
    return Brought(
        posteriors,
        None if decoder is None else moved,
        None if encoder is None else again,
        learned,
        (*says, *(() if encoder is None else seen(rows)), *told(at, learned)),
        None if groups is None else groups_of(again),
        at,
    )


@torch.no_grad()
def _drawn(
    encoder: CALL, place: Place, rows: Mapping[str, Rows], draws: int, seed: int
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Draws of every row, [n, draws, d], and log q there where the encoder tells it; torch's global state is kept."""
    parts: dict[str, list[tuple[Tensor, ...]]] = {s: [] for s in rows}
    with torch.random.fork_rng(), evaluating(place.networks):
        torch.manual_seed(seed)
        for s, block in encoding(rows, BATCH):
            x = place.go(rows[s].x[block])
            answers = [asked("encoder", encoder, x) for _ in range(draws)]
            check_plain(answers[0], "a draw z, or (z, log q(z|x))", "give a function that answers these")
            pairs = [a if isinstance(a, tuple | list) else (a,) for a in answers]
            if any(getattr(t, "shape", ())[:1] != (len(x),) for pair in pairs for t in pair):
                raise ArrayError(f"encode: expected a draw z for each of {len(x)} rows, got an answer of other rows")
            columns = (torch.stack([place.back(t) for t in column], 1) for column in zip(*pairs, strict=True))
            parts[s].append(tuple(columns))
    z, log_q = {}, {}
    for s, r in rows.items():
        whole_columns = [torch.cat(column) for column in zip(*parts[s], strict=True)]
        z[s] = whole_columns[0]
        if len(whole_columns) > 1:
            density = whole_columns[1]
            if density.shape != z[s].shape[:2]:
                raise ArrayError(
                    f"encode: expected one draw z, or (z, log q(z|x)) with a number a row, shape [{len(r)}], got "
                    f"{[len(r), *density.shape[2:]]} beside z; add up log q over latents, or answer z alone"
                )
            log_q[s] = density
    return z, log_q


def _log_q(
    log_q: Mapping[str, Any], data: Mapping[str, Any], groups: Mapping[str, Any] | None, seed: int
) -> dict[str, Float[Tensor, "n m"]]:
    """Log q at draws that are given, by split as these are.

    Raises:
        UsageError: other splits than those of the draws.
        ArrayError: not one number a draw, or one that is not finite.
    """
    if set(log_q) != set(data):
        raise UsageError(
            f"log_q: expected the splits of the draws, {', '.join(data)}, got {', '.join(log_q) or 'none'}"
        )
    given = {s: whole(v) for s, v in log_q.items()}
    for s, v in given.items():
        wanted = list(whole(data[s]).shape[:2])
        if list(v.shape) != wanted:
            raise ArrayError(
                f"log_q: expected one number a draw in {s}, shape {wanted}, got {list(v.shape)}; add up log q over "
                "latents"
            )
        check_finite(f"log_q, {s}", v)
    return {s: rows.x for s, rows in split(given, {}, groups, seed=seed).items()}
