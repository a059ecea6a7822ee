"""A real Slurm on this machine: one controller and two nodes, n1 and n2, each with two GPUs that are links to /dev/null.

Slurm reads /etc/slurm here, since job steps drop SLURM_CONF. So the machine must have no Slurm of its own, and tests that run at
the same time take turns.
"""

import contextlib
import fcntl
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch")
ETC = Path("/etc/slurm")
NODES = ("n1", "n2")
LOCK = Path(tempfile.gettempdir(), "loopback-slurm.lock")
# tells the file from that of another Slurm; a killed test leaves it
MARK = "# written by tests/loopback_slurm.py"
CONFIG = """{mark}
ClusterName=loopback
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort=17817
AuthType=auth/munge
SlurmUser=root
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SchedulerParameters=defer
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
MpiDefault=none
SlurmdParameters=config_overrides
ReturnToService=2
SlurmdTimeout=15
KillWait=10
MinJobAge=300
GresTypes=gpu
NodeName=n1 NodeHostname=localhost NodeAddr=127.0.0.1 Port=17818 CPUs=4 RealMemory=16000 Gres=gpu:2 State=UNKNOWN
NodeName=n2 NodeHostname=localhost NodeAddr=127.0.0.1 Port=17819 CPUs=4 RealMemory=16000 Gres=gpu:2 State=UNKNOWN
PartitionName=cpu Nodes=n1,n2 Default=YES MaxTime=60 State=UP
PartitionName=gpu Nodes=n1,n2 MaxTime=60 State=UP
"""
GRES = """
AutoDetect=off
NodeName=n1 Name=gpu File={folder}/gpu[0-1]
NodeName=n2 Name=gpu File={folder}/gpu[2-3]
"""


def find_obstacle() -> str | None:
    """Return why Slurm cannot be started here, or None."""
    if missing := [program for program in PROGRAMS if shutil.which(program) is None]:
        return f"skipped: no {', '.join(missing)} (apt-get install slurm-wlm munge)"
    if os.getuid():
        return "skipped: starting Slurm needs root"
    config = ETC / "slurm.conf"
    if config.exists() and not config.read_text().startswith(MARK):
        return f"skipped: {config} exists, so this machine has a Slurm of its own"
    return None


@dataclass
class Slurm:
    """A running Slurm.

    Attributes:
        folder: of its state and its logs.
        daemons: name -> process id; those of the nodes under the nodes' names.
        clients: programs that submit jobs.
    """

    folder: Path
    daemons: dict[str, int] = field(default_factory=dict)
    clients: list[subprocess.Popen] = field(default_factory=list)

    def start_node(self, name: str) -> None:
        self.daemons[name] = _start_daemon(["slurmd", "-D", "-N", name], self.folder / f"{name}.out")

    def kill_node(self, name: str) -> list[str]:
        """Kill all processes of a node at once, as a power failure would; return its jobs.

        The steps of its jobs are stopped first: a step that sees its processes die would report a failed job.
        """
        jobs = query("squeue", f"--nodelist={name}", "--states=RUNNING", "--format=%i")
        titles = tuple(f"slurmstepd: [{job}." for job in jobs)
        steps = [
            process
            for process in psutil.process_iter(["cmdline"])
            if " ".join(process.info["cmdline"] or []).startswith(titles)
        ]
        for step in steps:
            step.suspend()
        os.kill(self.daemons[name], signal.SIGKILL)
        os.waitpid(self.daemons.pop(name), 0)
        for step in steps:
            children = step.children(recursive=True)
            for process in (step, *children):
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
        return jobs

    def start_client(
        self, command: Sequence[str], *, folder: Path, log: Path, environment: dict[str, str]
    ) -> subprocess.Popen:
        """Start a program that submits jobs; it ends with this Slurm at the latest."""
        with log.open("w") as output:
            client = subprocess.Popen(
                command, cwd=folder, env=environment, stdout=output, stderr=subprocess.STDOUT
            )
        self.clients.append(client)
        return client

    def stop(self) -> None:
        for client in self.clients:
            if client.poll() is None:
                client.kill()
                client.wait()
        subprocess.run(["scancel", "--signal=KILL", "--user=root"], capture_output=True)
        for pid in reversed(self.daemons.values()):
            with contextlib.suppress(ProcessLookupError, ChildProcessError):
                os.kill(pid, signal.SIGTERM)
                os.waitpid(pid, 0)


@contextlib.contextmanager
def running_slurm(folder: Path) -> Iterator[Slurm]:
    """Run Slurm within the block; its state and logs lie in ``folder``. Wait while another test runs it.

    Raises:
        RuntimeError: the nodes are not up after 30 s.
    """
    with LOCK.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        (folder / "state").mkdir(parents=True)
        for number in range(4):
            (folder / f"gpu{number}").symlink_to("/dev/null")
        files = {"slurm.conf": CONFIG, "gres.conf": GRES}
        for name, text in files.items():
            (ETC / name).write_text(text.format(folder=folder, host=socket.gethostname(), mark=MARK))
        slurm = Slurm(folder)
        try:
            if subprocess.run(["munge", "--no-input"], capture_output=True).returncode:
                slurm.daemons["munged"] = _start_munge(folder)
            slurm.daemons["slurmctld"] = _start_daemon(["slurmctld", "-D", "-c"], folder / "slurmctld.out")
            for name in NODES:
                slurm.start_node(name)
            _wait_for_nodes()
            yield slurm
        finally:
            slurm.stop()
            for name in files:
                (ETC / name).unlink()


def query(program: str, *arguments: str) -> list[str]:
    """Return the lines that a program of Slurm prints, without a header."""
    command = [program, "--noheader", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()


def _start_munge(folder: Path) -> int:
    Path("/run/munge").mkdir(exist_ok=True)
    for path in ("/run/munge", "/var/log/munge", "/var/lib/munge"):
        shutil.chown(path, "munge", "munge")
    return _start_daemon(["runuser", "-u", "munge", "--", "munged", "-F"], folder / "munged.out")


def _start_daemon(command: list[str], log: Path) -> int:
    # Each in its own session: Ctrl-C in pytest reaches the tests, which then stop the daemons in order.
    with log.open("wb") as output:
        return subprocess.Popen(
            command, stdout=output, stderr=output, stdin=subprocess.DEVNULL, start_new_session=True
        ).pid


def _wait_for_nodes() -> None:
    states: list[str] = []
    for _ in range(150):
        query = subprocess.run(["sinfo", "--noheader", "-N", "-o", "%T"], capture_output=True, text=True)
        states = query.stdout.split()
        if states and set(states) == {"idle"}:
            return
        time.sleep(0.2)
    raise RuntimeError(f"Slurm's nodes are not up after 30 s: {states} {query.stderr}")
