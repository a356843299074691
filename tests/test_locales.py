"""The nodes' texts in the user interface, English as the nodes have them and Chinese beside it; the Chinese pages."""

import re
from collections import Counter

import pytest

from devtools.environment import ROOT
from devtools.locales import COMMAND, SOURCE, TRANSLATIONS, english_texts, flat, pack_infos, read

ENGLISH = flat(read(SOURCE))
HELP = {page: page.with_suffix("") / "zh.md" for page in sorted((ROOT / "web" / "docs").glob("*.md"))}
DOCUMENTS = (ROOT / "README.md", ROOT / "docs" / "architecture.md", ROOT / "docs" / "migration.md")
PAGES = HELP | {page: page.with_suffix(".zh-CN.md") for page in DOCUMENTS}
INPUTS = {key.split(".")[2] for key in ENGLISH if ".inputs." in key}
# Labels that Chinese users know by these names.
SAME = {"CLIP", "VAE", "CFG", "Latent"}
# Numbers, and what is written as in code: paths, names with underscores, capitals or digits inside.
LITERAL = re.compile(
    r"""%?\w+(?:[/_]\w+)+(?:\.{3})?%?    # models/loras, start_image, lora_unet__...
    | %\w+%
    | \w*[A-Z]\w*[A-Z]\w*(?:\+\+)?    # EasyAnimateV3Loader, LoRA, VAE, DPM++
    | [A-Za-z]+\d\w*                  # T5, fp8, mp4
    | -?\d+(?:\.\d+)?(?:x\d+)?        # 16, 0.4, 672x384""",
    re.VERBOSE | re.ASCII,
)


NUMBER = re.compile(r"\d+(?:\.\d+)?")
CODE = re.compile(r"`([^`\n]+)`")
# Not compared: the pack's name, and what has a number in Chinese alone, which are a month and the name of an input.
NO_FIGURE = re.compile(r"EasyAnimateV3|\d+ 月|片段_\d+")


def literals(text):
    return {found.removesuffix("s") for found in LITERAL.findall(text)}


def figures(text):
    return Counter(NUMBER.findall(NO_FIGURE.sub("", text)))


def headings_and_rows(text):
    return Counter(re.findall(r"^(?:#+ |\|)", text, re.MULTILINE))


@pytest.fixture(params=TRANSLATIONS)
def translated(request):
    return flat(read(request.param))


def test_english_is_what_the_nodes_say(host):
    assert flat(english_texts(pack_infos(host))) == ENGLISH, f"repaired by: {COMMAND}"


def test_translations_have_the_same_texts(translated):
    assert list(translated) == list(ENGLISH), f"what is missing or left over is listed by: {COMMAND}"


def test_every_text_can_be_shown(translated):
    for key, text in [*ENGLISH.items(), *translated.items()]:
        assert text and text == text.strip(), key
        # In the user interface's messages these stand for insertions, links and plurals.
        assert not set("{}@|") & set(text), key


def test_translations_are_chinese(translated):
    for key, text in translated.items():
        if key.endswith(".name") and text in SAME:
            continue
        assert re.search(r"[\u4e00-\u9fff]", text), key


def test_numbers_and_names_are_the_same(translated):
    for key, text in ENGLISH.items():
        if key.endswith((".tooltip", ".description")):
            assert literals(text) <= literals(translated[key]), key
            assert figures(text) == figures(translated[key]), key


def test_equal_texts_are_translated_alike(translated):
    seen = {}
    for key, text in ENGLISH.items():
        assert seen.setdefault(text, translated[key]) == translated[key], key


def test_the_server_hands_them_out(server):
    served = server.get("/i18n")
    for language in (SOURCE, *TRANSLATIONS):
        assert served[language] == read(language, "main") | {"nodeDefs": read(language)}
    nodes = [info for node, info in server.object_info().items() if node in served[SOURCE]["nodeDefs"]]
    groups = {info["category"].split("/")[0] for info in nodes}
    assert groups == set(served[SOURCE]["nodeCategories"]) == set(served["zh"]["nodeCategories"])


@pytest.mark.parametrize("english", PAGES, ids=[page.stem for page in PAGES])
def test_pages_in_chinese_hold_the_same_figures(english):
    first, second = (page.read_text(encoding="utf-8") for page in (english, PAGES[english]))
    # Figures, headings and rows of tables.
    for found in (figures, headings_and_rows):
        count, translated = found(first), found(second)
        assert count == translated, f"differs: {count - translated}, {translated - count}"
    code, translated = (Counter(CODE.findall(text)) for text in (first, second))
    assert code <= translated, f"what only {english.name} has: {code - translated}"
    # English has some names of inputs and choices in italics or in plain words, for which Chinese has no letters.
    italic = set(re.findall(r"\*([^*\n]+)\*", first))
    left = set(translated) - set(code) - italic - INPUTS
    assert not left, f"what only the Chinese page has: {left}"
