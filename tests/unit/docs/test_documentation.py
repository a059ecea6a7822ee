"""README and docs/: links that resolve, pages that are listed, examples that work and a picture that is current."""

import itertools
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from pipeline.commands.app import COMMANDS
from pipeline.study import load_study
from pipeline.study.stages import STAGES
from tests.conftest import ROOT

PAGES = sorted(
    [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), ROOT / "data/README.md"],
    key=lambda page: page.as_posix(),
)
NAMES = [page.relative_to(ROOT).as_posix() for page in PAGES]
# written from code and cards, or by many hands as a list
GENERATED = (
    "docs/params.md",
    "docs/support-matrix.md",
    "docs/deviations.md",
    "data/README.md",
    "CHANGELOG.md",
)
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")


def prose(text: str) -> str:
    """Return a page's text without its blocks and spans of code."""
    return re.sub(r"`[^`\n]*`", "", re.sub(r"^```.*?^```", "", text, flags=re.M | re.S))


def anchors(page: Path) -> set[str]:
    """Return the anchors that hosting sites give to a page's headings."""
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)
    found: dict[str, int] = {}
    names = set()
    for heading in re.findall(r"^#+ (.*)$", text, re.M):
        words = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).strip().lower()
        name = re.sub(r"[^\w\- ]", "", words).replace(" ", "-")
        names.add(f"{name}-{found[name]}" if name in found else name)
        found[name] = found.get(name, 0) + 1
    return names


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_every_link_leads_to_a_file_and_a_heading_of_the_project(page):
    broken = []
    for target in LINK.findall(prose(page.read_text(encoding="utf-8"))):
        if target.startswith(("http://", "https://", "mailto:")):
            continue
        name, _, anchor = target.partition("#")
        file = (page.parent / name).resolve() if name else page
        if not file.exists() or (anchor and anchor not in anchors(file)):
            broken.append(target)
    assert broken == []


def test_a_page_is_linked_to_not_just_named():
    named = {}
    for page, name in zip(PAGES, NAMES, strict=True):
        mentions = re.findall(r"\bdocs/[\w-]+\.md\b", LINK.sub("", prose(page.read_text(encoding="utf-8"))))
        if mentions and name not in GENERATED:
            named[name] = sorted(set(mentions))
    assert named == {}


def test_the_site_and_the_index_list_every_page():
    pages = {name.removeprefix("docs/") for name in NAMES if name.startswith("docs/")} - {"index.md"}
    assert set(LINK.findall((ROOT / "docs/index.md").read_text(encoding="utf-8"))) == pages
    navigation = (ROOT / "mkdocs.yml").read_text().partition("nav:\n")[2]
    assert set(re.findall(r"- (\S+\.md)$", navigation, re.M)) == {*pages, "index.md"}


def test_every_page_begins_with_its_purpose():
    texts = {name: (ROOT / name).read_text(encoding="utf-8") for name in NAMES if name.startswith("docs/")}
    assert [name for name, text in texts.items() if not re.match(r"# .+\n\nThis page ", text)] == []


def test_the_site_builds_without_a_warning(tmp_path):
    pytest.importorskip("mkdocs", reason="skipped: mkdocs is not installed: pip install '.[docs]'")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def readme_block(language: str) -> str:
    """Return the first block of code of a language in the README."""
    return re.search(
        rf"^```{language}\n(.*?)^```", (ROOT / "README.md").read_text(encoding="utf-8"), re.M | re.S
    )[1]


