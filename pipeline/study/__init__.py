"""A study resolved into artifacts. Imports no torch and reads no dataset."""

from pipeline.study.artifacts import Artifact
from pipeline.study.find import default_study, load_study
from pipeline.study.grid import Study, project_root
from pipeline.study.run import Run, Task

__all__ = ["Artifact", "Run", "Study", "Task", "default_study", "load_study", "project_root"]
