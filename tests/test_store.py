"""Posteriors on disk: of every form, what was stored and read again gives the numbers of what was in memory."""

import re
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.distributions import MultivariateNormal

import tampering
import zprime
from zprime import artifact, atomic, latent, posteriors, shards
from zprime.data import Rows
from zprime.encoding import Reencoded, encode
from zprime.errors import ArrayError, ArtifactError, UsageError
from zprime.latent.active import active_dimensions
from zprime.latent.gaussian import marginal_moments, moments
from zprime.measure.study import gather
from zprime.posteriors import MemoryPosteriors, Shard, ShardedPosteriors
from zprime.results.audit import AuditSettings
from zprime.rng import stream

N, D = 12, 3
SIZE = 5  # rows of a shard: in forms with three parts a datum, parts of some lie in two shards


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=stream(seed, "store"), dtype=torch.float64)


def factors(n: int, seed: int = 0) -> Tensor:
    a = normal(n, D, D, seed=seed)
    return torch.linalg.cholesky(0.05 * a @ a.mT + 0.05 * torch.eye(D, dtype=torch.float64)).contiguous()


def shares(n: int) -> Tensor:
    weights = 1 + torch.arange(n, dtype=torch.float64) % 4
    return weights / weights.sum()


def widths(n: int) -> Tensor:
    return 0.2 + normal(n, D, seed=1).abs()


def ids(n: int, parts: int = 1, first: int = 0) -> Tensor:
    """Row ids in no order, each `parts` times, those of a datum side by side."""
    order = torch.randperm(n // parts, generator=stream(0, "ids"))
    return first + 3 * order.repeat_interleave(parts)


def diagonal(n: int = N, first: int = 0) -> MemoryPosteriors:
    labels = torch.arange(n) % 2
    return MemoryPosteriors(normal(n, D), widths(n), row_ids=ids(n, first=first), weights=shares(n), labels=labels)


def plain(n: int = N, first: int = 0) -> MemoryPosteriors:
    return MemoryPosteriors(normal(n, D).float(), widths(n).float(), row_ids=first + torch.arange(n))


def full(n: int = N, first: int = 0) -> MemoryPosteriors:
    return MemoryPosteriors(normal(n, D), factors(n), row_ids=ids(n, first=first))


def components(n: int = N, first: int = 0) -> MemoryPosteriors:
    return MemoryPosteriors(normal(n, D), widths(n), row_ids=ids(n, 3, first), weights=shares(n))


def full_components(n: int = N, first: int = 0) -> MemoryPosteriors:
    return MemoryPosteriors(normal(n, D), factors(n), row_ids=ids(n, 3, first), weights=shares(n))


def codes(n: int = N, first: int = 0) -> MemoryPosteriors:
    return MemoryPosteriors(normal(n, D), None, row_ids=ids(n, first=first), labels=torch.arange(n) % 2)


def draws(n: int = N, first: int = 0) -> MemoryPosteriors:
    return MemoryPosteriors(normal(n, D).float(), None, row_ids=ids(n, 3, first), weights=shares(n))


def known_draws(n: int = N, first: int = 0) -> MemoryPosteriors:
    return MemoryPosteriors(normal(n, D), None, row_ids=ids(n, 3, first), log_q=normal(n, seed=2))


Make = Callable[..., MemoryPosteriors]
FORMS: list[Make] = [diagonal, plain, full, components, full_components, codes, draws, known_draws]
every_form = pytest.mark.parametrize("make", FORMS, ids=[f.__name__ for f in FORMS])


@pytest.fixture(autouse=True)
def _small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "ROWS", SIZE)


def same(a: Tensor | None, b: Tensor | None) -> bool:
    return a is b is None or (a is not None and b is not None and a.dtype == b.dtype and torch.equal(a, b))


@every_form
def test_what_was_stored_is_what_was_in_memory(make: Make, tmp_path: Path) -> None:
    p = make()
    p.save(tmp_path / "p")
    q = zprime.load_posteriors(tmp_path / "p")
    assert [len(s.mean) for s in q.shards()] == [5, 5, 2]
    assert (q.n, q.d, q.form, q.data, q.bytes) == (p.n, p.d, p.form, p.data, p.bytes)
    assert q.effective_rows == p.effective_rows
    for name in ("row_ids", "weights", "labels", "log_q", "datum", "log_weights"):
        assert same(getattr(q, name), getattr(p, name)), name
    back = q.gather()
    for name in ("mean", "scale", "row_ids", "weights", "labels", "log_q", "datum"):
        assert same(getattr(back, name), getattr(p, name)), name
    assert (back.form, back.data) == (p.form, p.data)


