"""Remotes: a damaged object is never installed, a killed transfer is completed by the next, a partial pull is enough."""

import hashlib
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.conftest import Checkout, copy_checkout

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
    """Return a checkout whose results are committed and pushed to a remote, and the folder of the remote."""
    folder = tmp_path_factory.mktemp("shared")
    origin, remote = copy_checkout(finished, folder / "origin"), folder / "remote"
    origin.run("dvc", "remote", "modify", "--quiet", "shared", "url", str(remote))
    origin.run("git", "add", "--all")
    origin.run("git", "commit", "--quiet", "--message", "results")
    origin.run("dvc", "push", "--quiet")
    return origin, remote


def clone(origin: Checkout, folder: Path) -> Checkout:
    """Return a git clone of a checkout, without results."""
    origin.run("git", "clone", "--quiet", str(origin.folder), str(folder))
    return Checkout(folder)


def use_remote(checkout: Checkout, remote: Path) -> None:
    """Let the shared remote of a checkout be another folder, in settings that git does not track."""
    checkout.run("dvc", "remote", "modify", "--quiet", "--local", "shared", "url", str(remote))


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
    """Return the path of a result's object in a cache or remote."""
    digest = hashlib.md5(result.read_bytes()).hexdigest()
    return remote / "files/md5" / digest[:2] / digest[2:]


def damage(path: Path, kind: str) -> None:
    """Truncate a file, or flip a bit of it."""
    path.chmod(0o644)
    content = path.read_bytes()
    path.write_bytes(content[:-7] if kind == "truncated" else bytes([content[0] ^ 1]) + content[1:])


@pytest.mark.parametrize("kind", ["flipped", "truncated"])
def test_a_damaged_object_fails_the_pull_and_is_repaired(pushed, tmp_path, kind):
    # copies, since the damage must not reach the tests that share the remote
    origin, remote = copy_checkout(pushed[0], tmp_path / "origin"), tmp_path / "remote"
    shutil.copytree(pushed[1], remote)
    use_remote(origin, remote)
    (weights,) = origin.folder.glob("results/adapters/small-llama/lora/*/*/*/adapter_model.safetensors")
    damage(object_of(remote, weights), kind)
    user = clone(origin, tmp_path / "clone")
    use_remote(user, remote)
    assert "failed" in user.run("dvc", "pull", ok=False)
    assert not (user.folder / weights.relative_to(origin.folder)).exists()
    assert damaged_objects(user.folder / ".dvc/cache") == []

    assert "1 damaged" in user.run("python", "-m", "pipeline", "check-remote", ok=False)
    assert "1 damaged" in origin.run("python", "-m", "pipeline", "check-remote", "--remove")
    origin.run("dvc", "push", "--quiet")
    assert "0 damaged" in origin.run("python", "-m", "pipeline", "check-remote")
    user.run("dvc", "pull", "--quiet")
    assert (user.folder / weights.relative_to(origin.folder)).read_bytes() == weights.read_bytes()
    assert "up to date" in user.run("dvc", "status")


def test_a_remote_that_a_user_adds_is_checked_too(pushed, tmp_path):
    origin, _ = pushed
    user = clone(origin, tmp_path / "clone")
    user.run("dvc", "pull", "--quiet")
    user.run("dvc", "remote", "add", "--quiet", "own", str(tmp_path / "own"))
    user.run("dvc", "remote", "add", "--quiet", "--local", "near", str(tmp_path / "near"))
    user.run("dvc", "remote", "add", "--quiet", "fast", str(tmp_path / "fast"))
    user.run("dvc", "remote", "modify", "--quiet", "fast", "verify", "false")
    output = user.run("python", "-m", "pipeline", "commit")
    assert "remote 'own'" in output
    assert "remote 'near'" in output
    assert "remote 'fast'" not in output
    assert "remote 'shared'" not in output
    committed = (user.folder / ".dvc/config").read_text()
    assert committed.count("verify = true") == 2
    assert committed.count("verify = false") == 1
    assert "near" not in committed
    assert "verify = true" in (user.folder / ".dvc/config.local").read_text()
    assert "remote '" not in user.run("python", "-m", "pipeline", "commit")


