"""The rule for generation at its limits, on numbers made for it, and the controls without which nobody is cleared."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from samples import clumps
from studies import study
from test_samples_side import MODEL, POSTERIORS, ROWS, truth
from zprime.data import Rows
from zprime.measure.candidates import Candidates
from zprime.measure.samples.contender import Confirmed, Contender, Controls
from zprime.measure.samples.copying import Neighbours, TrainingSet, copying
from zprime.measure.samples.fidelity import Compared, fidelity
from zprime.measure.samples.side import measure_samples
from zprime.measure.verdicts.generation import decide_generation
from zprime.posteriors import MemoryPosteriors
from zprime.results.audit import AuditSettings
from zprime.results.samples import PLANTED, RECONSTRUCTED, SamplesSide
from zprime.results.verdicts import GenerationVerdict
from zprime.statistics.resampling import About, Groups, Halves

N = 200
PLAIN = fidelity(clumps(N, 0), clumps(N, 1), split="heldout")
GROUPS, HALVES = len(PLAIN.frechet.single), len(PLAIN.manifold.halves)
COVERAGE = 3  # of precision, recall, density, coverage


def spread(n: int, stderr: float) -> Tensor:
    """n numbers about 0 whose standard deviation is `stderr`."""
    x = torch.linspace(-1, 1, n, dtype=torch.float64)
    return stderr * x / x.std()


def compared(distance: float, coverage: float = 0.9, *, error: float = 0.0, lost: float = 0.0) -> Compared:
    """A Frechet distance and a coverage, whose differences to exact ones have these standard errors."""
    whole = torch.tensor([distance], dtype=torch.float64)
    # of the jackknife: (g - 1) / sqrt(g) times the standard deviation of what is left when groups are out
    single = whole + spread(GROUPS, error * GROUPS**0.5 / (GROUPS - 1))[:, None]
    frechet = Groups(whole, single, torch.zeros(0, 1, dtype=torch.float64))
    four = torch.tensor([0.9, 0.9, 1.0, coverage], dtype=torch.float64)
    halves = four.repeat(HALVES, 1)
    halves[:, COVERAGE] += spread(HALVES, lost)
    about = replace(PLAIN.fidelity, frechet=frechet.estimate(0, About(N, "heldout", 0), unit="u", scale="distance"))
    return Compared(about, frechet, Halves(four, halves))


def contender(name: str, found: Compared, *, size: int = 100, right: int | None = None) -> Contender:
    hits = None if right is None else torch.arange(N) < right
    return Contender(name, name, 0 if name == "prior" else size, "passes", found, [], hits)


def decide(
    others: list[Contender],
    confirmed: dict[str, Compared],
    *,
    prior: Compared | None = None,
    decoder: float = 0.0,
    right: int | None = None,
) -> GenerationVerdict:
    """The prior's distance is 100 on both splits; reconstructions are `decoder` farther off than real rows."""
    first = prior or compared(100.0)
    return decide_generation(
        [contender("prior", first, right=right), *others],
        lambda name: Confirmed(first if name == "prior" else confirmed[name]),
        Controls(compared(decoder), compared(0.0), tested=True),
        space="pixels",
        seed=0,
    )


def one(
    selection: Compared, heldout: Compared | None = None, *, prior: Compared | None = None, decoder: float = 0.0
) -> GenerationVerdict:
    return decide([contender("r", selection)], {"r": heldout or selection}, prior=prior, decoder=decoder)


# -- the selection split -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("fewer", "state"), [(1.95, "best"), (2.05, "loses modes")])
def test_who_covers_two_errors_less_than_the_prior_is_out(fewer: float, state: str) -> None:
    r = compared(10.0, 0.9 - 0.01 * fewer, lost=0.01)
    assert one(r).ranking["r"] == state


@pytest.mark.parametrize(("gap", "choice"), [(1.9, "small"), (2.1, "large")])
def test_two_percent_of_the_priors_distance_is_a_tie(gap: float, choice: str) -> None:
    found = {"large": compared(10.0), "small": compared(10.0 + gap)}
    v = decide([contender(k, c, size={"large": 1000, "small": 10}[k]) for k, c in found.items()], found)
    assert v.choice == choice
    assert v.ranking["small"] == ("best" if choice == "small" else "behind") or v.ranking["small"] == "tied"


