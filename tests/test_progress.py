"""Progress as users see it: one line in a terminal, sparse lines elsewhere, and about how long something will take."""

import io
import sys
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from rich.console import Console
from torch.distributions import Independent, Normal

import small
from studies import study
from test_auditing import MODEL, SMALL, shifted, splits
from zprime import auditing, bring, progress, training
from zprime.auditing import audit
from zprime.bring import encoded
from zprime.bring.callables import Callables
from zprime.bring.places import Place
from zprime.cli import console
from zprime.cli.console import OPTIONS, bars
from zprime.data import Rows
from zprime.escape import visible
from zprime.fitting import fit
from zprime.measure.candidates import Candidates, candidate_of
from zprime.measure.duration import Duration, duration
from zprime.measure.likelihood.finer import some_rows
from zprime.progress import Expectation, Line, Part, Plain, about, named, shown, silent
from zprime.training import train
from zprime.vae import VAE


class Terminal(io.StringIO):
    """What somebody sees."""

    def isatty(self) -> bool:
        return True


def test_a_terminal_shows_the_first_and_the_last_open_task_and_is_clean_in_the_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen, line = Terminal(), Line(every=0.0)
    monkeypatch.setattr(sys, "stderr", seen)
    line("audit: about 3 minutes on this machine", 0, 1)
    line("gains", 8, 1000)
    assert seen.getvalue().rpartition("\r")[2].rstrip() == "audit: about 3 minutes on this machine · gains 8/1,000"
    line("gains\x1b[2J", 8, 1000)
    assert "\x1b" not in seen.getvalue()
    for what in ("gains", "gains\x1b[2J", "audit: about 3 minutes on this machine"):
        line(what, 1, 1)
    written = seen.getvalue()
    assert written.endswith("\r")
    assert not written.rstrip("\r").rpartition("\r")[2].strip()


