"""Every value that a card may choose for a field of a peft config trains something else than the default does."""

import pytest
import torch
from peft import PeftModel
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

from pipeline.adapters import add_adapter, methods
from pipeline.params.peft.values import ALL, DATA_DRIVEN, FIELDS, REFUSED_FIELDS, list_values
from tests.integration.test_peft_types import SETTINGS
from tests.tiny import model_of, save_base, train_steps

pytestmark = [pytest.mark.slow, pytest.mark.exhaustive, pytest.mark.filterwarnings("ignore")]

IDS = torch.arange(4, 28).reshape(2, 12)
MORE_SETTINGS = {
    **SETTINGS,
    "ADALORA": {"init_r": 6, "target_r": 2, "total_step": 12, "tinit": 1, "tfinal": 6},
    "CPT": {"cpt_token_ids": [4, 5], "cpt_mask": [1, 1], "cpt_tokens_type_mask": [1, 2]},
    "LORA": {"r": 4},
}
# where a value makes a difference, if it makes none with the default settings on LLaMA
CONTEXT = {
    ("GLORA", "config_C"): ("bloom", {}),
    ("GLORA", "config_D_E"): ("bloom", {}),
    ("LOKR", "decompose_both"): ("llama", {"r": 1}),
    ("LOKR", "rank_dropout_scale"): ("llama", {"rank_dropout": 0.5}),
    ("OFT", "block_share"): ("llama", {"oft_block_size": 8}),
    ("WAVEFT", "proportional_parameters"): ("llama", {"target_modules": ["q_proj", "up_proj"]}),
}
# values that peft means to be the same: a name of the default, and what costs time, memory or disk only
EQUAL_TO_THE_DEFAULT = {
    ("C3A", "init_weights"): [False],
    ("PROMPT_TUNING", "prompt_tuning_init"): ["RANDOM"],
    ("P_TUNING", "encoder_reparameterization_type"): ["MLP"],
    ("FROD", "progressbar"): [False],
    ("FROD", "runtime_offload_base_weight"): [True],
    **{(name, "save_projection"): [False] for name in FIELDS},
    ("SUPERTUNING", "save_precomputed_indices"): [False],
    ("UNILORA", "save_indices"): [True],
    ("VBLORA", "save_only_topk_weights"): [True],
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    directory = tmp_path_factory.mktemp("base")
    save_base("llama", directory)
    return directory


def base_of(architecture, folder):
    model = model_of(architecture, sharpness=2.0)
    # where a prompt of text finds the tokenizer
    model.name_or_path = str(folder)
    return model


def train(peft_type, architecture, settings, folder, tmp_path):
    """Return the names of the trained tensors, and the logits before and after three steps and after loading."""
    method = {"kind": "peft", "peft_type": peft_type, **settings}
    model = add_adapter(base_of(architecture, folder), method, architecture=architecture, seed=1)
    trained = sorted(name for name, parameter in model.named_parameters() if parameter.requires_grad)
    logits = [logits_of(model)]
    torch.manual_seed(0)
    # the loss that CPT computes itself, which training here does not use, has no value for these labels
    if peft_type != "CPT":
        train_steps(model, count=3, learning_rate=3e-2, input_ids=IDS, labels=IDS)
    logits.append(logits_of(model))
    methods.save_trained(model, tmp_path, tokenizer=None, initial_weights=None)
    if not methods.takes_weights_from_base(model):
        logits.append(logits_of(PeftModel.from_pretrained(base_of(architecture, folder), tmp_path).eval()))
        assert (logits[2] - logits[1]).abs().max() < 1e-5
    return trained, logits


def logits_of(model):
    with torch.no_grad():
        return model.eval()(input_ids=IDS).logits


def is_refused(peft_type, name):
    return (ALL, name) in REFUSED_FIELDS or (peft_type, name) in REFUSED_FIELDS


def default_of(peft_type, name):
    return PEFT_TYPE_TO_CONFIG_MAPPING[peft_type].__dataclass_fields__[name].default


CASES = [
    (peft_type, name)
    for peft_type, fields in FIELDS.items()
    for name in fields
    if list_values(peft_type, name) and not is_refused(peft_type, name)
]


@pytest.mark.parametrize(("peft_type", "name"), CASES)
def test_a_value_is_carried_out(peft_type, name, folder, tmp_path):
    # biases of the base exist in BLOOM, not in LLaMA
    architecture, changes = CONTEXT.get((peft_type, name), ("bloom" if name == "bias" else "llama", {}))
    settings = {**MORE_SETTINGS.get(peft_type, {}), **changes}
    plain = train(peft_type, architecture, settings, folder, tmp_path)
    for value in list_values(peft_type, name):
        if value in DATA_DRIVEN or value == "pissa_niter_[number of iters]":
            # test_initial_weights.py; peft's placeholder
            continue
        text = {"prompt_tuning_init_text": "w1 w2"} if value == "TEXT" else {}
        chosen = train(peft_type, architecture, {**settings, **text, name: value}, folder, tmp_path)
        same = chosen[0] == plain[0] and all(
            torch.equal(first, second) for first, second in zip(chosen[1][:2], plain[1][:2], strict=True)
        )
        equal = value == default_of(peft_type, name) or value in EQUAL_TO_THE_DEFAULT.get(
            (peft_type, name), []
        )
        assert same == equal, value
