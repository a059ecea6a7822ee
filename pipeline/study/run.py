"""A run of a study: one model that is asked."""

from dataclasses import dataclass

from pipeline.params.studies import Arm, Entry
from pipeline.study.artifacts import Artifact

BARE = "bare"


@dataclass(frozen=True)
class Run:
    """One model that is asked: a trained adapter on its arm's tasks, or (no method) a bare base on all tasks."""

    model: str
    base: Artifact
    arms: tuple[Arm, ...]
    entry: Entry | None = None
    seed: int | None = None
    adapter: Artifact | None = None

    @property
    def method(self) -> str:
        """The method's name in paths and tables' keys."""
        return BARE if self.entry is None else self.entry.label or self.entry.method

    @property
    def label(self) -> str:
        """The folders of this run's results."""
        if self.entry is None:
            return f"{self.model}/{BARE}/"
        return f"{self.model}/{self.method}/{self.arms[0].training_set}/seed{self.seed}/"
