"""The contamination audit's time and memory: the seven commonsense training sets against all sixteen tests.

``python -m benchmarks.audit --data-root DIR`` prints rows against seconds at three sizes, each in a process of its own.
"""

import argparse
import multiprocessing
import resource
import tempfile
import time
from pathlib import Path

from pipeline.audit import METHODS, audit
from pipeline.core.environment import peak_memory_gib
from pipeline.core.io import read_json
from pipeline.data.fetch import fetch
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
PARTS = (4, 2, 1)


def main() -> None:
    """Fetch, write prompts (not measured), audit (measured) and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-root", type=Path, required=True, help="folder of local dataset files")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        raws = [raw(dataset, "train", given.data_root, folder) for dataset in TRAINING_SETS]
        tests = {test: prompts([raw(test, "test", given.data_root, folder)], folder / test) for test in TESTS}
        whole = prompts(raws, folder / "train")
        rows = read_rows(whole)
        print(
            f"{rows:,} training rows, {sum(map(read_rows, tests.values())):,} questions of {len(tests)} tests\n"
        )
        print(
            "| rows | CPU s | wall s | CPU s per 10,000 rows | peak memory (GiB) | found: "
            + ", ".join(METHODS)
            + " |"
        )
        print("|---|---|---|---|---|---|")
        for part in PARTS:
            size = rows // part
            train = whole if part == 1 else prompts(raws, folder / f"train{part}", limit=size)
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                cpu, wall, memory = pool.apply(measured, (train, tests, folder / f"{part}.json"))
            found = read_json(folder / f"{part}.json")["tests"].values()
            counts = ", ".join(str(sum(one["methods"][method]["n"] for one in found)) for method in METHODS)
            print(
                f"| {size:,} | {cpu:.1f} | {wall:.1f} | {cpu / size * 1e4:.2f} | {memory:.2f} | {counts} |",
                flush=True,
            )


def raw(dataset: str, split: str, data_root: Path, folder: Path) -> RawFile:
    """Fetch a split; return it as a source of prompts."""
    card = read_card("datasets", dataset)
    path = folder / f"{dataset}-{split}.jsonl"
    fetch({"dataset": dataset, **card.model_dump()}, split, output=path, data_root=data_root)
    return RawFile(dataset=dataset, split=split, path=path, answer_form=card.answer_form)


def prompts(raws: list[RawFile], path: Path, *, limit: int | None = None) -> Path:
    """Write the prompts of sources; return their file."""
    output = path.with_suffix(".parquet")
    write_prompts(raws, template="strict", output=output, limit=limit, sample_seed=0)
    return output


def read_rows(path: Path) -> int:
    """Return the number of rows of a prompts file."""
    import pyarrow.parquet as pq

    return int(pq.read_metadata(path).num_rows)


def measured(train: Path, tests: dict[str, Path], output: Path) -> tuple[float, float, float]:
    """Audit; return CPU seconds (user and system), wall seconds and peak memory in GiB of this process."""
    wall = time.perf_counter()
    audit(train, tests, output=output, train_name="commonsense-7")
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime, time.perf_counter() - wall, peak_memory_gib()


if __name__ == "__main__":
    main()
