"""The description of a processor tells machines apart whose sums differ in the last digits."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.core.errors import UserError
from pipeline.core.hardware import processor

ROOT = Path(__file__).parents[3]

INTEL = """processor	: 0
vendor_id	: GenuineIntel
cpu family	: 6
model		: 143
model name	: Intel(R) Xeon(R) Processor
flags		: fpu avx avx2 avx512f avx512_bf16 amx_tile

processor	: 1
vendor_id	: GenuineIntel
cpu family	: 6
model		: 207
model name	: other
"""
GRAVITON = """processor	: 0
BogoMIPS	: 2100.00
Features	: fp asimd sve
CPU implementer	: 0x41
CPU architecture: 8
CPU part	: 0xd40
"""


@pytest.mark.parametrize(
    ("text", "description"),
    [
        (
            INTEL,
            "Intel(R) Xeon(R) Processor, family 6, model 143, avx2, avx512f, avx512_bf16, amx_tile",
        ),
        (GRAVITON, "implementer 0x41, part 0xd40, asimd, sve"),
        ("", ""),
    ],
)
def test_a_processor_has_its_model_and_vector_instructions(text, description):
    assert processor.describe_cpuinfo(text) == description


def test_without_cpuinfo_the_brand_is_the_description(monkeypatch):
    def no_file(self):
        raise FileNotFoundError(self)

    def run(command, **options):
        assert command[0] == "sysctl"
        return subprocess.CompletedProcess(command, 0, "Apple M3\n", "")

    monkeypatch.setattr(Path, "read_text", no_file)
    monkeypatch.setattr(subprocess, "run", run)
    assert processor.describe_processor.__wrapped__() == "Apple M3"


def test_without_cpuinfo_and_sysctl_the_description_is_never_empty(monkeypatch):
    def no_file(*arguments, **options):
        raise FileNotFoundError

    monkeypatch.setattr(Path, "read_text", no_file)
    monkeypatch.setattr(subprocess, "run", no_file)
    assert processor.describe_processor.__wrapped__()


AMD = INTEL.replace("GenuineIntel", "AuthenticAMD").replace("Intel(R) Xeon(R) Processor", "AMD EPYC")
OLD = INTEL.replace("avx2 ", "")


@pytest.mark.parametrize(("cpuinfo", "name"), [(AMD, "AMD EPYC"), (OLD, "Xeon"), (None, "")])
def test_portable_kernels_are_refused_where_they_are_not_portable(tmp_path, monkeypatch, cpuinfo, name):
    path = tmp_path / "cpuinfo"
    if cpuinfo:
        path.write_text(cpuinfo)
    monkeypatch.setattr(processor, "CPUINFO", path)
    monkeypatch.setattr(processor, "describe_processor", processor.describe_processor.__wrapped__)
    for option in ("--config", "--machine"):
        message = f"^{option} portable=true: needs Linux on an Intel .*{name}.*; leave it out"
        with pytest.raises(UserError, match=message):
            processor.limit_kernels(option)


def run_limited(tmp_path: Path, code: str, **environment: str) -> str:
    """Run Python code after ``limit_kernels`` in a process that has not loaded torch; return its output."""
    (tmp_path / "cpuinfo").write_text(INTEL)
    start = f"from pathlib import Path; from pipeline.core.hardware import processor; processor.CPUINFO = Path({str(tmp_path / 'cpuinfo')!r})"
    command = [sys.executable, "-c", f"{start}\n{code}"]
    variables = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
    return subprocess.run(command, capture_output=True, text=True, env=variables, check=True).stdout.strip()


def has_avx512() -> bool:
    return "avx512f" in processor.describe_processor()


def test_torch_that_is_loaded_afterwards_uses_portable_kernels(tmp_path):
    code = "processor.limit_kernels('--config'); import torch; print(torch.backends.cpu.get_cpu_capability())"
    assert run_limited(tmp_path, code) == "AVX2"
    code = "processor.limit_kernels('--config'); import os; print(os.environ['MKL_CBWR'])"
    assert run_limited(tmp_path, code, MKL_CBWR="AUTO") == "AVX2,STRICT"


@pytest.mark.skipif(not has_avx512(), reason="torch chooses AVX2 on this processor anyway")
def test_torch_that_has_chosen_its_kernels_is_refused(tmp_path):
    code = """
import torch
torch.ones(8).sum()
try:
    processor.limit_kernels('--machine')
except processor.UserError as error:
    print(error)
"""
    assert "--machine portable=true: torch has chosen its kernels without it" in run_limited(tmp_path, code)
