"""The small world of the default study: facts and stories, instruction tasks, pretraining text, word tokenizer.

Everything is drawn from seeds, so a clone without network has data, and any row can be rebuilt alone.
"""

from pipeline.data.world.tasks import MIXTURES, SPLITS, TASKS, rows

__all__ = ["MIXTURES", "SPLITS", "TASKS", "rows"]
