"""Models whose fault is known, through the whole x' side: each is told its own fault, and a sound one none."""

import re
from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor, nn

from oracles import LinearGaussian, linear_gaussian
from samples import clumps
from studies import study
from test_policy_generation import compared, contender
from zprime import likelihoods
from zprime.data import Rows
from zprime.distribution import LatentDistribution
from zprime.latent import Aggregated, Defensive, Gaussian, Prior
from zprime.measure.candidates import Candidates, candidate_of
from zprime.measure.samples.contender import Confirmed, Contender, Controls
from zprime.measure.samples.side import MeasuredSamples, measure_samples
from zprime.measure.verdicts.generation import decide_generation
from zprime.posteriors import MemoryPosteriors
from zprime.results.audit import AuditSettings
from zprime.results.names import CandidateId
from zprime.results.verdicts import GenerationVerdict
from zprime.vae import VAE

SIZES = {"train": 300, "selection": 200, "heldout": 200}


@dataclass(frozen=True)
class Case:
    """A model, its rows and posteriors."""

    model: VAE
    posteriors: dict[str, MemoryPosteriors]
    rows: dict[str, Rows]

    def measured(self, candidates: dict[str, LatentDistribution], **settings: float) -> MeasuredSamples:
        wanted = AuditSettings(**{"samples": 400, "grid": 4, **settings})  # type: ignore[arg-type]
        about = study(self.posteriors, self.rows, model=self.model, settings=wanted, features="pixels")
        made = {name: candidate_of(r, None, Prior(r.d)) for name, r in candidates.items()}  # as an audit does
        found = measure_samples(about, Candidates(made))
        assert found is not None
        return found


def verdict(found: MeasuredSamples) -> GenerationVerdict:
    return decide_generation(found.contenders, found.confirm, found.controls, space=found.space, seed=0)


def linear(model: LinearGaussian, seed: int = 0, sizes: dict[str, int] = SIZES) -> Case:
    """Rows from the model itself, with exact posteriors."""
    posteriors, rows = {}, {}
    for i, (split, n) in enumerate(sizes.items()):
        x, _ = model.sample(n, seed=10 * seed + i)
        ids = 500 + torch.arange(n)
        rows[split] = Rows(split, x, ids)
        posteriors[split] = MemoryPosteriors(*model.posterior(x), row_ids=ids)
    return Case(model.vae(), posteriors, rows)


def gaussian(d: int) -> dict[str, LatentDistribution]:
    return {"gaussian": Gaussian(torch.zeros(d), 0.9 * torch.eye(d))}


@pytest.mark.parametrize(("d", "var"), [(1, 0.05), (1, 0.3), (1, 1.0), (2, 0.05), (2, 0.3), (2, 1.0), (4, 0.3)])
def test_the_decoder_of_an_exact_linear_vae_is_not_blamed(d: int, var: float) -> None:
    """Decoder means beside noisy rows were 2.45 apart and the decoder was blamed; draws are 0.1 apart."""
    found = linear(linear_gaussian(D=6, d=d, var=var)).measured(gaussian(d))
    v = verdict(found)
    assert v.decision != "none of these"
    assert found.study.sampler.noise == "draw"
    assert found.study.forms["draw"].value < found.study.forms["mean"].value
    side = found.side(v)
    assert side.noise == "draw"
    e = side.entry("prior")
    assert e.other is not None
    assert e.fidelity.frechet.value < e.other.value  # both forms are kept


def test_means_are_compared_where_they_are_nearer() -> None:
    """A decoder that is told a noise that its rows do not have."""
    case = linear(linear_gaussian(D=6, d=2, var=0.0005))
    noisy = linear_gaussian(D=6, d=2, var=0.5).vae()
    assert Case(noisy, case.posteriors, case.rows).measured(gaussian(2)).study.sampler.noise == "mean"


