"""Remotes: a damaged object is never installed, a killed transfer is completed by the next, a partial pull is enough."""

import hashlib
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.conftest import Checkout

KILLED_WHILE_LISTING = """
import os, signal, sys
from dvc.cli import main
from dvc_data.index import DataIndex
# the fourth time that it writes the objects it has listed so far
write, remaining = DataIndex.commit, [4]
def killed(index):
    write(index)
    remaining[0] -= 1
    if not remaining[0]:
        os.kill(os.getpid(), signal.SIGKILL)
DataIndex.commit = killed
main(sys.argv[1:])
"""


KILLED_MIDWAY = """
import os, signal, sys
from dvc.cli import main
folder, remaining = sys.argv[1], int(sys.argv[2])
def watch(event, arguments):
    global remaining
    if event == "os.rename" and os.fspath(arguments[1]).startswith(folder):
        remaining -= 1
        # the file is complete but does not have its final name
        if not remaining:
            os.kill(os.getpid(), signal.SIGKILL)
sys.addaudithook(watch)
main(sys.argv[3:])
"""


@pytest.fixture(scope="module")
def pushed(finished, tmp_path_factory) -> tuple[Checkout, Path]:
    """A checkout whose results are committed and pushed to a folder; the folder."""
    folder = tmp_path_factory.mktemp("shared")
    finished.run("cp", "-r", str(finished.folder), str(folder / "origin"))
    origin, remote = Checkout(folder / "origin"), folder / "remote"
    origin.run("dvc", "remote", "modify", "--quiet", "shared", "url", str(remote))
    origin.run("git", "add", "--all")
    origin.run("git", "commit", "--quiet", "--message", "results")
    origin.run("dvc", "push", "--quiet")
    return origin, remote


def clone(origin: Checkout, folder: Path) -> Checkout:
    origin.run("git", "clone", "--quiet", str(origin.folder), str(folder))
    return Checkout(folder)


def damaged_objects(folder: Path) -> list[Path]:
    """Return the objects of a cache or remote whose content does not match their name."""
    return [
        path
        for path in (folder / "files/md5").glob("*/*")
        # a killed transfer leaves .tmp files, which are not objects
        if not path.name.endswith(".tmp")
        and hashlib.md5(path.read_bytes()).hexdigest() != f"{path.parent.name}{path.stem}"
    ]


def object_of(remote: Path, result: Path) -> Path:
    digest = hashlib.md5(result.read_bytes()).hexdigest()
    return remote / "files/md5" / digest[:2] / digest[2:]


def damage(path: Path, how: str) -> None:
    path.chmod(0o644)
    content = path.read_bytes()
    path.write_bytes(content[:-7] if how == "truncated" else bytes([content[0] ^ 1]) + content[1:])


@pytest.mark.parametrize("how", ["flipped", "truncated"])
def test_a_damaged_object_fails_the_pull_and_is_repaired(pushed, tmp_path, how):
    origin, remote = pushed
    (weights,) = origin.folder.glob("results/adapters/small-llama/lora/*/*/*/adapter_model.safetensors")
    damage(object_of(remote, weights), how)
    other = clone(origin, tmp_path / "clone")
    assert "failed" in other.run("dvc", "pull", ok=False)
    assert not (other.folder / weights.relative_to(origin.folder)).exists()
    assert damaged_objects(other.folder / ".dvc/cache") == []

    assert "1 damaged" in other.run("python", "-m", "pipeline", "check-remote", ok=False)
    assert "1 damaged" in origin.run("python", "-m", "pipeline", "check-remote", "--remove")
    origin.run("dvc", "push", "--quiet")
    assert "0 damaged" in origin.run("python", "-m", "pipeline", "check-remote")
    other.run("dvc", "pull", "--quiet")
    assert (other.folder / weights.relative_to(origin.folder)).read_bytes() == weights.read_bytes()
    assert "up to date" in other.run("dvc", "status")


