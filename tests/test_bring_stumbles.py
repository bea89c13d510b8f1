"""Mistakes of a first try: what is named first, and what is named at all."""

from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.distributions import Independent, Normal

from oracles import linear_gaussian
from zprime import bring
from zprime.bring.brought import Brought
from zprime.bring.nearness import no_nearer
from zprime.bring.own import Own
from zprime.bring.probe import compare
from zprime.bring.spelling import in_dict
from zprime.errors import UsageError
from zprime.likelihoods import Gaussian, Laplace
from zprime.own_code import Guard

# A VAE as a summed squared error plus the KL trains it, sigma^2 = 1/2, on rows with much less noise.
MODEL = linear_gaussian(D=12, d=2, var=0.5)


def rows(n: int, seed: int) -> Tensor:
    """Reconstructions miss them by much less than sigma."""
    rng = torch.Generator().manual_seed(seed)
    z, noise = torch.randn(n, 2, generator=rng), torch.randn(n, 12, generator=rng)
    return z @ MODEL.weight.T.float() + MODEL.bias.float() + 0.1 * noise


def encoder(x: Tensor) -> tuple[Tensor, Tensor]:
    mean, scale = MODEL.posterior(x.double())
    return mean.float(), 2 * scale.float().log().expand(len(x), 2)


def decoder(z: Tensor) -> Tensor:
    return z @ MODEL.weight.T.float() + MODEL.bias.float()


DATA = {"train": rows(400, 1), "heldout": rows(100, 2)}


def brought(data: dict[str, Tensor] = DATA, **how: object) -> Brought:
    return bring.modules(encoder, decoder, data, **{"gives": "logvar", **how})


@pytest.mark.parametrize(
    ("name", "right", "example"),
    [
        ("gaussian", Gaussian(scale=2**-0.5), r"a summed squared error plus the KL is likelihood=Gaussian"),
        ("laplace", Laplace(scale=1.0), r"a sum of absolute differences plus the KL is likelihood=Laplace"),
    ],
)
def test_a_measured_scale_is_doubted_before_the_reading(name: str, right: object, example: str) -> None:
    """The reading is right, and the scale that was measured is not the one of the loss."""
    assert brought(likelihood=right).posteriors["train"].n == 400
    with pytest.raises(UsageError, match=r"^bring.modules: likelihood: the standard deviation of p\(x\|z\), ") as wrong:
        brought(likelihood=name)
    said = str(wrong.value)
    assert said.index(example) < said.index("only if the measured one is right say gives=".capitalize())
    assert "(with it gives='log-variance' is right)" in said
    assert "binary cross-entropy is likelihood='bernoulli-probs'" in said


def test_a_sigma_that_was_given_is_not_called_measured() -> None:
    with pytest.raises(UsageError, match=r"gives: read as log-variance, .*Say gives='log-std'"):
        brought(likelihood=Gaussian(scale=0.1))


def test_weights_that_were_not_loaded_are_asked_for(caplog: pytest.LogCaptureFixture) -> None:
    """Nothing refuses networks as they are made: their reconstructions are a little farther than the mean row."""
    torch.manual_seed(0)
    mine = bring.model(Untrained(), DATA, gives="logvar", likelihood=Gaussian(scale=2**-0.5))
    told = [s for s in mine.says if "no nearer to the rows than the mean row is (" in s]
    assert len(told) == 1
    assert told[0].endswith("were the weights loaded?")
    assert told[0] in caplog.text
    assert not any("weights loaded" in s for s in brought(likelihood=Gaussian(scale=2**-0.5)).says)


