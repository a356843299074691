"""Pages of pictures in docs/: drawings are what their script makes, the gallery shows every template and its prompts."""

import json
import re

import pytest
from PIL import Image

from devtools import architecture_drawing, result_strips, transformer_drawing
from devtools.environment import ROOT

DOCS = ROOT / "docs"
# Workflows of the released checkpoints show with nano what the others do.
NAMES = sorted(
    path.stem for path in (ROOT / "workflows").glob("*.json") if not path.stem.endswith("_released")
)
GALLERY = (DOCS / "gallery.md").read_text(encoding="utf-8")


def _prompts(name):
    """Return the positive prompts of a workflow, a line each."""
    nodes = json.loads((ROOT / "workflows" / f"{name}.json").read_text(encoding="utf-8"))["nodes"]
    texts = [value for node in nodes for value in node.get("widgets_values") or [] if isinstance(value, str)]
    known = re.compile(r"a \w+ \w+ .*background")
    return [line for text in texts for line in text.splitlines() if known.fullmatch(line)]


def test_there_is_a_strip_for_every_template():
    assert sorted(result_strips.STRIPS) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_gallery_shows_a_template_with_its_prompts(name):
    # From the link to the workflow down to its picture.
    part = re.search(rf"\(\.\./workflows/{name}\.json\).*?!\[[^]]+\]\((images/[^)]+)\)", GALLERY, re.DOTALL)
    assert part[1] == f"images/result_{name}.png"
    assert f"`python -m devtools.result_strips {name}`" in part[0]
    quoted = [line[2:] for line in part[0].splitlines() if line.startswith("> ")]
    assert quoted == _prompts(name)
    with Image.open(DOCS / part[1]) as picture:
        width = result_strips.GUTTER + result_strips.COLUMNS * (result_strips.SIDE + result_strips.GAP)
        assert picture.width == width


@pytest.mark.parametrize("name", NAMES)
def test_strips_show_what_the_templates_make_now(name):
    made_from = result_strips.stored_origin(DOCS / "images" / f"result_{name}.png")
    command = f"python -m devtools.result_strips {name}"
    assert made_from == result_strips.origin(name), f"repaired, in the venv of .dev/, by: {command}"


@pytest.mark.parametrize(
    ("name", "draw"),
    [
        ("architecture", architecture_drawing.architecture),
        ("transformer", transformer_drawing.transformer),
    ],
)
def test_drawings_are_what_the_script_makes(name, draw):
    text = (DOCS / f"{name}.svg").read_text(encoding="utf-8")
    assert text == str(draw()), "run `python -m devtools.drawings` in the venv of .dev/"
    for page in ("architecture.md", "architecture.zh-CN.md"):
        assert f"({name}.svg)" in (DOCS / page).read_text(encoding="utf-8")


@pytest.mark.parametrize("page", ["architecture.md", "architecture.zh-CN.md", "gallery.md", "vram.md"])
def test_links_lead_to_files(page):
    text = (DOCS / page).read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#]+)", text):
        assert (DOCS / target).exists(), target