@pytest.mark.parametrize(
    "count",
    [pytest.param(1, marks=pytest.mark.exhaustive), 12, pytest.param(40, marks=pytest.mark.exhaustive)],
)
def test_a_killed_push_and_a_killed_pull_are_completed_by_the_next(pushed, tmp_path, count):
    origin, _ = pushed
    remote = tmp_path / "remote"
    remote.mkdir()
    sender = clone(origin, tmp_path / "sender")
    sender.run("dvc", "pull", "--quiet")
    use_remote(sender, remote)
    sender.run("python", "-c", KILLED_MIDWAY, str(remote), str(count), "push", "--quiet", ok=False)
    assert sum(path.is_file() for path in remote.rglob("*")) == count
    sender.run("python", "-m", "pipeline", "push")
    assert "0 damaged" in sender.run("python", "-m", "pipeline", "check-remote")

    user = clone(origin, tmp_path / "user")
    use_remote(user, remote)
    cache = user.folder / ".dvc/cache"
    user.run("python", "-c", KILLED_MIDWAY, str(cache), str(count), "pull", "--quiet", ok=False)
    assert sum(path.is_file() for path in cache.rglob("*")) == count
    user.run("python", "-m", "pipeline", "pull")
    assert damaged_objects(user.folder / ".dvc/cache") == []
    assert user.planned() == {}
    assert "up to date" in user.run("dvc", "status")


@pytest.mark.parametrize("command", ["push", "pull"])
def test_a_transfer_killed_while_listing_is_completed_by_the_next(pushed, tmp_path, command):
    origin, _ = pushed
    user = clone(origin, tmp_path / "user")
    if command == "push":
        user.run("dvc", "pull", "--quiet")
        use_remote(user, tmp_path / "remote")
    user.run("python", "-c", KILLED_WHILE_LISTING, command, "--quiet", ok=False)
    user.run("python", "-m", "pipeline", command, "--quiet", "--jobs", "2")
    assert "dvc.lock: 0 results are missing in the remote" in user.run(
        "python", "-m", "pipeline", "check-remote"
    )
    assert user.planned() == {}


@pytest.mark.parametrize("command", ["push", "pull"])
def test_objects_that_a_killed_transfer_left_empty_are_sent_again(pushed, tmp_path, command):
    origin, remote = pushed
    user = clone(origin, tmp_path / "user")
    target = user.folder / ".dvc/cache"
    if command == "push":
        user.run("dvc", "pull", "--quiet")
        target = tmp_path / "remote"
        use_remote(user, target)
    for listing in sorted((remote / "files/md5").glob("*/*.dir"))[:3]:
        empty = target / listing.relative_to(remote)
        # listings may share the two digits that name their folder
        empty.parent.mkdir(parents=True, exist_ok=True)
        empty.touch()
    user.run("python", "-m", "pipeline", command)
    assert damaged_objects(target) == []
    assert "dvc.lock: 0 results are missing in the remote" in user.run(
        "python", "-m", "pipeline", "check-remote"
    )
    assert user.planned() == {}


def test_missing_results_in_a_remote_are_reported(pushed, tmp_path):
    origin, _ = pushed
    user = clone(origin, tmp_path / "user")
    user.run("dvc", "pull", "--quiet")
    use_remote(user, tmp_path / "remote")
    user.run("python", "-c", KILLED_WHILE_LISTING, "push", "--quiet", ok=False)
    # sends the objects that the killed push had listed, and reports success
    user.run("dvc", "push")
    output = user.run("python", "-m", "pipeline", "check-remote", ok=False)
    assert "missing: reports/small" in output
    assert "incomplete; send the missing results: python -m pipeline push" in output


@pytest.fixture
def s3(monkeypatch) -> Iterator[str]:
    """Yield the address of an S3 server on a free local port with a bucket, "store"."""
    import boto3
    from moto.server import ThreadedMotoServer

    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"):
        monkeypatch.delenv(name, raising=False)
    # port 0: the kernel chooses a free port when the server binds it
    server = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        address = f"http://{host}:{port}"
        boto3.client("s3", endpoint_url=address, region_name="us-east-1").create_bucket(Bucket="store")
        yield address
    finally:
        server.stop()


def test_s3_carries_results_and_refuses_a_damaged_object(pushed, tmp_path, s3):
    import boto3

    origin, _ = pushed
    sender = clone(origin, tmp_path / "sender")
    sender.run("dvc", "pull", "--quiet")
    for option, value in (("url", "s3://store/results"), ("endpointurl", s3), ("region", "us-east-1")):
        sender.run("dvc", "remote", "modify", "--quiet", "shared", option, value)
    sender.run("git", "commit", "--quiet", "--all", "--message", "remote")
    sender.run("dvc", "push", "--quiet")
    user = clone(sender, tmp_path / "user")
    user.run("dvc", "pull", "--quiet")
    assert user.planned() == {}
    assert "up to date" in user.run("dvc", "status")

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
    user = clone(origin, tmp_path / "clone")
    needed = user.run("python", "-m", "pipeline", "paths", "report", "--needed").split()
    user.run("dvc", "pull", "--quiet", *needed)
    assert not list(user.folder.rglob("*.safetensors"))
    assert user.planned() == {"report": ["reports/small/manifest"]}
    user.snakemake()
    assert user.planned() == {}
    assert (user.folder / "reports/small/index.html").read_bytes() == page.read_bytes()
    output = user.run("python", "-m", "pipeline", "commit", ok=False)
    assert "would drop them" in output
    # replaces the report that was built in this clone
    user.run("dvc", "pull", "--quiet", "--force")
    user.run("python", "-m", "pipeline", "commit")


