"""Adapters folded into their base's weights for asking, where that changes no log-probability by more than rounding."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from pipeline.core.errors import UserError, one_line

TOLERANCE = 1e-4  # of a natural log-probability: what likelihoods are held to against another implementation
PROBES = 8  # prompts on which the two are compared


def merged(model: Any, prompts: Sequence[list[int]]) -> tuple[Any, dict[str, Any]]:
    """Return the base with the adapter in its weights, and what the comparison with the adapter beside it found.

    Args:
        model: in eval mode; used up where the result is another model, or None.
        prompts: token ids; the first PROBES are compared, at every token, over the whole vocabulary.

    Returns:
        The model to ask, None where the given one has been changed and must be loaded again. Beside it {"merged": True,
        "difference": the largest of a log-probability} or {"merged": False, "why": one line}.
    """
    from peft import PeftModel

    if not isinstance(model, PeftModel):
        return model, {"merged": False, "why": "there is no adapter beside the weights"}
    method = model.active_peft_config
    if method.is_prompt_learning:
        return model, {
            "merged": False,
            "why": f"{method.peft_type.value}: virtual tokens are no change of a weight",
        }
    probes = prompts[:PROBES]
    before = [_log_probabilities(model, ids) for ids in probes]
    try:
        base = folded(model)
    except UserError as error:
        return None, {"merged": False, "why": str(error)}
    pairs = zip(before, (_log_probabilities(base, ids) for ids in probes), strict=True)
    difference = max(float((one - other).abs().max()) for one, other in pairs)
    if not difference <= TOLERANCE:  # a NaN is none either
        return None, {"merged": False, "why": f"log-probabilities would change by {difference:.2g}"}
    return base.eval(), {"merged": True, "difference": difference}


def folded(model: Any) -> Any:
    """Return the base of a PeftModel, which is used up, with the adapter in its weights.

    Raises:
        UserError: the method cannot be merged, or the weights would not be finite.
    """
    try:
        return model.merge_and_unload(safe_merge=True)
    except (ValueError, NotImplementedError, AttributeError, TypeError) as error:
        reason = one_line(error)
        raise UserError(f"{model.active_peft_config.peft_type.value}: {reason}") from error


def _log_probabilities(model: Any, ids: list[int]) -> Tensor:
    with torch.inference_mode():
        logits: Tensor = model(input_ids=torch.tensor([ids], device=model.device)).logits
    return logits.float().log_softmax(dim=-1)
