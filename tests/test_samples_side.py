"""The x' side as a whole: planted candidates are judged rightly, samples are shared, and nothing depends on batches."""

import json
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch

from oracles import linear_gaussian
from samples import clumps, junk, mixed
from studies import study
from zprime import serialise
from zprime.data import Rows
from zprime.distribution import LatentDistribution
from zprime.errors import UsageError
from zprime.latent import Aggregated, Conditional, Defensive, Gaussian, Mixture, Prior
from zprime.measure.candidates import Candidates, candidate_of
from zprime.measure.samples.contender import Confirmed, Contender, Controls
from zprime.measure.samples.fidelity import Compared, fidelity
from zprime.measure.samples.side import MeasuredSamples, measure_samples
from zprime.measure.verdicts.generation import decide_generation
from zprime.posteriors import MemoryPosteriors
from zprime.results.audit import AuditSettings
from zprime.results.samples import PLANTED, REAL, RECONSTRUCTED, SamplesSide
from zprime.results.verdicts import GenerationVerdict
from zprime.rng import stream

SIZES = {"train": 120, "selection": 200, "heldout": 200}
MODEL = linear_gaussian(D=6, d=2, var=0.0005)
CENTRES = torch.tensor([[-2.0, 0.0], [2.0, 0.0], [0.0, 2.0]], dtype=torch.float64)
WIDTH = 0.3
"""Codes lie in three clumps: the prior N(0, I) draws from the holes between them."""


def splits() -> tuple[dict[str, MemoryPosteriors], dict[str, Rows]]:
    posteriors, rows = {}, {}
    for split, n in SIZES.items():
        rng = stream(0, "generation", split)
        label = torch.randint(3, (n,), generator=rng)
        z = CENTRES[label] + WIDTH * torch.randn(n, 2, generator=rng, dtype=torch.float64)
        x = z @ MODEL.weight.T + MODEL.bias + MODEL.var**0.5 * torch.randn(n, 6, generator=rng, dtype=torch.float64)
        ids = torch.arange(n)
        rows[split] = Rows(split, x, ids, label)
        posteriors[split] = MemoryPosteriors(*MODEL.posterior(x), row_ids=ids, labels=label)
    return posteriors, rows


def truth(modes: int = 3, width: float = WIDTH) -> Mixture:
    weight = torch.full((modes,), 1 / modes, dtype=torch.float64).log()
    root = (width * torch.eye(2, dtype=torch.float64)).expand(modes, 2, 2).clone()
    return Mixture(weight, CENTRES[:modes].clone(), root)


def with_junk(share: float) -> Mixture:
    """The truth, and a clump far from all data."""
    r, away = truth(), torch.tensor([[9.0, 9.0]], dtype=torch.float64)
    weight = torch.cat([r.log_weight + math.log1p(-share), torch.tensor([share], dtype=torch.float64).log()])
    return Mixture(weight, torch.cat([r.mean, away]), torch.cat([r.scale_tril, r.scale_tril[:1]]))


POSTERIORS, ROWS = splits()
JUNK = (0.02, 0.5, 0.99)


def candidates() -> dict[str, LatentDistribution]:
    train = POSTERIORS["train"]
    return {
        "truth": truth(),
        "two-modes": truth(2),
        "blur": truth(width=0.2 * WIDTH),
        **{f"{j:g}-junk": with_junk(j) for j in JUNK},
        "gaussian": Gaussian(CENTRES.mean(0), 1.5 * torch.eye(2, dtype=torch.float64)),
        "aggregated": Defensive(Aggregated(train.mean, 0.2 * train.scale), 0.1),
    }


def sampled(
    candidates: dict[str, LatentDistribution],
    rows: dict[str, Rows] = ROWS,
    *,
    model: Any = MODEL.vae(),
    **settings: int,
) -> MeasuredSamples | None:
    settings = {"samples": 200, "grid": 4, **settings}
    posteriors = {s: POSTERIORS[s].take(torch.arange(len(rows.get(s, ROWS[s])))) for s in POSTERIORS}
    about = study(posteriors, rows, model=model, settings=AuditSettings(**settings), features="pixels")
    return measure_samples(about, Candidates(candidates))


def with_shares(candidates: dict[str, LatentDistribution]) -> dict[str, LatentDistribution]:
    """All as candidates, as an audit makes them: with 1 % of the prior where nothing else is said."""
    return {k: candidate_of(r, None, Prior(2)) for k, r in candidates.items()}


def measure(candidates: dict[str, LatentDistribution]) -> SamplesSide:
    measured = sampled(with_shares(candidates))
    assert measured is not None
    verdict = decide_generation(measured.contenders, measured.confirm, measured.controls, space=measured.space, seed=0)
    return measured.side(verdict)


@pytest.fixture(scope="module")
def made() -> SamplesSide:
    patch = pytest.MonkeyPatch()
    patch.setattr("zprime.measure.samples.features.EPOCHS", 30)
    out = measure(candidates())
    patch.undo()
    return out


