"""What records say about the machine of a result: its settings are used again, and a processor is named where it matters."""

import platform
from pathlib import Path

import pytest

from pipeline.results.reproduction.recorded_machine import (
    processor_notes,
    recorded_machine,
    recorded_settings,
)
from pipeline.study.artifacts import Artifact
from tests.unit.results.test_reproduce import ADAPTER, BASE, OTHER_RUN, SCORE, write_record


@pytest.mark.parametrize(
    ("device", "machine"),
    [
        ("cpu", ("cpu", 1)),
        ("2 x cpu", ("cpu", 2)),
        ("cuda", ("cuda", 1)),
        ("mps", ("mps", 1)),
        ("2 x NVIDIA H100", ("cuda", 2)),
    ],
)
def test_the_machine_comes_from_the_records(tmp_path, device, machine):
    write_record(tmp_path, ADAPTER, {"run": {"device": device}})
    assert recorded_machine([SCORE, ADAPTER], tmp_path) == machine


@pytest.mark.parametrize(
    ("device", "processor", "expected"),
    [
        ("cpu", "Xeon, avx2", True),
        ("2 x cpu", "Xeon, avx2", True),
        ("cuda", "Xeon, avx2", False),
        ("cpu", "this, avx2", False),
        # from before the model was recorded
        ("cpu", platform.machine(), False),
        ("cpu", None, False),
    ],
)
def test_another_processor_is_named_if_a_result_depends_on_it(
    tmp_path, monkeypatch, device, processor, expected
):
    monkeypatch.setattr(
        "pipeline.results.reproduction.recorded_machine.describe_processor", lambda: "this, avx2"
    )
    run = {"device": device} if processor is None else {"device": device, "processor": processor}
    write_record(tmp_path, ADAPTER, {"run": run})
    # its code parses text, with the same result on every processor
    write_record(tmp_path, SCORE, {"run": {"device": "cpu", "processor": "other"}})
    notes = list(processor_notes([SCORE, ADAPTER], tmp_path))
    assert [f"original used {processor}; this is this, avx2" in note for note in notes] == [True] * expected


@pytest.mark.parametrize(
    ("artifact", "details"),
    [
        (Artifact("base", "gpt2/", {"repo_id": "gpt2"}), {}),
        (Artifact("base", "smollm2-135m-instruct/", {"package": "p"}), {}),
        (Artifact("base", "gpt-4o-mini/", {"endpoint": {}}), {}),
        # copied from data/shipped
        (BASE, {"shipped": True}),
        (Artifact("generate", "references/gpt-3-6b-gsm8k/", {}), {}),
        (Artifact("generate", "gpt-4o-mini/bare/", {}, {"base": Artifact("base", "gpt-4o-mini/", {})}), {}),
        (Artifact("distill", "sets/world-math/", {}), {}),
        (
            Artifact(
                "distill", "answers/gpt-4o-mini/bare/", {}, {"base": Artifact("base", "gpt-4o-mini/", {})}
            ),
            {},
        ),
    ],
)
def test_no_processor_is_named_for_results_that_no_processor_computed(
    tmp_path, this_processor, artifact, details
):
    this_processor(True)
    write_record(tmp_path, artifact, {"run": {**OTHER_RUN, **details}})
    assert list(processor_notes([artifact], tmp_path)) == []
    # nor do their settings differ from those of the results that were computed
    write_record(tmp_path, ADAPTER, {"run": {**OTHER_RUN, "machine": {"portable": True}}})
    assert recorded_settings([ADAPTER, artifact], tmp_path) == ({"portable": True}, [])


@pytest.mark.parametrize(
    "artifact",
    [
        BASE,
        ADAPTER,
        Artifact("combine", "tiny/both/sets/seed0/", {}),
        Artifact("generate", "tiny-llama/bare/", {}, {"base": BASE}),
        Artifact("distill", "answers/tiny-llama/bare/", {}, {"base": BASE}),
    ],
)
def test_portable_results_need_no_note_on_a_processor_with_their_kernels(tmp_path, this_processor, artifact):
    run = {**OTHER_RUN, "machine": {"portable": True}, "micro_batch_tokens": None}
    write_record(tmp_path, artifact, {"run": run})
    this_processor(True)
    assert list(processor_notes([artifact], tmp_path)) == []
    assert recorded_settings([artifact], tmp_path) == ({"portable": True}, [])


