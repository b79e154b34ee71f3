"""Typed IO managers over one content-addressed store. Nothing is ever pickled."""

from resources.io_managers.dataset import DatasetIOManager
from resources.io_managers.model_directory import ModelDirectoryIOManager
from resources.io_managers.refusing import RefusingIOManager
from resources.io_managers.report import ReportIOManager

__all__ = ["DatasetIOManager", "ModelDirectoryIOManager", "RefusingIOManager", "ReportIOManager"]
