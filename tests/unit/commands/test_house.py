"""The picture of the rooms in docs/architecture.md comes from the imports of the code."""

import pytest

from pipeline.commands.maintain.house import (
    architecture_page,
    direct_arrows,
    draw_rooms,
    room_floors,
    room_imports,
)
from pipeline.params.reading import ROOT

IMPORTS = {"top": {"middle", "bottom"}, "middle": {"bottom"}, "bottom": set()}


def test_a_room_lies_above_the_rooms_that_it_imports():
    assert room_floors(IMPORTS) == {"top": 3, "middle": 2, "bottom": 1}


def test_arrows_that_follow_from_others_are_left_out():
    assert direct_arrows("top", IMPORTS) == {"middle"}


@pytest.fixture
def package(tmp_path):
    folder = tmp_path / "house"
    for name, code in {
        "__init__.py": "",
        "low/__init__.py": '"""The lowest room. It imports nothing."""',
        "high/__init__.py": '"""The highest room."""',
        "high/one.py": "def late():\n    from house.low import thing\n    return thing",
    }.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(code)
    return folder


def test_an_import_inside_a_function_counts(package):
    assert room_imports(package) == {"high": {"low"}, "low": set()}


def test_the_drawing_has_every_room_with_its_purpose(package):
    text = draw_rooms(package)
    assert "  high --> low" in text
    assert "| 2 | `high` | 2 | The highest room. |" in text
    assert "| 1 | `low` | 1 | The lowest room. |" in text


def test_the_house_keeps_its_size():
    imports = room_imports(ROOT / "pipeline")
    assert len(imports) <= 12
    assert max(room_floors(imports).values()) <= 8


def test_no_folder_has_more_than_twelve_files():
    folders = [path.parent for path in (ROOT / "pipeline").rglob("__init__.py")]
    counts = {
        folder.name: sum(path.name != "__init__.py" for path in folder.glob("*.py")) for folder in folders
    }
    assert {name: count for name, count in counts.items() if count > 12} == {}


def test_the_page_keeps_its_own_text():
    page = architecture_page()
    assert page.startswith("# Architecture")
    assert "## Start-up" in page
