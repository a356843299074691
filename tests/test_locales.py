"""The nodes' texts in the user interface, English as the nodes have them and Chinese beside it; the Chinese pages."""

import re
from collections import Counter

import pytest

from devtools.environment import ROOT
from devtools.locales import COMMAND, SOURCE, TRANSLATIONS, english_texts, flat, pack_infos, read

ENGLISH = flat(read(SOURCE))
PAGES = [ROOT / "README.md", *sorted((ROOT / "web" / "docs").glob("*.md"))]
CHINESE_README = ROOT / "README.zh-CN.md"
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


def literals(text):
    return {found.removesuffix("s") for found in LITERAL.findall(text)}


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
    chinese = CHINESE_README if english.name == "README.md" else english.with_suffix("") / "zh.md"
    first, second = (page.read_text(encoding="utf-8") for page in (english, chinese))
    for what in (r"\d+(?:\.\d+)?", r"`[^`\n]+`", r"^#+ ", r"^\|"):
        count, translated = (Counter(re.findall(what, text, re.MULTILINE)) for text in (first, second))
        assert count <= translated, f"what only {english.name} has: {count - translated}"
