"""The files of a finished run, and how it is recorded in MLflow."""

import json
from dataclasses import dataclass
from pathlib import Path

from pipeline.results.mlflow import client
from pipeline.results.mlflow.entry import DatasetUse, Experiment, RunFiles, RunHeader

STUDY = Experiment("study", "A study of two adapters", ("average/arithmetic-strict",))


@dataclass(frozen=True)
class FinishedRun:
    """A run as it is on disk."""

    header: RunHeader
    files: RunFiles

    def track(self, *, limit_s: float | None = None) -> str:
        """Record it; return the id of the MLflow run."""
        dataset = DatasetUse(name="svamp", digest="abc", source="data/x", context="evaluation")
        return client.write_run(self.header, self.files, [dataset], limit_s=limit_s)


def make_run(name: str) -> FinishedRun:
    adapter = Path("results/adapters", name)
    adapter.mkdir(parents=True)
    (adapter / "history.jsonl").write_text(
        "".join(json.dumps({"step": step, "loss": 2.0 / step}) + "\n" for step in range(1, 6))
    )
    (adapter / "adapter_model.safetensors").write_bytes(b"weights")
    info = {
        "seconds": 3.5,
        "peak_memory_gib": 0.5,
        "started": "2026-01-31T10:00:00+00:00",
        "ended": "2026-01-31T10:01:00+00:00",
        "device": "cpu",
        "host": "h",
        "packages": {"torch": "2"},
    }
    (adapter / "run.json").write_text(json.dumps(info))
    (adapter / "manifest.json").write_text(json.dumps({"trainable_parameters": 10, "all_parameters": 100}))
    items = [{"id": str(number), "correct": number < 50} for number in range(100)]
    task = {"accuracy": 0.5, "low": 0.4, "high": 0.6, "unparsable": 2, "n": 100, "items": items}
    task["answer_form"] = "number"
    scores = Path(f"scores-{name}.json")
    scores.write_text(json.dumps({"tasks": {"svamp-strict": task}}))
    method = {"r": 8, "target_modules": ["q_proj"], "rank_pattern": {"^model.*[01]": 4}}
    params = {"method": method, "training": {"learning_rate": 3e-4, "max_steps": 5}, "seed": 0}
    tags = {"model": "tiny", "method": "lora", "seed": "0"}
    files = RunFiles(
        run_info=adapter / "run.json",
        manifest=adapter / "manifest.json",
        history=adapter / "history.jsonl",
        scores=scores,
        answers=Path("results/answers", name),
        averages={"arithmetic-strict": ["svamp-strict"]},
        attachments=(adapter,),
    )
    shown = frozenset({"method.r", "method.target_modules", "method.rank_pattern", "training.learning_rate"})
    return FinishedRun(RunHeader(STUDY, f"tiny/lora/{name}", name, params, tags, shown), files)
