"""Loaders: which of our loaders stand for an old one, and what they give."""

import re
from dataclasses import dataclass
from typing import Any

from . import our_nodes as ours
from . import their_nodes as theirs
from .errors import MigrationError
from .graph import Node, Output
from .work import Work

# Files of the wrapper's own folder, as the loaders list them once extra_model_paths.yaml names it.
VAE_FILE, IMAGE_ENCODER_FILE = "diffusion_pytorch_model.safetensors", "pytorch_model.bin"
T5_FILE = "t5xxl_fp16.safetensors"
_RESOLUTION = re.compile(r"(?<!\d)(\d{2,4})x\1(?!\d)")
_VERSION = re.compile(r"EasyAnimateV(\d+(?:\.\d+)*)", re.IGNORECASE)


@dataclass
class Models:
    """The models of one loader; those of single files get their loader when something asks for them."""

    work: Work
    old: Node
    model: Output
    vae: Output
    name: str
    clip: Output | None = None
    clip_vision: Output | None = None

    def text_encoder(self) -> Output:
        """Return the T5 encoder."""
        if self.clip is None:
            node = self.work.add(self.old, ours.CLIP, clip_name=T5_FILE, type="pixart")
            self.clip = self.work.output(node)
            self.work.report.note(
                f"{self.old} loaded T5 with the rest; choose your t5xxl file in {node}, in models/text_encoders."
            )
        return self.clip

    def image_encoder(self) -> Output:
        """Return the CLIP image encoder."""
        if self.clip_vision is None:
            node = self.work.add(self.old, ours.CLIP_VISION, clip_name=IMAGE_ENCODER_FILE)
            self.clip_vision = self.work.output(node)
        return self.clip_vision

    @property
    def resolution(self) -> int | None:
        """The resolution in the model's name."""
        found = _RESOLUTION.search(self.name) or _RESOLUTION.search(str(self.old.values.get("model", "")))
        return int(found[1]) if found else None


class Loaders:
    """All old loaders, converted; LoRA loaders hang behind them."""

    def __init__(self, work: Work) -> None:
        self.work = work
        self.of: dict[Node, Models] = {}
        for old in work.graph.of_type((theirs.LOADER, theirs.WRAPPER_LOADER)):
            check_version(work, old)
            self.of[old] = _folder(work, old) if _is_folder(work, old) else _files(work, old)
        for old in work.graph.of_type((theirs.LORA,)):
            self._lora(old)

    def first(self) -> Models | None:
        """Return the models of any loader."""
        return next(iter(self.of.values()), None)

    def behind(self, node: Node, name: str) -> Models:
        """Return the models that an old node's input comes from.

        Raises
        ------
        MigrationError
            If no loader of either pack is linked to it.
        """
        source = self.work.graph.source(node, name)
        if source is None or source.node not in self.of:
            raise MigrationError(
                f"{node} has no EasyAnimate loader linked to {name}: link one, and convert again."
            )
        return self.of[source.node]

    def _lora(self, old: Node) -> Models:
        if old in self.of:
            return self.of[old]
        source = self.work.graph.source(old, "easyanimate_model")
        if source is not None and source.node.type == theirs.LORA and source.node is not old:
            self._lora(source.node)
        before = self.behind(old, "easyanimate_model")
        node = self.work.add(old, ours.LORA, main=True)
        self.work.carry(node, "lora_name", old, "lora_name", linkable=False)
        # The release applies one strength to both parts of a file.
        for name in ("strength_model", "strength_clip"):
            self.work.carry(node, name, old, "strength_model", _float)
        self.work.connect(node, "model", before.model)
        self.work.connect(node, "clip", before.text_encoder())
        self.of[old] = Models(
            self.work,
            old,
            self.work.output(node),
            before.vae,
            before.name,
            self.work.output(node, 1),
            before.image_encoder() if before.clip_vision else None,
        )
        return self.of[old]


def _is_folder(work: Work, old: Node) -> bool:
    return work.checkpoint is not None or old.type == theirs.LOADER


def check_version(work: Work, old: Node) -> None:
    """Refuse a model of another version than 3, unless the user named a checkpoint.

    Raises
    ------
    MigrationError
        If the model's name has another version.
    """
    found = _VERSION.search(str(old.values.get("model", "")))
    if work.checkpoint is None and found and found[1] != "3":
        raise MigrationError(
            f"{old} loads {old.values['model']}, a model of EasyAnimate V{found[1]}, and this pack runs V3 only; "
            "--checkpoint NAME converts the workflow for a V3 checkpoint."
        )


def _folder(work: Work, old: Node) -> Models:
    name = str(old.values.get("model", "")) if work.checkpoint is None else work.checkpoint
    node = work.add(old, ours.LOADER, main=True, checkpoint=name, weight_dtype=_weight_dtype(old))
    _note_options(work, old)
    model, clip, vae, clip_vision = (work.output(node, index) for index in range(4))
    return Models(work, old, model, vae, name, clip, clip_vision)


def _files(work: Work, old: Node) -> Models:
    name = str(old.values.get("model", ""))
    transformer = work.add(old, ours.TRANSFORMER, main=True, transformer_name=f"{name}.safetensors")
    vae = work.add(old, ours.VAE, vae_name=VAE_FILE)
    _note_options(work, old)
    work.report.note(
        f"{old}: its files in models/easyanimate are found once extra_model_paths.yaml names that folder, as "
        "docs/migration.md tells."
    )
    return Models(work, old, work.output(transformer), work.output(vae), name)


def _weight_dtype(old: Node) -> str:
    return "fp8_e4m3fn" if old.values.get("GPU_memory_mode") == theirs.FP8_MODE else "default"


def _note_options(work: Work, old: Node) -> None:
    work.report.note(
        f"{old}: precision, memory mode and config are not carried over; ComfyUI chooses by the file and the device."
    )


def _float(value: Any) -> float:
    return round(float(value), 4)
