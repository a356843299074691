"""What ComfyUI runs before it loads packs: lists ``custom_nodes`` by name, with this pack first or last.

``devtools.coexistence`` copies it beside its probe, with a file that says which. ComfyUI loads packs in whatever order
the file system lists them.
"""

import os
from pathlib import Path

_HERE = Path(__file__).resolve().parent
_PACK, _PLACE = (_HERE / "place.txt").read_text(encoding="utf-8").split()
_listdir = os.listdir


def listdir(path: str = ".") -> list[str]:
    """List a folder; this one's parent in a certain order."""
    names = _listdir(path)
    if isinstance(path, str) and Path(path).resolve() == _HERE.parent:
        names.sort(key=lambda name: ((name == _PACK) == (_PLACE == "last"), name.lower()))
    return names


os.listdir = listdir
