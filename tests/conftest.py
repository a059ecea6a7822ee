"""Fixtures that all suites share."""

from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def shared() -> Path:
    """Directory of real data and reference values beside the checkout; tests that need it skip where it is absent."""
    directory = ROOT.parent / "shared"
    if not (directory / "golden").is_dir():
        pytest.skip("skipped: ../shared (real data and reference values) is not there")
    return directory
