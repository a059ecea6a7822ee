"""Tasks that cannot be evaluated end in one line that names the cause, never in a silent zero."""

import json
import shutil
from pathlib import Path

import pytest
import yaml

LORA = "small-llama/lora/world-math/seed0"
NUMBER = {"instruction": "What is 2 + {n}?", "input": "", "output": "The answer is {n}.", "answer": "{n}"}
PIQA = {
    "instruction": "How {n}?\n\nSolution1: so\n\nSolution2: no\n\nAnswer format: solution1/solution2",
    "input": "",
    "output": "the correct answer is solution1",
    "answer": "solution1",
}


def dataset(checkout, rows: list[dict], *, form: str) -> str:
    """Add a dataset from a local file and evaluate the existing adapters on it; return the option for its folder."""
    folder = checkout.folder / "local"
    folder.mkdir(exist_ok=True)
    (folder / "mine.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    split = {"rows": None, "sources": [{"kind": "local", "path": "mine.jsonl"}]}
    card = {"name": "mine", "title": "Mine", "answer_form": form, "splits": {"test": split, "train": split}}
    (checkout.folder / "params/datasets/mine.yaml").write_text(
        yaml.safe_dump({**card, "licence": "mine", "citation": "nowhere"})
    )
    checkout.edit("params/study/small.yaml", "tasks: [world-addsub]", "tasks: [mine]")
    return f"data_root={folder}"


def protocol(checkout, name: str, **changed: object) -> None:
    """Evaluate the small study under a protocol whose card is changed."""
    path = checkout.folder / f"params/protocols/{name}.yaml"
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | changed))
    checkout.edit("params/study/small.yaml", "protocols: [strict]", f"protocols: [{name}]")


def rows(row: dict, count: int = 6, **changed: str) -> list[dict]:
    filled = [{key: value.format(n=n) for key, value in row.items()} for n in range(count)]
    return [*filled[:-1], {**filled[-1], **changed}]


def refusal(checkout, *options: str) -> str:
    """Run the study, which fails; return its error line."""
    printed = checkout.run("snakemake", "--cores", "2", "--config", *options, ok=False)
    assert "Traceback (most recent call last)" not in printed
    (line,) = {line for line in printed.splitlines() if line.startswith("error:")}
    return line


def unscored(checkout) -> bool:
    """Return whether no run has a score on the dataset."""
    scores = Path(checkout.folder, "results/scores").rglob("*.json")
    return not any("mine" in path.read_text() for path in scores)


@pytest.mark.parametrize(
    ("form", "examples", "expected"),
    [
        ("number", [], ["mine.jsonl", "contains no rows"]),
        ("number", rows(NUMBER, answer="seven"), ["mine", "row 5", "'seven'"]),
        ("number", rows(NUMBER, answer="1e999"), ["mine", "row 5", "1e999"]),
        ("solution", rows(PIQA, answer="solution3"), ["mine", "row 5", "'solution3'"]),
        ("letter", rows(NUMBER, answer="B"), ["mine", "row"]),
    ],
)
def test_a_test_set_that_cannot_be_scored_is_refused(checkout, form, examples, expected):
    line = refusal(checkout, dataset(checkout, examples, form=form))
    assert all(part in line for part in expected), line
    assert unscored(checkout)


def test_choices_without_words_are_refused_under_a_likelihood_protocol(checkout):
    without = {**PIQA, "instruction": "How {n}? Answer format: solution1/solution2"}
    protocol(checkout, "likelihood-text")
    line = refusal(checkout, dataset(checkout, rows(without), form="solution"))
    assert "mine/test/0: the instruction states no words for solution1/solution2" in line
    assert unscored(checkout)


def test_more_worked_examples_than_examples_is_refused(checkout):
    protocol(checkout, "strict", shots=6)
    line = refusal(checkout, dataset(checkout, rows(NUMBER), form="number"))
    assert "5 examples other than mine/test/" in line
    assert "fewer than the 6 shots" in line


def test_no_question_is_its_own_worked_example(checkout):
    import pyarrow.parquet as pq

    protocol(checkout, "strict", shots=5)
    checkout.snakemake("--config", dataset(checkout, rows(NUMBER), form="number"), "--until", "prompts")
    files = (checkout.folder / "data/prompts/mine").glob("test-*.parquet")
    made = [row for path in files for row in pq.read_table(path).to_pylist() if row["prompt"]]
    shown = [row for row in made if row["prompt"].count("### Instruction:") == 6]
    assert len(shown) == 6
    assert all(row["prompt"].count(row["instruction"]) == 1 for row in shown)


def test_an_adapter_of_another_base_is_not_evaluated(checkout):
    (adapter,) = (checkout.folder / "results/adapters" / LORA).iterdir()
    manifest = json.loads((adapter / "manifest.json").read_text())
    manifest["inputs"]["base"] = "0123456789ab"
    (adapter / "manifest.json").write_text(json.dumps(manifest))
    for made in (f"results/answers/{LORA}", f"results/scores/{LORA}", "reports/small"):
        shutil.rmtree(checkout.folder / made)
    line = refusal(checkout, "study=small")
    assert str(adapter.relative_to(checkout.folder)) in line
    assert "changed since" in line
    shutil.rmtree(checkout.folder / "results/records/train" / LORA)
    # even with a record of its own, the adapter belongs to another base
    checkout.run("python", "-m", "pipeline", "verify", "--adopt", str(adapter.relative_to(checkout.folder)))
    line = refusal(checkout, "study=small")
    assert "was trained on the base 0123456789ab, not on " in line
