"""The small world of the default study: facts and stories, instruction tasks, pretraining text, word tokenizer.

Everything is drawn from seeds, so that a clone without a network connection has data.
"""

from pipeline.data.world.tasks import MIXTURES, SPLITS, TASKS, TEXT, draw_rows

__all__ = ["MIXTURES", "SPLITS", "TASKS", "TEXT", "draw_rows"]