@every_form
def test_draws_and_sums_over_shards_are_those_of_memory(make: Make, tmp_path: Path) -> None:
    p = make()
    p.save(tmp_path / "p")
    q = ShardedPosteriors(tmp_path / "p")
    assert same(q.sample(50, rng=stream(0, "s")), p.sample(50, rng=stream(0, "s")))
    torch.testing.assert_close(q.draw(rng=stream(0), draws=3), p.draw(rng=stream(0), draws=3), rtol=1e-14, atol=1e-14)
    values = normal(N, seed=4)
    assert same(q.by_datum(values), p.by_datum(values))
    assert same(q.pick(2, rng=stream(0)), p.pick(2, rng=stream(0)))
    assert same(q.one_each(rng=stream(0)), p.one_each(rng=stream(0)))
    for found, wanted in zip((*moments(q), *marginal_moments(q)), (*moments(p), *marginal_moments(p)), strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-14)
    assert active_dimensions(q, 0.7) == active_dimensions(p, 0.7)


@every_form
@pytest.mark.parametrize("n", [1, 2, N])
def test_some_data_of_what_lies_on_disk_are_those_of_memory(make: Make, n: int, tmp_path: Path) -> None:
    p = make()
    p.save(tmp_path / "p")
    q, at = ShardedPosteriors(tmp_path / "p"), p.pick(n, rng=stream(3))
    found = q.some(n, rng=stream(3))
    for name in ("mean", "scale", "row_ids", "labels", "log_q"):
        whole = getattr(p, name)
        assert same(getattr(found, name), None if whole is None else whole[at]), name
    assert (found.form, found.data) == (p.form, min(n, p.data))
    if p.weights is not None and found.weights is not None:
        torch.testing.assert_close(found.weights, p.weights[at] / p.weights[at].sum())
    assert (found.weights is None) == (p.weights is None) or found.n == 1  # equal weights are none


@pytest.mark.parametrize("make", [diagonal, full, components, full_components], ids=lambda f: f.__name__)
def test_densities_are_those_of_memory_and_of_torch_with_a_datum_left_out(make: Make, tmp_path: Path) -> None:
    """By torch: the mixture of all rows but those of the datum, each point without its own."""
    p, z = make(), normal(7, D, seed=3)
    p.save(tmp_path / "p")
    q = zprime.load_posteriors(tmp_path / "p")
    tril = p.scale if p.form == "full" else torch.diag_embed(p.scale)
    terms = MultivariateNormal(p.mean, scale_tril=tril).log_prob(z[:, None]) + p.log_weights
    torch.testing.assert_close(q.log_prob(z), terms.logsumexp(1), rtol=1e-11, atol=1e-11)
    out = torch.tensor([*p.row_ids[[0, 4, 5, 6, 11]].tolist(), -1, 1000])
    others = terms.masked_fill(p.row_ids == out[:, None], -torch.inf).logsumexp(1)
    kept = torch.stack([p.log_weights[p.row_ids != i].logsumexp(0) for i in out])
    torch.testing.assert_close(q.log_prob(z, leave_out=out), others - kept, rtol=1e-11, atol=1e-11)
    torch.testing.assert_close(p.log_prob(z, leave_out=out), others - kept, rtol=1e-11, atol=1e-11)


def test_a_datum_that_has_all_the_weight_cannot_be_left_out(tmp_path: Path) -> None:
    weights = torch.tensor([0.5, 0.5, 0, 0])
    p = MemoryPosteriors(normal(4, D), widths(4), row_ids=torch.tensor([7, 7, 8, 8]), weights=weights)
    p.save(tmp_path / "p")
    q = ShardedPosteriors(tmp_path / "p")
    assert bool(q.log_prob(normal(1, D), leave_out=torch.tensor([8])).isfinite().all())
    for either in (p, q):
        with pytest.raises(ArrayError, match="leave_out: row 7 has all the weight of 4 posteriors"):
            either.log_prob(normal(1, D), leave_out=torch.tensor([7]))


@pytest.mark.parametrize("make", [codes, known_draws], ids=lambda f: f.__name__)
def test_points_on_disk_have_no_density(make: Make, tmp_path: Path) -> None:
    make().save(tmp_path / "p")
    with pytest.raises(ArrayError, match="needs Gaussian posteriors, and these are draws or codes"):
        zprime.load_posteriors(tmp_path / "p").log_prob(normal(2, D))
    assert zprime.load_posteriors(tmp_path / "p").artifact.tensors("shard-00000.safetensors").keys() == {"mean"}


