"""Workflows made for other EasyAnimate nodes, turned into ones that use this pack's.

``python convert_workflow.py OLD.json``. Standard library alone: no PyTorch, no ComfyUI.
"""

from .convert import convert
from .report import MigrationError, Report

__all__ = ["MigrationError", "Report", "convert"]
