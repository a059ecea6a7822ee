"""The description of a processor tells machines apart whose sums differ in the last digits."""

import subprocess
from pathlib import Path

import pytest

from pipeline.core import processor

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
