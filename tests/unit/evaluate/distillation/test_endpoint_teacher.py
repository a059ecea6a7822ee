"""A teacher behind an endpoint: a request for each sample, with a seed of its own, and the samples in one row."""

from pipeline.evaluate.endpoints.tasks import plan_texts, read_texts
from pipeline.params.endpoints.cards import EndpointModel
from pipeline.study import load_study
from pipeline.study.distillation.resolve import TeacherModel, resolve_distilled

CARD = EndpointModel(name="m", kind="endpoint", base_url="http://localhost:1/v1", api="chat", model="m")
DECODING = {
    "template": "strict",
    "max_new_tokens": 9,
    "samples": 3,
    "temperature": 0.7,
    "top_p": 0.9,
    "sampling_seed": 5,
}


def example(number):
    return {"id": f"s/train/{number}", "prompt": f"question {number}"}


def seeds_of(task):
    return [request.body["seed"] for request in task.requests]


def test_each_sample_is_a_request_whose_seed_depends_on_question_and_number_alone():
    task = plan_texts(CARD, [example(0), example(1)], DECODING)
    assert len({request.key for request in task.requests}) == 6
    assert {(request.body["temperature"], request.body["top_p"]) for request in task.requests} == {(0.7, 0.9)}
    alone = plan_texts(CARD, [example(1)], {**DECODING, "samples": 2})
    assert seeds_of(alone) == seeds_of(task)[3:5]
    assert seeds_of(plan_texts(CARD, [example(0)], {**DECODING, "sampling_seed": 6})) != seeds_of(task)[:3]


def test_the_samples_of_a_question_are_one_row():
    task = plan_texts(CARD, [example(0), example(1)], DECODING)
    exchanges = [
        {
            "response": {
                "choices": [{"message": {"content": f"text {n}"}, "finish_reason": "stop"}],
                "model": "m",
            }
        }
        for n in range(6)
    ]
    rows = list(read_texts(CARD, task, exchanges))
    assert [row["text"] for row in rows] == ["text 0", "text 3"]
    assert [sample["text"] for sample in rows[1]["further_samples"]] == ["text 4", "text 5"]


def test_one_answer_without_sampling_is_sent_as_in_evaluation():
    (request,) = plan_texts(CARD, [example(0)], {"template": "strict", "max_new_tokens": 9}).requests
    assert request.body == {
        "model": "m",
        "messages": [{"role": "user", "content": "question 0"}],
        "max_tokens": 9,
        "temperature": 0.0,
    }


def test_the_answers_of_an_endpoint_have_no_dtype_and_no_beams():
    study = load_study("math-distilled")
    base = study.base("gpt-4o-mini")
    teacher = TeacherModel("gpt-4o-mini/bare", base, None)
    distilled = resolve_distilled(
        "math-distilled-right", "train", teacher=teacher, prompts=study.choose_prompts, raw=study.raw
    )
    (decoding,) = distilled.inputs["answers to gsm8k"].params.values()
    assert set(decoding) == {"template", "max_new_tokens", "temperature", "samples", "sampling_seed"}
