"""Merge an adapter into its base's weights before evaluation, where that changes nothing but rounding.

A merged model computes the adapter's change once, in the weights, and not for each token, so it is faster. In exact
arithmetic the answers are the same. In floating point they may differ, since the sums are taken in another order and
the merged weights are rounded to the base's dtype. So the merged model is compared with the adapter beside the base on
a few prompts of the task: at every token, the log-probabilities of the whole vocabulary. If the largest difference
exceeds ``TOLERANCE``, the adapter stays beside the base, as it does where its method cannot be merged (bottleneck
adapters are not linear, virtual tokens are not a change of a weight). run.json and the log say what was done and why.
The option enters the answers' fingerprints, since texts may still change where two tokens are almost equally likely.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from pipeline.core.errors import UserError, one_line
from pipeline.evaluate.generation.rows import MergeOutcome

# largest change of a natural log-probability: what likelihoods are compared with lm-evaluation-harness to
TOLERANCE = 1e-4
# prompts that are compared
PROBES = 8


def merge_adapter(model: Any, prompts: Sequence[list[int]]) -> tuple[Any, MergeOutcome]:
    """Return the base with the adapter in its weights, and the outcome.

    Args:
        model: in eval mode; it is used up unless it is returned.
        prompts: token ids; the first PROBES are compared.

    Returns:
        The model to evaluate; None where merging was tried and undone, so that the model must be loaded again.
    """
    from peft import PeftModel

    if not isinstance(model, PeftModel):
        return model, {"merged": False, "why": "there is no adapter beside the weights"}
    method = model.active_peft_config
    if method.is_prompt_learning:
        reason = f"{method.peft_type.value}: virtual tokens are not a change of a weight"
        return model, {"merged": False, "why": reason}
    probes = prompts[:PROBES]
    before = [_log_probabilities(model, ids) for ids in probes]
    try:
        base = fold_adapter(model)
    except UserError as error:
        return None, {"merged": False, "why": str(error)}
    after = (_log_probabilities(base, ids) for ids in probes)
    difference = max(float((a - b).abs().max()) for a, b in zip(before, after, strict=True))
    # written so that a NaN fails too
    if not difference <= TOLERANCE:
        return None, {"merged": False, "why": f"log-probabilities would change by {difference:.2g}"}
    return base.eval(), {"merged": True, "difference": difference}


def fold_adapter(model: Any) -> Any:
    """Return the base of a PeftModel, which is used up, with the adapter added to its weights.

    Raises:
        UserError: the method cannot be merged, or the weights would not be finite.
    """
    try:
        return model.merge_and_unload(safe_merge=True)
    except (ValueError, NotImplementedError, AttributeError, TypeError) as error:
        raise UserError(f"{model.active_peft_config.peft_type.value}: {one_line(error)}") from error


def _log_probabilities(model: Any, ids: list[int]) -> Tensor:
    """Return (1, tokens, vocabulary)."""
    with torch.inference_mode():
        logits: Tensor = model(input_ids=torch.tensor([ids], device=model.device)).logits
    return logits.float().log_softmax(dim=-1)
