"""The hybrid motion module: attention over frames, and in odd blocks over the whole clip.

Norms and the frame sinusoids stay in float32 whatever the weights' dtype: half precision blurs the
position of late frames.
"""

from typing import Any

import torch
import torch.nn as nn

from ..attention import AttentionFunction
from .config import GLOBAL, MotionModuleConfig
from .layers import GEGLU, Attention, FeedForward

GROUPS = 32


class MotionTransformerBlock(nn.Module):
    """Two attentions in sequence (temporal, then temporal or global) and a GEGLU MLP, each with its residual."""

    def __init__(
        self,
        dim: int,
        config: MotionModuleConfig,
        *,
        attention: AttentionFunction,
        operations: Any,
        **factory: Any,
    ) -> None:
        super().__init__()
        self.config = config
        norm_factory = {**factory, "dtype": torch.float32}
        kinds = config.attention_block_types
        self.attention_blocks = nn.ModuleList(
            Attention(
                dim,
                config.num_attention_heads,
                bias=False,
                attention=attention,
                operations=operations,
                **factory,
            )
            for _ in kinds
        )
        self.norms = nn.ModuleList(operations.LayerNorm(dim, eps=1e-5, **norm_factory) for _ in kinds)
        self.ff = FeedForward(dim, GEGLU, operations=operations, **factory)
        self.ff_norm = operations.LayerNorm(dim, eps=1e-5, **norm_factory)

    def forward(
        self, x: torch.Tensor, frame_table: torch.Tensor, transformer_options: dict[str, Any] | None = None
    ) -> torch.Tensor:
        """``[batch, frames, tokens, dim] -> [batch, frames, tokens, dim]``."""
        for kind, norm, attention in zip(
            self.config.attention_block_types, self.norms, self.attention_blocks, strict=True
        ):
            normed = self._add_frame_index(norm(x.float()), frame_table, kind).to(x.dtype)
            x = x + self._attend(kind, attention, normed, transformer_options)
        return x + self.ff(self.ff_norm(x.float()).to(x.dtype))

    def _add_frame_index(self, normed: torch.Tensor, frame_table: torch.Tensor, kind: str) -> torch.Tensor:
        """Add the sinusoid of each frame's index to ``[batch, frames, tokens, dim]``."""
        photo = len(frame_table) == 1 and kind != GLOBAL and self.config.remove_time_embedding_in_photo
        if photo or not self.config.temporal_position_encoding:
            return normed
        return normed + frame_table[:, None]

    @staticmethod
    def _attend(
        kind: str, attention: Attention, x: torch.Tensor, transformer_options: dict[str, Any] | None
    ) -> torch.Tensor:
        """Attend over all tokens of the clip, or over the frames of each position."""
        batch, frames, tokens, dim = x.shape
        if kind == GLOBAL:
            clip = x.reshape(batch, frames * tokens, dim)
            return attention(clip, transformer_options=transformer_options).view(x.shape)
        tracks = x.transpose(1, 2).reshape(batch * tokens, frames, dim)
        out = attention(tracks, transformer_options=transformer_options)
        return out.view(batch, tokens, frames, dim).transpose(1, 2)


class MotionTransformer(nn.Module):
    """Per-frame GroupNorm, projections around the transformer blocks, and the module's residual."""

    def __init__(
        self,
        dim: int,
        config: MotionModuleConfig,
        *,
        attention: AttentionFunction,
        operations: Any,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__()
        factory = {"dtype": dtype, "device": device}
        self.norm = operations.GroupNorm(GROUPS, dim, eps=1e-6, dtype=torch.float32, device=device)
        self.proj_in = operations.Linear(dim, dim, **factory)
        self.transformer_blocks = nn.ModuleList(
            MotionTransformerBlock(dim, config, attention=attention, operations=operations, **factory)
            for _ in range(config.num_transformer_block)
        )
        self.proj_out = operations.Linear(dim, dim, **factory)

    def forward(
        self, x: torch.Tensor, frame_table: torch.Tensor, transformer_options: dict[str, Any] | None = None
    ) -> torch.Tensor:
        """``[batch, frames, tokens, dim] -> [batch, frames, tokens, dim]``."""
        normed = self.norm(x.flatten(0, 1).transpose(1, 2).float()).transpose(1, 2).to(x.dtype)
        hidden = self.proj_in(normed).view(x.shape)
        for block in self.transformer_blocks:
            hidden = block(hidden, frame_table, transformer_options)
        return x + self.proj_out(hidden)


class HybridMotionModule(nn.Module):
    """Namesake of the release's ``attn_temporal``, which holds nothing but the transformer."""

    def __init__(self, dim: int, config: MotionModuleConfig, **kwargs: Any) -> None:
        super().__init__()
        self.temporal_transformer = MotionTransformer(dim, config, **kwargs)

    def forward(
        self, x: torch.Tensor, frame_table: torch.Tensor, transformer_options: dict[str, Any] | None = None
    ) -> torch.Tensor:
        """Run the module.

        Parameters
        ----------
        x : torch.Tensor
            Tokens ``[batch, frames, tokens, dim]``.
        frame_table : torch.Tensor
            Sinusoids of the frame indices ``[frames, dim]``, float32 (:func:`.embeddings.frame_sinusoids`).
        transformer_options : dict, optional
            Handed to the attention function.

        Returns
        -------
        torch.Tensor
            Same shape as ``x``.
        """
        return self.temporal_transformer(x, frame_table, transformer_options)
