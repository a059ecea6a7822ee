"""What a job asks Slurm for follows from the shapes of its base, its method, its settings and its rows."""

import json
from pathlib import Path
from types import SimpleNamespace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import save_file

from pipeline.commands.run.slurm import work
from pipeline.commands.run.slurm.resources import (
    GPU_TRAINING,
    HOST_MB,
    START_MINUTES,
    Devices,
    list_gpus,
    list_resources,
    request_minutes,
)
from pipeline.commands.run.slurm.site import Site
from pipeline.evaluate.generation import budget
from pipeline.params.machine import MachineSettings
from pipeline.study import load_study
from pipeline.study.artifacts import Artifact
from pipeline.study.costs.footprints import read_footprints

PLAIN = MachineSettings()
GPU, CPU = Devices(1, 1, 1), Devices(0, 1, 1)
LARGE_SITE = Site(memory_mb=10**6, minutes=10**6)


@pytest.fixture(autouse=True)
def project(tmp_path, monkeypatch):
    """An empty project, whose artifacts' paths are relative to it; sizes that were read in another are forgotten."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PIPELINE_MODELS_ROOT", str(tmp_path / "models"))
    work._measure_files.cache_clear()
    work._count_rows.cache_clear()
    return tmp_path


def make_training(*, kind="lora", rows=10_000, base="yahma/llama-7b-hf", **settings) -> Artifact:
    """Return a training on a hub model, with its prompts and the base's manifest, but without any weights on this machine."""
    prompts = Artifact("prompts", "math_10k/train-", {"rows": rows}, {})
    prompts.path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"id": list(range(rows))}), prompts.path)
    model = Artifact("base", "a-model/", {"repo_id": base}, {})
    model.path.mkdir(parents=True, exist_ok=True)
    manifest = {"repo_id": base, "revision": "0" * 40, "files": {}}
    (model.path / "manifest.json").write_text(json.dumps(manifest))
    training = {"dtype": "bfloat16", "cutoff_len": 256, "epochs": 3, **settings}
    method = {"kind": "full" if kind == "full" else "peft"}
    return Artifact(
        "train",
        f"a-model/{kind}/math_10k/seed0/",
        {"method": method, "training": training},
        {"base": model, "prompts": prompts},
    )


def request(adapter, *, devices=GPU, site=LARGE_SITE, attempt=1, machine=PLAIN) -> tuple[int, int]:
    """Return the memory in MB and the minutes of a training."""
    values = list_resources(site, "train", lambda _: work.training_work(adapter, machine), devices)
    return tuple(values[name](None, None, attempt) for name in ("mem_mb", "runtime"))


def test_a_hub_model_asks_for_the_memory_and_time_of_its_weights_though_its_folder_has_none():
    memory, minutes = request(make_training())
    # the files of LLaMA-7B have 13.5 GB; 7.68 million tokens at 980 tokens/s take 2.2 hours
    assert 20_000 < memory < 32_000
    assert 3 * 130 < minutes < 3 * 150


def test_each_attempt_asks_for_twice_as_much_up_to_the_limits():
    adapter = make_training()
    first, second = (request(adapter, attempt=attempt) for attempt in (1, 2))
    assert second == (2 * first[0], 2 * first[1])
    site = Site(memory_mb=40_000, minutes=500)
    assert request(adapter, site=site)[0] == first[0]
    assert request(adapter, site=site, attempt=2) == (40_000, 500)


@pytest.mark.parametrize(
    ("less", "more"),
    [
        ({"base": "Qwen/Qwen2.5-1.5B"}, {}),
        ({}, {"base": "yahma/llama-13b-hf"}),
        # a checkpoint that a training resumes from passes through the host's memory
        ({"kind": "prefix-tuning"}, {"kind": "parallel"}),
        ({"kind": "parallel"}, {"kind": "full"}),
    ],
)
def test_larger_bases_and_more_trained_numbers_ask_for_more_host_memory(less, more):
    assert request(make_training(**less))[0] < request(make_training(**more))[0]


