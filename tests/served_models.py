"""`transformers serve` on loopback, for tests of models behind an endpoint, and its answers beside those of this machine."""

import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections import Counter
from contextlib import contextmanager

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer


@contextmanager
def serve_models(folder):
    """Serve the models in a folder on the CPU with one thread, and yield the address of their API.

    A request names a model by its folder and its revision: NAME@main. The log of the server is in the folder.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "transformers.cli.transformers", "serve", "--port", str(port)]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    with (folder / "log").open("w") as log:
        server = subprocess.Popen(
            [*command, "--host", "127.0.0.1", "--device", "cpu"],
            cwd=folder,
            env=environment,
            stdout=log,
            stderr=log,
        )
        try:
            _wait_for(f"http://127.0.0.1:{port}/health", server)
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            server.kill()
            server.wait()


def _wait_for(url, server):
    for _ in range(3000):
        assert server.poll() is None
        try:
            urllib.request.urlopen(url, timeout=5)
            return
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            time.sleep(0.2)
    raise AssertionError("the server does not start")


def compare_answers(local, served, folder):
    """Count how greedy answers of a server differ from those of this machine: "equal", "longer" or "tie"; fail at any other difference.

    Args:
        local: rows of an answers file. Generation here ends where the model begins another example.
        served: the same of the server, which goes on there ("longer").
        folder: of the model. Where two of its tokens are equally likely, rounding decides, and a batch rounds in another way
            than a single row ("tie").
    """
    kinds = Counter()
    for here, there in zip(local, served, strict=True):
        assert here["id"] == there["id"]
        if (here["text"], here["stop"]) == (there["text"], there["stop"]):
            kinds["equal"] += 1
        elif here["stop"] == "complete" and there["text"].startswith(here["text"]):
            kinds["longer"] += 1
        else:
            assert _has_tie(folder, here["prompt"], there["text"]), (here["text"], there["text"])
            kinds["tie"] += 1
    return kinds


def _has_tie(folder, prompt, text):
    """Return whether greedy decoding of a text meets two tokens of one logit, up to rounding."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    start = len(tokenizer(prompt)["input_ids"])
    ids = torch.tensor([tokenizer(prompt + text)["input_ids"]])
    with torch.inference_mode():
        best = model(ids).logits[0, start - 1 :].topk(2).values
    return bool((best[:, 0] - best[:, 1]).min() < 1e-4)
