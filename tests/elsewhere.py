"""What tests have done in another process: some lines of Python, or a training that may kill itself on the way."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

from tests.conftest import ROOT


def printed(code, *arguments):
    """Return the last word that a new process prints which runs ``code``."""
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[-1]


def train_elsewhere(*before, kill_after=0, **given):
    """Run the training stage in a new process and return how it ended.

    Args:
        before: what stands on the command line ahead of this file, such as "-m", "torch.distributed.run".
        kill_after: the optimizer's step before which it kills itself; 0: none.
        given: the arguments of ``pipeline.models.train.train``; validation is None, the device the CPU.
    """
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [
        sys.executable,
        *before,
        __file__,
        json.dumps({"kill_after": kill_after, **given}, default=str),
    ]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def _kill_at(left):
    import torch

    step = torch.optim.AdamW.step

    def counted(self, *args, **kwargs):
        nonlocal left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return step(self, *args, **kwargs)

    torch.optim.AdamW.step = counted


if __name__ == "__main__":
    from pipeline.models.train import train

    told = json.loads(sys.argv[1])
    _kill_at(told.pop("kill_after"))
    base, prompts, output = (Path(told.pop(name)) for name in ("base", "prompts", "output"))
    train(base, prompts, output=output, validation=None, device="cpu", **told)
