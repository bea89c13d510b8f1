"""How many components a mixture should have."""

from zprime.reporting import figures
from zprime.reporting.section import Drawing, Section

SECTION = Section(
    "components",
    "How many components?",
    field="entries",
    drawings=(
        Drawing(figures.components, "Number of components against ELBO gain on the selection split", said=False),
    ),
    note="ELBO gain on the selection split with 95 % intervals, over the number of components and what they take to "
    "store. The smallest K that is tied with the best is taken.",
)
