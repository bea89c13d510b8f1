"""Audit -> terminal tables, Markdown and one offline HTML page. Nothing here can reach a model."""

from zprime.reporting.page import report
from zprime.reporting.terminal import show

__all__ = ["report", "show"]