@pytest.mark.parametrize(("errors", "choice"), [(0.95, "small"), (1.05, "large")])
def test_one_error_of_the_difference_is_a_tie(errors: float, choice: str) -> None:
    found = {"large": compared(10.0), "small": compared(10.0 + 8 * errors, error=8.0)}
    exact = {"large": compared(10.0), "small": compared(10.0)}
    v = decide([contender(k, c, size={"large": 1000, "small": 10}[k]) for k, c in found.items()], exact)
    assert v.choice == choice


@pytest.mark.parametrize(("fewer", "state"), [(1.95, "tied"), (2.05, "covers less")])
def test_of_those_that_tie_who_covers_two_errors_less_is_out(fewer: float, state: str) -> None:
    found = {"wide": compared(10.0, 0.95), "blur": compared(10.5, 0.95 - 0.01 * fewer, lost=0.01)}
    v = decide([contender(k, c) for k, c in found.items()], found)
    assert v.ranking["blur"] == state


@pytest.mark.parametrize(("behind", "choice"), [(1, "small"), (3, "large")])
def test_one_point_of_a_student_is_a_tie(behind: int, choice: str) -> None:
    """Of 200 rows, 1 is half a point, and 3 are a point and a half, with an error of 0.9."""
    found = {"large": compared(10.0), "small": compared(10.0)}
    sizes, right = {"large": 1000, "small": 10}, {"large": 180, "small": 180 - behind}
    v = decide([contender(k, c, size=sizes[k], right=right[k]) for k, c in found.items()], found, right=100)
    assert v.choice == choice


# -- the held-out split ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("fall", "decision"), [(1.9, "keep the prior"), (2.1, "leave the prior")])
def test_a_gain_of_two_percent_is_needed(fall: float, decision: str) -> None:
    assert one(compared(10.0), compared(100.0 - fall)).decision == decision


@pytest.mark.parametrize(("errors", "decision"), [(1.95, "keep the prior"), (2.05, "leave the prior")])
def test_a_gain_of_two_errors_is_needed(errors: float, decision: str) -> None:
    v = one(compared(10.0), compared(100.0 - 5 * errors, error=5.0))
    assert v.numbers["gain"].stderr == pytest.approx(5.0)
    assert (v.decision, v.choice) == (decision, "prior" if decision.startswith("keep") else "r")


@pytest.mark.parametrize(("fewer", "decision"), [(1.95, "leave the prior"), (2.05, "undecided")])
def test_a_gain_that_costs_two_errors_of_coverage_is_not_taken(fewer: float, decision: str) -> None:
    v = one(compared(10.0), compared(10.0, 0.9 - 0.01 * fewer, lost=0.01))
    assert (v.decision, v.choice) == (decision, "r" if decision == "leave the prior" else "prior")
    assert ("cover less of them" in v.sentence) is (decision == "undecided")


def test_equal_coverage_is_no_loss() -> None:
    """Where both cover all there is, in every half, the difference is 0 and its error too."""
    v = one(compared(10.0, 1.0), prior=compared(100.0, 1.0))
    assert v.numbers["coverage gain"].stderr == 0
    assert (v.decision, v.choice) == ("leave the prior", "r")


@pytest.mark.parametrize(("decoder", "decision"), [(159.0, "leave the prior"), (161.0, "none of these")])
def test_a_choice_must_close_a_quarter_of_the_decoders_distance(decoder: float, decision: str) -> None:
    v = one(compared(60.0), decoder=decoder)  # a gain of 40
    assert (v.decision, v.choice) == (decision, "r")


def test_a_decoder_that_may_be_as_good_as_real_rows_is_not_blamed() -> None:
    def v(low: float) -> GenerationVerdict:
        first = compared(1000.0)
        return decide_generation(
            [contender("prior", first), contender("r", compared(990.0))],
            lambda name: Confirmed(first if name == "prior" else compared(990.0)),
            # t of 29 degrees of freedom
            Controls(compared(50.0, error=(50.0 - low) / 2.045), compared(0.0), tested=True),
            space="pixels",
            seed=0,
        )

    assert v(0.5).decision == "none of these"
    assert v(-0.5).decision == "keep the prior"


# -- the controls ------------------------------------------------------------------------------------------------------


def test_a_control_that_is_not_caught_clears_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """Planted copies that are none."""
    monkeypatch.setattr("zprime.measure.samples.features.EPOCHS", 1)
    monkeypatch.setattr(TrainingSet, "plant", lambda self, n, *, rng: 50 + torch.randn(n, 6, generator=rng))
    found = side(POSTERIORS, ROWS)
    assert found.controls[PLANTED].status != "copies"
    assert {e.status for e in found.entries} == {"untested"}
    assert (found.verdict.decision, found.verdict.choice) == ("undecided", "prior")


