"""Bring a trained VAE: any torch modules or callables, a library's model, or bare means and scales with no model."""

from zprime.bring.arrays import arrays
from zprime.bring.brought import Brought
from zprime.bring.codes import codes
from zprime.bring.ctgan_tvae import drawing as tvae_drawing
from zprime.bring.ctgan_tvae import keeping as tvae_keeping
from zprime.bring.ctgan_tvae import tvae
from zprime.bring.diffusers_vae import Latents, diffusers
from zprime.bring.draws import draws
from zprime.bring.modules import modules
from zprime.bring.pythae_vae import pythae
from zprime.bring.readings import READINGS
from zprime.bring.scvi_vae import scvi
from zprime.bring.whole import model

__all__ = [
    "READINGS",
    "Brought",
    "Latents",
    "arrays",
    "codes",
    "diffusers",
    "draws",
    "model",
    "modules",
    "pythae",
    "scvi",
    "tvae",
    "tvae_drawing",
    "tvae_keeping",
]