def test_the_study_of_the_readme_has_14_lines_and_passes_the_check(tmp_path):
    study = readme_block("yaml")
    assert len(study.splitlines()) == 14
    for folder in ("pipeline", "params"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "params/study/mine.yaml").write_text(study)
    command = [sys.executable, "-m", "pipeline", "check", "--study", "mine"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert "study 'mine' is well-formed: " in done.stdout, done.stdout + done.stderr
    assert "4 train" in done.stdout


def test_every_study_is_in_the_table_of_the_readme():
    table = (ROOT / "README.md").read_text(encoding="utf-8").partition("| study | what it compares")[2]
    rows = re.findall(r"^\| (`.*?) \|", table.partition("\n\n")[0], re.M)
    listed = {name for row in rows for name in re.findall(r"`([^`]+)`", row)}
    assert listed == {card.stem for card in (ROOT / "params/study").glob("*.yaml")}


def test_the_page_of_commands_names_every_command_of_users():
    page = (ROOT / "docs/commands.md").read_text(encoding="utf-8")
    # these are for Snakemake
    internal = {*STAGES, "generate-group", "warm"}
    commands = {name for group in COMMANDS.values() for name in group} - internal
    assert [name for name in commands if not re.search(rf"(`|pipeline ){name}(?![\w-])", page)] == []


def test_the_averages_of_the_readme_are_those_of_the_committed_default_study():
    shown = subprocess.run(
        ["git", "-C", ROOT, "show", "HEAD:results/accuracies.json"],
        capture_output=True,
        text=True,
        check=False,
    )
    committed = json.loads(shown.stdout) if shown.returncode == 0 else {"study": None}
    if committed["study"] != "quickstart":
        pytest.skip("skipped: the last git commit has no results/accuracies.json of the default study")
    assert readme_averages() == committed_averages(committed["accuracies"])


def readme_averages() -> dict[str, list[str]]:
    """Return the cells of the table of averages, by method."""
    section = (ROOT / "README.md").read_text(encoding="utf-8").partition("<!-- headline")[2]
    rows = re.findall(r"^\| (.*) \|$", section.partition("<!-- end of headline")[0], re.M)[1:]
    return {cells[0]: cells[1:] for cells in (row.split(" | ") for row in rows)}


def committed_averages(accuracies: dict[str, float]) -> dict[str, list[str]]:
    """Return what the cells should be, in percent: LLaMA, BLOOM and GPT-J, two arms each."""
    methods = {
        "no adapter": "bare",
        "Series": "series",
        "Parallel": "parallel",
        "LoRA": "lora",
        "Prefix": "prefix-tuning",
    }
    columns = itertools.product(("tiny-llama", "tiny-bloom", "tiny-gptj"), ("arithmetic", "commonsense"))
    places = list(columns)
    return {
        title: [f"{100 * accuracies[f'strict/{model}/{method}/average-{arm}']:.1f}" for model, arm in places]
        for title, method in methods.items()
    }


def test_the_table_of_averages_has_a_number_for_each_model_and_arm():
    averages = readme_averages()
    assert list(averages) == ["no adapter", "Series", "Parallel", "LoRA", "Prefix"]
    assert {len(cells) for cells in averages.values()} == {6}


def test_the_table_of_the_real_model_is_that_of_its_published_results():
    shown = (
        (ROOT / "README.md")
        .read_text(encoding="utf-8")
        .partition("### On a real model")[2]
        .partition("![")[0]
    )
    published = (ROOT / "docs/results/smollm2/README.md").read_text(encoding="utf-8").replace(" =", "")
    columns = ("strict", "second-stage", "likelihood-text")
    heads, _, *rows = [split_row(line) for line in published.splitlines() if line.startswith("| ")][:7]
    places = [
        next(place for place, head in enumerate(heads) if head.endswith(f", {name}")) for name in columns
    ]
    expected = [[row[0], *(row[place] for place in places)] for row in rows]
    assert [split_row(line) for line in shown.splitlines() if line.startswith("|")][2:] == expected


def split_row(line: str) -> list[str]:
    """Return the cells of a row of a Markdown table."""
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_the_picture_of_the_readme_has_the_arrows_of_the_default_study():
    arrows = set()
    for line in readme_block("mermaid").splitlines()[1:]:
        stages = line.strip().split(" --> ")
        arrows |= set(itertools.pairwise(stages))
    drawn, artifacts = set(), list(load_study("quickstart").named())
    for artifact in artifacts:
        drawn |= {(source.stage, artifact.stage) for source in artifact.inputs.values()}
    assert arrows == drawn


def test_the_glossaries_of_readme_and_contributing_have_the_same_words():
    words = re.findall(
        r"^\| (\w+) \| ", (ROOT / "README.md").read_text().partition("## Eight terms")[2], re.M
    )
    fixed = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    rows = [cell for row in re.findall(r"^\| ([\w, -]+) \| ", fixed, re.M) for cell in row.split(", ")]
    assert words[0] == "term"
    assert len(words) == 9
    assert [word for word in words[1:] if word not in rows] == []


def test_the_navigation_of_the_site_has_the_groups_of_the_index():
    groups = re.findall(r"^## (.*)$", (ROOT / "docs/index.md").read_text(encoding="utf-8"), re.M)
    site = (ROOT / "mkdocs.yml").read_text().partition("nav:\n")[2]
    assert [next(iter(part)) for part in yaml.safe_load(site)[1:]] == groups
