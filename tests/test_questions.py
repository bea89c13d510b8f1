"""Questions answered by name: each answer says what was planted in the audit, and what was not measured."""

import re
from dataclasses import replace
from pathlib import Path

import pytest

import small
import zprime
from oracles import linear_gaussian
from zprime import bring
from zprime.likelihoods import Gaussian
from zprime.reporting.explain import explain
from zprime.reporting.questions import QUESTIONS, questions
from zprime.reporting.sections import SECTIONS
from zprime.results.audit import Audit
from zprime.results.facts import CurvePoint
from zprime.statistics.estimate import Estimate, exact
from zprime.statistics.format import prose

FEW = replace(small.AUDIT, samples=40, simulated=0, exchange=0, members=0, latent_side=False, bandwidth_path=False)
NOISE = Gaussian(scale=0.3**0.5)
FAULT, CODES, SCALE, COMPONENTS, COLLAPSED, COPIES = QUESTIONS


@pytest.fixture(scope="module")
def audit() -> Audit:
    """Of a linear model with exact posteriors, whatever it measures: each test plants what it asks about."""
    model = linear_gaussian()
    x = model.sample(360)[0]
    rows = {"train": x[:120], "selection": x[120:240], "heldout": x[240:]}
    mine = bring.modules(
        model.posterior, lambda z: z @ model.weight.T + model.bias, rows, gives="std", likelihood=NOISE
    )
    fits = {kind: zprime.fit(kind, **mine.splits) for kind in ("gaussian", "mixture", "aggregated")}
    return zprime.audit(fits, mine.posteriors, model=mine.model, rows=mine.rows, settings=FEW)


def answer(audit: Audit, question: str) -> str:
    return next(a.answer for a in questions(audit) if a.question == question)


def of(value: float) -> Estimate:
    """A distance or a difference of distances, ± 1."""
    e = exact(value, n=300, unit="squared feature units", split="heldout")
    return replace(e, stderr=1.0, low=value - 2, high=value + 2)


def with_distances(audit: Audit, *, real: float, made: float, best: float, prior: float, ignores: str = "") -> Audit:
    """Frechet distances, each ± 1, of a decoder that ignores z or not."""
    assert audit.samples is not None
    numbers = {
        "real rows": of(real),
        "reconstructions": of(made),
        "choice": of(best),
        "prior": of(prior),
        "gain": of(prior - best),
        "decoder": of(made - real),
        "latents of the prior": of(prior - made),
        "excess of the prior": of((prior - made) - (made - real)),
    }
    verdict = replace(audit.samples.verdict, numbers=numbers, best=small.candidate(audit, "mixture"))
    return replace(audit, samples=replace(audit.samples, verdict=verdict, ignores=ignores))


def test_every_question_has_an_answer_and_a_section_that_is_there(audit: Audit) -> None:
    found = questions(audit)
    assert [a.question for a in found] == list(QUESTIONS)
    names = {s.name for s in SECTIONS}
    for question, said, anchor in found:
        assert said.endswith("."), question
        assert anchor in names, question
        assert not re.search(r"\bnan\b|\binf\b|\bNone\b(?!:)|[{}]|  ", said), question
    text = explain(audit)
    assert all(f"**{question}**" in text for question in QUESTIONS)


