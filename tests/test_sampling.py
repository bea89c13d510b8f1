"""The generative model: round trip, what it carries, what is refused, decoder means and draws."""

import logging
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from zprime import decoding, loading, sampling
from zprime.bring import Brought
from zprime.distribution import LatentDistribution
from zprime.errors import ArrayError, ArtifactError, UsageError
from zprime.latent import Aggregated, Defensive, Mixture, Prior
from zprime.latent import load as load_latent
from zprime.results.settings import AuditSettings
from zprime.rng import fork, stream
from zprime.sampling import GenerativeModel
from zprime.vae import VAE, VAESettings

N = 37


def model(latent: LatentDistribution | None = None, shape: tuple[int, ...] = (1, 8, 8)) -> GenerativeModel:
    vae = VAE.build(shape, VAESettings(latents=2, hidden=(5,))).eval().requires_grad_(requires_grad=False)
    one = torch.ones(shape)
    return GenerativeModel(latent or Prior(2), vae, 3 * one, 2 * one, shape if len(shape) == 3 else None)


def mixture() -> Mixture:
    return Mixture(torch.zeros(3).log_softmax(0), torch.randn(3, 2, generator=stream(0, "m")), torch.ones(3, 2))


def aggregated() -> Aggregated:
    return Aggregated(torch.randn(N, 2, generator=stream(0, "a")), torch.full((N, 2), 0.1))


@pytest.mark.parametrize("latent", [Prior(2), mixture(), aggregated(), Defensive(mixture(), 0.1)])
def test_round_trip_gives_the_same_samples(latent: LatentDistribution, tmp_path: Path) -> None:
    shipped = model(latent)
    shipped.save(tmp_path / "g", allow_rows=True)
    again = loading.load(tmp_path / "g")
    for noise in ("mean", "draw"):
        first, second = (sampling.sample(m, 20, noise=noise, allow_rows=True) for m in (shipped, again))
        for a, b in zip(first, second, strict=True):
            assert torch.equal(a, b)
    assert again.image == (1, 8, 8)


def test_a_model_carries_training_rows_only_where_its_kind_does_and_then_says_so(tmp_path: Path) -> None:
    def sizes(latent: LatentDistribution) -> set[int]:
        found = model(latent).save(tmp_path / latent.kind, allow_rows=True)
        assert found.config["holds_training_rows"] is latent.holds_rows
        return {n for t in found.tensors().values() for n in t.shape}

    assert N not in sizes(mixture())
    assert N in sizes(aggregated())
    assert "functions of single training rows are stored. Anyone who has this model" in model(aggregated()).says()
    counted = replace(mixture(), least_rows=12.9)
    assert model(counted).says() == "mixture(3): every stored component stands for at least 12 rows."
    assert model(mixture()).says().startswith("mixture(3): no rows were counted behind what is stored")
    assert model(Prior(2)).says() == "prior: nothing is stored."
    assert model(counted).save(tmp_path / "counted").config["least_rows"] == 12.9
    assert loading.load(tmp_path / "counted").latent.least_rows == 12.9
    names = model(mixture()).save(tmp_path / "names").tensors()
    assert not any(n.startswith("decoder.encoder") for n in names)


def test_shipped_model_cannot_encode(tmp_path: Path) -> None:
    model().save(tmp_path / "g")
    decoder = loading.load(tmp_path / "g").decoder
    with pytest.raises(UsageError, match="this model was shipped without its encoder"):
        decoder.encode(torch.zeros(1, 1, 8, 8))  # type: ignore[attr-defined]


def test_means_and_draws_are_told_apart() -> None:
    shipped = model()
    z, mean = shipped.sample(4000, rng=stream(0, "s"))
    z_too, draw = shipped.sample(4000, rng=stream(0, "s"), noise="draw")
    assert torch.equal(z, z_too)
    gap = draw - mean
    assert isinstance(shipped.decoder, VAE)
    scale = float(shipped.decoder.likelihood.log_scale.exp())  # type: ignore[operator, union-attr]
    assert float(gap.std()) == pytest.approx(scale, rel=0.01)
    assert float(gap.mean()) == pytest.approx(0, abs=0.01)


class Identity:
    """p(x|z) = N(z, 0.01^2): what is decoded is known."""

    def decode(self, z: torch.Tensor) -> torch.distributions.Distribution:
        return torch.distributions.Normal(z, 0.01)


