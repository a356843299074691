"""The help pages in ComfyUI's own help panel: a node is clicked, then the info button over it."""

import re
import urllib.request

import pytest
from playwright.sync_api import sync_playwright
from test_browser import CHROMIUM, UserInterface
from test_help_pages import NODES, PICTURES, page_file

from devtools.browser import OPTIONS

FEW = ("EasyAnimateV3ImageToVideo", "EasyAnimateV3TextEncode", "EasyAnimateV3SaveVideo")
assert set(FEW) <= set(NODES)

# One node alone, and where its title is on the screen: each a little lower, or two clicks would count as a double one.
PLACE_NODE = """([type, y]) => {
  app.canvas.deselectAll()
  app.graph.clear()
  const node = LiteGraph.createNode(type)
  app.graph.add(node)
  node.pos = [300, y]
  app.canvas.ds.scale = 1
  app.canvas.ds.offset = [600, 0]
  app.canvas.draw(true, true)
  return [node.pos[0] + 600 + node.size[0] / 2, node.pos[1] - LiteGraph.NODE_TITLE_HEIGHT / 2]
}"""

SHOWN = """([heading, picture]) => {
  const panel = document.querySelector('.node-help-content')
  const image = panel?.querySelector(`img[src$="${picture}"]`)
  if (panel?.querySelector('h1')?.textContent !== heading || !image?.naturalWidth)
    return null
  return {
    width: image.naturalWidth,
    rows: panel.querySelectorAll('tbody tr').length,
    text: panel.textContent,
    visible: image.checkVisibility(),
  }
}"""


class HelpPanel(UserInterface):
    """The user interface in one language, with the help of its nodes."""

    def __init__(self, page, server, language):
        super().__init__(page, server)
        self.language = language

    def open_in_language(self):
        self.server.post("/settings", {"Comfy.Locale": self.language, "Comfy.Canvas.SelectionToolbox": True})
        self.open()

    def expected_page(self, node):
        """Return the text that the host should show: that of the language, else English."""
        file = page_file(self.language, node)
        return (file if file.is_file() else page_file("en", node)).read_text(encoding="utf-8")

    def open_help(self, node):
        """Click a node and its info button; return what the panel shows once the page of the node is there."""
        x, y = self.page.evaluate(PLACE_NODE, [node, 200 + 25 * NODES.index(node)])
        info = self.page.get_by_test_id("info-button")
        # That of the node before goes a moment later.
        info.wait_for(state="hidden")
        self.page.mouse.click(x, y)
        info.click()
        heading = re.match("# (.+)", self.expected_page(node)).group(1)
        arguments = [heading, f"/extensions/EasyAnimateV3/docs/images/{node}.png"]
        return self.page.wait_for_function(SHOWN, arg=arguments).json_value()


@pytest.fixture(scope="module", params=["en", "zh"])
def panel(request, server):
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=list(OPTIONS))
        page = browser.new_page(viewport={"width": 1920, "height": 1000}, locale="en-US")
        page.set_default_timeout(60_000)
        panel = HelpPanel(page, server, request.param)
        try:
            panel.open_in_language()
            yield panel
        finally:
            # Others use this server too.
            server.post("/settings", {"Comfy.Locale": "en"})
            browser.close()


@pytest.mark.parametrize("node", [*FEW, *(node for node in NODES if node not in FEW)])
def test_info_button_shows_the_page_with_its_picture(node, panel):
    panel.errors.clear()
    shown = panel.open_help(node)
    page = panel.expected_page(node)
    assert shown["visible"]
    assert shown["rows"] == len(re.findall(r"^\| `", page, re.MULTILINE))
    # A mistake in bold, with its marks, is text like any other.
    for words in re.findall(r"^- \*\*([^*`]+)\*\*", page, re.MULTILINE):
        assert words in shown["text"]
    assert "**" not in shown["text"] and "](" not in shown["text"]
    # The host looks for a page of the language first, and English pages are the general ones.
    assert [error for error in panel.errors if f"/{node}/en.md" not in error] == []
    if node in FEW:
        panel.screenshot(f"help_{panel.language}_{node}")


def test_pictures_are_served_as_they_are(server):
    for node in NODES:
        with urllib.request.urlopen(
            f"{server.url}/extensions/EasyAnimateV3/docs/images/{node}.png"
        ) as answer:
            assert answer.read() == (PICTURES / f"{node}.png").read_bytes()