def test_controls_come_out_as_they_must(made: SamplesSide) -> None:
    assert made.controls[PLANTED].status == "copies"
    assert made.controls[RECONSTRUCTED].status == "passes"
    assert made.controls[REAL].copying is None
    assert made.controls[REAL].fidelity.frechet.low < made.controls[RECONSTRUCTED].fidelity.frechet.high


def test_every_candidate_is_judged_rightly(made: SamplesSide) -> None:
    shares = {name: "p10" if name == "aggregated" else "p1" for name in candidates()}
    wanted = [(f"{name}+{share}", name) for name, share in shares.items()]
    assert [str(e.id) for e in made.entries] == ["prior", *(name for both in wanted for name in both)]
    assert list(made.verdict.ranking) == ["prior", *(candidate for candidate, _ in wanted)]
    ranking = {name.rsplit("+", 1)[0]: state for name, state in made.verdict.ranking.items()}
    assert ranking["aggregated"] == "copies"
    assert ranking["two-modes"] == "loses modes"
    assert ranking["truth"] == "best"
    assert ranking["prior"] == ranking["gaussian"] == "behind"
    assert ranking["blur"] == "covers less"  # its Frechet distance is as good as the truth's
    assert {ranking[f"{j:g}-junk"] for j in JUNK} <= {"behind", "loses modes"}
    assert made.verdict.decision == "leave the prior"
    assert made.verdict.choice == "truth+p1"
    assert made.entry("two-modes").fidelity.labels.missing == ["2"]  # type: ignore[union-attr]


def test_fidelity_alone_would_choose_the_copies(made: SamplesSide) -> None:
    copies = made.entry("aggregated")
    assert copies.status == "copies"
    assert copies.fidelity.frechet.value < 0.2 * made.entry("prior").fidelity.frechet.value
    assert not copies.id.eligible


def test_students_say_what_comes_out(made: SamplesSide) -> None:
    accuracy = {e.name: e.tstr.accuracy.value for e in made.entries if e.tstr is not None}
    assert accuracy["truth"] > 0.95
    assert accuracy["two-modes"] < 0.8
    assert made.classifier is not None
    assert made.classifier.value > 0.95


def test_means_and_draws_are_told_apart(made: SamplesSide) -> None:
    e = made.entry("aggregated")
    assert e.copying is not None
    assert e.copying_draws is not None
    assert e.copying_draws.auc.n < e.copying.auc.n or e.copying_draws.auc.n == 50
    assert e.copying_draws.regional.value < e.copying.regional.value  # the decoder's noise hides copies


def test_what_is_kept_comes_back_from_its_file(made: SamplesSide) -> None:
    again = serialise.from_jsonable(SamplesSide, json.loads(json.dumps(serialise.to_jsonable(made))))
    assert again == made
    with pytest.raises(UsageError, match="name: expected one of prior, truth.p1, truth, two-modes"):
        made.entry("flowery")


def pictures(candidates: dict[str, LatentDistribution]) -> dict[str, torch.Tensor]:
    measured = sampled(candidates, grid=100)
    assert measured is not None
    return measured.pictures


def test_a_mixed_candidate_shares_the_rows_of_its_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zprime.measure.samples.features.EPOCHS", 1)
    base = truth()
    found = pictures({"r": Defensive(base, 0.3)})
    mine = torch.stack([(found["grid.r+p30"] == found[k]).all(1) for k in ("grid.r", "grid.prior")])
    assert bool(mine.any(0).all())  # every row is the base's or the prior's
    assert 15 <= int(mine[1].sum()) <= 45
    near = ROWS["train"].x.float()
    distance = torch.cdist(found["grid.r+p30"], near)
    torch.testing.assert_close(found["near.r+p30"], near[distance.argmin(1)])


def test_batches_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zprime.measure.samples.features.EPOCHS", 2)
    once = measure({"truth": truth()})
    monkeypatch.setattr("zprime.decoding.DECODE", 37)
    monkeypatch.setattr("zprime.measure.samples.features.APPLY", 41)
    again = measure({"truth": truth()})
    assert again.entry("truth").copying == once.entry("truth").copying
    # draws have a stream for every batch of the decoder
    first, second = (
        e.fidelity.frechet if found.noise == "mean" else e.other
        for found, e in ((side, side.entry("truth")) for side in (once, again))
    )
    assert first is not None
    assert second is not None
    assert second.value == pytest.approx(first.value)


def test_a_conditional_one_has_a_student_of_its_own_labels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zprime.measure.samples.features.EPOCHS", 30)
    parts = tuple(Gaussian(c, WIDTH * torch.eye(2, dtype=torch.float64)) for c in CENTRES)
    even = torch.full((3,), 1 / 3, dtype=torch.float64).log()
    right = measure({"conditional": Conditional((0, 1, 2), even, parts)}).entry("conditional").tstr
    wrong = measure({"conditional": Conditional((1, 2, 0), even, parts)}).entry("conditional").tstr
    assert right is not None
    assert wrong is not None
    assert right.own is not None
    assert wrong.own is not None
    assert right.own.value > 0.95
    assert wrong.own.value < 0.1  # the rows are as good; the labels are not
    assert wrong.accuracy.value > 0.95  # which the classifier's labels do not see


