"""Evaluation in 16 bits: trained tensors keep float32, matrix products run under autocast; 16-bit weights in float32."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file

from pipeline.adapters import add_adapter
from pipeline.adapters.precision import compute_in
from pipeline.core.io import read_json
from pipeline.evaluate.generation import decoding
from pipeline.evaluate.generation.loading import BaseLoader, load_model
from pipeline.evaluate.generation.predict import predict
from pipeline.evaluate.generation.text_answers import encode_prompts
from pipeline.models.base import load_base
from pipeline.prompts.write import SCHEMA, read_prompts
from tests.integration.generation_cases import BEAMS, GREEDY, run, save_adapter, task, write_prompts
from tests.tiny import CONFIGS, model_of, save_base

HALF = {"dtype": "bfloat16", "weights": "bfloat16"}
ROUNDED = {"weights": "bfloat16"}
LORA = {"kind": "peft", "peft_type": "LORA", "r": 4}
# methods that train tensors which replace some of the base's
REPLACING = {
    "norms": {"kind": "peft", "peft_type": "LN_TUNING"},
    "biases": {**LORA, "bias": "all"},
    "whole modules": {**LORA, "modules_to_save": ["lm_head"]},
}


@pytest.fixture(scope="module")
def prompts(tmp_path_factory):
    return write_prompts(tmp_path_factory.mktemp("prompts") / "prompts.parquet", n=8)


@pytest.fixture(scope="module")
def choices(tmp_path_factory, prompts):
    """The prompts as questions with two choices."""
    rows = [{**row, "choices": ["w20", "w21"]} for row in read_prompts(prompts)]
    path = tmp_path_factory.mktemp("choices") / "prompts.parquet"
    pq.write_table(pa.Table.from_pylist(rows, schema=SCHEMA), path)
    return path


def change(model):
    """Add to each trained value what bfloat16 would round away from a value of 1."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(1e-3 * (1 + torch.rand(parameter.shape, generator=torch.manual_seed(1))))
    return model


def save_trained(architecture, settings, folder):
    """Save an adapter with all trained tensors in float32; return its tensors."""
    model = change(add_adapter(model_of(architecture), settings, architecture=architecture, seed=3))
    model.save_pretrained(folder)
    return load_file(folder / "adapter_model.safetensors")


@pytest.mark.parametrize("architecture", CONFIGS)
@pytest.mark.parametrize("method", REPLACING)
def test_trained_tensors_are_those_of_the_file_beside_a_16_bit_base(method, architecture, bases, tmp_path):
    from peft import get_peft_model_state_dict

    saved = save_trained(architecture, REPLACING[method], tmp_path / "adapter")
    model, _ = load_model(bases[architecture], tmp_path / "adapter", "bfloat16", "cpu")
    loaded = get_peft_model_state_dict(model)
    assert saved
    for name, tensor in saved.items():
        assert loaded[name].dtype == torch.float32, name
        assert torch.equal(loaded[name], tensor), name
    trained = {tensor.data_ptr() for tensor in loaded.values()}
    # layer norms compute in float32, as in training
    frozen = [p for p in model.parameters() if p.dim() > 1 and p.data_ptr() not in trained]
    assert {parameter.dtype for parameter in frozen} == {torch.bfloat16}


def test_a_base_shared_with_such_an_adapter_is_as_it_was(bases, tmp_path):
    loader = BaseLoader(bases["llama"], "cpu", reuse=True)
    for method, settings in REPLACING.items():
        save_trained("llama", settings, tmp_path / method)
        model, tokenizer = loader.load(tmp_path / method, "bfloat16")
        loader.release(model, tokenizer, "bfloat16")
        bare, tokenizer = loader.load(None, "bfloat16")
        assert {parameter.dtype for parameter in bare.parameters()} == {torch.bfloat16}
        loader.release(bare, tokenizer, "bfloat16")


def save_full(architecture, folder, base):
    """Save a fully trained model, in float32, with the tokenizer of the base."""
    model = change(model_of(architecture).requires_grad_(True))
    model.save_pretrained(folder)
    load_base(base)[1].save_pretrained(folder)
    return folder


