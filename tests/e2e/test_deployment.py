"""Runs in other environments: conda, Apptainer and pods, with programs in their place that do what they promise Snakemake."""

import os
import subprocess
import sys

import pytest

from tests.e2e.conftest import Checkout, copy_project
from tests.fake_kubernetes import running_cluster

# A Python of another environment: it says that it ran, and is then that of the tests.
DEPLOYED = """#!/bin/sh
echo {name} >> {folder}/ran
exec {python} "$@"
"""
# `conda env create` makes the environment, and `activate` puts it in front of PATH.
CONDA = """#!/bin/sh
case "$*" in
  "info --json") echo '{{"conda_prefix": "{folder}/conda", "platform": "linux-64"}}' ;;
  --version) echo conda 25.1.1 ;;
  "config --get channel_priority --json") echo '{{"get": {{"channel_priority": "strict"}}}}' ;;
  *" create "*)
    while [ "$1" != --prefix ]; do shift; done
    mkdir -p "$2/bin"
    cp {folder}/python-of-conda "$2/bin/python" ;;
esac
"""
ACTIVATE = 'PATH="$1/bin:$PATH"\n'
# `apptainer exec OPTIONS IMAGE bash -c COMMAND`
APPTAINER = """#!/bin/sh
[ "$1" = --version ] && exec echo apptainer version 1.3.4
while [ "$1" != bash ]; do shift; done
PATH={folder}/container:$PATH exec "$@"
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Checkout:
    return copy_project(tmp_path_factory.mktemp("deployed") / "project")


@pytest.fixture(scope="module")
def programs(tmp_path_factory):
    """A folder with a ``conda`` and an ``apptainer``, whose environments note what ran in them."""
    folder = tmp_path_factory.mktemp("programs")
    names = {"folder": folder, "python": sys.executable}
    files = {
        "bin/conda": CONDA,
        "bin/apptainer": APPTAINER,
        "conda/bin/activate": ACTIVATE,
        "python-of-conda": DEPLOYED.replace("{name}", "conda"),
        "container/python": DEPLOYED.replace("{name}", "apptainer"),
    }
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(exist_ok=True, parents=True)
        path.write_text(text.format(**names) if "{" in text else text)
        path.chmod(0o755)
    return folder


def list_paths(project: Checkout, stage: str) -> list[str]:
    code = f"from pipeline.study import load_study; print(*load_study().paths('{stage}'))"
    return project.run(sys.executable, "-c", code).split()


def run_deployed(project: Checkout, programs, *arguments: str) -> str:
    environment = project.environment()
    environment["PATH"] = f"{programs / 'bin'}{os.pathsep}{environment['PATH']}"
    done = subprocess.run(
        ["snakemake", "--cores", "1", *arguments],
        cwd=project.folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def test_jobs_use_the_deployed_python_and_finished_results_are_no_reason_to_run(project, programs):
    ran = programs / "ran"
    fetched, prompts = list_paths(project, "fetch"), list_paths(project, "prompts")
    # in this environment
    run_deployed(project, programs, fetched[0])
    assert not ran.exists()
    # one job by each deployment; the first one's result is there
    run_deployed(project, programs, "--sdm", "conda", "--", fetched[1], fetched[0])
    assert ran.read_text().split() == ["conda"]
    (project.folder / "adapter-studies.sif").touch()
    run_deployed(project, programs, "--sdm", "apptainer", "--", prompts[0])
    assert ran.read_text().split() == ["conda", "apptainer"]
    # also where the workflow catalog looks for the workflow
    done = run_deployed(project, programs, "--snakefile", "workflow/Snakefile", "--", *fetched, prompts[0])
    assert "Nothing to be done" in done
    run_deployed(project, programs, "--report", "report.html", "--", *fetched)
    assert "fetch" in (project.folder / "report.html").read_text()


def test_a_run_in_apptainer_without_its_image_is_refused(project, programs):
    (project.folder / "adapter-studies.sif").unlink(missing_ok=True)
    environment = {**project.environment(), "PATH": f"{programs / 'bin'}{os.pathsep}{os.environ['PATH']}"}
    command = [sys.executable, "-m", "snakemake", "--cores", "1", "--sdm", "apptainer"]
    done = subprocess.run(command, cwd=project.folder, env=environment, capture_output=True, text=True)
    assert "error: container: there is no image adapter-studies.sif; build it: " in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.exhaustive
def test_a_study_in_pods_with_its_results_in_s3(tmp_path):
    """Four pods, four to ten minutes on 2 cores: a base, an adapter, two evaluations; all else runs beside snakemake."""
    moto = pytest.importorskip("moto.server", reason="skipped: needs moto, which stands for S3")
    kubernetes_validate = pytest.importorskip(
        "kubernetes_validate", reason="skipped: needs kubernetes-validate"
    )
    project = copy_project(tmp_path / "project")
    project.edit("params/study/small.yaml", "[lora, {method: series, bottleneck_size: 8}]", "[lora]")
    # pods get the files that git tracks
    project.run("git", "commit", "--all", "--quiet", "--message", "one method")
    server = moto.ThreadedMotoServer(port=0)
    server.start()
    _, port = server.get_host_and_port()
    try:
        with running_cluster(tmp_path / "cluster") as cluster:
            cluster.write_kubeconfig(tmp_path / "kubeconfig")
            storage = {
                "ENDPOINT_URL": f"http://127.0.0.1:{port}",
                "ACCESS_KEY": "key",
                "SECRET_KEY": "secret",
            }
            environment = {f"SNAKEMAKE_STORAGE_S3_{name}": value for name, value in storage.items()}
            environment |= {**project.environment(), "KUBECONFIG": str(tmp_path / "kubeconfig")}
            command = ["snakemake", "--profile", "workflow/profiles/kubernetes", "--jobs", "2"]
            command += [
                "--container-image",
                "registry.example.org/adapter-studies:1",
                "--config",
                "device=cpu",
            ]
            command += [
                "--default-storage-prefix",
                "s3://bucket/small",
                "--seconds-between-status-checks",
                "1",
            ]
            run = {"cwd": project.folder, "env": environment, "capture_output": True, "text": True}
            done = subprocess.run(command, **run)
            outputs = [cluster.output_of(name) for name in cluster.jobs]
            assert done.returncode == 0, done.stdout + done.stderr + "\n".join(outputs)
            # base, adapter, and the answers of both
            assert len(cluster.jobs) == 4
            for body in cluster.jobs.values():
                kubernetes_validate.validate(
                    body | {"apiVersion": "batch/v1", "kind": "Job"}, "1.37", strict=False
                )
            assert (project.folder / "reports/small/index.html").is_file()
            again = subprocess.run(command, **run)
            assert "Nothing to be done" in again.stdout + again.stderr
    finally:
        server.stop()
