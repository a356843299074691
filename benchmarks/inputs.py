"""Weights and inputs, which follow from their names so that both sides have the same ones."""

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from devtools import golden

from .cases import CLIP_CHANNELS, TEXT_LENGTHS, TEXT_TOKENS, Case


def normal(case: Case, name: str, shape: Sequence[int], device: torch.device | str) -> torch.Tensor:
    """Return the float32 normal tensor that belongs to ``name``.

    Cases in float32 take the golden files' rule. The others take torch's own generator on the device, which
    makes the full-size model's 1.5 billion numbers in a moment.
    """
    if case.dtype == "float32":
        return golden.rule_input(name, shape).to(device)
    generator = torch.Generator(device).manual_seed(zlib.crc32(name.encode()))
    return torch.randn(tuple(shape), generator=generator, device=device)


def weights(
    case: Case, shapes: Mapping[str, Sequence[int]], device: torch.device | str
) -> dict[str, torch.Tensor]:
    """Return the weights of a model whose ``state_dict`` has these names and shapes, in the case's dtype."""
    dtype = getattr(torch, case.dtype)
    return {
        name: golden.scaled_weight(name, normal(case, name, shape, device)).to(dtype)
        for name, shape in shapes.items()
    }


def transformer_weights(
    case: Case, shapes: Mapping[str, Sequence[int]], device: torch.device | str
) -> dict[str, torch.Tensor]:
    """Return :func:`weights`; whole runs in float32 take damped ones, whose video is not all saturated."""
    if case.stage == "pipeline" and case.dtype == "float32":
        return golden.pipeline_state_dict(shapes)
    return weights(case, shapes, device)


@dataclass(frozen=True)
class Text:
    """Text of both prompts.

    Attributes
    ----------
    states : torch.Tensor
        ``[2, 120, caption channels]``, the negative prompt first, valid tokens first in each.
    lengths : tuple of int
        Valid tokens of each row.
    """

    states: torch.Tensor
    lengths: tuple[int, ...] = TEXT_LENGTHS

    @property
    def mask(self) -> torch.Tensor:
        """1 for valid tokens, else 0: ``[2, 120]``."""
        positions = torch.arange(self.states.shape[1], device=self.states.device)
        return (positions < torch.tensor(self.lengths, device=self.states.device)[:, None]).to(self.states)


def text(case: Case, channels: int, device: torch.device | str) -> Text:
    """Return the text states of both prompts, in the case's dtype."""
    states = normal(case, "text", (2, TEXT_TOKENS, channels), device)
    return Text(states.to(getattr(torch, case.dtype)))


def clip_embedding(case: Case, rows: int, device: torch.device | str) -> torch.Tensor:
    """Return CLIP image embeddings ``[rows, 768]``, in the case's dtype."""
    return normal(case, "clip", (rows, CLIP_CHANNELS), device).to(getattr(torch, case.dtype))


def start_frame(case: Case) -> torch.Tensor | None:
    """Return the given first frame ``[1, height, width, 3]`` in [0, 1], in main memory; None where none is given."""
    if not case.given:
        return None
    return normal(case, "start", (1, case.height, case.width, 3), "cpu").clamp(-1, 1) / 2 + 0.5
