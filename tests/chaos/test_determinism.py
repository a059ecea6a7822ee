"""The same bytes on any number of cores and threads, on CPU."""

import pytest

from tests.chaos.conftest import clear, report, results


@pytest.mark.parametrize(("cores", "threads"), [(1, 2), (4, 4)])
def test_a_whole_study_gives_the_same_bytes(copy, undisturbed, cores, threads):
    clear(copy.folder)
    copy.run("env", f"OMP_NUM_THREADS={threads}", "snakemake", "--cores", str(cores))
    assert results(copy.folder) == results(undisturbed.folder)  # which had two cores, one thread each
    assert report(copy.folder) == report(undisturbed.folder)
