"""Draws of flows as measures use them: independent noise, as many on both sides of a comparison, and few of them."""


import torch
from torch import Tensor

from studies import study
from zprime.data import Rows
from zprime.encoding import encode
from zprime.latent import Gaussian
from zprime.measure.candidates import Candidates
from zprime.measure.likelihood.exchange import FINEST, Chain
from zprime.measure.study import Study
from zprime.results.names import CandidateId
from zprime.results.settings import AuditSettings
from zprime.rng import stream
from zprime.vae import VAE, VAESettings

FLOW = VAESettings(latents=2, hidden=(8,), posterior="flow", flow_steps=2, likelihood="bernoulli")
R = Gaussian(torch.tensor([0.4, -0.2]), torch.tensor([[0.8, 0.0], [0.3, 0.6]]))
AMONG = Candidates({"r": R})
NAME = CandidateId("r")


def bits(n: int, seed: int = 0) -> Tensor:
    """Rows of four bits: many are equal."""
    return (torch.rand(n, 4, generator=stream(seed, "bits")) < 0.5).float()


def of_flow() -> Study:
    """A study of a flow that was not trained."""
    vae = VAE.build((4,), FLOW, seed=1).eval()
    rows = {
        s: Rows(s, bits(20, i), 100 * i + torch.arange(20)) for i, s in enumerate(("train", "selection", "heldout"))
    }
    q = {s: encode(vae, r, draws=16) for s, r in rows.items()}
    return study(q, rows, model=vae, settings=AuditSettings(exchange=30, draws=40))


def test_simulated_rows_that_are_equal_have_noise_of_their_own() -> None:
    """Within a place of the exchange check, and between places."""
    chain = Chain(s := of_flow(), s.model, AMONG, NAME)
    found = [chain._simulate(place)[0] for place in (0, FINEST)]
    both = torch.cat([split.rows.x for split in found])
    assert len(torch.unique(both, dim=0)) <= 16 < len(both)
    q = [split.posteriors for split in found]
    assert q[0].data == q[1].data == 30
    assert not torch.isin(q[0].row_ids, q[1].row_ids).any()
    assert len(torch.unique(torch.cat([p.mean[:, 0] for p in q]))) == 2 * 30 * 16
