"""What `--given` asks for: the label of an r(z|y), and the conditions that a model of the user's own is told."""

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from zprime.data import DataSettings
from zprime.data.conditions import LABELS
from zprime.errors import UsageError
from zprime.run_folder import RunFolder


@final
@dataclass(frozen=True)
class Given:
    """Names and their numbers, as in `label=3`, `batch=1,size=0.5` or `embedding=0.1,0.2`.

    Attributes:
        values: name -> numbers, as text.
    """

    values: dict[str, list[str]]

    @classmethod
    def of(cls, given: str) -> "Given":
        """Take a text apart.

        Raises:
            UsageError: it is of another form.
        """
        values: dict[str, list[str]] = {}
        last = ""
        for part in filter(None, map(str.strip, given.split(","))):
            name, equals, value = part.partition("=")
            last = name.strip() if equals else last
            value = value if equals else part
            if not last or not _is_number(value):
                raise UsageError(f"given: expected label=NUMBER, or conditions as NAME=NUMBER, got {given!r}")
            values.setdefault(last, []).append(value.strip())
        return cls(values)

    def __str__(self) -> str:
        """For the name of a file: the numbers."""
        return "".join(f"-{value}" for numbers in self.values.values() for value in numbers)

    @property
    def label(self) -> int | None:
        """The label among them.

        Raises:
            UsageError: it is no whole number.
        """
        found = [v for name, v in self.values.items() if name in LABELS]
        if not found:
            return None
        if len(found) > 1 or len(found[0]) > 1 or not found[0][0].lstrip("-").isdigit():
            raise UsageError(f"given: expected one whole number as label, e.g. label=3, got {', '.join(found[0])}")
        return int(found[0][0])

    def check(self, known: tuple[str, ...]) -> None:
        """Raise `UsageError` for a name that is neither the label nor one of the conditions."""
        other = [name for name in self.values if name not in (*LABELS, *known)]
        if other:
            form = ",".join(f"{name}=NUMBER" for name in known or LABELS[:1])
            raise UsageError(f"given: expected {form}, got {other[0]!r}")

    def conditions(self, folder: RunFolder) -> Tensor | None:
        """What a model is told: one number, or a vector; None where no condition is among what is given.

        Raises:
            UsageError: what is given is no condition of this run; not all of them are; not as many numbers as it takes.
        """
        layout = folder.of_model.layout
        known = () if layout is None else DataSettings(**folder.data.config["settings"]).told
        self.check(known)
        asked = [name for name in known if name in self.values]
        if layout is None or not asked:
            return None
        numbers = [float(value) for name in known for value in self.values.get(name, [])]
        if len(asked) < len(known) or len(numbers) != layout.width:
            form = ",".join(f"{name}=NUMBER" for name in known)
            raise UsageError(
                f"given: expected all conditions of the run, {layout.width} numbers ({form}), got {len(numbers)}"
            )
        return torch.tensor(numbers[0] if layout.flat else numbers)


def _is_number(text: str) -> bool:
    try:
        return abs(float(text)) < float("inf")
    except ValueError:
        return False
