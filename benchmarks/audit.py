"""Time and memory of the contamination audit: the seven commonsense training sets against all sixteen tests.

``python -m benchmarks.audit --data-root DIR`` prints seconds for three numbers of rows, each measured in a new process.
"""

import argparse
import multiprocessing
import resource
import tempfile
import time
from pathlib import Path

from pipeline.audit import METHODS, write_audit
from pipeline.core.environment import peak_memory_gib
from pipeline.core.io import read_json
from pipeline.data.fetch import fetch_split
from pipeline.data.rows import RawFile
from pipeline.params.reading import read_card
from pipeline.prompts.write import write_prompts

TRAINING_SETS = ("boolq", "piqa", "social_i_qa", "winogrande", "arc-easy", "arc-challenge", "openbookqa")
TESTS = (
    *("multiarith", "gsm8k", "addsub", "aqua", "singleeq", "svamp", "mawps", "mathqa"),
    *(
        "boolq",
        "piqa",
        "social_i_qa",
        "hellaswag-partial",
        "winogrande",
        "arc-easy",
        "arc-challenge",
        "openbookqa",
    ),
)
# the number of training rows is divided by these, to show whether time grows linearly
DIVISORS = (4, 2, 1)


def main() -> None:
    """Fetch the data, write prompts (not measured), audit (measured) and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-root", type=Path, required=True, help="folder of local dataset files")
    data_root = parser.parse_args().data_root
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        train_files = [fetch_raw_file(dataset, "train", data_root, folder) for dataset in TRAINING_SETS]
        tests = {}
        for test in TESTS:
            tests[test] = write_prompts_file([fetch_raw_file(test, "test", data_root, folder)], folder / test)
        all_prompts = write_prompts_file(train_files, folder / "train")
        rows, questions = count_rows(all_prompts), sum(map(count_rows, tests.values()))
        print(f"{rows:,} training rows, {questions:,} questions of {len(tests)} tests\n")
        methods = ", ".join(METHODS)
        print(f"| rows | CPU s | wall s | CPU s per 10,000 rows | peak memory (GiB) | found: {methods} |")
        print("|---|---|---|---|---|---|")
        for divisor in DIVISORS:
            n = rows // divisor
            train = all_prompts
            if divisor > 1:
                train = write_prompts_file(train_files, folder / f"train{divisor}", limit=n)
            output = folder / f"{divisor}.json"
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                cpu_s, wall_s, memory_gib = pool.apply(measure_audit, (train, tests, output))
            test_audits = read_json(output)["tests"].values()
            counts = [str(sum(test["methods"][method]["n"] for test in test_audits)) for method in METHODS]
            cells = f"{n:,} | {cpu_s:.1f} | {wall_s:.1f} | {cpu_s / n * 1e4:.2f} | {memory_gib:.2f}"
            print(f"| {cells} | {', '.join(counts)} |", flush=True)


def fetch_raw_file(dataset: str, split: str, data_root: Path, folder: Path) -> RawFile:
    """Fetch a split of a dataset."""
    card = read_card("datasets", dataset)
    path = folder / f"{dataset}-{split}.jsonl"
    fetch_split(dataset, split, card.splits[split].model_dump(), output=path, data_root=data_root)
    return RawFile(dataset=dataset, split=split, path=path, answer_form=card.answer_form)


def write_prompts_file(raw_files: list[RawFile], path: Path, *, limit: int | None = None) -> Path:
    """Write the prompts of raw files to ``path`` with the suffix .parquet; return that path."""
    output = path.with_suffix(".parquet")
    write_prompts(raw_files, template="strict", output=output, limit=limit, sample_seed=0)
    return output


def count_rows(path: Path) -> int:
    """Return the number of rows of a prompts file."""
    import pyarrow.parquet as pq

    return int(pq.read_metadata(path).num_rows)


def measure_audit(train: Path, tests: dict[str, Path], output: Path) -> tuple[float, float, float]:
    """Audit; return CPU seconds (user and system), wall seconds and peak memory in GiB of this process."""
    start = time.perf_counter()
    write_audit(train, tests, output=output, train_name="commonsense-7")
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime, time.perf_counter() - start, peak_memory_gib()


if __name__ == "__main__":
    main()
