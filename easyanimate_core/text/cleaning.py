"""Prompt cleaning of the EasyAnimateV3 release (July 2024), with the standard library only.

The release cleans each prompt twice with rules made for scraped web captions, if beautifulsoup4 and ftfy are
installed, and otherwise only lower-cases it. Text encodings of a prompt therefore depend on these rules.
"""

import html
import re
import unicodedata
from collections import Counter
from collections.abc import Callable
from html.entities import html5
from html.parser import HTMLParser
from itertools import groupby
from urllib.parse import unquote_plus

TextFunction = Callable[[str], str]

_LINK_ENDINGS = ("com", "co", "ru", "net", "org", "edu", "gov", "it")
_FILE_ENDINGS = ("png", "jpg", "jpeg", "bmp", "webp", "eps", "pdf", "apk", "mp4")
# Hyphens, dashes and dash-like marks of Unicode 9, one of which a run of them becomes.
_DASHES = (
    "-\u058a\u05be\u1400\u1806\u2010\u2011\u2012\u2013\u2014\u2015\u2e17\u2e1a\u2e3a\u2e3b\u2e40"
    "\u301c\u3030\u30a0\ufe31\ufe32\ufe58\ufe63\uff0d"
)
_DOUBLE_QUOTES = "`´«»“”¨"
_SINGLE_QUOTES = "‘’"
_NOISE_MARKS = "#®•©™&@·º½¾¿¡§~)(][}{|\\/*"
# CJK strokes to the end of the unified ideographs; kana, Hangul and later extensions lie outside.
_IDEOGRAPHS = "\u31c0-\u9fff"

_HIDDEN_TEXT_TAGS = {"script", "style", "template", "rt", "rp"}
_VERBATIM_TAGS = {"pre", "textarea"}
_VOID_TAGS = {"area", "base", "br", "col", "embed", "hr", "img", "input", "keygen", "link", "menuitem"} | {
    *("meta", "param", "source", "track", "wbr", "basefont", "bgsound", "command", "frame", "image"),
    *("isindex", "nextid", "spacer"),
}
_HTML_SPACE = " \t\n\f\r"


