"""zprime kinds."""

from rich.table import Table

from zprime.cli.console import give, product, say
from zprime.latent import SETTINGS


def kinds() -> None:
    """List every kind of latent distribution: what it stores, what its fit costs, when to use it."""
    table = Table()
    for name in ("kind", "stores", "cost of the fit", "when"):
        table.add_column(name)
    about = {kind: settings.about for kind, settings in SETTINGS.items()}
    for name, a in about.items():
        table.add_row(name, a.stores, a.cost, a.when)
    product(table)
    say("Each can be mixed with the prior, and kept to the active dimensions: the selection split decides both.")
    give({n: {"stores": a.stores, "cost": a.cost, "when": a.when} for n, a in about.items()})
