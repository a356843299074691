"""Loaders: which of our loaders stand for an old one, and what they give."""

import re
from dataclasses import dataclass, replace

from . import our_nodes as ours
from . import their_nodes as theirs
from .graph import Node, Output
from .report import MigrationError
from .work import Work, output

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
    resolution: int | None
    model: Output
    vae: Output
    clip: Output | None = None
    clip_vision: Output | None = None

    def text_encoder(self) -> Output:
        """Return the T5 encoder."""
        if self.clip is None:
            node = self.work.add(self.old, ours.CLIP, clip_name=T5_FILE)
            self.clip = output(node)
            self.work.report.note(
                f"{self.old} loaded T5 with the rest; choose your t5xxl file in {node}, in models/text_encoders."
            )
        return self.clip

    def image_encoder(self) -> Output:
        """Return the CLIP image encoder."""
        if self.clip_vision is None:
            node = self.work.add(self.old, ours.CLIP_VISION, clip_name=IMAGE_ENCODER_FILE)
            self.clip_vision = output(node)
        return self.clip_vision


class Loaders:
    """All old loaders, converted; LoRA loaders hang behind them."""

    def __init__(self, work: Work) -> None:
        self.work = work
        self.of: dict[Node, Models] = {}
        for old in work.graph.of_type((theirs.LOADER, theirs.WRAPPER_LOADER)):
            self.of[old] = _load(work, old)
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

    def _lora(self, old: Node, *waiting: Node) -> None:
        source = self.work.graph.source(old, "easyanimate_model")
        if old in self.of or old in waiting:
            return
        if source is not None and source.node.type == theirs.LORA:
            self._lora(source.node, old, *waiting)
        before = self.behind(old, "easyanimate_model")
        node = self.work.add(old, ours.LORA, main=True, model=before.model, clip=before.text_encoder())
        self.work.carry(node, "lora_name", old, "lora_name", linkable=False)
        # The release applies one strength to both parts of a file.
        for name in ("strength_model", "strength_clip"):
            self.work.carry(node, name, old, "strength_model", lambda value: round(float(value), 4))
        self.of[old] = replace(before, model=output(node), clip=output(node, 1))


def _load(work: Work, old: Node) -> Models:
    """Add the loaders that stand for an old one.

    Raises
    ------
    MigrationError
        If it loads another version than 3, and the user named no checkpoint.
    """
    name = str(old.values.get("model", ""))
    found = _VERSION.search(str(work.value(old, "model")))
    if work.checkpoint is None and found and found[1] != "3":
        raise MigrationError(
            f"{old} loads {name}, a model of EasyAnimate V{found[1]}, and this pack runs V3 only; --checkpoint NAME "
            "converts the workflow for a V3 checkpoint."
        )
    work.report.note(
        f"{old}: precision, memory mode and config are not carried over; ComfyUI chooses by the file and the device."
    )
    resolution = _resolution(work.checkpoint or "") or _resolution(name)
    if work.checkpoint is None:
        work.not_linkable(old, "model")
    if work.checkpoint is None and old.type == theirs.WRAPPER_LOADER:
        work.report.note(
            f"{old}: its files in models/easyanimate are found once extra_model_paths.yaml names that folder, as "
            "docs/migration.md tells."
        )
        file = f"{name}.safetensors" if name else None
        transformer = output(work.add(old, ours.TRANSFORMER, main=True, transformer_name=file))
        return Models(work, old, resolution, transformer, output(work.add(old, ours.VAE, vae_name=VAE_FILE)))
    fp8 = work.value(old, "GPU_memory_mode") == theirs.FP8_MODE
    node = work.add(
        old,
        ours.LOADER,
        main=True,
        checkpoint=work.checkpoint or name,
        weight_dtype="fp8_e4m3fn" if fp8 else None,
    )
    model, clip, vae, clip_vision = (output(node, index) for index in range(4))
    return Models(work, old, resolution, model, vae, clip, clip_vision)


def _resolution(name: str) -> int | None:
    """Return the resolution in a model's name."""
    found = _RESOLUTION.search(name)
    return int(found[1]) if found else None
