"""Sampled answers in the generate stage and in a study: batches and kills change no byte, and a vote decides."""

import re

import pytest

from pipeline.commands.app import run_command
from pipeline.commands.run.jobs import run_job
from pipeline.commands.run.stages import JobOptions
from pipeline.core.errors import UserError
from pipeline.core.io import read_json, read_jsonl
from pipeline.evaluate.generation import decoding
from pipeline.evaluate.scoring.voting import elect_answer
from pipeline.params.reading import read_card
from pipeline.results.mlflow import runs
from pipeline.study import find
from pipeline.study.find import choose_decoding
from tests.integration.generation_cases import GREEDY, run, save_adapter, task, write_prompts

SAMPLED = {**GREEDY, "samples": 3, "temperature": 2.0, "top_p": 0.95, "sampling_seed": 0}
CARD = "sampling: {samples: 10, temperature: 0.7, seed: 0}"


@pytest.mark.parametrize("method", [None, "prefix"])
def test_neither_batches_nor_a_kill_change_a_byte(method, bases, tmp_path, monkeypatch):
    prompts = write_prompts(tmp_path / "prompts.parquet", n=12)
    adapter = save_adapter("llama", method, tmp_path / "adapter") if method else None
    files = {}
    for budget in (1, 250, 100_000):
        tasks = [task("t", prompts, f"f{budget}", {**SAMPLED, "batch_tokens": budget})]
        rows = run(bases["llama"], adapter, tasks, tmp_path / f"size{budget}")["t"]
        files[budget] = (tmp_path / f"size{budget}/t.jsonl").read_bytes()
    assert files[1] == files[250] == files[100_000]
    assert [len(row["further_samples"]) for row in rows] == [2] * 12
    texts = {
        text for row in rows for text in (row["text"], *(each["text"] for each in row["further_samples"]))
    }
    assert len(texts) > 24
    decode, calls = decoding.decode, []

    def decode_until_killed(*args, **options):
        calls.append(len(args[1]))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return decode(*args, **options)

    monkeypatch.setattr(decoding, "decode", decode_until_killed)
    tasks = [task("t", prompts, "killed", {**SAMPLED, "batch_tokens": 250})]
    with pytest.raises(KeyboardInterrupt):
        run(bases["llama"], adapter, tasks, tmp_path / "killed")
    run(bases["llama"], adapter, tasks, tmp_path / "killed")
    assert (tmp_path / "killed/t.jsonl").read_bytes() == files[1]
    # what was answered before the kill is not sampled again
    assert sum(calls) == 12 + calls[2]


def test_more_samples_keep_the_first_and_another_seed_changes_them(bases, tmp_path):
    prompts = write_prompts(tmp_path / "prompts.parquet", n=4)
    settings = {"few": {}, "more": {"samples": 5}, "other": {"sampling_seed": 1}}
    tasks = [task(name, prompts, name, {**SAMPLED, **change}) for name, change in settings.items()]
    rows = run(bases["llama"], None, tasks, tmp_path / "answers")
    for few, more in zip(rows["few"], rows["more"], strict=True):
        assert {**more, "further_samples": more["further_samples"][:2]} == few
    assert all(few["text"] != other["text"] for few, other in zip(rows["few"], rows["other"], strict=True))


def use_protocol(project, change, base="majority"):
    """Let the study 'small' have the protocols strict and 'vote', a changed card; return the study."""
    text = (project / f"params/protocols/{base}.yaml").read_text().replace(f"name: {base}", "name: vote")
    assert change[0] in text
    (project / "params/protocols/vote.yaml").write_text(text.replace(*change))
    file = project / "params/study/small.yaml"
    file.write_text(file.read_text().replace("[strict, paper]", "[strict, paper, vote]"))
    read_card.cache_clear()
    return find.load_study()


def test_a_study_votes_without_other_answers_being_made_again(project, monkeypatch, capsys):
    monkeypatch.setattr(runs, "_write", lambda *_: True)
    file = project / "params/study/small.yaml"
    file.write_text(re.sub("methods: .*", "methods: [lora]", file.read_text()))
    read_card.cache_clear()
    before = {artifact.path for artifact in find.load_study().named()}
    study = use_protocol(project, (CARD, "sampling: {samples: 4, temperature: 1.5, seed: 3}"))
    new = {artifact.path for artifact in study.named()} - before
    assert {path.parts[1] for path in new} == {"answers", "scores", "small"}
    chosen = study.runs[-1]
    for artifact in (study.answers(chosen), study.scores(chosen)):
        run_job(artifact.stage, artifact.fingerprint, options=JobOptions(device="cpu"))
    info = read_json(study.answers(chosen).path / "run.json")
    # the answers under the other protocols are copied
    assert sorted(info["tasks"]) == ["world-addsub-vote", "world-aqua-vote"]
    score = read_json(study.scores(chosen).path)["tasks"]["world-addsub-vote"]
    rows = read_jsonl(study.results(chosen).answers_file("world-addsub-vote"))
    assert len(rows) == score["n"] == 6
    for row, item in zip(rows, score["items"], strict=True):
        assert len(row["further_samples"]) == 3
        assert item["parsed"] == elect_answer(item["samples"])
        assert len(item["samples"]) == 4
    answers, scores = study.answers(chosen).path, study.scores(chosen).path
    card = project / "params/protocols/vote.yaml"
    card.write_text(card.read_text().replace("version: 1", "version: 2"))
    read_card.cache_clear()
    # the same answers are parsed again
    study = find.load_study()
    assert study.answers(study.runs[-1]).path == answers
    assert study.scores(study.runs[-1]).path != scores
    # the terminal shows one answer
    assert "samples" not in choose_decoding(study, chosen, None)
    with pytest.raises(UserError, match=r"has no 'vote' \(choices: strict, paper\)"):
        choose_decoding(study, chosen, "vote")


@pytest.mark.parametrize(
    ("base", "change", "message"),
    [
        ("majority", ("samples: 10", "samples: 1"), "sampling.samples: .*greater than or equal to 2"),
        ("majority", ("temperature: 0.7", "temperature: 0"), "sampling.temperature: .*greater than 0"),
        ("majority", ("seed: 0", "seed: 0, top_p: 1.5"), "sampling.top_p: .*less than 1"),
        ("majority", ("sampling:", "num_beams: 4\nsampling:"), "sampling: not with beams"),
        (
            "majority",
            ("sampling:", "padding: unmasked\nbatch_size: 8\nsampling:"),
            "sampling: only with masked padding",
        ),
        ("likelihood", ("parser:", f"{CARD}\nparser:"), "sampling: only with a parser of generated text"),
        ("second-stage", ("parser:", f"{CARD}\nparser:"), "sampling: not with first_stage"),
        (
            "second-stage",
            ("first_stage: strict", "first_stage: majority"),
            "'majority' samples several answers",
        ),
    ],
)
def test_sampling_that_makes_no_sense_is_refused_in_one_line(base, change, message, project, capsys):
    with pytest.raises(UserError, match=message) as error:
        use_protocol(project, change, base)
    assert "\n" not in str(error.value)
    assert run_command(["check"]) == 1
    assert str(error.value) in capsys.readouterr().err
