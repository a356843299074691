"""Workflows made for other EasyAnimate nodes, turned into ones that use this pack's.

``python -m easyanimate_core.migration OLD.json``. Standard library alone: no PyTorch, no ComfyUI.
"""

from .convert import convert
from .errors import MigrationError
from .report import Report

__all__ = ["MigrationError", "Report", "convert"]
