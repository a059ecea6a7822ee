"""A shared MLflow server with users on PostgreSQL: parallel writers, kills, slowness, users, secrets and a backup."""

import json
import socket
import time
import urllib.error
import urllib.request
from base64 import b64encode
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from threading import Thread

import pytest
from mlflow.tracking import MlflowClient

from pipeline.results.mlflow import client, outage, server, store
from tests.finished_run import STUDY, make_run
from tests.loopback_mlflow import ADMIN, HOST, PASSWORD, find_obstacle, running_server

pytestmark = [
    pytest.mark.skipif(find_obstacle() is not None, reason=str(find_obstacle())),
    pytest.mark.slow,
]

SECOND_USER, SECOND_PASSWORD = "second", "gravel-teacup-51"


@pytest.fixture(scope="module")
def mlflow_server(tmp_path_factory):
    with running_server(tmp_path_factory.mktemp("mlflow")) as running:
        ask(running, "POST", "users/create", username=SECOND_USER, password=SECOND_PASSWORD)
        yield running


def ask(running, method, path, *, headers=None, **content):
    """Send a request to the server as its administrator."""
    token = b64encode(f"{ADMIN}:{PASSWORD}".encode()).decode()
    headers = {"Authorization": f"Basic {token}", "Content-Type": "application/json", **(headers or {})}
    request = urllib.request.Request(
        f"{running.address}/api/2.0/mlflow/{path}", json.dumps(content).encode(), headers, method=method
    )
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=30) as response:
        return response.read()


@pytest.fixture(autouse=True)
def prefix(request, tmp_path, monkeypatch):
    """Work in an empty folder as the administrator; each test has experiments of its own."""
    monkeypatch.chdir(tmp_path)
    name = request.node.name
    monkeypatch.setenv("MLFLOW_EXPERIMENT_PREFIX", name)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    # a busy machine may take longer than the 5 s after which a job continues without the server
    monkeypatch.setattr(store, "PROBE_TIMEOUT_S", 60)
    sign_in(monkeypatch, ADMIN, PASSWORD)
    return name


def sign_in(monkeypatch, user, password):
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", user)
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", password)


@pytest.fixture
def address(mlflow_server, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow_server.address)
    return mlflow_server.address


def find_runs(address, kind="run", *, prefix):
    mlflow = MlflowClient(address)
    experiment = mlflow.get_experiment_by_name(f"{prefix}/study")
    return list(mlflow.search_runs([experiment.experiment_id], f"tags.kind = '{kind}'"))


def complete_runs(address, prefix):
    return sorted(
        run.data.tags["fingerprint"]
        for run in find_runs(address, prefix=prefix)
        if run.info.status == "FINISHED"
    )


def losses(address, run_id):
    history = MlflowClient(address).get_metric_history(run_id, "loss")
    return sorted((metric.step, metric.value) for metric in history)


EVERY_LOSS = [(step, 2.0 / step) for step in range(1, 6)]


