"""Results have the same bytes on any number of cores and threads, on CPU."""

import pytest

from tests.chaos.conftest import read_report_tables, read_results, remove_generated_files


@pytest.mark.exhaustive
@pytest.mark.parametrize(("cores", "threads"), [(1, 2), (4, 4)])
def test_a_whole_study_gives_the_same_bytes(copy, undisturbed, cores, threads):
    remove_generated_files(copy.folder)
    copy.run("env", f"OMP_NUM_THREADS={threads}", "snakemake", "--cores", str(cores))
    # the undisturbed run had two cores and one thread per job
    assert read_results(copy.folder) == read_results(undisturbed.folder)
    assert read_report_tables(copy.folder) == read_report_tables(undisturbed.folder)
