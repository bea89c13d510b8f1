"""The contract of a kind: what every kind declares, where it is entered, and that what is stored loads by itself."""

import dataclasses
import inspect
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest
import torch

from docpages import ROOT
from tasks import task
from zoo import ZOO, posteriors
from zprime import latent
from zprime.arrays import standard_log_prob
from zprime.distribution import LatentDistribution, Prior, is_standard
from zprime.errors import UsageError
from zprime.fitting import fit, load_fit, save_fit
from zprime.latent import (
    SETTINGS,
    Defensive,
    ExemplarsSettings,
    Gaussian,
    GaussianSettings,
    MixtureSettings,
    PriorSettings,
    ProductOfExpertsSettings,
    ResampledSettings,
    Settings,
)
from zprime.latent.kind import Outcome
from zprime.latent.selection import Codes
from zprime.measure.candidates import candidate_of
from zprime.results.facts import Chosen
from zprime.rng import stream
from zprime.sampling import GenerativeModel
from zprime.vae import VAE, VAESettings

FILES = [p.stem for p in Path(latent.__file__).parent.glob("*.py") if "kind: ClassVar[str]" in p.read_text()]
CLASSES = {
    value
    for stem in FILES
    for value in vars(import_module(f"zprime.latent.{stem}")).values()
    if inspect.isclass(value) and issubclass(value, Settings) and "kind" in vars(value)
}


def test_every_settings_class_is_entered_once_and_has_a_page_and_a_line_in_the_zoo() -> None:
    """These are the places that a new kind takes: its file, and these three."""
    assert set(SETTINGS.values()) == CLASSES
    for kind, settings in SETTINGS.items():
        assert settings.kind == kind
        assert (ROOT / "docs" / "kinds" / f"{kind}.md").exists(), kind
        assert any(name == kind or name.startswith(f"{kind}-") for name in ZOO), kind


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_a_kind_declares_what_tables_and_schedules_need(settings: type[Settings]) -> None:
    assert settings.__dataclass_params__.frozen  # type: ignore[attr-defined]
    assert not settings.__subclasses__()
    assert all(dataclasses.astuple(settings.about)), "an empty cell of `zprime kinds`"
    assert "fit" in vars(settings)
    assert settings().name == settings.kind


def test_settings_cannot_be_made_without_a_fit() -> None:
    with pytest.raises(TypeError, match="abstract"):
        Settings()  # type: ignore[abstract]


def test_names_tell_apart_what_is_fitted_side_by_side() -> None:
    assert PriorSettings(0.8).name == "prior-0.8"
    assert latent.ConditionalSettings(GaussianSettings()).name == "conditional-gaussian"


def test_what_kinds_have_no_density_agrees_with_their_distributions() -> None:
    for kind, settings in SETTINGS.items():
        given = next(r(2, torch.float64) for n, r in ZOO.items() if n == kind or n.startswith(f"{kind}-"))
        assert (given.density != "none") == settings.has_density, kind


def test_a_gloss_says_what_the_label_is_and_goes_through_what_wraps_it() -> None:
    mixture = ZOO["mixture"](2, torch.float64)
    assert mixture.gloss == "3 Gaussians fitted to all posteriors"
    for wrapped in ("defensive-mixture", "active-mixture"):
        assert ZOO[wrapped](2, torch.float64).gloss == mixture.gloss
    assert ZOO["conditional"](2, torch.float64).gloss == "Gaussians fitted to the posteriors of each of 3 labels"


