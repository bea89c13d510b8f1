"""CPU seconds of trainings, by zprime or by pythae's trainer, of the same network on the same images.

Started by speed/jobs.py in an environment that has pythae: python training.py mlp|conv ROWS EPOCHS. Every line of its
standard input asks for a training: ours, pythae, fused or nchw. `fused` is pythae's trainer with torch's fused Adam,
which zprime uses; `nchw` is as it comes, with the convolutions in torch's usual layout; else both have channels_last.
A short training comes before the first of each: what is loaded or compiled at first use is not timed.
"""

import sys
import tempfile
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

from zprime import VAE, DataSettings, Rows, TrainSettings, VAESettings, load_data, train

FASHION = "/usr/share/datasets/fashion-mnist"


def ours(vae: VAE, rows: Rows, selection: Rows, epochs: int) -> float:
    start = time.process_time()
    train(vae, rows, selection, TrainSettings(epochs=epochs), seed=0)
    return time.process_time() - start


class PlainEncoder(nn.Module):
    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.net.head(self.net.dense(self.net.conv(x).flatten(1)))


class PlainDecoder(nn.Module):
    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]

    def forward(self, z: Tensor) -> Tensor:
        out = self.net.conv(self.net.dense(z).unflatten(1, self.net.grid))
        return out[..., : self.net.shape[1], : self.net.shape[2]]


def modules(vae: VAE, last: Callable[[Tensor], Tensor] = nn.Identity()) -> tuple[nn.Module, nn.Module]:
    """Encoder and decoder of our VAE in pythae's classes; what the decoder gives passes through `last`."""
    from pythae.models.base.base_utils import ModelOutput
    from pythae.models.nn import BaseDecoder, BaseEncoder

    class Encoder(BaseEncoder):
        def __init__(self, net: nn.Module) -> None:
            super().__init__()
            self.net = net

        def forward(self, x: Tensor) -> ModelOutput:
            mean, scale = self.net(x)
            return ModelOutput(embedding=mean, log_covariance=2 * scale.log())

    class Decoder(BaseDecoder):
        def __init__(self, net: nn.Module) -> None:
            super().__init__()
            self.net = net

        def forward(self, z: Tensor) -> ModelOutput:
            return ModelOutput(reconstruction=last(self.net(z)))

    return Encoder(vae.encoder), Decoder(vae.decoder)


def theirs(vae: VAE, rows: Rows) -> nn.Module:
    """The modules of our VAE in pythae's; its squared error stands for our likelihood."""
    from pythae import models

    for layer in vae.decoder.modules():
        if isinstance(layer, nn.ConvTranspose2d):
            layer.__class__ = nn.ConvTranspose2d  # torch's own where ours is faster
    config = models.VAEConfig(input_dim=tuple(rows.x.shape[1:]), latent_dim=vae.latents)
    encoder, decoder = modules(vae)
    return models.VAE(config, encoder=encoder, decoder=decoder)


def pythaes(vae: VAE, rows: Rows, epochs: int, *, fused: bool) -> float:
    from pythae.data.datasets import BaseDataset
    from pythae.trainers import BaseTrainer, BaseTrainerConfig

    with tempfile.TemporaryDirectory() as folder:
        settings = BaseTrainerConfig(
            output_dir=folder,
            num_epochs=epochs,
            learning_rate=1e-3,
            per_device_train_batch_size=128,
            no_cuda=True,
            optimizer_params={"fused": True} if fused else None,
        )
        data = BaseDataset(rows.x, torch.zeros(len(rows)))
        trainer = BaseTrainer(theirs(vae, rows), data, training_config=settings)
        start = time.process_time()
        trainer.train()
        return time.process_time() - start


def main(network: str, n: int, epochs: int) -> None:
    torch.set_num_threads(1)
    data = load_data(DataSettings(FASHION), seed=0)
    known: set[str] = set()

    def spent(who: str, size: int, times: int) -> float:
        rows, selection = data.rows("train").head(size), data.rows("selection").head(max(1, size // 11))
        vae = VAE.build(data.shape, VAESettings(latents=16, network=network), seed=0)
        if who == "nchw":
            vae.encoder, vae.decoder = PlainEncoder(vae.encoder), PlainDecoder(vae.decoder)
        if who == "ours":
            return ours(vae, rows, selection, times)
        return pythaes(vae, rows, times, fused=who == "fused")

    for line in sys.stdin:
        who = line.strip()
        if who not in known:
            spent(who, 256, 1)
            known.add(who)
        print(f"\nspent {spent(who, n, epochs)}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
