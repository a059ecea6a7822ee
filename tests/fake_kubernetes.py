"""A Kubernetes API on this machine that runs each Job's container as a process, in an empty folder as its pod would have.

It serves what snakemake-executor-plugin-kubernetes calls: Secrets, Jobs, their status and their pods. It checks no manifest.
"""

import base64
import contextlib
import json
import os
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import yaml


class Cluster:
    """What was posted to the API, and the processes of the Jobs.

    Attributes:
        jobs: the bodies of the Jobs that were created, by name.
        address: of the API.
    """

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        self.jobs: dict[str, dict] = {}
        self.address = ""
        self._secrets: dict[str, dict[str, str]] = {}
        self._folder = folder
        self._environment = environment
        self._processes: dict[str, subprocess.Popen] = {}

    def write_kubeconfig(self, path: Path) -> None:
        """Write a configuration file that names this API as the cluster."""
        entry = {"name": "fake", "cluster": {"server": self.address}}
        context = {"name": "fake", "context": {"cluster": "fake", "user": "fake"}}
        user = {"name": "fake", "user": {}}
        config = {"clusters": [entry], "contexts": [context], "users": [user], "current-context": "fake"}
        path.write_text(yaml.safe_dump({"apiVersion": "v1", "kind": "Config", **config}))

    def output_of(self, name: str) -> str:
        """Return what a Job's container has printed."""
        return (self._folder / f"{name}.log").read_text()

    def post(self, path: str, body: dict) -> dict:
        """Create a Secret, or a Job and its process."""
        name = body["metadata"]["name"]
        if path.endswith("/secrets"):
            self._secrets[name] = {
                key: base64.b64decode(value).decode() for key, value in (body.get("data") or {}).items()
            }
        elif path.endswith("/jobs"):
            self.jobs[name] = body
            self._processes[name] = self._start(name, body["spec"]["template"]["spec"]["containers"][0])
        return body

    def read(self, path: str) -> dict:
        """Return the status of a Job, or the pods of one: none, so that the caller goes by the status."""
        if path.endswith("/status"):
            code = self._processes[path.split("/")[-2]].poll()
            status = {"active": 1} if code is None else {"failed": 1} if code else {"succeeded": 1}
            return {"status": status}
        return {"items": []}

    def stop(self) -> None:
        """End the processes of all Jobs."""
        for process in self._processes.values():
            process.kill()
            process.wait()

    def _start(self, name: str, container: dict) -> subprocess.Popen:
        workdir = self._folder / name
        workdir.mkdir()
        values = {}
        for variable in container.get("env") or ():
            reference = variable["valueFrom"]["secretKeyRef"]
            values[variable["name"]] = self._secrets[reference["name"]][reference["key"]]
        with (self._folder / f"{name}.log").open("wb") as log:
            return subprocess.Popen(
                [*container["command"], *container["args"]],
                cwd=workdir,
                env={**self._environment, **values},
                stdout=log,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
            )


@contextlib.contextmanager
def running_cluster(folder: Path) -> Iterator[Cluster]:
    """Serve a Kubernetes API within the block; pods have their folders in ``folder`` and a ``pip`` that installs nothing."""
    programs = folder / "bin"
    programs.mkdir(parents=True)
    # the image has the plugins already
    (programs / "pip").write_text("#!/bin/sh\nexit 0\n")
    (programs / "pip").chmod(0o755)
    cluster = Cluster(folder, {"PATH": f"{programs}{os.pathsep}{os.environ['PATH']}", "HOME": str(folder)})

    class Handler(BaseHTTPRequestHandler):
        def _answer(self, body: dict, status: int = 200) -> None:
            content = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            self._answer(cluster.post(self.path, body), 201)

        def do_GET(self) -> None:
            self._answer(cluster.read(self.path.partition("?")[0]))

        def do_DELETE(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            self._answer({"kind": "Status", "status": "Success"})

        def log_message(self, *arguments: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        cluster.address = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield cluster
        finally:
            cluster.stop()
            server.shutdown()
            thread.join()
