"""A run before its next step: settings, data, directory, and the model that it continues."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jaxgpt.config import Config
from jaxgpt.data.pairs import PairDataset
from jaxgpt.data.tokens import Dataset
from jaxgpt.storage.model_directory import ModelDirectory


@dataclasses.dataclass(frozen=True)
class Job:
    """The work of a loop, and the source of its first weights."""

    config: Config
    dataset: Dataset | PairDataset
    directory: Path
    source: ModelDirectory | None = None  # of the first weights; None if they are random
    resumed: bool = False  # whether `source` is the run's own checkpoint

    @property
    def about(self) -> Mapping[str, Any]:
        """The contents of config.json in `source`; empty without one."""
        return self.source.about if self.source else {}

    @property
    def origin(self) -> dict[str, Any]:
        """The file that the first weights came from, and the origin of each field of its model."""
        return {name: self.about[name] for name in ("source", "fields") if name in self.about}

    @property
    def marks(self) -> dict[str, int]:
        """The ids that targets begin and end with; none for texts."""
        pairs = self.dataset
        return {"start": pairs.start, "end": pairs.end} if isinstance(pairs, PairDataset) else {}

    @property
    def sizes(self) -> tuple[str, int, int]:
        """The unit of the data, and the number of them to train on and to validate."""
        data = self.dataset
        if isinstance(data, Dataset) and data.examples is not None:
            return "examples", len(data.examples["train"]), len(data.examples["val"])
        unit = "pairs" if isinstance(data, PairDataset) else "tokens"
        return unit, len(data.train), len(data.val)

    @property
    def skipped(self) -> int:
        """The number of steps in a row that were skipped just before the run stopped."""
        return self.about.get("skipped", 0) if self.resumed else 0
