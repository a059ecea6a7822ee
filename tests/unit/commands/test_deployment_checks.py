"""Jobs elsewhere: what is refused before a job is submitted, and the files of containers and Kubernetes."""

import os
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from pipeline.commands.run.deployment import storage
from pipeline.commands.run.deployment.kubernetes import PodSettings, check_pods
from pipeline.commands.run.deployment.profiles import check_profiles, list_profiles
from pipeline.commands.run.deployment.software import check_image, pipeline_command
from pipeline.core.errors import UserError
from pipeline.study import load_study
from tests.conftest import ROOT

PROFILES = ROOT / "workflow/profiles"
IMAGE = "registry.example.org/adapter-studies:1"
GPU = {"gpu_manufacturer": "nvidia", "scale": 0, "mem_mb": 16000}


def message_of(action):
    with pytest.raises(UserError) as error:
        action()
    return str(error.value)


def pods(image=IMAGE, **resources):
    return PodSettings(image, resources, resources)


@pytest.mark.parametrize("name", sorted(path.name for path in PROFILES.iterdir()))
def test_the_profiles_have_only_keys_of_snakemake_and_its_plugins(name):
    check_profiles([PROFILES / name / "config.yaml"])


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("kubernetes-namespce", "unknown key 'kubernetes-namespce' (choices: kubernetes-cpu-scalar, "),
        ("kubernetes-namespce", "did you mean 'kubernetes-namespace'?"),
        ("kep-incomplete", "unknown key 'kep-incomplete' did you mean 'keep-incomplete'?"),
        ("storage-gcs-project", "unknown key 'storage-gcs-project' (choices: storage-s3-"),
    ],
)
def test_a_misspelt_key_of_a_profile_is_one_line(tmp_path, key, message):
    profile = tmp_path / "config.yaml"
    profile.write_text(f"executor: kubernetes\n{key}: x\n")
    text = message_of(lambda: check_profiles([profile]))
    assert text.startswith(f"{profile}: ")
    assert message in text
    assert "\n" not in text


def test_the_profiles_of_a_run_come_from_its_arguments_and_its_environment():
    default, slurm, kubernetes = (
        PROFILES / name / "config.yaml" for name in ("default", "slurm", "kubernetes")
    )

    def find(*arguments, **environment):
        return [path.resolve() for path in list_profiles(arguments, environment, ROOT)]

    assert find("--cores", "1", "--config", "study=x") == [default]
    assert find("--profile", str(slurm.parent), str(kubernetes.parent)) == [slurm, kubernetes, default]
    assert find("--workflow-profile", "none", SNAKEMAKE_PROFILE=str(slurm.parent)) == [slurm]
    assert find("--workflow-profile", str(kubernetes.parent)) == [kubernetes]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (pods("snakemake/snakemake:v9.27.1", **GPU), "container-image: snakemake/snakemake:v9.27.1 has no torch; build "),
        (pods("REGISTRY/adapter-studies:latest", **GPU), "container-image: REGISTRY/adapter-studies:latest is a placeholder"),
        (pods(**GPU, mem_gb=16), "default-resources: mem_gb: unknown (choices: "),
        (pods(gpu_manufacturer="nvidia"), "default-resources: scale: must be 0: otherwise "),
        (pods(scale=0), "default-resources: gpu_manufacturer: must be nvidia or amd (got '')"),
        (pods(scale=0, gpu_manufacturer="intel"), "default-resources: gpu_manufacturer: must be nvidia or amd (got 'intel')"),
    ],
)  # fmt: skip
def test_what_a_cluster_would_refuse_later_is_refused_in_one_line(settings, message):
    assert message_of(lambda: check_pods(settings, gpus=1, grouped=False)).startswith(message)


def test_pods_that_a_cluster_can_run_are_accepted():
    check_pods(pods(**GPU), gpus=1, grouped=False)
    check_pods(pods(mem_mb=4000), gpus=0, grouped=False)
    assert "--config adapters_per_load: " in message_of(lambda: check_pods(pods(), gpus=0, grouped=True))


def test_a_deployed_environment_has_its_own_python(tmp_path, monkeypatch):
    assert pipeline_command({"conda"}) == "python -m pipeline"
    assert pipeline_command(()).startswith("/")
    check_image({"conda"}, "missing.sif")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "there is no apptainer" in message_of(lambda: check_image({"apptainer"}, "missing.sif"))
    (tmp_path / "apptainer").touch(0o755)
    assert message_of(lambda: check_image({"apptainer"}, "missing.sif")).startswith(
        "container: there is no image missing.sif; build it: apptainer build adapter-studies.sif "
    )
    check_image({"apptainer"}, "docker://registry.example.org/adapter-studies:1")


@pytest.fixture
def s3_run():
    """What Snakemake has of a run whose results are in S3."""

    def copy_of(query):
        path = Path(".snakemake/storage/s3") / query.removeprefix("s3://")
        return SimpleNamespace(local_path=lambda: path)

    return SimpleNamespace(
        storage_settings=SimpleNamespace(default_storage_prefix="s3://bucket/study"),
        storage_registry=SimpleNamespace(default_storage_provider=SimpleNamespace(object=copy_of)),
    )


