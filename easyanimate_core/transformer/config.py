"""What the transformer needs to know to be built: read from ``config.json`` or from tensor shapes."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

RELEASE_HEAD_DIM = 72

TEMPORAL = "Temporal_Self"
GLOBAL = "Global_Self"

_BLOCK = "transformer_blocks."
_MOTION = "attn_temporal.temporal_transformer."


@dataclass(frozen=True)
class MotionModuleConfig:
    """One of the two kinds of hybrid motion module (even and odd blocks).

    Attributes
    ----------
    num_attention_heads : int
        Heads of both attentions.
    num_transformer_block : int
        Transformer blocks in the module; 1 in the release.
    attention_block_types : tuple of str
        ``"Temporal_Self"`` (each position over the frames) or ``"Global_Self"`` (all tokens of the clip).
    temporal_position_encoding : bool
        Whether a sinusoid of the frame index is added before each attention.
    remove_time_embedding_in_photo : bool
        Whether a single frame gets no sinusoid in temporal attention.
    """

    num_attention_heads: int
    num_transformer_block: int = 1
    attention_block_types: tuple[str, ...] = (TEMPORAL, TEMPORAL)
    temporal_position_encoding: bool = True
    remove_time_embedding_in_photo: bool = False

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "MotionModuleConfig":
        """Read ``motion_module_kwargs_even`` or ``motion_module_kwargs_odd`` of a ``config.json``."""
        kinds = tuple(values.get("attention_block_types", cls.attention_block_types))
        if unknown := set(kinds) - {TEMPORAL, GLOBAL}:
            raise ValueError(
                f"config.json names the motion attention {sorted(unknown)[0]!r}, but EasyAnimateV3 has only "
                f"{TEMPORAL} and {GLOBAL}; this is the configuration of another model."
            )
        return cls(
            num_attention_heads=values["num_attention_heads"],
            num_transformer_block=values.get("num_transformer_block", 1),
            attention_block_types=kinds,
            temporal_position_encoding=values.get("temporal_position_encoding", True),
            remove_time_embedding_in_photo=values.get("remove_time_embedding_in_photo", False),
        )

    def to_dict(self) -> dict[str, Any]:
        """Return what :meth:`from_dict` reads."""
        return asdict(self)


@dataclass(frozen=True)
class TransformerConfig:
    """Dimensions of an EasyAnimateV3 transformer, named as in the release's ``transformer/config.json``.

    ``clip_channels`` and ``clip_tokens`` are 0 where the model has no CLIP projection (4 input channels).
    """

    num_attention_heads: int
    attention_head_dim: int
    in_channels: int
    out_channels: int
    num_layers: int
    caption_channels: int
    motion_even: MotionModuleConfig
    motion_odd: MotionModuleConfig
    sample_size: int = 64
    patch_size: int = 2
    attention_bias: bool = True
    norm_eps: float = 1e-6
    enable_uvit: bool = True
    clip_channels: int = 768
    clip_tokens: int = 8

    @property
    def dim(self) -> int:
        """Width of the token stream."""
        return self.num_attention_heads * self.attention_head_dim

    @property
    def base_grid(self) -> float:
        """Side of the token grid that the position table was laid out for (32 in the release)."""
        return self.sample_size // self.patch_size / max(self.sample_size // 64, 1)

    def motion(self, block: int) -> MotionModuleConfig:
        """Return the motion module's configuration of block ``block`` (counted from 0)."""
        return self.motion_odd if block % 2 else self.motion_even

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "TransformerConfig":
        """Read the release's ``transformer/config.json``.

        Raises
        ------
        ValueError
            If the file describes another architecture or lacks a dimension.
        """
        kind = values.get("basic_block_type", "global_motionmodule")
        if kind not in ("motionmodule", "global_motionmodule"):
            raise ValueError(
                f"transformer/config.json has basic_block_type {kind!r}, but EasyAnimateV3 has 'motionmodule' or "
                "'global_motionmodule'; this is another EasyAnimate version."
            )
        try:
            even = values.get("motion_module_kwargs_even") or values["motion_module_kwargs"]
            odd = values.get("motion_module_kwargs_odd") or even
            inpaint = values["in_channels"] != 4
            return cls(
                num_attention_heads=values["num_attention_heads"],
                attention_head_dim=values["attention_head_dim"],
                in_channels=values["in_channels"],
                out_channels=values["out_channels"],
                num_layers=values["num_layers"],
                caption_channels=values["caption_channels"],
                motion_even=MotionModuleConfig.from_dict(even),
                motion_odd=MotionModuleConfig.from_dict(odd),
                sample_size=values.get("sample_size", cls.sample_size),
                patch_size=values.get("patch_size", cls.patch_size),
                attention_bias=values.get("attention_bias", True),
                norm_eps=values.get("norm_eps", cls.norm_eps),
                enable_uvit=values.get("enable_uvit", True),
                clip_channels=values.get("clip_channels", 768 if inpaint else 0),
                clip_tokens=values.get("clip_tokens", 8 if inpaint else 0),
            )
        except KeyError as missing:
            raise ValueError(
                f"transformer/config.json has no {missing}; take the file of the release."
            ) from None

    def to_dict(self) -> dict[str, Any]:
        """Return the ``transformer/config.json`` of this configuration, which :meth:`from_dict` reads.

        It also says what the release's own leaves to the code: the CLIP projection.
        """
        return {
            "basic_block_type": "global_motionmodule",
            "num_attention_heads": self.num_attention_heads,
            "attention_head_dim": self.attention_head_dim,
            "in_channels": self.in_channels,
            "out_channels": self.out_channels,
            "num_layers": self.num_layers,
            "caption_channels": self.caption_channels,
            "motion_module_kwargs_even": self.motion_even.to_dict(),
            "motion_module_kwargs_odd": self.motion_odd.to_dict(),
            "sample_size": self.sample_size,
            "patch_size": self.patch_size,
            "attention_bias": self.attention_bias,
            "norm_eps": self.norm_eps,
            "enable_uvit": self.enable_uvit,
            "clip_channels": self.clip_channels,
            "clip_tokens": self.clip_tokens,
        }

    @classmethod
    def from_shapes(cls, shapes: Mapping[str, Sequence[int]]) -> "TransformerConfig":
        """Deduce the configuration of a single-file checkpoint from its tensor names and shapes.

        Head counts leave no trace in shapes, so the release's head size of 72 is assumed.

        Raises
        ------
        ValueError
            If the tensors are not an EasyAnimateV3 transformer or the width is not a multiple of 72.
        """
        try:
            dim, in_channels, patch_size, _ = shapes["pos_embed.proj.weight"]
            caption_channels = shapes["caption_projection.linear_1.weight"][1]
            out_channels = shapes["proj_out.weight"][0] // patch_size**2
        except KeyError as missing:
            raise ValueError(
                f"the file has no tensor {missing}, so it is not an EasyAnimateV3 transformer."
            ) from None
        if dim % RELEASE_HEAD_DIM:
            raise ValueError(
                f"the transformer is {dim} wide, which is not a multiple of the release's head size "
                f"{RELEASE_HEAD_DIM}; load it from a folder with its transformer/config.json."
            )
        heads = dim // RELEASE_HEAD_DIM
        clip = shapes.get("clip_projection.linear_1.weight")
        motion = MotionModuleConfig(
            num_attention_heads=heads,
            num_transformer_block=_count(shapes, f"{_BLOCK}0.{_MOTION}transformer_blocks."),
        )
        return cls(
            num_attention_heads=heads,
            attention_head_dim=RELEASE_HEAD_DIM,
            in_channels=in_channels,
            out_channels=out_channels,
            num_layers=_count(shapes, _BLOCK),
            caption_channels=caption_channels,
            motion_even=motion,
            motion_odd=MotionModuleConfig(heads, motion.num_transformer_block, (TEMPORAL, GLOBAL)),
            patch_size=patch_size,
            attention_bias=f"{_BLOCK}0.attn1.to_q.bias" in shapes,
            enable_uvit="long_connect_fc.0.weight" in shapes,
            clip_channels=clip[1] if clip else 0,
            clip_tokens=clip[0] // dim if clip else 0,
        )


def _count(shapes: Mapping[str, Sequence[int]], prefix: str) -> int:
    """Count the numbered modules that follow ``prefix``."""
    return len({name[len(prefix) :].split(".", 1)[0] for name in shapes if name.startswith(prefix)})
