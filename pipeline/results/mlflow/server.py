"""MLflow's user interface for a study: its address, and a server on this machine."""

import contextlib
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request

from pipeline.core.errors import UserError
from pipeline.results.mlflow.client import find_experiment
from pipeline.results.mlflow.store import TrackingError, experiment_name, is_server, store_address
from pipeline.results.mlflow.view import view_path

DEFAULT_PORT = 5000
STARTUP_TIMEOUT_S = 120


def find_address(study: str, *, port: int = DEFAULT_PORT) -> str | None:
    """Return the address of a study's runs: on the server of MLFLOW_TRACKING_URI, or on this machine.

    Returns:
        None if nothing of the study is recorded.

    Raises:
        TrackingError: the store cannot be read; the message is one line.
    """
    experiment_id = find_experiment(study)
    if experiment_id is None:
        return None
    store = store_address()
    return (store.rstrip("/") if is_server(store) else f"http://127.0.0.1:{port}") + view_path(experiment_id)


def serve_runs(study: str, *, port: int = DEFAULT_PORT) -> None:
    """Print the address of a study's runs; unless a server holds them, serve them until the user interrupts.

    Raises:
        UserError: the store cannot be read, no runs are recorded, the port is in use, or the server ended.
    """
    try:
        address = find_address(study, port=port)
    except TrackingError as error:
        raise UserError(f"MLflow: {error}") from None
    if address is None:
        raise UserError(
            f"MLflow has no runs of '{experiment_name(study)}' in {store_address()}; run the study, or record its results: "
            f"python -m pipeline track --study {study}"
        )
    if is_server(store_address()):
        print(address)
        return
    if _is_in_use(port):
        raise UserError(f"port {port} is in use; choose another: python -m pipeline ui --port {port + 1}")
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port)]
    # every user of this machine sees a command, and the address of a database may have a password
    environment = {**os.environ, "MLFLOW_BACKEND_STORE_URI": store_address()}
    print("starting MLflow's server", file=sys.stderr, flush=True)
    server = subprocess.Popen(
        [*command, "--workers", "1"], env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        wait_for_server(server, port)
        print(f"{address}\nCtrl+C stops the server", flush=True)
        server.wait()
    except KeyboardInterrupt:
        # the user is done
        pass
    finally:
        server.terminate()
        server.wait()


def _is_in_use(port: int) -> bool:
    with contextlib.closing(socket.socket(socket.AF_INET, socket.SOCK_STREAM)) as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def wait_for_server(server: subprocess.Popen[bytes], port: int) -> None:
    """Wait until a server on this machine responds.

    Raises:
        UserError: it ended, or it does not respond in time.
    """
    # a proxy of the environment knows nothing of this machine's ports
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    deadline = time.monotonic() + STARTUP_TIMEOUT_S
    while server.poll() is None and time.monotonic() < deadline:
        with contextlib.suppress(urllib.error.URLError, OSError):
            opener.open(f"http://127.0.0.1:{port}/health", timeout=5)
            return
        time.sleep(0.2)
    raise UserError(
        f"MLflow's server did not start; to see its messages, run: mlflow server --backend-store-uri {store_address()}"
    )
