"""zprime: from which latent distribution should a generative model draw z'? Measured, on your model and your data.

    train a VAE (or bring one) -> encode data into posteriors -> fit latent distributions -> audit them
    -> sample from the verdict's choice -> report

`run` does all of this in one call. Names are loaded when they are first used, so importing this package is quick and
changes nothing. The file of a verb is its -ing form (`train` is in `training.py`): a module never hides the function of
its name.
"""

from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from zprime import bring, latent, learned, plot
    from zprime.auditing import audit
    from zprime.batches import Encode, Sums
    from zprime.code_table import codes_table
    from zprime.data import Dataset, DataSettings, Rows
    from zprime.data import load as load_data
    from zprime.distributed import lead
    from zprime.distribution import LatentDistribution
    from zprime.encoding import encode
    from zprime.errors import ArrayError, ArtifactError, NumericalError, ResourceError, UsageError, ZprimeError
    from zprime.fitting import fit
    from zprime.latent import load as load_latent
    from zprime.latent.kind import Fit, Outcome
    from zprime.loading import load as load_generator
    from zprime.own_model import OwnModel
    from zprime.posteriors import MemoryPosteriors, Posteriors, ShardedPosteriors
    from zprime.posteriors import load as load_posteriors
    from zprime.refining import refine
    from zprime.reporting import report
    from zprime.reporting.explain import explain
    from zprime.results.audit import Audit, AuditSettings
    from zprime.results.audit import load as load_audit
    from zprime.run_folder import RunFolder
    from zprime.running import Run, run
    from zprime.sampling import GenerativeModel, sample
    from zprime.statistics.estimate import Estimate
    from zprime.threads import Threads
    from zprime.train_settings import TrainSettings
    from zprime.training import train
    from zprime.vae import VAE
    from zprime.vae_settings import VAESettings
    from zprime.verifying import Verification, verify

_WHERE = {
    "ArrayError": "errors",
    "ArtifactError": "errors",
    "Audit": "results.audit",
    "AuditSettings": "results.audit",
    "DataSettings": "data",
    "Dataset": "data",
    "Encode": "batches",
    "Estimate": "statistics.estimate",
    "Fit": "latent.kind",
    "GenerativeModel": "sampling",
    "LatentDistribution": "distribution",
    "MemoryPosteriors": "posteriors",
    "NumericalError": "errors",
    "Outcome": "latent.kind",
    "OwnModel": "own_model",
    "Posteriors": "posteriors",
    "ResourceError": "errors",
    "Rows": "data",
    "Run": "running",
    "RunFolder": "run_folder",
    "ShardedPosteriors": "posteriors",
    "Sums": "batches",
    "Threads": "threads",
    "TrainSettings": "train_settings",
    "UsageError": "errors",
    "VAE": "vae",
    "VAESettings": "vae_settings",
    "Verification": "verifying",
    "ZprimeError": "errors",
    "audit": "auditing",
    "codes_table": "code_table",
    "encode": "encoding",
    "explain": "reporting.explain",
    "fit": "fitting",
    "lead": "distributed",
    "load_audit": "results.audit",
    "load_data": "data",
    "load_generator": "loading",
    "load_latent": "latent",
    "load_posteriors": "posteriors",
    "refine": "refining",
    "report": "reporting",
    "run": "running",
    "sample": "sampling",
    "train": "training",
    "verify": "verifying",
}
_MODULES = ("bring", "latent", "learned", "plot")

__all__ = [
    "VAE",
    "ArrayError",
    "ArtifactError",
    "Audit",
    "AuditSettings",
    "DataSettings",
    "Dataset",
    "Encode",
    "Estimate",
    "Fit",
    "GenerativeModel",
    "LatentDistribution",
    "MemoryPosteriors",
    "NumericalError",
    "Outcome",
    "OwnModel",
    "Posteriors",
    "ResourceError",
    "Rows",
    "Run",
    "RunFolder",
    "ShardedPosteriors",
    "Sums",
    "Threads",
    "TrainSettings",
    "UsageError",
    "VAESettings",
    "Verification",
    "ZprimeError",
    "audit",
    "bring",
    "codes_table",
    "encode",
    "explain",
    "fit",
    "latent",
    "lead",
    "learned",
    "load_audit",
    "load_data",
    "load_generator",
    "load_latent",
    "load_posteriors",
    "plot",
    "refine",
    "report",
    "run",
    "sample",
    "train",
    "verify",
]

try:
    __version__ = version("zprime")
except PackageNotFoundError:  # imported from a source tree that is not installed
    __version__ = "0"


def __getattr__(name: str) -> Any:
    """Load a public name when it is first asked for."""
    if name in _MODULES:
        return import_module(f"zprime.{name}")
    if name not in _WHERE:
        raise AttributeError(f"module 'zprime' has no attribute {name!r}")
    value = getattr(import_module(f"zprime.{_WHERE[name]}"), "load" if name.startswith("load_") else name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """The public names."""
    return __all__