def logits(model, dtype):
    ids = torch.tensor([[1, 5, 9, 33, 12, 7]])
    with torch.inference_mode(), compute_in(dtype, "cpu"):
        return model(input_ids=ids).logits


@pytest.mark.parametrize("architecture", CONFIGS)
def test_a_fully_trained_model_computes_as_its_float32_weights_do_under_autocast(
    architecture, bases, tmp_path
):
    folder = save_full(architecture, tmp_path / "full", bases[architecture])
    model, _ = load_model(tmp_path / "no base", folder, "bfloat16", "cpu")
    whole, _ = load_base(folder)
    norms = [module.weight for name, module in model.named_modules() if "norm" in name or "ln_" in name]
    assert norms
    assert {weight.dtype for weight in norms} == {torch.float32}
    assert torch.equal(logits(model, "bfloat16"), logits(whole, "bfloat16"))


def save_model(method, architecture, folder, base):
    if method == "full":
        return save_full(architecture, folder, base)
    if method == "norms":
        save_trained(architecture, REPLACING["norms"], folder)
        return folder
    return save_adapter(architecture, method, folder)


def transformers_answer(model, row, config):
    """Return the new tokens of transformers' own search for one prompt, under autocast."""
    with torch.inference_mode(), compute_in("bfloat16", "cpu"):
        sequences = model.generate(input_ids=torch.tensor([row]), generation_config=config).sequences
    new = sequences[0, len(row) :].tolist()
    return new[: new.index(2) + 1] if 2 in new else new


@pytest.mark.parametrize("architecture", CONFIGS)
@pytest.mark.parametrize("method", ["parallel", "norms", "full"])
def test_16_bit_answers_are_those_of_transformers_under_autocast(
    method, architecture, bases, prompts, tmp_path
):
    adapter = save_model(method, architecture, tmp_path / "adapter", bases[architecture])
    # a batch of one: in 16 bits the other rows of a batch may change an answer
    tasks = [task("t", prompts, "f", {**GREEDY, **HALF, "batch_tokens": 1})]
    rows = run(bases[architecture], adapter, tasks, tmp_path / "a/answers")["t"]
    model, tokenizer = load_model(bases[architecture], adapter, "bfloat16", "cpu")
    config = decoding.configure_decoding(model, tokenizer, max_new_tokens=12, num_beams=1)
    ids, _ = encode_prompts(model, tokenizer, read_prompts(prompts), 12)
    new = [transformers_answer(model, row, config) for row in ids]
    assert [row["text"] for row in rows] == tokenizer.batch_decode(new, skip_special_tokens=True)


@pytest.mark.parametrize("architecture", CONFIGS)
@pytest.mark.parametrize("method", ["prefix", "norms", "full"])
def test_beams_and_likelihoods_are_computed_in_16_bits(method, architecture, bases, choices, tmp_path):
    adapter = save_model(method, architecture, tmp_path / "adapter", bases[architecture])
    tasks = [
        task("beams", choices, "b", {**BEAMS, **HALF}),
        task("likelihood", choices, "l", {"template": "strict", "continuation": " {label}", **HALF}),
        task("whole", choices, "w", {"template": "strict", "continuation": " {label}"}),
    ]
    answers = run(bases[architecture], adapter, tasks, tmp_path / "a/answers")
    assert all(row["tokens"] for row in answers["beams"])
    halves, wholes = (
        torch.tensor([row["loglikelihoods"] for row in answers[name]]) for name in ("likelihood", "whole")
    )
    # rounded to 8 binary digits, in a model whose weights are far larger than those of a trained one
    assert 0 < (halves - wholes).abs().max() < 0.1 * wholes.abs().max()


@pytest.mark.parametrize("architecture", CONFIGS)
def test_weights_are_rounded_and_nothing_else(architecture, bases):
    model, _ = load_base(bases[architecture], rounded_to="bfloat16")
    plain, _ = load_base(bases[architecture])
    for name, parameter in plain.named_parameters():
        rounded = model.get_parameter(name)
        assert rounded.dtype == torch.float32
        assert torch.equal(rounded, parameter.bfloat16().float()), name
    for name, buffer in plain.named_buffers():
        assert torch.equal(model.get_buffer(name), buffer), name


