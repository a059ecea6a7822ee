"""The warm server: a process with heavy imports loaded that forks a child for every job.

Importing torch, transformers, peft and mlflow takes about ten CPU seconds, more than training a tiny adapter. When
Snakemake starts (``onstart``), ``start_server`` opens a server that imports them once. ``python -m pipeline STAGE ...``
then asks it for a forked child, which runs the job with the arguments, folder, environment and output of the caller.
Without a server (a person's shell, not Linux) the job runs in its own process. So does a job of a scheduler such as Slurm,
though it inherits the address: a child of the server would be outside the limits and the accounting of its allocation.

No child outlives its caller: the server kills a child when the connection of its caller closes, and it kills all children
and exits when Snakemake ends, also after kill -9. A child whose server is killed exits too (``pipeline.core.processes``).
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

# environment variable with the path of the server's socket
ADDRESS = "PIPELINE_WARM"
# environment variable with the allocation (``processes.allocation``) of the server
ALLOCATION = "PIPELINE_WARM_ALLOCATION"
# interval of the checks whether snakemake is still running
CHECK_SECONDS = 0.5
# interval while children run: their exit codes are reported within this time
CHILD_POLL_SECONDS = 0.05
BACKLOG = 256
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


def start_server(jobs: int) -> None:
    """Start a server for jobs of this process that import torch, and pass its address on in the environment.

    Does nothing except on Linux and for several jobs.
    """
    if sys.platform != "linux" or jobs < 2:
        return
    # mkdtemp: only this user may connect
    folder = tempfile.mkdtemp(prefix="pipeline-warm-")
    os.environ[ADDRESS] = str(Path(folder) / "socket")
    os.environ[ALLOCATION] = processes.allocation()
    command = [sys.executable, "-m", "pipeline", "warm", os.environ[ADDRESS], str(os.getpid())]
    # One thread each, because many jobs run side by side. The libraries read this when the server imports them.
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    # Its own session, so that Ctrl-C reaches only the callers. The server then kills the children of callers that die.
    subprocess.Popen(command, start_new_session=True, stdin=subprocess.DEVNULL, env=environment)


def run_on_server(arguments: Sequence[str]) -> int | None:
    """Run ``python -m pipeline ARGUMENTS`` on the server; return its exit status, or None if this job has no server."""
    address = os.environ.get(ADDRESS)
    if not address or os.environ.get(ALLOCATION, "") != processes.allocation():
        return None
    request = {"arguments": list(arguments), "folder": os.getcwd(), "environment": dict(os.environ)}
    body = json.dumps(request).encode()
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        try:
            connection.connect(address)
            # the child writes to the caller's stdout and stderr
            socket.send_fds(connection, [len(body).to_bytes(8, "big")], [1, 2])
            connection.sendall(body)
            status = connection.recv(1)
        except OSError:
            return None
    if not status:
        print("error: the process that ran this job was killed; start again", file=sys.stderr)
    return status[0] if status else 1


def serve_jobs(address: str, parent: int, run_job: Callable[[list[str]], int]) -> None:
    """Fork a child for each caller, until the process ``parent`` ends.

    Args:
        address: path of the socket to create.
        parent: id of the snakemake process.
        run_job: runs a command in the child, given its arguments; returns its exit status.
    """
    # child -> connection of its caller
    callers: dict[int, socket.socket] = {}
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(f"{address}.new")
        listener.listen(BACKLOG)
        # renamed only now: a caller that sees the address can connect
        os.rename(f"{address}.new", address)
        # A CUDA context of the server would be invalid in its forked children.
        os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "1"
        with _exiting_with_parent(parent, address):
            for module in PRELOADED:
                importlib.import_module(module)
        # Otherwise the garbage collector of each child would touch, and so copy, every page of the server.
        gc.freeze()
        while os.getppid() == parent:
            interval = CHILD_POLL_SECONDS if callers else CHECK_SECONDS
            ready, _, _ = select.select([listener, *callers.values()], [], [], interval)
            if listener in ready:
                connection, _ = listener.accept()
                callers[_fork_child(connection, listener, run_job)] = connection
            _kill_orphans(callers, ready)
            _report_exits(callers)
    for child in callers:
        os.kill(child, signal.SIGKILL)
    _remove_socket(address)


def _remove_socket(address: str) -> None:
    shutil.rmtree(Path(address).parent, ignore_errors=True)


@contextlib.contextmanager
def _exiting_with_parent(parent: int, address: str) -> Iterator[None]:
    """Exit this process if ``parent`` ends within the block.

    It uses a timer, because a process with a thread (``processes.exit_with_process``) must not fork.
    """

    def check_parent(*_: object) -> None:
        if os.getppid() != parent:
            _remove_socket(address)
            os._exit(1)

    signal.signal(signal.SIGALRM, check_parent)
    signal.setitimer(signal.ITIMER_REAL, CHECK_SECONDS, CHECK_SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, signal.SIG_DFL)


def _fork_child(
    connection: socket.socket, listener: socket.socket, run_job: Callable[[list[str]], int]
) -> int:
    """Receive a request and fork a child that runs it; return the child's process id."""
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
        listener.close()
        connection.close()
        request = json.loads(body)
        os.chdir(request["folder"])
        os.environ.clear()
        os.environ.update(request["environment"])
        sys.argv[1:] = request["arguments"]
        processes.exit_with_process(server)
        status = run_job(request["arguments"])
    except SystemExit as stop:
        status = stop.code if isinstance(stop.code, int) else 1
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        with contextlib.suppress(OSError, ValueError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(status)


def _kill_orphans(callers: dict[int, socket.socket], ready: Sequence[socket.socket]) -> None:
    """Kill the children whose callers have closed their connections."""
    for child, connection in callers.items():
        # A caller sends nothing after its request, so a readable connection is a closed one.
        if connection in ready:
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)


def _report_exits(callers: dict[int, socket.socket]) -> None:
    """Send the exit codes of finished children to their callers."""
    while callers:
        child, status = os.waitpid(-1, os.WNOHANG)
        if not child:
            return
        code = os.waitstatus_to_exitcode(status)
        with callers.pop(child) as connection, contextlib.suppress(OSError):
            # a child killed by signal N exits with 128 + N, as in a shell
            connection.sendall(bytes([code if code >= 0 else 128 - code]))
