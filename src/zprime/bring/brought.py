"""A trained VAE and its data, in the form that `fit`, `audit` and `sample` take."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

from jaxtyping import Int
from torch import Tensor

from zprime.bring.beside import MARGINAL, Beside, Given, compare, marginal
from zprime.bring.by_row import units_of
from zprime.bring.coordinates import MOST, Coordinates, coordinates_of
from zprime.calls import called
from zprime.data import Rows
from zprime.distribution import LatentDistribution, Prior
from zprime.errors import UsageError
from zprime.exporting import Audited
from zprime.latent import StandardNormal
from zprime.latent.kind import Context, Fit
from zprime.leaks import check_rows
from zprime.measure.candidates import candidate_of
from zprime.measure.study import Split, Study, counted, without_duplicates
from zprime.posteriors import WORDS, MemoryPosteriors, Posteriors
from zprime.results.audit import Audit
from zprime.results.names import PRIOR, CandidateId
from zprime.results.settings import AuditSettings
from zprime.sampling import GenerativeModel
from zprime.schema.kinds import SPLITS
from zprime.tables import facts, to_html
from zprime.vae import Model


@dataclass(frozen=True)
class Brought:
    """What an adapter returns: encoder and decoder, prior, data, conditions; and what q(z|x) stands for.

    Attributes:
        posteriors: of the train, selection and held-out rows.
        model: encoder and decoder, or None for bare arrays. Conditions, where the decoder takes any, are entries of a
            row, and p(x|z) is then p(x|z, conditions of x).
        rows: the rows themselves, or None.
        prior: what the VAE was trained with, for `audit(..., prior=...)`: a learned one, such as pythae's VAMP; None
            stands for N(0, I), and for other Gaussians too, in the `coordinates`.
        coordinates: in which the prior is N(0, I), where it is another Gaussian: all latents here are
            `(z - loc) / scale` of the model's z, or `scale^-1 (z - loc)` with a matrix for a prior with a full
            covariance. None where they are the model's own.
        priors: split -> means and standard deviations of p(z|c) of each row, [n, d]: all latents here are in units of
            it. None where the prior is the same for all rows.
        unconditional: the same in the model's own z, for an r(z) that ignores c: its `prior` is the mean of p(z|c) over
            the training rows. None where `priors` is.
        says: what to know of this model before reading an audit: sentences.
        groups: split -> integers, where rows come in groups, for `audit(..., groups=...)`; None where they do not.
    """

    posteriors: Mapping[str, Posteriors]
    model: Model | None = None
    rows: Mapping[str, Rows] | None = None
    prior: LatentDistribution | None = None
    says: tuple[str, ...] = ()
    groups: Mapping[str, Int[Tensor, " n"]] | None = None
    coordinates: Coordinates | None = None
    priors: Mapping[str, Coordinates] | None = None
    unconditional: "Brought | None" = None

    def __repr__(self) -> str:
        """What was brought, in a line."""
        return f"<Brought: {'; '.join(f'{name} {value}' for name, value in self._shown)}>"

    def _repr_html_(self) -> str:
        """What was brought, in a notebook."""
        return to_html(facts("brought model", self._shown))

    @property
    def _shown(self) -> list[tuple[str, str]]:
        prior = "N(0, I)" if self.prior is None else self.prior.label
        if self.priors is not None:
            prior = "p(z|c), another one for each row; latents are in units of it"
        elif self.coordinates is not None:
            prior = "a Gaussian of independent dimensions; latents are in units of it"
        return [
            ("posteriors", ", ".join(f"{p.n:,} {split}" for split, p in self.posteriors.items())),
            *(("latents", f"{p.d:,} dimensions, {WORDS[p.form]}") for p in list(self.posteriors.values())[:1]),
            ("prior", prior),
            ("decoder", "none" if self.model is None else "there"),
            *(("note", sentence) for sentence in self.says),
        ]

    @property
    def splits(self) -> dict[str, Any]:
        """What `fit` takes after the kind: `fit(kind, **splits)`."""
        return {
            "prior": self.prior,
            "train": self.posteriors["train"],
            "selection": self.posteriors["selection"],
            "context": self.context,
        }

    @property
    def context(self) -> Context | None:
        """Model and rows, for kinds that ask for them."""
        if self.model is None or self.rows is None:
            return None
        return Context(self.model, self.rows["train"], self.rows["selection"])

    def inside(self, r: LatentDistribution) -> LatentDistribution:
        """A distribution of the model's own z, as `fit` and `audit` see it here, e.g. N(0, I) as a candidate.

        Raises:
            UsageError: the prior is a p(z|c): there it is another one for each c.
        """
        self._need_one_prior()
        return r if self.coordinates is None else self.coordinates.inside(r)

    def outside(self, r: LatentDistribution) -> LatentDistribution:
        """A distribution that was fitted here, as one of the model's own z: what its decoder takes.

        Raises:
            UsageError: the prior is a p(z|c): there it is another one for each c.
        """
        self._need_one_prior()
        return r if self.coordinates is None else self.coordinates.outside(r)

    def _need_one_prior(self) -> None:
        if self.priors is not None:
            raise UsageError(
                "latents are in units of p(z|c): a distribution here is another one of the model's own z for each c; "
                "compare(conditional, unconditional) measures both sorts, and unconditional is the model in its own z"
            )

    @called("compare")
    def compare(
        self,
        conditional: Given = MappingProxyType({}),
        unconditional: Given = MappingProxyType({}),
        *,
        settings: AuditSettings = AuditSettings(),
        keep_duplicates: bool = False,
        seed: int = 0,
    ) -> Beside:
        """All gains over p(z|c) on held-out rows, of r(z|c) and r(z) side by side, and which of them to draw z' from.

        The verdict is by the rule of an audit: chosen on the selection split among p(z|c) and all of them, each with at
        least 1 % of p(z|c); checked on rows that the model makes, under the conditions of training rows; confirmed on
        the held-out split. Without a decoder there is no likelihood gain, and it is undecided.

        Args:
            conditional: name -> r(z|c), as it was fitted here: `fit(kind, **mine.splits)`.
            unconditional: name -> r(z) of the model's own z: `fit(kind, **mine.unconditional.splits)`, or any latent
                distribution, such as N(0, I). The mean of p(z|c) over the training rows is added as `marginal`.
            settings: how much to measure: `rows`, `draws`, `exchange` and `repair` of them count.
            keep_duplicates: keep selection and held-out rows that equal a training row. Without it they are left out,
                and more than 1 % of a split is refused.
            seed: of the draws, which all of them share.

        Returns:
            Gains in nats a row, with the verdict. The exact-posterior gain is a closed form where the distribution is
            one Gaussian or a mixture, also with a share of such a prior; else it is by draws, and says so.

        Raises:
            UsageError: the prior does not depend on conditions; a distribution of other dimensions, or without a
                density; settings that cannot be used.
            ArrayError: more than 1 % of the rows equal training rows.
            NumericalError: the decoder answers NaN.
        """
        if self.priors is None or self.unconditional is None or self.unconditional.prior is None:
            raise UsageError(
                "expected a model with a prior p(z|c) (prior= a function of conditions), got one whose prior "
                "is the same for all rows; audit measures its candidates"
            )
        settings = settings.resolve()
        settings.check()
        splits = [self._split(name, at) for name, at in self.priors.items()]
        train, selection, heldout = sorted(splits, key=lambda s: SPLITS.index(s.name))
        (selection, heldout), _ = without_duplicates(train, counted(selection), counted(heldout), keep=keep_duplicates)
        prior = Prior(heldout.posteriors.d)
        study = Study(train, selection, heldout, prior=prior, model=self.model, settings=settings, seed=seed)
        return compare(conditional, {MARGINAL: self.unconditional.prior, **unconditional}, study)

    def _split(self, name: str, at: Coordinates) -> Split:
        rows = None if self.rows is None or self.model is None else self.rows[name]
        groups = None if self.groups is None else self.groups.get(name)
        return Split(name, self.posteriors[name].gather(), rows, groups, told=units_of(at))

    @called("generator", instead="r is fit(kind, **mine.splits).distribution")
    def generator(
        self, latent: LatentDistribution, *, copying: str = "untested", allow_rows: bool = False
    ) -> GenerativeModel:
        """The decoder with another latent distribution: what `sample` takes. x' is in the units of the rows.

        Args:
            latent: where z' is drawn from, as it was fitted here.
            copying: what `audit.copying(name)` says of it.
            allow_rows: take it even if it stores functions of single training rows.

        Raises:
            UsageError: there is no decoder, or `latent` stores rows and that is not allowed.
        """
        check_rows(latent, allow_rows=allow_rows)
        if self.model is None:
            raise UsageError("bare arrays have no decoder; draw z' by latent.sample(n, rng=...)")
        return GenerativeModel(latent, self.model, image=self._image, copying=copying)

    @called("shipped")
    def shipped(
        self, audit: Audit, candidates: Mapping[str, LatentDistribution | Fit[LatentDistribution]]
    ) -> GenerativeModel:
        """The generative model that an audit of this one ships: what its verdicts say, with the share of the prior.

        It knows its audit, so that `export` writes the card of it.

        Args:
            audit: of this model.
            candidates: what the audit was given.

        Raises:
            UsageError: there is no decoder, or the candidate that is shipped is not among these.
        """
        name = audit.shipped
        wanted = CandidateId.parse(name)
        d = self.posteriors["train"].d
        prior = Prior(d) if self.prior is None else self.prior
        known = {StandardNormal.kind: StandardNormal(d), **candidates, PRIOR: prior}
        if wanted.name not in known:
            raise UsageError(
                f"candidates: expected what the audit was given, with {wanted.name!r}, which it ships, got "
                f"{', '.join(candidates) or 'none'}"
            )
        found = known[wanted.name]
        r = found.distribution if isinstance(found, Fit) else found
        r = candidate_of(r, wanted.epsilon, prior) if wanted.percent else r
        made = self.generator(r, copying=audit.copying(name), allow_rows=audit.settings.allow_rows)
        return replace(made, audited=Audited(audit, name))

    @property
    def _image(self) -> tuple[int, ...] | None:
        """(channels, height, width), where the rows are images with values from 0 to 1."""
        x = None if self.rows is None else self.rows["train"].x
        if x is None or x.ndim != 4 or x.shape[1] not in (1, 3) or float(x.min()) < 0 or float(x.max()) > 1:
            return None
        return tuple(x.shape[1:])


def beside(mine: Brought, priors: Mapping[str, Coordinates], model: Model | None) -> Brought:
    """What was brought in units of p(z|c), with the same in the model's own z beside it.

    Args:
        mine: in units of it.
        priors: of each split.
        model: encoder and decoder of the model's own z; None for bare arrays.
    """
    posteriors: dict[str, Posteriors] = {}
    for s, p in mine.posteriors.items():
        here, at = p.gather(), priors[s]
        mean, scale = at.loc + at.scale * here.mean.double(), at.scale * here.scale.double()
        posteriors[s] = MemoryPosteriors(
            mean.to(here.mean), scale.to(here.scale), row_ids=here.row_ids, labels=here.labels
        )
    own = Brought(posteriors, model, mine.rows, marginal(priors["train"]), mine.says, mine.groups)
    return replace(mine, priors=priors, unconditional=own)


def told(at: Coordinates | None, prior: LatentDistribution | None) -> list[str]:
    """What to know of a prior that is not N(0, I)."""
    if prior is not None:
        said = (
            f"trained with its own prior, {prior.label}, not N(0, I): give it to audit (prior=mine.prior), so that "
            "gains are over it; N(0, I) is then a candidate, and the exact-posterior gain is by draws"
        )
        if coordinates_of(prior, prior.d) is None:
            return [said]
        return [
            f"{said}; there would be closed forms in units of the prior, but posteriors of independent dimensions have "
            f"full covariances there, which are made where rows x d x d is {MOST:,} at most"
        ]
    if at is None:
        return []
    low, high = float(at.width.min()), float(at.width.max())
    form = (
        " and a full covariance: latents are shown whitened by it, S^-1 (z - loc) with S its Cholesky factor, where "
        "it is N(0, I); Gaussian posteriors have full covariances there, which some kinds do not take"
        if at.full
        else ": latents are shown in units of it, in which it is N(0, I)"
    )
    return [
        f"the prior is a Gaussian with standard deviations from {low:.3g} to {high:.3g}{form}, and no gain changes; "
        "mine.outside(r) is a fitted distribution in the model's own"
    ]


def groups_of(rows: Mapping[str, Rows]) -> dict[str, Int[Tensor, " n"]] | None:
    """The groups of the rows of each split, None where they come in none."""
    return {s: r.groups for s, r in rows.items() if r.groups is not None} or None