@contextmanager
def relay(port, *, delay_s=0.0, calls=10**9, on_end=lambda: None):
    """Pass requests on to a port, each after a delay; after a number of requests call ``on_end`` and pass on no more."""
    listener = socket.create_server(("127.0.0.1", 0))
    passed = []

    def pump(source, target, is_request):
        while data := _receive(source):
            if is_request and data.split(b" ", 1)[0] in (b"GET", b"POST", b"PUT", b"PATCH", b"DELETE"):
                passed.append(data.split(b"\r\n", 1)[0])
                time.sleep(delay_s)
                if len(passed) == calls:
                    on_end()
                    break
            target.sendall(data)
        for connection in (source, target):
            _close(connection)

    def accept():
        while True:
            try:
                near, _ = listener.accept()
                far = socket.create_connection(("127.0.0.1", port))
            except OSError:
                # the listener or the server is gone
                if listener.fileno() == -1:
                    return
                near.close()
                continue
            Thread(target=pump, args=(near, far, True), daemon=True).start()
            Thread(target=pump, args=(far, near, False), daemon=True).start()

    thread = Thread(target=accept, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()


def _receive(connection):
    try:
        return connection.recv(65536)
    except OSError:
        return b""


def _close(connection):
    try:
        connection.shutdown(socket.SHUT_RDWR)
    except OSError:
        connection.close()


def test_eight_parallel_writers_of_a_new_study_record_each_run_once(address, prefix):
    finished = [make_run(f"run{number}") for number in range(8)]
    # two more write the same runs, as a second person does who has pulled the results
    with ThreadPoolExecutor(8) as pool:
        ids = list(pool.map(lambda run: run.track(), [*finished, *finished[:2]]))
    assert complete_runs(address, prefix) == [f"run{number}" for number in range(8)]
    (parent,) = find_runs(address, "study", prefix=prefix)
    runs = find_runs(address, prefix=prefix)
    assert {run.data.tags["mlflow.parentRunId"] for run in runs} == {parent.info.run_id}
    # of two writers of a run, the second may take the first one's run for that of a killed process
    assert {run.info.status for run in runs} <= {"FINISHED", "KILLED"}
    alive = {run.data.tags["fingerprint"]: run.info.run_id for run in runs if run.info.status == "FINISHED"}
    assert ids[2:8] == [alive[f"run{number}"] for number in range(2, 8)]
    assert all(losses(address, run_id) == EVERY_LOSS for run_id in alive.values())
    assert {run.data.tags["mlflow.user"] for run in runs} == {ADMIN}
    # once more: the same runs
    assert [run.track() for run in finished] == [alive[f"run{number}"] for number in range(8)]
    assert len(find_runs(address, prefix=prefix)) == len(runs)
    # the artifacts went through the server
    names = {entry.path for entry in MlflowClient(address).list_artifacts(ids[2], "adapters")}
    assert "adapters/adapter_model.safetensors" in names
    assert server.find_address("study").startswith(f"{address}/#/experiments/{runs[0].info.experiment_id}/")


def test_two_writers_of_a_run_leave_one_finished_run(address, prefix, monkeypatch):
    run = make_run("aaa")
    send_datasets = client.send_datasets

    def write_twice(*arguments):
        # while the first writer is at work, the second takes its open run for that of a killed process
        monkeypatch.setattr(client, "send_datasets", send_datasets)
        run.track()
        send_datasets(*arguments)

    monkeypatch.setattr(client, "send_datasets", write_twice)
    first = run.track()
    assert complete_runs(address, prefix) == ["aaa"]
    assert losses(address, first) == EVERY_LOSS
    assert run.track() == first


def test_browsers_and_clients_reach_it_by_the_name_of_the_proxy_only(mlflow_server):
    browser = {"Host": HOST, "Origin": f"https://{HOST}"}
    assert b"experiments" in ask(mlflow_server, "POST", "experiments/search", headers=browser, max_results=9)
    for headers in ({**browser, "Origin": "https://elsewhere.org"}, {"Host": "elsewhere.org"}):
        with pytest.raises(urllib.error.HTTPError, match="403"):
            ask(mlflow_server, "POST", "experiments/search", headers=headers, max_results=9)


def test_a_wrong_password_is_one_line(address, monkeypatch):
    run = make_run("aaa")
    sign_in(monkeypatch, ADMIN, "mistyped-password")
    with pytest.raises(store.TrackingError) as raised:
        run.track()
    line = f"{address} refuses the user 'admin': wrong MLFLOW_TRACKING_USERNAME or MLFLOW_TRACKING_PASSWORD"
    assert str(raised.value) == line
    monkeypatch.delenv("MLFLOW_TRACKING_USERNAME")
    monkeypatch.delenv("MLFLOW_TRACKING_PASSWORD")
    with pytest.raises(store.TrackingError, match="asks for a user: set MLFLOW_TRACKING_USERNAME and"):
        run.track()
    # that is no reason to leave the server alone
    assert not outage.OUTAGE.exists()


def test_a_second_person_has_experiments_of_their_own(address, prefix, monkeypatch):
    run = make_run("aaa")
    run.track()
    sign_in(monkeypatch, SECOND_USER, SECOND_PASSWORD)
    with pytest.raises(store.TrackingError) as raised:
        run.track()
    assert str(raised.value) == (
        f"{address}: the user 'second' may not write to this experiment; set MLFLOW_EXPERIMENT_PREFIX=second for "
        "experiments of your own, or ask its owner for the permission EDIT"
    )
    monkeypatch.setenv("MLFLOW_EXPERIMENT_PREFIX", f"{prefix}-second")
    run.track()
    (own,) = find_runs(address, prefix=f"{prefix}-second")
    assert own.data.tags["mlflow.user"] == SECOND_USER
    (parent,) = find_runs(address, "study", prefix=f"{prefix}-second")
    assert parent.info.run_name == "study"


def test_a_password_in_the_address_appears_nowhere(mlflow_server, prefix, monkeypatch, capfd, tmp_path):
    monkeypatch.delenv("MLFLOW_TRACKING_USERNAME")
    monkeypatch.delenv("MLFLOW_TRACKING_PASSWORD")
    host = mlflow_server.address.removeprefix("http://")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://{ADMIN}:{PASSWORD}@{host}")
    run_id = make_run("aaa").track()
    shown = [server.find_address("study")]
    mlflow = MlflowClient(mlflow_server.address)
    run = mlflow.get_run(run_id)
    (parent,) = find_runs(mlflow_server.address, "study", prefix=prefix)
    experiment = mlflow.get_experiment(run.info.experiment_id)
    shown += [str(entity.to_dictionary()) for entity in (run, parent)] + [str(dict(experiment))]
    # a server that is gone
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://{ADMIN}:{PASSWORD}@127.0.0.1:9")
    with pytest.raises(store.TrackingError) as raised:
        make_run("bbb").track()
    shown += [str(raised.value), *capfd.readouterr()]
    shown += [
        path.read_text(errors="replace")
        for folder in (tmp_path, mlflow_server.folder / "artifacts")
        for path in folder.rglob("*")
        if path.is_file()
    ]
    assert not [text for text in shown if PASSWORD in text]
    assert any("no response from http://127.0.0.1:9" in text for text in shown)


def test_a_server_killed_in_the_middle_of_a_run_loses_nothing(mlflow_server, prefix, monkeypatch):
    runs = [make_run(name) for name in ("aaa", "bbb", "ccc")]
    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow_server.address)
    runs[0].track()
    # the ninth request of the second run, after its params
    with relay(mlflow_server.port, calls=9, on_end=mlflow_server.kill) as middle:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", middle)
        started = time.monotonic()
        for run in runs[1:]:
            with pytest.raises(store.TrackingError):
                run.track(limit_s=outage.JOB_LIMIT_S)
        assert time.monotonic() - started < 30
    mlflow_server.start()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow_server.address)
    outage.end_outage()
    ids = [run.track() for run in runs]
    assert complete_runs(mlflow_server.address, prefix) == ["aaa", "bbb", "ccc"]
    assert all(losses(mlflow_server.address, run_id) == EVERY_LOSS for run_id in ids)
    interrupted = [
        run for run in find_runs(mlflow_server.address, prefix=prefix) if run.info.run_id not in ids
    ]
    assert {run.info.status for run in interrupted} <= {"KILLED"}


