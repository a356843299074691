"""The drawing of the transformer in docs/architecture.md: its 28 blocks with U-ViT skips, and one block opened."""

from easyanimate_core.transformer.memory import FIRST_RECEIVER, SKIPS

from .svg import BLUE, GREEN, MUTED, ORANGE, PURPLE, WHITE, Drawing, Point, Tint

WIDTH, HEIGHT = 1280, 1014
BLOCKS = 28
_ROW_LEFT, _ROW_TOP, _PITCH, _SQUARE = 243, 352, 28.6, 24
_TEMPORAL, _GLOBAL = BLUE, ORANGE
_PANEL = Tint("#fbfcfd", "#d0d7de")
_PURPLE, _GREEN, _SKIP = "#8250df", "#1a7f37", "#0a7d8c"


def _box(
    drawing: Drawing,
    box: tuple[float, float, float, float],
    tint: Tint,
    lines: list[str],
    *,
    bold: bool = True,
    size: float = 12.5,
) -> None:
    """Draw a box with centred lines, the first one bold."""
    x, y, width, height = box
    drawing.rect(x, y, width, height, tint)
    first = y + height / 2 - (len(lines) - 1) * 8 + 4.5
    for index, words in enumerate(lines):
        drawing.text(
            x + width / 2, first + index * 16, words, size=size, bold=bold and index == 0, anchor="middle"
        )


def _shape(drawing: Drawing, x: float, y: float, words: str, anchor: str = "middle") -> None:
    drawing.text(x, y, words, size=11.5, mono=True, anchor=anchor)


def _file(drawing: Drawing, x: float, y: float, words: str, anchor: str = "end") -> None:
    """Name the file that holds a part."""
    drawing.text(x, y, words, size=11.5, mono=True, colour=MUTED, anchor=anchor)


def _middle(block: int) -> float:
    """Return the x of a block's middle in the row."""
    return _ROW_LEFT + block * _PITCH + _SQUARE / 2


def _ends(drawing: Drawing) -> None:
    """Draw what comes before the blocks, on the left, and behind them, on the right."""
    middle = _ROW_TOP + _SQUARE / 2
    _box(drawing, (28, 104, 190, 84), WHITE, ["Input", "noise 4, mask 4,", "masked video 4 channels"])
    drawing.path([(123, 188), (123, 232)], arrow=True)
    _shape(drawing, 131, 214, "[B, 12, 36, 48, 84]", "start")
    _box(
        drawing,
        (28, 232, 190, 70),
        WHITE,
        ["Patches of 2x2", "a convolution, and 2-D", "sine-cosine positions"],
    )
    drawing.path([(123, 302), (123, middle), (_ROW_LEFT, middle)], arrow=True)
    _shape(drawing, 123, middle + 22, "[B, 36, 1008, 1152]")

    right = _ROW_LEFT + (BLOCKS - 1) * _PITCH + _SQUARE
    drawing.path([(right, middle), (1157, middle), (1157, 302)], arrow=True)
    _shape(drawing, 1157, middle + 22, "[B, 36, 1008, 1152]")
    _box(
        drawing,
        (1062, 232, 190, 70),
        WHITE,
        ["Last layer", "LayerNorm, shift, scale;", "linear to patches of 2x2"],
    )
    drawing.path([(1157, 232), (1157, 188)], arrow=True)
    _shape(drawing, 1149, 214, "[B, 8, 36, 48, 84]", "end")
    _box(drawing, (1062, 104, 190, 84), WHITE, ["Output", "4 channels of noise,", "4 of sigma (not used)"])


def _blocks(drawing: Drawing) -> None:
    """Draw the row of blocks and the skips over it."""
    for pushed in range(SKIPS):
        receiver = FIRST_RECEIVER + SKIPS - 1 - pushed
        height = 216 - pushed * 14.5
        start, end = (_middle(pushed), _ROW_TOP), (_middle(receiver), _ROW_TOP - 1)
        drawing.arc(start, end, height, colour=_SKIP, thick=1.3, arrow=True)
    drawing.text(
        640, 108, "13 U-ViT skips: outputs of blocks 0 to 12, last in, first out;", size=12.5, anchor="middle"
    )
    drawing.text(
        640,
        125,
        "a linear layer each, added to the inputs of blocks 15 to 27",
        size=12.5,
        anchor="middle",
    )
    for block in range(BLOCKS):
        left = _ROW_LEFT + block * _PITCH
        drawing.rect(left, _ROW_TOP, _SQUARE, _SQUARE, _GLOBAL if block % 2 else _TEMPORAL, radius=5)
        drawing.text(_middle(block), _ROW_TOP + 16.5, str(block), size=11, anchor="middle")
        if block:
            middle = _ROW_TOP + _SQUARE / 2
            drawing.path([(left - _PITCH + _SQUARE, middle), (left, middle)])
    _file(drawing, 640, 476, "transformer/model.py", "middle")
    for left, tint, words in (
        (400, _TEMPORAL, "even: two temporal attentions"),
        (650, _GLOBAL, "odd: a temporal and a global attention"),
    ):
        drawing.rect(left, 432, 16, 16, tint, radius=4)
        drawing.text(left + 24, 445, words, size=12.5)