def test_a_decoder_that_ignores_z_is_told_so() -> None:
    model = linear_gaussian(D=6, d=2, var=0.3)
    dead = LinearGaussian(1e-4 * model.weight, model.bias, model.var)
    case = linear(model)
    posteriors = {s: MemoryPosteriors(*dead.posterior(r.x), row_ids=r.ids) for s, r in case.rows.items()}
    found = Case(dead.vae(), posteriors, case.rows).measured(gaussian(2))
    v = verdict(found)
    assert (v.decision, v.choice, v.fault) == ("none of these", "prior", "collapse")
    assert "the decoder ignores z (no latent is active)" in v.sentence
    assert "more latents do not help" in v.sentence
    assert "with more latents" not in v.sentence
    assert found.side(v).ignores == "no latent is active"


def test_a_decoder_that_ignores_active_codes_is_told_so_too() -> None:
    model = linear_gaussian(D=6, d=2, var=0.3)
    dead = LinearGaussian(0.05 * model.weight, model.bias, model.var)
    case = linear(model)
    found = Case(dead.vae(), case.posteriors, case.rows).measured(gaussian(2))
    assert re.fullmatch(r"the variance of its means over z is 0\.\d+ % of that of the data", found.ignores)


def test_collapse_onto_the_truth_keeps_the_prior() -> None:
    """Rows that have nothing but noise: there the decoder is right to ignore z."""
    model = linear_gaussian(D=6, d=2, var=0.3)
    case = linear(LinearGaussian(1e-4 * model.weight, model.bias, model.var))
    v = verdict(case.measured(gaussian(2)))
    assert (v.decision, v.fault) == ("keep the prior", "collapse")
    assert "the decoder ignores z" in v.sentence


class Lookup(nn.Module):
    """Decodes to the training row whose code is nearest."""

    def __init__(self, codes: Tensor, rows: Tensor) -> None:
        super().__init__()
        self.codes, self.rows = codes, rows

    def forward(self, z: Tensor) -> Tensor:
        found: Tensor = self.rows[torch.cdist(z.to(self.codes.dtype), self.codes).argmin(1)]
        return found


def memorising(*, d: int = 2) -> Case:
    case = linear(linear_gaussian(D=6, d=d, var=0.05))
    likelihood = likelihoods.Gaussian(scale=1.0)
    likelihood.log_scale = torch.tensor(-4.0, dtype=torch.float64)
    train = case.posteriors["train"]
    model = VAE(case.model.encoder, Lookup(train.mean, case.rows["train"].x), likelihood, latents=d)  # type: ignore[arg-type]
    return Case(model, case.posteriors, case.rows)


def test_a_lookup_decoder_is_seen_and_its_prior_is_not_praised() -> None:
    found = memorising().measured(gaussian(2))
    v = verdict(found)
    side = found.side(v)
    assert side.entry("prior").status == "copies"
    assert side.memorises
    assert v.ranking["gaussian+p1"] == "copies"
    assert (v.decision, v.choice, v.fault) == ("none of these", "prior", "copies")
    assert "samples of the prior copy training rows" in v.sentence
    assert "The decoder memorises: 100.0 ± 0.0 % of reconstructions of unseen rows" in v.sentence
    assert "Keep the prior" not in v.sentence
    assert 500 <= side.entry("prior").copied[0].row < 500 + SIZES["train"]  # row ids
    assert sum(c.count for c in side.entry("prior").copied) > 10


def test_a_sound_decoder_does_not_memorise_and_its_prior_passes() -> None:
    found = linear(linear_gaussian(D=6, d=4, var=0.05)).measured(gaussian(4), samples=2000)
    side = found.side(verdict(found))
    assert side.memorises == side.ignores == ""
    assert {e.name: e.status for e in side.entries} == {
        "prior": "passes",
        "gaussian+p1": "passes",
        "gaussian": "passes",
    }


def with_copies(case: Case, share: float) -> LatentDistribution:
    """Of the prior with a share of training codes."""
    train = case.posteriors["train"]
    return Defensive(Aggregated(train.mean, 1e-3 * train.scale), 1 - share)