def test_local_copies_of_a_storage_are_the_files_of_the_checkout(s3_run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    copies = tmp_path / ".snakemake/storage/s3/bucket/study"
    for _ in range(2):
        assert storage.link_storage(s3_run, tmp_path)
    (copies / "results/x").write_text("1")
    assert (tmp_path / "results/x").read_text() == "1"
    (copies / "logs").unlink()
    (copies / "logs").mkdir()
    assert "logs: in the way; it holds copies of an earlier run" in message_of(
        lambda: storage.link_storage(s3_run, tmp_path)
    )
    s3_run.storage_settings.default_storage_prefix = "s3://BUCKET/study"
    assert "s3://BUCKET/study is a placeholder" in message_of(lambda: storage.link_storage(s3_run, tmp_path))
    s3_run.storage_settings.default_storage_prefix = None
    assert not storage.link_storage(s3_run, tmp_path)


@pytest.mark.parametrize("stage", ["base", "train", "generate"])
def test_a_pod_hands_the_record_of_its_result_over(stage):
    artifact = load_study("quickstart").artifacts[stage][0]
    assert storage.list_records(str(artifact.path), stage, has_storage=True) == [str(artifact.record)]
    assert storage.list_records(str(artifact.path), stage, has_storage=False) == []


MANIFESTS = sorted((ROOT / "containers/kubernetes").glob("*.yaml"))


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.name)
@pytest.mark.parametrize("version", ["1.31", "1.37"])
def test_the_manifests_are_what_kubernetes_accepts(path, version):
    kubernetes_validate = pytest.importorskip("kubernetes_validate")
    manifests = list(yaml.safe_load_all(path.read_text()))
    assert manifests
    for manifest in manifests:
        # raises for a manifest that the schema refuses
        kubernetes_validate.validate(manifest, version, strict=True)


def test_the_numbers_of_the_job_agree():
    job, volume, secret = (
        yaml.safe_load((ROOT / "containers/kubernetes" / f"{name}.yaml").read_text())
        for name in ("study", "volume", "secret")
    )
    pod = job["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    requests, limits = (container["resources"][key] for key in ("requests", "limits"))
    assert requests == limits
    arguments = container["args"]
    assert arguments[arguments.index("--cores") + 1] == limits["cpu"]
    assert f"gpu={limits['nvidia.com/gpu']}" in arguments
    assert pod["volumes"][0]["persistentVolumeClaim"]["claimName"] == volume["metadata"]["name"]
    assert container["envFrom"][0]["secretRef"]["name"] == secret["metadata"]["name"]
    assert pod["initContainers"][0]["image"] == container["image"]
    assert pod["securityContext"]["runAsNonRoot"]


def test_the_containers_are_built_from_the_pins_by_one_script():
    recipes = [(ROOT / "containers" / name).read_text() for name in ("Dockerfile", "apptainer.def")]
    bases = {line.partition("BASE=")[2] for text in recipes for line in text.splitlines() if "BASE=" in line}
    assert len(bases) == 1
    for text in recipes:
        assert "constraints.txt" in text
        assert "install.sh" in text
    assert "USER study" in recipes[0]
    command = ["sh", ROOT / "containers/install.sh", "tpu", "s3"]
    refused = subprocess.run(command, capture_output=True, text=True)
    assert refused.returncode
    assert refused.stderr == "install.sh: TORCH must be cuda or cpu (got 'tpu')\n"


def test_no_result_and_no_credential_gets_into_an_image():
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    assert {".git/config", ".dvc/config.local", ".dvc/cache", "**/.env"} <= set(ignored)
    # no results: a lock of params/, and pages of `dvc plots`
    harmless = {"params/.lock.yaml.lock", "dvc_plots"}
    lines = (ROOT / ".gitignore").read_text().splitlines()
    names = {line.strip("/") for line in lines if line.startswith("/")} - harmless
    missing = {name for name in names if name not in ignored and f"**/{Path(name).name}" not in ignored}
    assert missing == set()


def test_the_workflow_catalog_finds_what_it_asks_for():
    catalog = yaml.safe_load((ROOT / ".snakemake-workflow-catalog.yml").read_text())
    assert set(catalog["usage"]["software-stack-deployment"]) == {
        "conda",
        "apptainer",
        "apptainer+conda",
        "report",
    }
    assert catalog["usage"]["report"] is True
    for name in ("workflow/Snakefile", "config/README.md", "README.md", "LICENSE"):
        assert (ROOT / name).is_file()
    assert os.path.samefile(ROOT / "profiles", PROFILES)


def test_scores_and_reports_get_the_trainings_that_they_read_but_no_base():
    study = load_study("quickstart")
    adapters = set(study.paths("train"))
    for stage, count in (("score", 1), ("report", len(adapters))):
        artifact = next(
            item for item in study.artifacts[stage] if stage == "report" or "lora" in str(item.path)
        )
        paths = set(storage.list_inputs(artifact))
        assert len(paths & adapters) == count
        assert not paths & set(study.paths("base"))
