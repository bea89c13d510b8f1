"""VAEs in the conventions of public codebases: names, signatures, answers and losses are as people write them there.

Written for these tests. Nothing here knows of zprime.
"""

import math
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 (as everybody writes it)
from torch import Tensor, nn

D, LATENTS = 64, 2


def fit(loss: Callable[..., Tensor], parameters: Iterable[Tensor], *x: Tensor, steps: int = 300) -> None:
    """Adam on batches of 100 rows."""
    adam = torch.optim.Adam(list(parameters), lr=5e-3)
    for _ in range(steps):
        at = torch.randint(len(x[0]), (100,))
        adam.zero_grad()
        loss(*(t[at] for t in x)).backward()
        adam.step()


class VAE(nn.Module):
    """As in pytorch/examples: `forward` flattens and answers (recon, mu, logvar); `encode` wants rows that are flat."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1 = nn.Linear(D, 40)
        self.fc21 = nn.Linear(40, LATENTS)
        self.fc22 = nn.Linear(40, LATENTS)
        self.fc3 = nn.Linear(LATENTS, 40)
        self.fc4 = nn.Linear(40, D)

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h1 = F.relu(self.fc1(x))
        return self.fc21(h1), self.fc22(h1)

    def reparameterize(self, mu: Tensor, logvar: Tensor) -> Tensor:
        std = torch.exp(0.5 * logvar)
        return mu + std * torch.randn_like(std)

    def decode(self, z: Tensor) -> Tensor:
        return torch.sigmoid(self.fc4(F.relu(self.fc3(z))))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        mu, logvar = self.encode(x.view(-1, D))
        return self.decode(self.reparameterize(mu, logvar)), mu, logvar

    @staticmethod
    def loss_function(recon_x: Tensor, x: Tensor, mu: Tensor, logvar: Tensor) -> Tensor:
        bce = F.binary_cross_entropy(recon_x, x.view(-1, D), reduction="sum")
        return bce - 0.5 * torch.sum(1 + logvar - mu.pow(2) - logvar.exp())


class VanillaVAE(nn.Module):
    """As in AntixK/PyTorch-VAE: images from -1 to 1, a tanh at the end, mean squared error + kld_weight * KL."""

    def __init__(self, in_channels: int = 1, latent_dim: int = LATENTS, hidden_dims: tuple[int, ...] = (8, 16)) -> None:
        super().__init__()
        modules, channels = [], in_channels
        for h_dim in hidden_dims:
            conv = nn.Conv2d(channels, h_dim, kernel_size=3, stride=2, padding=1)
            modules.append(nn.Sequential(conv, nn.BatchNorm2d(h_dim), nn.LeakyReLU()))
            channels = h_dim
        self.encoder = nn.Sequential(*modules)
        self.fc_mu = nn.Linear(hidden_dims[-1] * 4, latent_dim)
        self.fc_var = nn.Linear(hidden_dims[-1] * 4, latent_dim)
        self.decoder_input = nn.Linear(latent_dim, hidden_dims[-1] * 4)
        up = {"kernel_size": 3, "stride": 2, "padding": 1, "output_padding": 1}
        self.decoder = nn.Sequential(
            nn.ConvTranspose2d(hidden_dims[1], hidden_dims[0], **up), nn.BatchNorm2d(hidden_dims[0]), nn.LeakyReLU()
        )
        self.final_layer = nn.Sequential(nn.ConvTranspose2d(hidden_dims[0], in_channels, **up), nn.Tanh())

    def encode(self, input: Tensor) -> list[Tensor]:  # noqa: A002
        result = torch.flatten(self.encoder(input), start_dim=1)
        return [self.fc_mu(result), self.fc_var(result)]

    def decode(self, z: Tensor) -> Tensor:
        return self.final_layer(self.decoder(self.decoder_input(z).view(-1, 16, 2, 2)))

    def reparameterize(self, mu: Tensor, logvar: Tensor) -> Tensor:
        return torch.randn_like(mu) * torch.exp(0.5 * logvar) + mu

    def forward(self, input: Tensor, **kwargs: Any) -> list[Tensor]:  # noqa: A002, ARG002
        mu, log_var = self.encode(input)
        return [self.decode(self.reparameterize(mu, log_var)), input, mu, log_var]

    def loss_function(self, *args: Tensor, **kwargs: float) -> dict[str, Tensor]:
        recons, input, mu, log_var = args  # noqa: A001
        recons_loss = F.mse_loss(recons, input)
        kld_loss = torch.mean(-0.5 * torch.sum(1 + log_var - mu**2 - log_var.exp(), dim=1), dim=0)
        return {"loss": recons_loss + kwargs["M_N"] * kld_loss, "Reconstruction_Loss": recons_loss.detach()}


class CVAE(nn.Module):
    """As in the usual tutorials: x and a one-hot c side by side, before the encoder and before the decoder."""

    def __init__(self, feature_size: int, latent_size: int, class_size: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(feature_size + class_size, 40)
        self.fc21 = nn.Linear(40, latent_size)
        self.fc22 = nn.Linear(40, latent_size)
        self.fc3 = nn.Linear(latent_size + class_size, 40)
        self.fc4 = nn.Linear(40, feature_size)

    def encode(self, x: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        h1 = F.elu(self.fc1(torch.cat([x, c], 1)))
        return self.fc21(h1), self.fc22(h1)

    def decode(self, z: Tensor, c: Tensor) -> Tensor:
        return torch.sigmoid(self.fc4(F.elu(self.fc3(torch.cat([z, c], 1)))))

    def forward(self, x: Tensor, c: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        mu, logvar = self.encode(x, c)
        z = mu + torch.exp(0.5 * logvar) * torch.randn_like(mu)
        return self.decode(z, c), mu, logvar


class NonLinear(nn.Module):
    """A layer and its activation, as in jmtomczak/vae_vampprior."""

    def __init__(self, input_size: int, output_size: int, activation: nn.Module | None = None) -> None:
        super().__init__()
        self.activation = activation
        self.linear = nn.Linear(input_size, output_size)

    def forward(self, x: Tensor) -> Tensor:
        h = self.linear(x)
        return h if self.activation is None else self.activation(h)


class VampVAE(nn.Module):
    """As in jmtomczak/vae_vampprior: q_z, p_x and log_p_z; p_x answers mean and log-variance, also of 0/1 pixels."""

    def __init__(self, number_components: int = 20) -> None:
        super().__init__()
        self.q_z_layers = NonLinear(D, 40, nn.ReLU())
        self.q_z_mean = NonLinear(40, LATENTS)
        self.q_z_logvar = NonLinear(40, LATENTS, nn.Hardtanh(min_val=-6.0, max_val=2.0))
        self.p_x_layers = NonLinear(LATENTS, 40, nn.ReLU())
        self.p_x_mean = NonLinear(40, D, nn.Sigmoid())
        self.means = NonLinear(number_components, D, nn.Hardtanh(min_val=0.0, max_val=1.0))
        self.means.linear.bias.data.fill_(0.0)
        self.means.linear.weight.data.uniform_(0.0, 1.0)
        self.idle_input = torch.eye(number_components)

    def q_z(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.q_z_layers(x)
        return self.q_z_mean(x), self.q_z_logvar(x)

    def p_x(self, z: Tensor) -> tuple[Tensor, float]:
        return self.p_x_mean(self.p_x_layers(z)), 0.0

    def log_p_z(self, z: Tensor) -> Tensor:
        z_p_mean, z_p_logvar = self.q_z(self.means(self.idle_input))
        means, logvars = z_p_mean.unsqueeze(0), z_p_logvar.unsqueeze(0)
        a = log_normal_diag(z.unsqueeze(1), means, logvars) - math.log(len(z_p_mean))
        return torch.logsumexp(a, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, float, Tensor, Tensor, Tensor]:
        z_q_mean, z_q_logvar = self.q_z(x)
        z_q = z_q_mean + torch.exp(0.5 * z_q_logvar) * torch.randn_like(z_q_mean)
        return *self.p_x(z_q), z_q, z_q_mean, z_q_logvar

    def calculate_loss(self, x: Tensor, beta: float = 1.0) -> Tensor:
        x_mean, _, z_q, z_q_mean, z_q_logvar = self.forward(x)
        re = -F.binary_cross_entropy(x_mean, x, reduction="none").sum(1)
        kl = -(self.log_p_z(z_q) - log_normal_diag(z_q, z_q_mean, z_q_logvar))
        return torch.mean(-re + beta * kl)


def log_normal_diag(x: Tensor, mean: Tensor, log_var: Tensor) -> Tensor:
    """Log-density of independent Gaussians; this one has the constant, theirs leaves it out."""
    return -0.5 * torch.sum(log_var + (x - mean) ** 2 / log_var.exp() + math.log(2 * math.pi), -1)


class SentenceVAE(nn.Module):
    """As in timbmg/Sentence-VAE: forward(input_sequence, length) -> logp, mean, logv, z; word dropout, KL annealing."""

    def __init__(self, vocab_size: int, hidden_size: int = 24, latent_size: int = 1, word_dropout: float = 0.7) -> None:
        super().__init__()
        self.sos_idx, self.unk_idx, self.word_dropout_rate, self.step = 0, 1, word_dropout, 0
        self.embedding = nn.Embedding(vocab_size, 12)
        self.encoder_rnn = nn.GRU(12, hidden_size, batch_first=True)
        self.decoder_rnn = nn.GRU(12, hidden_size, batch_first=True)
        self.hidden2mean = nn.Linear(hidden_size, latent_size)
        self.hidden2logv = nn.Linear(hidden_size, latent_size)
        self.latent2hidden = nn.Linear(latent_size, hidden_size)
        self.outputs2vocab = nn.Linear(hidden_size, vocab_size)

    def forward(self, input_sequence: Tensor, length: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        sorted_lengths, sorted_idx = torch.sort(length, descending=True)
        input_embedding = self.embedding(input_sequence[sorted_idx])
        packed = nn.utils.rnn.pack_padded_sequence(input_embedding, sorted_lengths.tolist(), batch_first=True)
        _, hidden = self.encoder_rnn(packed)
        hidden = hidden[0][torch.sort(sorted_idx)[1]]
        mean, logv = self.hidden2mean(hidden), self.hidden2logv(hidden)
        z = torch.randn_like(mean) * torch.exp(0.5 * logv) + mean
        drop = torch.rand(input_sequence.shape) < self.word_dropout_rate
        return self.decode(z, input_sequence.masked_fill(drop, self.unk_idx)), mean, logv, z

    def decode(self, z: Tensor, input_sequence: Tensor) -> Tensor:
        """Log-probabilities [n, T, vocab_size] of each token, given those before it."""
        shifted = F.pad(input_sequence[:, :-1], (1, 0), value=self.sos_idx)
        outputs, _ = self.decoder_rnn(self.embedding(shifted), self.latent2hidden(z).unsqueeze(0))
        return F.log_softmax(self.outputs2vocab(outputs), dim=-1)

    def loss_fn(self, logp: Tensor, target: Tensor, mean: Tensor, logv: Tensor) -> Tensor:
        self.step += 1
        nll_loss = F.nll_loss(logp.flatten(0, 1), target.flatten(), reduction="sum")
        kl_loss = -0.5 * torch.sum(1 + logv - mean.pow(2) - logv.exp())
        return (nll_loss + min(1, self.step / 1000) * kl_loss) / len(target)


class ProdLDA(nn.Module):
    """As in the ports of AVITM: batch norm on mean, logvar and words, dropout; a Dirichlet's Laplace prior."""

    def __init__(self, vocab_size: int, num_topics: int, hidden_size: int = 40, alpha: float = 1.0) -> None:
        super().__init__()
        self.fc1 = nn.Linear(vocab_size, hidden_size)
        self.fc2 = nn.Linear(hidden_size, hidden_size)
        self.drop = nn.Dropout(0.2)
        self.fcmu = nn.Linear(hidden_size, num_topics)
        self.fclv = nn.Linear(hidden_size, num_topics)
        self.bnmu = nn.BatchNorm1d(num_topics)
        self.bnlv = nn.BatchNorm1d(num_topics)
        self.beta = nn.Linear(num_topics, vocab_size)
        self.bn = nn.BatchNorm1d(vocab_size)
        a = torch.full((num_topics,), alpha)
        self.register_buffer("prior_mean", a.log() - a.log().mean())
        self.register_buffer("prior_var", (1 - 2 / num_topics) / a + (1 / a).sum() / num_topics**2)

    def encode(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        h = self.drop(F.softplus(self.fc2(F.softplus(self.fc1(inputs)))))
        return self.bnmu(self.fcmu(h)), self.bnlv(self.fclv(h))

    def decode(self, z: Tensor) -> Tensor:
        return F.softmax(self.bn(self.beta(F.softmax(z, dim=1))), dim=1)

    def forward(self, inputs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        mu, lv = self.encode(inputs)
        return self.decode(mu + torch.exp(0.5 * lv) * torch.randn_like(mu)), mu, lv

    def loss(self, inputs: Tensor, recon: Tensor, mu: Tensor, lv: Tensor) -> Tensor:
        nl = -(inputs * (recon + 1e-10).log()).sum(1)
        ratio = lv.exp() / self.prior_var + (mu - self.prior_mean) ** 2 / self.prior_var
        kld = 0.5 * (ratio + self.prior_var.log() - lv - 1).sum(1)
        return (nl + kld).mean()


class NormVAE(nn.Module):
    """Batch norm and dropout in encoder and decoder, and a dict as its answer."""

    def __init__(self, features: int, latents: int = LATENTS) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(features, 40), nn.BatchNorm1d(40), nn.ReLU(), nn.Dropout(0.1))
        self.decoder = nn.Sequential(nn.Linear(latents, 40), nn.BatchNorm1d(40), nn.ReLU(), nn.Dropout(0.1))
        self.to_mu, self.to_logvar = nn.Linear(40, latents), nn.Linear(40, latents)
        self.to_x = nn.Linear(40, features)

    def decode(self, z: Tensor) -> Tensor:
        return self.to_x(self.decoder(z))

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        h = self.encoder(x)
        mu, logvar = self.to_mu(h), self.to_logvar(h)
        z = mu + torch.exp(0.5 * logvar) * torch.randn_like(mu)
        return {"recon": self.decode(z), "z": z, "mu": mu, "logvar": logvar}

    def loss(self, x: Tensor, sigma: float = 0.3) -> dict[str, Tensor]:
        out = self(x)
        recon = (out["recon"] - x).pow(2).sum(1) / (2 * sigma**2)
        kl = -0.5 * (1 + out["logvar"] - out["mu"].pow(2) - out["logvar"].exp()).sum(1)
        return {"loss": (recon + kl).mean(), "recon": recon.mean(), "kl": kl.mean()}


def linear_vae(x: Tensor, latents: int = LATENTS) -> dict[str, np.ndarray]:
    """Parameters, as arrays, of a VAE of linear maps at its optimum (probabilistic PCA), for `encode` and `decode`."""
    x = x.double()
    _, s, v = torch.linalg.svd(x - x.mean(0), full_matrices=False)
    variance = s.square() / len(x)
    noise = variance[latents:].mean()
    weight = v[:latents].T * (variance[:latents] - noise).sqrt()
    shrunk = weight.T @ weight + noise * torch.eye(latents)
    params = {"mean": x.mean(0), "w": weight, "back": torch.linalg.solve(shrunk, weight.T).T, "sigma": noise.sqrt()}
    params["std"] = (noise / shrunk.diagonal()).sqrt()
    return {k: t.numpy() for k, t in params.items()}


def encode(params: dict[str, Any], x: Any) -> tuple[Any, Any]:
    """Functions of parameters and arrays, as jax codebases write them; numpy's arrays serve as well."""
    mean = (x - params["mean"]) @ params["back"]
    return mean, 0 * mean + params["std"]


def decode(params: dict[str, Any], z: Any) -> Any:
    return z @ params["w"].T + params["mean"]