@pytest.mark.parametrize(("share", "status"), [(0.02, "passes"), (0.1, "untested"), (0.6, "copies")])
def test_copies_that_the_decoder_makes_are_limited_too(share: float, status: str) -> None:
    """Samples of training codes, on a decoder whose reconstructions are nearly its training rows."""
    case = linear(linear_gaussian(D=6, d=4, var=0.002))
    found = case.measured({"r": with_copies(case, share)}, samples=2000)
    name = str(CandidateId.of("r", 1 - share))
    entry = next(c.entry for c in found.candidates if c.entry.name == name)
    assert entry.status == status
    assert entry.copying is not None
    assert entry.copying.most > share
    ranking = verdict(found).ranking[name]
    assert ranking == {"untested": "not cleared", "copies": "copies"}.get(status, ranking)
    assert (ranking in ("not cleared", "copies")) is (status != "passes")


# -- which split -------------------------------------------------------------------------------------------------------


def test_the_choice_does_not_read_the_held_out_split() -> None:
    """With junk in its place ranking and choice are the same; only the confirmation differs."""
    case = linear(linear_gaussian(D=6, d=2, var=0.05))
    heavy = linear_gaussian(D=6, d=2, var=0.05).weight[0].sign()
    wide = {
        "gaussian": Gaussian(torch.zeros(2), torch.eye(2)),
        "narrow": Gaussian(torch.zeros(2), 0.3 * torch.eye(2)),
        "one-label": Gaussian(2.5 * heavy.float(), 0.05 * torch.eye(2)),
    }
    labels = {s: (r.x[:, 0] > r.x[:, 0].mean()).long() for s, r in case.rows.items()}
    rows = {s: Rows(s, r.x, r.ids, labels[s]) for s, r in case.rows.items()}
    junk = 40 + 3 * clumps(SIZES["heldout"], 5)
    away = MemoryPosteriors(*case.model.encode(junk), row_ids=rows["heldout"].ids)
    spoiled = {**rows, "heldout": Rows("heldout", junk, rows["heldout"].ids, torch.zeros(len(junk)).long())}
    both = []
    for posteriors, data in ((case.posteriors, rows), ({**case.posteriors, "heldout": away}, spoiled)):
        found = Case(case.model, posteriors, data).measured(wide)
        both.append((found, verdict(found)))
    (first, v), (second, w) = both
    assert [c.missing for c in first.contenders] == [[], [], [], ["0"]]
    assert w.ranking == v.ranking
    assert w.best == v.best
    for a, b in zip(first.contenders, second.contenders, strict=True):
        assert (a.name, a.copies, a.missing, a.because) == (b.name, b.copies, b.missing, b.because)
        assert torch.equal(a.compared.frechet.whole, b.compared.frechet.whole)
        assert torch.equal(a.compared.manifold.halves, b.compared.manifold.halves)
        assert a.right is not None
        assert b.right is not None
        assert torch.equal(a.right, b.right)
    assert [e.entry.copying for e in first.candidates] == [e.entry.copying for e in second.candidates]
    assert v.numbers["prior"].value < w.numbers["prior"].value  # the confirmation does read it


def test_the_held_out_split_is_opened_for_the_prior_and_the_chosen_one_only() -> None:
    asked: list[str] = []

    def confirm(name: str) -> Confirmed:
        asked.append(name)
        return Confirmed(compared(10.0 if name == "a" else 100.0))

    v = decide_generation(
        [contender("prior", compared(100.0)), contender("a", compared(10.0)), contender("b", compared(50.0))],
        confirm,
        Controls(compared(0.0), compared(0.0), tested=True),
        space="pixels",
        seed=0,
    )
    assert asked == ["prior", "a"]
    assert (v.choice, v.best) == ("a", "a")
    assert v.copying == {"prior": "passes", "a": "passes"}


# -- the rule ----------------------------------------------------------------------------------------------------------


def decided(
    selection: str = "passes", heldout: str = "passes", *, prior: str = "passes", gain: float = 90.0
) -> GenerationVerdict:
    """One candidate with these copying statuses, on either split, that is nearer by the gain."""
    because = "cannot exclude 14 % of copies"
    far, near = compared(100.0), compared(100.0 - gain)

    def status(c: Contender, copies: str) -> Contender:
        return replace(c, copies=copies, because=because if copies == "untested" else "")

    return decide_generation(
        [status(contender("prior", far), prior), status(contender("r", near), selection)],
        lambda name: Confirmed(far) if name == "prior" else Confirmed(near, heldout, because),
        Controls(compared(0.0), compared(0.0), tested=True),
        space="pixels",
        seed=0,
    )