@pytest.mark.parametrize(
    ("less", "more"),
    [
        ({"rows": 100}, {}),
        ({"max_steps": 100, "epochs": None}, {"max_steps": 200, "epochs": None}),
        ({}, {"cutoff_len": 512}),
        ({}, {"dtype": "float32"}),
    ],
)
def test_rows_steps_lengths_and_float32_ask_for_more_time(less, more):
    assert request(make_training(**less))[1] < request(make_training(**more))[1]


def test_a_gpu_job_loads_the_same_files_whatever_the_form_of_the_weights_on_the_gpu():
    memory = {request(make_training(quantization=form))[0] for form in (None, "int8", "nf4")}
    assert len(memory) == 1


@pytest.mark.parametrize(
    ("less", "more"),
    [
        ({"quantization": "nf4"}, {}),
        ({}, {"dtype": "float32"}),
        ({"gradient_checkpointing": True}, {}),
        ({"micro_batch_tokens": 256}, {"micro_batch_tokens": 1024}),
        ({"kind": "series"}, {"kind": "lora"}),
        ({}, {"kind": "full"}),
    ],
)
def test_on_a_cpu_weights_and_passes_lie_in_the_hosts_memory(less, more):
    first, second = (request(make_training(**settings), devices=CPU)[0] for settings in (less, more))
    assert first < second


def test_settings_of_the_machine_count():
    adapter = make_training()
    machine = MachineSettings(gradient_checkpointing=True)
    assert request(adapter, devices=CPU, machine=machine) < request(adapter, devices=CPU)
    # each process loads the whole base to the host, and keeps its share
    assert request(adapter, machine=MachineSettings(shard=True))[0] > request(adapter)[0]


def test_a_counted_base_needs_no_files_and_another_waits_for_them():
    counted, other = make_training(), make_training(base="someone/a-model")
    assert work.measure_base(counted.inputs["base"]).parameters == 6738415616
    # its jobs ask for the limits
    assert request(other, site=Site()) == (64000, 1440)
    for adapter in (counted, other):
        (adapter.inputs["base"].path / "manifest.json").unlink()
        adapter.inputs["base"].path.rmdir()
    assert work.measure_base(counted.inputs["base"]).parameters == 6738415616
    with pytest.raises(FileNotFoundError):
        work.measure_base(other.inputs["base"])


@pytest.mark.parametrize(("dtype", "size"), [(torch.float32, 4), (torch.bfloat16, 2)])
def test_weights_of_a_local_model_are_counted_where_they_lie(project, dtype, size):
    folder = project / "models/a-model"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    save_file({"weight": torch.zeros(1000, 100, dtype=dtype)}, folder / "model.safetensors")
    base = Artifact("base", "a-model/", {"path": "a-model"}, {})
    base.path.mkdir(parents=True)
    (base.path / "manifest.json").write_text('{"path": "a-model", "files": {}}')
    shape = work.measure_base(base)
    # the header has a few bytes
    assert shape.parameters == pytest.approx(100_000, rel=0.01)
    assert shape.file_bytes == pytest.approx(100_000 * size, rel=0.01)


def test_answers_ask_for_the_memory_of_the_base_and_the_time_of_their_tokens(project):
    study = load_study("paper-math-24gb")
    answers = next(row for row in study.artifacts["generate"] if row.label.startswith("llama-7b/"))
    for source in answers.inputs.values():
        if source.stage == "prompts":
            source.path.parent.mkdir(parents=True, exist_ok=True)
            pq.write_table(pa.table({"id": list(range(100))}), source.path)
    needed = work.generation_work([answers], PLAIN)
    assert needed.base_bytes == 2 * 6738415616
    # 12 tasks of 100 rows; the longest have 4 beams of 256 tokens beside the prompt
    assert needed.flop == 2 * 6738415616 * 12 * 100 * (300 + 4 * 256)
    assert needed.weights_bytes < 5e9
    assert needed.pass_bytes == budget.CPU_CACHE_BYTES
    group = work.generation_work([answers, answers], PLAIN)
    assert (group.flop, group.base_bytes) == (2 * needed.flop, needed.base_bytes)
    few = work.generation_work([answers], MachineSettings(batch_tokens=1024))
    assert few.pass_bytes == 1024 * 524288
    assert request_minutes(needed, LARGE_SITE, 1, speed=GPU_TRAINING, gpus=1) > 30


