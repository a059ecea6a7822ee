"""What is stale: behaviours 1 to 7 of docs/architecture.md, on a real small study."""

import json
import os
import re
import shutil
import time

from pipeline.study.stages import STAGES

RUN = "small-llama/lora/world-math/seed0"
OF_LORA = {
    "train": [f"results/adapters/{RUN}"],
    "generate": [f"results/answers/{RUN}"],
    "score": [f"results/scores/{RUN}"],
    "report": ["reports/small/manifest"],
}


def test_a_second_run_has_nothing_to_do_and_dvc_is_clean(checkout):
    assert checkout.planned() == {}
    assert "up to date" in checkout.run("dvc", "status")


def test_a_changed_parameter_reruns_exactly_its_method(checkout):
    checkout.edit("params/methods/lora.yaml", "r: 32", "r: 4")
    assert checkout.planned() == OF_LORA


def test_dvc_repro_runs_the_same_and_leaves_both_clean(checkout):
    before = {
        path.name
        for path in (checkout.folder / "results/adapters/small-llama/series/world-math/seed0").iterdir()
    }
    checkout.edit("params/methods/lora.yaml", "r: 32", "r: 4")
    checkout.run("dvc", "repro", "--quiet")
    assert checkout.planned() == {}
    assert "up to date" in checkout.run("dvc", "status")
    logs = sorted((checkout.folder / "logs/train").glob("*.log"))
    assert sum("-lora-" in log.name for log in logs) == 2
    assert sum("-series-" in log.name for log in logs) == 1
    assert before == {
        path.name
        for path in (checkout.folder / "results/adapters/small-llama/series/world-math/seed0").iterdir()
    }


def test_a_revert_trains_nothing_and_gives_the_same_lock(checkout):
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


def test_touching_files_white_space_and_lost_metadata_rerun_nothing(checkout):
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
                # what others are made from gets the latest date
                age = next((age for age, part in enumerate(ORDER) if f"/{part}/" in path), len(ORDER))
                os.utime(path, (later + age, later + age), follow_symlinks=False)
    assert checkout.planned() == {}
    shutil.rmtree(checkout.folder / ".snakemake")
    assert checkout.planned() == {}


ORDER = (
    "reports",
    "results/scores",
    "results/answers",
    "results/adapters",
    "results/bases",
    "data/prompts",
    "data/raw",
)


def test_removed_model_added_seed_added_task_run_only_what_is_new(checkout):
    checkout.edit("params/study/small.yaml", "seeds: [0]", "seeds: [0, 1]")
    seeds = checkout.planned()
    assert seeds["train"] == [
        f"results/adapters/small-llama/{method}/world-math/seed1" for method in ("lora", "series")
    ]
    assert all("seed1" in path for stage in ("generate", "score") for path in seeds[stage])
    assert set(seeds) == {"train", "generate", "score", "report"}

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
    noted = json.loads((new / "run.json").read_text())
    assert noted["taken_over"] == {"world-addsub-strict": old.parent.name}
    assert set(noted["tasks"]) == {"world-boolq-strict"}


def test_a_better_parser_rescores_only(checkout):
    card = (checkout.folder / "params/protocols/strict.yaml").read_text()
    (version,) = re.findall(r"^version: \d+$", card, re.M)
    checkout.edit("params/protocols/strict.yaml", version, "version: 999")
    assert set(checkout.planned()) == {"score", "report"}


def test_a_stages_code_version_reruns_what_is_made_from_it(checkout):
    checkout.edit(
        "pipeline/study/stages.yaml",
        f"generate: {{version: {STAGES['generate'].version}",
        "generate: {version: 999",
    )
    assert set(checkout.planned()) == {"generate", "score", "report"}
