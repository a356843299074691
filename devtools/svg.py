"""Drawings as SVG text: boxes, arrows and labels on a ground of their own, legible on light and dark pages."""

from dataclasses import dataclass
from xml.sax.saxutils import escape, quoteattr

SANS = "system-ui, -apple-system, 'Segoe UI', Helvetica, Arial, sans-serif"
MONO = "ui-monospace, SFMono-Regular, Menlo, Consolas, 'Liberation Mono', monospace"
INK, MUTED, PAPER, LINE = "#1f2328", "#59636e", "#ffffff", "#59636e"

Point = tuple[float, float]


@dataclass(frozen=True)
class Tint:
    """Fill and outline that belong together."""

    fill: str
    stroke: str


GREY = Tint("#f6f8fa", "#8c959f")
BLUE = Tint("#e7f3ff", "#0969da")
GREEN = Tint("#e6f8ea", "#1a7f37")
PURPLE = Tint("#f6eefe", "#8250df")
ORANGE = Tint("#fff1e5", "#bc4c00")
WHITE = Tint("#ffffff", "#8c959f")


def number(value: float) -> str:
    """Return a coordinate as SVG wants it, without needless digits."""
    return f"{value:.1f}".rstrip("0").rstrip(".")


class Drawing:
    """A picture that grows element by element, in the order in which they are painted.

    Parameters
    ----------
    width, height : int
        Size in pixels.
    title : str
        What a screen reader says.
    """

    def __init__(self, width: int, height: int, title: str) -> None:
        self.width, self.height, self.title = width, height, title
        self._elements: list[str] = []
        self._marks: set[str] = set()

    def rect(
        self,
        x: float,
        y: float,
        width: float,
        height: float,
        tint: Tint = WHITE,
        *,
        radius: float = 8,
        dash: str = "",
        thick: float = 1.5,
    ) -> None:
        """Draw a box."""
        self._elements.append(
            f'<rect x="{number(x)}" y="{number(y)}" width="{number(width)}" height="{number(height)}" '
            f'rx="{number(radius)}" fill="{tint.fill}" stroke="{tint.stroke}" '
            f'stroke-width="{number(thick)}"{_dash(dash)}/>'
        )

    def text(
        self,
        x: float,
        y: float,
        words: str,
        *,
        size: float = 13,
        bold: bool = False,
        mono: bool = False,
        colour: str = INK,
        anchor: str = "start",
        halo: bool = False,
        turn: float = 0,
    ) -> None:
        """Write one line, ``y`` being its baseline; ``halo`` keeps it legible across lines."""
        style = f'font-size="{number(size)}" fill="{colour}" text-anchor="{anchor}"'
        if bold:
            style += ' font-weight="600"'
        if mono:
            style += f' font-family="{MONO}"'
        if halo:
            style += f' stroke="{PAPER}" stroke-width="4" stroke-linejoin="round" paint-order="stroke"'
        if turn:
            style += f' transform="rotate({number(turn)} {number(x)} {number(y)})"'
        self._elements.append(f'<text x="{number(x)}" y="{number(y)}" {style}>{escape(words)}</text>')

    def lines(self, x: float, y: float, texts: list[str], *, step: float = 18, **style: object) -> None:
        """Write several lines below one another."""
        for index, words in enumerate(texts):
            self.text(x, y + index * step, words, **style)

    def path(
        self,
        points: list[Point],
        *,
        colour: str = LINE,
        thick: float = 1.5,
        dash: str = "",
        arrow: bool = False,
    ) -> None:
        """Draw a line through points, with an arrow head at its end where wanted."""
        where = " ".join(f"{number(x)},{number(y)}" for x, y in points)
        self._elements.append(
            f'<polyline points="{where}" fill="none" stroke="{colour}" stroke-width="{number(thick)}"'
            f"{_dash(dash)}{self._head(colour) if arrow else ''}/>"
        )

    def arc(
        self,
        start: Point,
        end: Point,
        height: float,
        *,
        colour: str = LINE,
        thick: float = 1.5,
        arrow: bool = False,
    ) -> None:
        """Draw a curve that rises ``height`` above two points."""
        (x1, y1), (x2, y2) = start, end
        # The top of a cubic curve lies at three quarters of its handles' height.
        rise = height / 0.75
        self._elements.append(
            f'<path d="M {number(x1)} {number(y1)} C {number(x1)} {number(y1 - rise)} {number(x2)} '
            f'{number(y2 - rise)} {number(x2)} {number(y2)}" fill="none" stroke="{colour}" '
            f'stroke-width="{number(thick)}"{self._head(colour) if arrow else ""}/>'
        )

    def circle(self, x: float, y: float, radius: float, tint: Tint = WHITE) -> None:
        """Draw a disc."""
        self._elements.append(
            f'<circle cx="{number(x)}" cy="{number(y)}" r="{number(radius)}" fill="{tint.fill}" '
            f'stroke="{tint.stroke}" stroke-width="1.5"/>'
        )

    def _head(self, colour: str) -> str:
        self._marks.add(colour)
        return f' marker-end="url(#head{colour[1:]})"'

    def __str__(self) -> str:
        """Return the file's text."""
        marks = "".join(
            f'<marker id="head{colour[1:]}" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="9" '
            f'markerHeight="9" markerUnits="userSpaceOnUse" orient="auto">'
            f'<path d="M 0 0.8 L 9.5 5 L 0 9.2 z" fill="{colour}"/></marker>\n'
            for colour in sorted(self._marks)
        )
        body = "\n".join(self._elements)
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{self.width}" height="{self.height}" '
            f'viewBox="0 0 {self.width} {self.height}" role="img" aria-label={quoteattr(self.title)} '
            f'font-family="{SANS}">\n<title>{escape(self.title)}</title>\n<defs>\n{marks}</defs>\n'
            f'<rect x="0.5" y="0.5" width="{self.width - 1}" height="{self.height - 1}" rx="12" '
            f'fill="{PAPER}" stroke="#d0d7de"/>\n{body}\n</svg>\n'
        )


def _dash(pattern: str) -> str:
    return f' stroke-dasharray="{pattern}"' if pattern else ""
