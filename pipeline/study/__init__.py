"""A study resolved into artifacts. Imports no torch and reads no dataset."""

from pipeline.study.grid import Study, default_study, load_study, project_root

__all__ = ["Study", "default_study", "load_study", "project_root"]
