"""Every method on bases that bitsandbytes quantizes, on its CPU backend: what fails is what ``check`` refuses, and nothing else.

An adapter works on a quantized base if its training runs and changes the model, and if the trained model computes what the same
adapter computes beside the dequantized weights. Some methods of peft run and fail only the latter: they take the codes of the
weights for weights.
"""

import pytest
import torch
from peft import PeftModel

from pipeline.adapters import add_adapter
from pipeline.core.errors import UserError
from pipeline.evaluate.generation.loading import load_model
from pipeline.models.base import load_base
from pipeline.models.train import train
from pipeline.params.architectures import LINEAR_MODULES, PEFT_TYPES, UNSUPPORTED_PEFT_TYPES
from pipeline.params.peft.quantization import check_quantization
from pipeline.params.peft.values import DATA_DRIVEN, list_values
from tests.integration.test_methods_training import settings
from tests.integration.test_peft_types import SETTINGS
from tests.tiny import FAMILY, save_base

pytest.importorskip(
    "bitsandbytes",
    reason="bitsandbytes, an optional package, is not installed: pip install '.[quantization]'",
)
pytestmark = [
    pytest.mark.slow,
    # peft warns about its own methods
    pytest.mark.filterwarnings("ignore::UserWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]

IDS = torch.tensor([[1, *range(4, 16)]])
LORA = {"kind": "peft", "peft_type": "LORA", "r": 4}
METHODS = {
    **{
        name: {"kind": "peft", "peft_type": name, **SETTINGS.get(name, {})}
        for name in PEFT_TYPES
        if name not in UNSUPPORTED_PEFT_TYPES
    },
    **{
        f"LORA-{value}": {
            **LORA,
            "init_lora_weights": value,
            **({"init_batches": 1} if value in DATA_DRIVEN else {}),
        }
        for value in (*list_values("LORA", "init_lora_weights"), "pissa_niter_4")
        # olora, which takes a part out of the weights, has a test of its own
        if "[" not in str(value) and value != "olora"
    },
    "LORA-dora": {**LORA, "use_dora": True},
    "LORA-bias": {**LORA, "bias": "all"},
    "LORA-head": {**LORA, "modules_to_save": ["lm_head"]},
    "LORA-down_proj": {**LORA, "target_modules": ["q_proj"], "modules_to_save": ["down_proj"]},
    "LORA-tokens": {**LORA, "trainable_token_indices": [4, 5]},
    **{
        f"bottleneck-{placement}": {"kind": "bottleneck", "placement": placement, "bottleneck_size": 8}
        for placement in ("before", "after", "parallel")
    },
}
# int8 rounds the inputs of a module too; this much of the largest logit
TOLERANCE = {"nf4": 1e-4, "int8": 0.05}


# for the fixtures of conftest.py
BASE, ROWS = {"sharpness": 3.0, "hidden_size": 64, "intermediate_size": 96}, 16


def logits(model):
    with torch.no_grad():
        return model(input_ids=IDS, attention_mask=torch.ones_like(IDS), use_cache=False).logits[
            :, -IDS.shape[1] :
        ]


def fault(base, prompts, folder, method, quantization):
    """Return what is wrong with a method on a quantized base; empty: nothing."""
    try:
        options = {
            "training": settings(max_steps=4, learning_rate=5e-2, quantization=quantization),
            "seed": 1,
            "manifest": {"fingerprint": "f"},
        }
        train(base, prompts, method=method, output=folder, validation=None, device="cpu", **options)
        trained = logits(load_model(base, folder, "float32", "cpu", quantization=quantization)[0])
        bare, _ = load_base(base, quantization=quantization)
        unchanged = logits(bare)
        reference = bare.dequantize().float()
        beside = logits(PeftModel.from_pretrained(reference, str(folder)).eval())
    except (UserError, RuntimeError, AttributeError, TypeError, ValueError) as error:
        return f"{type(error).__name__}: {error}"
    if torch.allclose(trained, unchanged, atol=1e-5, rtol=0):
        return "the adapter changes nothing"
    difference = float((trained - beside).abs().max() / beside.abs().max())
    if not difference < TOLERANCE[quantization]:
        return f"differs by {difference:.2g} from the same adapter beside the dequantized weights"
    return ""


# what `make test-ci` has time for: the methods of the study, and a method that is refused
USUAL = ("LORA", "bottleneck-before", "bottleneck-parallel", "PREFIX_TUNING", "HRA")


@pytest.mark.parametrize("quantization", ["nf4", "int8"])
@pytest.mark.parametrize(
    "name",
    [name if name in USUAL else pytest.param(name, marks=pytest.mark.exhaustive) for name in METHODS],
)
def test_check_refuses_the_methods_that_fail_on_a_quantized_base_and_no_others(
    name, quantization, base, prompts, tmp_path
):
    try:
        check_quantization(METHODS[name], quantization, linear_modules=LINEAR_MODULES["llama"])
        refusal = ""
    except UserError as error:
        refusal = str(error)
    found = fault(base, prompts, tmp_path / "adapter", METHODS[name], quantization)
    assert bool(found) == bool(refusal), found or f"works, but is refused: {refusal}"


@pytest.mark.parametrize("quantization", ["nf4", "int8"])
def test_what_olora_leaves_in_a_quantized_base_is_rounded_again_so_it_is_refused(quantization, base):
    method = {**LORA, "init_lora_weights": "olora"}
    with pytest.raises(UserError, match="olora, which needs the unquantized weights"):
        check_quantization(method, quantization, linear_modules=LINEAR_MODULES["llama"])
    bare, _ = load_base(base, quantization=quantization)
    unchanged = logits(bare)
    # in exact arithmetic a new adapter changes nothing
    assert (logits(add_adapter(bare, method, architecture="llama", seed=0)) - unchanged).abs().max() > 1e-3


@pytest.mark.exhaustive
@pytest.mark.parametrize("quantization", ["nf4", "int8"])
@pytest.mark.parametrize("name", ["LORA", "bottleneck-before", "bottleneck-after", "bottleneck-parallel"])
@pytest.mark.parametrize("architecture", [name for name in FAMILY if name != "llama"])
def test_linear_modules_of_other_architectures_are_quantized_too(
    architecture, name, quantization, prompts, tmp_path
):
    save_base(architecture, tmp_path / "base", sharpness=2.0)
    method = METHODS[name]
    if name == "LORA":
        method = {**method, "target_modules": list(LINEAR_MODULES[architecture])}
    elif architecture == "phi3":
        # its gate and up projections are one module, so the bottlenecks have no default
        method = {**method, "target_modules": ["gate_up_proj", "down_proj"]}
    assert fault(tmp_path / "base", prompts, tmp_path / "adapter", method, quantization) == ""