def test_samples_are_in_the_units_of_the_data() -> None:
    shift, scale = torch.tensor([3.0, -100.0]), torch.tensor([2.0, 50.0])
    known = GenerativeModel(Prior(2), Identity(), shift, scale)
    z, x = sampling.sample(known, 4000, seed=7)
    assert torch.equal(z, Prior(2).sample(4000, rng=fork(stream(7, "sample"), "z")))
    assert torch.equal(x, z * torch.tensor([2.0, 50.0]) + torch.tensor([3.0, -100.0]))
    # so the draws have the mean and the standard deviation of the data: N(3, 2^2) and N(-100, 50^2)
    torch.testing.assert_close(x.mean(0), shift, rtol=0, atol=3.0)
    torch.testing.assert_close(x.std(0), scale, rtol=0.05, atol=0)
    _, drawn = sampling.sample(known, 4000, seed=7, noise="draw")
    torch.testing.assert_close((drawn - x).std(0), 0.01 * scale, rtol=0.05, atol=0)
    assert not torch.equal(z, sampling.sample(known, 4000, seed=8)[0])


def test_streaming_in_blocks_gives_the_same_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = model().sample(50, rng=stream(0, "s"))[1]
    monkeypatch.setattr(decoding, "DECODE", 7)
    torch.testing.assert_close(model().sample(50, rng=stream(0, "s"))[1], whole)


def test_global_random_state_does_not_move() -> None:
    before = torch.get_rng_state()
    model().sample(10, rng=stream(0, "s"), noise="draw")
    assert torch.equal(torch.get_rng_state(), before)


def test_refusals(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="n: expected at least 1 sample, got 0"):
        sampling.sample(model(), 0)
    with pytest.raises(UsageError, match="noise: expected mean or draw, got 'loud'"):
        sampling.sample(model(), 1, noise="loud")
    with pytest.raises(ArtifactError, match=r"expected an artefact of kind generator, found no manifest.json"):
        loading.load(tmp_path)

    own = GenerativeModel(Prior(2), Identity(), torch.zeros(1), torch.ones(1))
    with pytest.raises(UsageError, match="save: zprime cannot save a decoder of your own without pickle"):
        own.save(tmp_path / "own")


@pytest.mark.parametrize("noise", ["mean", "draw"])
def test_samples_are_decoded_and_in_the_units_of_the_data(noise: str) -> None:
    """The decoder's answer to z', times 2, plus 3: as `model` has it."""
    made = model()
    z, x = sampling.sample(made, 6, seed=4, noise=noise)
    answer = made.decoder.decode(z)
    if noise == "mean":
        torch.testing.assert_close(x, 2 * answer.mean + 3)
    else:
        gap = ((x - 3) / 2 - answer.mean) / answer.stddev
        assert float(gap.std()) == pytest.approx(1, abs=0.2)
        assert abs(float(gap.mean())) < 0.2
    assert torch.equal(x, sampling.sample(made, 6, seed=4, noise=noise)[1])
    assert not torch.equal(z, sampling.sample(made, 6, seed=5, noise=noise)[0])


def test_copies_are_sampled_and_saved_only_where_that_is_allowed(tmp_path: Path) -> None:
    copies = replace(model(), copying="copies")
    for attempt in (lambda **kw: sampling.sample(copies, 2, **kw), lambda **kw: copies.save(tmp_path / "g", **kw)):
        with pytest.raises(UsageError, match="its samples copy training rows"):
            attempt()
        assert not (tmp_path / "g").exists()
        attempt(allow_copies=True)
    again = loading.load(tmp_path / "g")
    assert again.copying == "copies"
    assert "unfit to publish" in again.says()
    for status in ("passes", "untested"):
        assert len(sampling.sample(replace(model(), copying=status), 2)[0]) == 2


@pytest.mark.parametrize("latent", [aggregated(), Defensive(aggregated(), 0.1)], ids=str)
def test_stored_rows_are_sampled_and_saved_only_where_that_is_allowed(
    latent: LatentDistribution, tmp_path: Path
) -> None:
    """Whatever the copying test says: who has the model has the rows. Leave for copies is no leave for rows."""
    cleared = replace(model(latent), copying="passes")
    for attempt in (lambda **kw: sampling.sample(cleared, 2, **kw), lambda **kw: cleared.save(tmp_path / "g", **kw)):
        for leave in ({}, {"allow_copies": True}):
            with pytest.raises(UsageError, match=r"it stores functions of single training rows.*say --allow-rows"):
                attempt(**leave)
        assert not (tmp_path / "g").exists()
        attempt(allow_rows=True)
    copies = replace(cleared, copying="copies")
    with pytest.raises(UsageError, match="its samples copy training rows"):
        sampling.sample(copies, 2, allow_rows=True)
    assert len(sampling.sample(copies, 2, allow_rows=True, allow_copies=True)[0]) == 2
    brought = Brought({}, model().decoder)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="it stores functions of single training rows"):
        brought.generator(latent, copying="passes")
    assert brought.generator(latent, allow_rows=True, copying="passes").latent is latent