def test_nothing_is_measured_where_it_cannot_be() -> None:
    one = {"truth": truth()}
    assert sampled(one, model=None) is None
    assert sampled(one, samples=0) is None
    assert sampled(one, {k: v for k, v in ROWS.items() if k != "train"}) is None
    assert sampled(one, {k: v.head(30) for k, v in ROWS.items()}) is None


# -- the rule, on samples made for it ------------------------------------------------------------------------------

N = 200
Make = Callable[[int], torch.Tensor]
HONEST: Make = lambda seed: clumps(N, seed)  # noqa: E731
JUNKY: Make = lambda seed: mixed(clumps(N, seed), junk(N, seed), 0.4, seed)  # noqa: E731


def compare(x: torch.Tensor, reference: int = 0) -> Compared:
    return fidelity(clumps(N, reference), x, split="heldout")


def decide(
    makers: dict[str, Make],
    *,
    copies: tuple[str, ...] = (),
    sizes: dict[str, int] | None = None,
    students: dict[str, float] | None = None,
    reconstructions: torch.Tensor | None = None,
    tested: bool = True,
) -> GenerationVerdict:
    sizes = {"prior": 0, **{k: 100 for k in makers if k != "prior"}, **(sizes or {})}
    right = {k: torch.arange(N) < round(v * N) for k, v in (students or {}).items()}
    contenders = [
        Contender(k, k, sizes[k], "copies" if k in copies else "passes", compare(m(i + 1)), [], right.get(k))
        for i, (k, m) in enumerate(makers.items())
    ]
    return decide_generation(
        contenders,
        lambda name: Confirmed(compare(makers[name](500), 1000)),
        Controls(
            compare(clumps(N, 700) if reconstructions is None else reconstructions, 1000),
            compare(clumps(N, 701), 1000),
            tested,
        ),
        space="pixels",
        seed=0,
    )


def test_the_better_one_is_taken_and_confirmed() -> None:
    v = decide({"prior": JUNKY, "good": HONEST})
    assert (v.decision, v.choice) == ("leave the prior", "good")
    assert v.numbers["gain"].low > 0
    assert "Generate from good" in v.sentence


def test_equal_samples_keep_the_prior() -> None:
    v = decide({"prior": HONEST, "same": HONEST})
    assert (v.decision, v.choice) == ("keep the prior", "prior")
    assert v.ranking["same"] in ("tied", "best")


def test_who_copies_is_out_however_good() -> None:
    v = decide(
        {"prior": JUNKY, "copier": HONEST, "fair": lambda s: mixed(clumps(N, s), junk(N, s), 0.1, s)},
        copies=("copier",),
    )
    assert v.choice == "fair"
    assert v.ranking["copier"] == "copies"
    assert "copier copies training rows, and is dropped" in v.why


def test_who_loses_modes_is_out() -> None:
    v = decide({"prior": JUNKY, "dropper": lambda s: clumps(N, s, modes=1, blur=0.3)})
    assert v.ranking["dropper"] == "loses modes"
    assert v.choice == "prior"


def test_ties_go_to_the_better_student_then_to_the_smaller() -> None:
    makers = {"prior": JUNKY, "large": HONEST, "small": HONEST}
    sizes = {"large": 1000, "small": 10}
    assert decide(makers, sizes=sizes).choice == "small"
    assert decide(makers, sizes=sizes, students={"prior": 0.9, "large": 0.9, "small": 0.6}).choice == "large"
    assert decide(makers, sizes=sizes, students={"prior": 0.9, "large": 0.9, "small": 0.9}).choice == "small"


def test_failed_controls_clear_nobody() -> None:
    v = decide({"prior": JUNKY, "good": HONEST}, tested=False)
    assert (v.decision, v.choice) == ("undecided", "prior")
    assert "controls of the copying test" in v.sentence


def test_bad_reconstructions_are_none_of_these() -> None:
    far = clumps(N, 5) * 0.2 + 9
    v = decide(
        {"prior": lambda s: clumps(N, s) * 0.2 + 9.05, "other": lambda s: clumps(N, s) * 0.2 + 9}, reconstructions=far
    )
    assert v.decision == "none of these"
    assert v.numbers["decoder"].low > 0
    assert "your encoder or decoder is the problem" in v.sentence


def test_a_gain_that_is_not_confirmed_is_not_taken() -> None:
    def lucky(seed: int) -> torch.Tensor:
        return JUNKY(seed) if seed == 500 else HONEST(seed)  # good on the selection split, as bad as the prior after it

    v = decide({"prior": JUNKY, "lucky": lucky})
    assert (v.decision, v.choice) == ("keep the prior", "prior")
    assert "do not confirm it" in v.sentence


def test_reconstructions_beside_the_path_are_of_other_rows_than_its_reference(made: SamplesSide) -> None:
    """Compared with themselves they would be at exactly 1/2, whatever the model."""
    assert made.path is not None
    found = made.path.beside["reconstructions"].regional
    assert found.low < 0.5 < found.high
    assert found.value != 0.5
