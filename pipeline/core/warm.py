"""One loaded parent for many short jobs: heavy imports are paid once a run, not once a job.

Importing torch, transformers, peft and mlflow costs some ten CPU seconds, more than a tiny adapter's training. When
Snakemake starts (``onstart``), ``start`` opens a server that imports them; ``python -m pipeline STAGE ...`` then asks
it for a forked child that runs the job with the caller's arguments, folder, environment and output. Where no server
answers (a person's shell, a cluster node, not Linux) the job runs in its own process as ever.

No child outlives its caller: the server kills it when the caller's connection closes, and all children and itself when
Snakemake is gone, also by kill -9. A child whose server is killed ends too (``pipeline.core.processes``).
"""

import contextlib
import gc
import importlib
import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from pipeline.core import processes

ADDRESS = "PIPELINE_WARM"
LOOK_SECONDS = 0.5  # between two looks whether snakemake is still there
PRELOADED = (
    "torch",
    "peft",
    "pyarrow.parquet",
    "transformers.models.llama.modeling_llama",
    "transformers.models.bloom.modeling_bloom",
    "transformers.models.gptj.modeling_gptj",
    "transformers.generation.utils",
    "pipeline.models.train",
    "pipeline.evaluate.generation.generate",
    "pipeline.results.mlflow.client",
)


def start(jobs: int) -> None:
    """Open a server for this process's jobs that import torch, and tell them its address by the environment.

    Linux only, and only where several jobs would use it.
    """
    if sys.platform != "linux" or jobs < 2:
        return
    folder = tempfile.mkdtemp(prefix="pipeline-warm-")  # readable by this user alone
    os.environ[ADDRESS] = str(Path(folder) / "socket")
    command = [sys.executable, "-m", "pipeline", "warm", os.environ[ADDRESS], str(os.getpid())]
    # One thread each: the libraries read this when they are loaded, here, and many jobs run side by side.
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    # A session of its own: Ctrl-C reaches the callers, and the server ends the children of those that die.
    subprocess.Popen(command, start_new_session=True, stdin=subprocess.DEVNULL, env=environment)


def ask(arguments: Sequence[str]) -> int | None:
    """Have the server run ``python -m pipeline ARGUMENTS``; return its exit status, None where no server answers."""
    address = os.environ.get(ADDRESS)
    if not address:
        return None
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        try:
            connection.connect(address)
            request = json.dumps(
                {"arguments": list(arguments), "folder": os.getcwd(), "environment": dict(os.environ)}
            )
            body = request.encode()
            socket.send_fds(connection, [len(body).to_bytes(8, "big")], [1, 2])
            connection.sendall(body)
            answer = connection.recv(1)
        except OSError:
            return None
    if not answer:
        print("error: the process that ran this job was killed; start again", file=sys.stderr)
    return answer[0] if answer else 1


def serve(address: str, parent: int, run: Callable[[list[str]], int]) -> None:
    """Fork a child for each caller until the process ``parent`` is gone."""
    callers: dict[int, socket.socket] = {}
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as door:
        door.bind(f"{address}.new")
        door.listen(256)
        os.rename(f"{address}.new", address)  # who finds it there is answered
        os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = (
            "1"  # a CUDA context in the parent would be lost on fork
        )
        with _ending_with(parent, address):
            for module in PRELOADED:
                importlib.import_module(module)
        gc.freeze()  # children that collect garbage would else copy every page of the parent
        while os.getppid() == parent:
            ready, _, _ = select.select([door, *callers.values()], [], [], 0.05 if callers else LOOK_SECONDS)
            if door in ready:
                connection, _ = door.accept()
                callers[_fork(connection, door, run)] = connection
            _end_orphans(callers, ready)
            _report_ended(callers)
    for child in callers:
        os.kill(child, signal.SIGKILL)
    _clear(address)


def _clear(address: str) -> None:
    shutil.rmtree(Path(address).parent, ignore_errors=True)


@contextlib.contextmanager
def _ending_with(parent: int, address: str) -> Iterator[None]:
    """End this process if ``parent`` ends while it imports; by a timer, since a thread must not be there when it forks."""

    def look(*_: object) -> None:
        if os.getppid() != parent:
            _clear(address)
            os._exit(1)

    signal.signal(signal.SIGALRM, look)
    signal.setitimer(signal.ITIMER_REAL, LOOK_SECONDS, LOOK_SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, signal.SIG_DFL)


def _fork(connection: socket.socket, door: socket.socket, run: Callable[[list[str]], int]) -> int:
    header, descriptors, _, _ = socket.recv_fds(connection, 8, 2)
    body = connection.recv(int.from_bytes(header, "big"), socket.MSG_WAITALL)
    sys.stdout.flush()
    sys.stderr.flush()
    server = os.getpid()
    child = os.fork()
    if child:
        for descriptor in descriptors:
            os.close(descriptor)
        return child
    status = 1
    try:
        os.dup2(descriptors[0], 1)
        os.dup2(descriptors[1], 2)
        door.close()
        connection.close()
        request = json.loads(body)
        os.chdir(request["folder"])
        os.environ.clear()
        os.environ.update(request["environment"])
        sys.argv[1:] = request["arguments"]
        processes.end_with(server)
        status = run(request["arguments"])
    except SystemExit as stop:
        status = stop.code if isinstance(stop.code, int) else 1
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        with contextlib.suppress(OSError, ValueError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(status)


def _end_orphans(callers: dict[int, socket.socket], ready: Sequence[socket.socket]) -> None:
    for child, connection in callers.items():
        if connection in ready:  # a caller sends nothing more: readable means closed
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)


def _report_ended(callers: dict[int, socket.socket]) -> None:
    while callers:
        child, status = os.waitpid(-1, os.WNOHANG)
        if not child:
            return
        code = os.waitstatus_to_exitcode(status)
        with callers.pop(child) as connection, contextlib.suppress(OSError):
            connection.sendall(bytes([code if code >= 0 else 128 - code]))
