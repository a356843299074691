"""The official EasyAnimateV3 folder: where each component lies, and which folders a user has."""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ..errors import CheckpointError
from .detect import TRAINED_RESOLUTIONS, trained_resolution
from .weights import StateDict, find_weights, read_json_object, read_state_dict

COMPONENTS = ("transformer", "vae", "text_encoder", "tokenizer", "image_encoder")
CONFIG_NAME = "config.json"
TOKENIZER_NAMES = ("spiece.model", "tokenizer.json")
# Folders nest little, and a link back up must not be followed for ever.
_SEARCH_DEPTH = 4


def published_as(name: str | Path = "") -> str:
    """Return where the release publishes a checkpoint, in words; a resolution in ``name`` picks one of the three."""
    resolution = trained_resolution(name)
    sizes = (resolution,) if resolution in TRAINED_RESOLUTIONS else TRAINED_RESOLUTIONS
    first, *rest = (f"{size}x{size}" for size in sizes)
    more = f" (or {', '.join(rest)})" if rest else ""
    return f"`alibaba-pai/EasyAnimateV3-XL-2-InP-{first}`{more} on Hugging Face and ModelScope"


class OfficialFolder:
    """A checkpoint in the release's own layout: one sub-folder for each component.

    Parameters
    ----------
    path : str or Path
        Folder with ``transformer/``, ``vae/``, ``text_encoder/``, ``tokenizer/`` and ``image_encoder/``.

    Raises
    ------
    CheckpointError
        If there is no such folder, or it has no ``transformer/``. Other components are checked when asked for,
        so that a folder with the transformer alone serves those who have the rest as single files.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        if not self.path.is_dir():
            raise CheckpointError(
                f"There is no folder {self.path}: download {published_as(self.path)} into it."
            )
        if not (self.path / "transformer").is_dir() and self.path.name in COMPONENTS:
            raise CheckpointError(
                f"{self.path} is one component of a checkpoint: choose the folder above it."
            )
        self.component("transformer")

    @property
    def name(self) -> str:
        """Name of the folder."""
        return self.path.name

    def component(self, name: str) -> Path:
        """Return the sub-folder of a component (one of ``COMPONENTS``).

        Raises
        ------
        CheckpointError
            If it is missing.
        """
        folder = self.path / name
        if not folder.is_dir():
            raise CheckpointError(f"{self.path} has no folder {name}/: {self._where(name)}.")
        return folder

    def file(self, component: str, *names: str) -> Path:
        """Return the first of ``names`` that is in a component's sub-folder.

        Raises
        ------
        CheckpointError
            If none is there.
        """
        folder = self.component(component)
        for name in names:
            if (folder / name).is_file():
                return folder / name
        raise CheckpointError(f"{folder} has no {' or '.join(names)}: {self._where(component)}.")

    def config(self, component: str) -> dict[str, Any]:
        """Return a component's ``config.json``.

        Raises
        ------
        CheckpointError
            If it is missing, not JSON or not an object.
        """
        return read_json_object(self.file(component, CONFIG_NAME))

    def weights(self, component: str) -> list[Path]:
        """Return a component's weight file, its index, or its shards (``find_weights``).

        Raises
        ------
        CheckpointError
            If there are none.
        """
        folder = self.component(component)
        try:
            return find_weights(folder)
        except CheckpointError as error:
            raise CheckpointError(f"{str(error).removesuffix('.')}, {self._where(component)}.") from error

    def state_dict(self, component: str) -> StateDict:
        """Return a component's tensors, mapped from its files (``read_state_dict``)."""
        self.weights(component)
        return read_state_dict(self.component(component))

    def tokenizer(self) -> Path:
        """Return the T5 tokenizer file: the sentencepiece model, else ``tokenizer.json``."""
        return self.file("tokenizer", *TOKENIZER_NAMES)

    def trained_resolution(self) -> int | None:
        """Return the base resolution in pixels, from the folder's name or the transformer's config."""
        return trained_resolution(self.name, self.config("transformer"))

    def _where(self, component: str) -> str:
        return f"download {component}/ of {published_as(self.name)}"


def list_checkpoint_folders(roots: Iterable[str | Path]) -> list[str]:
    """Return the names of all official folders below the roots, for a combo box.

    A folder counts if it has a ``transformer/`` sub-folder. Names are relative to their root, with ``/`` on all
    systems, sorted, each once; missing roots and hidden folders are skipped.
    """
    return sorted({path.relative_to(root).as_posix() for root in map(Path, roots) for path in _search(root)})


def find_checkpoint_folder(roots: Iterable[str | Path], name: str) -> Path:
    """Return the folder that ``list_checkpoint_folders`` lists as ``name``; the first root that has it wins.

    Raises
    ------
    CheckpointError
        If no root has it, or the name is not one that is listed.
    """
    roots = [Path(root) for root in roots]
    for root in roots:
        for path in _search(root):
            if path.relative_to(root).as_posix() == name:
                return path
    places = " or ".join(map(str, roots)) or "no folder at all"
    raise CheckpointError(
        f"There is no checkpoint folder {name!r} in {places}: download {published_as(name)} there."
    )


def _search(root: Path) -> Iterable[Path]:
    for folder, subfolders, _ in os.walk(root, followlinks=True):
        path = Path(folder)
        depth = len(path.relative_to(root).parts)
        if depth and "transformer" in subfolders:
            subfolders.clear()
            yield path
        elif depth >= _SEARCH_DEPTH:
            subfolders.clear()
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
