"""Small random models of the real transformers classes, and prompts that their tokenizer reads."""

import os
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast
from transformers.pytorch_utils import Conv1D

from pipeline.core.io import sha256_file
from pipeline.prompts.write import SCHEMA

COMMIT = "0123456789abcdef0123456789abcdef01234567"
TOKENS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
CONFIGS = {
    "llama": {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4},
    "bloom": {"hidden_size": 32, "n_layer": 2, "n_head": 4},
    "gptj": {"n_embd": 32, "n_layer": 2, "n_head": 4, "rotary_dim": 4, "n_positions": 128},
}

# further architectures: heads that share keys (Mistral, Qwen 3, Gemma 3), heads wider than hidden_size / heads
# (Qwen 3, Gemma 3), attention to nearby tokens only (GPT-Neo, Mistral, Gemma 3)
LIKE_LLAMA = {**CONFIGS["llama"], "max_position_embeddings": 128}
FAMILY = {
    **CONFIGS,
    "opt": {
        "hidden_size": 32,
        "ffn_dim": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "word_embed_proj_dim": 32,
        "max_position_embeddings": 128,
        "dropout": 0.0,
    },
    "gpt2": {
        "n_embd": 32,
        "n_layer": 2,
        "n_head": 4,
        "n_positions": 128,
        "resid_pdrop": 0.0,
        "embd_pdrop": 0.0,
        "attn_pdrop": 0.0,
    },
    "gpt_neo": {
        "hidden_size": 32,
        "num_layers": 2,
        "num_heads": 4,
        "attention_types": [[["global", "local"], 1]],
        "window_size": 8,
        "max_position_embeddings": 128,
        "resid_dropout": 0.0,
        "embed_dropout": 0.0,
        "attention_dropout": 0.0,
    },
    "gpt_neox": {**LIKE_LLAMA, "rotary_pct": 0.5},
    "mistral": {**LIKE_LLAMA, "num_key_value_heads": 2, "sliding_window": 8},
    "qwen3": {**LIKE_LLAMA, "num_key_value_heads": 2, "head_dim": 16},
    "gemma3_text": {
        **LIKE_LLAMA,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "sliding_window": 8,
        "layer_types": ["sliding_attention", "full_attention"],
    },
    "olmo2": LIKE_LLAMA,
    "phi3": {**LIKE_LLAMA, "num_key_value_heads": 2},
}
# model types without a row in the table of architectures: their cards say that their modules are called as LLaMA's
_WINDOW = {"sliding_window": 8, "layer_types": ["sliding_attention", "full_attention"]}
NAMED_LIKE_LLAMA = {
    "qwen2": {**LIKE_LLAMA, "num_key_value_heads": 2},
    "gemma2": {**LIKE_LLAMA, **_WINDOW, "num_key_value_heads": 2, "head_dim": 16},
    "smollm3": {**LIKE_LLAMA, "num_key_value_heads": 2, "no_rope_layers": [1, 0]},
    "granite": {**LIKE_LLAMA, "num_key_value_heads": 2},
    "olmo3": {**LIKE_LLAMA, **_WINDOW},
    "cohere": {**LIKE_LLAMA, "num_key_value_heads": 2},
}


def model_of(architecture, *, sharpness=6.0, **changes):
    """Return a model with weights large enough that every position and token matters to the logits."""
    settings = {"vocab_size": 64, **TOKENS, **{**FAMILY, **NAMED_LIKE_LLAMA}[architecture], **changes}
    config = AutoConfig.for_model(architecture, **settings)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(sharpness)
    return model.eval()


def linear_modules(model):
    """Return the names of a model's linear modules, without the output layer."""
    head = model.get_output_embeddings()
    return {
        name.rpartition(".")[2]
        for name, module in model.named_modules()
        if isinstance(module, (torch.nn.Linear, Conv1D)) and module is not head
    }


# a chat template whose markers of roles and turns are words of the small tokenizer
CHAT = (
    "{% for message in messages %}{{ 'w10 ' if message.role == 'user' else 'w11 ' }}{{ message.content }} </s> w12\n"
    "{% endfor %}{% if add_generation_prompt %}w11 {% endif %}"
)


def save_base(
    architecture, directory: Path, *, dtype="float32", pad_token="<pad>", chat_template=None, **changes
):
    """Write a small model and a word tokenizer as ``save_pretrained`` does."""
    model_of(architecture, **changes).to(getattr(torch, dtype)).save_pretrained(directory)
    words = ["<unk>", "<s>", "</s>", "<pad>", *(f"w{n}" for n in range(60))]
    tokenizer = Tokenizer(models.WordLevel({word: n for n, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    # the start token comes before every text, as with LLaMA's tokenizer
    start = [("<s>", words.index("<s>"))]
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=start)
    special = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}
    if pad_token is not None:
        special["pad_token"] = pad_token
    fast_tokenizer = PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special)
    fast_tokenizer.chat_template = chat_template
    fast_tokenizer.save_pretrained(directory)


def write_rows(path, n=22, empty=()):
    """Write a prompts file of ``n`` short examples; those numbered in ``empty`` have no response."""
    rows = [
        {
            "prompt": " ".join(f"w{(i * 7 + j) % 60}" for j in range(3 + i % 9)) + " ",
            "response": "" if i in empty else " ".join(f"w{(i + j) % 60}" for j in range(1 + i % 4)),
        }
        for i in range(n)
    ]
    pq.write_table(pa.Table.from_pylist(rows, schema=SCHEMA), path)
    return path


def put_in_hub_cache(cache: Path, repo_id: str, folder: Path):
    """Copy a saved model into a hub cache in the layout of the hub's client; "main" refers to COMMIT."""
    root = cache / f"models--{repo_id.replace('/', '--')}"
    snapshot = root / "snapshots" / COMMIT
    for directory in (root / "blobs", root / "refs", snapshot):
        directory.mkdir(parents=True)
    (root / "refs/main").write_text(COMMIT)
    for file in folder.iterdir():
        # the hub stores large files by sha256, small files by git's sha1
        large = file.suffix == ".safetensors"
        blob = root / "blobs" / (sha256_file(file) if large else sha256_file(file)[:40])
        shutil.copy(file, blob)
        (snapshot / file.name).symlink_to(os.path.relpath(blob, snapshot))


def train_steps(model, *, count, learning_rate=1e-3, weight_decay=0.01, **batch):
    """Take optimizer steps on one batch as a peft user would; return the losses. The model is left in eval mode."""
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=learning_rate, weight_decay=weight_decay)
    losses = []
    model.train()
    for _ in range(count):
        loss = model(**batch).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    model.eval()
    return losses