def test_what_no_audit_has_cleared_is_let_through_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    said = "no audit has cleared its samples of copying training rows"

    def warned(made: GenerativeModel) -> list[bool]:
        found = []
        for attempt in (lambda: sampling.sample(made, 2), lambda: made.save(tmp_path / "g")):
            caplog.clear()
            with caplog.at_level(logging.WARNING, "zprime"):
                attempt()
            found.append(said in caplog.text)
        return found

    assert warned(replace(model(mixture()), copying="untested")) == [True, True]
    assert warned(replace(model(mixture()), copying="passes")) == [False, False]
    assert warned(replace(model(), copying="untested")) == [False, False]  # the prior was not made from any row


def test_a_model_that_passed_says_what_was_tested() -> None:
    told = replace(model(), copying="passes").says()
    assert "with 95 % confidence the share of them that are as near to training rows as copies are is below" in told
    assert f"{100 * AuditSettings().copies_limit:g} % unless it was set" in told
    assert model().says() == "prior: nothing is stored."  # what was not tested is not praised


WEIGHTS = torch.tensor([[1.0, 2.0, 0.0], [0.0, -1.0, 3.0]])


class Linear(torch.nn.Module):
    """x = dropout(z W): what is decoded is known in evaluation mode only."""

    def __init__(self) -> None:
        super().__init__()
        self.w, self.dropout = torch.nn.Parameter(WEIGHTS.clone()), torch.nn.Dropout(0.9)

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.dropout(z @ self.w)
        return out


class Method:
    """A decoder with `decode`, not a torch module."""

    def decode(self, z: torch.Tensor) -> torch.Tensor:
        return z @ WEIGHTS


class Whole(Linear):
    """A VAE with `decode`, whose forward takes x."""

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        raise AssertionError("forward is given x, never z")

    def decode(self, z: torch.Tensor) -> torch.Tensor:
        return Linear.forward(self, z)


def drawn(z: torch.Tensor) -> torch.distributions.Distribution:
    return torch.distributions.Independent(torch.distributions.Normal(z @ WEIGHTS, 0.5), 1)


DECODERS = {
    "module": Linear(),
    "module with decode": Whole(),
    "object with decode": Method(),
    "function": lambda z: z @ WEIGHTS,
    "method of a module": Whole().decode,
    "numpy": lambda z: z.numpy() @ WEIGHTS.numpy(),
    "Distribution": drawn,
    "float64": Linear().double(),
    "half": Linear().to(torch.bfloat16),
}


@pytest.mark.parametrize("name", DECODERS)
def test_any_decoder_makes_a_generative_model_without_rows(name: str, tmp_path: Path) -> None:
    """What a new process has: a saved latent distribution, and a decoder."""
    mixture().save(tmp_path / "r")
    known = GenerativeModel(load_latent(tmp_path / "r"), DECODERS[name])
    z, x = sampling.sample(known, 40, seed=3)
    right = z.double() @ WEIGHTS.double()
    torch.testing.assert_close(x.double(), right, rtol=0, atol=0.1 if name == "half" else 1e-5)
    assert x.dtype == (torch.float64 if name == "float64" else torch.float32)
    assert "mixture(3)" in known._repr_html_()


def test_a_module_decodes_in_evaluation_mode_and_is_then_as_it_was() -> None:
    decoder = Linear()
    decoder.dropout.train()
    decoder.training = False
    z, x = sampling.sample(GenerativeModel(Prior(2), decoder), 20)
    torch.testing.assert_close(x, z @ WEIGHTS)
    assert (decoder.training, decoder.dropout.training) == (False, True)

    def broken(z: torch.Tensor) -> torch.Tensor:
        raise ValueError("broken")

    decoder.forward = broken  # type: ignore[method-assign]
    with pytest.raises(ValueError, match="broken"):
        sampling.sample(GenerativeModel(Prior(2), decoder), 2)
    assert decoder.dropout.training


def test_draws_are_only_made_of_a_distribution() -> None:
    gap = torch.sub(*(sampling.sample(GenerativeModel(Prior(2), drawn), 4000, noise=n)[1] for n in ("draw", "mean")))
    assert float(gap.std()) == pytest.approx(0.5, rel=0.05)
    with pytest.raises(UsageError, match=r"noise: expected mean.*answers an array.*got draw.*Gaussian"):
        sampling.sample(GenerativeModel(Prior(2), Linear()), 2, noise="draw")


@pytest.mark.usefixtures("unchecked")
def test_what_is_no_decoder_is_refused_by_name() -> None:
    with pytest.raises(UsageError, match=r"decoder: expected an object with decode\(z\).*got str.*mine.generator"):
        GenerativeModel(Prior(2), "decoder.pt")  # type: ignore[arg-type]
    for answer, got in ((lambda z: (z, z), "tuple"), (lambda z: z[:1], r"shape \[1, 2\]"), (torch.mean, r"shape \[\]")):
        with pytest.raises(ArrayError, match=f"decoder: expected a torch Distribution.* each of 3 z, got {got}"):
            sampling.sample(GenerativeModel(Prior(2), answer), 3)
