"""Progress as users see it: one line in a terminal, nothing elsewhere, and about how long something will take."""

import io
import sys
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch.distributions import Independent, Normal

import small
from studies import study
from test_auditing import MODEL, SMALL, shifted, splits
from zprime import auditing, bring, progress, training
from zprime.auditing import audit
from zprime.bring import encoded
from zprime.bring.callables import Callables
from zprime.bring.places import Place
from zprime.data import Rows
from zprime.fitting import fit
from zprime.measure.candidates import Candidates, candidate_of
from zprime.measure.duration import Duration, duration
from zprime.progress import Expectation, Line, about, shown, silent
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


def test_what_is_no_terminal_gets_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = io.StringIO()
    for stream in (seen, None):
        monkeypatch.setattr(sys, "stderr", stream)
        shown("gains", 8, 1000)
        assert not shown.seen
    assert seen.getvalue() == ""


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
    says = "train: about 2 minutes on this machine"
    assert told == [(says, 0, 1), (says, 1, 1)]
    assert not Expectation(silent, "audit").wanted
    assert not Expectation(shown, "audit").wanted  # under pytest nobody sees standard error


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
    assert Duration(300.0, faster=6.0).words == "about 5 minutes (torch.set_num_threads(1): about 50 seconds)"


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