class Untrained(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.to_code, self.to_row = torch.nn.Linear(12, 4), torch.nn.Linear(2, 12)

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        mean, log_variance = self.to_code(x).chunk(2, 1)
        return mean, log_variance

    def decode(self, z: Tensor) -> Tensor:
        return decoder(torch.zeros(len(z), 2)) + 0.5 * self.to_row(z)


def test_a_decoder_that_ignores_z_is_not_asked_for_its_weights() -> None:
    x = torch.rand(256, 200, generator=torch.Generator().manual_seed(0))
    means = torch.full_like(x, 0.5)
    assert no_nearer(Independent(Normal(means, 1.0), 1), x) == ()
    assert no_nearer(Independent(Normal(means + 0.2, 1.0), 1), x) != ()


def test_rows_of_0_to_1_for_a_decoder_that_ends_with_tanh() -> None:
    """An encoder that was made for -1 to 1 answers poor codes, so that no scaling of the rows is near."""
    rng = torch.Generator().manual_seed(0)
    signs = torch.where(torch.rand(400, 12, generator=rng) < 0.5, -1.0, 1.0)
    x = 0.5 * (torch.where(torch.rand(400, 12, generator=rng) < 0.5, -1.0, 1.0) + 1)
    with pytest.raises(UsageError, match=r"as behind a tanh: the rows were probably from -1 to 1 in training"):
        compare(Independent(Normal(0.99 * signs, 1.0), 1), x)


def own(answer: dict[str, object]) -> Own:
    return Own.of(answer, Guard("mymodel.py", Path("mymodel.py")), seed=0)


def test_a_model_of_the_command_line_is_told_of_its_dict(caplog: pytest.LogCaptureFixture) -> None:
    """In Python the same messages name arguments."""
    swapped = {"encoder": lambda x: encoder(x)[::-1], "decoder": decoder, "gives": "logvar"}
    right = {"likelihood": Gaussian(scale=2**-0.5)}
    with pytest.raises(UsageError, match=r"wrong order") as told:
        own({**swapped, **right}).tried(DATA["train"], n=500)
    assert '"encoder": lambda x: f(x)[::-1]' in str(told.value)
    assert '"check": False leaves this out' in str(told.value)
    with pytest.raises(UsageError, match=r"encoder=lambda x: f\(x\)\[::-1\].*check=False leaves this out"):
        bring.modules(**swapped, data=DATA, **right)
    with pytest.raises(UsageError, match=r'Say "gives": \'log-std\', or "check": False if you are sure'):
        own({**swapped, "encoder": encoder, "likelihood": Gaussian(scale=0.1)}).tried(DATA["train"], n=500)
    with pytest.raises(UsageError, match=r'a dict with "encoder" and "decoder" takes the two one by one'):
        own({"vae": torch.nn.Linear(2, 2)})
    wide = {
        "encoder": lambda x: (3 * encoder(x)[0], encoder(x)[1]),
        "decoder": lambda z: decoder(z / 3),
        "gives": "logvar",
    }
    found = own({**wide, **right}).tried(DATA["train"], n=500)[0]
    said = next(s for s in found.says if "mu^2 + sigma^2" in s)
    assert 'give it as "prior";' in said
    assert said in caplog.text


def test_what_a_dict_says_of_arguments() -> None:
    assert in_dict("give likelihood=, which says; beta= is") == 'give "likelihood", which says; "beta" is'
    assert in_dict("take likelihood='bernoulli-probs'") == "take \"likelihood\": 'bernoulli-probs'"
    assert in_dict("beta=4.0 or Gaussian(scale=0.1)") == '"beta": 4.0 or Gaussian(scale=0.1)'


def test_an_error_of_the_users_code_is_quoted_as_it_is() -> None:
    def fails(z: Tensor) -> Tensor:
        raise ValueError("bad prior=3")

    with pytest.raises(UsageError, match="bad prior=3"):
        own({"encoder": encoder, "decoder": fails, "gives": "logvar", "likelihood": "gaussian"}).tried(
            DATA["train"], n=500
        )


def test_each_sentence_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    torch.manual_seed(0)
    caplog.set_level("INFO", logger="zprime")
    found = own({"vae": Untrained(), "gives": "logvar", "likelihood": "gaussian"}).tried(DATA["train"], n=500)[0]
    assert len(found.says) > 1
    assert [caplog.text.count(said) for said in found.says] == [1] * len(found.says)
