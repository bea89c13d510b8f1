"""The answer: it says what the record says, for every outcome there is, and nothing that is not borne out."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

import small
from zprime.cli import main
from zprime.reporting import aggregated, seeds
from zprime.reporting.explain import PARTS, explain
from zprime.reporting.verdicts import difference
from zprime.reporting.words import gloss, quick
from zprime.results.audit import Audit, Score, Scores
from zprime.results.audit import load as load_audit
from zprime.results.likelihood import Exchange
from zprime.results.names import CandidateId, Gain
from zprime.results.verdicts import Decision
from zprime.statistics.estimate import exact
from zprime.statistics.format import nats, prose


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Audit]:
    folder = tmp_path_factory.mktemp("answer")
    job, audit = small.run(folder / "run", small.table(folder / "t.npz", n=240))
    return job.path, audit


@pytest.fixture(scope="module")
def audit(made: tuple[Path, Audit]) -> Audit:
    """As it would be where the mixture was shipped."""
    found = made[1]
    assert found.samples is not None
    v = replace(found.samples.verdict, decision="leave the prior", choice=small.candidate(found, "mixture"))
    return replace(found, samples=replace(found.samples, verdict=v))


def part(text: str, heading: str) -> str:
    """One section."""
    return text[text.index(f"## {heading}") :].split("\n## ")[0]


def with_verdict(audit: Audit, decision: str, choice: str, *, fault: str = "") -> Audit:
    """By likelihood too."""
    assert audit.samples is not None
    told = {"decision": decision, "choice": choice, "sentence": f"{decision}!"}
    made = replace(audit.samples, verdict=replace(audit.samples.verdict, fault=fault, **told))
    return replace(audit, verdict=replace(audit.verdict, **told), samples=made)


@pytest.mark.parametrize(
    ("prior", "words"),
    [
        ("given", "fitted post hoc, to a decoder that stays as it is. `zprime refine RUN --with NAME`"),
        ("learned", "was learned in training, with encoder and decoder: N(0, I). A gain over it is what was left"),
        ("refined", "is N(0, I), which was fitted before, and with which encoder and decoder were trained on"),
    ],
)
def test_it_says_where_the_prior_comes_from(audit: Audit, prior: str, words: str) -> None:
    told = explain(replace(audit, model=replace(audit.model, prior=prior)))
    assert told.count("**May p(Z) be learned too?**") == 1
    assert words in told
    brought = replace(audit.model, prior=prior, training={})
    assert ("May p(Z) be learned" in explain(replace(audit, model=brought))) == (prior != "given")


def with_gain(audit: Audit, value: float, error: float) -> Audit:
    """Held-out gain of the aggregated posterior, by every estimator."""
    gain = replace(
        exact(value, n=100, unit="nats", split="heldout"), stderr=error, low=value - 2 * error, high=value + 2 * error
    )
    entries = []
    for e in audit.entries:
        if e.name.startswith("aggregated"):
            scores = Scores(*[Score(gain, 0.0, 0.0, 0.0)] * 3)
            e = replace(e, scores={**e.scores, "heldout": scores})
        entries.append(e)
    return replace(audit, entries=entries)


def with_status(audit: Audit, status: str) -> Audit:
    """What the copying test found of the aggregated posterior."""
    assert audit.samples is not None
    entries = [
        replace(e, copying=replace(e.copying, status=status), copying_draws=None)
        if e.name.startswith("aggregated") and e.copying is not None
        else e
        for e in audit.samples.entries
    ]
    return replace(audit, samples=replace(audit.samples, entries=entries))


def test_it_answers_every_part_of_the_question(audit: Audit) -> None:
    text = explain(audit)
    # it was trained once, and the audit is whole
    parts = [heading for heading, say in PARTS.items() if say not in (seeds.paragraphs, quick)]
    places = [text.index(f"## {heading}\n") for heading in parts]
    assert places == sorted(places)
    assert not re.search(r"\bnan\b|\binf\b|\bNone\b(?! of these)|[{}]|  ", text), "left over"
    for heading in parts:
        assert len(part(text, heading)) > 100, heading


def test_its_numbers_are_those_of_the_record(audit: Audit) -> None:
    text = explain(audit)
    s, a, made = audit.surgery["train"], audit.averages, audit.samples
    assert a is not None
    assert made is not None
    kl = part(text, "(1)")
    assert f"{nats(s.mean_kl.value)} nats from p(z)" in kl
    assert f"{prose(s.information)} nats tell the rows apart" in kl
    assert f"{prose(s.hole)} nats are the hole" in kl
    average = part(text, "(2)")
    for m in a.members.values():
        assert f"| {prose(m.forward)} | {prose(m.heldout)} |" in average
    held, prior = a.members["aggregated posterior"].heldout.value, a.members["prior"].heldout.value
    assert f"{nats(abs(held - prior))} nats {'farther' if held > prior else 'closer'} than p(Z)" in average
    mixture = part(text, "(3)")
    exact_ = made.entry("aggregated")
    assert exact_.copying is not None
    assert prose(exact_.copying.regional) in mixture
    assert f"{s.mean_kl.n:,} posteriors take" in mixture
    for verdict in (audit.verdict.sentence, made.verdict.sentence):
        assert verdict in part(text, "In short")


def test_what_is_shipped_is_said_first(audit: Audit) -> None:
    short = part(explain(audit), "In short")
    e = audit.entry(audit.shipped)
    assert f"with {e.id.percent:g} % of p(Z) mixed in" in gloss(e)
    assert f"do not draw z′ from N(0, I). Draw it from {e.label}{gloss(e)}" in short
    kept = part(explain(with_verdict(audit, "keep the prior", "prior")), "In short")
    assert "N(0, I) is what to draw z′ from: nothing that was tried is measurably better" in kept
    open_ = part(explain(with_verdict(audit, "undecided", "prior")), "In short")
    assert "could not be decided; until it is, N(0, I)" in open_
    for fault, said in (
        ("decoder", "first its encoder or decoder has to be improved"),
        ("latents", "most of what separates its samples from the data is in the distribution of z′"),
        ("both", "the choice of z′ is half of the answer"),
        ("collapse", "the choice of z′ changes hardly anything, because its decoder ignores z"),
        ("copies", "its samples copy training rows, those from the prior too"),
    ):
        assert said in part(explain(with_verdict(audit, "none of these", "prior", fault=fault)), "In short")
    assert "**For sampling** it is, here, what to draw from." in explain(with_verdict(audit, "keep the prior", "prior"))


def test_the_aggregated_posterior_is_known_by_its_kind_not_by_its_name(audit: Audit) -> None:
    def renamed(**names: str) -> Audit:
        ids = {old: replace(e.id, name=names.get(e.id.name, e.id.name)) for old, e in enumerate(audit.entries)}
        return replace(audit, entries=[replace(e, id=ids[i]) for i, e in enumerate(audit.entries)])

    assert aggregated.entry(renamed(aggregated="all", gaussian="aggregated")) == replace(
        audit.entry("aggregated"), id=CandidateId("all")
    )
    without = replace(audit, entries=[e for e in audit.entries if e.kind != "aggregated"])
    mistaken = replace(without, entries=[replace(e, id=CandidateId("aggregated")) for e in without.entries[1:2]])
    assert aggregated.entry(mistaken) is None


def test_a_mixture_that_does_harm_is_told_from_one_that_does_not(audit: Audit) -> None:
    bad = explain(with_status(with_gain(audit, -2.0, 0.1), "copies"))
    assert "unseen rows are 2.00 ± 0.10 nats worse off under it and what it generates are copies" in bad
    assert "**It does not know new rows.**" in bad
    assert "**Its samples are copies.**" in bad
    good = explain(with_status(with_gain(audit, 0.5, 0.1), "passes"))
    assert "Here no harm was measured." in part(good, "In short")
    assert "It does not know new rows" not in good
    assert "**Its samples are cleared of copying.**" in good
    unsure = explain(with_status(with_gain(audit, 0.5, 0.1), "untested"))
    assert "Here no harm was measured, but its samples are not cleared of copying." in part(unsure, "In short")
    assert "**Its samples are not cleared of copying.**" in unsure
    assert "And they look good" not in good
    assert "that each part of it belongs to a single row" in bad
    assert "that each part of it belongs to a single row" not in good
    unsure = explain(with_status(with_gain(audit, -0.1, 0.2), "passes"))
    assert "It does not know new rows" not in unsure  # worse, but not measurably


def test_an_average_that_is_off_is_not_called_near(audit: Audit) -> None:
    s = audit.surgery["train"]
    near = replace(s, mean_kl=replace(s.mean_kl, value=10.0), gaussian_part=replace(s.gaussian_part, value=0.1))
    far = replace(near, gaussian_part=replace(s.gaussian_part, value=5.0))
    for cut, said, not_said in (
        (near, "are nearly equal in mean and covariance", "Here they are not near"),
        (far, "Here they are not near", "are nearly equal in mean and covariance"),
    ):
        text = explain(replace(audit, surgery={**audit.surgery, "train": cut}))
        assert said in text
        assert not_said not in text


def test_why_the_prior_stays_is_said_by_both_verdicts(audit: Audit) -> None:
    ours = small.candidate(audit, "mixture")
    likelier = replace(audit.verdict, decision="leave the prior", choice=ours)
    label = audit.entry(ours).label

    def short(audit: Audit) -> str:
        return part(explain(audit), "In short").split("\n\n")[1]

    kept = with_verdict(audit, "keep the prior", "prior")
    said = short(replace(kept, verdict=likelier))
    assert "no candidate makes measurably better samples" in said
    assert f"By likelihood, {label} is better" in said
    said = short(replace(audit, verdict=likelier, samples=None))
    assert f"{label} is what to draw z′ from, by likelihood" in said
    assert "not cleared of copying; until it is, N(0, I) is what is shipped" in said
    stores = small.candidate(audit, "aggregated")
    said = short(small.cleared(with_verdict(audit, "leave the prior", stores)))
    assert "makes better samples than N(0, I), but it stores single rows" in said


def test_what_stores_rows_is_not_called_the_closest_to_unseen_rows(audit: Audit) -> None:
    exact_ = aggregated.entry(audit)
    assert exact_ is not None
    text = part(explain(with_gain(audit, 50.0, 0.1)), "(2)").split("What counts is how close")[1]
    assert exact_.label not in text


def test_posteriors_that_collapsed_are_not_called_far(audit: Audit) -> None:
    s = audit.surgery["train"]
    flat = replace(s, mean_kl=replace(s.mean_kl, value=0.02), gaussian_part=replace(s.gaussian_part, value=0.001))
    text = explain(replace(audit, surgery={**audit.surgery, "train": flat}))
    assert "**(1) Here it does.** A posterior is 0.02 nats" in part(text, "In short")
    assert "Here it outweighs the reconstruction" in part(text, "(1)")
    assert "**(1) No.**" in part(explain(audit), "In short")


def test_another_prior_is_called_by_its_symbol(audit: Audit) -> None:
    text = explain(replace(audit, prior="vamp(50)"))
    assert "nats from p(Z) on average" in part(text, "In short")
    assert "Here p(z) is vamp(50); what of it was trained on D has had its update" in part(text, "Whose z")
    assert "distributed as p(Z)" in part(text, "Then what")
    assert "Here it has none: it is N(0, I)" in part(explain(audit), "Whose z")


def test_the_identity_is_told_with_what_fails_of_it(audit: Audit) -> None:
    side, v = audit.likelihood, audit.verdict
    assert side is not None
    assert audit.latents is not None
    hole = audit.latents.hole
    assert hole is not None
    name = small.candidate(audit, "mixture")
    choice = replace(v.chosen, best=name, gain=Gain.LIKELIHOOD)
    gain = replace(side.gaps["heldout"].gap, value=3.0, stderr=0.1, low=2.8, high=3.2)
    found = replace(audit, verdict=replace(v, chosen=choice, heldout=gain, exchange=None))
    text = part(explain(found), "When are p(Z)")
    assert "∫ q(z|x) p(x) dx = ∫ p(x, z) dx = p(z)" in text
    assert f"3.00 ± 0.10 nats more likely with {audit.entry(name).label}" in text
    assert f"unseen rows is {prose(side.gaps['heldout'].gap)} nats by importance sampling" in text
    assert f"between {nats(max(0.0, hole.low))} and {nats(hole.high)} nats (95 %)" in text
    assert "none that may be used" in part(explain(replace(found, verdict=replace(v, heldout=None))), "When are p(Z)")
    small_gap = replace(side.gaps["heldout"], gap=replace(gain, value=0.01, low=-0.01, high=0.03))
    exact_q = replace(found, likelihood=replace(side, gaps={**side.gaps, "heldout": small_gap}))
    assert "is not measurably above 0 (0.01" in part(explain(exact_q), "When are p(Z)")
    elbo = replace(found, verdict=replace(found.verdict, chosen=replace(choice, gain=Gain.ELBO)))
    assert "none that may be used" in part(explain(elbo), "When are p(Z)")
    shift = replace(gain, value=-2.0, stderr=0.1, low=-2.2, high=-1.8)
    failed = Exchange(name, 50, 100, shift, 0, gain, gain, informative=True)
    wrong = replace(found, verdict=replace(found.verdict, exchange=failed))
    assert "none that may be used" in part(explain(wrong), "When are p(Z)")
    none = replace(gain, value=0.0, low=-0.2, high=0.2)
    weak = replace(found, verdict=replace(found.verdict, heldout=none))
    assert "measurably more likely" in part(explain(weak), "When are p(Z)")


def test_a_distance_says_of_which_draws_and_memory_in_which_gain(audit: Audit) -> None:
    side = audit.samples
    assert side is not None
    copies = with_status(audit, "copies")
    assert copies.samples is not None
    entries = [
        replace(e, fidelity=replace(e.fidelity, frechet=replace(e.fidelity.frechet, value=0.0)))
        if e.name == "aggregated"
        else e
        for e in copies.samples.entries
    ]
    text = part(explain(replace(copies, samples=replace(copies.samples, entries=entries))), "(3)")
    assert f"Frechet distance to unseen rows ({side.rows:,} decoder {side.noise}s, {side.features} features)" in text
    assert "The ELBO gain of a training row is" in text


def test_the_road_is_told(audit: Audit) -> None:
    assert audit.samples is not None
    road = audit.samples.path
    assert road is not None

    def told(copies: int, off: int) -> str:
        """The first points copy, the last are off the data."""
        assert audit.samples is not None
        points = []
        for i, s in enumerate(road.points):
            e = replace(s.copying.regional, high=0.4 if i >= off else 0.6)
            points.append(
                replace(s, copying=replace(s.copying, regional=e, status="copies" if i < copies else "passes"))
            )
        found = replace(audit, samples=replace(audit.samples, path=replace(road, points=points)))
        return part(explain(found), "(3)")

    assert "copy up to h = 0.1, and from h = 0.3 on" in told(4, 6)
    assert "Between lies h = 0.15 to h = 0.2." in told(4, 6)
    assert "Nothing that was tried lies between." in told(4, 4)
    assert "copy up to the codes without noise" in told(1, 4)
    assert "at no h do they measurably leave the data" in told(3, 12)
    assert "not even the codes of training rows" in told(0, 12)


def test_what_was_not_measured_is_not_told(audit: Audit) -> None:
    entries = [e for e in audit.entries if not e.name.startswith("aggregated")]
    bare = replace(audit, samples=None, averages=None, latents=None, entries=entries)
    text = explain(replace(bare, verdict=replace(audit.verdict, decision="keep the prior", choice="prior")))
    assert "What it would do was not measured here." in text
    assert "fit the kind `aggregated`, and audit again" in text
    assert "(2) Is the average" not in text
    assert "For generation" not in text
    untested = with_status(audit, "untested")
    assert "copies" not in part(explain(untested), "In short").split("**(3)")[1].split("\n")[0]


def test_verdicts_are_found_by_what_they_are(audit: Audit) -> None:
    assert audit.samples is not None
    assert isinstance(audit.verdict, Decision)
    assert isinstance(audit.samples.verdict, Decision)


def test_the_verb(made: tuple[Path, Audit], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, _ = made
    text = explain(load_audit(folder / "audit"))
    for argv in (["explain", str(folder), "--json"], ["explain", str(folder / "audit"), "--json"]):
        with pytest.raises(SystemExit):
            main(argv)
        assert json.loads(capsys.readouterr().out)["answer"] == text
    with pytest.raises(SystemExit):
        main(["explain", str(folder), "--out", str(tmp_path / "new" / "answer.md")])
    assert (tmp_path / "new" / "answer.md").read_text() == text


@pytest.mark.parametrize(
    ("standing", "said"),
    [
        ("copies", "likelihood hardly sees memorising"),
        ("not cleared", "it is not cleared of copying training rows"),
        ("loses modes", "cover less of the data than the prior's do"),
        ("covers less", "cover less of the data than those of its equals in distance"),
        ("tied", "cannot be told apart in quality"),
        ("behind", "farther from held-out data"),
    ],
)
def test_why_the_verdicts_differ(audit: Audit, standing: str, said: str) -> None:
    assert audit.samples is not None
    ours, theirs = (small.candidate(audit, name) for name in ("gaussian", "mixture"))
    v = replace(audit.samples.verdict, decision="leave the prior", choice=ours, ranking={theirs: standing})
    differs = replace(
        audit,
        verdict=replace(audit.verdict, decision="leave the prior", choice=theirs),
        samples=replace(audit.samples, verdict=v),
    )
    assert said in difference(differs)
    assert said in part(explain(differs), "In short")
    same = replace(differs, verdict=replace(audit.verdict, choice=ours))
    assert difference(same) == ""
