"""What a job of a study holds in memory and computes: from the shapes of its base, its method and its settings."""

import functools
import json
import math
import os
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.core.errors import UserError
from pipeline.models.base import list_weight_files
from pipeline.params.machine import MachineSettings, override_training
from pipeline.params.protocols import Decoding, rows_per_prompt
from pipeline.study.artifacts import Artifact
from pipeline.study.checks import find_obstacle_to_split
from pipeline.study.costs.footprints import MethodFootprint, ModelFootprint, find_footprint
from pipeline.study.tuning.choice import plan_training

# tokens of a prompt, on average; the longest published prompts have a few hundred
PROMPT_TOKENS = 300
# of a trained number in float32: itself, its gradient and AdamW's two moments
TRAINED_BYTES = 16.0
# A base that was not counted: each as large as the largest of the counted ones, for each weight of the base. The share of
# numbers that an adapter trains, and the bytes that a token keeps for the backward pass, without and with checkpointing.
TRAINED_SHARE = 0.11
KEPT, KEPT_WITH_CHECKPOINTING = 3.1e-3, 3e-4
# its logits: the limit of a piece (pipeline.models.head)
LOGITS_AT_MOST = 2.0**29
# Keys and values on a CPU have no more bytes and tokens, as pipeline.evaluate.generation.budget says. Not imported from
# there: it would load torch.
CPU_CACHE_BYTES, CPU_TEXT_TOKENS = 8 * 2**30, 16384
# of a token's keys and values for each weight of a base without a count: the largest of the counted ones
CACHE = 8e-5
# a method without a count of its own is counted as this one, which keeps the most
STAND_IN = "lora"
# A base whose weights this machine cannot see, and that was not counted: its jobs ask for the site's limits.
UNKNOWN_WEIGHTS = 10**12
# of an adapter, as peft saves it
ADAPTER_FILE = "adapter_model.safetensors"
# members of a combination are loaded, converted to float32, combined and saved
MEMBER_COPIES = 6
# Matrices of a module's shape that a decomposition needs beside three for each member: peft's sum, the input, the vectors and the
# work space of LAPACK.
SVD_MATRICES = 6


class Work(NamedTuple):
    """What a job computes.

    Attributes:
        base_bytes: of the base's weights in their files, of which a few are in the host's memory while they are loaded.
        flop: floating-point operations.
        trained_bytes: of the trained tensors, their gradients and moments. On a GPU, the host has them while it resumes: the
            checkpoint has the tensors, the moments and the best tensors so far.
        weights_bytes: of the base's frozen weights in memory.
        pass_bytes: of a pass on a CPU: its activations and logits, or keys and values; of a combination, all that it holds.
        least_pass_bytes: of the smallest pass, which has one example: what GPUs need beside the weights.
        is_float32: whether matrix products are in float32, which on a GPU are slower.
        is_sharded: whether the base is loaded to the host's memory, from where the processes take their shares to GPUs.
        needs_one_gpu: whether a method rules out a base split over several GPUs.
    """

    base_bytes: float
    flop: float
    trained_bytes: float = 0.0
    weights_bytes: float = 0.0
    pass_bytes: float = 0.0
    least_pass_bytes: float = 0.0
    is_float32: bool = False
    is_sharded: bool = False
    needs_one_gpu: bool = False


class Shape(NamedTuple):
    """A base: the number of its weights, the bytes of their files, and its counts, if there are any."""

    parameters: int
    file_bytes: int
    footprint: ModelFootprint | None

    def weights_bytes(self, dtype: str, quantization: str | None) -> float:
        """Return the bytes of the weights in memory."""
        if quantization and self.footprint:
            return self.footprint["weights"][quantization]
        return self.parameters * _dtype_bytes(dtype)

    def count_method(self, name: str) -> MethodFootprint:
        """Return the counts of a method; ``name`` begins with that of its card."""
        if self.footprint is None:
            return {
                "trained": TRAINED_BYTES * TRAINED_SHARE * self.parameters,
                "kept": KEPT * self.parameters,
                "kept_with_checkpointing": KEPT_WITH_CHECKPOINTING * self.parameters,
                "seconds": {},
            }
        methods = self.footprint["methods"]
        card = max((card for card in methods if name.startswith(card)), key=len, default=STAND_IN)
        return methods[card]

    def logits_bytes(self, tokens: int) -> float:
        """Return the bytes of the logits of a training pass and of their gradients."""
        if self.footprint is None:
            return LOGITS_AT_MOST
        logits, most = self.footprint["logits"] * tokens, self.footprint["logits_at_most"]
        return logits if most is None else min(logits, most)


