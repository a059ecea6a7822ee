"""Sample logs that lm-evaluation-harness writes with --log_samples are read as answers made elsewhere."""

import json

import pytest

from pipeline.core.io import read_jsonl
from pipeline.evaluate.references.rows import read_source
from pipeline.params.published.references import ReferenceFormat

# importing the harness takes seconds
pytestmark = pytest.mark.slow

QUESTIONS = [("What is 2 + 3?", "2 + 3 = 5 #### 5"), ("What is 4 + 4?", "4 + 4 = 8 #### 8")]
TASK = """
task: sums
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
test_split: test
output_type: generate_until
doc_to_text: "Q: {{{{question}}}}\\nA:"
doc_to_target: "{{{{answer}}}}"
generation_kwargs: {{until: ["\\n"]}}
filter_list:
  - {{name: strict-match, filter: [{{function: regex, regex_pattern: "#### (\\\\d+)"}}, {{function: take_first}}]}}
  - {{name: last-number, filter: [{{function: regex, regex_pattern: "(\\\\d+)", group_select: -1}}, {{function: take_first}}]}}
metric_list: [{{metric: exact_match}}]
"""


@pytest.fixture(scope="module")
def log(tmp_path_factory):
    """The rows of a log that the harness itself has written, of a model that answers "The answer is 5."."""
    from lm_eval import evaluator
    from lm_eval.api.model import LM
    from lm_eval.loggers import EvaluationTracker
    from lm_eval.tasks import TaskManager

    class Fixed(LM):
        def generate_until(self, requests, disable_tqdm=False):
            return [" The answer is 5." for _ in requests]

        def loglikelihood(self, requests, disable_tqdm=False):
            raise NotImplementedError

        def loglikelihood_rolling(self, requests, disable_tqdm=False):
            raise NotImplementedError

    folder = tmp_path_factory.mktemp("lm_eval")
    data = folder / "test.jsonl"
    data.write_text("".join(json.dumps({"question": q, "answer": a}) + "\n" for q, a in QUESTIONS))
    (folder / "tasks").mkdir()
    (folder / "tasks/sums.yaml").write_text(TASK.format(data=data))
    manager = TaskManager(include_path=str(folder / "tasks"), include_defaults=False)
    results = evaluator.simple_evaluate(
        model=Fixed(), tasks=["sums"], task_manager=manager, log_samples=True, bootstrap_iters=0
    )
    tracker = EvaluationTracker(output_path=str(folder / "out"))
    tracker.general_config_tracker.model_name_sanitized = "fixed"
    tracker.date_id = "now"
    tracker.save_results_samples(task_name="sums", samples=results["samples"]["sums"])
    (path,) = (folder / "out").rglob("samples_*.jsonl")
    return read_jsonl(path)


def test_a_log_is_read_without_naming_its_keys(log):
    answers = read_source(log, ReferenceFormat(lm_eval=True, gold_mark="####"), name="log")
    # each answer stands in the log once for each filter
    assert len(answers) == 2 * len(QUESTIONS)
    assert {(answer.question, answer.gold, answer.text) for answer in answers} == {
        (question, gold[-1], " The answer is 5.") for question, gold in QUESTIONS
    }


def test_a_filter_chooses_the_reading_of_the_harness(log):
    format = ReferenceFormat(lm_eval=True, reading="filtered_resps.0", choose={"filter": "last-number"})
    answers = read_source(log, format, name="log")
    assert [answer.reading for answer in answers] == ["5", "5"]
