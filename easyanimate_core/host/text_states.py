"""Conditionings that ComfyUI may batch: text states of different lengths."""

import comfy.conds
import torch
import torch.nn.functional as F


class TextStates(comfy.conds.CONDRegular):
    """T5 states ``[1, tokens, channels]``; batching pads with zeros instead of repeating tokens.

    ComfyUI's own cross-attention conditioning repeats the shorter text, which is exact only while text is all
    there is to attend to; here CLIP tokens follow. The valid length travels beside it.
    """

    def can_concat(self, other: "TextStates") -> bool:
        """Tell whether ``other`` may share a batch with this text."""
        return self.cond.shape[2] == other.cond.shape[2] and self.cond.device == other.cond.device

    def concat(self, others: list["TextStates"]) -> torch.Tensor:
        """Stack this text and the others as ``[rows, longest, channels]``."""
        texts = [self.cond, *(other.cond for other in others)]
        longest = max(text.shape[1] for text in texts)
        return torch.cat([F.pad(text, (0, 0, 0, longest - text.shape[1])) for text in texts])