def test_a_remote_that_a_user_adds_is_checked_too(pushed, tmp_path):
    origin, _ = pushed
    other = clone(origin, tmp_path / "clone")
    other.run("dvc", "pull", "--quiet")
    other.run("dvc", "remote", "add", "--quiet", "own", str(tmp_path / "own"))
    other.run("dvc", "remote", "add", "--quiet", "--local", "near", str(tmp_path / "near"))
    other.run("dvc", "remote", "add", "--quiet", "fast", str(tmp_path / "fast"))
    other.run("dvc", "remote", "modify", "--quiet", "fast", "verify", "false")
    output = other.run("python", "-m", "pipeline", "commit")
    assert "remote 'own'" in output
    assert "remote 'near'" in output
    assert "remote 'fast'" not in output
    assert "remote 'shared'" not in output
    committed = (other.folder / ".dvc/config").read_text()
    assert committed.count("verify = true") == 2
    assert committed.count("verify = false") == 1
    assert "near" not in committed
    assert "verify = true" in (other.folder / ".dvc/config.local").read_text()
    assert "remote '" not in other.run("python", "-m", "pipeline", "commit")


@pytest.mark.parametrize("when", [1, 12, 40])
def test_a_killed_push_and_a_killed_pull_are_completed_by_the_next(pushed, tmp_path, when):
    origin, _ = pushed
    remote = tmp_path / "remote"
    remote.mkdir()
    sender = clone(origin, tmp_path / "sender")
    sender.run("dvc", "pull", "--quiet")
    sender.run("dvc", "remote", "modify", "--quiet", "--local", "shared", "url", str(remote))
    sender.run("python", "-c", KILLED_MIDWAY, str(remote), str(when), "push", "--quiet", ok=False)
    assert sum(path.is_file() for path in remote.rglob("*")) == when
    sender.run("python", "-m", "pipeline", "push")
    assert "0 damaged" in sender.run("python", "-m", "pipeline", "check-remote")

    other = clone(origin, tmp_path / "other")
    other.run("dvc", "remote", "modify", "--quiet", "--local", "shared", "url", str(remote))
    cache = other.folder / ".dvc/cache"
    other.run("python", "-c", KILLED_MIDWAY, str(cache), str(when), "pull", "--quiet", ok=False)
    assert sum(path.is_file() for path in cache.rglob("*")) == when
    other.run("python", "-m", "pipeline", "pull")
    assert damaged_objects(other.folder / ".dvc/cache") == []
    assert other.planned() == {}
    assert "up to date" in other.run("dvc", "status")


@pytest.mark.parametrize("command", ["push", "pull"])
def test_a_transfer_killed_while_listing_is_completed_by_the_next(pushed, tmp_path, command):
    origin, _ = pushed
    other = clone(origin, tmp_path / "other")
    if command == "push":
        other.run("dvc", "pull", "--quiet")
        other.run("dvc", "remote", "modify", "--quiet", "--local", "shared", "url", str(tmp_path / "remote"))
    other.run("python", "-c", KILLED_WHILE_LISTING, command, "--quiet", ok=False)
    other.run("python", "-m", "pipeline", command, "--quiet", "--jobs", "2")
    assert "dvc.lock: 0 results are missing in the remote" in other.run(
        "python", "-m", "pipeline", "check-remote"
    )
    assert other.planned() == {}


@pytest.mark.parametrize("command", ["push", "pull"])
def test_objects_that_a_killed_transfer_left_empty_are_sent_again(pushed, tmp_path, command):
    origin, remote = pushed
    other = clone(origin, tmp_path / "other")
    place = other.folder / ".dvc/cache"
    if command == "push":
        other.run("dvc", "pull", "--quiet")
        place = tmp_path / "remote"
        other.run("dvc", "remote", "modify", "--quiet", "--local", "shared", "url", str(place))
    for listing in sorted((remote / "files/md5").glob("*/*.dir"))[:3]:
        empty = place / listing.relative_to(remote)
        # listings may share the two digits that name their folder
        empty.parent.mkdir(parents=True, exist_ok=True)
        empty.touch()
    other.run("python", "-m", "pipeline", command)
    assert damaged_objects(place) == []
    assert "dvc.lock: 0 results are missing in the remote" in other.run(
        "python", "-m", "pipeline", "check-remote"
    )
    assert other.planned() == {}


def test_missing_results_in_a_remote_are_reported(pushed, tmp_path):
    origin, _ = pushed
    other = clone(origin, tmp_path / "other")
    other.run("dvc", "pull", "--quiet")
    other.run("dvc", "remote", "modify", "--quiet", "--local", "shared", "url", str(tmp_path / "remote"))
    other.run("python", "-c", KILLED_WHILE_LISTING, "push", "--quiet", ok=False)
    other.run("dvc", "push")  # sends what the killed one had listed, and reports success
    output = other.run("python", "-m", "pipeline", "check-remote", ok=False)
    assert "missing: reports/small" in output
    assert "incomplete; send the missing results: python -m pipeline push" in output


