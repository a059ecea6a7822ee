"""Several trained adapters of one base as one adapter.

LoRA adapters are combined by peft's ``add_weighted_adapter``, bottleneck adapters here:

- sum: the detours of all members have the same input, and their outputs are added. A single adapter whose bottleneck holds
  those of the members side by side computes this exactly, since the activation works on each of its units by itself.
- stack: each member reads the output of the one before it, so the order of the members counts.

Sources:
    Ilharco et al. 2023, arXiv:2212.04089 (task arithmetic: linear, cat, svd)
    Yadav et al. 2023, arXiv:2306.01708 (ties); Yu et al. 2024, arXiv:2311.03099 (dare)
    Pfeiffer et al. 2020, arXiv:2005.00052 (stacked adapters); Pfeiffer et al. 2021, arXiv:2005.00247 (several adapters with one
    input, there with learned weights)
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel, get_peft_model, load_peft_weights, set_peft_model_state_dict
from torch import Tensor

from pipeline.adapters import BottleneckConfig, sort_names
from pipeline.core.errors import UserError, one_line
from pipeline.core.hardware.accelerators import fork_generators

# the name of an adapter that peft saves into the folder itself
DEFAULT = "default"
# fields of a combination that add_weighted_adapter has under the same names
_PEFT_FIELDS = ("combination_type", "density", "majority_sign_method", "svd_rank")


def combine_adapters(base: Any, members: Sequence[Path], combination: Mapping[str, Any], *, seed: int) -> Any:
    """Return a base with the combination of adapters, as a PeftModel.

    Args:
        base: a causal language model of transformers. Only the shapes of its weights are read.
        members: directories of the adapters; all LoRA, or all bottleneck adapters.
        combination: ``combination_type``, ``weights`` (a factor for each member) and what the type needs besides.
        seed: of the random choices of dare. The global random generators are left as they were.

    Raises:
        UserError: peft cannot combine the adapters in this way.
    """
    try:
        if combination["combination_type"] in ("sum", "stack"):
            return _combine_bottlenecks(base, members, combination)
        with fork_generators([]):
            torch.manual_seed(seed)
            return _combine_lora(base, members, combination)
    except (ValueError, RuntimeError, KeyError) as error:
        raise UserError(
            f"combination_type: {combination['combination_type']} does not fit {', '.join(map(str, members))}: {one_line(error)}"
        ) from error


def _combine_lora(base: Any, members: Sequence[Path], combination: Mapping[str, Any]) -> PeftModel:
    names = [f"member-{number}" for number in range(1, len(members) + 1)]
    model = PeftModel.from_pretrained(base, str(members[0]), adapter_name=names[0], torch_device="cpu")
    for name, path in zip(names[1:], members[1:], strict=True):
        model.load_adapter(str(path), adapter_name=name, torch_device="cpu")
    for name in names:
        # The combination gets the first member's config, and its weights are not drawn.
        rules = {"init_lora_weights": True, "eva_config": None, "corda_config": None, "lora_ga_config": None}
        model.peft_config[name].__dict__.update(rules)
    settings = {field: combination[field] for field in _PEFT_FIELDS if field in combination}
    # the reduced decomposition has the same leading vectors, in a fraction of the time and memory
    model.add_weighted_adapter(
        names, list(combination["weights"]), DEFAULT, svd_full_matrices=False, **settings
    )
    model.set_adapter(DEFAULT)
    for name in names:
        model.delete_adapter(name)
    config = model.peft_config[DEFAULT]
    # peft takes the members' scales into the weights and sets lora_alpha to the rank. With use_rslora it would then scale them by
    # the square root of the rank once more.
    config.use_rslora = False
    sort_names(config)
    return model


def _combine_bottlenecks(base: Any, members: Sequence[Path], combination: Mapping[str, Any]) -> PeftModel:
    configs = [BottleneckConfig.from_pretrained(str(path)) for path in members]
    weights = [load_peft_weights(str(path), device="cpu") for path in members]
    factors = combination["weights"]
    sizes = [config.bottleneck_size for config in configs]
    config = replace(
        configs[0],
        bottleneck_size=sum(sizes),
        # in the weights of the combination
        scaling=1.0,
        adapter_dropout=0.0,
        stack_sizes=sizes if combination["combination_type"] == "stack" else None,
    )
    tensors: dict[str, Tensor] = {}
    for key in weights[0]:
        parts = [member[key] for member in weights if key in member]
        if "bottleneck_down" in key:
            tensors[key] = torch.cat(parts, dim=0)
        elif "bottleneck_up" in key:
            scales = [
                factor * _find_scale(member, key, own)
                for factor, member, own in zip(factors, weights, configs, strict=True)
            ]
            tensors[key] = torch.cat([scale * part for scale, part in zip(scales, parts, strict=True)], dim=1)
    model = get_peft_model(base, config)
    set_peft_model_state_dict(model, tensors)
    config.inference_mode = True
    return model


def _find_scale(weights: Mapping[str, Tensor], up: str, config: BottleneckConfig) -> float | Tensor:
    """Return the scale of a member's detour: a number of its config, or a trained one of its weights."""
    if config.scaling != "learned":
        return float(config.scaling)
    return weights[up.replace("bottleneck_up.weight", "bottleneck_scaling")]
