import json
from pathlib import Path

import pytest

from easyanimate_core.text import clean_prompt, non_latin_letters, plain_prompt, removed_non_latin
from easyanimate_core.text.cleaning import _RULES

GOLDEN = json.loads((Path(__file__).parent / "golden/misc/prompt_cleaning.json").read_text(encoding="utf-8"))

# Prompts and what the release's cleaning (twice, with beautifulsoup4 4.15 and ftfy 6.3) makes of them.
PAIRS = [
    ("50%25 of%20a+sunny day", "50% of a sunny day"),
    ("<person> walks the dog", "person walks the dog"),
    ("see https://example.org/a-b?x=1 for more", "see ?x=1 for more"),
    ("www.site.co.uk/x, ask joe@mail.com", ".uk x, ask joe"),
    ("it www:8 b", "it b"),
    ("http:///a https: b https:c", "a https: b"),
    ("me@a.com/x@b see c.org/d-/@e", "me see"),
    ("fly.it/@ dot.com@ y.edu/k z", "dot. com z"),
    ("fox.community -b.net/ .edu a..gov", "edu"),
    ("<div class='a'>bold <b>move</b></div> <!-- note --> end", "bold move end"),
    ("a &lt; b &eacute;t&eacute; &#233; &#x41; &#150; &foo; R&D", "a < b été é a - foo rd"),
    ("x- &#8./", "x- ."),
    ("x- &#x1F./", "x"),
    ("<script>x()</script>shown<style>p{}</style>", "shown"),
    ("<template><p>hidden</p></template>kept", "kept"),
    ("<ruby>word<rp>(</rp><rt>reading</rt></ruby>", "word"),
    ("one<br>two<br/>three</br>", "onetwothree"),
    ("free<b>  </b>download now", "now"),
    ("plain <?pi x?> text", "plain text"),
    ("a < b ＆ｇｔ c ＆＃ｘｆｆ０６；lt d", "a < b > c < d"),
    ("2 < 3, a > b", "2 < 3, a > b"),
    ("hi @some_one, hello", "hi , hello"),
    ("一只狗在跑 dog ひらがな 한국어 привет", "dog ひらがな 한국어 привет"),
    ("a — b – c ‒ d〜e", "a b c d e"),
    ("a‐‑ b ⹀﹘ｃ ⹝ d", "a- b -c ⹝ d"),
    ("`q´ «r» ¨", 'q" "r"'),
    ("‘s’ ‚t‛ “u” „v‟", "s' 't' \"u\" \"v"),
    ("x &amp;quot; y &amp;amp z", "x y z"),
    ("host 192.168.0.1 up", "host up"),
    ("time 3:45 <b> </b>", "time"),
    ("at 12:30 <b> </b>", "at 1"),
    ("line\\nbreak", "line break"),
    ("#7 #2048 #90210 # 5", "2048 5"),
    ("no 7654321 but 54321", "no but 54321"),
    ("see a/b.jpeg or c:\\x.pdf!", "see or !"),
    ("x.png.mp4s .webp", "s ."),
    ('he said ""\'ok\'"', 'he said "ok"'),
    ("wait... what.. ok.", "wait what ok."),
    ("a*b|c{d}[e](f)~g§h©", "a b c d e f g h"),
    ("one . two", "one two"),
    ("lake_at-dawn_in-june", "lake at dawn in june"),
    ("red-blue-green-dog", "red-blue-green-dog"),
    ("ﬁne ﬂow ĳs ＦＵＬＬ\u3000ｗｉｄｔｈ！", "fine flow ijs full width!"),
    ("café \u200bx \x07bell \ufeff", "café \u200bx bell"),
    ("a ＆ａｍｐ； b ＆lt； c", "a b < c"),
    ("＆ｎｏｔｉｔ； ＆＃４０； ŉ ﬅ ǆ", "¬it; 'n ſt dž"),
    ("kq902 kq90x 77qz81 rover417 ab12 1a", "rover417 ab12 1a"),
    ("w7x8y 5w7x8y é7x8y", "é7x8y"),
    ("free shipping worldwide  free  shipping", ""),
    ("free download free and download", "and"),
    ("click on this, click for that", ""),
    ("png images, epsilon pdf image", "ilon"),
    ("page 12 of pages 3", "of pages 3"),
    ("1920x1080 10.5×20 3х4 5xa", "5xa"),
    ("ratio : wide", "ratio: wide"),
    ("a.b,c/d 1.5,2 f/1.8", "a. b, c d 1.5,2 f 1.8"),
    ("two   \t spaces\n\nlines", "two spaces lines"),
    ("'quoted'", "quoted"),
    ('"a" and "b"', 'a" and "b'),
    ("- list item -", "list item"),
    (".hidden", ""),
    (". dot", ". dot"),
    ("; note +", "note"),
    ("naïve ÜBER straße İstanbul", "naïve über straße i̇stanbul"),
    ("a b:c 12:30 100% $5 ^ = +", "a b:c 12:30 100% $5 ^ ="),
    (
        "A cinematic shot, 35mm film, f/2.8, ultra-detailed, 8k!",
        "a cinematic shot, 35mm film, f 2.8, ultra-detailed, 8k!",
    ),
    ("  Mixed CASE Text  ", "mixed case text"),
    ("x \\u0085 y \x85 z", "x y … z"),
    ("a\u2028b\x1b[31mred\x1b[0m", "a b 31mred 0m"),
    ("@nick", ""),
    ("狗", ""),
    ("&quot x", '" x'),
    ("a&ampb", "ab"),
    ("#1 #22 #333 x", "x"),
    ("the 4x4 car", "the car"),
    ("b <person> c", "b person c"),
    ("a,b", "a, b"),
    ("...", ""),
    ('"', '"'),
    ("''", '"'),
    ("a &nbsp; b", "a b"),
]


@pytest.mark.parametrize("pair", GOLDEN, ids=lambda pair: pair["prompt"][:20])
def test_golden_pairs(pair):
    assert clean_prompt(pair["prompt"]) == pair["clean"]
    assert plain_prompt(pair["prompt"]) == pair["plain"]


@pytest.mark.parametrize(("prompt", "cleaned"), PAIRS)
def test_release_pairs(prompt, cleaned):
    assert clean_prompt(prompt) == cleaned


@pytest.mark.parametrize("index", range(len(_RULES)), ids=[name for name, _ in _RULES])
def test_every_rule_is_needed(index, monkeypatch):
    monkeypatch.setattr("easyanimate_core.text.cleaning._RULES", _RULES[:index] + _RULES[index + 1 :])
    pairs = [*PAIRS, *((pair["prompt"], pair["clean"]) for pair in GOLDEN)]
    assert any(clean_prompt(prompt) != cleaned for prompt, cleaned in pairs)


def test_malformed_markup_does_not_raise():
    assert "dog" in clean_prompt("<![ a dog")


@pytest.mark.parametrize(
    ("prompt", "removed"),
    [
        ("一只狗在公园里奔跑", True),
        ("a dog 狗 in the park", True),
        ("%E7%8B%97", True),
        ("a dog in the park", False),
        ("naïve café, ĲSSEL, ﬁne ＦＵＬＬ width, 50 µm ½ €", False),
        ("Привет, DOG", False),
        ("", False),
        ("!!! @@@ 123", False),
    ],
)
def test_removed_non_latin(prompt, removed):
    assert removed_non_latin(prompt, clean_prompt(prompt)) is removed


def test_non_latin_letters():
    assert non_latin_letters("A dog, 狗 и КОТ") == "狗икот"
    assert non_latin_letters("Ünïcödé 123 &") == ""