@pytest.mark.exhaustive
def test_the_evaluation_of_one_model_reruns_from_only_its_inputs(pushed, tmp_path):
    origin, _ = pushed
    user = clone(origin, tmp_path / "clone")
    model_option = ("--model", "small-llama")
    needed = user.run("python", "-m", "pipeline", "paths", "generate", "--needed", *model_option).split()
    assert {Path(path).parts[1] for path in needed} == {"prompts", "bases", "adapters"}
    user.run("dvc", "pull", "--quiet", *needed)
    scores = user.run("python", "-m", "pipeline", "paths", "score", *model_option).split()
    user.snakemake(*scores)
    for path in scores:
        assert (user.folder / path).read_bytes() == (origin.folder / path).read_bytes()
    ran = {path.name for path in (user.folder / "logs").iterdir() if path.is_dir()}
    assert ran == {"generate", "score"}


def test_a_pull_brings_what_the_remote_has(pushed, tmp_path):
    origin, remote = pushed
    shutil.copytree(remote, tmp_path / "remote")
    [weights] = origin.folder.glob("results/adapters/small-llama/lora/**/adapter_model.safetensors")
    object_of(tmp_path / "remote", weights).unlink()
    copy = clone(origin, tmp_path / "copy")
    use_remote(copy, tmp_path / "remote")
    output = copy.run("python", "-m", "pipeline", "pull", ok=False)
    lost = weights.parent.relative_to(origin.folder)
    assert f"the remote lacks files of {lost}" in output
    assert "1 are not; snakemake makes them again" in output
    assert not (copy.folder / lost).exists()
    # all else is there, so nothing runs for the report
    assert list(copy.folder.glob("results/adapters/small-llama/series/**/adapter_model.safetensors"))
    assert copy.planned() == {}


@pytest.mark.exhaustive
def test_a_model_is_pushed_and_pulled_by_name_and_a_later_push_sends_the_rest(pushed, tmp_path):
    origin, remote = copy_checkout(pushed[0], tmp_path / "origin"), tmp_path / "remote"
    use_remote(origin, remote)
    by_name = ("--study", "small", "--model", "small-llama")
    pushing = origin.run("python", "-m", "pipeline", "push", *by_name)
    count = int(re.search(r"(\d+) of \1 files pushed", pushing)[1])
    # no listing under the name by which DVC takes the remote for complete
    objects = list((remote / "files/md5").glob("*/*"))
    assert len(objects) == count
    assert not [path for path in objects if path.suffix == ".dir"]
    assert f"0 of {count} files pushed" in origin.run("python", "-m", "pipeline", "push", *by_name)
    assert "results/adapters" in origin.run("python", "-m", "pipeline", "check-remote", ok=False)

    user = clone(origin, tmp_path / "user")
    use_remote(user, remote)
    user.run("python", "-m", "pipeline", "pull", *by_name)
    for folder in ("results/adapters", "results/scores", "results/bases"):
        names = {
            path.relative_to(origin.folder): path.read_bytes() for path in files_in(origin.folder / folder)
        }
        assert {
            path.relative_to(user.folder): path.read_bytes() for path in files_in(user.folder / folder)
        } == names
    assert not (user.folder / "reports/small").exists()
    # a push from the checkout that has a part sends no listing of a folder of which it lacks files
    user.run("dvc", "push", "--quiet")
    status = user.run("python", "-m", "pipeline", "check-remote", ok=False)
    assert "0 incomplete folders" in status
    assert "missing: reports/small" in status

    origin.run("dvc", "push", "--quiet")
    assert "0 results are missing" in origin.run("python", "-m", "pipeline", "check-remote")
    other = clone(origin, tmp_path / "other")
    use_remote(other, remote)
    other.run("dvc", "pull", "--quiet")
    assert (other.folder / "reports/small/index.html").exists()


def files_in(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]