def test_a_slow_server_costs_a_job_a_minute_at_most_and_the_next_ones_nothing(
    mlflow_server, prefix, monkeypatch
):
    first, second = make_run("aaa"), make_run("bbb")
    with relay(mlflow_server.port, delay_s=0.7) as slow:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", slow)
        started = time.monotonic()
        with pytest.raises(store.TrackingError, match=f"^{slow}: it is slow: one run took more than 2 s$"):
            first.track(limit_s=2)
        # it looks at the time between requests
        assert time.monotonic() - started < 30
        started = time.monotonic()
        with pytest.raises(store.TrackingError, match=r"it is slow: .*; not tried again before \d\d:\d\d$"):
            second.track(limit_s=2)
        assert time.monotonic() - started < 3
        # the command `track` has all the time
        outage.end_outage()
        first.track()
    assert complete_runs(mlflow_server.address, prefix) == ["aaa"]


def test_a_server_without_its_database_costs_seconds_once(mlflow_server, prefix, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow_server.address)
    runs = [make_run(name) for name in ("aaa", "bbb", "ccc")]
    runs[0].track()
    mlflow_server.postgres.control("stop")
    try:
        started = time.monotonic()
        for run in runs[1:]:
            with pytest.raises(store.TrackingError) as raised:
                run.track(limit_s=outage.JOB_LIMIT_S)
            assert "\n" not in str(raised.value)
        assert time.monotonic() - started < 60
    finally:
        mlflow_server.postgres.control("start")
    outage.end_outage()
    for run in runs:
        run.track()
    assert complete_runs(mlflow_server.address, prefix) == ["aaa", "bbb", "ccc"]


def test_a_backup_restored_as_the_documentation_says_has_every_run(mlflow_server, address, prefix, tmp_path):
    run_id = make_run("aaa").track()
    client.write_report(STUDY, Path("reports"), fingerprints={"aaa"})
    postgres = mlflow_server.postgres
    backup = tmp_path / "mlflow.dump"
    postgres.call("pg_dump", "--format=custom", f"--file={backup}", "mlflow")
    postgres.call("createdb", "restored")
    postgres.call("pg_restore", "--dbname=restored", "--exit-on-error", str(backup))
    restored = MlflowClient(postgres.address("restored"))
    assert losses(postgres.address("restored"), run_id) == EVERY_LOSS
    assert restored.get_run(run_id).data.tags["in_report"] == "yes"
