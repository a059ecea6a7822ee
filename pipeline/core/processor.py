"""The processor's model and vector instructions: what decides the kernels of a CPU, and so the last digits of its sums."""

import platform
import subprocess
from functools import cache
from pathlib import Path

# the vector instructions that kernels are chosen by, as Linux names them
VECTORS = ("avx2", "avx512f", "avx512_bf16", "amx_tile", "asimd", "sve")
SYSCTL_TIMEOUT_S = 5


@cache
def describe_processor() -> str:
    """Return the processor of this machine, as in "Intel(R) Xeon(R) Processor, family 6, model 207, avx2, avx512f"."""
    try:
        description = describe_cpuinfo(Path("/proc/cpuinfo").read_text())
    except OSError:
        # macOS has no such file
        description = _read_brand()
    return description or platform.processor() or platform.machine()


def describe_cpuinfo(text: str) -> str:
    """Describe the first processor in the text of Linux' /proc/cpuinfo; empty: it names no model.

    Virtual machines often hide the product's name, so family and model follow it.
    """
    fields: dict[str, str] = {}
    for line in text.strip().split("\n\n")[0].splitlines():
        key, _, value = line.partition(":")
        fields[key.strip()] = value.strip()
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


def _read_brand() -> str:
    command = ["sysctl", "-n", "machdep.cpu.brand_string"]
    try:
        process = subprocess.run(
            command, capture_output=True, text=True, timeout=SYSCTL_TIMEOUT_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return process.stdout.strip()
