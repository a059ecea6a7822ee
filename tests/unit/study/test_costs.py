"""What check and status say about the needs of real models."""

import re
from collections import Counter

import pytest

from benchmarks.shapes.memory import cache_bytes, count_weights
from benchmarks.shapes.models import DEVICES, SHAPES, build_on_meta
from benchmarks.shapes.speed import assume_shares
from pipeline.commands.app import run_command
from pipeline.params.reading import PARAMS, ROOT, read_card, read_yaml
from pipeline.params.studies import StudyCard
from pipeline.study import Study, load_study
from pipeline.study.costs.estimate import count_parameters, estimate_study, smallest_card
from pipeline.study.costs.footprints import RESERVED, read_footprints
from pipeline.study.costs.generation import generation_speed
from pipeline.study.costs.messages import describe_needs, warn_of_large_models

PAPER = ("paper-math", "paper-math-24gb", "paper-commonsense", "placement", "hyperparameters")


def estimates_of(study: str, **options):
    return {estimate.model: estimate for estimate in estimate_study(load_study(study, **options))[0]}


@pytest.mark.parametrize("study", PAPER)
def test_each_model_and_method_of_the_paper_is_counted(study):
    loaded = load_study(study)
    estimates, uncounted = estimate_study(loaded)
    assert [estimate.model for estimate in estimates] == loaded.card.models
    assert uncounted == []
    models = read_footprints()["models"]
    for run in (run for run in loaded.evaluated_runs if run.entry):
        assert run.entry.method in models[read_card("models", run.model).repo_id]["methods"]


def test_the_study_for_24_gb_fits_into_24_gb_and_the_published_precision_does_not():
    assert all(estimate.memory <= 24e9 for estimate in estimates_of("paper-math-24gb").values())
    published = estimates_of("paper-math")
    assert published["llama-13b"].memory_with_checkpointing > 24e9
    assert published["llama-7b"].memory < 24e9
    for model, estimate in estimates_of("paper-math-24gb").items():
        assert estimate.memory < published[model].memory
        assert estimate.memory_with_checkpointing < estimate.memory


def test_the_studies_for_24_and_for_80_gb_differ_in_the_quantization_alone():
    small, large = (load_study(name).card.model_dump() for name in ("paper-math-24gb", "paper-math"))
    texts = {"title", "description"}
    assert {key for key in small if small[key] != large[key]} - texts == {"training"}
    for run, other in zip(
        load_study("paper-math-24gb").evaluated_runs, load_study("paper-math").evaluated_runs, strict=True
    ):
        if not run.adapter:
            continue
        changed = {**run.adapter.params["training"]}
        assert changed.pop("quantization") == "nf4"
        assert changed == dict(other.adapter.params["training"])


@pytest.mark.parametrize("study", ["paper-math", "paper-math-24gb"])
def test_hours_are_proportional_to_the_seeds(study):
    first, second, whole = (estimates_of(study, seeds=seeds) for seeds in (1, 2, 3))
    for model, estimate in first.items():
        assert whole[model].training_hours == pytest.approx(3 * estimate.training_hours)
        # the bare base has no seed: each further seed costs the same
        step = second[model].generation_hours - estimate.generation_hours
        assert 0 < step < estimate.generation_hours
        assert whole[model].generation_hours == pytest.approx(second[model].generation_hours + step)


@pytest.mark.parametrize("study", ["paper-math", "paper-math-24gb"])
def test_a_bare_base_is_estimated_in_the_precision_of_its_adapters(study):
    """All models of a study answer the same questions, so the bare base takes as long as each adapter."""
    methods = Counter(run.model for run in load_study(study, seeds=1).evaluated_runs if run.entry)
    first, second = (estimates_of(study, seeds=seeds) for seeds in (1, 2))
    for model, estimate in first.items():
        step = second[model].generation_hours - estimate.generation_hours
        assert estimate.generation_hours - step == pytest.approx(step / methods[model])


@pytest.mark.parametrize(
    ("training", "form", "factor"),
    [
        ({"dtype": "bfloat16", "quantization": "nf4"}, "nf4", 1),
        ({"dtype": "bfloat16"}, "bf16", 1),
        # float32, the default
        ({}, "bf16", 2),
    ],
)
def test_without_an_adapter_the_memory_is_that_of_the_base_as_it_is_loaded(training, form, factor):
    card = read_yaml(PARAMS / "study/paper-math.yaml")
    study = Study("mine", StudyCard(**{**card, "methods": [], "seeds": [], "training": training}))
    weights = read_footprints()["models"]["yahma/llama-7b-hf"]["weights"][form]
    estimate = next(estimate for estimate in estimate_study(study)[0] if estimate.model == "llama-7b")
    assert (estimate.method, estimate.memory) == ("no adapter", factor * weights + RESERVED)


