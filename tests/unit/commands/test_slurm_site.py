"""The site of a Slurm run: its keys, what Slurm refuses before a job is submitted, and what jobs ask for."""

import os
import re
from types import SimpleNamespace

import pytest

from pipeline.commands.app import run_command
from pipeline.commands.run import jobs
from pipeline.commands.run.slurm import resources
from pipeline.commands.run.slurm.launch import launch_on_nodes
from pipeline.commands.run.slurm.queue import list_jobs
from pipeline.commands.run.slurm.site import (
    Site,
    _check_associations,
    cap_site,
    check_nodes,
    check_site,
    count_minutes,
    split_site,
)
from pipeline.commands.run.slurm.work import Work
from pipeline.commands.run.workflow import FETCH_BASE, LOCAL_RULES
from pipeline.core.errors import UserError
from tests.conftest import ROOT

GIGABYTES = 10**9


def message_of(action):
    with pytest.raises(UserError) as error:
        action()
    return str(error.value)


def test_the_keys_of_a_site_are_split_from_those_of_the_study():
    site, others = split_site({"study": "quickstart", "slurm_account": 17, "slurm_qos": None})
    assert (site.account, site.qos, site.minutes) == ("17", None, 1440)
    assert others == {"study": "quickstart"}
    assert split_site({"device": "cpu"}) == (None, {"device": "cpu"})


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"slurm_partion": "a"}, "--config slurm_partion: unknown (choices: slurm_partition, "),
        ({"slurm_minutes": "1 day"}, "--config slurm_minutes: must be a positive integer (got '1 day')"),
        ({"slurm_memory_mb": True}, "--config slurm_memory_mb: must be a positive integer (got 'True')"),
        ({"slurm_account": []}, "--config slurm_account: must be a text (got '[]')"),
    ],
)
def test_a_wrong_key_or_value_is_one_line(config, message):
    assert message_of(lambda: split_site(config)).startswith(message)


@pytest.fixture
def cluster(tmp_path, monkeypatch):
    """Programs that answer as Slurm does, with two partitions and an accounting."""
    answers = {
        "sbatch": "",
        "sinfo": "cpu|(null)\ngpu|gpu:a100:4\ngpu|(null)",
        "sacctmgr": "physics|normal,long",
        "squeue": f"7|{tmp_path}|rule_train_wildcards_a|b\n8|{tmp_path}|mine\n9|/elsewhere|rule_train",
    }
    for name, answer in answers.items():
        program = tmp_path / name
        program.write_text(f"#!/bin/sh\nprintf '%s\\n' '{answer}'\n")
        program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    return tmp_path


@pytest.mark.parametrize(
    ("site", "message"),
    [
        ({"partition": "main"}, "slurm_partition: unknown 'main' (choices: cpu, gpu); set it in "),
        ({"gpu_partition": "gpus"}, "slurm_gpu_partition: unknown 'gpus' (choices: cpu, gpu); did you mean"),
        ({"gpu_partition": "cpu"}, "slurm_gpu_partition: 'cpu' has no GPU; set another partition in "),
        ({"account": "chemistry"}, "slurm_account: unknown 'chemistry' (choices: physics)"),
        ({"qos": "short"}, "slurm_qos: unknown 'short' (choices: long, normal)"),
    ],
)
def test_what_slurm_does_not_have_is_refused_in_one_line(cluster, site, message):
    assert message_of(lambda: check_site(Site(**site), gpus=1)).startswith(message)


def test_an_accounting_that_does_not_answer_is_no_error(cluster, monkeypatch):
    monkeypatch.setattr("pipeline.commands.run.slurm.site.QUERY_SECONDS", 0.1)
    (cluster / "sacctmgr").write_text("#!/bin/sh\nexec sleep 60\n")
    _check_associations(Site(account="chemistry"))


def test_a_site_that_slurm_knows_is_accepted(cluster):
    check_site(Site(partition="cpu", gpu_partition="gpu", account="physics", qos="long"), gpus=1)
    check_site(Site(partition="cpu"), gpus=0)


