"""Character repair: odd forms of letters, quotes and dashes become plain ones, as with ftfy's defaults.

Every function takes and returns a text; none of them looks at words.
"""

import html
import re
import unicodedata

# The dash punctuation of Unicode 9.
_DASHES = (
    *(0x2D, 0x58A, 0x5BE, 0x1400, 0x1806, *range(0x2010, 0x2016), 0x2E17, 0x2E1A, 0x2E3A, 0x2E3B, 0x2E40),
    *(0x301C, 0x3030, 0x30A0, 0xFE31, 0xFE32, 0xFE58, 0xFE63, 0xFF0D),
)
_DASH_RUN = re.compile(f"[{re.escape(''.join(map(chr, _DASHES)))}]+")
_PLAIN_QUOTES = str.maketrans(dict.fromkeys("`¨«´»“”", '"') | dict.fromkeys("‘’", "'"))

_LIGATURES = {
    c: unicodedata.normalize("NFKC", chr(c))
    for c in (0x132, 0x133, 0x149, *range(0x1C4, 0x1CD), *range(0x1F1, 0x1F4), *range(0xFB00, 0xFB07))
} | {ord("ﬅ"): "ſt"}
_WIDTHS = {c: unicodedata.normalize("NFKC", chr(c)) for c in (0x3000, *range(0xFF01, 0xFFF0))}
_CURLY_QUOTES = str.maketrans(dict.fromkeys("ʼ‘’‚‛", "'") | dict.fromkeys("“”„‟", '"'))
_CONTROLS = dict.fromkeys(
    [c for c in (*range(0x20), 0x7F) if chr(c) not in "\t\n\f\r"]
    + [*range(0x206A, 0x2070), 0xFEFF, *range(0xFFF9, 0xFFFD)]
)
_C1_CONTROLS = {c: bytes([c]).decode("cp1252", "ignore") or chr(c) for c in range(0x80, 0xA0)}
_LINE_BREAKS = re.compile("\r\n?|[\u2028\u2029\u0085]")
_TERMINAL_COLOUR = re.compile(r"\x1b\[[\d;]*[a-zA-Z]")


def remove_ideographs(text: str) -> str:
    """Delete U+31C0 to U+9FFF, all common CJK ideographs; kana and Hangul lie outside."""
    return "".join(c for c in text if not "\u31c0" <= c <= "\u9fff")


def merge_dashes(text: str) -> str:
    """Turn each run of hyphens, dashes and wave dashes into one hyphen."""
    return _DASH_RUN.sub("-", text)


def straighten_quotes(text: str) -> str:
    """Turn curly and angle quotes and free-standing accents into ASCII quotes."""
    return text.translate(_PLAIN_QUOTES)


def _resolve_entities(line: str) -> str:
    first, *others = line.split("&")
    resolved = [first]
    for other in others:
        name, end, rest = other.partition(";")
        character = html.unescape(f"&{name}{end}")
        # A semicolon that is left means that no entity has just this name.
        resolved.append(character + rest if end and ";" not in character else f"&{other}")
    return "".join(resolved)


def _repair_line(line: str) -> str:
    while True:
        before = line
        if "<" not in line:
            line = _resolve_entities(line)
        for table in (_C1_CONTROLS, _LIGATURES, _WIDTHS, _CURLY_QUOTES):
            line = line.translate(table)
        line = _LINE_BREAKS.sub("\n", line)
        line = _TERMINAL_COLOUR.sub("", line).translate(_CONTROLS)
        line = unicodedata.normalize("NFC", line)
        if line == before:
            return line


def repair_characters(text: str) -> str:
    """Replace ligatures, full-width forms, curly quotes and control characters by plain ones, then compose."""
    return "".join(_repair_line(line) for line in re.findall("[^\n]*\n|[^\n]+", text))


def non_latin_letters(text: str) -> str:
    """Return the letters of ``text`` that are not Latin, in order: T5 knows English and cannot read them."""
    composed = unicodedata.normalize("NFKC", text).lower()
    return "".join(c for c in composed if c.isalpha() and "LATIN" not in unicodedata.name(c, ""))
