"""No supported method of peft lets an answer depend on the other examples of its batch, its padding, or later tokens."""

import peft
import pytest
import torch

from pipeline.adapters import add_adapter, methods
from pipeline.params.architectures import PEFT_TYPES, UNSUPPORTED_PEFT_TYPES
from tests.integration.test_peft_types import SETTINGS
from tests.tiny import model_of

# peft warns about its own methods
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")

ROW = [1, 5, 9, 13, 17]
OTHER = [1, 40, 41, 42, 43, 44, 45, 46, 47]


def logits_of_rows(model, rows):
    """Return the logits of each row's real tokens, from a pass over rows padded on the right."""
    ids, mask = torch.zeros(len(rows), max(map(len, rows)), dtype=torch.long), []
    for number, row in enumerate(rows):
        ids[number, : len(row)] = torch.tensor(row)
        mask.append([1] * len(row) + [0] * (ids.shape[1] - len(row)))
    with torch.no_grad():
        logits = model(input_ids=ids, attention_mask=torch.tensor(mask), use_cache=False).logits
    return [values[-ids.shape[1] :][: len(row)] for row, values in zip(rows, logits, strict=True)]


def changes(model):
    """Return how much the logits of a row change in a padded batch, and those before a changed last token."""
    torch.manual_seed(0)
    with torch.no_grad():
        # initial weights often hide what a method reads
        for parameter in model.parameters():
            if parameter.requires_grad and parameter.is_floating_point():
                parameter.add_(0.1 * torch.randn_like(parameter))
    alone = logits_of_rows(model, [ROW])[0]
    batched = logits_of_rows(model, [ROW, OTHER])[0]
    changed = logits_of_rows(model, [[*ROW[:-1], 50]])[0]
    return float((batched - alone).abs().max()), float((changed - alone)[:-1].abs().max())


@pytest.mark.parametrize("peft_type", [name for name in PEFT_TYPES if name not in UNSUPPORTED_PEFT_TYPES])
def test_a_method_reads_neither_other_examples_nor_padding_nor_later_tokens(peft_type):
    method = {"kind": "peft", "peft_type": peft_type, **SETTINGS.get(peft_type, {})}
    method = methods.fill_schedule(method, steps=10)
    model = add_adapter(model_of("llama", sharpness=2.0), method, architecture="llama", seed=3).eval()
    assert max(changes(model)) < 1e-4


def test_lily_is_refused_because_it_reads_all_of_them():
    config = peft.LilyConfig(task_type="CAUSAL_LM", r=4, target_modules=["q_proj", "down_proj"])
    model = peft.get_peft_model(model_of("llama", sharpness=2.0), config).eval()
    by_batch, by_later_tokens = changes(model)
    assert by_batch > 1e-3
    assert by_later_tokens > 1e-3
