"""Fixtures that all suites share."""

from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
TESTS = ROOT / "tests"

# What `make test` leaves out, by path below tests/; single tests elsewhere carry the marker themselves.
SLOW = (
    *("chaos/", "browser/", "e2e/"),
    *("integration/test_adapters_distributed.py", "integration/test_adapters_transformers.py"),
    *("integration/test_generate.py", "integration/test_likelihood_lm_eval.py", "integration/test_matrix.py"),
    *("integration/test_methods_training.py", "integration/test_peft_types.py"),
)
QUICK = ("e2e/test_behaviours.py",)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the slow suites."""
    for item in items:
        path = item.path.relative_to(TESTS).as_posix()
        if path.startswith(SLOW) and path not in QUICK:
            item.add_marker(pytest.mark.slow)


@pytest.fixture(scope="session")
def shared() -> Path:
    """Directory of real data and reference values beside the checkout; tests that need it skip where it is absent."""
    directory = ROOT.parent / "shared"
    if not (directory / "golden").is_dir():
        pytest.skip("skipped: ../shared (real data and reference values) is not there")
    return directory
