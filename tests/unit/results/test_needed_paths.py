"""What ``paths STAGE --needed`` lists: all that the jobs of a stage read, so that a pull of it is enough."""

from pipeline.params.datasets import ClusterKey
from pipeline.params.reading import read_card
from pipeline.results.dvc.remotes import list_stage_paths
from pipeline.study import load_study


def needed_data(study):
    return {path for path in list_stage_paths(study, "report", needed=True) if path.startswith("data/")}


def test_a_report_of_one_protocol_and_independent_examples_reads_no_data():
    assert needed_data(load_study("quickstart")) == set()


def test_a_report_that_compares_protocols_reads_their_prompts():
    study = load_study("paper-math")
    assert len(study.card.protocols) > 1
    prompts = {str(task.prompts.path) for run in study.runs for task in study.tasks(run)}
    assert needed_data(study) == prompts


def test_a_report_reads_what_says_which_examples_belong_together(monkeypatch):
    study = load_study("quickstart")
    name = study.task_names[0]
    monkeypatch.setitem(vars(read_card("datasets", name)), "clusters", ClusterKey(field="story"))
    prompts = {str(study.task_prompts(name, protocol).path) for protocol in study.card.protocols}
    assert needed_data(study) == {*prompts, str(study.raw(name, study.card.split).path)}
