"""What ``paths STAGE --needed`` lists: all that the jobs of a stage read, so that a pull of it is enough; and what a pull of a study or model gets."""

import os
import subprocess
import sys

import pytest

from pipeline.commands.share.transfer import pull_command, push_command
from pipeline.core.errors import UserError
from pipeline.params.datasets import ClusterKey
from pipeline.params.reading import read_card
from pipeline.results.dvc import path_targets
from pipeline.results.dvc.remotes import list_stage_paths, transfer_results
from pipeline.results.dvc.selection import list_results, pull_study, push_study
from pipeline.study import load_study
from tests.conftest import ROOT


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


def test_the_results_of_a_model_come_with_what_they_are_made_from_and_with_records():
    study = load_study("quickstart")
    everything, of_model = list_results(study), list_results(study, model="tiny-bloom")
    assert "reports/quickstart" in everything
    assert set(of_model) < set(everything)
    labels = {path.split("/")[2] for path in of_model if path.startswith("results/adapters")}
    assert labels == {"tiny-bloom"}
    assert any(path.startswith("data/prompts") for path in of_model)
    assert any(path.startswith("results/records/score/tiny-bloom") for path in of_model)
    with pytest.raises(UserError, match="no model 'tiny-blom'"):
        list_results(study, model="tiny-blom")


def test_a_study_that_dvc_lock_does_not_record_is_refused(tmp_path, monkeypatch):
    study = load_study("real-tiny")
    monkeypatch.chdir(tmp_path)
    for call, name in ((pull_study, "pull"), (push_study, "push")):
        with pytest.raises(UserError, match=f"^{name}: .* records no report, not study 'real-tiny'"):
            call([], study)


LOCK = """schema: '2.0'
stages:
  train:
    cmd: 'true'
    outs:
    - {path: results/adapters, hash: md5, md5: 00000000000000000000000000000000.dir, size: 1, nfiles: 1}
"""


REPORT = "    - {path: reports/quickstart, hash: md5, md5: 11111111111111111111111111111111.dir, size: 1, nfiles: 1}\n"


def test_a_push_of_a_model_says_what_it_cannot_send(tmp_path, monkeypatch):
    study = load_study("quickstart")
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".git").mkdir()
    (tmp_path / "dvc.lock").write_text(LOCK + REPORT)
    with pytest.raises(
        UserError, match=r"only --remote NAME and --jobs N are possible \(got results/adapters\)"
    ):
        push_study(["--remote", "near", "results/adapters"], study, model="tiny-bloom")
    with pytest.raises(UserError, match="argument -j/--jobs: invalid int value: 'many'"):
        push_study(["--jobs", "many"], study, model="tiny-bloom")
    with pytest.raises(
        UserError, match="cache has no listing of results/adapters; run: python -m pipeline commit"
    ):
        push_study([], study, model="tiny-bloom")
    for name in ("0" * 32, "1" * 32):
        listing = tmp_path / f".dvc/cache/files/md5/{name[:2]}/{name[2:]}.dir"
        listing.parent.mkdir(parents=True)
        listing.write_text("[]")
    with pytest.raises(
        UserError, match=r"does not record \d+ of \d+ results of study 'quickstart', for example"
    ):
        push_study([], study, model="tiny-bloom")


@pytest.mark.parametrize("command", [push_command, pull_command])
def test_our_options_behind_those_of_dvc_are_refused(command):
    with pytest.raises(UserError, match="write --study before the other arguments, which are DVC's"):
        command(None, ["--remote", "near", "--study=quickstart"])


@pytest.mark.parametrize(("folder", "path"), [(".", "results/adapters/tiny"), ("results/adapters", "tiny")])
def test_a_part_of_an_output_is_not_pushed(tmp_path, folder, path):
    (tmp_path / ".git").mkdir()
    (tmp_path / "dvc.lock").write_text(LOCK)
    with pytest.raises(UserError, match="results/adapters/tiny is a part of an output"):
        transfer_results("push", ["--quiet", path], tmp_path, folder=tmp_path / folder)


@pytest.mark.slow
def test_dvc_takes_paths_and_names_of_stages(tmp_path):
    def dvc(*command: str) -> None:
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        subprocess.run([sys.executable, "-m", *command], cwd=tmp_path, env=environment, check=True)

    dvc("dvc", "init", "--no-scm", "--quiet")
    result = tmp_path / "results/adapters/a.json"
    result.parent.mkdir(parents=True)
    result.write_text("{}")
    (tmp_path / "dvc.yaml").write_text("stages:\n  train:\n    cmd: 'true'\n    outs: [results/adapters]\n")
    dvc("dvc", "commit", "--force", "--quiet")
    for target in ("results/adapters/a.json", "train"):
        result.unlink()
        dvc(path_targets.__name__, "checkout", target)
        assert result.read_text() == "{}"