@pytest.mark.parametrize(
    ("settings", "gigabytes", "gpus"),
    [
        ({}, 24, 1),
        # 26 GB of weights and 3 GB besides
        ({"base": "yahma/llama-13b-hf"}, 24, 2),
        ({"base": "yahma/llama-13b-hf", "quantization": "nf4"}, 24, 1),
        ({"dtype": "float32"}, 24, 2),
        # 108 GB of weights, gradients and moments
        ({"kind": "full"}, 80, 2),
        ({"kind": "full"}, 24, 4),
        # the context of CUDA alone needs more than this GPU has
        ({}, 1, 4),
    ],
)
def test_a_job_splits_a_base_over_as_many_gpus_as_hold_its_model_up_to_the_limit(settings, gigabytes, gpus):
    adapter = make_training(**settings)
    site = Site(gpu_memory_gb=gigabytes, gpus=4)
    values = list_resources(site, "train", lambda _: work.training_work(adapter, PLAIN), GPU)
    assert values["gpu"](None, None, 1) == gpus


def test_a_job_has_the_gpus_of_the_user_if_they_are_more_or_nothing_is_known_of_a_gpu():
    adapter = make_training(kind="full")

    def count(site, devices):
        return list_gpus(site, "train", devices, lambda _: work.training_work(adapter, PLAIN))["gpu"]

    assert count(Site(), Devices(2, 1, 1)) == 2
    assert count(Site(gpu_memory_gb=80), Devices(4, 1, 1))(None, None, 1) == 4
    assert count(Site(gpu_memory_gb=80), CPU) == 0
    # processes do not split a base
    assert count(Site(gpu_memory_gb=24), Devices(1, 4, 1)) == 4
    assert list_gpus(None, "train", Devices(1, 4, 1)) == {"gpu": 4}
    assert list_gpus(None, "generate", Devices(2, 1, 1)) == {"gpu": 2}
    assert list_gpus(None, "combine", GPU) == {}


@pytest.mark.parametrize(
    ("method", "gpus"),
    [
        ({"peft_type": "LORA"}, 2),
        ({"peft_type": "LORA", "init_lora_weights": "pissa"}, 2),
        *(({"peft_type": name}, 1) for name in ("ADALORA", "CPT", "FROD", "SHIRA")),
        *(({"peft_type": "LORA", "init_lora_weights": name}, 1) for name in ("eva", "corda")),
    ],
)
def test_a_job_of_a_method_that_cannot_be_split_requests_one_gpu(method, gpus):
    adapter = make_training(base="yahma/llama-13b-hf")
    adapter.params["method"].update(method)
    base, prompts = adapter.inputs["base"], adapter.inputs["prompts"]
    decoding = {"template": "zero-shot", "max_new_tokens": 32, "num_beams": 1, "dtype": "bfloat16"}
    answers, bare = (
        Artifact("generate", "a-model/", {"math-strict": decoding}, {**model, "math-strict": prompts})
        for model in ({"base": base, "adapter": adapter}, {"base": base})
    )
    taught = Artifact(
        "distill", "a-model/", {"math": decoding}, {"base": base, "adapter": adapter, "questions": prompts}
    )
    site = Site(gpu_memory_gb=24, gpus=4)

    def count(rule, job):
        return list_gpus(site, rule, GPU, lambda _: job)["gpu"](None, None, 1)

    assert count("train", work.training_work(adapter, PLAIN)) == gpus
    assert count("generate", work.generation_work([answers], PLAIN)) == gpus
    assert count("generate_group", work.generation_work([bare, answers], PLAIN)) == gpus
    assert count("distill", work.teaching_work(taught, PLAIN)) == gpus
    assert count("generate", work.generation_work([bare], PLAIN)) == 2


