"""Values of peft's fields: what a card may not set is refused in one line before the DAG, with the value and the choices."""

import pytest

from pipeline.commands.maintain.peft_fields import PATH, peft_fields_text
from pipeline.core.errors import UserError
from pipeline.params.architectures import PEFT_TYPES, UNSUPPORTED_PEFT_TYPES, check_method
from pipeline.params.methods import PEFT_FIELDS
from pipeline.params.peft.values import FIELDS, REFUSED_FIELDS, REFUSED_VALUES, list_values
from pipeline.params.reading import ROOT
from pipeline.params.resolve import resolve_method
from pipeline.params.studies import Entry
from tests.unit.params.test_study_cards import error_message

WHERE = "params/study/s.yaml"


def refusal(peft_type, **settings):
    method = {"kind": "peft", "peft_type": peft_type, **settings}
    return error_message(lambda: check_method(method, architecture="llama"))


def resolve(method="lora", **changes):
    return resolve_method(Entry(method=method, **changes), architecture="llama", where=WHERE)


def test_the_table_has_the_fields_of_the_installed_peft():
    assert (ROOT / PATH).read_text(encoding="utf-8") == peft_fields_text()
    assert set(FIELDS) == set(PEFT_TYPES) - set(UNSUPPORTED_PEFT_TYPES)


def test_every_card_type_has_fields_of_peft_only():
    for peft_type, card in PEFT_FIELDS.items():
        assert set(card.model_fields) - {"init_batches"} <= set(FIELDS[peft_type])


def test_every_refusal_is_of_a_field_and_a_value_that_exist():
    for peft_type, name in REFUSED_FIELDS:
        types = FIELDS if peft_type not in FIELDS else [peft_type]
        assert any(name in FIELDS[candidate] for candidate in types)
    for (peft_type, name), values in REFUSED_VALUES.items():
        assert set(values) <= {*(FIELDS[peft_type][name] or []), *list_values(peft_type, name), False}


CLOSED = [
    (peft_type, name) for peft_type in FIELDS for name in FIELDS[peft_type] if list_values(peft_type, name)
]


@pytest.mark.parametrize("peft_type", FIELDS)
def test_a_value_that_is_no_choice_is_refused_with_the_choices(peft_type):
    for name in (name for candidate, name in CLOSED if candidate == peft_type):
        message = refusal(peft_type, **{name: "nonsense"})
        assert message.startswith(f"{name}: ")
        if (peft_type, name) not in REFUSED_FIELDS and ("all methods", name) not in REFUSED_FIELDS:
            assert "'nonsense' (choices: " in message


@pytest.mark.parametrize(("key", "values"), REFUSED_VALUES.items(), ids=str)
def test_a_value_that_would_not_be_trained_is_refused_with_the_reason(key, values):
    peft_type, name = key
    for value, reason in values.items():
        message = refusal(peft_type, **{name: value})
        assert message.startswith(f"{name}: ")
        assert reason in message
        assert "choices: " in message


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"init_lora_weights": "nonsense"}, "init_lora_weights: unknown value 'nonsense' (choices: true, "),
        ({"init_lora_weights": "pissa_niter_x"}, "init_lora_weights: unknown value 'pissa_niter_x'"),
        ({"init_lora_weights": "loftq"}, "for a quantized base, set training: quantization"),
        ({"init_lora_weights": "eva"}, "init_batches: missing; init_lora_weights: eva is computed from"),
        (
            {"init_batches": 4},
            "init_batches: only for init_lora_weights: eva, corda, lora_ga; true reads no examples",
        ),
        ({"init_lora_weights": "corda", "init_batches": 0}, "init_batches: .*greater than 0"),
        ({"eva_config": {}}, "eva_config: needs init_lora_weights: eva, not true"),
        (
            {"init_lora_weights": "lora_ga", "init_batches": 2, "lora_ga_config": {"scale": "big"}},
            "lora_ga_config.scale: .*gd_scale",
        ),
        ({"init_lora_weights": "pissa", "use_dora": True}, "use_dora: peft cannot save it together with"),
        ({"init_lora_weights": "olora", "modules_to_save": ["lm_head"]}, "modules_to_save: peft cannot save"),
        (
            {"init_lora_weights": "pissa", "use_rslora": True, "rank_pattern": {"q_proj": 8}},
            "use_rslora: peft cannot save it together with rank_pattern",
        ),
        (
            {"init_lora_weights": "orthogonal", "r": 3},
            "r: init_lora_weights: orthogonal needs an even rank, got 3",
        ),
        (
            {"init_lora_weights": "orthogonal", "r": 4, "rank_pattern": {"q_proj": 3}},
            "q_proj: init_lora_weights: orthogonal needs an even rank, got 3",
        ),
        ({"bias": "some"}, "bias: .*lora_only"),
        ({"use_qalora": True}, "use_qalora: unknown key"),
    ],
)
def test_a_study_that_asks_for_it_is_refused_before_the_dag(changes, message):
    with pytest.raises(UserError, match=message.replace("(", r"\(")) as error:
        resolve(**changes)
    assert str(error.value).startswith(WHERE)
    assert "\n" not in str(error.value)


def test_trained_tokens_are_refused_where_peft_would_lose_them():
    message = refusal("LORA", init_lora_weights="pissa", trainable_token_indices=[3])
    assert message.startswith("trainable_token_indices: ")


def test_a_prompt_of_text_needs_its_text():
    assert "prompt_tuning_init_text: missing" in error_message(
        lambda: resolve("prompt-tuning", prompt_tuning_init="TEXT")
    )
    assert "needs prompt_tuning_init: TEXT" in error_message(
        lambda: resolve("prompt-tuning", prompt_tuning_init_text="Solve:")
    )


@pytest.mark.parametrize("peft_type", ["BOFT", "LORA", "PREFIX_TUNING"])
def test_fields_of_every_config_that_describe_its_file_are_refused(peft_type):
    # inference_mode would train nothing
    assert f"inference_mode: not a field of {peft_type}" in refusal(peft_type, inference_mode=True)


def test_init_batches_belong_to_the_identity_of_the_methods_that_read_them():
    assert "init_batches" not in resolve()
    fields = resolve(init_lora_weights="eva", init_batches=4)
    assert fields["init_batches"] == 4


@pytest.mark.parametrize("name", ["pissa_niter_16", "pissa", "olora", "gaussian", "orthogonal", True, False])
def test_initialisations_without_data_pass(name):
    assert resolve(init_lora_weights=name)["init_lora_weights"] == name
