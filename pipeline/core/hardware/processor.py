"""The processor's model and vector instructions: what decides the kernels of a CPU, and so the last digits of its sums."""

import os
import platform
import subprocess
import sys
from functools import cache
from pathlib import Path

from pipeline.core.errors import UserError

# the vector instructions that kernels are chosen by, as Linux names them
VECTORS = ("avx2", "avx512f", "avx512_bf16", "amx_tile", "asimd", "sve")
SYSCTL_TIMEOUT_S = 5
CPUINFO = Path("/proc/cpuinfo")
# What limits the libraries of torch to kernels that each Intel processor with AVX2 has, and chooses in the same way. They read
# it when they run their first kernel. MKL: https://www.intel.com/content/www/us/en/docs/onemkl/developer-guide-linux/2024-2/obtaining-numerically-reproducible-results.html
PORTABLE = {"MKL_CBWR": "AVX2,STRICT", "ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2"}


@cache
def describe_processor() -> str:
    """Return the processor of this machine, as in "Intel(R) Xeon(R) Processor, family 6, model 207, avx2, avx512f"."""
    try:
        description = describe_cpuinfo(CPUINFO.read_text())
    except OSError:
        # macOS has no such file
        description = _read_brand()
    return description or platform.processor() or platform.machine()


def describe_cpuinfo(text: str) -> str:
    """Describe the first processor in the text of Linux' /proc/cpuinfo; empty: it names no model.

    Virtual machines often hide the product's name, so family and model follow it.
    """
    fields = _parse_cpuinfo(text)
    # Arm's kernels name the implementer and part in numbers, and no model
    names = [fields.get("model name", "")]
    names += [f"implementer {fields['CPU implementer']}"] if "CPU implementer" in fields else []
    names += [
        f"{label} {fields[key]}"
        for key, label in (("cpu family", "family"), ("model", "model"), ("CPU part", "part"))
        if key in fields
    ]
    flags = fields.get("flags", fields.get("Features", "")).split()
    names += [name for name in VECTORS if name in flags]
    return ", ".join(name for name in names if name)


def _parse_cpuinfo(text: str) -> dict[str, str]:
    """Return the fields of the first processor in the text of Linux' /proc/cpuinfo."""
    fields: dict[str, str] = {}
    for line in text.strip().split("\n\n")[0].splitlines():
        key, _, value = line.partition(":")
        fields[key.strip()] = value.strip()
    return fields


def has_portable_kernels() -> bool:
    """Return whether this is Linux on an Intel processor with AVX2, to whose kernels ``limit_kernels`` limits torch."""
    try:
        fields = _parse_cpuinfo(CPUINFO.read_text())
    except OSError:
        return False
    return fields.get("vendor_id") == "GenuineIntel" and "avx2" in fields.get("flags", "").split()


def limit_kernels(option: str) -> None:
    """Limit this process, and those that it starts, to the kernels that each Intel processor with AVX2 has.

    Args:
        option: that the user chose them by, such as "--config".

    Raises:
        UserError: this processor does not have them, or torch has chosen others.
    """
    if not has_portable_kernels():
        raise UserError(
            f"{option} portable=true: needs Linux on an Intel processor with AVX2, and this is {describe_processor()}; "
            "leave it out"
        )
    os.environ.update(PORTABLE)
    if "torch" in sys.modules and sys.modules["torch"].backends.cpu.get_cpu_capability() != "AVX2":
        raise UserError(
            f"{option} portable=true: torch has chosen its kernels without it; run this job in a process of its own"
        )


def _read_brand() -> str:
    command = ["sysctl", "-n", "machdep.cpu.brand_string"]
    try:
        process = subprocess.run(
            command, capture_output=True, text=True, timeout=SYSCTL_TIMEOUT_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return process.stdout.strip()
