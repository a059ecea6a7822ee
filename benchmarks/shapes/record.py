"""The estimates that `check` and `status` print, written for ``pipeline.study.costs``."""

import json
from collections.abc import Mapping

from benchmarks.shapes.memory import LOGIT_BYTES, PIECE_BYTES, Footprint, cache_bytes, count_weights
from benchmarks.shapes.models import SHAPES, Device, build_on_meta
from benchmarks.shapes.speed import assume_shares, training_seconds
from pipeline.models.head import LOGITS
from pipeline.study.costs.footprints import PATH, MethodFootprint, ModelFootprint

# one of each size of memory
DEVICES = ("RTX 4090", "A100 40 GB", "A100 80 GB")


def write_footprints(footprints: Mapping[tuple[str, str], Footprint], devices: Mapping[str, Device]) -> None:
    """Write the counted pairs of a model and a method; pairs that were counted earlier stay."""
    used = {name: devices[name] for name in DEVICES}
    models: dict[str, ModelFootprint] = (
        json.loads(PATH.read_text(encoding="utf-8"))["models"] if PATH.exists() else {}
    )
    for (model, method), footprint in footprints.items():
        repository = SHAPES[model].source
        earlier = models[repository]["methods"] if repository in models else {}
        methods = {**earlier, method: _record_method(footprint, used)}
        models[repository] = _record_model(model, footprint)
        models[repository]["methods"] = dict(sorted(methods.items()))
    rows = {
        "devices": {name: assume_shares(device) for name, device in used.items()},
        "models": dict(sorted(models.items())),
    }
    PATH.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


def _record_method(footprint: Footprint, devices: Mapping[str, Device]) -> MethodFootprint:
    plain, checkpointing = (
        footprint.parts("bf16", pieces=True, checkpointing=choice) for choice in (False, True)
    )
    return {
        "trained": plain.trained,
        "kept": round(plain.kept / footprint.tokens),
        "kept_with_checkpointing": round(checkpointing.kept / footprint.tokens),
        "seconds": {
            name: float(
                f"{training_seconds(footprint, device, nf4=False, checkpointing=False) / footprint.tokens:.3g}"
            )
            for name, device in devices.items()
        },
    }


def _record_model(model: str, footprint: Footprint) -> ModelFootprint:
    base = build_on_meta(SHAPES[model])
    weights = count_weights(base)
    return {
        "parameters": weights.linear + weights.rest,
        "weights": {form: round(weights.size(form)) for form in ("bf16", "int8", "nf4")},
        "cache": cache_bytes(base.config),
        "logits": float(LOGIT_BYTES * footprint.vocabulary),
        "logits_at_most": float(PIECE_BYTES * LOGITS) if footprint.divisible else None,
        "methods": {},
    }
