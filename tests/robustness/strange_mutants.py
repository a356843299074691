"""What a stranger's checkpoint is made of: a good one, and the files in it that are not."""

import json
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from devtools import tiny_checkpoint, tiny_lora

# What must come of a mutant: an error of one sentence; models equal to the good ones; either, and models that work.
REFUSED, SAME, ANY = "refused", "same", "any"

# A file's bytes, nothing in its place, or what makes something else there.
Content = bytes | None | Callable[[Path], None]

WEIGHTS = {
    "transformer": "transformer/diffusion_pytorch_model.safetensors",
    "vae": "vae/diffusion_pytorch_model.safetensors",
    "text_encoder": "text_encoder/model-00002-of-00002.safetensors",
    "image_encoder": "image_encoder/model.safetensors",
}
INDEX = "text_encoder/model.safetensors.index.json"
SINGLE_FILE = "strange.safetensors"


@dataclass
class Mutant:
    """A checkpoint that somebody changed.

    Attributes
    ----------
    place : str
        What reads it: ``folder``, or for a single file ``transformer``, ``vae`` or ``lora``.
    files : dict
        Contents by path; the rest of a folder is the good checkpoint's.
    expect : str
        ``refused``, ``same`` or ``any``.
    note : str
        What was done, for the report of a failure.
    mention : tuple of str
        What the error must name.
    """

    place: str
    files: dict[str, Content]
    expect: str
    note: str = ""
    mention: tuple[str, ...] = field(default=())


@dataclass
class Slot:
    """A good safetensors file and where it is read."""

    place: str
    path: str
    header: dict[str, Any]
    data: bytes

    def names(self):
        """Return the tensors that no model or LoRA can do without."""
        return [n for n in self.header if not n.endswith((".pe", ".alpha")) and n != "__metadata__"]

    def file(self, header=None, data=None):
        """Return the file with another header or data."""
        return join(self.header if header is None else header, self.data if data is None else data)

    def mutant(self, content, expect, note="", mention=()):
        return Mutant(self.place, {self.path: content}, expect, note, mention)

    def changed(self, name, expect, note="", **entries):
        """Return the mutant with other entries for one tensor in the header."""
        header = {**self.header, name: {**self.header[name], **entries}}
        return self.mutant(self.file(header), expect, note or f"{name}: {entries}")

    def tensor(self, name):
        """Return the bytes of a tensor."""
        start, end = self.header[name]["data_offsets"]
        return self.data[start:end]

    def with_tensors(self, tensors):
        """Return the file with other ``(dtype, shape, bytes)`` by name; None leaves one out."""
        contents = {}
        for name, entry in self.header.items():
            if name != "__metadata__":
                contents[name] = (entry["dtype"], entry["shape"], self.tensor(name))
        contents |= tensors
        header = {"__metadata__": self.header["__metadata__"]} if "__metadata__" in self.header else {}
        parts, position = [], 0
        for name, content in contents.items():
            if content is None:
                continue
            dtype, shape, data = content
            header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [position, position + len(data)]}
            parts.append(data)
            position += len(data)
        return join(header, b"".join(parts))


def split(content):
    """Return the header and the data of a safetensors file."""
    [size] = struct.unpack("<Q", content[:8])
    return json.loads(content[8 : 8 + size]), content[8 + size :]


def join(header, data):
    """Return a safetensors file; the header may be text or bytes of any kind."""
    if isinstance(header, dict):
        header = json.dumps(header)
    if isinstance(header, str):
        header = header.encode()
    return struct.pack("<Q", len(header)) + header + data


class Good:
    """The good checkpoint folder, the single files made of it, and a LoRA for it."""

    def __init__(self, folder, lora):
        self.folder = Path(folder)
        self.lora = Path(lora).read_bytes()
        self.transformer = self._single_transformer()
        self.vae = self.read(WEIGHTS["vae"])
        self._slots = {}

    def read(self, path):
        return (self.folder / path).read_bytes()

    def config(self, component):
        return json.loads(self.read(f"{component}/config.json"))

    def single(self, place):
        """Return the good file that a single-file place reads."""
        return {"transformer": self.transformer, "vae": self.vae, "lora": self.lora}[place]

    def slot(self, rng, *choices):
        """Return one of the safetensors files, as ``place`` or ``folder/component``."""
        choices = choices or (*(f"folder/{name}" for name in WEIGHTS), "transformer", "vae", "lora")
        choice = rng.choice(choices)
        if choice not in self._slots:
            place, _, component = choice.partition("/")
            path = WEIGHTS[component] if component else SINGLE_FILE
            content = self.read(path) if component else self.single(place)
            self._slots[choice] = Slot(place, path, *split(content))
        return self._slots[choice]

    def _single_transformer(self):
        header, data = split(self.read(WEIGHTS["transformer"]))
        # Its heads are not the release's, which shapes do not tell.
        config = self.read("transformer/config.json").decode()
        return join({**header, "__metadata__": {"format": "pt", "config": config}}, data)


def good_checkpoint(folder):
    """Return the good files, with a LoRA written beside the checkpoint's folder."""
    return Good(folder, tiny_lora.write(folder.parent / tiny_lora.NAME, folder))


_KINDS = {}


def kind(function):
    """Register a generator ``function(good, rng)`` of mutants."""
    _KINDS[function.__name__.strip("_")] = function
    return function


def kinds():
    """Return all generators by name, sorted."""
    return dict(sorted(_KINDS.items()))


NAME = tiny_checkpoint.NAME
