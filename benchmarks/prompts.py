"""Peak memory of the data stages by number of rows: the seven commonsense training sets, once and repeated.

``python -m benchmarks.prompts --data-root DIR`` prints rows, memory and seconds, each measured in a new process.
"""

import argparse
import multiprocessing
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.audit import TRAINING_SETS, count_rows, fetch_raw_file
from pipeline.core.environment import peak_memory_gib
from pipeline.data.rows import RawFile
from pipeline.prompts.write import read_prompts, write_prompts

TIMES = (1, 4)


def main() -> None:
    """Fetch (not measured), repeat the files, write and read prompts (measured) and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-root", type=Path, required=True, help="folder of local dataset files")
    options = parser.parse_args()
    print("| rows | write: peak MiB | CPU s | read all at once: peak MiB |\n|---|---|---|---|")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        # in a new process, because on Linux the peak of a process starts at that of its parent
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            raws = [
                pool.apply(fetch_raw_file, (dataset, "train", options.data_root, folder))
                for dataset in TRAINING_SETS
            ]
        for times in TIMES:
            sources = [repeat_rows(source, times, folder) for source in raws]
            output = folder / f"{times}.parquet"
            memory, seconds = measure_in_new_process(write_all_prompts, sources, output)
            read_memory, _ = measure_in_new_process(read_prompts, output)
            print(
                f"| {count_rows(output):,} | {memory:.0f} | {seconds:.1f} | {read_memory:.0f} |", flush=True
            )


def repeat_rows(source: RawFile, times: int, folder: Path) -> RawFile:
    """Return a source whose file has the rows of ``source`` several times."""
    path = folder / f"{source.dataset}-{times}.jsonl"
    path.write_bytes(source.path.read_bytes() * times)
    return replace(source, path=path)


def write_all_prompts(sources: list[RawFile], output: Path) -> None:
    """Write the prompts of sources, as the prompts stage does."""
    write_prompts(sources, template="strict", output=output, limit=None, sample_seed=0)


def measure_in_new_process(call: Callable[..., Any], *arguments: Any) -> tuple[float, float]:
    """Call in a new process; return its peak memory in MiB and CPU seconds."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(measure_call, (call, arguments))


def measure_call(call: Callable[..., Any], arguments: tuple[Any, ...]) -> tuple[float, float]:
    """Call; return this process' peak memory in MiB and the CPU seconds of the call."""
    before = time.process_time()
    call(*arguments)
    return peak_memory_gib() * 1024, time.process_time() - before


if __name__ == "__main__":
    main()
