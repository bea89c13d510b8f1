"""Streams of random numbers: decided by seed and name alone, independent of one another and of torch's own."""

import itertools

import torch

from zprime.rng import fork, stream


def draw(rng: torch.Generator, n: int = 2000) -> torch.Tensor:
    return torch.randn(n, generator=rng, dtype=torch.float64)


def test_same_seed_and_name_give_the_same_numbers_in_any_process() -> None:
    assert torch.equal(draw(stream(3, "train", 1)), draw(stream(3, "train", 1)))
    # written down once: a change of these is a change of every seeded result
    assert stream(0).initial_seed() == 3456079177858693020
    assert stream(0, "train", 3).initial_seed() == 2169397423305473329


def test_streams_with_other_seeds_or_names_are_uncorrelated() -> None:
    streams = [
        draw(stream(s, *n)) for s, n in itertools.product((0, 1, -1), [(), ("a",), ("b",), ("a", 1), ("a1",), (1, "a")])
    ]
    correlation = torch.corrcoef(torch.stack(streams)) - torch.eye(len(streams))
    assert float(correlation.abs().max()) < 5 / 2000**0.5


def test_fork_depends_on_the_parents_name_and_leaves_it_where_it_was() -> None:
    parent = stream(0, "fit")
    child = fork(parent, "start", 3)
    assert torch.equal(draw(parent), draw(stream(0, "fit")))
    # the parent has moved on by now; its children have not
    assert torch.equal(draw(child), draw(fork(parent, "start", 3)))
    assert not torch.equal(draw(fork(parent, "start", 4)), draw(fork(parent, "start", 3)))
    assert not torch.equal(draw(fork(stream(1, "fit"), "start", 3)), draw(fork(parent, "start", 3)))


def test_torchs_own_generator_does_not_move() -> None:
    before = torch.get_rng_state()
    draw(fork(stream(0, "a"), "b"))
    assert torch.equal(torch.get_rng_state(), before)