def training_work(adapter: Artifact, machine: MachineSettings) -> Work:
    """Return what the training of an adapter computes: 6 FLOP for each weight and token.

    Raises:
        FileNotFoundError: its base or its prompts are not there yet.
    """
    settings = override_training(plan_training(adapter.params), machine)
    shape = measure_base(adapter.inputs["base"])
    examples = settings.max_steps and settings.max_steps * settings.batch_size
    if not examples:
        examples = math.ceil(float(settings.epochs or 0) * _count_rows(adapter.inputs["prompts"].path))
    is_full = adapter.params["method"]["kind"] == "full"
    method = shape.count_method(adapter.label.split("/")[1])
    kept = method["kept_with_checkpointing" if settings.gradient_checkpointing else "kept"]

    def pass_bytes(tokens: int) -> float:
        # the counts are those of 16 bits
        return tokens * kept * _dtype_bytes(settings.dtype) / 2 + shape.logits_bytes(tokens)

    return Work(
        shape.file_bytes,
        6.0 * shape.parameters * examples * settings.cutoff_len,
        trained_bytes=TRAINED_BYTES * shape.parameters if is_full else method["trained"],
        weights_bytes=0.0 if is_full else shape.weights_bytes(settings.dtype, settings.quantization),
        # a pass has one example at least, and those of a step at most
        pass_bytes=pass_bytes(
            min(
                max(settings.micro_batch_tokens, settings.cutoff_len),
                settings.batch_size * settings.cutoff_len,
            )
        ),
        least_pass_bytes=pass_bytes(settings.cutoff_len),
        is_float32=settings.dtype == "float32",
        is_sharded=bool(machine.shard),
        needs_one_gpu=_needs_one_gpu(adapter),
    )


def generation_work(answers: Sequence[Artifact], machine: MachineSettings) -> Work:
    """Return what the generation of answers computes: 2 FLOP for each weight and token, prompts and beams included.

    Raises:
        FileNotFoundError: the base or prompts are not there yet.
    """
    shape = measure_base(answers[0].inputs["base"])
    tokens = 0
    for artifact in answers:
        rows = sum(
            _count_rows(source.path) for source in artifact.inputs.values() if source.stage == "prompts"
        )
        tokens += rows * max(map(_tokens_of_answer, artifact.params.values()))
    decodings = [decoding for artifact in answers for decoding in artifact.params.values()]
    return _work_of_answers(shape, tokens, decodings, machine, adapters=_list_adapters(answers))


def teaching_work(answers: Artifact, machine: MachineSettings) -> Work:
    """Return what the answers of a teacher compute: 2 FLOP for each weight and token, prompts and samples included.

    Raises:
        FileNotFoundError: the base or the questions are not there yet.
    """
    shape = measure_base(answers.inputs["base"])
    (decoding,) = answers.params.values()
    tokens = _count_rows(answers.inputs["questions"].path) * _tokens_of_answer(decoding)
    return _work_of_answers(shape, tokens, [decoding], machine, adapters=_list_adapters([answers]))


def combination_work(adapter: Artifact) -> Work:
    """Return what the combination of adapters computes, by the shapes of its members' matrices.

    A type with ``svd`` decomposes a matrix of the shape of each module that a member adapts: m rows and n <= m columns take about
    14 m n^2 + 8 n^3 FLOP (the Golub-Reinsch SVD in Golub & Van Loan, Matrix Computations). What other types compute takes seconds.

    Raises:
        FileNotFoundError: a member is not there yet.
    """
    files = [source.path / ADAPTER_FILE for name, source in adapter.inputs.items() if name != "base"]
    copies = MEMBER_COPIES * sum(os.stat(str(file)).st_size for file in files)
    if "svd" not in adapter.params["method"]["combination_type"]:
        return Work(0, 0, pass_bytes=copies)
    shapes: dict[str, tuple[int, int]] = {}
    for file in files:
        shapes |= _read_changed_shapes(file)
    sides = [(max(shape), min(shape)) for shape in shapes.values()]
    flop = sum(14.0 * rows * columns**2 + 8.0 * columns**3 for rows, columns in sides)
    largest = max((rows * columns for rows, columns in sides), default=0)
    return Work(0, flop, pass_bytes=copies + 4 * largest * (3 * len(files) + SVD_MATRICES))


