"""The EasyAnimateV3 diffusion transformer."""

from .config import TransformerConfig
from .model import EasyAnimateTransformer3D

__all__ = ["EasyAnimateTransformer3D", "TransformerConfig"]
