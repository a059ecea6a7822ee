"""Work of tests in another process: lines of Python, or a training job that can kill itself."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

from tests.conftest import ROOT


def last_word(code, *arguments):
    """Run ``code`` in a new process and return the last word that it prints."""
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[-1]


def train_elsewhere(*launcher, training, kill_after=0, by=signal.SIGKILL, pass_limit=0, **arguments):
    """Run the training stage in a new process and return the completed process.

    Args:
        launcher: what precedes this file on the command line, such as "-m", "torch.distributed.run".
        training: the settings of the training.
        kill_after: the number of the optimizer step before which the process kills itself; 0: never.
        by: the signal that it sends itself.
        pass_limit: padded tokens that fit into the memory of process 1 of a group; 0: any number.
        arguments: further arguments of ``pipeline.models.train.train``; validation is None, the device is the CPU, and machine
            is a dict.
    """
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    job = {
        "kill_after": kill_after,
        "by": int(by),
        "pass_limit": pass_limit,
        "training": training.model_dump(),
        **arguments,
    }
    command = [sys.executable, *launcher, __file__, json.dumps(job, default=str)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def _kill_before_step(number, by):
    import torch

    step = torch.optim.AdamW.step

    def step_or_kill(self, *args, **kwargs):
        nonlocal number
        number -= 1
        if number == 0:
            os.kill(os.getpid(), by)
        return step(self, *args, **kwargs)

    torch.optim.AdamW.step = step_or_kill


def limit_passes(most_tokens, passes=None, patch=setattr):
    """Let a pass of a LLaMA model fail as for lack of memory if it has more padded tokens; note all in ``passes``."""
    from transformers import LlamaForCausalLM

    forward = LlamaForCausalLM.forward

    def forward_or_fail(self, *args, input_ids, **kwargs):
        fits = input_ids.numel() <= most_tokens
        if passes is not None:
            passes.append((input_ids.tolist(), fits))
        logits = forward(self, *args, input_ids=input_ids, **kwargs)
        if not fits:
            raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried")
        return logits

    patch(LlamaForCausalLM, "forward", forward_or_fail)


if __name__ == "__main__":
    from pipeline.models.train import train
    from pipeline.params.base import Training
    from pipeline.params.machine import MachineSettings

    job = json.loads(sys.argv[1])
    _kill_before_step(job.pop("kill_after"), job.pop("by"))
    if (limit := job.pop("pass_limit")) and os.environ.get("LOCAL_RANK") == "1":
        limit_passes(limit)
    base, prompts, output = (Path(job.pop(name)) for name in ("base", "prompts", "output"))
    training = Training(**job.pop("training"))
    machine = MachineSettings(**job.pop("machine", {}))
    train(
        base, prompts, training=training, machine=machine, output=output, validation=None, device="cpu", **job
    )
