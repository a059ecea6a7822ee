"""Likelihoods and accuracies equal EleutherAI's lm-evaluation-harness on real PIQA, ARC and BoolQ questions and passages."""

import gzip
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from pipeline.core.io import read_json, read_jsonl
from pipeline.data.passages import make_passages
from pipeline.data.records import make_records
from pipeline.evaluate.generation.generate import generate
from pipeline.evaluate.generation.rows import GenerationRequest, GenerationTask
from pipeline.evaluate.scoring.rows import ScoringTask
from pipeline.evaluate.scoring.score import score
from pipeline.params.reading import read_card
from pipeline.params.resolve import answer_form_of
from pipeline.params.templates import build_prompt
from pipeline.prompts.write import SCHEMA
from tests.tiny import TOKENS, model_of

QUESTIONS = 100
FILES = {"piqa": "piqa", "arc-easy": "ARC-Easy", "arc-challenge": "ARC-Challenge", "boolq": "boolq"}
PROTOCOLS = ("likelihood", "likelihood-text", "likelihood-pmi")


def card_of(protocol):
    """The card of a protocol; the neutral prompt of the harness is empty."""
    card = read_card("protocols", protocol)
    return card if card.unconditional is None else card.model_copy(update={"unconditional": ""})


def real_rows(shared, task):
    path = shared / "data/real" / FILES[task] / "test.jsonl.gz"
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        rows = [json.loads(line) for _, line in zip(range(QUESTIONS), lines, strict=False)]
    return list(make_records(rows, task=task, split="test", answer_form=answer_form_of(task)))


def train_tokenizer(texts):
    """A tokenizer like LLaMA's: a space belongs to the word behind it, the text gets a leading space and a start token."""
    words = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>"))
    words.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    words.decoder = decoders.Replace("▁", " ")
    special = ["<pad>", "<s>", "</s>", "<unk>"]
    bytes_ = [f"<0x{number:02X}>" for number in range(256)]
    trainer = trainers.BpeTrainer(vocab_size=4000, special_tokens=special + bytes_, show_progress=False)
    words.train_from_iterator(texts, trainer)
    start = [("<s>", TOKENS["bos_token_id"])]
    words.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=start)
    special_tokens = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    return PreTrainedTokenizerFast(tokenizer_object=words, **special_tokens)


@pytest.fixture(scope="module")
def rows(shared):
    return {task: real_rows(shared, task) for task in FILES}


@pytest.fixture(scope="module")
def base(rows, tmp_path_factory):
    folder = tmp_path_factory.mktemp("base") / "tiny"
    tokenizer = train_tokenizer(row["instruction"] for task_rows in rows.values() for row in task_rows)
    # less sharp, since the harness adds in float32, whose rounding at -1600 exceeds the tolerance
    shape = {"vocab_size": len(tokenizer), "max_position_embeddings": 2048}
    model_of("llama", sharpness=2.0, **shape).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def make_examples_and_decoding(task, protocol, rows):
    card = card_of(protocol)
    examples = [
        {**row, "prompt": build_prompt(row["instruction"], template=card.template)} for row in rows[task]
    ]
    return examples, card.decoding(answer_form_of(task), max_new_tokens=None)


@pytest.fixture(scope="module")
def ours(base, rows, tmp_path_factory):
    """Answers and scores of the stages themselves, by (task, protocol)."""
    folder = tmp_path_factory.mktemp("ours")
    tasks, judged = [], []
    for task in FILES:
        for protocol in PROTOCOLS:
            examples, decoding = make_examples_and_decoding(task, protocol, rows)
            name, prompts = f"{task}-{protocol}", folder / f"{task}-{protocol}.parquet"
            pq.write_table(pa.Table.from_pylist(examples, schema=SCHEMA), prompts)
            fields = {"name": name, "prompts": prompts}
            tasks.append(GenerationTask(**fields, decoding=decoding, fingerprint=name))
            card = card_of(protocol)
            judged.append(ScoringTask.under(card, **fields, task=task, answer_form=answer_form_of(task)))
    answers, scores = folder / "answers/fp", folder / "scores.json"
    request = GenerationRequest("bare", None, tuple(tasks), answers, siblings=folder / "answers")
    generate(base, request, device="cpu", manifest={})
    score(answers, tasks=judged, output=scores, manifest={})
    names = [task.name for task in tasks]
    return {name: (read_jsonl(answers / f"{name}.jsonl"), read_json(scores)["tasks"][name]) for name in names}