def _conditions(drawing: Drawing) -> None:
    """Draw what all blocks read: the modulation from the timestep, and text and CLIP tokens."""
    last = BLOCKS - 1
    for y, colour, offset, start, end in (
        (398, _GREEN, 5, _middle(0) + 5, 1062 - 32),
        (412, _PURPLE, -5, 218 + 12, _middle(last) - 5),
    ):
        drawing.path([(start, y), (end, y)], colour=colour)
        for block in range(BLOCKS):
            x = _middle(block) + offset
            drawing.path([(x, y), (x, _ROW_TOP + _SQUARE + 1)], colour=colour, thick=1)
    drawing.path([(230, 412), (230, 476), (218, 476)], colour=_PURPLE)
    _box(
        drawing,
        (28, 426, 190, 104),
        PURPLE,
        ["adaLN-single", "timestep t: 256 sinusoids,", "MLP, SiLU, linear:", "6 x 1152 for all blocks"],
    )
    _file(drawing, 123, 548, "transformer/embeddings.py", "middle")
    _file(drawing, 1157, 548, "transformer/embeddings.py", "middle")
    drawing.path([(1030, 398), (1030, 476), (1062, 476)], colour=_GREEN)
    _box(
        drawing,
        (1062, 426, 190, 104),
        GREEN,
        [
            "Text and CLIP tokens",
            "T5 [B, ≤120, 4096], MLP",
            "CLIP [B, 768], MLP, 8 tokens",
            "[B, ≤128, 1152]",
        ],
    )


class _Flow:
    """Boxes and additions placed from left to right along a line."""

    def __init__(self, drawing: Drawing, x: float, y: float, gap: float) -> None:
        self.drawing, self.x, self.y, self.gap = drawing, x, y, gap

    def box(self, width: float, height: float, tint: Tint, lines: list[str]) -> float:
        """Draw a box and return the x of its middle."""
        left = self._arrow(self.gap)
        _box(self.drawing, (left, self.y - height / 2, width, height), tint, lines, size=12)
        self.x = left + width
        return left + width / 2

    def plus(self) -> float:
        """Draw an addition and return the x of its middle."""
        left = self._arrow(self.gap)
        self.drawing.circle(left + 10, self.y, 10)
        self.drawing.path([(left + 4.5, self.y), (left + 15.5, self.y)])
        self.drawing.path([(left + 10, self.y - 5.5), (left + 10, self.y + 5.5)])
        self.x = left + 20
        return left + 10

    def fork(self) -> float:
        """Lead the line on a little, and return where a residual may leave it."""
        self.drawing.path([(self.x, self.y), (self.x + 8, self.y)])
        self.drawing.circle(self.x + 8, self.y, 2.5, Tint("#59636e", "#59636e"))
        self.x += 8
        return self.x

    def out(self, length: float) -> None:
        """End the line with an arrow."""
        self._arrow(length)

    def _arrow(self, length: float) -> float:
        end = self.x + length
        self.drawing.path([(self.x, self.y), (end, self.y)], arrow=True)
        return end


def _residual(drawing: Drawing, start: float, end: float, y: float, level: float) -> None:
    """Lead a residual around, from a fork to an addition, over or under the line at ``y``."""
    side = 10 if level > y else -10
    points: list[Point] = [(start, y), (start, level), (end, level), (end, y + side)]
    drawing.path(points, arrow=True)


