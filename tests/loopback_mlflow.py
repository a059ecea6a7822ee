"""A PostgreSQL and an MLflow server with users, on loopback; PostgreSQL runs as the user postgres where the tests are root's."""

import contextlib
import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tests.conftest import ROOT

# the name behind a proxy with TLS
HOST = "mlflow.example.org"
ADMIN, PASSWORD = "admin", "wordless-orchard-7"
DATABASE_PASSWORD = "brackish-lantern-3"
# what a lab copies; without a password: the server has it in its environment
CONFIG = ROOT / "deploy/mlflow/auth.ini"
# a server needs about 10 s of CPU to start, and this machine may be busy
WAIT_SECONDS = 600


def find_programs() -> Path | None:
    """Return the folder with PostgreSQL's programs, which Debian keeps off the path; None: it is not installed."""
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    program = folders[-1] if folders else shutil.which("initdb")
    return Path(program).parent if program else None


def find_obstacle() -> str | None:
    """Return why the server cannot be started here, or None."""
    if find_programs() is None:
        return "skipped: no PostgreSQL (apt-get install postgresql)"
    missing = [name for name in ("psycopg2", "flask_wtf") if importlib.util.find_spec(name) is None]
    return f"skipped: no {', '.join(missing)} (pip install -e '.[server]')" if missing else None


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


def as_postgres(*command: str) -> list[str]:
    """Return a command that runs as a user other than root, since PostgreSQL refuses root."""
    return [*(() if os.getuid() else ("runuser", "-u", "postgres", "--")), *command]


@dataclass
class Postgres:
    """A running PostgreSQL."""

    folder: Path
    port: int = field(default_factory=free_port)

    def address(self, database: str) -> str:
        return f"postgresql://mlflow:{DATABASE_PASSWORD}@127.0.0.1:{self.port}/{database}"

    def environment(self) -> dict[str, str]:
        """Return what PostgreSQL's programs and libraries read in place of an address with a password."""
        values = {"PGHOST": "127.0.0.1", "PGPORT": str(self.port)}
        return {**values, "PGUSER": "mlflow", "PGPASSWORD": DATABASE_PASSWORD}

    def control(self, action: str) -> None:
        options = f"-p {self.port} -k {self.folder} -c listen_addresses=127.0.0.1 -c fsync=off"
        command = [str(find_programs() / "pg_ctl"), "-D", str(self.folder / "data"), "-w", "-m", "fast"]
        command += ["-l", str(self.folder / "log"), "-o", options, action]
        subprocess.run(as_postgres(*command), check=True, capture_output=True, cwd="/")

    def call(self, program: str, *arguments: str) -> bytes:
        """Run a client of PostgreSQL; return its output."""
        command = [str(find_programs() / program), *arguments]
        environment = {**os.environ, **self.environment()}
        return subprocess.run(command, check=True, capture_output=True, env=environment).stdout


@contextlib.contextmanager
def running_postgres() -> Iterator[Postgres]:
    """Run an empty PostgreSQL within the block."""
    # not below pytest's folders, which are closed to other users
    folder = Path(tempfile.mkdtemp(prefix="postgres-"))
    password = folder / "password"
    password.write_text(DATABASE_PASSWORD)
    if not os.getuid():
        for path in (folder, password):
            shutil.chown(path, "postgres", "postgres")
    command = [str(find_programs() / "initdb"), "-D", str(folder / "data"), "-U", "mlflow"]
    command += [f"--pwfile={password}", "-A", "scram-sha-256", "--no-sync"]
    postgres = Postgres(folder)
    try:
        subprocess.run(as_postgres(*command), check=True, capture_output=True, cwd="/")
        postgres.control("start")
        for database in ("mlflow", "mlflow_auth"):
            postgres.call("createdb", database)
        yield postgres
    finally:
        with contextlib.suppress(subprocess.CalledProcessError):
            postgres.control("stop")
        shutil.rmtree(folder)


@dataclass
class MlflowServer:
    """A server of MLflow with users, whose artifacts go through it."""

    postgres: Postgres
    folder: Path
    artifacts: str
    port: int = field(default_factory=free_port)
    process: subprocess.Popen | None = None

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start it and wait until it responds.

        Raises:
            RuntimeError: it ended, or does not respond in time.
        """
        environment = {
            **os.environ,
            **self.postgres.environment(),
            "MLFLOW_AUTH_CONFIG_PATH": str(CONFIG),
            "MLFLOW_AUTH_ADMIN_PASSWORD": PASSWORD,
            "MLFLOW_FLASK_SERVER_SECRET_KEY": "any",
            "MLFLOW_BACKEND_STORE_URI": "postgresql:///mlflow",
            "MLFLOW_SERVER_ALLOWED_HOSTS": f"{HOST},127.0.0.1:*",
            "MLFLOW_SERVER_CORS_ALLOWED_ORIGINS": f"https://{HOST}",
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
            "MLFLOW_DISABLE_TELEMETRY": "true",
        }
        environment.pop("MLFLOW_TRACKING_URI", None)
        command = [sys.executable, "-m", "mlflow", "server", "--app-name", "basic-auth", "--workers", "1"]
        command += ["--serve-artifacts", "--artifacts-destination", self.artifacts]
        command += ["--host", "127.0.0.1", "--port", str(self.port)]
        log = self.folder / "server.log"
        with log.open("ab") as output:
            # a session of its own: processes that it starts are killed with it
            self.process = subprocess.Popen(
                command,
                env=environment,
                stdout=output,
                stderr=output,
                start_new_session=True,
                cwd=self.folder,
            )
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        deadline = time.monotonic() + WAIT_SECONDS
        while time.monotonic() < deadline and self.process.poll() is None:
            with contextlib.suppress(urllib.error.URLError, OSError):
                opener.open(f"{self.address}/health", timeout=5)
                return
            time.sleep(0.2)
        raise RuntimeError(log.read_text()[-2000:])

    def kill(self) -> None:
        """Kill it, as a power failure would."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


@contextlib.contextmanager
def running_server(folder: Path, *, artifacts: str | None = None) -> Iterator[MlflowServer]:
    """Run PostgreSQL and an MLflow server within the block.

    Args:
        folder: for the server's files.
        artifacts: the address that the server keeps artifacts at; None: a folder below ``folder``.
    """
    with running_postgres() as postgres:
        server = MlflowServer(postgres, folder, artifacts or str(folder / "artifacts"))
        try:
            server.start()
            yield server
        finally:
            if server.process:
                server.kill()
