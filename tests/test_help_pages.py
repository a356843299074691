"""The help pages of ComfyUI's help panel: one a node, with every input and output as in the schema, and a picture."""

import json
import re
from decimal import Decimal
from typing import NamedTuple

import pytest
from PIL import Image

from devtools.environment import ROOT

DOCS = ROOT / "web" / "docs"
PICTURES = DOCS / "images"
MOST_BYTES = 60_000


class Language(NamedTuple):
    """Where the pages of a language and its names of nodes lie, and what its words are."""

    file: str
    required: bool
    names: str
    optional: str
    mistakes: str


LANGUAGES = {
    "en": Language("{node}.md", True, "locales/en/nodeDefs.json", "optional", "Typical mistakes"),
    "zh": Language("{node}/zh.md", True, "locales/zh/nodeDefs.json", "可选", "常见错误"),
}
NODES = sorted(path.stem for path in DOCS.glob("*.md"))
# What stands in a table where the schema has no default.
NO_DEFAULT = "–"


def page_file(language, node):
    return DOCS / LANGUAGES[language].file.format(node=node)


@pytest.fixture(scope="module")
def schemas(host):
    import nodes

    names = [name for name in nodes.NODE_CLASS_MAPPINGS if name.startswith("EasyAnimateV3")]
    return {name: host.node(name).GET_NODE_INFO_V1() for name in names}


@pytest.fixture(params=[(language, node) for language in LANGUAGES for node in NODES], ids="-".join)
def page(request):
    language, node = request.param
    file = page_file(language, node)
    if not file.is_file() and not LANGUAGES[language].required:
        pytest.skip(f"there is no {file.relative_to(ROOT)} yet")
    return LANGUAGES[language], node, file.read_text(encoding="utf-8")


def tables(text):
    """Return the tables of a page as lists of rows of cells, without their heads."""
    found, previous = [], ""
    for line in text.splitlines():
        if line.startswith("|"):
            if not previous.startswith("|"):
                found.append([])
            found[-1].append([cell.strip() for cell in re.split(r"(?<!\\)\|", line.strip())[1:-1]])
        previous = line
    for table in found:
        assert all(len(row) == len(table[0]) for row in table)
        assert all(set(cell) <= set("-:") for cell in table[1])
    return [table[2:] for table in found]


def name_of(cell):
    (name,) = re.fullmatch(r"`([^`]+)`", cell).groups()
    return name


def exact(number):
    return Decimal(str(number))


def numbers(cell):
    return [Decimal(number) for number in re.findall(r"(?<![A-Za-z0-9_.-])-?\d+(?:\.\d+)?", cell)]


def test_there_is_a_page_for_every_node_in_every_language(schemas):
    assert sorted(schemas) == NODES
    for language in LANGUAGES.values():
        pattern = language.file.format(node="*")
        written = {path.relative_to(DOCS).parts[0].removesuffix(".md") for path in DOCS.glob(pattern)}
        assert written <= set(NODES)
        assert not language.required or written == set(NODES)


def test_nothing_else_is_served():
    known = {page_file(language, node) for language in LANGUAGES for node in NODES}
    known |= {PICTURES / f"{node}.png" for node in NODES}
    assert {path for path in (ROOT / "web").rglob("*") if path.is_file()} <= known


def test_inputs_are_those_of_the_schema(page, schemas):
    language, node, text = page
    rows = {name_of(name): cells for name, *cells in tables(text)[0]}
    described = [
        (name, group, *schemas[node]["input"][group][name])
        for group in ("required", "optional")
        for name in schemas[node]["input"].get(group, {})
    ]
    assert list(rows) == [name for name, *_ in described]
    for name, group, kind, *rest in described:
        kind_cell, default_cell, meaning = rows[name]
        options = rest[0] if rest else {}
        assert re.match(rf"{kind}\b", kind_cell), name
        assert (language.optional in kind_cell) == (group == "optional"), name
        assert len(meaning) > 10, name
        default = options.get("default")
        if kind in ("INT", "FLOAT"):
            limits = [options["min"], options["max"]]
            # A step of 1 goes without saying.
            limits += [options["step"]] if "step" in options else []
            assert numbers(kind_cell) == [exact(limit) for limit in limits], name
            assert Decimal(default_cell) == exact(default), name
        elif kind == "BOOLEAN":
            assert default_cell == f"`{json.dumps(default)}`", name
        elif kind == "COMBO" and default is not None:
            assert re.findall(r"`([^`]+)`", kind_cell) == options["options"], name
            assert default_cell == f"`{default}`", name
        else:
            assert default_cell == (f"`{default}`" if default else NO_DEFAULT), name


def test_outputs_are_those_of_the_schema(page, schemas):
    _, node, text = page
    info = schemas[node]
    outputs = [(name_of(name), kind) for name, kind, _ in (tables(text)[1:] or [[]])[0]]
    assert outputs == list(zip(info["output_name"], info["output"], strict=True))
    assert len(tables(text)) == (2 if outputs else 1)


def test_page_is_built_as_all_are(page):
    language, node, text = page
    heads = re.findall(r"^(#+) (.+)$", text, re.MULTILINE)
    names = json.loads((ROOT / language.names).read_text(encoding="utf-8"))
    assert heads[0] == ("#", names[node]["display_name"])
    assert {marks for marks, _ in heads[1:]} == {"##"}
    english = page_file("en", node).read_text(encoding="utf-8")
    assert len(heads) == len(re.findall("^#", english, re.MULTILINE))
    assert ("##", language.mistakes) in heads
    mistakes = text.split(f"## {language.mistakes}\n")[1].split("\n## ")[0]
    assert mistakes.count("\n- ") >= 3
    assert re.findall(r"!\[[^\]]{10,}\]\(([^)]+)\)", text) == [f"images/{node}.png"]
    # Help must work without a network.
    assert "http" not in text


def test_named_nodes_and_templates_exist(page, schemas):
    names = {info["display_name"].removeprefix("EasyAnimateV3 ") for info in schemas.values()}
    templates = {path.stem for path in (ROOT / "workflows").glob("*.json")}
    _, _, text = page
    for name in re.findall(r"\*EasyAnimateV3 ([^*]+)\*", text):
        assert name in names
    for name in re.findall(r"`((?:text|image|video)_to_\w+|first_last\w*)`", text):
        assert name in templates


@pytest.mark.parametrize("node", NODES)
def test_picture_is_readable_and_small(node):
    file = PICTURES / f"{node}.png"
    assert file.stat().st_size <= MOST_BYTES
    with Image.open(file) as picture:
        assert picture.mode == "P"
        assert 700 <= picture.width <= 1200
        assert 150 <= picture.height <= 1200
