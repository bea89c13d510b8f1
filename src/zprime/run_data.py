"""The data of a run: where they lie, and the rows, compared with what their artefact says."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import final

from torch import Tensor

from zprime import data as datasets
from zprime.artifact import Artifact
from zprime.data import Dataset, DataSettings
from zprime.data.stores import is_missing
from zprime.errors import ArtifactError
from zprime.schema.kinds import check


@final
@dataclass(frozen=True)
class RunData:
    """The data of a run, of which nothing is read before it is asked for.

    Attributes:
        run: the folder.
        source: the artefact, checked.
    """

    run: Path
    source: Artifact

    @property
    def settings(self) -> DataSettings:
        """What to read, from where it lies.

        Raises:
            ArtifactError: it is not there any more.
        """
        recorded = DataSettings(**self.source.config["settings"])
        aside = (self.source.heldout_source or recorded.heldout_data) if recorded.heldout_data else ""
        settings = replace(recorded, data=self.source.source or recorded.data, heldout_data=aside)
        for option, place in (("data", settings.data), ("heldout-data", settings.heldout_data)):
            if is_missing(place):
                model = " --model FILE:FUNCTION" if self.source.config.get("brought") else ""
                again = f"zprime train{model} --{option} PATH --out {self.run}"
                raise ArtifactError(
                    f"{place}: the data of the run {self.run} are not there any more; put them back, or say where "
                    f"they are: run the same `{again}` again, which only notes the path"
                )
        return settings

    def load(self) -> Dataset:
        """The data set, read from its source.

        Raises:
            ArtifactError: the source holds other rows now.
        """
        settings, config = self.settings, self.source.config
        dataset = datasets.load(settings, seed=int(self.source.seed or 0), brought=bool(config.get("brought")))
        if dataset.hash != config["content"]:
            raise ArtifactError(
                f"{settings.data}: these are not the rows that the run {self.run} was trained on (SHA-256 "
                f"{dataset.hash[:12]}, recorded {config['content'][:12]}); put the old file back, or start a new run"
            )
        return dataset

    def tensors(self) -> Mapping[str, Tensor]:
        """Row ids of the splits, and `shift` and `scale` between the units of the data and those of the model.

        Raises:
            ArtifactError: they are missing, or fit no data.
        """
        tensors = self.source.tensors()
        check(self.source.path, "data", self.source.config, tensors)
        return tensors
