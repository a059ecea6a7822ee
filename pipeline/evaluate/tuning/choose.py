"""The choose stage: from the trials of a model, method and arm to the settings that its trainings have."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import NamedTuple

from pipeline.core.errors import UserError
from pipeline.core.io import read_json, read_jsonl, write_json
from pipeline.evaluate.scoring.rows import ScoreFile
from pipeline.evaluate.tuning.best_of import choose_best, expect_best
from pipeline.params.tuning.candidates import describe_values
from pipeline.params.tuning.cards import Setting
from pipeline.study.tuning.choice import ChoiceFile, TrialRow

# decimals of scores in the file
DECIMALS = 6


class TrialFiles(NamedTuple):
    """A trial: its settings, its adapter, and its score file under the rule "accuracy"."""

    values: Mapping[str, Setting]
    adapter: Path
    fingerprint: str
    scores: Path | None


def choose(
    trials: Sequence[TrialFiles], *, rule: str, keep: str, output: Path, manifest: Mapping[str, object]
) -> None:
    """Write the choice between trials: their scores, the best settings, and the curve of fewer trials.

    Args:
        trials: of one model, method and arm.
        rule: "loss": the lowest on the held-out examples; "accuracy": the highest mean over the tasks.
        keep: "last" or "best": the weights of a trial that its loss is of.
        output: file to write.
        manifest: identity of the choice.

    Raises:
        UserError: all trials diverged.
    """
    lower = rule == "loss"
    scores = [_score_trial(trial, keep=keep) for trial in trials]
    best = choose_best(scores, lower=lower)
    if best is None:
        tried = "; ".join(describe_values(trial.values) for trial in trials)
        raise UserError(f"{output}: all trials diverged ({tried}); tune over lower learning rates")
    worst = math.inf if lower else -math.inf
    curve = expect_best([worst if value is None else value for value in scores], lower=lower)
    rows: list[TrialRow] = [
        {"values": dict(trial.values), "adapter": trial.fingerprint, "score": value}
        for trial, value in zip(trials, scores, strict=True)
    ]
    content: ChoiceFile = {
        "rule": rule,
        "trials": rows,
        "values": dict(trials[best.place].values),
        "score": best.score,
        "best_of": [round(value, DECIMALS) if math.isfinite(value) else None for value in curve],
    }
    write_json(output, {**manifest, **content})


def _score_trial(trial: TrialFiles, *, keep: str) -> float | None:
    """Return the held-out loss of a trial, or its mean accuracy where it has scores; None if it diverged."""
    if "diverged" in read_json(trial.adapter / "manifest.json"):
        return None
    if trial.scores is not None:
        scores: ScoreFile = read_json(trial.scores)
        return round(fmean(task["accuracy"] for task in scores["tasks"].values()), DECIMALS)
    losses = [row["val_loss"] for row in read_jsonl(trial.adapter / "history.jsonl") if "val_loss" in row]
    loss = min(losses) if keep == "best" else losses[-1]
    return float(loss) if math.isfinite(loss) else None
