"""The folder that a development ComfyUI keeps its models, inputs and outputs in."""

import os
import shutil
import subprocess
from pathlib import Path

from . import tiny_checkpoint, tiny_lora
from .environment import ROOT

PACK_NAME = "EasyAnimateV3"
START_IMAGE = ROOT / "assets" / "start_image.png"
END_IMAGE = ROOT / "assets" / "end_image.png"
START_VIDEO = ROOT / "assets" / "start_video.mp4"
_FOLDERS = ("models/EasyAnimate", "models/loras", "input", "output", "user", "temp", "custom_nodes")


def prepare(base: Path, link_pack: bool, checkpoint: Path | None = None) -> Path:
    """Make ``base`` a ComfyUI base directory with the shipped samples.

    Parameters
    ----------
    base : Path
        Folder to fill; what it holds already is kept.
    link_pack : bool
        Whether this pack is linked into ``custom_nodes``, for a server that scans that folder.
    checkpoint : Path, optional
        Tiny checkpoint to copy, with a LoRA for it; by default there is only what the pack ships.
    """
    base = Path(base).resolve()
    for folder in _FOLDERS:
        (base / folder).mkdir(parents=True, exist_ok=True)
    if checkpoint is not None:
        installed = base / "models" / "EasyAnimate" / tiny_checkpoint.NAME
        shutil.copytree(checkpoint, installed, dirs_exist_ok=True)
        tiny_lora.write(base / "models" / "loras" / tiny_lora.NAME, installed)
    for sample in (START_IMAGE, END_IMAGE, START_VIDEO):
        if sample.is_file():
            shutil.copyfile(sample, base / "input" / sample.name)
    if link_pack:
        _link(base / "custom_nodes" / PACK_NAME, ROOT)
    return base


def _link(link: Path, target: Path) -> None:
    if link.exists() and link.resolve() == target:
        return
    if link.is_symlink():
        link.unlink()
    try:
        link.symlink_to(target, target_is_directory=True)
    except OSError:
        if os.name != "nt":
            raise
        # Windows lets everyone make junctions, but symbolic links only with a privilege.
        subprocess.run(
            ["cmd", "/c", "mklink", "/J", str(link), str(target)], check=True, stdout=subprocess.DEVNULL
        )