def _opened_block(drawing: Drawing) -> float:
    """Draw one block and return the x of its motion module."""
    y, below, above, bus = 688, 752, 636, 612
    drawing.rect(20, 562, 1240, 214, _PANEL)
    drawing.text(36, 586, "One block", size=15, bold=True)
    drawing.text(128, 586, "tokens [B, 36 frames, 1008 positions, 1152] in and out", size=12.5)
    _file(drawing, 1244, 586, "transformer/block.py")
    flow = _Flow(drawing, 36, y, 21)
    first = flow.fork()
    norm1 = flow.box(104, 72, WHITE, ["LayerNorm", "scale, shift"])
    flow.box(136, 72, WHITE, ["Self-attention", "16 heads, inside", "each frame"])
    gate1 = flow.box(50, 40, WHITE, ["gate"])
    _residual(drawing, first, flow.plus(), y, below)
    motion = flow.box(142, 72, _PANEL, ["Hybrid Motion", "Module (below)"])
    second = flow.fork()
    cross = flow.box(136, 72, WHITE, ["Cross-attention", "to T5 and CLIP", "tokens; no norm"])
    _residual(drawing, second, flow.plus(), y, above)
    third = flow.fork()
    norm2 = flow.box(104, 72, WHITE, ["LayerNorm", "scale, shift"])
    flow.box(112, 72, WHITE, ["MLP", "4 x 1152,", "tanh GELU"])
    gate2 = flow.box(50, 40, WHITE, ["gate"])
    _residual(drawing, third, flow.plus(), y, below)
    flow.out(22)
    drawing.path([(gate2, bus), (norm1, bus)], colour=_PURPLE)
    for x, half in ((norm1, 36), (gate1, 20), (norm2, 36), (gate2, 20)):
        drawing.path([(x, bus), (x, y - half)], colour=_PURPLE, arrow=True)
    drawing.text(
        gate2, 604, "adaLN-single, plus the block's own 6 x 1152", size=12.5, colour=_PURPLE, anchor="end"
    )
    drawing.path([(cross, 768), (cross, y + 36)], colour=_GREEN, arrow=True)
    drawing.text(cross - 10, 764, "text and CLIP tokens", size=12.5, colour=_GREEN, anchor="end")
    return motion


def _opened_module(drawing: Drawing, motion: float) -> None:
    """Draw the motion module."""
    y, below, above = 906, 970, 846
    drawing.rect(20, 798, 1240, 196, _PANEL)
    drawing.path([(motion, 724), (motion, 798)], dash="4 4", arrow=True)
    drawing.text(36, 822, "Hybrid Motion Module", size=15, bold=True)
    drawing.text(240, 822, "tokens sorted by position, then by frame", size=12.5)
    _file(drawing, 1244, 822, "transformer/motion_module.py")
    flow = _Flow(drawing, 32, y, 18)
    outer = flow.fork()
    flow.box(96, 72, WHITE, ["GroupNorm", "32 groups,", "each frame"])
    flow.box(56, 40, WHITE, ["linear"])
    first = flow.fork()
    flow.box(104, 72, WHITE, ["LayerNorm", "plus sinusoids", "of the frame"])
    flow.box(142, 72, BLUE, ["Temporal attention", "a position over", "its 36 frames"])
    _residual(drawing, first, flow.plus(), y, below)
    second = flow.fork()
    flow.box(104, 72, WHITE, ["LayerNorm", "plus sinusoids", "of the frame"])
    left = flow.x + flow.gap
    flow.drawing.path([(flow.x, y), (left, y)], arrow=True)
    _box(drawing, (left, y - 48, 172, 44), _TEMPORAL, ["Even: temporal", "as before"], size=12)
    _box(drawing, (left, y + 4, 172, 44), _GLOBAL, ["Odd: global", "all 36,288 tokens"], size=12)
    flow.x = left + 172
    _residual(drawing, second, flow.plus(), y, below)
    third = flow.fork()
    flow.box(92, 72, WHITE, ["LayerNorm", "GEGLU MLP", "4 x 1152"])
    _residual(drawing, third, flow.plus(), y, below)
    flow.box(56, 40, WHITE, ["linear"])
    _residual(drawing, outer, flow.plus(), y, above)
    flow.out(20)


def transformer() -> Drawing:
    """Return the drawing."""
    drawing = Drawing(
        WIDTH, HEIGHT, "The transformer of EasyAnimateV3: 28 blocks, U-ViT skips, and a block opened"
    )
    drawing.text(28, 42, "Inside the transformer", size=21, bold=True)
    drawing.text(
        28,
        66,
        "PixArt-alpha's blocks with motion modules: width 1152, 16 heads of 72, 1.54 B parameters. Shapes for 144 frames of 672x384: "
        "36 latent frames of 24 x 42 = 1008 tokens.",
        size=13,
        colour=MUTED,
    )
    _ends(drawing)
    _blocks(drawing)
    _conditions(drawing)
    _opened_module(drawing, _opened_block(drawing))
    return drawing
