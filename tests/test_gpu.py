"""A model on a device: brought, fitted, audited and sampled there give what they give on the CPU.

`make gpu-check` runs these with whatever torch is there, without building anything. Elsewhere they are skipped.
"""

import pytest
import torch
from torch import nn

pytestmark = pytest.mark.gpu


def device() -> torch.device:
    """The first device that torch knows, or skip."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    if getattr(torch.backends, "mps", None) is not None and torch.backends.mps.is_available():
        return torch.device("mps")
    pytest.skip("no device: torch knows neither CUDA nor MPS here")


class Encoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(6, 4)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        mean, raw = self.net(x).chunk(2, 1)
        return mean, raw.sigmoid() * 0.5 + 0.1


def networks(dtype: torch.dtype = torch.float32) -> tuple[Encoder, nn.Linear]:
    torch.manual_seed(0)
    return Encoder().to(dtype), nn.Linear(2, 6).to(dtype)


def rows() -> dict[str, torch.Tensor]:
    rng = torch.Generator().manual_seed(0)
    return {s: torch.randn(n, 6, generator=rng) for s, n in (("train", 400), ("selection", 200), ("heldout", 200))}


def brought(encoder: nn.Module, decoder: nn.Module):
    from zprime import bring, likelihoods

    p = likelihoods.Gaussian(scale=0.8)
    return bring.modules(encoder, decoder, rows(), gives="std", likelihood=p, check=False)


@pytest.mark.parametrize(("dtype", "close"), [(torch.float32, 1e-4), (torch.bfloat16, 0.1), (torch.float16, 0.02)])
def test_posteriors_come_back_as_on_the_cpu(dtype: torch.dtype, close: float) -> None:
    there = device()
    encoder, decoder = networks(dtype)
    moved = brought(encoder.to(there), decoder.to(there)).posteriors["heldout"].gather()
    alone = brought(*networks()).posteriors["heldout"].gather()
    assert moved.mean.device.type == "cpu"
    assert moved.mean.dtype == torch.float32
    assert torch.allclose(moved.mean, alone.mean, atol=close)
    assert torch.allclose(moved.scale, alone.scale, atol=close)


def test_an_audit_gives_the_same_gains() -> None:
    import zprime
    from zprime.results.audit import AuditSettings

    there = device()
    quick = AuditSettings(rows=60, samples=0, draws=200, exchange=0, members=0, simulated=0, grid=4, map=20)
    gains = []
    for encoder, decoder in ([n.to(there) for n in networks()], networks()):
        mine = brought(encoder, decoder)
        fits = {k: zprime.fit(k, **mine.splits) for k in ("gaussian", "mixture")}
        audit = zprime.audit(fits, mine.posteriors, model=mine.model, rows=mine.rows, settings=quick)
        gains.append([e.heldout.likelihood.gain.value for e in audit.entries])
    assert torch.allclose(*map(torch.tensor, gains), atol=0.02)


def test_samples_are_decoded_there() -> None:
    import zprime

    there = device()
    encoder, decoder = networks()
    mine = brought(encoder.to(there), decoder.to(there))
    r = zprime.fit("gaussian", **mine.splits).distribution
    z, x = zprime.sample(mine.generator(r), 32, seed=1)
    assert x.shape == (32, 6)
    assert x.device.type == z.device.type == "cpu"
    assert bool(torch.isfinite(x).all())


def test_densities_are_evaluated_there() -> None:
    from zprime.kernels import mixture_log_prob

    there = device()
    if there.type == "mps":
        pytest.skip("MPS has no float64")
    rng = torch.Generator().manual_seed(0)
    z, mean = torch.randn(50, 3, generator=rng), torch.randn(200, 3, generator=rng)
    scale, weight = torch.rand(200, 3, generator=rng) + 0.1, torch.full((200,), 1 / 200).log()
    here = mixture_log_prob(z, mean, scale, weight)
    away = mixture_log_prob(*(t.to(there) for t in (z, mean, scale, weight)))
    assert torch.allclose(away.cpu(), here, atol=1e-4)
