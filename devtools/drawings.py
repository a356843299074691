"""Draw docs/architecture.svg and docs/transformer.svg: ``python -m devtools.drawings``."""

import argparse
import sys
from pathlib import Path

from .architecture_drawing import architecture
from .environment import ROOT
from .transformer_drawing import transformer

DRAWINGS = {"architecture.svg": architecture, "transformer.svg": transformer}


def main(arguments: list[str] | None = None) -> int:
    """Write both drawings."""
    parser = argparse.ArgumentParser(prog="devtools.drawings", description=__doc__.splitlines()[0])
    parser.add_argument("--docs", type=Path, default=ROOT / "docs", help="folder that the files go to")
    docs = parser.parse_args(arguments).docs
    for name, draw in DRAWINGS.items():
        (docs / name).write_text(str(draw()), encoding="utf-8", newline="\n")
        print(docs / name)
    return 0


if __name__ == "__main__":
    sys.exit(main())
