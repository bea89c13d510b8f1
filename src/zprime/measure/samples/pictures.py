"""Tensors for pictures: codes and draws of the latent map, decoded samples, and the training row nearest to each."""

from collections.abc import Mapping

import torch
from torch import Tensor

from zprime.arrays import count_columns, in_proportion
from zprime.kernels import ExactIndex
from zprime.measure.candidates import Candidates
from zprime.measure.samples.features import Entries
from zprime.measure.study import Study
from zprime.results.names import CODES, LABELS, RECONSTRUCTIONS, ROWS
from zprime.rng import fork

FEWEST = 100  # codes of the latent map, however many dimensions there are


@torch.no_grad()
def latent_map(study: Study, candidates: Candidates) -> dict[str, Tensor]:
    """`data.codes` (and `data.labels`): codes of held-out rows; `map.<name>`: draws of every distribution itself."""
    heldout, n = study.heldout.posteriors, study.settings.map
    n = min(n, max(FEWEST, in_proportion(n, heldout.d)))
    some = heldout.take(torch.randperm(heldout.n, generator=study.stream("map"))[:n])
    tensors = {CODES: some.draw(rng=study.stream("map codes")).float()}
    if some.labels is not None:
        tensors[LABELS] = some.labels
    for wanted, r in candidates.distributions.items():
        if not wanted.percent:
            tensors[f"map.{wanted}"] = r.sample(n, rng=study.stream("map", wanted.name)).float()
    return tensors


@torch.no_grad()
def held_out_grids(study: Study) -> dict[str, Tensor]:
    """`data.rows` and `data.reconstructions`: held-out rows, and their posterior means decoded."""
    if study.model is None or study.heldout.rows is None:
        return {}
    rows = study.heldout.rows
    x = rows.x[torch.randperm(len(rows), generator=study.stream("grid"))[: study.settings.grid]]
    decoded = study.model.decode(study.model.encode(x)[0]).mean.float()
    return {ROWS: x, RECONSTRUCTIONS: decoded}


def candidate_grids(study: Study, candidates: Candidates) -> dict[str, Tensor]:
    """`grid.<id>`: decoded samples of all distributions; `near.<id>`: the training row nearest to each of them.

    For audits that do not compare samples with data; those that do keep samples of that comparison.
    """
    if study.model is None or study.heldout.rows is None:
        return {}
    noise = "mean" if count_columns(study.heldout.rows.x) is None else "draw"
    grids: dict[str, Tensor] = {}
    for wanted, r in candidates.distributions.items():
        rng = study.stream("grid", wanted.name)
        z = r.sample(study.settings.grid, rng=fork(rng, "z"))
        grids[str(wanted)] = study.decode(z, noise=noise, rng=rng).float()
    return {f"grid.{name}": x for name, x in grids.items()} | _nearest(study, grids)


def _nearest(study: Study, grids: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The training row nearest to every row that is shown; empty without training rows."""
    if study.train.rows is None:
        return {}
    x = study.train.rows.x
    entries = Entries.fitting(x)
    index = ExactIndex(entries.whole(x))
    return {f"near.{k}": x[index.nearest(entries.of(g), 1)[1][:, 0]].float() for k, g in grids.items()}