def test_portable_results_are_reproduced_without_the_setting_on_another_processor_and_one_note_says_so(
    tmp_path, this_processor
):
    this_processor(False)
    other = Artifact("train", "tiny/lora/set/seed1/", {"seed": 1})
    # nobody knows how it was made
    old = Artifact("base", "tiny-gptj/", {"seed": 0})
    for artifact, name in ((ADAPTER, "Xeon, avx2"), (other, "Xeon Gold, avx2")):
        run = {"device": "cpu", "processor": name, "machine": {"portable": True, "packing": True}}
        write_record(tmp_path, artifact, {"run": run})
    write_record(tmp_path, BASE, {"run": {**OTHER_RUN, "machine": {}}})
    write_record(tmp_path, old, {"run": {"device": "cpu"}})
    made = [BASE, old, ADAPTER, other]
    assert recorded_settings(made, tmp_path) == ({"packing": True}, [])
    portable, plain = sorted(processor_notes(made, tmp_path), key=len, reverse=True)
    assert portable.startswith(
        "processor: original used Xeon Gold, avx2 and Xeon, avx2 with portable=true, which needs Linux on an Intel processor "
        "with AVX2; this is this, avx2, so the setting is left out. "
    )
    assert plain.startswith("processor: original used Xeon, avx2; this is this, avx2. ")


def test_a_base_without_portable_kernels_is_named_beside_adapters_with_them(tmp_path, this_processor):
    this_processor(True)
    # it does not record its settings, as bases used to
    old = Artifact("base", "tiny-gptj/", {"seed": 0})
    write_record(tmp_path, ADAPTER, {"run": {**OTHER_RUN, "machine": {"portable": True}}})
    write_record(tmp_path, BASE, {"run": {**OTHER_RUN, "machine": {}}})
    write_record(tmp_path, old, {"run": OTHER_RUN})
    assert recorded_settings([ADAPTER, old], tmp_path) == ({"portable": True}, [])
    for artifacts in ([BASE, ADAPTER], [ADAPTER, BASE]):
        settings, (note,) = recorded_settings(artifacts, tmp_path)
        assert settings == {"portable": True}
        assert note.startswith(f"portable: True is used, but {BASE.path} was made with the default; ")


def adapter_of(tmp_path: Path, seed: int, **run: object) -> Artifact:
    params = {"seed": seed, "training": {"micro_batch_tokens": 4096}}
    adapter = Artifact("train", f"tiny/lora/set/seed{seed}/", params)
    write_record(tmp_path, adapter, {"run": run})
    return adapter


def test_the_settings_of_the_machine_come_from_the_records(tmp_path):
    old = adapter_of(tmp_path, 0, device="cpu")
    plain = adapter_of(tmp_path, 1, machine={}, micro_batch_tokens=4096)
    # memory was too small, so that the budget was halved
    halved = adapter_of(tmp_path, 2, machine={"gradient_checkpointing": False}, micro_batch_tokens=2048)
    assert recorded_settings([SCORE, old, plain], tmp_path) == ({}, [])
    settings = {"gradient_checkpointing": False, "micro_batch_tokens": 2048}
    assert recorded_settings([SCORE, halved], tmp_path) == (settings, [])
    chosen, notes = recorded_settings([halved, plain], tmp_path)
    assert chosen == settings
    assert f"micro_batch_tokens: 2048 is used, but {plain.path} was made with the default" in notes[1]


def test_the_batches_that_the_memory_of_a_gpu_chose_come_from_the_records(tmp_path):
    decoding = {"num_beams": 4, "max_new_tokens": 8, "template": "strict"}
    params = {"text": decoding, "choices": {"continuation": {}}, "fixed": {**decoding, "batch_tokens": 64}}
    tasks = {"text": 1000, "choices": 4100, "fixed": 16}
    costs = {name: {"batch_tokens": tokens} for name, tokens in tasks.items()}
    answers = Artifact("generate", "tiny-llama/lora/set/seed0/", params, {"base": BASE})
    for device, machine, expected in [
        ("cpu", {}, {}),
        ("cuda", {}, {"batch_tokens": 4000}),
        ("mps", {"batch_tokens": 512}, {"batch_tokens": 512}),
    ]:
        root = tmp_path / device / str(len(machine))
        write_record(root, answers, {"run": {"device": device, "machine": machine, "tasks": costs}})
        assert recorded_settings([SCORE, answers], root) == (expected, [])


def test_portable_of_a_gpu_result_is_neither_compared_nor_used_again(tmp_path, this_processor):
    """On a GPU it has no effect, so results of the two devices may differ in it."""
    this_processor(has_kernels=True)
    portable = {"machine": {"portable": True}}
    runs = {"plain": {**OTHER_RUN, "machine": {}}, "portable": {**OTHER_RUN, **portable}}
    for name, (cpu, gpu, settings) in {
        "gpu": (runs["plain"], {"device": "NVIDIA H100", **portable}, {}),
        "cpu": (runs["portable"], {"device": "2 x NVIDIA H100", "machine": {}}, {"portable": True}),
    }.items():
        trained, bare = tmp_path / name, Artifact("generate", "tiny-llama/bare/", {}, {"base": BASE})
        write_record(trained, ADAPTER, {"run": gpu})
        write_record(trained, bare, {"run": cpu})
        assert recorded_settings([ADAPTER, bare], trained) == (settings, [])
