"""Bring a trained VAE: any torch modules or callables, a library's model, or bare means and scales with no model."""

from zprime.bring.brought import Brought
from zprime.bring.modules import arrays, modules
from zprime.bring.pythae_vae import pythae
from zprime.bring.readings import READINGS

__all__ = ["READINGS", "Brought", "arrays", "modules", "pythae"]