def test_a_bad_prior_is_told_from_a_bad_decoder(audit: Audit) -> None:
    label = audit.entry(small.candidate(audit, "mixture")).label
    prior = answer(with_distances(audit, real=2.0, made=3.0, best=4.0, prior=40.0), FAULT)
    assert f"real rows 2.0 ± 1.0, reconstructions 3.0 ± 1.0, samples of {label} 4.0 ± 1.0" in prior
    assert "The decoder’s gap (reconstructions less real rows) is 1.0 ± 1.0" in prior
    assert "latent gap (samples of p(Z) less reconstructions) is 37.0 ± 1.0" in prior
    assert "The latent gap is the larger, by 36.0 ± 1.0" in prior
    assert f"z′ from {label} takes 36.0 ± 1.0 off" in prior
    decoder = answer(with_distances(audit, real=2.0, made=40.0, best=44.0, prior=45.0), FAULT)
    assert "The decoder’s gap is the larger, by 33.0 ± 1.0: another r(z) cannot close it" in decoder
    assert "No candidate that was tried takes off a measurable part" in decoder
    assert "Neither is measurably the larger" in answer(
        with_distances(audit, real=2.0, made=12.0, best=21.0, prior=22.0), FAULT
    )
    assert "nothing is wrong" in answer(with_distances(audit, real=2.0, made=2.0, best=2.0, prior=3.0), FAULT)
    ignores = with_distances(audit, real=2.0, made=40.0, best=45.0, prior=45.0, ignores="its means hardly vary")
    assert "the decoder ignores z (its means hardly vary)" in answer(ignores, FAULT)
    assert "takes the decoder and the rows" in answer(replace(audit, samples=None), FAULT)


def test_codes_without_a_posterior_say_what_stands(audit: Audit) -> None:
    model = replace(audit.model, posterior="none", codes=audit.rows, variance=[4.0, 1.0])
    codes = replace(audit, model=model, surgery={}, averages=None, latents=None, likelihood=None, prior="Gaussian")
    said = answer(codes, CODES)
    assert "The encoder gives one code a row and no posterior" in said
    assert "`bring.codes`" not in said
    assert "This one has: a distribution q(z|x) for every row" in answer(audit, CODES)
    scale = answer(codes, SCALE)
    assert "standard deviation of the codes, root mean square over dimensions, is 1.58" in scale  # √((4 + 1) / 2)
    assert "multiply z by 0.632" in scale
    assert "no scale changes them" in scale
    draws = replace(codes, model=replace(model, posterior="draws"))
    assert "Of the posteriors only draws are known" in answer(draws, CODES)
    assert {a.question: a.anchor for a in questions(codes)}[SCALE] == ""


def with_variances(audit: Audit, means: list[float], own: list[float]) -> Audit:
    """Variance of the posterior means, and of the posteriors, in every dimension of all splits."""
    cut = {k: replace(s, mean_variance=means, posterior_variance=own) for k, s in audit.surgery.items()}
    return replace(audit, surgery=cut)


def test_the_scale_is_that_of_a_draw_and_not_of_the_means(audit: Audit) -> None:
    wide = answer(with_variances(audit, [15.0, 8.0], [1.0, 1.0]), SCALE)
    assert "is 3.54 over the training rows (exact for these; 3 to 4 in single dimensions), 3.54 over held-out" in wide
    assert "multiply z by 0.283" in wide
    right = answer(with_variances(audit, [0.9, 0.6], [0.1, 0.4]), SCALE)
    assert "no other scale is needed" in right
    assert "no other scale is needed" in answer(with_variances(audit, [0.98, 0.98], [0.1, 0.1]), SCALE)  # 1.04
    assert "multiply z by 0.909" in answer(with_variances(audit, [1.11, 1.11], [0.1, 0.1]), SCALE)  # 1.1
    gain = next(e for e in audit.entries if e.kind == "gaussian").heldout.elbo.gain
    assert f"{prose(gain)} nats a row" in right
    assert "fit the kind `gaussian`" in answer(
        replace(audit, entries=[e for e in audit.entries if e.kind != "gaussian"]), SCALE
    )
    assert "need not be 1" in answer(replace(audit, prior="mixture of 3"), SCALE)


def with_curve(audit: Audit, gains: dict[int, float]) -> Audit:
    """ELBO gain on the selection split by number of components, each ± 0.05."""
    points = [CurvePoint("components", k, 10 * k, 0.01, gain, 0.05) for k, gain in gains.items()]
    return replace(audit, entries=[replace(e, curve=points) if e.kind == "mixture" else e for e in audit.entries])