def _tokens_of_answer(decoding: Decoding) -> int:
    return int(PROMPT_TOKENS + decoding.get("max_new_tokens", 0) * rows_per_prompt(decoding))


def _list_adapters(answers: Sequence[Artifact]) -> list[Artifact]:
    return [artifact.inputs["adapter"] for artifact in answers if "adapter" in artifact.inputs]


def _needs_one_gpu(adapter: Artifact) -> bool:
    return find_obstacle_to_split(adapter.params["method"]) is not None


def _work_of_answers(
    shape: Shape,
    tokens: int,
    decodings: Sequence[Any],
    machine: MachineSettings,
    *,
    adapters: Sequence[Artifact],
) -> Work:
    dtypes = {decoding.get("dtype", "float32") for decoding in decodings}
    # keys and values of a token
    token_bytes = shape.footprint["cache"] if shape.footprint else CACHE * shape.parameters
    token_bytes *= max(map(_dtype_bytes, dtypes)) / 2
    longest = max(map(_tokens_of_answer, decodings))
    return Work(
        shape.file_bytes,
        2.0 * shape.parameters * tokens,
        weights_bytes=max(
            shape.weights_bytes(decoding.get("dtype", "float32"), decoding.get("quantization"))
            for decoding in decodings
        ),
        pass_bytes=min(CPU_CACHE_BYTES, token_bytes * (machine.batch_tokens or CPU_TEXT_TOKENS)),
        least_pass_bytes=token_bytes * longest,
        is_float32="float32" in dtypes,
        needs_one_gpu=any(map(_needs_one_gpu, adapters)),
    )


def _dtype_bytes(dtype: str) -> int:
    return 4 if dtype == "float32" else 2


def measure_base(base: Artifact) -> Shape:
    """Return the shape of a base: as counted, else by the size of its files.

    Raises:
        FileNotFoundError: its files are not there yet, and it was not counted.
    """
    footprint = find_footprint(str(base.params.get("repo_id", "")))
    try:
        bits, size = _measure_files(base.path)
    except FileNotFoundError:
        if footprint is None:
            raise
        bits, size = 16, 0
    except UserError:
        # a cache that this machine does not see; the job says what is wrong, if it sees none either
        bits, size = 16, 0 if footprint else 2 * UNKNOWN_WEIGHTS
    parameters = footprint["parameters"] if footprint else size * 8 // bits
    return Shape(parameters, size or 2 * parameters, footprint)


@functools.cache
def _measure_files(base: Path) -> tuple[int, int]:
    """Return the bits of most of a base's weights in their files, and the bytes of these files."""
    # of a text, so that the error names the file as Snakemake does: it then asks again once the file is there
    os.stat(str(base))
    files = list_weight_files(base)
    bits = next((_read_bits(file) for file in files if file.suffix == ".safetensors"), 16)
    return bits, sum(file.stat().st_size for file in files)


@functools.cache
def _read_changed_shapes(file: Path) -> dict[str, tuple[int, int]]:
    """Return the shape of the change to each module of a LoRA adapter."""
    header = _read_header(file)
    shapes = {}
    for name, tensor in header.items():
        if "lora_A" in name or "lora_embedding_A" in name:
            other = header[name.replace("lora_A", "lora_B").replace("lora_embedding_A", "lora_embedding_B")]
            shapes[name] = (other["shape"][0], math.prod(tensor["shape"][1:]))
    return shapes


def _read_header(file: Path) -> dict[str, Any]:
    """Return dtype and shape of each tensor of a safetensors file; its header is JSON after its length in 8 bytes."""
    with file.open("rb") as stream:
        header: dict[str, Any] = json.loads(stream.read(int.from_bytes(stream.read(8), "little")))
    return {name: tensor for name, tensor in header.items() if name != "__metadata__"}


def _read_bits(file: Path) -> int:
    """Return the bits of a number in a safetensors file."""
    dtypes = Counter(tensor["dtype"] for tensor in _read_header(file).values())
    # such as F32, BF16 and F8_E4M3
    bits = re.match(r"[A-Z]+(\d+)", dtypes.most_common(1)[0][0]) if dtypes else None
    return int(bits[1]) if bits else 16


@functools.cache
def _count_rows(path: Path) -> int:
    # of a text, as above
    os.stat(str(path))
    import pyarrow.parquet as pq

    return int(pq.read_metadata(path).num_rows)
