"""Configuration of the Slice VAE, from a published ``config.json`` or from tensor shapes."""

import ast
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from ..values import ConfigValues, shown

SPATIAL_DOWN, SPATIAL_TEMPORAL_DOWN = "SpatialDownBlock3D", "SpatialTemporalDownBlock3D"
SPATIAL_UP, SPATIAL_TEMPORAL_UP = "SpatialUpBlock3D", "SpatialTemporalUpBlock3D"

# Keys of the release's config that change the network and of which only this value was ever published.
_ONLY_VALUES = {
    "mid_block_type": ("MidBlock3D", None),
    "mid_block_use_attention": (True, None),
    "mid_block_num_attention_heads": (1, None),
    "use_gc_blocks": (None, [], [False] * 4),
}


_SOURCE = "The VAE config"
_MAX_LEVELS = 8
# The longest list of the release, as text, has a hundred characters.
_MAX_LIST_TEXT = 1000
_MAX_MULTIPLE = 1024


@dataclass(frozen=True)
class SliceVAEConfig:
    """Shape of a Slice VAE; the defaults are those of the EasyAnimateV3 release, July 2024.

    Parameters
    ----------
    in_channels, out_channels : int
        Colour channels of the pixels.
    ch : int
        Channels of the first level; ``ch_mult`` holds one multiple of it per level.
    down_block_types, up_block_types : tuple of str
        One per level, in order of execution; every level but the last halves (doubles) the sides, and a
        ``SpatialTemporal…`` level the frames too.
    layers_per_block : int
        ResNet blocks of an encoder level; a decoder level has one more.
    scaling_factor : float
        What latents are multiplied by before the diffusion transformer sees them.
    use_tiling : bool
        Whether frames with a side over 384 pixels are cut in tiles unless the caller says otherwise.
    mini_batch_encoder, mini_batch_decoder : int
        Length of a slice in frames and in latent frames.

    Raises
    ------
    ValueError
        When the values do not describe a Slice VAE that this package can run.
    """

    in_channels: int = 3
    out_channels: int = 3
    ch: int = 128
    ch_mult: tuple[int, ...] = (1, 2, 4, 4)
    down_block_types: tuple[str, ...] = (SPATIAL_DOWN, *(SPATIAL_TEMPORAL_DOWN,) * 3)
    up_block_types: tuple[str, ...] = (SPATIAL_UP, *(SPATIAL_TEMPORAL_UP,) * 3)
    mid_block_attention_type: str = "3d"
    layers_per_block: int = 2
    act_fn: str = "silu"
    latent_channels: int = 4
    norm_num_groups: int = 32
    scaling_factor: float = 0.18215
    slice_compression_vae: bool = True
    use_tiling: bool = True
    mini_batch_encoder: int = 8
    mini_batch_decoder: int = 2

    def __post_init__(self) -> None:
        """Refuse values that would build a network other than the release's kind."""
        if not self.slice_compression_vae:
            raise ValueError(
                "This VAE config does not set slice_compression_vae, so it is not the Slice VAE of EasyAnimateV3 "
                "(the VAE of V2 looks like this); use the vae folder of an EasyAnimateV3 checkpoint."
            )
        _require_known("mid_block_attention_type", (self.mid_block_attention_type,), ("3d",))
        _require_known("act_fn", (self.act_fn,), ("silu",))
        _require_known("down_block_types", self.down_block_types, (SPATIAL_DOWN, SPATIAL_TEMPORAL_DOWN))
        _require_known("up_block_types", self.up_block_types, (SPATIAL_UP, SPATIAL_TEMPORAL_UP))
        levels = len(self.ch_mult)
        if (
            not 0 < levels <= _MAX_LEVELS
            or len(self.down_block_types) != levels
            or len(self.up_block_types) != levels
        ):
            raise ValueError(
                f"The VAE config has {levels} values in ch_mult, {len(self.down_block_types)} down blocks and "
                f"{len(self.up_block_types)} up blocks, but it needs one of each per level (ch_mult, down_block_types, "
                f"up_block_types), of {_MAX_LEVELS} levels at most; take the file of the release."
            )
        up_factor = 2 ** self.up_block_types[:-1].count(SPATIAL_TEMPORAL_UP)
        slices_agree = self.mini_batch_encoder == self.time_factor * self.mini_batch_decoder > 0
        if self.time_factor != up_factor or not slices_agree:
            raise ValueError(
                f"The VAE config compresses time {self.time_factor}x, expands it {up_factor}x and cuts slices of "
                f"{self.mini_batch_encoder} frames for {self.mini_batch_decoder} latent frames (mini_batch_encoder, "
                "mini_batch_decoder), and these must agree; take the file of the release."
            )
        if any(self.ch * mult % self.norm_num_groups for mult in self.ch_mult):
            raise ValueError(
                f"The VAE config's channels (ch {self.ch} times {self.ch_mult}) do not divide into "
                f"norm_num_groups = {self.norm_num_groups} groups; correct one of them."
            )

    @property
    def channels(self) -> tuple[int, ...]:
        """Channels of each level, from full to lowest resolution."""
        return tuple(self.ch * mult for mult in self.ch_mult)

    @property
    def space_factor(self) -> int:
        """Pixels per latent along a side (8 in the release)."""
        return 2 ** (len(self.ch_mult) - 1)

    @property
    def time_factor(self) -> int:
        """Frames per latent frame (4 in the release)."""
        return 2 ** self.down_block_types[:-1].count(SPATIAL_TEMPORAL_DOWN)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "SliceVAEConfig":
        """Build a config from the release's ``vae/config.json``; keys that it does not use are ignored.

        Parameters
        ----------
        values : mapping
            The parsed JSON. A missing ``slice_compression_vae`` means false, as in the release.

        Raises
        ------
        ValueError
            When the dict describes another VAE.
        """
        for key, allowed in _ONLY_VALUES.items():
            if key in values:
                _require_known(key, (values[key],), allowed)
        read = ConfigValues(values, _SOURCE)
        known: dict[str, Any] = {"slice_compression_vae": read.flag("slice_compression_vae", False)}
        for field in fields(cls):
            if field.name in values and field.name not in known:
                known[field.name] = _value(read, field.name, field.default)
        return cls(**known)

    @classmethod
    def from_state_dict(cls, tensors: Mapping[str, Any]) -> "SliceVAEConfig":
        """Deduce the config from a state dict that came without a ``config.json``.

        What shapes do not tell (group count, scaling factor, slice lengths, which levels halve time) takes the
        value of the EasyAnimateV3 release. The VAE of V2 has the same shapes and cannot be told apart here.

        Parameters
        ----------
        tensors : mapping
            Tensor names to tensors, or to their shapes. Training leftovers (``loss.*``) are ignored.

        Raises
        ------
        ValueError
            When the names or shapes are not those of a Slice VAE.
        """
        shapes = {name: tuple(getattr(value, "shape", value)) for name, value in tensors.items()}
        conv_in = _conv_shape(shapes, "encoder.conv_in.weight")
        post_quant = _conv_shape(shapes, "post_quant_conv.weight")
        if post_quant[0] != 4:
            raise ValueError(
                f"This VAE has {post_quant[0]} latent channels, the Slice VAE of EasyAnimateV3 has 4; "
                "use the VAE of an EasyAnimateV3 checkpoint (later releases changed it)."
            )
        ch = conv_in[0]
        level_channels = []
        while (name := f"encoder.down_blocks.{len(level_channels)}.convs.0.conv1.weight") in shapes:
            level_channels.append(_conv_shape(shapes, name)[0])
            if len(level_channels) > _MAX_LEVELS:
                break
        layers = 0
        while f"encoder.down_blocks.0.convs.{layers}.conv1.weight" in shapes:
            layers += 1
        levels = len(level_channels)
        if levels < 2 or any(channels % ch for channels in level_channels):
            raise ValueError(
                _not_a_slice_vae(f"its encoder has {levels} down blocks of {level_channels} channels")
            )
        return cls(
            in_channels=conv_in[1],
            out_channels=_conv_shape(shapes, "decoder.conv_out.weight")[0],
            ch=ch,
            ch_mult=tuple(channels // ch for channels in level_channels),
            down_block_types=(SPATIAL_DOWN, *(SPATIAL_TEMPORAL_DOWN,) * (levels - 1)),
            up_block_types=(SPATIAL_UP, *(SPATIAL_TEMPORAL_UP,) * (levels - 1)),
            layers_per_block=layers,
            latent_channels=post_quant[0],
            mini_batch_encoder=2 * 2 ** (levels - 2),
        )

    def require_shapes(self, shapes: Mapping[str, Sequence[int]]) -> None:
        """Check that tensors are those of this configuration, before a model of its size is built.

        Raises
        ------
        ValueError
            If the configuration gives another size than the tensors have.
        """
        expected = {
            "encoder.conv_in.weight": (self.channels[0], self.in_channels),
            "encoder.conv_out.weight": (2 * self.latent_channels, self.channels[-1]),
            "decoder.conv_out.weight": (self.out_channels, self.channels[0]),
        }
        for level, channels in enumerate(self.channels):
            name = f"encoder.down_blocks.{level}.convs.0.conv1.weight"
            expected[name] = (channels, self.channels[max(level - 1, 0)])
        for name, shape in expected.items():
            if name in shapes and tuple(shapes[name])[:2] != shape:
                raise ValueError(
                    f"The VAE's tensor {name} has shape {list(shapes[name])}, but its config gives {[*shape, 3, 3, 3]}; "
                    "the file and its config.json belong to different models, so take both from one."
                )
        for prefix, wanted, key in (
            ("encoder.down_blocks.", len(self.channels), "ch_mult"),
            ("encoder.down_blocks.0.convs.", self.layers_per_block, "layers_per_block"),
        ):
            found = len({name[len(prefix) :].split(".", 1)[0] for name in shapes if name.startswith(prefix)})
            if found != wanted:
                raise ValueError(
                    f"The VAE has {found} modules under {prefix.removesuffix('.')}, but its config gives {wanted} ({key}); "
                    "the file and its config.json belong to different models, so take both from one."
                )


def _value(read: ConfigValues, key: str, default: Any) -> Any:
    """Return a value of the type that its default has."""
    if isinstance(default, bool):
        return read.flag(key, default)
    if isinstance(default, int):
        return read.whole(key, default)
    if isinstance(default, float):
        return read.number(key, default)
    if isinstance(default, str):
        # Which words there are is for the class to say.
        value = read.get(key, default)
        if not isinstance(value, str):
            raise read.wrong(key, value, repr(default))
        return value
    return _as_tuple(read, key, type(default[0]))


def _conv_shape(shapes: Mapping[str, tuple[int, ...]], name: str) -> tuple[int, ...]:
    if name not in shapes:
        raise ValueError(_not_a_slice_vae(f"it has no tensor {name}"))
    if len(shapes[name]) != 5:
        raise ValueError(_not_a_slice_vae(f"{name} has {len(shapes[name])} dimensions instead of 5"))
    if 0 in shapes[name]:
        raise ValueError(_not_a_slice_vae(f"{name} has an empty dimension"))
    return shapes[name]


def _not_a_slice_vae(reason: str) -> str:
    return f"This file is not the Slice VAE of EasyAnimateV3: {reason}; use the VAE of an EasyAnimateV3 checkpoint."


def _require_known(key: str, values: Iterable[Any], allowed: tuple[Any, ...]) -> None:
    for value in values:
        if value not in allowed:
            raise ValueError(
                f"The VAE config has {key} = {shown(value)}, which the Slice VAE of EasyAnimateV3 does not use; "
                f"take a file with {' or '.join(repr(option) for option in allowed)}."
            )


def _as_tuple(read: ConfigValues, key: str, kind: type) -> tuple[Any, ...]:
    value = given = read.get(key, ())
    # The release also accepts these lists written as a Python literal in a string.
    if isinstance(value, str) and len(value) <= _MAX_LIST_TEXT:
        try:
            value = ast.literal_eval(value)
        except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError) as error:
            raise _not_a_list(key, given) from error
    if not isinstance(value, (list, tuple)):
        raise _not_a_list(key, given)
    if len(value) > _MAX_LEVELS:
        raise read.wrong(key, value, f"a list of {_MAX_LEVELS} values at most")
    needed = f"a list of whole numbers from 1 to {_MAX_MULTIPLE}" if kind is int else "a list of names"
    for item in value:
        if type(item) is not kind or (kind is int and not 0 < item <= _MAX_MULTIPLE):
            raise read.wrong(key, value, needed)
    return tuple(value)


def _not_a_list(key: str, value: Any) -> ValueError:
    return ValueError(
        f"The VAE config has {key} = {shown(value)}, which is not a list; take the file of the release."
    )
