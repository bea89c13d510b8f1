"""Bring a trained VAE: any torch modules or callables, or bare means and scales with no model at all."""

from zprime.bring.brought import Brought, arrays, modules
from zprime.bring.readings import READINGS

__all__ = ["READINGS", "Brought", "arrays", "modules"]
