"""The command `stability` on studies that cannot be judged yet."""

import pytest

from pipeline.commands.compare.stability import measure_stability
from pipeline.core.errors import UserError
from pipeline.study import load_study


def test_unscored_runs_are_named_with_the_command_that_scores_them():
    with pytest.raises(
        UserError, match=r"\d+ of \d+ runs of 'paper-math' are not scored; run: snakemake .*scores"
    ):
        measure_stability(load_study("paper-math"))


def test_a_study_without_models_has_no_order():
    with pytest.raises(UserError, match="'references-math' has no two methods under two conditions"):
        measure_stability(load_study("references-math"))
