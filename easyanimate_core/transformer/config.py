"""What the transformer needs to know to be built: read from ``config.json`` or from tensor shapes."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ..errors import CheckpointError
from ..values import ConfigValues, shown

RELEASE_HEAD_DIM = 72
# Of the motion modules' norms.
_GROUPS = 32
_SOURCE = "transformer/config.json"

TEMPORAL = "Temporal_Self"
GLOBAL = "Global_Self"
# The release has two.
_MAX_ATTENTIONS = 16

_BLOCK = "transformer_blocks."
_MOTION = "attn_temporal.temporal_transformer."
_CLIP = "clip_projection.linear_1.weight"


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
        if not isinstance(values, Mapping):
            raise CheckpointError(
                f"{_SOURCE} has {shown(values)} for a motion module, but an object is needed; take the file of the release."
            )
        read = ConfigValues(values, f"{_SOURCE}, in its motion modules,")
        kinds = read.get("attention_block_types", cls.attention_block_types)
        if not isinstance(kinds, (list, tuple)) or not 0 < len(kinds) <= _MAX_ATTENTIONS:
            raise read.wrong("attention_block_types", kinds, f"a list of 1 to {_MAX_ATTENTIONS} names")
        if unknown := [kind for kind in kinds if kind not in (TEMPORAL, GLOBAL)]:
            raise ValueError(
                f"{_SOURCE} names the motion attention {shown(unknown[0])} in attention_block_types, but EasyAnimateV3 "
                f"has only {TEMPORAL} and {GLOBAL}; take the file of the release."
            )
        return cls(
            num_attention_heads=read.whole("num_attention_heads"),
            num_transformer_block=read.whole("num_transformer_block", 1),
            attention_block_types=tuple(kinds),
            temporal_position_encoding=read.flag("temporal_position_encoding", True),
            remove_time_embedding_in_photo=read.flag("remove_time_embedding_in_photo", False),
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
        read = ConfigValues(values, _SOURCE)
        kind = values.get("basic_block_type", "global_motionmodule")
        if kind not in ("motionmodule", "global_motionmodule"):
            raise ValueError(
                f"{_SOURCE} has basic_block_type {shown(kind)}, but EasyAnimateV3 has 'motionmodule' or "
                "'global_motionmodule'; this is another EasyAnimate version, so take the file of the release."
            )
        even = values.get("motion_module_kwargs_even") or read.get("motion_module_kwargs")
        odd = values.get("motion_module_kwargs_odd") or even
        inpaint = read.whole("in_channels") != 4
        return cls(
            num_attention_heads=read.whole("num_attention_heads"),
            attention_head_dim=read.whole("attention_head_dim"),
            in_channels=read.whole("in_channels"),
            out_channels=read.whole("out_channels"),
            num_layers=read.whole("num_layers"),
            caption_channels=read.whole("caption_channels"),
            motion_even=MotionModuleConfig.from_dict(even),
            motion_odd=MotionModuleConfig.from_dict(odd),
            sample_size=read.whole("sample_size", cls.sample_size),
            patch_size=read.whole("patch_size", cls.patch_size),
            attention_bias=read.flag("attention_bias", True),
            norm_eps=read.number("norm_eps", cls.norm_eps),
            enable_uvit=read.flag("enable_uvit", True),
            clip_channels=read.whole("clip_channels", 768 if inpaint else 0, least=0),
            clip_tokens=read.whole("clip_tokens", 8 if inpaint else 0, least=0),
        )

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
        dim, in_channels, patch_size, _ = _shape(shapes, "pos_embed.proj.weight", 4)
        caption_channels = _shape(shapes, "caption_projection.linear_1.weight", 2)[1]
        out_channels = _shape(shapes, "proj_out.weight", 2)[0] // patch_size**2
        if dim % RELEASE_HEAD_DIM:
            raise ValueError(
                f"the transformer is {dim} wide, which is not a multiple of the release's head size "
                f"{RELEASE_HEAD_DIM}; load it from a folder with its transformer/config.json."
            )
        heads = dim // RELEASE_HEAD_DIM
        clip = _shape(shapes, _CLIP, 2) if _CLIP in shapes else None
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

    def require_shapes(self, shapes: Mapping[str, Sequence[int]]) -> None:
        """Check that tensors are those of this configuration, before a model of its size is built.

        Raises
        ------
        ValueError
            If the configuration gives another size than the tensors have, or one that no transformer can have.
        """
        self._require_divisors()
        expected = {
            "pos_embed.proj.weight": (self.dim, self.in_channels, self.patch_size, self.patch_size),
            "caption_projection.linear_1.weight": (self.dim, self.caption_channels),
            "proj_out.weight": (self.patch_size**2 * self.out_channels, self.dim),
        }
        if self.clip_tokens:
            expected[_CLIP] = (self.clip_tokens * self.dim, self.clip_channels)
        for name, shape in expected.items():
            if name in shapes and tuple(shapes[name]) != shape:
                raise ValueError(
                    f"the checkpoint's tensor {name} has shape {list(shapes[name])}, but {_SOURCE} gives {list(shape)}; "
                    "the file and its config.json belong to different models, so take both from one."
                )
        _require_count(shapes, _BLOCK, self.num_layers, "num_layers")
        for block in range(min(self.num_layers, 2)):
            motion, module = self.motion(block), f"{_BLOCK}{block}.{_MOTION}transformer_blocks."
            _require_count(shapes, module, motion.num_transformer_block, "num_transformer_block")
            attentions = len(motion.attention_block_types)
            _require_count(shapes, f"{module}0.attention_blocks.", attentions, "attention_block_types")

    def _require_divisors(self) -> None:
        heads = {self.motion_even.num_attention_heads, self.motion_odd.num_attention_heads}
        if wrong := [number for number in (*sorted(heads), _GROUPS) if self.dim % number]:
            raise ValueError(
                f"{_SOURCE} gives a width of {self.dim} ({self.num_attention_heads} heads of {self.attention_head_dim}), "
                f"which does not divide by {wrong[0]}, as num_attention_heads of the motion modules and their {_GROUPS} "
                "groups need; take the file of the release."
            )
        if self.sample_size < self.patch_size:
            raise ValueError(
                f"{_SOURCE} has sample_size {self.sample_size} below patch_size {self.patch_size}; take the file of the "
                "release."
            )


def _shape(shapes: Mapping[str, Sequence[int]], name: str, rank: int) -> Sequence[int]:
    """Return the shape of a tensor, which must be there, have ``rank`` axes and no empty one."""
    if name not in shapes:
        raise ValueError(
            f"the file has no tensor {name!r}, so it is not an EasyAnimateV3 transformer: choose another file."
        )
    if len(shapes[name]) != rank or 0 in shapes[name]:
        raise ValueError(
            f"the file's tensor {name} has shape {list(shapes[name])[:8]}, so it is not an EasyAnimateV3 transformer: choose "
            "another file."
        )
    return shapes[name]


def _require_count(shapes: Mapping[str, Sequence[int]], prefix: str, wanted: int, key: str) -> None:
    found = _count(shapes, prefix)
    if found != wanted:
        raise ValueError(
            f"the checkpoint has {found} modules under {prefix.removesuffix('.')}, but {_SOURCE} gives {wanted} ({key}); "
            "the file and its config.json belong to different models, so take both from one."
        )


def _count(shapes: Mapping[str, Sequence[int]], prefix: str) -> int:
    """Count the numbered modules that follow ``prefix``."""
    return len({name[len(prefix) :].split(".", 1)[0] for name in shapes if name.startswith(prefix)})
