"""A dataset, protocol or adapter that cannot be evaluated is an error in one line, never a silent accuracy of zero."""

import json
import shutil
from pathlib import Path

import pytest
import yaml

from tests.e2e.conftest import find_errors

LORA = "small-llama/lora/world-math/seed0"
NUMBER = {"instruction": "What is 2 + {n}?", "input": "", "output": "The answer is {n}.", "answer": "{n}"}
PIQA = {
    "instruction": "How {n}?\n\nSolution1: so\n\nSolution2: no\n\nAnswer format: solution1/solution2",
    "input": "",
    "output": "the correct answer is solution1",
    "answer": "solution1",
}


def add_dataset(checkout, rows: list[dict], *, form: str) -> str:
    """Add a local dataset and make it the task of the small study; return the option with its folder."""
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


def edit_protocol(checkout, name: str, **changes: object) -> None:
    """Make an edited protocol of the project the only protocol of the small study."""
    path = checkout.folder / f"params/protocols/{name}.yaml"
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | changes))
    checkout.edit("params/study/small.yaml", "protocols: [strict]", f"protocols: [{name}]")


def make_rows(row: dict, count: int = 6, **last_row: str) -> list[dict]:
    """Return numbered rows; ``last_row`` replaces values of the last."""
    filled = [{key: value.format(n=n) for key, value in row.items()} for n in range(count)]
    return [*filled[:-1], {**filled[-1], **last_row}]


def run_refused(checkout, *options: str) -> str:
    """Run the study, which must fail; return its error line."""
    output = checkout.run("snakemake", "--cores", "2", "--config", *options, ok=False)
    assert "Traceback (most recent call last)" not in output
    (line,) = find_errors(output)
    return line


def has_scores(checkout) -> bool:
    """Return whether any run has scores of the dataset."""
    scores = Path(checkout.folder, "results/scores").rglob("*.json")
    return any("mine" in path.read_text() for path in scores)


@pytest.mark.parametrize(
    ("form", "rows", "parts"),
    [
        ("number", [], ["mine.jsonl", "contains no rows"]),
        ("number", make_rows(NUMBER, answer="seven"), ["mine", "row 5", "'seven'"]),
        ("number", make_rows(NUMBER, answer="1e999"), ["mine", "row 5", "1e999"]),
        ("solution", make_rows(PIQA, answer="solution3"), ["mine", "row 5", "'solution3'"]),
        ("letter", make_rows(NUMBER, answer="B"), ["mine", "row"]),
    ],
)
def test_a_test_set_without_valid_gold_labels_is_refused(checkout, form, rows, parts):
    line = run_refused(checkout, add_dataset(checkout, rows, form=form))
    assert all(part in line for part in parts), line
    assert not has_scores(checkout)


def test_options_without_words_are_refused_by_a_likelihood_protocol_that_scores_words(checkout):
    without_words = {**PIQA, "instruction": "How {n}? Answer format: solution1/solution2"}
    edit_protocol(checkout, "likelihood-text")
    line = run_refused(checkout, add_dataset(checkout, make_rows(without_words), form="solution"))
    assert "mine/test/0: the question states no words for solution1/solution2" in line
    assert not has_scores(checkout)


def test_more_shots_than_examples_are_refused(checkout):
    edit_protocol(checkout, "strict", shots=6)
    line = run_refused(checkout, add_dataset(checkout, make_rows(NUMBER), form="number"))
    assert "5 examples other than mine/test/" in line
    assert "fewer than the 6 shots" in line


def test_a_question_is_never_its_own_worked_example(checkout):
    import pyarrow.parquet as pq

    edit_protocol(checkout, "strict", shots=5)
    # add_dataset uses the same rows as training set and test set
    checkout.snakemake(
        "--config", add_dataset(checkout, make_rows(NUMBER), form="number"), "--until", "prompts"
    )
    files = (checkout.folder / "data/prompts/mine").glob("test-*.parquet")
    prompts = [row for path in files for row in pq.read_table(path).to_pylist() if row["prompt"]]
    with_shots = [row for row in prompts if row["prompt"].count("### Instruction:") == 6]
    assert len(with_shots) == 6
    assert all(row["prompt"].count(row["instruction"]) == 1 for row in with_shots)


def test_an_adapter_trained_on_another_base_is_not_evaluated(checkout):
    (adapter,) = (checkout.folder / "results/adapters" / LORA).iterdir()
    manifest = json.loads((adapter / "manifest.json").read_text())
    manifest["inputs"]["base"] = "0123456789ab"
    (adapter / "manifest.json").write_text(json.dumps(manifest))
    for folder in (f"results/answers/{LORA}", f"results/scores/{LORA}", "reports/small"):
        shutil.rmtree(checkout.folder / folder)
    line = run_refused(checkout, "study=small")
    assert str(adapter.relative_to(checkout.folder)) in line
    assert "damaged or changed" in line
    shutil.rmtree(checkout.folder / "results/records/train" / LORA)
    # with a new record the file counts as intact, but its base is still another
    checkout.run("python", "-m", "pipeline", "verify", "--adopt", str(adapter.relative_to(checkout.folder)))
    line = run_refused(checkout, "study=small")
    assert "was trained on the base 0123456789ab, not on " in line
