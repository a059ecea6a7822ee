"""The commands that name a run or nothing, instead of a fingerprint of the study: what was typed becomes plain arguments."""

import argparse
import warnings
from collections.abc import Callable
from pathlib import Path

from pipeline import catalog

Given = argparse.Namespace


def _methods(given: Given) -> None:
    catalog.show_methods(as_json=given.json)


def _models(given: Given) -> None:
    catalog.show_models(as_json=given.json)


def _predict(given: Given) -> None:
    from pipeline import devices
    from pipeline.evaluate.predict import asked, predict, show

    study, run = catalog.find_run(given.run, given.study)
    chosen = catalog.decoding(study, run, given.protocol)
    instead = {"max_new_tokens": given.max_new_tokens, "num_beams": given.num_beams}
    chosen |= {name: value for name, value in instead.items() if value is not None}
    base, adapter = catalog.made(study, run)
    _silence_libraries()
    questions = asked(given.question)
    several = len(given.question) > 1 or given.question == ["-"]
    with devices.claimed(given.device) as device:
        answers = predict(base, adapter, questions, input=given.input, decoding=chosen, device=device)
        try:
            show(answers, as_json=given.json, with_questions=several)
        except KeyboardInterrupt:  # of whom the answer takes too long
            raise SystemExit(130) from None


def _export(given: Given) -> None:
    from pipeline.export import export

    _silence_libraries()
    export(*catalog.find_run(given.run, given.study), output=Path(given.output), merge=given.merge)
    print(f"written: {given.output}")


def _silence_libraries() -> None:
    """Keep what libraries tell each other's developers out of the terminal."""
    warnings.simplefilter("ignore", FutureWarning)


BY_NAME: dict[str, Callable[[Given], None]] = {
    "methods": _methods,
    "models": _models,
    "predict": _predict,
    "export": _export,
}