def test_a_machine_without_slurm_is_refused(monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert "run this command on a login node" in message_of(lambda: check_site(Site(), gpus=0))


@pytest.mark.parametrize(
    ("limit", "minutes"), [("30:00", 30), ("1:00:00", 60), ("2-12:00:00", 3600), ("infinite", None)]
)
def test_time_limits_are_read_as_sinfo_prints_them(limit, minutes):
    assert count_minutes(limit) == minutes


# Slurm would accept a job that asks for more, and never start it.
@pytest.mark.parametrize(
    ("partitions", "gpus", "caps"),
    [
        ({"gpu_partition": "gpu"}, 1, (16000, 60, 4)),
        ({}, 0, (64000, 30, 8)),
        ({"partition": "odd"}, 0, (64000, 1440, 8)),
    ],
)
def test_jobs_ask_for_no_more_than_their_partition_has(cluster, partitions, gpus, caps):
    rows = "cpu*|30:00|90000+|(null)\ngpu|1:00:00|16000|gpu:a100:4(S:0-1)\ngpu|1:00:00|8000|gpu:2\n"
    (cluster / "sinfo").write_text(f"#!/bin/sh\nprintf '{rows}'\n")
    site = cap_site(Site(**partitions), gpus=gpus)
    assert (site.memory_mb, site.minutes, site.gpus) == caps


def test_jobs_of_this_checkout_are_told_from_the_users_other_jobs(cluster):
    assert list_jobs(cluster) == ["7"]


def test_a_larger_base_asks_for_more_memory_and_each_attempt_for_twice_as_much():
    small, large = (Work(size * GIGABYTES, 1e18) for size in (3, 15))
    site = Site(memory_mb=100_000)
    memory = [resources.request_memory(work, site, 1, gpus=1) for work in (small, large)]
    assert 3000 < memory[0] < memory[1] < 100_000
    assert resources.request_memory(small, site, 2, gpus=1) == 2 * memory[0]
    # on a CPU, the loaded weights and a pass lie there too
    on_cpu = small._replace(weights_bytes=6e9, pass_bytes=2e9)
    assert resources.request_memory(on_cpu, site, 1, gpus=0) > memory[0]
    assert resources.request_memory(on_cpu, site, 1, gpus=1) == memory[0]
    assert resources.request_memory(large, Site(memory_mb=9000), 3, gpus=1) == 9000


def test_the_processes_of_a_training_together_ask_for_no_more_than_the_cap():
    """Slurm would accept a larger job and never start it."""
    devices = resources.Devices(gpus=1, processes=4, threads=1)

    def ask(site: Site, size: int) -> int:
        work = Work(size * GIGABYTES, 1e18)
        return resources.list_resources(site, "train", lambda _: work, devices)["mem_mb"](None, None, 1)

    assert ask(Site(), 1) == 4 * resources.request_memory(Work(GIGABYTES, 0), Site(), 1, gpus=1)
    assert ask(Site(), 15) == 64000


def test_a_training_on_several_nodes_asks_each_for_its_share():
    devices = resources.Devices(gpus=1, processes=8, threads=3)
    work = Work(GIGABYTES, 1e18)

    def ask(rule: str, **site: object) -> dict[str, object]:
        return resources.list_resources(Site(nodes=2, **site), rule, lambda _: work, devices)

    training = ask("train", gpu_model="a100")
    assert (training["nodes"], training["tasks"], training["cpus_per_task"]) == (2, 2, 12)
    assert training["slurm_extra"] == "--signal=TERM@180 --gpus-per-node=a100:4"
    assert training["mem_mb"](None, None, 1) == 4 * resources.request_memory(work, Site(), 1, gpus=1)
    assert ask("generate")["nodes"] == 1
    assert "mpi" not in ask("generate")


class AttributeDict(dict):
    """A dictionary whose values are attributes, as in a job of Snakemake."""

    __getattr__ = dict.get


def test_the_plugin_asks_for_a_task_on_each_node():
    submit_string = pytest.importorskip("snakemake_executor_plugin_slurm.submit_string")
    from snakemake_executor_plugin_slurm.utils import set_gres_string
    from snakemake_executor_plugin_slurm.validation import validate_slurm_extra

    values = resources.list_resources(
        Site(nodes=2), "train", lambda _: Work(GIGABYTES, 1e18), resources.Devices(1, 4, 1)
    )
    asked = {name: value for name, value in values.items() if not callable(value)}
    job = SimpleNamespace(resources=AttributeDict(asked, gpu=4), threads=4)
    validate_slurm_extra(job)
    names = ("run_uuid", "slurm_logfile", "comment_str", "account", "partition", "workdir")
    command = submit_string.get_submit_command(job, dict.fromkeys(names, "a")) + set_gres_string(job)
    options = command.split()
    assert {"--nodes=2", "--ntasks=2", "--cpus-per-task=2", "--gpus-per-node=2", "--gpus=4"} <= set(options)
    assert not [option for option in options if option.startswith("--ntasks-per")]


def test_nodes_that_cannot_share_the_processes_equally_are_refused():
    check_nodes(1, processes=3)
    check_nodes(2, processes=4)
    message = message_of(lambda: check_nodes(2, processes=1))
    assert message == (
        "--config slurm_nodes: 2 nodes cannot share processes=1 equally; use a multiple, such as processes=2"
    )


@pytest.mark.parametrize("processes", [[], ["--processes=3"]])
def test_a_command_with_nodes_needs_a_multiple_of_them(monkeypatch, capsys, processes):
    """It used to train in a single process, and said nothing."""
    monkeypatch.setattr(jobs, "run_job", lambda *_, **__: pytest.fail("the job began"))
    assert run_command(["train", "0123456789ab", "--nodes=2", *processes]) == 1
    number = 3 if processes else 1
    assert capsys.readouterr().err == (
        f"error: --nodes: 2 nodes cannot share --processes={number} equally; use a multiple, such as --processes=2\n"
    )


@pytest.fixture
def job_step(cluster, monkeypatch):
    """The environment of a job's command: the plugin's job step keeps the id of SLURM_*, and no other of these variables."""
    for name in ("SLURM_JOB_NUM_NODES", "SLURM_CPUS_PER_TASK"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv("PIPELINE_WARM", "a")
    (cluster / "squeue").write_text('#!/bin/sh\ncase "$*" in *--jobs=7*) echo 2;; esac\n')
    return cluster


def test_nodes_need_a_job_of_slurm_on_as_many(job_step, monkeypatch):
    command = ["-m", "pipeline"]
    message = message_of(lambda: launch_on_nodes(command, 3, nodes=3, threads=1))
    assert message.startswith("--nodes 3: this is not a job of Slurm on 3 nodes (but on 2); submit it by ")
    monkeypatch.delenv("SLURM_JOB_ID")
    message = message_of(lambda: launch_on_nodes(command, 2, nodes=2, threads=1))
    assert message.startswith("--nodes 2: this is not a job of Slurm on 2 nodes (but on 0); submit it by ")


def test_the_command_of_several_nodes_starts_torchrun_on_each(job_step):
    (job_step / "srun").write_text(
        f'#!/bin/sh\necho "$@ ${{PIPELINE_WARM-none}}" > {job_step}/called; exit 3\n'
    )
    (job_step / "srun").chmod(0o755)
    command = ["-m", "pipeline", "train"]
    message = message_of(lambda: launch_on_nodes(command, 8, nodes=2, threads=3))
    assert message == "a process on 2 nodes failed (srun: exit 3); see its message above"
    called = (job_step / "called").read_text()
    assert called.startswith(
        "--nodes=2 --ntasks=2 --ntasks-per-node=1 --kill-on-bad-exit=1 --cpus-per-task=12 "
    )
    assert "--nnodes=2 --nproc-per-node=4 --rdzv-backend=c10d " in called
    assert called.endswith("--rdzv-id=7 -m pipeline train none\n")


def test_more_tokens_ask_for_more_time_up_to_the_cap():
    short, long = (Work(15 * GIGABYTES, flop) for flop in (1e17, 1e19))
    minutes = [
        resources.request_minutes(work, Site(), 1, speed=resources.GPU_TRAINING, gpus=1)
        for work in (short, long)
    ]
    assert 30 <= minutes[0] < minutes[1] <= 1440
    assert resources.request_minutes(long, Site(minutes=45), 3, speed=resources.GPU_TRAINING, gpus=1) == 45


def test_a_rule_that_asks_slurm_for_nothing_runs_beside_snakemake():
    """Its jobs are done in seconds; as jobs of a cluster each would wait for a node."""
    text = "\n".join(path.read_text() for path in sorted((ROOT / "workflow/rules").glob("*.smk")))
    rules = re.findall(r"^rule (\w+):\n((?: .*\n|\n)+)", text, flags=re.MULTILINE)
    asking = {name for name, body in rules if "resources_of(" in body}
    # rules without a command only collect files
    small = {name for name, body in rules if "shell:" in body} - asking | {FETCH_BASE}
    listed = re.search(r"^localrules:\n((?:    \w+,\n)+)", text, flags=re.MULTILINE)
    assert listed
    assert asking == {"base", "combine", "distill", "train", "generate", "generate_group"}
    assert set(re.findall(r"\w+", listed[1])) == set(LOCAL_RULES) == small


def test_a_rule_of_an_artifact_that_runs_in_a_pod_hands_its_record_over():
    text = "\n".join(path.read_text() for path in sorted((ROOT / "workflow/rules").glob("*.smk")))
    rules = re.findall(r"^rule (\w+):\n((?: .*\n|\n)+)", text, flags=re.MULTILINE)
    # the rule of a group makes its answers through the rule tie, which runs beside snakemake
    elsewhere = {name for name, body in rules if "resources_of(" in body} - {"generate_group"}
    assert elsewhere == {name for name, body in rules if "records_of(" in body}


@pytest.mark.parametrize(("minutes", "seconds"), [(1440, 180), (4, 60)])
def test_a_job_is_warned_before_its_limit_and_not_before_its_first_step(minutes, seconds):
    devices = resources.Devices(gpus=1, processes=1, threads=1)
    values = resources.list_resources(Site(minutes=minutes), "train", lambda _: Work(0, 0), devices)
    assert values["slurm_extra"] == f"--signal=TERM@{seconds}"
