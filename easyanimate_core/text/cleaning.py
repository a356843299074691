"""Prompt cleaning of the EasyAnimateV3 release (July 2024), with the standard library only.

The rules are DeepFloyd IF's caption cleaning, made for scraped web captions. The release applies them twice to
each prompt if beautifulsoup4 and ftfy are installed, and otherwise only lower-cases it. Text encodings of a
prompt therefore depend on these rules.
"""

import html
from collections import Counter
from urllib.parse import unquote_plus

from .characters import (
    merge_dashes,
    non_latin_letters,
    remove_ideographs,
    repair_characters,
    straighten_quotes,
)
from .markup import visible_text
from .words import (
    FILE_ENDINGS,
    TextRule,
    each_run,
    each_word,
    is_long_number,
    is_mixed_id,
    is_serial_number,
    phrase,
    remove_file_names,
    remove_final_time,
    remove_hash_numbers,
    remove_links,
    remove_quote_entities,
    split_slug,
    substitute,
    trim_edges,
)

_NOISE_MARKS = "#&()*/@[\\]{|}~¡§©®·º½¾¿•™"
_ADDRESS = r"\.".join(4 * [r"\d{1,3}"])
_LENGTH = r"\d+(?:\.\d*)?"

# In the order of application; each works on what the ones before it left.
_RULES: tuple[tuple[str, TextRule], ...] = (
    ("percent escapes", unquote_plus),
    ("outer space", str.strip),
    ("case", str.lower),
    ("person tag", lambda text: text.replace("<person>", "person")),
    ("links", remove_links("https?")),
    ("links without scheme", remove_links("www")),
    ("markup", visible_text),
    ("mentions", substitute(r"@\w+")),
    ("ideographs", remove_ideographs),
    ("dashes", merge_dashes),
    ("quotes", straighten_quotes),
    ("rests of &quot;", remove_quote_entities),
    ("rests of &amp;", lambda text: text.replace("&amp", "")),
    ("network addresses", substitute(_ADDRESS, " ")),
    ("clock time at the end", remove_final_time),
    ("written line breaks", lambda text: text.replace("\\n", " ")),
    ("hash numbers", remove_hash_numbers),
    ("long numbers", each_word(is_long_number)),
    ("file names", remove_file_names),
    ("repeated quotes", each_run("\"'", '"', shortest=2)),
    ("ellipses", each_run(".", " ", shortest=2)),
    ("noise marks", each_run(_NOISE_MARKS, " ")),
    ("lone full stops", substitute(r"\s+\.\s+", " ")),
    ("slugs", split_slug),
    ("characters", repair_characters),
    ("entities", lambda text: html.unescape(html.unescape(text))),
    ("serial numbers", each_word(is_serial_number)),
    ("shipping offers", phrase("shipping", before=("worldwide", "free"))),
    ("download offers", phrase("download", before=("free",), after=("free",), gap=r"\s")),
    ("click here", phrase(r"\bclick", "(?:for|on)", r"\w+", gap=r"\s")),
    ("file types", phrase(rf"\b(?:{'|'.join(FILE_ENDINGS)})", after=("images?",), gap=r"\s")),
    ("page numbers", phrase(r"\bpage", r"\d+\b")),
    ("mixed ids", each_word(is_mixed_id, " ")),
    ("picture sizes", substitute(rf"\b{_LENGTH}[x×\u0445]{_LENGTH}\b")),
    ("space before colons", substitute(r"(?<=\w)\s+:\s+", ": ")),
    ("space after marks", substitute(r"(?<=\D)([,./])(?=\w)", r"\1 ")),
    ("space", substitute(r"\s+", " ")),
    ("edges", trim_edges),
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
