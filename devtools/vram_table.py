"""Write the tables of docs/vram.md and the chart beside them: ``python -m devtools.vram_table``."""

import argparse
import sys
from collections.abc import Iterable
from pathlib import Path

from . import vram_count as count
from .environment import ROOT
from .vram_chart import chart

PAGE, CHART = "vram.md", "images/vram.svg"


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """Return a Markdown table."""
    head = list(head)
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def gigabytes(size: float) -> str:
    """Return bytes in GB with one decimal."""
    return f"{size / count.GB:.1f}"


def clips() -> Iterable[tuple[str, int, int, int]]:
    """Yield a name, width, height and frames of every clip in the tables."""
    for width, height in count.SIZES.values():
        for frames in count.LENGTHS:
            yield f"{width}x{height}x{frames}", width, height, frames


def weights_table() -> str:
    """Return the sizes of all models' weights."""
    rows = [[f"Transformer, {name}", gigabytes(count.transformer_bytes(name))] for name in count.WEIGHTS]
    rows += [[name, gigabytes(size)] for name, size in count.other_weights().items()]
    return table(("Weights", "GB"), rows)


def activations_table() -> str:
    """Return the activations of the transformer in each plan, for one and for both sides of CFG."""
    rows = []
    for name, *clip in clips():
        one, both = count.plans(*clip, 1), count.plans(*clip, 2)
        cells = [one["whole"], one["chunks"], one["parked"], both["whole"], both["chunks"]]
        parked = gigabytes(count.parked_bytes(one))
        rows.append([name, *(gigabytes(plan.bytes) for plan in cells), parked])
    head = (
        "Clip",
        "One side: whole",
        "chunks",
        "parked",
        "Both sides: whole",
        "chunks",
        "Main memory, parked",
    )
    return table(head, rows)


def smallest_table() -> str:
    """Return the smallest card for each way to run."""
    ways = (("parked", False), ("chunks", False), ("whole", False), ("whole", True))
    rows = [
        [name, weights, *(_card(count.smallest_card(weights, *clip, least, both)) for least, both in ways)]
        for name, *clip in clips()
        for weights in count.WEIGHTS
    ]
    head = ("Clip", "Weights", "It fits", "Skips stay on the card", "Whole", "Whole, both sides at once")
    return table(head, rows)


def _card(size: int | None) -> str:
    return "more" if size is None else f"{size} GB"


def cards_table(weights: str) -> str:
    """Return what runs on each card with weights of a dtype."""
    rows = []
    for name, *clip in clips():
        found = [count.sampling(card, weights, *clip) for card in count.CARDS]
        rows.append([name, *map(_cell, found)])
    return table(("Clip", *(f"{card} GB" for card in count.CARDS)), rows)


def _cell(found: count.Sampling) -> str:
    if not found.fits:
        return "weights in part elsewhere"
    sides = "both" if found.together else "one"
    return f"{sides}, {found.plan} ({gigabytes(found.bytes)})"


def vae_table() -> str:
    """Return what decoding and encoding ask for beside the weights of the VAE."""
    rows = []
    for width, height in count.SIZES.values():
        encode = [gigabytes(count.encode_bytes(width, height, frames)) for frames in count.LENGTHS]
        decode = [gigabytes(count.decode_bytes(width, height, tiled)) for tiled in (True, False)]
        rows.append([f"{width}x{height}", *decode, *encode])
    lengths = (f"Encode in tiles, {frames} frames" for frames in count.LENGTHS)
    return table(("Size", "Decode in tiles", "Decode, tiling off", *lengths), rows)


def tables() -> dict[str, str]:
    """Return every table by the name of its place in the page."""
    return {
        "weights": weights_table(),
        "activations": activations_table(),
        "smallest": smallest_table(),
        **{f"cards {weights}": cards_table(weights) for weights in count.WEIGHTS},
        "vae": vae_table(),
    }


def filled(page: str) -> str:
    """Return the page with its tables made anew, each between its marks.

    Raises
    ------
    ValueError
        If the page lacks the place of a table.
    """
    for name, text in tables().items():
        start, end = f"<!-- made: {name} -->", "<!-- end -->"
        before, found, rest = page.partition(start)
        _, closed, after = rest.partition(end)
        if not found or not closed:
            raise ValueError(f"the page has no place for the table {name!r}: add {start} and {end}.")
        page = f"{before}{start}\n\n{text}\n\n{end}{after}"
    return page


def main(arguments: list[str] | None = None) -> int:
    """Write the tables and the chart."""
    parser = argparse.ArgumentParser(prog="devtools.vram_table", description=__doc__.splitlines()[0])
    parser.add_argument("--docs", type=Path, default=ROOT / "docs", help="folder of vram.md")
    docs = parser.parse_args(arguments).docs
    page = docs / PAGE
    page.write_text(filled(page.read_text(encoding="utf-8")), encoding="utf-8", newline="\n")
    (docs / CHART).parent.mkdir(exist_ok=True)
    (docs / CHART).write_text(chart(), encoding="utf-8", newline="\n")
    print(page, docs / CHART, sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