def test_who_is_not_cleared_is_not_chosen() -> None:
    v = decided("untested")
    assert v.ranking["r"] == "not cleared"
    assert (v.decision, v.choice, v.best) == ("keep the prior", "prior", "prior")
    assert "no candidate that is cleared of copying" in v.sentence
    assert "r is not cleared of copying (cannot exclude 14 % of copies), and is dropped" in v.why


@pytest.mark.parametrize("status", ["untested", "copies"])
def test_the_held_out_split_has_to_clear_the_chosen_one_too(status: str) -> None:
    v = decided(heldout=status)
    assert (v.decision, v.choice, v.best) == ("undecided", "prior", "r")
    assert v.copying == {"prior": "passes", "r": status}  # whoever ships by another verdict has to know
    assert f"are not cleared of copying ({status}, cannot exclude 14 % of copies)" in v.sentence


def test_a_tie_goes_to_the_one_that_stores_no_single_rows() -> None:
    """However small the one that does; the prior is far off."""
    near = compared(10.0)
    small = replace(contender("rows", near), bytes=1, holds_rows=True)
    large = replace(contender("none", near), bytes=10_000)
    for order in ([small, large], [large, small]):
        v = decide_generation(
            [contender("prior", compared(100.0)), *order],
            lambda name: Confirmed(compared(100.0) if name == "prior" else near),
            Controls(compared(0.0), compared(0.0), tested=True),
            space="pixels",
            seed=0,
        )
        assert v.best == v.choice == "none"


def test_no_status_is_told_of_either_split_if_the_controls_fail() -> None:
    v = decide_generation(
        [contender("prior", compared(100.0)), contender("r", compared(10.0))],
        lambda name: Confirmed(compared(100.0 if name == "prior" else 10.0)),
        Controls(compared(0.0), compared(0.0), tested=False),
        space="pixels",
        seed=0,
    )
    assert v.decision == "undecided"
    assert v.copying == {"prior": "untested", "r": "untested"}


def test_a_prior_that_copies_is_not_praised() -> None:
    assert decided(prior="copies").decision == "leave the prior"  # another is better and passes
    v = decided(prior="copies", gain=0.0)
    assert (v.decision, v.fault) == ("none of these", "copies")
    assert "Keep the prior" not in v.sentence
    unsure = decided(prior="untested", gain=0.0)
    assert unsure.decision == "keep the prior"
    assert "The prior itself is not cleared of copying: cannot exclude 14 % of copies." in unsure.sentence
    assert "not cleared" not in decided(gain=0.0).sentence


@pytest.mark.parametrize(
    ("prior", "made", "fault", "said"),
    [
        (17.7, 14.2, "both", "Neither is measurably the larger"),
        (30.0, 14.2, "latents", "The larger part is the latent distribution's: fit other kinds"),
        (15.0, 14.2, "decoder", "The larger part is the decoder's: your encoder or decoder is the problem"),
    ],
)
def test_none_of_these_names_both_parts_by_size(prior: float, made: float, fault: str, said: str) -> None:
    """A public model, prior 17.7, reconstructions 14.2, real rows 11.2, was told that z' changes nothing."""
    first = compared(prior, error=0.8)
    v = decide_generation(
        [contender("prior", first), contender("r", first)],
        lambda _: Confirmed(first),
        Controls(compared(made), compared(11.2), tested=True),
        space="pixels",
        seed=0,
    )
    assert (v.decision, v.fault) == ("none of these", fault)
    assert v.numbers["decoder"].value == pytest.approx(made - 11.2)
    assert v.numbers["latents of the prior"].value == pytest.approx(prior - made)
    assert v.numbers["latents of the prior"].stderr == pytest.approx(0.8)
    assert f"reconstructions of unseen rows are {made - 11.2:.2f} ± " in v.sentence
    assert re.search(
        rf"samples of the prior are {prior - made:.1f}\d? ± 0\.80? farther from them than reconstructions", v.sentence
    )
    assert said in v.sentence
    assert "changes" not in v.sentence
