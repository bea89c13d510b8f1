"""CPU seconds of one training, by zprime or by pythae's trainer, of the same network on the same images.

Called by speed/jobs.py in an environment that has pythae: python training.py ours|pythae|nchw mlp|conv ROWS EPOCHS
A short training comes before it: what is loaded or compiled at first use is not timed. `nchw` is pythae's trainer with
the convolutions in torch's usual layout; else both have ours, channels_last.
"""

import sys
import tempfile
import time

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


def theirs(vae: VAE, rows: Rows) -> nn.Module:
    """The modules of our VAE in pythae's classes; its squared error stands for our likelihood."""
    from pythae import models
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
            return ModelOutput(reconstruction=self.net(z))

    for layer in vae.decoder.modules():
        if isinstance(layer, nn.ConvTranspose2d):
            layer.__class__ = nn.ConvTranspose2d  # torch's own where ours is faster
    config = models.VAEConfig(input_dim=tuple(rows.x.shape[1:]), latent_dim=vae.latents)
    return models.VAE(config, encoder=Encoder(vae.encoder), decoder=Decoder(vae.decoder))


def pythaes(vae: VAE, rows: Rows, epochs: int) -> float:
    from pythae.data.datasets import BaseDataset
    from pythae.trainers import BaseTrainer, BaseTrainerConfig

    with tempfile.TemporaryDirectory() as folder:
        settings = BaseTrainerConfig(
            output_dir=folder,
            num_epochs=epochs,
            learning_rate=1e-3,
            per_device_train_batch_size=128,
            no_cuda=True,
        )
        data = BaseDataset(rows.x, torch.zeros(len(rows)))
        trainer = BaseTrainer(theirs(vae, rows), data, training_config=settings)
        start = time.process_time()
        trainer.train()
        return time.process_time() - start


def main(who: str, network: str, n: int, epochs: int) -> None:
    torch.set_num_threads(1)
    data = load_data(DataSettings(FASHION), seed=0)
    vae = VAE.build(data.shape, VAESettings(latents=16, network=network), seed=0)
    if who == "nchw":
        vae.encoder, vae.decoder = PlainEncoder(vae.encoder), PlainDecoder(vae.decoder)
    spent = 0.0
    for size, times in ((256, 1), (n, epochs)):
        rows, selection = data.rows("train").head(size), data.rows("selection").head(max(1, size // 11))
        spent = ours(vae, rows, selection, times) if who == "ours" else pythaes(vae, rows, times)
    print(spent)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