def test_shards_are_read_one_by_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At most the shard that was used and the next one are there at any moment."""
    monkeypatch.setattr(shards, "ROWS", 1)
    components().save(tmp_path / "p")
    q, read, most = zprime.load_posteriors(tmp_path / "p"), ShardedPosteriors.shards, [0]

    def watched(self: ShardedPosteriors) -> Iterator[Shard]:
        there: weakref.WeakSet[Shard] = weakref.WeakSet()
        for shard in read(self):
            there.add(shard)
            most[0] = max(most[0], len(there))
            yield shard
            del shard

    monkeypatch.setattr(ShardedPosteriors, "shards", watched)
    z = normal(4, D)
    q.log_prob(z)
    q.log_prob(z, leave_out=q.row_ids[:4])
    q.sample(20, rng=stream(0))
    q.draw(rng=stream(0))
    moments(q)
    q.save(tmp_path / "again")
    q.gather()
    q.some(3, rng=stream(0))
    assert most[0] <= 2


def test_what_lies_on_disk_can_be_stored_elsewhere_and_over_itself(tmp_path: Path) -> None:
    p = known_draws()
    first = p.save(tmp_path / "p", key="k", seed=3, model="0" * 64)
    assert (first.kind, first.key, first.seed, first.inputs) == ("posteriors", "k", 3, {"model": "0" * 64})
    for path in ("q", "p"):
        again = zprime.load_posteriors(tmp_path / "p").save(tmp_path / path)
        assert again.hash == first.hash
        assert same(zprime.load_posteriors(tmp_path / path).gather().mean, p.mean)


def test_rows_that_are_encoded_only_now_are_stored_as_the_encoder_answers(tmp_path: Path) -> None:
    class Halves:
        def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return x[:, :D], x[:, D:].exp()

    rows = Rows("train", normal(N, 2 * D), ids(N), labels=torch.arange(N))
    Reencoded(Halves(), rows).save(tmp_path / "p")
    q = zprime.load_posteriors(tmp_path / "p").gather()
    wanted = encode(Halves(), rows).gather()
    for name in ("mean", "scale", "row_ids", "labels"):
        assert same(getattr(q, name), getattr(wanted, name)), name


def test_ids_and_labels_of_32_bits_are_stored_as_such_of_64(tmp_path: Path) -> None:
    p = diagonal()
    MemoryPosteriors(p.mean, p.scale, row_ids=p.row_ids.int(), labels=torch.arange(N).int()).save(tmp_path / "p")
    q = zprime.load_posteriors(tmp_path / "p")
    assert same(q.row_ids, p.row_ids)
    assert same(q.labels, torch.arange(N))


def test_a_shard_is_no_larger_than_it_should_be_whatever_a_row_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for limit, sizes in ((3 * 8 * D * (1 + D), [3, 3, 3, 3]), (1, [1] * N)):
        monkeypatch.setattr(shards, "BYTES", limit)
        assert full().save(tmp_path / "p").config["sizes"] == sizes


def test_a_notebook_is_told_what_the_rows_are(tmp_path: Path) -> None:
    for make, says, silent in (
        (diagonal, ["Gaussians with standard deviations", ">median"], "parts of"),
        (components, ["Gaussians with standard deviations, parts of the posteriors of 4 data"], "log q"),
        (known_draws, ["draws or codes without a density, parts of", "known at every row"], "median"),
        (codes, ["draws or codes without a density", "not known"], "parts of"),
    ):
        make().save(tmp_path / "p")
        shown = zprime.load_posteriors(tmp_path / "p")._repr_html_()
        assert all(s in shown for s in says)
        assert silent not in shown


# -- what cannot be stored, and what cannot be read ------------------------------------------------------------------


def test_numbers_that_cannot_be_read_again_are_not_stored(tmp_path: Path) -> None:
    half = MemoryPosteriors(normal(N, D).half(), widths(N).half())
    tiny = MemoryPosteriors(normal(N, D), widths(N).index_fill(0, torch.tensor([7]), 1e-40))
    negative = MemoryPosteriors(normal(N, D), widths(N), row_ids=-torch.arange(N))
    for p, why in (
        (half, "rows 0 to 4: mean: expected float32 or float64, got float16"),
        (tiny, "rows 5 to 9: scale: expected numbers above 0, from 1e-30"),
        (negative, "posteriors: row_ids: expected row ids, from 0, got numbers from -11 to 0"),
    ):
        with pytest.raises(ArrayError, match=re.escape(why)):
            p.save(tmp_path / "p")
    assert not [*tmp_path.iterdir()]


def test_rows_whose_ids_do_not_say_what_they_are_parts_of_are_not_stored(tmp_path: Path) -> None:
    p, path = components(), tmp_path / "p"
    with pytest.raises(ArrayError, match="expected all components of every datum, got some of them"):
        p.take(torch.tensor([0, 1, 3, 4])).save(path)  # two of three each
    for q in (p, known_draws()):
        with pytest.raises(ArrayError, match="expected all components of every datum, got some of them"):
            q.take(q.one_each(rng=stream(0))).save(path)
    again = torch.tensor([0, 0, 1])
    for q in (diagonal().take(again), codes().take(again), p.alone()):
        with pytest.raises(ArrayError, match=rf"row_ids: expected each once, .* for {q.n} rows"):
            q.save(path)
    p.take(p.one_each(rng=stream(0))).alone().save(path)
    assert zprime.load_posteriors(path).datum is None
    whole = p.take(p.pick(2, rng=stream(0)))  # all parts of two data
    whole.save(path)
    z = whole.draw(rng=stream(0), draws=2)
    torch.testing.assert_close(zprime.load_posteriors(path).gather().own_log_prob(z), whole.own_log_prob(z))


def test_an_interrupted_store_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, write = tmp_path / "p", atomic.write_file

    def stop(file: Path, content: bytes) -> None:
        if file.name == "shard-00001.safetensors":
            raise KeyboardInterrupt
        write(file, content)

    def interrupted() -> None:
        with monkeypatch.context() as m:
            m.setattr(artifact, "write_file", stop)
            with pytest.raises(KeyboardInterrupt):
                codes().save(path)

    interrupted()
    assert not [*tmp_path.iterdir()]
    older = plain().save(path)
    interrupted()
    assert [f.name for f in tmp_path.iterdir()] == ["p"]
    assert artifact.read(path).hash == older.hash
    zprime.load_posteriors(path).artifact.verify()


def test_files_that_are_none_of_ours_are_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "p").mkdir()
    (tmp_path / "p" / "thesis.tex").write_text("x")
    with pytest.raises(UsageError, match="this folder holds files that zprime did not write"):
        plain().save(tmp_path / "p")


def refused(path: Path, why: str) -> None:
    with pytest.raises(ArtifactError, match=why):
        zprime.load_posteriors(path).gather()


def test_an_altered_or_missing_shard_is_refused(tmp_path: Path) -> None:
    known_draws().save(tmp_path / "p")
    file = tmp_path / "p" / "shard-00002.safetensors"
    content = file.read_bytes()
    file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    refused(tmp_path / "p", r"shard-00002.safetensors: its SHA-256 is not the one in manifest.json")
    file.unlink()
    refused(tmp_path / "p", r"shard-00002.safetensors: cannot be read \(No such file")


SPOILT_SHARDS: list[tuple[Make, Callable[[dict[str, Tensor]], dict[str, Tensor]], str]] = [
    (codes, lambda t: {"mean": t["mean"][:-1]}, r"mean: expected shape \[rows, d\] with rows = 5, d = 3, got \[4, 3\]"),
    (codes, lambda t: {"mean": t["mean"][:, :-1]}, r"mean: expected shape .*, got \[5, 2\]"),
    (codes, lambda t: {"mean": t["mean"].index_fill(0, torch.tensor([2]), torch.nan)}, "mean: expected finite .* nan"),
    (codes, lambda t: {**t, "scale": torch.zeros_like(t["mean"])}, "scale: expected no tensor of this name"),
    (plain, lambda t: {"mean": t["mean"]}, "scale: expected a tensor, got none"),
    (plain, lambda t: {**t, "scale": torch.zeros_like(t["scale"])}, "scale: expected numbers above 0"),
    (plain, lambda t: {**t, "scale": torch.diag_embed(t["scale"])}, r"scale: expected shape \[rows, d\], got"),
    (full, lambda t: {**t, "scale": t["scale"].mT.contiguous()}, "scale: expected a lower triangular matrix"),
]


@pytest.mark.parametrize(("make", "spoil", "why"), SPOILT_SHARDS)
def test_a_shard_that_was_altered_and_sealed_again_is_refused(make: Make, spoil, why: str, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    made, name = make().save(tmp_path / "p"), "shard-00001.safetensors"
    tampering.rewrite(tmp_path / "p", tensors=spoil(made.tensors(name)), file=name)
    refused(tmp_path / "p", f"{name}: {why}")


SPOILT_INDICES: list[tuple[Make, str, Tensor | None, str]] = [
    (known_draws, "log_q", None, "log_q: expected a tensor of it where the settings say so"),
    (known_draws, "log_q", torch.zeros(N - 1), r"log_q: expected shape \[n\] with n = 12, got \[11\]"),
    (known_draws, "log_q", torch.full((N,), torch.nan), "log_q: expected finite numbers"),
    (draws, "log_q", torch.zeros(N), "log_q: expected a tensor of it where the settings say so, else none"),
    (components, "row_ids", torch.arange(N), "row_ids: expected 4 different ones, as many as there are data, got 12"),
    (plain, "row_ids", torch.zeros(N, dtype=torch.int64), "row_ids: expected 12 different ones"),
    (draws, "weights", torch.full((N,), 0.5), "weights: expected numbers >= 0 that sum to 1"),
]


@pytest.mark.parametrize(("make", "name", "other", "why"), SPOILT_INDICES)
def test_an_index_that_was_altered_and_sealed_again_is_refused(
    make: Make, name: str, other: Tensor | None, why: str, tmp_path: Path
) -> None:
    index = make().save(tmp_path / "p").tensors(shards.INDEX)
    index = {k: v for k, v in index.items() if k != name} | ({} if other is None else {name: other})
    tampering.rewrite(tmp_path / "p", tensors=index, file=shards.INDEX)
    refused(tmp_path / "p", why)


def test_log_q_beside_gaussians_is_refused(tmp_path: Path) -> None:
    made = plain().save(tmp_path / "p")
    index = {**made.tensors(shards.INDEX), "log_q": torch.zeros(N)}
    tampering.rewrite(tmp_path / "p", config={**made.config, "log_q": True}, tensors=index, file=shards.INDEX)
    refused(tmp_path / "p", "log_q: expected it beside points alone, got 'diagonal'")


# -- fit and audit ---------------------------------------------------------------------------------------------------

QUICK = AuditSettings(rows=40, samples=0, draws=20, exchange=0, members=20, simulated=0, grid=4, map=20)


def three(make: Make, tmp_path: Path) -> tuple[dict[str, MemoryPosteriors], dict[str, ShardedPosteriors]]:
    sizes = {"train": 60, "selection": 30, "heldout": 30}
    memory = {s: make(n, first=1000 * i) for i, (s, n) in enumerate(sizes.items())}
    for i, (s, p) in enumerate(memory.items()):
        memory[s] = MemoryPosteriors(
            p.mean + i,
            None if p.form == "points" else p.scale,
            row_ids=p.row_ids,
            weights=p.weights,
            labels=p.labels,
            log_q=p.log_q,
        )
        memory[s].save(tmp_path / s)
    return memory, {s: posteriors.load(tmp_path / s) for s in sizes}


@every_form
def test_kinds_are_fitted_to_what_lies_on_disk(make: Make, tmp_path: Path) -> None:
    a, b = three(make, tmp_path)
    z = normal(9, D, seed=5)
    for kind in ("gaussian", "mixture", "log-pool", "exemplars"):
        settings, p = latent.settings_for(kind), a["train"]
        if p.form not in settings.takes or (p.datum is not None and not settings.parts):
            continue
        one, two = (zprime.fit(settings, q["train"], selection=q["selection"]) for q in (a, b))
        torch.testing.assert_close(two.distribution.log_prob(z), one.distribution.log_prob(z), rtol=1e-9, atol=1e-9)
        assert two.chosen.epsilon == one.chosen.epsilon


@every_form
def test_an_audit_of_what_lies_on_disk_is_that_of_memory(make: Make, tmp_path: Path) -> None:
    a, b = three(make, tmp_path)
    assert [s.posteriors.log_q is None for s in gather(b)] == [s.posteriors.log_q is None for s in gather(a)]
    r = zprime.fit("gaussian", a["train"], selection=a["selection"])
    one, two = (zprime.audit({"r": r}, p, settings=QUICK).save(tmp_path / str(i)) for i, p in enumerate((a, b)))
    assert two.hash == one.hash
