"""Fixtures of the tests of results."""

from collections.abc import Callable

import pytest

from pipeline.core.hardware import processor


@pytest.fixture
def this_processor(tmp_path, monkeypatch) -> Callable[[bool], None]:
    """Return a function that makes this a processor "this, avx2", with or without portable kernels."""
    cpuinfo = tmp_path / "cpuinfo"
    monkeypatch.setattr(processor, "CPUINFO", cpuinfo)
    monkeypatch.setattr(
        "pipeline.results.reproduction.recorded_machine.describe_processor", lambda: "this, avx2"
    )

    def pretend(has_kernels: bool) -> None:
        maker = "GenuineIntel" if has_kernels else "AuthenticAMD"
        cpuinfo.write_text(f"vendor_id : {maker}\nflags : avx2\n")

    return pretend