@pytest.fixture(scope="module")
def theirs(base, rows, ours):
    """The harness's evaluation of the same prompts and choices, as tasks of its configuration language."""
    import datasets
    from lm_eval.evaluator import simple_evaluate
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    def config(name, answers, golds):
        lines = [
            {"prompt": row["prompt"], "choices": row["continuations"], "gold": row["choices"].index(gold)}
            for row, gold in zip(answers, golds, strict=True)
        ]
        return {
            "task": name,
            "custom_dataset": lambda **_: {"test": datasets.Dataset.from_list(lines)},
            "test_split": "test",
            "output_type": "multiple_choice",
            "doc_to_text": "{{prompt}}",
            "doc_to_choice": "choices",
            "doc_to_target": "gold",
            "target_delimiter": "",
            "metric_list": [
                {"metric": metric}
                for metric in ("acc", "acc_norm", "acc_bytes", "acc_mutual_info")
                if metric != "acc_mutual_info" or "unconditional" in answers[0]
            ],
        }

    tasks = [
        config(name, answers, [item["gold"] for item in scores["items"]])
        for name, (answers, scores) in ours.items()
    ]
    model = HFLM(pretrained=str(base), device="cpu", dtype="float32", batch_size=8)
    return simple_evaluate(
        model, tasks=tasks, bootstrap_iters=0, task_manager=TaskManager(include_defaults=False)
    )


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("task", FILES)
def test_log_likelihoods_and_accuracies_equal_the_harness(task, protocol, ours, theirs):
    name = f"{task}-{protocol}"
    answers, scores = ours[name]
    samples = sorted(theirs["samples"][name], key=lambda sample: sample["doc_id"])
    assert len(samples) == len(answers) == QUESTIONS
    for row, sample in zip(answers, samples, strict=True):
        assert sample["arguments"][0][0] == row["prompt"]
        expected = [value for ((value, _),) in sample["resps"]]
        values = row["loglikelihoods"] + row.get("unconditional", [])
        assert values == pytest.approx(expected, abs=1e-4)
    measures = [("acc", "raw"), ("acc_norm", "normalised"), ("acc_bytes", "by_bytes")]
    measures += [("acc_mutual_info", "pmi")] if "acc_mutual_info" in scores else []
    assert ("acc_mutual_info" in scores) == (protocol == "likelihood-pmi")
    for metric, choice in measures:
        correct = [float(item[choice] == item["gold"]) for item in scores["items"]]
        assert correct == [sample[metric] for sample in samples]
        assert scores[metric] == pytest.approx(theirs["results"][name][f"{metric},none"])
    # otherwise equal accuracies would prove little
    assert 0 < scores["acc"] < 1


@pytest.mark.parametrize("window", [16, 2048])
def test_likelihoods_of_passages_equal_the_harness(base, rows, tmp_path, window):
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM

    lines = [{"text": row["instruction"]} for row in rows["boolq"][:40]]
    records = make_passages(lines, task="t", split="test", characters=600)
    examples = [{**record, "prompt": ""} for record in records]
    prompts = tmp_path / "passages.parquet"
    pq.write_table(pa.Table.from_pylist(examples, schema=SCHEMA), prompts)
    task = GenerationTask("t-nats", prompts, {"window": window}, "f")
    request = GenerationRequest("bare", None, (task,), tmp_path / "fp", siblings=tmp_path)
    generate(base, request, device="cpu", manifest={})
    answers = read_jsonl(tmp_path / "fp/t-nats.jsonl")
    # by default the harness would count the start token that the tokenizer adds, behind another one
    settings = {"batch_size": 8, "max_length": window, "add_bos_token": False}
    model = HFLM(pretrained=str(base), device="cpu", dtype="float32", **settings)
    instances = [Instance("loglikelihood_rolling", {}, (row["response"],), 0) for row in examples]
    expected = model.loglikelihood_rolling(instances, disable_tqdm=True)
    # sums of hundreds of tokens, which the harness adds in float32
    assert [-row["nats"] for row in answers] == pytest.approx(expected, rel=2e-6)
    assert max(row["tokens"] for row in answers) > 64
