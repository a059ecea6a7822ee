"""With `portable`, processors with other vector instructions train the same bytes. Another processor is emulated by qemu."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.core.hardware.processor import PORTABLE, has_portable_kernels
from tests.integration.training_cases import LORA, TARGETS

ROOT = Path(__file__).parents[2]
QEMU = shutil.which("qemu-x86_64")
# Intel's first generation with AVX2; it has no AVX-512
PROCESSOR = "Haswell"
TIMEOUT_S = 1800
SCRIPT = """
import json, sys
from pathlib import Path
import torch
from pipeline.models.train import train
from pipeline.params.base import Training
base, prompts, output, method = json.loads(sys.argv[1])
settings = Training(batch_size=4, epochs=None, max_steps=3, warmup_steps=1, learning_rate=1e-2, val_set_size=0)
train(Path(base), Path(prompts), method=method, training=settings, seed=1, output=Path(output), validation=None,
      manifest={"fingerprint": "abc"}, device="cpu")
# operations whose kernels are chosen by the processor, on more elements than a vector has
torch.manual_seed(0)
x, w = torch.randn(512, 192), torch.randn(768, 192)
y = x @ w.T
q = torch.randn(2, 4, 64, 48)
attention = torch.nn.functional.scaled_dot_product_attention(q, q, q, is_causal=True)
values = [y, x.T @ x, y.softmax(-1), torch.nn.functional.gelu(y), y.tanh(), y.exp(), y.abs().log(), y.abs().sqrt(), attention]
torch.save(values, Path(output, "values.pt"))
"""


@pytest.mark.slow
@pytest.mark.exhaustive
@pytest.mark.skipif(QEMU is None, reason="no qemu-x86_64 (Debian: qemu-user)")
@pytest.mark.skipif(not has_portable_kernels(), reason="needs an Intel processor with AVX2")
def test_an_older_processor_trains_the_same_bytes(base, prompts, tmp_path):
    method = {**LORA, "lora_dropout": 0.0, "target_modules": TARGETS["llama"]}
    digests = {}
    for name, emulator in (("this", []), ("emulated", [QEMU, "-cpu", PROCESSOR])):
        output = tmp_path / name
        arguments = json.dumps([str(base), str(prompts), str(output), method])
        environment = {
            **os.environ,
            **PORTABLE,
            "OMP_NUM_THREADS": "1",
            # qemu starts the interpreter itself, which then does not know its environment
            "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, sys.path)]),
        }
        command = [*emulator, os.path.realpath(sys.executable), "-c", SCRIPT, arguments]
        subprocess.run(command, env=environment, check=True, timeout=TIMEOUT_S, stderr=subprocess.PIPE)
        digests[name] = {
            file: hashlib.sha256((output / file).read_bytes()).hexdigest()
            for file in ("adapter_model.safetensors", "history.jsonl", "values.pt")
        }
    assert digests["emulated"] == digests["this"]
