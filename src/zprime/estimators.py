"""Latent distributions and VAEs as scikit-learn estimators, for pipelines and grid searches.

Needs scikit-learn (`pip install 'zprime[digits]'`); nothing else of zprime imports this file.
"""

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, DensityMixin
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data

from zprime.data import Rows
from zprime.data.scaling import scaled, standard
from zprime.distribution import LatentDistribution
from zprime.encoding import encode
from zprime.fitting import fit
from zprime.latent import settings_for
from zprime.latent.mixture import MixtureSettings
from zprime.posteriors import MemoryPosteriors
from zprime.rng import stream
from zprime.sampling import GenerativeModel
from zprime.sampling import sample as draw
from zprime.train_settings import TrainSettings
from zprime.training import train
from zprime.vae import VAE
from zprime.vae_settings import VAESettings

POINT = 1e-3  # of a column's standard deviation: what stands for the scale of codes that come without one

Array = NDArray[np.floating[Any]]


class LatentDensity(DensityMixin, BaseEstimator):  # type: ignore[misc]
    """The density of codes by any kind of latent distribution; with `scale`, of posteriors N(X, scale^2).

    Parameters:
        kind: as on the command line (`zprime kinds`), e.g. `mixture`, `gaussian`, `flow`.
        components: of a mixture; 0 chooses on the rows set aside.
        selection: proportion of the rows that is set aside to choose on.
        random_state: None, an integer or a RandomState.
    """

    def __init__(
        self, kind: Any = "mixture", *, components: Any = 0, selection: Any = 0.2, random_state: Any = None
    ) -> None:
        # scikit-learn wants constructors to take whatever comes, and fit() to complain
        self.kind = kind
        self.components = components
        self.selection = selection
        self.random_state = random_state

    def fit(self, X: Any, y: Any = None, *, scale: Any = None) -> "LatentDensity":
        """Fit to codes or posterior means X [n, d], and their standard deviations [n, d] if there are any.

        Raises:
            ValueError: X or scale cannot be used.
        """
        X = validate_data(self, X, dtype=[np.float64, np.float32], ensure_min_samples=2)
        seed = _seed(self.random_state)
        deterministic = scale is None
        mean = torch.from_numpy(np.array(X, dtype=np.float64))
        if deterministic:
            spread = mean.std(0, correction=0)
            s = (POINT * torch.where(spread > 0, spread, 1.0)).expand_as(mean).contiguous()
        else:
            s = torch.as_tensor(np.array(scale, dtype=np.float64))
        all_ = MemoryPosteriors(mean, s)
        order = torch.randperm(all_.n, generator=stream(seed, "selection"))
        cut = min(all_.n - 1, max(1, round(all_.n * self.selection)))
        settings = settings_for(self.kind)
        if isinstance(settings, MixtureSettings):
            codes = "means" if deterministic else "posteriors"
            settings = replace(settings, components=min(self.components, all_.n - cut), codes=codes)
        fitted = fit(
            settings,
            all_.take(order[cut:].sort().values),
            selection=all_.take(order[:cut]),
            keep_duplicates=True,  # as scikit-learn's own estimators do: X may be a bootstrap sample
            seed=seed,
        )
        self.distribution_: LatentDistribution = fitted.distribution
        self.outcome_ = fitted.outcome
        return self

    def score_samples(self, X: Any) -> Array:
        """Log r(z) of every row, nats."""
        check_is_fitted(self)
        X = validate_data(self, X, dtype=[np.float64, np.float32], reset=False)
        log_prob: Array = self.distribution_.log_prob(torch.from_numpy(np.array(X, dtype=np.float64))).numpy()
        return log_prob

    def score(self, X: Any, y: Any = None) -> float:
        """Mean log r(z) of the rows, nats."""
        return float(self.score_samples(X).mean())

    def sample(self, n_samples: int = 1, random_state: Any = None) -> Array:
        """Draws z', shape [n_samples, d]; `random_state` as in the constructor, whose value is the default."""
        check_is_fitted(self)
        seed = _seed(self.random_state if random_state is None else random_state)
        z: Array = self.distribution_.sample(n_samples, rng=stream(seed, "sample")).double().numpy()
        return z


class VAESampler(BaseEstimator):  # type: ignore[misc]
    """Train a small VAE on the rows of X, fit a latent distribution to its posteriors, draw new rows.

    Parameters:
        latents: latent dimension.
        kind: of latent distribution.
        hidden: widths of the hidden layers.
        epochs: of training, at most.
        selection: proportion of the rows that is set aside to stop and to choose on.
        random_state: None, an integer or a RandomState.
    """

    def __init__(
        self,
        latents: Any = 2,
        *,
        kind: Any = "mixture",
        hidden: Any = (64, 64),
        epochs: Any = 50,
        selection: Any = 0.2,
        random_state: Any = None,
    ) -> None:
        self.latents = latents
        self.kind = kind
        self.hidden = hidden
        self.epochs = epochs
        self.selection = selection
        self.random_state = random_state

    def fit(self, X: Any, y: Any = None) -> "VAESampler":
        """Train on X [n, features]; columns are standardised inside.

        Raises:
            ValueError: X cannot be used.
        """
        X = validate_data(self, X, dtype=[np.float64, np.float32], ensure_min_samples=2)
        seed = _seed(self.random_state)
        raw = torch.from_numpy(np.array(X))
        self.shift_, self.scale_ = standard(raw)
        x = scaled(raw, self.shift_, self.scale_)
        order = torch.randperm(len(x), generator=stream(seed, "selection"))
        cut = min(len(x) - 1, max(1, round(len(x) * self.selection)))
        ids = {"selection": order[:cut].sort().values, "train": order[cut:].sort().values}
        rows = {s: Rows(s, x[i], i) for s, i in ids.items()}
        settings = VAESettings(latents=self.latents, hidden=tuple(self.hidden))
        self.vae_ = VAE.build((x.shape[1],), settings, seed=seed)
        train(self.vae_, rows["train"], rows["selection"], TrainSettings(epochs=self.epochs), seed=seed)
        posteriors = {s: encode(self.vae_, r) for s, r in rows.items()}
        fitted = fit(
            self.kind,
            posteriors["train"],
            selection=posteriors["selection"],
            keep_duplicates=True,  # X may be a bootstrap sample
            seed=seed,
        )
        self.distribution_: LatentDistribution = fitted.distribution
        return self

    def sample(self, n_samples: int = 1, random_state: Any = None) -> Array:
        """New rows x', decoder noise included, in the units of X; shape [n_samples, features]."""
        check_is_fitted(self)
        seed = _seed(self.random_state if random_state is None else random_state)
        model = GenerativeModel(self.distribution_, self.vae_, self.shift_, self.scale_)
        x: Array = draw(model, n_samples, seed=seed, noise="draw")[1].double().numpy()
        return x


def _seed(random_state: Any) -> int:
    """scikit-learn's random_state as a seed: an integer gives the same at every call."""
    return int(check_random_state(random_state).randint(2**31 - 1))
