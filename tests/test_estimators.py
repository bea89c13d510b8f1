"""The scikit-learn estimators under scikit-learn's own checks."""

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.mixture import GaussianMixture
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from zprime.estimators import LatentDensity, VAESampler


@parametrize_with_checks([LatentDensity(components=2), LatentDensity("gaussian"), VAESampler(1, epochs=2, hidden=(4,))])
def test_scikit_learn_s_own_checks(estimator, check) -> None:
    check(estimator)


def two_clusters(n: int = 400, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, 2)) * 0.3 + np.where(rng.random((n, 1)) < 0.5, -2.0, 2.0)


def test_density_of_means_is_near_scikit_learn_s_own_mixture() -> None:
    x, new = two_clusters(), two_clusters(seed=1)
    ours = LatentDensity(components=2, random_state=0).fit(x).score(new)
    assert ours == pytest.approx(GaussianMixture(2, random_state=0).fit(x).score(new), abs=0.05)


def test_scale_makes_the_density_that_of_the_posteriors() -> None:
    x = two_clusters()
    narrow = LatentDensity("gaussian", random_state=0).fit(x)
    wide = LatentDensity("gaussian", random_state=0).fit(x, scale=np.ones_like(x))
    gap = np.cov(wide.sample(50_000, random_state=1).T) - np.cov(narrow.sample(50_000, random_state=1).T)
    np.testing.assert_allclose(gap, np.eye(2), atol=0.15)


def test_in_a_pipeline_and_a_grid_search() -> None:
    search = GridSearchCV(
        make_pipeline(StandardScaler(), LatentDensity(random_state=0)), {"latentdensity__components": [1, 2]}, cv=2
    ).fit(two_clusters())
    assert search.best_params_ == {"latentdensity__components": 2}


def test_sampler_draws_rows_like_the_data() -> None:
    x = two_clusters(600) + 10
    made = clone(VAESampler(2, random_state=0, epochs=60)).fit(x).sample(2000)
    assert made.shape == (2000, 2)
    np.testing.assert_allclose(made.mean(0), x.mean(0), atol=0.4)
    np.testing.assert_allclose(np.cov(made.T), np.cov(x.T), atol=1.2)
    assert abs(np.mean(np.abs(made.mean(1) - 10) < 1) - np.mean(np.abs(x.mean(1) - 10) < 1)) < 0.2


def test_random_state_decides_fits_and_draws() -> None:
    x = two_clusters(120)
    fits = [LatentDensity(components=2, random_state=s).fit(x) for s in (0, 0, 1)]
    scores = [f.score_samples(x) for f in fits]
    np.testing.assert_array_equal(scores[0], scores[1])
    assert not np.array_equal(scores[0], scores[2])  # other rows were set aside
    draws = [fits[0].sample(5, random_state=s) for s in (None, 0, 1, 1)]
    np.testing.assert_array_equal(draws[0], draws[1])  # the constructor's is the default
    np.testing.assert_array_equal(draws[2], draws[3])
    assert not np.array_equal(draws[1], draws[2])


def test_random_state_decides_training_and_rows() -> None:
    x = two_clusters(60)
    fits = [VAESampler(1, hidden=(4,), epochs=2, random_state=s).fit(x) for s in (0, 0, 1)]
    draws = [f.sample(4, random_state=7) for f in fits]
    np.testing.assert_array_equal(draws[0], draws[1])
    assert not np.array_equal(draws[0], draws[2])
    assert not np.array_equal(fits[0].sample(4, random_state=8), draws[0])