def test_only_the_weights_of_the_base_are_rounded(bases, tmp_path):
    saved = save_trained("llama", REPLACING["norms"], tmp_path / "adapter")
    model, _ = load_model(bases["llama"], tmp_path / "adapter", "float32", "cpu", weights="bfloat16")
    from peft import get_peft_model_state_dict

    loaded = get_peft_model_state_dict(model)
    assert all(torch.equal(loaded[name], tensor) for name, tensor in saved.items())
    base = model.get_base_model().lm_head.weight
    assert torch.equal(base, base.bfloat16().float())


def answers_by_batch(base, adapter, prompts, settings, folder):
    """Return the answers of 16-bit weights computed in float32: a prompt at a time, and eight at a time."""
    answers = []
    for rows in (1, 8):
        # the padded tokens of that many of the longest prompts, with their answers
        budget = {"batch_tokens": rows * 37 * settings["num_beams"], "max_new_tokens": 6}
        tasks = [task("t", prompts, "f", {**settings, **ROUNDED, **budget})]
        answers.append(run(base, adapter, tasks, folder / f"{rows}/answers")["t"])
        assert read_json(folder / f"{rows}/answers/run.json")["tasks"]["t"]["largest_batch"] >= rows
    return answers


@pytest.mark.parametrize("settings", [GREEDY, BEAMS], ids=["greedy", "beams"])
@pytest.mark.parametrize("architecture", CONFIGS)
def test_the_batch_size_changes_no_answer_of_16_bit_weights_computed_in_float32(
    architecture, settings, bases, prompts, tmp_path
):
    adapter = save_adapter(architecture, "lora", tmp_path / "adapter")
    alone, batched = answers_by_batch(bases[architecture], adapter, prompts, settings, tmp_path)
    assert alone == batched


@pytest.mark.slow
@pytest.mark.exhaustive
def test_nor_does_it_on_a_wide_model_of_which_bfloat16_changes_a_twentieth(tmp_path):
    save_base("llama", tmp_path / "base", hidden_size=256, intermediate_size=512)
    path = write_prompts(tmp_path / "prompts.parquet", n=896, seed=2)
    alone, batched = answers_by_batch(tmp_path / "base", None, path, GREEDY, tmp_path)
    assert alone == batched
    assert len({row["text"] for row in alone}) > 400


def test_run_json_has_the_precision_and_the_largest_batch(bases, prompts, tmp_path):
    tasks = [
        task("whole", prompts, "w", {**GREEDY, "batch_tokens": 200}),
        task("half", prompts, "h", {**GREEDY, **HALF}),
        task("rounded", prompts, "r", {**BEAMS, **ROUNDED}),
    ]
    run(bases["llama"], None, tasks, tmp_path / "answers")
    costs = read_json(tmp_path / "answers/run.json")["tasks"]
    assert {name: (cost["dtype"], cost["weights"]) for name, cost in costs.items()} == {
        "whole": ("float32", "float32"),
        "half": ("bfloat16", "bfloat16"),
        "rounded": ("float32", "bfloat16"),
    }
    assert costs["whole"]["batch_tokens"] == 200
    # the shortest prompts have 3 tokens, and each row may grow by 12
    assert 200 // 43 <= costs["whole"]["largest_batch"] <= 200 // 15
    assert costs["half"]["largest_batch"] == 8


def test_a_question_is_answered_in_16_bits_and_the_caller_computes_as_before(bases, tmp_path):
    adapter = tmp_path / "adapter"
    save_trained("llama", REPLACING["norms"], adapter)
    answers = predict(
        bases["llama"], adapter, [["w3 w4 w5"]], input="", decoding={**GREEDY, **HALF}, device="cpu"
    )
    # while the answers are read, too
    for answer in answers:
        assert answer["tokens"] > 0
        assert not torch.is_autocast_enabled("cpu")
