"""What is written from code and cards is up to date, and one command makes it so."""

import json
import shutil

from pipeline import regenerate
from pipeline.params import CARDS
from tests.conftest import ROOT


def test_nothing_that_is_generated_is_stale():
    assert regenerate.stale() == [], "run: python -m pipeline regenerate"


def test_a_stale_file_is_found_and_written(tmp_path, monkeypatch):
    shutil.copytree(ROOT / "params", tmp_path / "params", ignore=shutil.ignore_patterns("schema"))
    old = (ROOT / "dvc.yaml").read_text().replace("      - params/study/quickstart.yaml:\n", "")
    (tmp_path / "dvc.yaml").write_text(old)
    monkeypatch.setattr(regenerate, "ROOT", tmp_path)
    names = regenerate.regenerate(matrix=False)
    assert set(names) == set(regenerate.pages())
    (tmp_path / regenerate.PARAMS_PAGE).write_text("old")
    assert regenerate.stale() == [regenerate.PARAMS_PAGE]
    assert regenerate.regenerate(matrix=False) == [regenerate.PARAMS_PAGE]
    assert regenerate.stale() == []


def test_every_kind_of_card_has_its_schema_and_its_section():
    page = (ROOT / regenerate.PARAMS_PAGE).read_text()
    for kind in CARDS:
        assert json.loads((ROOT / f"params/schema/{kind}.json").read_text())
        assert f"params/{kind}/NAME.yaml" in page


def test_the_page_says_type_bound_default_and_meaning():
    page = (ROOT / regenerate.PARAMS_PAGE).read_text()
    assert "| `batch_size` | integer > 0 | `16` | examples an optimizer step |" in page
    assert '| `lr_scheduler` | `linear`, `cosine`, `constant` | `"linear"` |' in page
