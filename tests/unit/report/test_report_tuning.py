"""The report's section on tuning: what trials chose, and what fewer of them would have concluded."""

from dataclasses import replace

from pipeline.report.data import read_report_data
from pipeline.report.tuning.figure import draw_best_of
from pipeline.report.tuning.tables import build_tuning_tables, list_best_of, list_sizes
from pipeline.study.description import ChoiceDescription, TuningDescription
from tests.descriptions import make_model
from tests.finished_study import make_small_study, write_file


def report_data(folder, scores, *, rule="loss"):
    """A small study whose methods have these validation scores of their trials; the first has the expected best of each number."""
    choices = []
    for method, (values, best_of) in scores.items():
        path = folder / f"choices/{method}.json"
        trials = [
            {"values": {"learning_rate": 0.1 * (number + 1)}, "adapter": "f", "score": score}
            for number, score in enumerate(values)
        ]
        best = (min if rule == "loss" else max)(value for value in values if value is not None)
        chosen = trials[values.index(best)]["values"]
        write_file(
            path, {"rule": rule, "trials": trials, "values": chosen, "score": best, "best_of": best_of}
        )
        choices.append(ChoiceDescription("m", method, "arithmetic", path))
    tuning = TuningDescription(rule, 2, 50, 9, "8 training examples", choices)
    return read_report_data(replace(make_small_study(folder), tuning=tuning))


def test_the_table_has_the_chosen_setting_the_ranks_and_the_test_score(tmp_path):
    data = report_data(tmp_path, {"lora": ([3.0, 1.0], [2.0, 1.0]), "series": ([1.5, 1.6], [1.55, 1.5])})
    table = build_tuning_tables(data)["tuning"]
    rows = table.frame.set_index("Method").to_dict("index")
    assert rows["LoRA"]["Chosen"] == "learning_rate 0.2 (highest)"
    assert rows["LoRA"]["Validation loss, best of 1"] == "2.0000"
    assert rows["LoRA"]["Validation loss, best of 2"] == "1.0000"
    assert (rows["LoRA"]["Rank, 1 trial"], rows["LoRA"]["Rank, 2 trials"]) == ("2", "1")
    assert (rows["Series"]["Rank, 1 trial"], rows["Series"]["Rank, 2 trials"]) == ("1", "2")
    # of the study's own two runs: 4 and 3 of 5 answers are right
    assert rows["LoRA"]["Test accuracy (%), strict"] == "70.0"
    assert "with 1 trial Series would have had the best score, with 2 it is LoRA." in table.caption


def read_choices(data) -> dict[str, str]:
    frame = build_tuning_tables(data)["tuning"].frame
    return dict(zip(frame["Method"], frame["Chosen"], strict=True))


def test_a_choice_at_the_end_of_the_tried_values_is_a_warning(tmp_path):
    best_of = [1.5, 1.2, 1.0]
    data = report_data(tmp_path, {"lora": ([3.0, 1.0, 2.0], best_of), "series": ([1.0, 1.5, None], best_of)})
    assert read_choices(data) == {"LoRA": "learning_rate 0.2", "Series": "learning_rate 0.1 (lowest)"}
    caption = build_tuning_tables(data)["tuning"].caption
    assert "1 of 2 choices is the lowest or the highest value tried (column Chosen)" in caption


def test_the_last_value_that_does_not_diverge_is_no_end(tmp_path):
    data = report_data(
        tmp_path, {"lora": ([3.0, 1.0, None], [2.0, 1.5, 1.0]), "series": ([3.0, 2.0, 1.0], [2.0, 1.5, 1.0])}
    )
    assert read_choices(data) == {"LoRA": "learning_rate 0.2", "Series": "learning_rate 0.3 (highest)"}


def test_choices_within_the_tried_values_need_no_warning(tmp_path):
    best_of = [1.5, 1.2, 1.0]
    data = report_data(tmp_path, {"lora": ([3.0, 1.0, 2.0], best_of), "series": ([3.0, 1.5, 2.0], best_of)})
    assert "value tried" not in build_tuning_tables(data)["tuning"].caption


def test_a_method_that_leads_throughout_is_said_once(tmp_path):
    data = report_data(tmp_path, {"lora": ([1.0, 1.2], [1.1, 1.0]), "series": ([1.5, 1.6], [1.55, 1.5])})
    caption = build_tuning_tables(data)["tuning"].caption
    assert "LLaMA, arithmetic: LoRA has the best score with 1 trial and with 2." in caption


def test_a_higher_accuracy_is_better(tmp_path):
    data = report_data(
        tmp_path, {"lora": ([0.2, 0.9], [0.55, 0.9]), "series": ([0.6, 0.6], [0.6, 0.6])}, rule="accuracy"
    )
    rows = build_tuning_tables(data)["tuning"].frame.set_index("Method").to_dict("index")
    assert rows["LoRA"]["Validation accuracy (%), best of 2"] == "90.0"
    assert (rows["LoRA"]["Rank, 1 trial"], rows["LoRA"]["Rank, 2 trials"]) == ("2", "1")


def test_diverged_trials_are_named_and_have_no_place_in_the_figure(tmp_path):
    data = report_data(tmp_path, {"lora": ([None, 1.0], [None, 1.0]), "series": ([1.5, 1.6], [1.55, 1.5])})
    tables = build_tuning_tables(data)
    assert list(tables["trials"].frame["Validation loss"]) == ["diverged", "1.0000", "1.5000", "1.6000"]
    assert list(tables["trials"].frame["Chosen"]) == ["", "✓", "✓", ""]
    assert tables["tuning"].frame["Validation loss, best of 1"][0] == "diverged"
    assert list_best_of(data)["best"].isna().sum() == 1
    assert draw_best_of(data)["best-of"].svg.startswith("<svg")


def test_a_model_without_methods_has_no_conclusion(tmp_path):
    data = report_data(tmp_path, {"lora": ([3.0, 1.0], [2.0, 1.0]), "series": ([1.5, 1.6], [1.55, 1.5])})
    models = [*data.study.models, make_model("n", "BLOOM")]
    caption = build_tuning_tables(replace(data, study=replace(data.study, models=models)))["tuning"].caption
    assert "LLaMA, arithmetic: with 1 trial" in caption
    assert "BLOOM" not in caption


def test_a_combination_has_no_choice_and_no_row(tmp_path):
    data = report_data(tmp_path, {"lora": ([3.0, 1.0], [2.0, 1.0]), "series": ([1.5, 1.6], [1.55, 1.5])})
    both = replace(data.study.methods[0], name="both", title="both")
    combined = replace(data.study.runs[1], method="both", combined_sets=("s", "z"))
    study = replace(data.study, methods=[*data.study.methods, both], runs=[*data.study.runs, combined])
    table = build_tuning_tables(replace(data, study=study))["tuning"].frame
    assert list(table["Method"]) == ["LoRA", "Series"]


def test_a_study_without_trials_has_no_such_section(tmp_path):
    data = read_report_data(make_small_study(tmp_path))
    assert build_tuning_tables(data) == {}
    assert draw_best_of(data) == {}


def test_the_columns_double_up_to_all_trials():
    assert [list_sizes(trials) for trials in (2, 3, 4, 9)] == [[1, 2], [1, 2, 3], [1, 2, 4], [1, 2, 4, 8, 9]]
