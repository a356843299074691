"""The checkpoint that a fine-tuning starts from."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from easyanimate_core.vae import SliceVAE, SliceVAEConfig

from . import encoders, folder, models
from .clips import ClipError
from .encoders import ClipImageEncoder, T5Encoder
from .loop import averaged

_CONFIG = "config.json"
# Keys that tell whether an encoder is one of nano's size.
_TEXT_KEYS = ("vocab_size", "d_model", "d_kv", "d_ff", "num_layers", "num_heads", "feed_forward_proj")
_IMAGE_KEYS = ("hidden_size", "num_hidden_layers", "image_size", "patch_size", "projection_dim", "hidden_act")


@dataclass
class Base:
    """A checkpoint, its weights in float32 and its encoders frozen.

    Attributes
    ----------
    config : dict
        Its ``transformer/config.json``.
    transformer : dict of str to torch.Tensor
        The transformer's weights under the official names.
    vae, clip, text : SliceVAE, ClipImageEncoder, T5Encoder
        The other parts.
    """

    config: dict[str, Any]
    transformer: dict[str, torch.Tensor]
    vae: SliceVAE
    clip: ClipImageEncoder
    text: T5Encoder

    @property
    def side(self) -> int:
        """Height and width in pixels that the transformer was laid out for."""
        return self.config["sample_size"] * self.vae.config.space_factor


def read_base(path: Path) -> Base:
    """Read a checkpoint folder, or the folder of a run (its stages trained here, or unpacked there).

    Transformer and VAE may have any size, which their ``config.json`` tells; T5 and CLIP must be nano's, since those of the
    release are written out nowhere here. A folder is read with the package safetensors, a run with torch alone.

    Raises
    ------
    ClipError
        If a part has another architecture, or is not nano's where it must be.
    FileNotFoundError
        If a stage of a run was not trained yet.
    easyanimate_core.checkpoint.CheckpointError
        If a part of a checkpoint folder is missing or damaged.
    """
    path = Path(path)
    return _from_checkpoint(path) if (path / "transformer").is_dir() else _from_run(path)


def _from_checkpoint(path: Path) -> Base:
    from easyanimate_core.checkpoint import OfficialFolder, drop_persistent_tables

    source = OfficialFolder(path)
    _check_encoder(path / "text_encoder", source.config("text_encoder"), encoders.text_config(), _TEXT_KEYS)
    _check_encoder(
        path / "image_encoder", source.config("image_encoder"), encoders.image_config(), _IMAGE_KEYS
    )
    pair = {
        f"{prefix}.{name}": tensor
        for prefix, part in (("text", "text_encoder"), ("image", "image_encoder"))
        for name, tensor in folder.read(path, part).items()
    }
    return _base(
        source.config("transformer"),
        drop_persistent_tables(folder.read(path, "transformer")),
        source.config("vae"),
        drop_persistent_tables(folder.read(path, "vae")),
        pair,
    )


def _from_run(path: Path) -> Base:
    if not path.is_dir():
        raise ClipError(f"There is no folder {path}: give a checkpoint folder or the folder of a run.")
    return _base(
        stage_config(path / "dit"),
        transformer_weights(path),
        stage_config(path / "vae"),
        stage_weights(path / "vae"),
        stage_weights(path / "encoders"),
    )


def transformer_weights(run: Path) -> dict[str, torch.Tensor]:
    """Return the transformer of a run: as trained there, else as unpacked there.

    Raises
    ------
    FileNotFoundError
        If there is none.
    """
    # Here weights.pt is what training starts from, not what it ends with as in the other stages.
    stage = run / "dit"
    return averaged(stage) if (stage / "state.pt").is_file() else stage_weights(stage)


def stage_weights(stage: Path) -> dict[str, torch.Tensor]:
    """Return a stage's weights: those written for others to use, else its averaged ones.

    Raises
    ------
    FileNotFoundError
        If there are none.
    """
    path = stage / "weights.pt"
    return torch.load(path, map_location="cpu", weights_only=True) if path.is_file() else averaged(stage)


def _base(
    config: dict[str, Any],
    transformer: dict[str, torch.Tensor],
    vae_config: dict[str, Any],
    vae_weights: Mapping[str, torch.Tensor],
    pair: Mapping[str, torch.Tensor],
) -> Base:
    if config["in_channels"] != 12:
        raise ClipError(
            f"The transformer reads {config['in_channels']} channels, but an InP one with 12 is trained here: take another."
        )
    vae = SliceVAE(SliceVAEConfig.from_dict(vae_config))
    vae.load_state_dict(vae_weights)
    text, clip = encoders.load(dict(pair))
    return Base(config, transformer, vae.eval().requires_grad_(False), clip, text)


def _check_encoder(
    path: Path, found: Mapping[str, Any], needed: Mapping[str, Any], keys: tuple[str, ...]
) -> None:
    for key in keys:
        if found.get(key) != needed[key]:
            raise ClipError(
                f"{path} has {key} {found.get(key)!r} where nano has {needed[key]!r}: only nano's encoders are trained with."
            )


def stage_config(stage: Path) -> dict[str, Any]:
    """Return the ``config.json`` of the stage ``vae`` or ``dit``: the one that was unpacked there, else nano's."""
    path = stage / _CONFIG
    if path.is_file():
        return json.loads(path.read_text(encoding="utf-8"))
    return models.vae_config() if stage.name == "vae" else models.transformer_config()
