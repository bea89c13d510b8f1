"""Importing changes nothing, and the public names are what they say."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

import zprime
from zprime import errors

PUBLIC = """
    VAE ArrayError ArtifactError Audit AuditSettings DataSettings Dataset Encode Estimate Fit GenerativeModel
    LatentDistribution MemoryPosteriors NumericalError Outcome OwnModel Posteriors ResourceError Rows Run RunFolder
    ShardedPosteriors Sums Threads TrainSettings UsageError VAESettings Verification ZprimeError audit bring
    codes_table encode explain fit latent lead learned load_audit load_data load_generator load_latent load_posteriors
    plot refine report run sample train verify
"""


def python(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


def test_public_names_are_exact_and_sorted() -> None:
    assert zprime.__all__ == PUBLIC.split()
    assert set(dir(zprime)) == set(zprime.__all__)
    assert zprime.__all__ == sorted(zprime.__all__, key=lambda n: (not n.isupper(), n[0].islower(), n))
    assert set(zprime.__all__) == {*zprime._WHERE, *zprime._MODULES}
    for name in zprime.__all__:
        assert getattr(getattr(zprime, name), "__doc__", None), name


def test_public_names_are_those_of_the_page_for_python() -> None:
    page = (Path(__file__).parent.parent / "docs" / "api.md").read_text()
    told = set(re.findall(r"^::: zprime\.(\w+)", page, re.M))
    of_errors = {name for name in zprime.__all__ if hasattr(errors, name)}
    assert told - {"errors", "estimators", "likelihoods"} == set(zprime.__all__) - of_errors
    assert "errors" in told


def test_a_verb_is_a_function_whatever_was_imported_first() -> None:
    names = ("run", "train", "encode", "fit", "audit", "sample", "report", "explain")
    lines = "; ".join(f"assert callable(zprime.{n}), {n!r}" for n in names)
    assert python(f"import zprime.running, zprime.reporting.explain, zprime.cli, zprime; {lines}; print('ok')") == "ok"


def test_unknown_name() -> None:
    with pytest.raises(AttributeError, match="module 'zprime' has no attribute 'flowery'"):
        _ = zprime.flowery


def test_importing_everything_changes_no_global() -> None:
    code = """
import logging, signal, torch
def state():
    return (torch.get_default_dtype(), torch.get_num_threads(), torch.are_deterministic_algorithms_enabled(),
            torch.distributions.Distribution._validate_args, torch.is_grad_enabled(), torch.initial_seed(),
            torch.get_rng_state().sum().item(), tuple(logging.getLogger().handlers), logging.getLogger().level,
            signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT))
before = state()
import pkgutil, importlib, zprime
for m in pkgutil.walk_packages(zprime.__path__, 'zprime.'):
    importlib.import_module(m.name)
assert state() == before, (before, state())
print('same')
"""
    assert python(code) == "same"


def test_root_help_needs_no_torch() -> None:
    code = "import sys; from zprime.cli import app; app('--help'); assert 'torch' not in sys.modules; print('light')"
    assert python(code).endswith("light")
