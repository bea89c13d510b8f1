"""Settings as options of a verb, a group of them in its help for each dataclass."""

from cyclopts import Group, Parameter


def _flat(title: str, at: int) -> Parameter:
    """The fields of a dataclass as options, under a title of their own in the help."""
    return Parameter(name="*", group=Group(title, sort_key=at), consume_multiple=True)


DATA = _flat("Data", 1)
OWN = _flat("A model of your own", 2)
NETWORK = _flat("Network, where zprime trains", 3)
TRAINING = _flat("Training", 4)
_PRIOR = Group("Training", sort_key=4)
TRAINED_PRIOR = Parameter(group=_PRIOR)
TRAINED_PRIOR_SET = Parameter(group=_PRIOR, consume_multiple=True)
AUDIT = _flat("Audit", 5)
