"""An r(z) that ignores conditions beside an r(z|c), both as gains over p(z|c), and what to draw z' from."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch

from zprime.bring.by_row import ByRow, in_units
from zprime.bring.coordinates import Coordinates
from zprime.distribution import LatentDistribution
from zprime.errors import UsageError
from zprime.escape import visible
from zprime.latent.defensive import Defensive
from zprime.latent.gaussians import Mixture
from zprime.latent.kind import Fit
from zprime.measure.candidates import candidate_of
from zprime.measure.likelihood.scores import scores
from zprime.measure.study import Study
from zprime.measure.verdicts.likelihood import by_likelihood
from zprime.results.audit import Scores
from zprime.results.names import PRIOR, CandidateId, Gain
from zprime.results.verdicts import Verdict
from zprime.statistics.format import explained
from zprime.tables import Cell, Column, Row, Style, Table, to_html, to_text

Given = Mapping[str, LatentDistribution | Fit[LatentDistribution]]
MARGINAL = "marginal"
KEPT = "p(z|c)"


@dataclass(frozen=True, repr=False)
class Beside:
    """Gains over p(z|c) on held-out rows, nats a row, and the verdict by likelihood.

    Attributes:
        conditional: name -> of an r(z|c), as it was given.
        unconditional: name -> of an r(z). `marginal` is the mean of p(z|c) over the training rows: where the codes are
            distributed as p(z|c) says, no r(z) is better, and its ELBO gain is minus the information of c on z.
        entries: all of them as the table calls them: `r(z|c) NAME` or `r(z) NAME` itself, and with `+pE` behind it the
            candidate that has E % of p(z|c): the verdict chooses among these.
        verdict: by the rule of an audit; "the prior" is p(z|c).
        seed: of the draws.
    """

    conditional: Mapping[str, Scores]
    unconditional: Mapping[str, Scores]
    entries: Mapping[str, Scores]
    verdict: Verdict
    seed: int

    @property
    def choice(self) -> str:
        """What to draw z' from: `p(z|c)`, or one of the candidates."""
        return KEPT if self.verdict.choice == PRIOR else self.verdict.choice

    def table(self) -> Table:
        """Every distribution with its gains; the columns are `name` and each `Gain` that was measured."""
        n = self.unconditional[MARGINAL].elbo.gain.n
        gains = [g for g in Gain if any(s.of(g) is not None for s in self.entries.values())]
        rows = [Row([Cell(KEPT), *(Cell("0", key=0.0) for _ in gains)], self._style(KEPT))]
        for name, found in self.entries.items():
            cells = [explained(s.gain if (s := found.of(g)) else None, g.says) for g in gains]
            rows.append(Row([Cell(name), *cells], self._style(name)))
        return Table(
            f"Held-out gain over p(z|c), nats per row ({n} rows, seed {self.seed})",
            [Column("name", "z′ from", "z' from", numeric=False), *(Column(g, g.words, g.few_words) for g in gains)],
            rows,
        )

    def _style(self, name: str) -> Style:
        if name == self.choice:
            return Style.CHOSEN
        return Style.PLAIN if name == KEPT or CandidateId.parse(name).eligible else Style.ITSELF

    def __repr__(self) -> str:
        """The verdict, in words."""
        return f"<Beside: {', '.join(self.entries)}; seed {self.seed}. {visible(self.verdict.sentence)}>"

    def __str__(self) -> str:
        """The table and the verdict."""
        table = self.table()
        return "\n".join(
            [
                to_text(table),
                f"{table.title}, ± one standard error; +pE: with E % of p(z|c), which a verdict may choose",
                f"By likelihood (the prior is p(z|c)): {visible(self.verdict.sentence)}",
            ]
        )

    def _repr_html_(self) -> str:
        """The verdict and the table, in a notebook."""
        table = self.table()
        return to_html(replace(table, title=f"{self.verdict.sentence} (The prior is p(z|c).) {table.title}"))


def compare(conditional: Given, unconditional: Given, study: Study) -> Beside:
    """Gains of distributions of u, and of distributions of z, and the verdict.

    Args:
        conditional: name -> distribution of u.
        unconditional: name -> distribution of z.
        study: posteriors of u, rows and p(z|c) of the rows (`Split.told`); model, settings and seed.

    Raises:
        UsageError: a distribution of other dimensions, or without a density; a name that cannot be used.
    """
    d = study.prior.d
    sorts = {"r(z|c)": _checked(conditional, d), "r(z)": _checked(unconditional, d)}
    made: dict[str, LatentDistribution] = {}
    given: dict[str, dict[str, CandidateId]] = {}
    for sort, fits in sorts.items():
        of_z = sort == "r(z)"
        given[sort] = {}
        for name, fit in fits.items():
            called = f"{sort} {name}"
            r = in_units(fit.distribution, called, by_row=of_z)
            # what an r(z) chose was its share of p(z)
            made[called] = candidate_of(r, None if of_z else fit.chosen.epsilon, study.prior)
            share = r.epsilon if isinstance(r, Defensive) and made[called] is r else 0.0
            given[sort][name] = CandidateId.of(called, share)
    candidates = ByRow(made, prior=study.prior)
    study, split_gains, verdict = by_likelihood(study, candidates)
    found = {i: scores(split_gains["heldout"], i, study.seed) for i in candidates.ids}
    told, plain = ({name: found[i] for name, i in of.items()} for of in given.values())
    return Beside(told, plain, {str(i): s for i, s in found.items() if i.name != PRIOR}, verdict, study.seed)


def marginal(at: Coordinates) -> Mixture:
    """p(z): the mean of p(z|c) over rows."""
    rows, counts = torch.unique(torch.cat([at.loc, at.scale], 1), dim=0, return_counts=True)
    loc, scale = rows.chunk(2, 1)
    return Mixture((counts.double() / counts.sum()).log(), loc.contiguous(), scale.contiguous())


def _checked(given: Given, d: int) -> dict[str, Fit[LatentDistribution]]:
    found = {name: r if isinstance(r, Fit) else Fit(r) for name, r in given.items()}
    for name, fit in found.items():
        r = fit.distribution
        if r.d != d:
            raise UsageError(f"{name}: expected {d} latents, as the posteriors have, got {r.d}")
        if r.density == "none":
            raise UsageError(f"{name}: expected a distribution with a log-density, got {r.label}, which has draws only")
    return found