def test_a_model_that_the_study_never_loads_is_not_estimated():
    """The study needs no file of a model without a method and without its bare base."""
    card = read_yaml(PARAMS / "study/paper-math.yaml")
    methods = [{"method": "lora", "models": ["llama-7b"]}]
    study = Study("mine", StudyCard(**{**card, "bare": False, "methods": methods}))
    estimates, uncounted = estimate_study(study)
    assert ([estimate.model for estimate in estimates], uncounted) == (["llama-7b"], [])


def test_hours_of_trainings_by_hand():
    """In 16 bits: 10,000 examples of 256 tokens, three epochs."""
    methods = read_footprints()["models"]["yahma/llama-7b-hf"]["methods"]
    runs = load_study("placement").evaluated_runs
    seconds = [methods[run.entry.method]["seconds"]["RTX 4090"] for run in runs]
    hours = sum(10_000 * 3 * 256 * number / 3600 for number in seconds)
    assert estimates_of("placement")["llama-7b"].training_hours == pytest.approx(hours)


def test_studies_without_hub_models_say_nothing():
    study = load_study("quickstart")
    assert describe_needs(study) == []
    assert warn_of_large_models(study, device="cpu") is None


def test_a_large_model_on_a_cpu_is_a_warning_with_name_and_size():
    warning = warn_of_large_models(load_study("paper-math"), device="cpu")
    assert warning.startswith("warning: llama-13b has 13.0 billion parameters; on the CPU ")
    # a missing GPU is refused elsewhere
    assert warn_of_large_models(load_study("paper-math"), device="cuda") is None


@pytest.mark.parametrize(("command", "last"), [("check", "docs/gpu.md"), ("status", "docs/gpu.md")])
def test_check_and_status_print_the_estimate(command, last, capsys):
    pytest.importorskip("bitsandbytes", reason="skipped: bitsandbytes is not installed")
    assert not run_command([command, "--study", "paper-math-24gb"])
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("estimate: ")]
    assert len(lines) == 2
    assert " of 24 GB" in lines[0]
    assert lines[1].endswith(last)


def test_the_example_of_the_page_is_what_check_prints(capsys):
    pytest.importorskip("bitsandbytes", reason="skipped: bitsandbytes is not installed")
    page = (ROOT / "docs/gpu.md").read_text(encoding="utf-8")
    command, lines = re.search(r"^```\n\$ python -m pipeline (.*?)\n(.*?)^```", page, re.M | re.S).groups()
    assert not run_command(command.split())
    assert capsys.readouterr().out == lines


def test_parameters_come_from_the_footprint_or_the_card():
    assert count_parameters(read_card("models", "llama-7b")) == 6_738_415_616
    assert count_parameters(read_card("models", "llama-2-7b")) == 6_738_415_616
    assert count_parameters(read_card("models", "phi-4")) == 14_659_507_200
    assert count_parameters(read_card("models", "qwen3-0.6b")) is None


def test_the_number_of_parameters_is_no_part_of_a_fingerprint():
    card = read_card("models", "phi-4")
    assert card.parameters
    assert "parameters" not in load_study("paper-math").base("phi-4").params


@pytest.mark.parametrize(
    ("memory", "size"), [(7.9e9, 8), (8.1e9, 12), (24e9, 24), (24.1e9, 32), (142e9, None)]
)
def test_the_smallest_gpu(memory, size):
    assert smallest_card(memory) == size


def test_the_record_has_the_shapes_and_devices_of_the_benchmark():
    recorded = read_footprints()
    assert recorded["devices"] == {name: assume_shares(DEVICES[name]) for name in recorded["devices"]}
    for name in ("LLaMA-7B", "BLOOMZ-7B1"):
        base, model = build_on_meta(SHAPES[name]), recorded["models"][SHAPES[name].source]
        weights = count_weights(base)
        assert model["parameters"] == weights.linear + weights.rest
        assert model["weights"] == {form: round(weights.size(form)) for form in model["weights"]}
        assert model["cache"] == cache_bytes(base.config)


def test_quantized_weights_fit_more_rows_and_take_longer_to_read():
    device = read_footprints()["devices"]["RTX 4090"]
    weights, cache = 26e9, 800 * 1024
    assert generation_speed(device, weights, cache) == 0
    quantized = generation_speed(device, weights, cache, stored=7e9)
    assert quantized > 0
    large = {**device, "memory": 80e9}
    assert generation_speed(large, weights, cache, stored=7e9) < generation_speed(large, weights, cache)