class Clock:
    """The time, as a test says."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(progress, "_now", clock)
    return clock


def test_what_is_no_terminal_gets_sparse_lines(monkeypatch: pytest.MonkeyPatch, clock: Clock) -> None:
    """One after some seconds, then one in half a minute, with stage, share, time so far and time left."""
    seen, line = io.StringIO(), Line()
    monkeypatch.setattr(sys, "stderr", seen)
    for done in range(101):
        line("gains\x1b[2J", done, 100)
        clock.now += 1
    lines = seen.getvalue().splitlines()
    assert [said.partition(";")[0] for said in lines] == [
        f"{visible('gains' + chr(27) + '[2J')} {n}/100 ({n} %)" for n in (5, 35, 65, 95)
    ]
    assert lines[0].endswith("; 0:05 so far, about 2 minutes left")
    assert lines[-1].endswith("; 1:35 so far, about 10 seconds left")
    assert "\x1b" not in seen.getvalue()


def test_plain_lines_say_nothing_of_what_is_short_and_the_estimate_at_the_start(clock: Clock) -> None:
    lines: list[str] = []
    plain = Plain(lines.append)
    for done in range(5):
        plain("gains", done, 4)
        clock.now += 1
    assert not lines
    expectation = Expectation(plain, "audit")
    expectation.tell(100.0, parts={"gains": Part(100, 100.0)})
    assert lines == ["audit: about 2 minutes on this machine"]
    for done in range(101):
        expectation("gains", done, 100)
        clock.now += 1
    expectation.done()
    assert lines[1:] == [
        "audit: about 1 minute left; gains 30/100 (30 %); 0:30 so far",
        "audit: about 40 seconds left; gains 60/100 (60 %); 1:00 so far",
        "audit: about 10 seconds left; gains 90/100 (90 %); 1:30 so far",
    ]


def test_without_standard_error_nothing_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    line = Line()
    monkeypatch.setattr(sys, "stderr", None)
    line("gains", 8, 1000)
    assert not line.seen


def test_a_reader_that_is_gone_ends_no_work(monkeypatch: pytest.MonkeyPatch, clock: Clock) -> None:
    closed = io.StringIO()
    closed.close()
    monkeypatch.setattr(sys, "stderr", SimpleNamespace(isatty=lambda: False, write=closed.write, flush=closed.flush))
    line = Line()
    for done in range(9):
        line("gains", done, 100)
        clock.now += 1


def test_what_shows_progress_can_be_replaced_for_a_while() -> None:
    told: list[str] = []
    line = Line()
    with line.through(lambda what, done, total: told.append(what)):
        assert line.seen
        line("gains", 8, 1000)
        with line.through(silent):
            assert not line.seen
            line("samples", 8, 1000)
    assert told == ["gains"]


def test_the_time_left_follows_what_was_done(clock: Clock) -> None:
    """Work that takes twice as long as estimated, after other work that no estimate is of."""
    told: list[str] = []
    expectation = Expectation(lambda what, done, total: told.append(f"{what} {done}/{total}"), "audit")
    expectation.tell(200.0, parts={"gains": Part(100, 100.0), "samples": Part(4, 100.0)}, again=50.0)
    clock.now += 60
    expectation("surgery", 0, 1)
    expectation("gains", 0, 100)
    assert expectation.left == pytest.approx(200)
    for done in range(10, 101, 10):
        clock.now += 20
        expectation("gains", done, 100)
    assert expectation.left == pytest.approx(100 * 240 / 140)
    assert "audit: about 3 minutes left 0/1" in told
    clock.now += 20
    expectation("gains", 10, 100)  # once more: the check failed
    assert expectation.left == pytest.approx((100 + 50 - 10) * 270 / 160)
    expectation.done()
    opened = [said.removesuffix(" 0/1") for said in told if said.startswith("audit") and said.endswith(" 0/1")]
    assert len(opened) > 1
    assert all(f"{says} 1/1" in told for says in opened), "what was opened is closed"


def test_the_time_left_counts_down_by_pieces(clock: Clock) -> None:
    told: list[str] = []
    expectation = Expectation(lambda what, done, total: told.append(what), "train", pieces=100)
    for _ in range(10):
        clock.now += 10
        expectation.finished(9)
    assert told[0] == "train: about 2 minutes on this machine"
    assert told[-2:] == ["train: about 10 seconds left", "train: about 20 seconds left"]  # the end of the older words


def test_the_end_of_older_words_is_not_the_end_of_an_estimate(monkeypatch: pytest.MonkeyPatch, clock: Clock) -> None:
    seen, line = Terminal(), Line(every=0.0)
    monkeypatch.setattr(sys, "stderr", seen)
    expectation = Expectation(named("seed 3", line), "train", pieces=100)
    expectation.tell(3.0)
    clock.now += 200
    expectation.finished(80)
    assert seen.getvalue().rpartition("\r")[2].rstrip() == "seed 3: train: about 50 seconds left"
    expectation.done()
    assert not seen.getvalue().rstrip("\r").rpartition("\r")[2].strip()


def brings(seen: list[int]) -> dict[str, Callable[[], object]]:
    """Models that are brought; `seen` gets the size of every batch that is encoded."""
    x = torch.randn(3000, 3, generator=torch.Generator().manual_seed(0))
    data = {"train": x[:2400], "selection": x[2400:2700], "heldout": x[2700:]}

    def encoder(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        seen.append(len(x))
        return x[:, :2], torch.ones(len(x), 2)

    code = lambda x: encoder(x)[0]  # noqa: E731
    draw = lambda x: code(x) + torch.randn(len(x), 2)  # noqa: E731
    plain = lambda z: Independent(Normal(torch.cat([z, z[:, :1]], 1), 1.0), 1)  # noqa: E731
    rows = {s: Rows(s, v, torch.arange(len(v))) for s, v in data.items()}
    return {
        "modules": lambda: bring.modules(encoder, plain, data, gives="std", check=False),
        "codes": lambda: bring.codes(code, data),
        "draws": lambda: bring.draws(draw, data, draws=2),
        "an adapter": lambda: encoded.bring(Callables(encoder, plain, "std", Place()), rows),
    }


@pytest.mark.parametrize("way", brings([]))
def test_bringing_a_model_tells_how_long_its_rows_take(monkeypatch: pytest.MonkeyPatch, way: str) -> None:
    """From what was tried, before all rows are encoded; else after the first of them."""
    seen: list[int] = []
    told: list[tuple[str, int, int, int]] = []  # with the size of the largest batch until then
    monkeypatch.setattr(encoded, "shown", lambda *said: told.append((*said, max(seen))))
    brings(seen)[way]()
    assert not told  # it takes no 5 seconds
    monkeypatch.setattr(progress, "SHORT", 0.0)
    seen.clear()
    brings(seen)[way]()
    what = "encode 3,000 rows: about 10 seconds on this machine"
    assert [t[:3] for t in told] == [(what, 0, 1), (what, 1, 1)]
    assert told[0][3] == (256 if way == "modules" else 512)
    assert sum(seen) >= 3000


def test_durations_in_words() -> None:
    words = {7: "about 10 seconds", 44: "about 40 seconds", 70: "about 1 minute", 171: "about 3 minutes"}
    assert {s: about(float(s)) for s in words} == words
    assert about(9000.0) == "about 2.5 hours"


def test_an_expectation_is_told_once_and_of_what_is_long_alone() -> None:
    told: list[tuple[str, int, int]] = []

    def heard(what: str, done: int, total: int) -> None:
        told.append((what, done, total))

    short = Expectation(heard, "audit")
    short.tell(1.0)
    short.done()
    assert told == []
    long = Expectation(heard, "train", pieces=100)
    long.tell(1.2)
    long.tell(5.0)
    long.done()
    assert long.says == str(told[0][0])
    says = "train: about 2 minutes on this machine"
    assert told == [(says, 0, 1), (says, 1, 1)]
    assert not Expectation(silent, "audit").wanted
    with shown.through(silent):
        assert not Expectation(shown, "audit").wanted


def test_an_audit_and_a_training_tell_first_and_change_no_number(monkeypatch: pytest.MonkeyPatch) -> None:
    posteriors, rows = splits(60)
    told: list[str] = []

    def heard(what: str, done: int, total: int) -> None:
        told.append(what)

    monkeypatch.setattr(auditing, "duration", lambda study, candidates: Duration(100.0, 150.0))
    found, before = (
        audit({"shifted": shifted(1.0)}, posteriors, model=MODEL.vae(), rows=rows, settings=SMALL, progress=p)
        for p in (heard, silent)
    )
    assert told[0] == told[-1] == "audit: about 2 minutes, or about 4 minutes if more draws are needed"
    assert all(torch.equal(v, before.tensors[k]) for k, v in found.tensors.items())


def test_a_training_tells_after_a_few_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    x = torch.randn(120, 5, generator=torch.Generator().manual_seed(0))
    vae = VAE.build((5,), small.NETWORK)
    monkeypatch.setattr(training, "PIECE", 2)
    monkeypatch.setattr("zprime.progress.SHORT", 0.0)
    train(
        vae,
        Rows("train", x, torch.arange(120)),
        Rows("selection", x[:20], torch.arange(20)),
        replace(small.TRAINING, epochs=2),
        progress=lambda what, done, total: told.append(what),
    )
    assert told[1] == told[-1] == "train, 2 epochs at most: about 10 seconds on this machine"


def test_a_fit_of_several_sizes_tells_after_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[tuple[str, int, int]] = []
    monkeypatch.setattr("zprime.progress.SHORT", 0.0)
    posteriors, _ = splits(n=200)
    fit(
        "mixture",
        posteriors["train"],
        selection=posteriors["selection"],
        keep_duplicates=True,
        progress=lambda what, done, total: told.append((what, done, total)),
    )
    says = "fit, mixture: about 10 seconds on this machine"
    assert told.count((says, 0, 1)) == told.count((says, 1, 1)) == 1
    assert 0 < told.index((says, 0, 1)) < told.index((says, 1, 1))


def test_some_rows_are_measured_again_of_the_held_out_split_alone() -> None:
    """With as many pieces as are then measured."""
    posteriors, rows = splits(80)
    done: dict[str, int] = {}

    def heard(what: str, at: int, total: int) -> None:
        done[what] = done.get(what, 0) + (total if at == total else 0)

    settings = replace(SMALL, draws=400, first_draws=52, members=0)
    audit({"shifted": shifted(1.0)}, posteriors, model=MODEL.vae(), rows=rows, settings=settings, progress=heard)
    s = study(posteriors, rows, model=MODEL.vae(), settings=settings)
    parts = duration(s, Candidates({"shifted": candidate_of(shifted(1.0), 0.01, s.prior)}, prior=s.prior)).parts
    selection, heldout = (f"likelihood gain, {name}" for name in ("selection", "heldout"))
    assert (parts[selection].pieces, parts[heldout].pieces) == (60, 60 + len(some_rows(60)))
    assert done[heldout] - done[selection] == len(some_rows(60))  # more draws are taken of both


def test_the_duration_grows_with_the_work() -> None:
    posteriors, rows = splits(60)
    r = shifted(1.0)

    def seconds(**changes: int) -> float:
        s = study(posteriors, rows, model=MODEL.vae(), settings=replace(SMALL, **changes))
        return duration(s, Candidates({"shifted": candidate_of(r, 0.01, s.prior)}, prior=s.prior)).seconds

    few = min(seconds(samples=0, members=0, exchange=0, rows=2) for _ in range(3))
    assert 0 < few < 0.5 * seconds(samples=0, members=0, exchange=0, rows=60)
    assert seconds(samples=5_000_000, members=0, exchange=0) > 1.5 * few


def test_a_duration_says_what_a_failed_check_and_other_threads_change() -> None:
    assert Duration(170.0).words == Duration(170.0, again=1.0, faster=1.2).words == "about 3 minutes"
    assert Duration(60.0, again=60.0).words == "about 1 minute, or about 2 minutes if more draws are needed"
    assert Duration(10.0, faster=1.6).words == "about 10 seconds"  # not the same words twice
    alone = "about 5 minutes; on one thread (--threads 1, torch.set_num_threads(1)) about 50 seconds"
    assert Duration(300.0, faster=6.0).words == alone
    long = "about 10 minutes; a quick audit (quick=True, --quick) takes a small part of it"
    assert Duration(600.0).words == long
    assert Duration(600.0, quick=True).words == "about 10 minutes"


def test_a_second_measurement_is_expected_where_one_can_be_made() -> None:
    posteriors, rows = splits(60)

    def again(model: object = MODEL.vae(), **changes: int) -> float:
        s = study(posteriors, rows, model=model, settings=replace(SMALL, draws=40, members=0, samples=0, **changes))
        found = duration(s, Candidates({"shifted": candidate_of(shifted(1.0), 0.01, s.prior)}, prior=s.prior))
        assert found.again < 1000 * found.seconds
        return found.again

    few = min(again(exchange=50, repair=2) for _ in range(3))
    assert 0 < few < 0.5 * again(exchange=500, repair=60)
    assert again(exchange=0, repair=60) == again(exchange=50, repair=0) == 0

    class Opaque:
        encode = MODEL.vae().encode

        def decode(self, z: torch.Tensor) -> object:
            return MODEL.vae().decode(z.detach())

    assert again(Opaque(), exchange=50, repair=60) == 0


def bars_of(told: list[tuple[str, int, int]], clock: Clock) -> None:
    """What is told, a second apart, to what a command shows."""
    with bars() as progress:
        for said in told:
            progress(*said)
            shown(*said)  # what the library shows of its own accord
            clock.now += 1


@pytest.mark.parametrize("quiet", [False, True])
def test_a_command_whose_output_is_no_terminal_writes_lines_unless_it_is_quiet(
    quiet: bool, monkeypatch: pytest.MonkeyPatch, clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(OPTIONS, "quiet", quiet)
    bars_of([("gains", done, 40) for done in range(40)], clock)
    out, err = capsys.readouterr()
    assert out == ""
    lines = err.splitlines()
    assert [line.partition(";")[0] for line in lines] == ([] if quiet else ["gains 5/40 (12 %)", "gains 35/40 (88 %)"])


def test_bars_keep_an_estimate_whose_words_change(monkeypatch: pytest.MonkeyPatch, clock: Clock) -> None:
    seen = Terminal()
    monkeypatch.setenv("TERM", "xterm")  # a dumb one has no bars
    monkeypatch.setattr(console, "CONSOLE", Console(file=seen, force_terminal=True, width=100))
    with bars() as progress:
        expectation = Expectation(progress, "train", pieces=100)
        expectation.tell(3.0)
        clock.now += 200
        expectation.finished(80)
    written = seen.getvalue()
    assert "train: about 50 seconds left" in written
    assert written.rindex("about 50 seconds left") > written.rindex("about 5 minutes on this machine")


def test_what_an_audit_tells_are_the_parts_that_its_time_is_estimated_by() -> None:
    posteriors, rows = splits(60)
    told: set[str] = set()
    settings = replace(SMALL, exchange=50)
    audit(
        {"shifted": shifted(1.0)},
        posteriors,
        model=MODEL.vae(),
        rows=rows,
        settings=settings,
        progress=lambda what, done, total: told.add(what),
    )
    s = study(posteriors, rows, model=MODEL.vae(), settings=settings)
    found = duration(s, Candidates({"shifted": candidate_of(shifted(1.0), 0.01, s.prior)}, prior=s.prior))
    assert found.parts.keys() <= told
    assert found.parts.keys() >= {"likelihood gain, selection", "likelihood gain, heldout"}
    assert found.seconds == pytest.approx(sum(p.seconds for p in found.parts.values()))