def fresh(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


@pytest.mark.parametrize("name", ["mixture", "defensive-mixture", "conditional", "flow"])
def test_what_was_stored_loads_in_a_process_that_imported_nothing_else(name: str, tmp_path: Path) -> None:
    r = ZOO[name](2, torch.float32)
    r.save(tmp_path / "latent")
    vae = VAE.build((4,), VAESettings(latents=2, hidden=(3,))).eval()
    GenerativeModel(r, vae, torch.zeros(4), torch.ones(4)).save(tmp_path / "generator")
    # a network in single precision gives the same up to rounding: the other process may use other threads
    z = pytest.approx(float(r.sample(9, rng=stream(0, "z")).double().sum()), abs=1e-4)
    draw = "latent.sample(9, rng=__import__('zprime.rng').rng.stream(0, 'z')).double().sum()"
    loaded = (
        f"import zprime; latent = zprime.load_generator({str(tmp_path / 'generator')!r}).latent; print(float({draw}))"
    )
    assert float(fresh(loaded)) == z
    loaded = f"import zprime; latent = zprime.load_latent({str(tmp_path / 'latent')!r}); print(float({draw}))"
    assert float(fresh(loaded)) == z


def test_a_fit_is_stored_with_what_was_decided(tmp_path: Path) -> None:
    settings = MixtureSettings(polish=0, restarts=1)
    done = fit(settings, posteriors(2, n=60), selection=posteriors(2, n=40, seed=1))
    save_fit(done, settings, tmp_path / "fit", key="", seed=0, inputs={})
    back = load_fit(tmp_path / "fit")
    assert (back.chosen, back.curve, back.outcome, back.trace) == (done.chosen, done.curve, done.outcome, done.trace)
    assert isinstance(back.chosen, Chosen)
    assert isinstance(back.outcome, Outcome)
    assert len(back.curve) > 1


# The prior as a value


def wide(d: int = 2) -> Gaussian:
    """A prior that is not N(0, I)."""
    return Gaussian(torch.full((d,), 0.5, dtype=torch.float64), torch.full((d,), 2.0, dtype=torch.float64))


def test_the_standard_prior_is_the_default_to_the_bit() -> None:
    z = torch.randn(50, 3, generator=stream(0))
    assert torch.equal(Prior(3).log_prob(z), standard_log_prob(z))
    assert is_standard(Prior(3))
    assert not is_standard(Prior(3, 0.8))
    assert not is_standard(ZOO["gaussian"](3, torch.float64))
    p = posteriors(2)
    a, b = (fit("mixture", p, selection=p, prior=prior, keep_duplicates=True) for prior in (None, Prior(2)))
    assert a.chosen == b.chosen
    assert all(torch.equal(v, b.distribution.tensors()[k]) for k, v in a.distribution.tensors().items())


def test_gains_and_epsilon_are_of_the_prior_that_is_given() -> None:
    """By the definitions: the gain is over log p(z), and what is mixed in is p."""
    p = wide()
    q = posteriors(2)
    codes = Codes.draw(q, p, rng=stream(0), points=100)
    assert torch.equal(codes.log_prior, p.log_prob(codes.z))
    done = fit(
        MixtureSettings(components=24, polish=0, iterations=500, least_rows=0.0),
        q,
        selection=posteriors(2, n=80, seed=1),
        prior=p,
    )
    mixed = candidate_of(done.distribution, done.chosen.epsilon, p)
    assert isinstance(mixed, Defensive)
    assert mixed.prior is p
    assert mixed.epsilon == done.chosen.epsilon
    e = mixed.epsilon
    expected = torch.logaddexp(
        mixed.base.log_prob(codes.z) + torch.tensor(1 - e).log(), p.log_prob(codes.z) + torch.tensor(e).log()
    )
    torch.testing.assert_close(mixed.log_prob(codes.z), expected, rtol=1e-6, atol=1e-6)


def test_a_mixture_with_another_prior_draws_from_it_and_is_rebuilt_with_it(tmp_path: Path) -> None:
    far = Gaussian(torch.full((2,), 50.0, dtype=torch.float64), torch.ones(2, dtype=torch.float64))
    mixed = Defensive(ZOO["mixture"](2, torch.float64), 0.25, far)
    z = mixed.sample(4000, rng=stream(0))
    assert float((z[:, 0] > 25).double().mean()) == pytest.approx(0.25, abs=0.03)
    mixed.save(tmp_path / "mixed")
    back = latent.load(tmp_path / "mixed")
    assert torch.equal(back.log_prob(z), mixed.log_prob(z))
    assert mixed.tilt(torch.zeros(1, 2), torch.ones(1, 2), draws=1, rng=stream(0)) is None


@pytest.mark.parametrize(
    "settings",
    [
        ProductOfExpertsSettings(),
        PriorSettings(0.8),
        ResampledSettings(base="prior"),
        ExemplarsSettings(subset="npmle", rows=3),
    ],
    ids=lambda s: s.kind,
)
def test_closed_forms_for_the_standard_prior_refuse_another(settings: Settings) -> None:
    q = posteriors(2)
    with pytest.raises(UsageError, match=r"known for the prior N\(0, I\) only, got gaussian \(diagonal\)"):
        settings.fit(task(q, prior=wide(), rng=stream(0)))


def test_the_prior_kind_gives_the_prior_that_is_known() -> None:
    q, p = posteriors(2), wide()
    done = fit("prior", q, selection=q, prior=p, keep_duplicates=True)
    assert done.distribution is p
    assert done.chosen == Chosen()


def test_a_prior_of_another_dimension_is_refused() -> None:
    q = posteriors(2)
    with pytest.raises(UsageError, match="prior: expected 2 latents, as the posteriors have, got 3"):
        fit("gaussian", q, selection=q, prior=wide(3))


def test_no_dimension_is_given_to_another_prior() -> None:
    """The active subspace puts N(0, I) on the rest, which another prior is not."""
    q = posteriors(3)
    unused = type(q)(
        torch.cat([q.mean[:, :2], torch.zeros(q.n, 1)], 1), torch.cat([q.scale[:, :2], torch.ones(q.n, 1)], 1)
    )
    assert fit("gaussian", unused, selection=unused, keep_duplicates=True).chosen.active == [0, 1]
    assert fit("gaussian", unused, selection=unused, prior=wide(3), keep_duplicates=True).chosen.active is None


def test_base_of_a_distribution_says_nothing() -> None:
    assert LatentDistribution.gloss.fget(Prior(2)) == ""  # type: ignore[attr-defined]


@pytest.mark.parametrize("epsilon", [0.0, 1.0, -0.1])
def test_a_share_of_the_prior_is_between_none_and_all(epsilon: float) -> None:
    with pytest.raises(
        UsageError, match=f"epsilon: expected a weight of the prior above 0 and below 1, got {epsilon:g}"
    ):
        Defensive(ZOO["mixture"](2, torch.float64), epsilon)
