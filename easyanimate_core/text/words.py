"""Word rules: what a web caption holds besides its sentence, such as links, file names, ids and offers.

Every rule takes a lower-case text and returns a text; a condition takes one word of it.
"""

import re
from collections.abc import Callable
from itertools import groupby

TextRule = Callable[[str], str]

FILE_ENDINGS = ("apk", "bmp", "eps", "jpeg", "jpg", "mp4", "pdf", "png", "webp")
_LINK_ENDINGS = ("co", "com", "edu", "gov", "it", "net", "org", "ru")

_WORD = re.compile(r"\w+")
_WORD_EDGE = re.compile(r"\b")
_HOST = re.compile("[a-z0-9.-]+")
_PATH = re.compile(r"[\w/-]*")
_FILE_ENDING = re.compile(rf"(?<=\S)\.(?:{'|'.join(FILE_ENDINGS)})")
_CLOCK_TIME = re.compile(r"\d:\d{2}\Z")
_MARKED_NUMBER = re.compile(r"#(\d+)\b")


def substitute(pattern: str, new: str = "") -> TextRule:
    """Return the rule that replaces each match of a regular expression."""
    compiled = re.compile(pattern)
    return lambda text: compiled.sub(new, text)


def each_run(characters: str, new: str, shortest: int = 1) -> TextRule:
    """Return the rule that replaces each run of at least ``shortest`` of the ``characters``."""
    return substitute(f"[{re.escape(characters)}]{{{shortest},}}", new)


def each_word(condition: Callable[[str], bool], new: str = "") -> TextRule:
    """Return the rule that replaces each whole word for which ``condition`` holds."""
    return lambda text: _WORD.sub(lambda found: new if condition(found[0]) else found[0], text)


def phrase(
    *words: str, before: tuple[str, ...] = (), after: tuple[str, ...] = (), gap: str = r"\s+"
) -> TextRule:
    """Return the rule that deletes ``words`` in a row, with those of ``before`` and ``after`` that are there.

    All words and the gap between two words are regular expressions.
    """
    optional_before = "".join(f"(?:{word}{gap})?" for word in before)
    optional_after = "".join(f"(?:{gap}{word})?" for word in after)
    return substitute(optional_before + gap.join(words) + optional_after)


def _path_end(text: str, start: int) -> int | None:
    """Return where a link's path ends: at its last word edge, with one slash, that no ``@`` follows."""
    path = _PATH.match(text, start)
    for edge in reversed([found.start() for found in _WORD_EDGE.finditer(text, start, path.end())]):
        for end in (edge + 1, edge) if text.startswith("/", edge) else (edge,):
            if not text.startswith("@", end):
                return end
    return None


def _host_end(text: str, start: int) -> int | None:
    """Return where a link without scheme ends: a name, the last dot with a known ending that fits, a path."""
    host = _HOST.match(text, start)
    dot = host.end() if host else start
    while (dot := text.rfind(".", start + 1, dot)) > start:
        for ending in _LINK_ENDINGS:
            if text.startswith(ending, dot + 1):
                end = _path_end(text, dot + 1 + len(ending))
                if end is not None:
                    return end
    return None


def remove_links(scheme: str) -> TextRule:
    """Return the rule that deletes hosts with their paths, and ``scheme:`` with slashes or one character."""
    opening = re.compile(f"{scheme}:(?:/{{1,3}}|[a-z0-9%])")

    def link_end(text: str, start: int) -> int | None:
        found = opening.match(text, start)
        return found.end() if found else _host_end(text, start)

    def rule(text: str) -> str:
        kept, done = [], 0
        for edge in _WORD_EDGE.finditer(text):
            start = edge.start()
            if start >= done and (end := link_end(text, start)) is not None:
                kept.append(text[done:start])
                done = end
        return "".join(kept) + text[done:]

    return rule


def remove_quote_entities(text: str) -> str:
    """Delete the name of a double quote in HTML, whether its semicolon is there or not."""
    first, *others = text.split("&quot")
    return first + "".join(other.removeprefix(";") for other in others)


def remove_file_names(text: str) -> str:
    """Delete what stands before a file ending up to the last space, and the ending."""
    return re.sub(r"\S+", lambda chunk: _FILE_ENDING.split(chunk[0])[-1], text)


def remove_final_time(text: str) -> str:
    """Delete a clock time at the end, if space follows it; of a two-digit hour the first digit stays."""
    stripped = text.rstrip()
    return _CLOCK_TIME.sub("", stripped) if stripped != text and _CLOCK_TIME.search(stripped) else text


def remove_hash_numbers(text: str) -> str:
    """Delete each number after ``#``, with the mark, unless it has four digits."""
    return _MARKED_NUMBER.sub(lambda found: found[0] if len(found[1]) == 4 else "", text)


def split_slug(text: str) -> str:
    """Turn ``lake_at-dawn_in-june`` into words; up to three joins are taken for ordinary hyphens."""
    joins = text.count("-") + text.count("_")
    return text.replace("-", " ").replace("_", " ") if joins > 3 else text


def is_long_number(word: str) -> bool:
    """Tell numbers of six digits and more."""
    return len(word) >= 6 and word.isdecimal()


def _shape(word: str) -> list[tuple[str, int]]:
    """Return the runs of a word as (kind, length): ``L`` ASCII letters, ``D`` digits, ``?`` anything else."""

    def kind(c: str) -> str:
        if c.isdecimal():
            return "D"
        return "L" if c.isascii() and c.isalpha() else "?"

    return [(k, len(list(run))) for k, run in groupby(word, kind)]


def is_serial_number(word: str) -> bool:
    """Tell words such as ``ab123``, ``ab12cd`` and ``12ab34``."""
    shape = _shape(word)
    kinds = "".join(kind for kind, _ in shape)
    if kinds == "LD":
        return shape[0][1] <= 3 and 3 <= shape[1][1] <= 15
    return kinds in ("LDL", "DLD")


def is_mixed_id(word: str) -> bool:
    """Tell words such as ``ab1cd2`` and ``7w8x9``: two or more runs of digits, each after letters."""
    kinds = "".join(kind for kind, _ in _shape(word))
    return "?" not in kinds and kinds.lstrip("D").startswith("LDLD")


def trim_edges(text: str) -> str:
    """Drop one pair of enclosing quotes, one stray mark at each end, and a text that is only ``.word``."""
    if len(text) > 2 and text[0] in "\"'" and text[-1] in "\"'":
        text = text[1:-1]
    if text.startswith(("'", ",", "-", ":", ";", "_")):
        text = text[1:]
    if text.endswith(("'", "+", ",", "-", ":", "_")):
        text = text[:-1]
    return "" if len(text) > 1 and text[0] == "." and " " not in text else text.strip()
