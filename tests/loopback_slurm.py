"""A real Slurm on this machine: one controller and two nodes, n1 and n2, each with two GPUs that are links to /dev/null.

Slurm reads /etc/slurm here, since job steps drop SLURM_CONF. So the machine must have no Slurm of its own.
"""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch")
ETC = Path("/etc/slurm")
CONFIG = """
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
    if (ETC / "slurm.conf").exists():
        return f"skipped: {ETC}/slurm.conf exists, so this machine has a Slurm of its own"
    return None


@contextlib.contextmanager
def running_slurm(folder: Path) -> Iterator[None]:
    """Run Slurm within the block; its state and logs lie in ``folder``.

    Raises:
        RuntimeError: the nodes are not up after 30 s.
    """
    (folder / "state").mkdir(parents=True)
    for number in range(4):
        (folder / f"gpu{number}").symlink_to("/dev/null")
    files = {"slurm.conf": CONFIG, "gres.conf": GRES}
    for name, text in files.items():
        (ETC / name).write_text(text.format(folder=folder, host=socket.gethostname()))
    pids: list[int] = []
    try:
        if not Path("/run/munge/munge.socket.2").exists():
            pids.append(_start_munge(folder))
        pids.append(_start_daemon(["slurmctld", "-D", "-c"], folder / "slurmctld.out"))
        pids += [start_node(name, folder) for name in ("n1", "n2")]
        _wait_for_nodes()
        yield
    finally:
        subprocess.run(["scancel", "--signal=KILL", "--user=root"], capture_output=True)
        for pid in reversed(pids):
            with contextlib.suppress(ProcessLookupError, ChildProcessError):
                os.kill(pid, signal.SIGTERM)
                os.waitpid(pid, 0)
        for name in files:
            (ETC / name).unlink()


def start_node(name: str, folder: Path) -> int:
    """Start the daemon of a node; return its process id."""
    return _start_daemon(["slurmd", "-D", "-N", name], folder / f"{name}.out")


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
