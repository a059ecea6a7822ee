"""The models and devices of the estimates: numbers of their published configs and data sheets."""

from typing import Any, NamedTuple

import torch
from transformers import AutoConfig, AutoModelForCausalLM

Number = int | float | bool


class Shape(NamedTuple):
    """A base model.

    Attributes:
        model_type: of transformers.
        cards_as: architecture whose modules the method cards name; its modules have the same names.
        config: fields of the published config.json; all others have the defaults of transformers.
        source: where the config is published.
    """

    model_type: str
    cards_as: str
    config: dict[str, Number]
    source: str

    @property
    def layers(self) -> int:
        """Number of decoder layers."""
        return int(self.config[_layers_field(self)])


def _llama_like(
    hidden: int, intermediate: int, layers: int, heads: int, vocabulary: int, **others: Number
) -> dict[str, Number]:
    return {
        "hidden_size": hidden,
        "intermediate_size": intermediate,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "vocab_size": vocabulary,
        **others,
    }


SHAPES = {
    # Llama 2 7B has the same shapes
    "LLaMA-7B": Shape("llama", "llama", _llama_like(4096, 11008, 32, 32, 32000), "yahma/llama-7b-hf"),
    "LLaMA-13B": Shape("llama", "llama", _llama_like(5120, 13824, 40, 40, 32000), "yahma/llama-13b-hf"),
    "BLOOMZ-7B1": Shape(
        "bloom",
        "bloom",
        {"hidden_size": 4096, "n_layer": 30, "n_head": 32, "vocab_size": 250880},
        "bigscience/bloomz-7b1",
    ),
    "GPT-J-6B": Shape(
        "gptj",
        "gptj",
        {"n_embd": 4096, "n_layer": 28, "n_head": 16, "rotary_dim": 64, "vocab_size": 50400},
        "EleutherAI/gpt-j-6b",
    ),
    "Llama 3 8B": Shape(
        "llama",
        "llama",
        _llama_like(4096, 14336, 32, 32, 128256, num_key_value_heads=8),
        "meta-llama/Meta-Llama-3-8B",
    ),
    "Mistral 7B": Shape(
        "mistral",
        "mistral",
        _llama_like(4096, 14336, 32, 32, 32000, num_key_value_heads=8),
        "mistralai/Mistral-7B-v0.1",
    ),
    "Qwen 2.5 1.5B": Shape(
        "qwen2",
        "llama",
        _llama_like(1536, 8960, 28, 12, 151936, num_key_value_heads=2, tie_word_embeddings=True),
        "Qwen/Qwen2.5-1.5B",
    ),
    "Qwen 2.5 7B": Shape(
        "qwen2",
        "llama",
        _llama_like(3584, 18944, 28, 28, 152064, num_key_value_heads=4, tie_word_embeddings=False),
        "Qwen/Qwen2.5-7B",
    ),
    "Qwen3 8B": Shape(
        "qwen3",
        "qwen3",
        _llama_like(
            4096, 12288, 36, 32, 151936, num_key_value_heads=8, head_dim=128, tie_word_embeddings=False
        ),
        "Qwen/Qwen3-8B-Base",
    ),
    "Gemma 2 9B": Shape(
        "gemma2",
        "llama",
        _llama_like(3584, 14336, 42, 16, 256000, num_key_value_heads=8, head_dim=256),
        "google/gemma-2-9b",
    ),
    "Gemma 3 1B": Shape(
        "gemma3_text",
        "gemma3_text",
        _llama_like(1152, 6912, 26, 4, 262144, num_key_value_heads=1, head_dim=256),
        "google/gemma-3-1b-pt",
    ),
}


class Device(NamedTuple):
    """A device, by its vendor's numbers.

    Attributes:
        memory: bytes.
        flops: peak FLOP per second of bfloat16 matrix products with float32 sums, dense (without sparsity).
        bandwidth: bytes per second of its memory.
        source: the vendor's document.
    """

    memory: float
    flops: float
    bandwidth: float
    source: str


DEVICES = {
    "H100 80 GB": Device(80e9, 989e12, 3.35e12, "NVIDIA H100 data sheet, SXM5"),
    "A100 80 GB": Device(80e9, 312e12, 2.039e12, "NVIDIA A100 data sheet, SXM4"),
    "A100 40 GB": Device(40e9, 312e12, 1.555e12, "NVIDIA A100 data sheet, SXM4"),
    "RTX 4090": Device(24e9, 165.2e12, 1.008e12, "NVIDIA Ada GPU architecture, appendix A"),
    "RTX 3090": Device(24e9, 71e12, 0.936e12, "NVIDIA GA102 whitepaper, appendix A"),
}


def build_on_meta(shape: Shape, *, layers: int | None = None, dtype: str = "bfloat16") -> Any:
    """Return the model without memory for its weights, with all its layers or fewer."""
    changes = {} if layers is None else {_layers_field(shape): layers}
    config = AutoConfig.for_model(shape.model_type, **{**shape.config, **changes})
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config, dtype=getattr(torch, dtype))


def _layers_field(shape: Shape) -> str:
    return "n_layer" if "n_layer" in shape.config else "num_hidden_layers"
