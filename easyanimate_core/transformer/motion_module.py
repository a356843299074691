"""The hybrid motion module: attention over frames, and in odd blocks over the whole clip.

Inside, tokens are sorted by position and then by frame, so that no attention has to move them. The frame sinusoids
are added in float32 whatever the weights' dtype: half precision blurs the position of late frames.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn as nn

from ..attention import AttentionFunction
from ..linear import linear
from .chunks import in_chunks, rows_for
from .config import GLOBAL, MotionModuleConfig
from .layers import GEGLU, Attention, FeedForward
from .norms import affine_layer_norm, frame_group_norm

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
        self,
        x: torch.Tensor,
        frame_table: torch.Tensor,
        transformer_options: dict[str, Any] | None = None,
        chunk_tokens: int | None = None,
    ) -> torch.Tensor:
        """``[batch, tokens, frames, dim] -> [batch, tokens, frames, dim]``; may overwrite ``x``."""
        layers = zip(self.config.attention_block_types, self.norms, self.attention_blocks, strict=True)
        for kind, norm, attention in layers:
            normed = partial(affine_layer_norm, norm, plus=self._frame_index(frame_table, kind))
            attend = self._attend_clip if kind == GLOBAL else self._attend_tracks
            x = attend(x, normed, attention, transformer_options, chunk_tokens)
        tokens = x.flatten(0, 2)
        run = partial(_residual, self.ff, partial(affine_layer_norm, self.ff_norm))
        return in_chunks(run, tokens, size=chunk_tokens, into=tokens).view(x.shape)

    def _frame_index(self, frame_table: torch.Tensor, kind: str) -> torch.Tensor | None:
        """Return what to add to the normed tokens of each frame, ``[frames, dim]`` or nothing."""
        photo = len(frame_table) == 1 and kind != GLOBAL and self.config.remove_time_embedding_in_photo
        return frame_table if self.config.temporal_position_encoding and not photo else None

    @staticmethod
    def _attend_tracks(
        x: torch.Tensor,
        normed: Any,
        attention: Attention,
        transformer_options: dict[str, Any] | None,
        chunk_tokens: int | None,
    ) -> torch.Tensor:
        """Attend over the frames of each position."""
        tracks = x.flatten(0, 1)
        run = partial(_residual, partial(attention, transformer_options=transformer_options), normed)
        rows = rows_for(chunk_tokens, x.shape[2])
        return in_chunks(run, tracks, size=rows, into=tracks).view(x.shape)

    @staticmethod
    def _attend_clip(
        x: torch.Tensor,
        normed: Any,
        attention: Attention,
        transformer_options: dict[str, Any] | None,
        chunk_tokens: int | None,
    ) -> torch.Tensor:
        """Attend over all tokens of a clip."""
        rows = rows_for(chunk_tokens, x.shape[2])
        if rows is None:
            clip = x.flatten(1, 2)
            out = attention(normed(x).flatten(1, 2), transformer_options=transformer_options, plus=clip)
            return out.view(x.shape)
        for clip in x:
            # Keys and values of the whole clip first; then each chunk of queries replaces its own tokens.
            k = in_chunks(lambda part: linear(attention.to_k, normed(part)), clip, size=rows)
            v = in_chunks(lambda part: linear(attention.to_v, normed(part)), clip, size=rows)
            attend = partial(
                _attend_from,
                attention,
                normed,
                k=k.flatten(0, 1)[None],
                v=v.flatten(0, 1)[None],
                transformer_options=transformer_options,
            )
            out = in_chunks(attend, clip, size=rows, into=clip)
            if out is not clip:
                clip.copy_(out)
        return x


def _residual(layer: Any, normed: Any, x: torch.Tensor) -> torch.Tensor:
    return layer(normed(x), plus=x)


def _attend_from(attention: Attention, normed: Any, x: torch.Tensor, **options: Any) -> torch.Tensor:
    """Attend from some positions of a clip, ``[tokens, frames, dim]``, and add their tokens."""
    tokens = x.flatten(0, 1)[None]
    return attention.attend(normed(x).flatten(0, 1)[None], plus=tokens, **options).view(x.shape)


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
        self,
        x: torch.Tensor,
        frame_table: torch.Tensor,
        transformer_options: dict[str, Any] | None = None,
        chunk_tokens: int | None = None,
    ) -> torch.Tensor:
        """``[batch, frames, tokens, dim] -> [batch, frames, tokens, dim]``; may overwrite ``x``."""
        hidden = self._project(partial(linear, self.proj_in), frame_group_norm(self.norm, x), chunk_tokens)
        for block in self.transformer_blocks:
            hidden = block(hidden, frame_table, transformer_options, chunk_tokens)
        # Four axes: ComfyUI's fp8 product takes two or three, and cuts what is over 448.
        moved = self._project(
            lambda part: linear(self.proj_out, part[None])[0], hidden, chunk_tokens
        ).transpose(1, 2)
        return x + moved if torch.is_grad_enabled() else x.add_(moved)

    @staticmethod
    def _project(
        project: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor, chunk_tokens: int | None
    ) -> torch.Tensor:
        """``[batch, tokens, frames, dim] -> [batch, tokens, frames, dim]``; may overwrite ``x``."""
        positions, rows = x.flatten(0, 1), rows_for(chunk_tokens, x.shape[2])
        return in_chunks(project, positions, size=rows, into=positions).view(x.shape)


class HybridMotionModule(nn.Module):
    """Namesake of the release's ``attn_temporal``, which holds nothing but the transformer."""

    def __init__(self, dim: int, config: MotionModuleConfig, **kwargs: Any) -> None:
        super().__init__()
        self.temporal_transformer = MotionTransformer(dim, config, **kwargs)

    def forward(
        self,
        x: torch.Tensor,
        frame_table: torch.Tensor,
        transformer_options: dict[str, Any] | None = None,
        chunk_tokens: int | None = None,
    ) -> torch.Tensor:
        """Run the module.

        Parameters
        ----------
        x : torch.Tensor
            Tokens ``[batch, frames, tokens, dim]``; overwritten where gradients are off.
        frame_table : torch.Tensor
            Sinusoids of the frame indices ``[frames, dim]``, float32 (:func:`.embeddings.frame_sinusoids`).
        transformer_options : dict, optional
            Handed to the attention function.
        chunk_tokens : int, optional
            About how many tokens to work on at a time (see :mod:`.memory`); all if None.

        Returns
        -------
        torch.Tensor
            Same shape as ``x``.
        """
        return self.temporal_transformer(x, frame_table, transformer_options, chunk_tokens)
