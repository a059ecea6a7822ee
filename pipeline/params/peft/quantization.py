"""What works on a quantized base, and the package that it needs. Imports no torch, for checks before the DAG.

bitsandbytes stores the weights of the linear modules in 4 bits (nf4, arXiv:2305.14314) or 8 bits (int8, arXiv:2208.07339). A
method that computes with the base's weight itself, and not with the output of its module, needs code for such weights.
tests/integration/test_quantized_methods.py trains every method on both, compares each with the same adapter beside the
dequantized weights, and so checks the tables here.
"""

from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any

from pipeline.core.errors import UserError
from pipeline.params.base import Quantization
from pipeline.params.peft.values import TAKEN_FROM_THE_BASE

INSTALL = "pip install -c constraints.txt -e '.[quantization]'"

# peft_type -> the quantizations that the installed peft fails on. Some run: on int8, DEFT, HRA and PEANUT take the codes for
# weights, and UNILORA changes nothing.
FAILING_TYPES: dict[str, tuple[Quantization, ...]] = {
    **dict.fromkeys(
        (
            *("ADAMSS", "DEFT", "DELORA", "FROD", "GLORA", "HRA", "OSF", "PEANUT", "PSOFT"),
            *("SUPERTUNING", "TINYLORA", "UNILORA"),
        ),
        ("nf4", "int8"),
    ),
    **dict.fromkeys(("LOHA", "LOKR"), ("nf4",)),
}
# values of LoRA's init_lora_weights that read or change the base's weights
FAILING_INITS = (*TAKEN_FROM_THE_BASE, "orthogonal", "mica")


def require_bitsandbytes(where: str) -> None:
    """Refuse to load a quantized base without bitsandbytes.

    Args:
        where: the study's file or the directory of the base, for the message.

    Raises:
        UserError: with the command that installs it.
    """
    if find_spec("bitsandbytes") is None:
        raise UserError(
            f"{where}: training: quantization: needs the package bitsandbytes, which is missing; run: {INSTALL}"
        )


def check_quantization(
    method: Mapping[str, Any], quantization: Quantization, *, linear_modules: tuple[str, ...]
) -> None:
    """Refuse a method that does not work on a quantized base.

    Args:
        method: the resolved fields of the method.
        quantization: of the base.
        linear_modules: the names of the architecture's linear modules.

    Raises:
        UserError: with the setting and the fix.
    """
    subject = f"quantization: {quantization} does not work with"
    fix = "choose another method, or set training: {quantization: null} for this one"
    if method["kind"] == "full":
        raise UserError(f"{subject} kind: full, which trains the weights themselves; {fix}")
    peft_type = method.get("peft_type", "")
    if quantization in FAILING_TYPES.get(peft_type, ()):
        raise UserError(f"{subject} {peft_type}, whose code in peft needs the unquantized weights; {fix}")
    rule = str(method.get("init_lora_weights"))
    if rule.startswith(FAILING_INITS):
        raise UserError(
            f"{subject} init_lora_weights: {rule}, which needs the unquantized weights; leave init_lora_weights out, "
            "or set it to eva or gaussian"
        )
    if quantization == "int8" and method.get("use_dora"):
        raise UserError(f"{subject} use_dora: true, which fails in peft; use nf4, or leave use_dora out")
    quantized = [
        name for name in method.get("modules_to_save") or () if name.rpartition(".")[2] in linear_modules
    ]
    if quantized:
        raise UserError(
            f"{subject} modules_to_save: {quantized[0]}, since quantized weights have no gradients; make it a target module, "
            "or leave it out"
        )
