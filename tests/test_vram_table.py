"""docs/vram.md and its chart are what the models say today, and what they say agrees with itself."""

import re
import subprocess
import sys
import xml.etree.ElementTree as ET

import pytest

from devtools.environment import ROOT

DOCS = ROOT / "docs"
PLACE = re.compile(r"(<!-- made: .*? -->).*?(<!-- end -->)", re.DOTALL)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder with the page whose tables were emptied and made anew, in a process that may start ComfyUI's modules."""
    folder = tmp_path_factory.mktemp("docs")
    page = (DOCS / "vram.md").read_text(encoding="utf-8")
    (folder / "vram.md").write_text(PLACE.sub(r"\1\2", page), encoding="utf-8")
    command = [sys.executable, "-W", "ignore", "-m", "devtools.vram_table", "--docs", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=120)
    return folder


@pytest.mark.parametrize("file", ["vram.md", "images/vram.svg"])
def test_the_docs_hold_what_the_script_makes(made, file):
    assert (DOCS / file).read_text(encoding="utf-8") == (made / file).read_text(encoding="utf-8"), (
        "the page is older than the models: run `python -m devtools.vram_table` in the venv of .dev/"
    )


def _tables(page):
    """Return the cells of every table by its name."""
    found = {}
    for name, text in re.findall(r"<!-- made: (.*?) -->(.*?)<!-- end -->", page, re.DOTALL):
        head, _, *rows = [re.split(r" \| ", line.strip("| ")) for line in text.strip().splitlines()]
        found[name] = [dict(zip(head, row, strict=True)) for row in rows]
    return found


def test_cards_run_what_the_table_of_the_smallest_says(made):
    """The two tables are read by people side by side."""
    tables = _tables((made / "vram.md").read_text(encoding="utf-8"))
    assert len(tables["smallest"]) == 12
    for row in tables["smallest"]:
        (card,) = (line for line in tables[f"cards {row['Weights']}"] if line["Clip"] == row["Clip"])
        assert card[row["Whole"]].split(" (")[0].endswith(", whole")
        assert card[row["Whole, both sides at once"]].startswith("both, whole")
        for size, cell in card.items():
            if size != "Clip":
                assert float(re.search(r"\((.*)\)", cell)[1]) <= float(size.removesuffix(" GB"))


def test_the_chart_is_a_picture_with_text(made):
    root = ET.parse(made / "images" / "vram.svg").getroot()
    words = " ".join(element.text or "" for element in root.iter("{http://www.w3.org/2000/svg}text"))
    for expected in ("12 GB card", "16 GB card", "24 GB card", "672x384", "1008x576", "1248x720"):
        assert expected in words
