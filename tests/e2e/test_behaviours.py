"""What is stale: behaviours 1 to 7 of docs/architecture.md, in a checkout with a small study."""

import json
import os
import re
import shutil
import time

from pipeline.study.stages import STAGES

RUN = "small-llama/lora/world-math/seed0"
SERIES_ADAPTERS = "results/adapters/small-llama/series/world-math/seed0"
LORA_JOBS = {
    "train": [f"results/adapters/{RUN}"],
    "generate": [f"results/answers/{RUN}"],
    "score": [f"results/scores/{RUN}"],
    "report": ["reports/small/manifest"],
}
# folders from the last stage to the first, to date inputs later than what was produced from them
LAST_STAGE_FIRST = (
    "reports",
    "results/scores",
    "results/answers",
    "results/adapters",
    "results/bases",
    "data/prompts",
    "data/raw",
)


def test_a_second_run_has_nothing_to_do_and_dvc_is_clean(checkout):
    assert checkout.planned() == {}
    assert "up to date" in checkout.run("dvc", "status")


def test_a_changed_parameter_reruns_exactly_its_method(checkout):
    checkout.edit("params/methods/lora.yaml", "r: 32", "r: 4")
    assert checkout.planned() == LORA_JOBS


def test_dvc_repro_runs_the_same_jobs_and_both_tools_are_clean_afterwards(checkout):
    before = {path.name for path in (checkout.folder / SERIES_ADAPTERS).iterdir()}
    checkout.edit("params/methods/lora.yaml", "r: 32", "r: 4")
    checkout.run("dvc", "repro", "--quiet")
    assert checkout.planned() == {}
    assert "up to date" in checkout.run("dvc", "status")
    logs = sorted((checkout.folder / "logs/train").glob("*.log"))
    assert sum("-lora-" in log.name for log in logs) == 2
    assert sum("-series-" in log.name for log in logs) == 1
    assert before == {path.name for path in (checkout.folder / SERIES_ADAPTERS).iterdir()}


def test_a_revert_trains_nothing_and_restores_the_lock(checkout):
    lock = (checkout.folder / "dvc.lock").read_bytes()
    checkout.edit("params/methods/lora.yaml", "r: 32", "r: 4")
    checkout.snakemake()
    checkout.run("python", "-m", "pipeline", "commit")
    assert (checkout.folder / "dvc.lock").read_bytes() != lock
    checkout.edit("params/methods/lora.yaml", "r: 4", "r: 32")
    assert checkout.planned() == {"report": ["reports/small/manifest"]}
    checkout.snakemake()
    checkout.run("python", "-m", "pipeline", "commit")
    assert (checkout.folder / "dvc.lock").read_bytes() == lock


def test_new_file_dates_white_space_and_lost_metadata_rerun_nothing(checkout):
    checkout.edit("workflow/rules/train.smk", "\n\nrule train:", "\n\n\n\nrule train:")
    checkout.edit(
        "workflow/rules/train.smk",
        "{params.pipeline} train {wildcards",
        "{params.pipeline}  train {wildcards",
    )
    assert checkout.planned() == {}
    later = time.time() + 60
    for folder, _, files in os.walk(checkout.folder):
        for name in files:
            if ".git" not in folder and ".dvc" not in folder:
                path = os.path.join(folder, name)
                age = next(
                    (age for age, part in enumerate(LAST_STAGE_FIRST) if f"/{part}/" in path),
                    len(LAST_STAGE_FIRST),
                )
                os.utime(path, (later + age, later + age), follow_symlinks=False)
    assert checkout.planned() == {}
    shutil.rmtree(checkout.folder / ".snakemake")
    assert checkout.planned() == {}


def test_a_new_seed_a_removed_method_and_a_new_task_run_only_what_is_new(checkout):
    checkout.edit("params/study/small.yaml", "seeds: [0]", "seeds: [0, 1]")
    planned = checkout.planned()
    assert planned["train"] == [
        f"results/adapters/small-llama/{method}/world-math/seed1" for method in ("lora", "series")
    ]
    assert all("seed1" in path for stage in ("generate", "score") for path in planned[stage])
    assert set(planned) == {"train", "generate", "score", "report"}

    checkout.edit("params/study/small.yaml", "seeds: [0, 1]", "seeds: [0]")
    checkout.edit("params/study/small.yaml", "{method: series, bottleneck_size: 8}", "")
    assert checkout.planned() == {"report": ["reports/small/manifest"]}

    checkout.edit("params/study/small.yaml", "tasks: [world-addsub]", "tasks: [world-addsub, world-boolq]")
    assert set(checkout.planned()) == {"fetch", "prompts", "audit", "generate", "score", "report"}
    old = next((checkout.folder / "results/answers" / RUN).iterdir()) / "world-addsub-strict.jsonl"
    text = old.read_text()
    checkout.snakemake()
    (new,) = [
        path
        for path in (checkout.folder / "results/answers" / RUN).iterdir()
        if (path / "world-boolq-strict.jsonl").exists()
    ]
    assert (new / "world-addsub-strict.jsonl").read_text() == text
    assert len((new / "world-boolq-strict.jsonl").read_text().splitlines()) == 6
    run_info = json.loads((new / "run.json").read_text())
    assert run_info["taken_over"] == {"world-addsub-strict": old.parent.name}
    assert set(run_info["tasks"]) == {"world-boolq-strict"}


def test_a_new_version_of_a_parser_only_rescores(checkout):
    card = (checkout.folder / "params/protocols/strict.yaml").read_text()
    (version,) = re.findall(r"^version: \d+$", card, re.M)
    checkout.edit("params/protocols/strict.yaml", version, "version: 999")
    assert set(checkout.planned()) == {"score", "report"}


def test_a_new_code_version_of_a_stage_reruns_it_and_the_stages_below(checkout):
    checkout.edit(
        "pipeline/study/stages.yaml",
        f"generate: {{version: {STAGES['generate'].version}",
        "generate: {version: 999",
    )
    assert set(checkout.planned()) == {"generate", "score", "report"}
