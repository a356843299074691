"""The visible text of a prompt that holds HTML, as beautifulsoup4 reads it with Python's own parser."""

import html
from collections import Counter
from html.entities import html5
from html.parser import HTMLParser

_HIDDEN_TEXT_TAGS = {"rp", "rt", "script", "style", "template"}
_VERBATIM_TAGS = {"pre", "textarea"}
_VOID_TAGS = {
    *("area", "base", "basefont", "bgsound", "br", "col", "command", "embed", "frame", "hr", "image", "img"),
    *("input", "isindex", "keygen", "link", "menuitem", "meta", "nextid", "param", "source", "spacer"),
    *("track", "wbr"),
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
        # The standard library drops control characters and non-characters; the release keeps them.
        self._run += html.unescape(f"&#{name}") or chr(int(f"0{name}", 16 if name[0] in "xX" else 10))

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


def visible_text(text: str) -> str:
    """Return what a page with this source shows; a malformed ``<![`` keeps the text as it is."""
    parser = _VisibleText()
    try:
        parser.feed(text)
        return parser.finish()
    except AssertionError:  # html.parser's way to give up
        return text