class _VisibleText(HTMLParser):
    """Collect the text a page shows: no tags, comments, scripts, styles, templates or ruby."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=False)
        self.parts: list[str] = []
        self._run = ""
        self._open: list[str] = []
        self._closed_void: Counter[str] = Counter()

    def finish(self) -> str:
        self.close()
        self._end_run()
        return "".join(self.parts)

    def _end_run(self) -> None:
        run, self._run = self._run, ""
        if run and not run.strip(_HTML_SPACE) and not _VERBATIM_TAGS.intersection(self._open):
            run = "\n" if "\n" in run else " "
        if not _HIDDEN_TEXT_TAGS.intersection(self._open):
            self.parts.append(run)

    def _close_tag(self, tag: str) -> None:
        self._end_run()
        if tag in self._open:
            while self._open.pop() != tag:
                pass

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._end_run()
        if tag in _VOID_TAGS:
            self._closed_void[tag] += 1
        else:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._end_run()

    def handle_endtag(self, tag: str) -> None:
        if self._closed_void[tag]:
            self._closed_void[tag] -= 1
        else:
            self._close_tag(tag)

    def handle_data(self, data: str) -> None:
        self._run += data

    def handle_charref(self, name: str) -> None:
        self._run += html.unescape(f"&#{name}")

    def handle_entityref(self, name: str) -> None:
        # An unknown name is ordinary text after an ampersand; its semicolon is already consumed.
        self._run += html5.get(f"{name};", f"&{name}")

    def handle_comment(self, data: str) -> None:
        self._end_run()

    handle_decl = handle_pi = handle_comment

    def unknown_decl(self, data: str) -> None:
        self._end_run()
        if data[:6].upper() == "CDATA[":
            self.parts.append(data[6:])


def _strip_markup(text: str) -> str:
    parser = _VisibleText()
    try:
        parser.feed(text)
        return parser.finish()
    except AssertionError:
        # html.parser gives up on a malformed "<![": such a prompt keeps its marks.
        return text


def _substitute(pattern: str, new: str = "") -> TextFunction:
    compiled = re.compile(pattern)
    return lambda text: compiled.sub(new, text)


def _one_of(words: tuple[str, ...]) -> str:
    return "(?:" + "|".join(words) + ")"


def _any_of(characters: str) -> str:
    return "[" + re.escape(characters) + "]"


def _link_pattern(scheme: str) -> str:
    host = rf"[a-zA-Z0-9.\-]+\.{_one_of(_LINK_ENDINGS)}[\w/\-]*\b/?(?!@)"
    return rf"\b(?:{scheme}:(?:/{{1,3}}|[a-zA-Z0-9%])|{host})"


def _straighten_quotes(text: str) -> str:
    return text.translate(
        dict.fromkeys(map(ord, _DOUBLE_QUOTES), '"') | dict.fromkeys(map(ord, _SINGLE_QUOTES), "'")
    )


def _split_slug(text: str) -> str:
    """Turn ``this-is-a-long_slug`` into words; up to three joins are taken for ordinary hyphens."""
    joins = text.count("-") + text.count("_")
    return text.replace("-", " ").replace("_", " ") if joins > 3 else text


_LIGATURES = {ord(c): unicodedata.normalize("NFKC", c) for c in "ĲĳǱǲǳǄǅǆǇǈǉǊǋǌﬀﬁﬂﬃﬄﬆ"} | {
    ord("ŉ"): "ʼn",
    ord("ﬅ"): "ſt",
}
_WIDTHS = {c: unicodedata.normalize("NFKC", chr(c)) for c in (0x3000, *range(0xFF01, 0xFFF0))}
_QUOTES = dict.fromkeys(map(ord, "ʼ‘’‚‛"), "'") | dict.fromkeys(map(ord, "“”„‟"), '"')
_CONTROLS = dict.fromkeys(
    [c for c in (*range(0x20), 0x7F) if chr(c) not in "\t\n\f\r"]
    + [*range(0x206A, 0x2070), 0xFEFF, *range(0xFFF9, 0xFFFD)]
)
_C1_CONTROLS = {c: bytes([c]).decode("cp1252", "ignore") or chr(c) for c in range(0x80, 0xA0)}
_LINE_BREAKS = re.compile("\r\n?|[\u2028\u2029\u0085]")
_ENTITY = re.compile("&#?[0-9A-Za-z]{1,24};")
_TERMINAL_COLOUR = re.compile(r"\x1b\[[\d;]*[a-zA-Z]")


def _repair_line(line: str) -> str:
    while True:
        before = line
        if "<" not in line:
            line = _ENTITY.sub(lambda found: html.unescape(found[0]), line)
        for table in (_C1_CONTROLS, _LIGATURES, _WIDTHS, _QUOTES):
            line = line.translate(table)
        line = _LINE_BREAKS.sub("\n", line)
        line = _TERMINAL_COLOUR.sub("", line).translate(_CONTROLS)
        line = unicodedata.normalize("NFC", line)
        if line == before:
            return line


def _repair_characters(text: str) -> str:
    """Replace ligatures, full-width forms, curly quotes and control characters by plain ones, then compose."""
    return "".join(_repair_line(line) for line in re.findall("[^\n]*\n|[^\n]+", text))


def _shape(word: str) -> list[tuple[str, int]]:
    """Return the runs of a word as (kind, length): ``L`` ASCII letters, ``D`` digits, ``?`` anything else."""

    def kind(c: str) -> str:
        if c.isdecimal():
            return "D"
        return "L" if c.isascii() and c.isalpha() else "?"

    return [(k, len(list(run))) for k, run in groupby(word, kind)]


def _is_serial_number(word: str) -> bool:
    """Tell words such as ``jc6640``, ``jc6640vc`` and ``6640vc231``."""
    shape = _shape(word)
    kinds = "".join(kind for kind, _ in shape)
    if kinds == "LD":
        return shape[0][1] <= 3 and 3 <= shape[1][1] <= 15
    return kinds in ("LDL", "DLD")


def _is_mixed_id(word: str) -> bool:
    """Tell words such as ``j2d1a2a``: two or more runs of digits inside letters."""
    kinds = "".join(kind for kind, _ in _shape(word))
    return "?" not in kinds and kinds.lstrip("D").startswith("LDLD")


def _map_words(condition: Callable[[str], bool], new: str) -> TextFunction:
    word = re.compile(r"\w+")
    return lambda text: word.sub(lambda found: new if condition(found[0]) else found[0], text)


def _trim_edges(text: str) -> str:
    """Drop one pair of enclosing quotes, one stray mark at each end, and a text that is only ``.word``."""
    if len(text) > 2 and text[0] in "\"'" and text[-1] in "\"'":
        text = text[1:-1]
    if text.startswith(("'", "_", ",", "-", ":", ";")):
        text = text[1:]
    if text.endswith(("'", "_", ",", "-", ":", "+")):
        text = text[:-1]
    return "" if len(text) > 1 and text[0] == "." and " " not in text else text.strip()


_SIZE = r"\d+\.?\d*"

# In the order of application; each works on what the ones before it left.
_RULES: tuple[tuple[str, TextFunction], ...] = (
    ("percent escapes", unquote_plus),
    ("outer space", str.strip),
    ("case", str.lower),
    ("person tag", lambda text: text.replace("<person>", "person")),
    ("links", _substitute(_link_pattern("https?"))),
    ("links without scheme", _substitute(_link_pattern("www"))),
    ("markup", _strip_markup),
    ("mentions", _substitute(r"@\w+")),
    ("ideographs", _substitute(f"[{_IDEOGRAPHS}]")),
    ("dashes", _substitute(f"{_any_of(_DASHES)}+", "-")),
    ("quotes", _straighten_quotes),
    ("rests of &quot;", _substitute("&quot;?")),
    ("rests of &amp;", _substitute("&amp")),
    ("network addresses", _substitute(r"\d{1,3}(?:\.\d{1,3}){3}", " ")),
    ("clock time at the end", _substitute(r"\d:\d{2}\s+$")),
    ("written line breaks", lambda text: text.replace("\\n", " ")),
    ("short hash numbers", _substitute(r"#\d{1,3}\b")),
    ("long hash numbers", _substitute(r"#\d{5,}\b")),
    ("long numbers", _substitute(r"\b\d{6,}\b")),
    ("file names", _substitute(rf"\S+\.{_one_of(_FILE_ENDINGS)}")),
    ("repeated quotes", _substitute("[\"']{2,}", '"')),
    ("ellipses", _substitute(r"\.{2,}", " ")),
    ("noise marks", _substitute(f"{_any_of(_NOISE_MARKS)}+", " ")),
    ("lone full stops", _substitute(r"\s+\.\s+", " ")),
    ("slugs", _split_slug),
    ("characters", _repair_characters),
    ("entities", lambda text: html.unescape(html.unescape(text))),
    ("serial numbers", _map_words(_is_serial_number, "")),
    ("shipping offers", _substitute(r"(?:worldwide\s+)?(?:free\s+)?shipping")),
    ("download offers", _substitute(r"(?:free\s)?download(?:\sfree)?")),
    ("click here", _substitute(r"\bclick\s(?:for|on)\s\w+")),
    ("file types", _substitute(rf"\b{_one_of(_FILE_ENDINGS)}(?:\simages?)?")),
    ("page numbers", _substitute(r"\bpage\s+\d+\b")),
    ("mixed ids", _map_words(_is_mixed_id, " ")),
    ("picture sizes", _substitute(rf"\b{_SIZE}[x\u0445×]{_SIZE}\b")),
    ("space before colons", _substitute(r"(?<=\w)\s+:\s+", ": ")),
    ("space after marks", _substitute(r"(?<=\D)([,./])(?=\w)", r"\1 ")),
    ("space", _substitute(r"\s+", " ")),
    ("edges", _trim_edges),
)


def clean_prompt(text: str) -> str:
    """Clean a prompt as the EasyAnimateV3 release does with beautifulsoup4 and ftfy installed.

    Lower-cases the text and deletes what its training captions did not have: markup, links, mentions, file
    names, ids, picture sizes and most marks. All CJK ideographs go as well, so that a Chinese prompt becomes
    empty; `removed_non_latin` tells. The rules are applied twice, as published.

    Differences from the release: text in a wrong encoding ("cafÃ©") is not repaired, and a malformed
    ``<![`` is kept where the release raises an error.

    Parameters
    ----------
    text : str
        Any text, also empty.

    Returns
    -------
    str
        The cleaned prompt, possibly empty.
    """
    for _ in range(2):
        for _, rule in _RULES:
            text = rule(text)
    return text


def plain_prompt(text: str) -> str:
    """Return the prompt lower-cased and stripped: the release without beautifulsoup4 and ftfy."""
    return text.lower().strip()


def non_latin_letters(text: str) -> str:
    """Return the letters of ``text`` that are not Latin, in order: T5 knows English and cannot read them."""
    composed = unicodedata.normalize("NFKC", text).lower()
    return "".join(c for c in composed if c.isalpha() and "LATIN" not in unicodedata.name(c, ""))


def removed_non_latin(text: str, cleaned: str) -> bool:
    """Tell whether cleaning cut letters of a non-Latin script (Chinese above all) out of a prompt.

    Parameters
    ----------
    text : str
        The prompt as the user wrote it.
    cleaned : str
        What `clean_prompt` made of it.
    """
    return bool(Counter(non_latin_letters(unquote_plus(text))) - Counter(non_latin_letters(cleaned)))