def test_assumptions_about_bases_without_counts_are_those_of_the_most_demanding_count():
    models = read_footprints()["models"].values()
    methods = [(model["parameters"], method) for model in models for method in model["methods"].values()]
    assert (
        max(method["trained"] / work.TRAINED_BYTES / weights for weights, method in methods)
        < work.TRAINED_SHARE
    )
    assert max(method["kept"] / weights for weights, method in methods) < work.KEPT
    assert max(model["cache"] / model["parameters"] for model in models) < work.CACHE
    least = max(method["kept_with_checkpointing"] / weights for weights, method in methods)
    assert least < work.KEPT_WITH_CHECKPOINTING
    assert all(model["logits_at_most"] == work.LOGITS_AT_MOST for model in models)


def test_the_limits_of_a_cache_on_a_cpu_are_those_of_the_evaluation():
    assert (work.CPU_CACHE_BYTES, work.CPU_TEXT_TOKENS) == (budget.CPU_CACHE_BYTES, budget.CPU_TEXT_TOKENS)


def write_lora(folder: Path, modules: dict[str, tuple[int, int]]) -> None:
    """Write an adapter of rank 2 on modules of (rows, columns)."""
    tensors = {}
    for name, (rows, columns) in modules.items():
        tensors[f"{name}.lora_A.weight"] = torch.zeros(2, columns)
        tensors[f"{name}.lora_B.weight"] = torch.zeros(rows, 2)
    folder.mkdir()
    save_file(tensors, folder / work.ADAPTER_FILE)


def combination_of(folder: Path, combination_type: str) -> SimpleNamespace:
    members = {f"member {number}": SimpleNamespace(path=folder / str(number)) for number in (1, 2)}
    params = {"method": {"combination_type": combination_type}}
    return SimpleNamespace(params=params, inputs={"base": SimpleNamespace(path=folder / "base"), **members})


def test_a_combination_requests_what_the_shapes_of_its_members_need(project):
    write_lora(project / "1", {"q": (300, 100), "v": (100, 100)})
    write_lora(project / "2", {"v": (100, 100), "down": (100, 400)})
    plain, svd = (work.combination_work(combination_of(project, kind)) for kind in ("cat", "ties_svd"))
    assert (plain.base_bytes, plain.flop) == (0, 0)
    sizes = [(project / name / work.ADAPTER_FILE).stat().st_size for name in "12"]
    assert plain.pass_bytes > 2 * sum(sizes)
    # each module counts once; a wide matrix takes what its transpose takes
    assert svd.flop == sum(14 * rows * 100**2 + 8 * 100**3 for rows in (300, 100, 400))
    # the largest module, several times: of each member, their sum and its vectors
    assert svd.pass_bytes - plain.pass_bytes >= 4 * 400 * 100 * 6


def test_a_combination_requests_the_time_of_one_thread():
    svd = work.Work(0, 3.6e13, pass_bytes=5e9)
    requests = [
        list_resources(Site(), "combine", lambda _: svd, devices)
        for devices in (CPU, Devices(gpus=2, processes=4, threads=8))
    ]
    minutes, memory = (
        {request[name](None, None, 1) for request in requests} for name in ("runtime", "mem_mb")
    )
    assert (minutes, memory) == ({START_MINUTES + 60}, {HOST_MB + 5000})


def test_a_combination_whose_members_are_missing_names_the_file(project):
    """Snakemake then tries again, once the members are there."""
    with pytest.raises(FileNotFoundError) as raised:
        work.combination_work(combination_of(project, "cat"))
    assert raised.value.filename == str(project / "1" / work.ADAPTER_FILE)