def test_a_control_that_is_accused_clears_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """A selection split that consists of training rows: its reconstructions are as near to them as copies are."""
    monkeypatch.setattr("zprime.measure.samples.features.EPOCHS", 1)
    train, p = ROWS["train"], POSTERIORS["train"]
    again = torch.arange(200) % len(train)
    rows = {**ROWS, "selection": Rows("selection", train.x[again], torch.arange(200), train.labels[again])}  # type: ignore[index]
    narrow = MemoryPosteriors(p.mean[again], 0.01 * p.scale[again], labels=p.labels[again])  # type: ignore[index]
    found = side({**POSTERIORS, "selection": narrow}, rows)
    assert found.controls[RECONSTRUCTED].status == "copies"
    assert {e.status for e in found.entries} == {"untested"}
    assert found.verdict.decision == "undecided"


def side(posteriors: dict[str, MemoryPosteriors], rows: dict[str, Rows]) -> SamplesSide:
    settings = AuditSettings(samples=200, grid=4)
    about = study(posteriors, rows, model=MODEL.vae(), settings=settings, features="pixels")
    measured = measure_samples(about, Candidates({"truth": truth()}))
    assert measured is not None
    return measured.side(
        decide_generation(measured.contenders, measured.confirm, measured.controls, space=measured.space, seed=0)
    )


# -- who copies --------------------------------------------------------------------------------------------------------


def neighbours(distance: Tensor, ratio: float = 0.5) -> Neighbours:
    """Rows in one region, this far from the nearest training row, and that far over the ratio from the fifth."""
    n = len(distance)
    five = distance.double()[:, None] * torch.tensor([1.0, 1.1, 1.2, 1.3, 1 / ratio]).double()
    return Neighbours(five, torch.zeros(n).long(), torch.zeros(n).long(), torch.ones(n).double())


def test_near_is_a_twentieth_of_equal_rows_whatever_the_size_of_the_reference() -> None:
    """The reference at 1, ..., 19, which cut the line in 20: below the first of them lies a twentieth."""
    fine = (torch.arange(2000) + 0.5) / 100
    for size in (19, 39):
        found = copying(neighbours(fine * (size + 1) / 20), neighbours(1.0 + torch.arange(size)))
        assert found.near.value == pytest.approx(0.05, abs=1e-9), size


@pytest.mark.parametrize(("exact", "status"), [(0.06, "passes"), (0.25, "copies")])
def test_the_gate_is_for_one_exact_copy_in_ten(exact: float, status: str) -> None:
    """4,000 rows of which a share lies at training rows: no error to speak of."""
    n = 4000
    fine = (torch.arange(n) + 0.5) / n
    copies = torch.arange(n) < exact * n
    mine = neighbours(torch.where(copies, 1e-3 * fine, fine))
    five = mine.distance.clone()
    five[copies, -1] = 1.0
    found = copying(replace(mine, distance=five), neighbours(fine))
    assert found.status == status


def gate(**ends: float) -> str:
    """The status where the lower ends of `regional`, `near` and `singled` are these."""
    patch = pytest.MonkeyPatch()
    from zprime.measure.samples import copying as module

    base = copying(neighbours(torch.rand(60)), neighbours(torch.rand(60)))
    tails = iter([replace(base.near, low=ends["near"]), replace(base.singled, low=ends["singled"])])
    auc = iter([base.auc, replace(base.regional, low=ends["regional"])])
    try:
        patch.setattr(module, "_auc", lambda *a: next(auc, base.auc))
        patch.setattr(module, "_tail", lambda *a: next(tails))
        return copying(neighbours(torch.rand(60)), neighbours(torch.rand(60))).status
    finally:
        patch.undo()


@pytest.mark.parametrize(
    ("regional", "near", "singled", "status"),
    [
        (0.549, 0.149, 0.9, "passes"),
        (0.551, 0.0, 0.051, "copies"),
        (0.551, 0.0, 0.049, "passes"),  # near to all rows, and to none in particular
        (0.0, 0.151, 0.051, "copies"),
        (0.0, 0.151, 0.049, "passes"),
    ],
)
def test_the_gates_limits(regional: float, near: float, singled: float, status: str) -> None:
    assert gate(regional=regional, near=near, singled=singled) == status