@pytest.fixture
def s3(monkeypatch) -> Iterator[str]:
    """Yield the address of an S3 server on loopback with one bucket, "store"."""
    import boto3

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"):
        monkeypatch.delenv(name, raising=False)
    address = f"http://127.0.0.1:{port}"
    server = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        client = boto3.client("s3", endpoint_url=address, region_name="us-east-1")
        for _ in range(3000):
            assert server.poll() is None
            try:
                client.create_bucket(Bucket="store")
                break
            except OSError:
                time.sleep(0.1)
            except Exception as error:
                if "Could not connect" not in str(error):
                    raise
                time.sleep(0.1)
        yield address
    finally:
        server.terminate()
        server.wait()


def test_s3_carries_results_and_refuses_a_damaged_object(pushed, tmp_path, s3):
    import boto3

    origin, _ = pushed
    sender = clone(origin, tmp_path / "sender")
    sender.run("dvc", "pull", "--quiet")
    for option, value in (("url", "s3://store/results"), ("endpointurl", s3), ("region", "us-east-1")):
        sender.run("dvc", "remote", "modify", "--quiet", "shared", option, value)
    sender.run("git", "commit", "--quiet", "--all", "--message", "remote")
    sender.run("dvc", "push", "--quiet")
    other = clone(sender, tmp_path / "other")
    other.run("dvc", "pull", "--quiet")
    assert other.planned() == {}
    assert "up to date" in other.run("dvc", "status")

    (answers,) = sender.folder.glob("results/answers/small-llama/lora/*/*/*/*.jsonl")
    name = "results/" + str(object_of(Path(), answers))
    bucket = boto3.resource("s3", endpoint_url=s3, region_name="us-east-1").Bucket("store")
    bucket.put_object(Key=name, Body=answers.read_bytes()[:-1] + b"x")
    third = clone(sender, tmp_path / "third")
    third.run("dvc", "pull", ok=False)
    assert damaged_objects(third.folder / ".dvc/cache") == []
    assert not (third.folder / answers.relative_to(sender.folder)).exists()
    assert "1 damaged" in sender.run("python", "-m", "pipeline", "check-remote", "--remove")
    sender.run("dvc", "push", "--quiet")
    third.run("dvc", "pull", "--quiet")
    assert third.planned() == {}


def test_the_report_is_rebuilt_from_only_its_inputs(pushed, tmp_path):
    origin, _ = pushed
    page = origin.folder / "reports/small/index.html"
    other = clone(origin, tmp_path / "clone")
    needed = other.run("python", "-m", "pipeline", "paths", "report", "--needed").split()
    other.run("dvc", "pull", "--quiet", *needed)
    assert not list(other.folder.rglob("*.safetensors"))
    assert other.planned() == {"report": ["reports/small/manifest"]}
    other.snakemake()
    assert other.planned() == {}
    assert (other.folder / "reports/small/index.html").read_bytes() == page.read_bytes()
    refused = other.run("python", "-m", "pipeline", "commit", ok=False)
    assert "would drop them" in refused
    other.run("dvc", "pull", "--quiet", "--force")  # replaces the report built here
    other.run("python", "-m", "pipeline", "commit")


def test_the_evaluation_of_one_model_reruns_from_only_its_inputs(pushed, tmp_path):
    origin, _ = pushed
    other = clone(origin, tmp_path / "clone")
    model_option = ("--model", "small-llama")
    needed = other.run("python", "-m", "pipeline", "paths", "generate", "--needed", *model_option).split()
    assert {Path(path).parts[1] for path in needed} == {"prompts", "bases", "adapters"}
    other.run("dvc", "pull", "--quiet", *needed)
    scores = other.run("python", "-m", "pipeline", "paths", "score", *model_option).split()
    other.snakemake(*scores)
    for path in scores:
        assert (other.folder / path).read_bytes() == (origin.folder / path).read_bytes()
    ran = {path.name for path in (other.folder / "logs").iterdir() if path.is_dir()}
    assert ran == {"generate", "score"}
