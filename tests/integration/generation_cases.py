"""Prompts, adapters and calls of the ``generate`` stage for its tests."""

import random

import pyarrow as pa
import pyarrow.parquet as pq
import torch
import yaml

from pipeline.adapters import add_adapter
from pipeline.core.io import read_jsonl
from pipeline.evaluate.generation.generate import generate
from pipeline.evaluate.generation.rows import GenerationRequest, GenerationTask
from pipeline.params.reading import PARAMS
from pipeline.prompts.write import SCHEMA
from tests.tiny import model_of

N = 64
EOS = 2
GREEDY = {"num_beams": 1, "max_new_tokens": 12, "template": "strict"}
BEAMS = {**GREEDY, "num_beams": 3}
METHODS = {
    "lora": {"kind": "peft", "peft_type": "LORA", "r": 4, "lora_alpha": 32, "init_lora_weights": False},
    "prefix": {"kind": "peft", "peft_type": "PREFIX_TUNING", "num_virtual_tokens": 5},
    "prompt": {"kind": "peft", "peft_type": "PROMPT_TUNING", "num_virtual_tokens": 5},
    "parallel": {**yaml.safe_load((PARAMS / "methods/parallel.yaml").read_text()), "bottleneck_size": 8},
}


def write_prompts(path, n=N, seed=1):
    """Prompts of 2 to 30 tokens."""
    rng = random.Random(seed)
    rows = []
    for number in range(n):
        text = " ".join(f"w{rng.randrange(60)}" for _ in range(rng.randint(2, 30)))
        row = dict.fromkeys(SCHEMA.names, "")
        rows.append({**row, "id": f"t/test/{number}", "task": "t", "choices": [], "prompt": text})
    pq.write_table(pa.Table.from_pylist(rows, schema=SCHEMA), path)
    return path


def save_adapter(architecture, method, directory):
    settings = {
        key: value
        for key, value in METHODS[method].items()
        if key not in ("name", "training", "source", "changelog", "notes")
    }
    for key in ("placement", "target_modules"):
        if isinstance(settings.get(key), dict):
            settings[key] = settings[key][architecture]
    model = add_adapter(model_of(architecture), settings, architecture=architecture, seed=3)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "bottleneck_up" in name and parameter.dim() > 1:
                # so that the adapter changes answers
                parameter.mul_(30)
    model.save_pretrained(directory)
    return directory


def task(name, prompts, fingerprint, decoding=GREEDY):
    return GenerationTask(name, prompts, decoding, fingerprint)


def request(adapter, tasks, output, siblings=None):
    return GenerationRequest(output.name, adapter, tuple(tasks), output, siblings or output.parent)


def run(base, adapter, tasks, output, siblings=None):
    """Run the stage on the CPU; return the rows of each task."""
    manifest = {"fingerprint": output.name}
    generate(base, request(adapter, tasks, output, siblings), device="cpu", manifest=manifest)
    return {task.name: read_jsonl(output / f"{task.name}.jsonl") for task in tasks}