@pytest.mark.parametrize(
    ("gains", "said"),
    [
        ({2: 1.0, 5: 2.95, 10: 3.0, 20: 2.5}, "5: the fewest Gaussians whose ELBO gain on the selection split (2.95"),
        ({20: 2.95, 2: 1.0, 10: 3.0, 5: 2.85}, "10: the fewest Gaussians"),  # in any order
        ({2: 1.0, 5: 2.0, 10: 3.0}, "At least 10, the most that was tried"),
        ({2: 1.0, 5: 2.95, 10: 3.0}, "5: the fewest Gaussians"),
        ({2: 0.05, 5: 0.02}, "None: at no number of components is the ELBO gain above 0.1 nats"),
        ({5: 2.0}, "It was not measured"),
        ({}, "leave its number of components to the selection split"),
    ],
)
def test_components_that_a_latent_space_needs(audit: Audit, gains: dict[int, float], said: str) -> None:
    assert said in answer(with_curve(audit, gains), COMPONENTS)


def test_collapsed_dimensions_are_counted_and_named(audit: Audit) -> None:
    none = answer(with_variances(audit, [0.9, 0.5], [0.1, 0.5]), COLLAPSED)
    assert none.startswith("No: in all 2 dimensions")
    one = answer(with_variances(audit, [0.9, 0.001], [0.1, 1.0]), COLLAPSED)
    assert one.startswith("1 of 2 (z2)")
    assert answer(with_variances(audit, [0.9, 0.011], [0.1, 1.0]), COLLAPSED).startswith("No")
    both = answer(with_variances(audit, [0.003, 0.001], [1.0, 1.0]), COLLAPSED)
    assert both.startswith("Yes, all 2")
    assert "the largest is 0.003" in both
    assert "no r(z) can be better than p(Z)" in both
    ignores = with_distances(audit, real=2.0, made=9.0, best=9.0, prior=9.0, ignores="its means hardly vary")
    assert "The decoder ignores z, whatever the codes say: its means hardly vary" in answer(ignores, COLLAPSED)
    assert "It was not measured" in answer(replace(audit, surgery={}), COLLAPSED)


def test_copies_are_told_of_what_is_shipped_and_of_the_others(audit: Audit) -> None:
    clear = answer(small.cleared(audit), COPIES)
    assert "are cleared: a share of copies of 10 % or more is excluded at 95 %" in clear
    assert "Samples that do copy" not in clear
    assert audit.samples is not None
    entries = [
        replace(e, copying=replace(e.copying, status="copies"))
        if e.id.name in ("aggregated", "prior") and e.copying is not None
        else replace(e, copying_draws=None)
        for e in small.cleared(audit).samples.entries  # type: ignore[union-attr]
    ]
    planted = replace(small.cleared(audit), samples=replace(audit.samples, entries=entries))
    v = replace(audit.samples.verdict, decision="keep the prior", choice="prior", copying={})
    assert planted.samples is not None
    said = answer(replace(planted, samples=replace(planted.samples, verdict=v)), COPIES)
    assert said.startswith("Yes, those of p(Z) do")
    assert said.count("of aggregated") == 1, "with and without a share of the prior it is one distribution"
    most = max((e for e in entries if e.id.name == "aggregated" and e.copying), key=lambda e: e.copying.regional.value)
    assert f"Samples that do copy: of {most.label} (nearer" in said
    untested = answer(small.cleared(audit, "untested"), COPIES)
    assert "it cannot be excluded" in untested
    assert "takes the decoder and the rows" in answer(replace(audit, samples=None), COPIES)


def test_a_page_with_nothing_measured_says_how_to_measure_it(tmp_path: Path, audit: Audit) -> None:
    bare = replace(audit, samples=None, averages=None, latents=None, likelihood=None)
    for question, said, anchor in questions(bare):
        assert said, question
        assert anchor != "samples"
    assert explain(bare).count("It was not measured") >= 2
