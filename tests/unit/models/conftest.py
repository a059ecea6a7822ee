"""A tiny base on disk, for the tests of where models lie."""

import pytest

from tests.tiny import save_base


@pytest.fixture(scope="session")
def saved(tmp_path_factory):
    """The folder of a tiny LLaMA; tests copy it before they change a file."""
    folder = tmp_path_factory.mktemp("saved") / "tiny"
    save_base("llama", folder)
    return folder
