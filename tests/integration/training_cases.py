"""Methods, settings and short trainings that several tests of training share."""

import json
from pathlib import Path

from accelerate import PartialState

from pipeline.models.batches import pack_example
from pipeline.models.train import train
from pipeline.models.training_job import TrainingJob
from pipeline.params.base import Training

LORA = {"kind": "peft", "peft_type": "LORA", "r": 4, "lora_alpha": 8, "lora_dropout": 0.1}
PREFIX = {"kind": "peft", "peft_type": "PREFIX_TUNING", "num_virtual_tokens": 3}
PROMPT = {"kind": "peft", "peft_type": "PROMPT_TUNING", "num_virtual_tokens": 3}
OUTPUTS = {"llama": ["down_proj"], "bloom": ["dense_4h_to_h"], "gptj": ["fc_out"]}
SERIES = {"kind": "bottleneck", "placement": "after", "target_modules": OUTPUTS, "bottleneck_size": 4}
TARGETS = {"llama": ["q_proj", "v_proj"], "bloom": ["query_key_value"], "gptj": ["q_proj", "v_proj"]}


def lora(architecture="llama", **changes):
    return {**LORA, "target_modules": TARGETS[architecture], **changes}


def settings(**changes):
    defaults = {"batch_size": 4, "epochs": 2, "warmup_steps": 2, "learning_rate": 1e-2, "logging_steps": 3}
    return Training(**{**defaults, "micro_batch_tokens": 40, "save_steps": 4, **changes})


def run(base, prompts, output, *, method=None, seed=1, validation=None, **changes):
    train(
        base,
        prompts,
        method=method or lora(),
        training=settings(**changes),
        seed=seed,
        output=output,
        validation=validation,
        manifest={"fingerprint": "abc", "params": {"seed": seed}},
        device="cpu",
    )
    return output


def rows(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def read_outputs(folder):
    names = ("adapter_model.safetensors", "adapter_config.json", "history.jsonl", "manifest.json")
    return {name: (folder / name).read_bytes() for name in names}


def training_options(base, prompts, output, *, method=None, **changes):
    return {
        "base": base,
        "prompts": prompts,
        "output": output,
        "method": method or lora(),
        "training": settings(**changes),
        "seed": 1,
        "manifest": {"fingerprint": "abc", "params": {"seed": 1}},
    }


def make_examples(lengths):
    ids = [[(7 * n + 3 * i) % 60 + 4 for i in range(length)] for n, length in enumerate(lengths)]
    return [pack_example(tokens, [-100] * (n % 3) + tokens[n % 3 :]) for n, tokens in enumerate(ids)]


def make_job(model, parameters, **changes):
    return TrainingJob(
        model=model,
        parameters=parameters,
        examples=[],
        held_out=[],
        examples_per_epoch=0,
        settings=settings(**changes),
        total_steps=1,
        seed=0,
        pad=0,
        group=PartialState(cpu=True),
        parts=1,
        checkpoint=Path("unused"),
        identity="",
    )
