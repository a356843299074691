"""The drawing of docs/architecture.md: from the checkpoint's files to an mp4, left to right in two rows."""

from .svg import BLUE, GREEN, GREY, MUTED, ORANGE, PURPLE, WHITE, Drawing, Tint

WIDTH, HEIGHT = 1280, 1006


def _stage(
    drawing: Drawing,
    box: tuple[float, float, float, float],
    tint: Tint,
    title: str,
    lines: list[str],
    package: str = "",
) -> None:
    """Draw a box with a title, what happens inside, and the package that does it."""
    x, y, width, height = box
    drawing.rect(x, y, width, height, tint)
    drawing.text(x + 12, y + 22, title, size=14 if len(title) < 24 else 12.8, bold=True)
    drawing.lines(x + 12, y + 41, lines, step=17, size=12.5)
    if package:
        drawing.text(x + 12, y + height - 10, package, size=11.5, mono=True, colour=MUTED)


def _shape(drawing: Drawing, x: float, y: float, words: str, anchor: str = "middle") -> None:
    """Write a tensor's shape beside an arrow."""
    drawing.text(x, y, words, size=11.5, mono=True, anchor=anchor)


def _label(drawing: Drawing, x: float, y: float, words: str, anchor: str = "middle") -> None:
    drawing.text(x, y, words, size=12.5, bold=True, anchor=anchor)


def _legend(drawing: Drawing) -> None:
    entries = (
        (GREY, "file"),
        (BLUE, "node"),
        (GREEN, "VAE"),
        (PURPLE, "transformer"),
        (ORANGE, "mathematics"),
    )
    left = 758
    for tint, words in entries:
        drawing.rect(left, 27, 20, 14, tint, radius=4)
        drawing.text(left + 27, 39, words, size=12.5)
        left += 50 + 7.5 * len(words)


def _files(drawing: Drawing) -> None:
    drawing.text(28, 98, "Checkpoint folder", size=13, bold=True, colour=MUTED)
    files = (
        ("text_encoder/, tokenizer/", "T5 v1.1 XXL, 4.76 B"),
        ("image_encoder/", "CLIP ViT-L/14, 0.30 B"),
        ("vae/", "Slice VAE, 0.25 B"),
        ("transformer/", "28 blocks, 1.54 B"),
    )
    for index, (name, what) in enumerate(files):
        top = 112 + index * 104
        drawing.rect(28, top, 190, 64, GREY)
        drawing.text(40, top + 26, name, size=11.5, mono=True)
        drawing.text(40, top + 48, what, size=12.5, colour=MUTED)
        drawing.path([(218, top + 32), (264, top + 32)], arrow=True)


def _loaders(drawing: Drawing) -> None:
    _stage(
        drawing,
        (264, 112, 170, 376),
        BLUE,
        "Loader",
        [
            "the folder whole, or",
            "one file each by",
            "",
            "CLIPLoader (core)",
            "CLIPVisionLoader (core)",
            "VAE Loader",
            "Transformer Loader",
            "",
            "bf16, fp16, fp32, fp8;",
            "sinusoid tables are",
            "computed, not loaded",
        ],
        "checkpoint/  host/",
    )
    for y, words in ((144, "CLIP"), (246, "CLIP_VISION")):
        drawing.path([(434, y), (556, y)], colour="#0969da", arrow=True)
        _label(drawing, 491, y - 8, words)
    drawing.path([(434, 436), (900, 436)], colour="#0969da", arrow=True)
    _label(drawing, 491, 428, "VAE")
    drawing.path([(349, 488), (349, 522)], colour="#0969da", arrow=True)
    drawing.rect(264, 522, 170, 34, WHITE, dash="5 3")
    drawing.text(349, 544, "LoRA Loader, if wanted", size=12.5, anchor="middle")
    drawing.path([(349, 556), (349, 612)], colour="#0969da", arrow=True)
    _label(drawing, 341, 590, "MODEL", anchor="end")


def _encoders(drawing: Drawing) -> None:
    _stage(
        drawing,
        (556, 98, 216, 92),
        BLUE,
        "Text Encode, twice",
        ["prompt and negative prompt,", "cleaned, at most 120 tokens"],
        "text/",
    )
    _stage(
        drawing,
        (556, 208, 216, 76),
        BLUE,
        "Image Encode",
        ["the start image at 224x224"],
        "conditioning/",
    )
    _stage(
        drawing,
        (556, 310, 216, 92),
        BLUE,
        "Resize To Bucket, Fit Image",
        ["start image, end image or", "none, at a trained size"],
        "conditioning/",
    )
    drawing.path([(664, 310), (664, 284)], arrow=True)
    for y, words, shape in (
        (144, "T5 states", "[1, ≤120, 4096]"),
        (246, "CLIP embedding", "[1, 768]"),
        (358, "images", "[1, 384, 672, 3]"),
    ):
        drawing.path([(772, y), (900, y)], arrow=True)
        _label(drawing, 834, y - 8, words)
        _shape(drawing, 834, y + 17, shape)


def _image_to_video(drawing: Drawing) -> None:
    _stage(drawing, (900, 98, 352, 390), BLUE, "Image To Video", [], "conditioning/  vae/")
    drawing.text(916, 141, "which frames are given, for text to video too", size=12.5)
    streams = ((916, "mask", "0 given, 1 to be made", 1), (1084, "masked video", "black where to be made", 3))
    for left, name, what, channels in streams:
        middle = left + 76
        drawing.rect(left, 154, 152, 70, WHITE)
        drawing.text(middle, 174, name, size=13, bold=True, anchor="middle")
        drawing.text(middle, 192, what, size=12, anchor="middle")
        _shape(drawing, middle, 212, f"[1, {channels}, 144, 384, 672]")
        drawing.path([(middle, 224), (middle, 250)], arrow=True)
        drawing.path([(middle, 312), (middle, 354)], arrow=True)
    drawing.rect(916, 250, 320, 62, GREEN)
    drawing.text(1076, 272, "Slice VAE encode", size=13, bold=True, anchor="middle")
    drawing.text(1076, 291, "slices of 8 frames; equal slices once", size=12, anchor="middle")
    drawing.text(1076, 306, "× 0.18215", size=12, anchor="middle")
    _shape(drawing, 1076, 337, "2 × [1, 4, 36, 48, 84]")
    drawing.rect(916, 354, 320, 44, ORANGE)
    drawing.text(1076, 372, "joined: 4 + 4 = 8 channels", size=13, anchor="middle")
    _shape(drawing, 1076, 390, "[1, 8, 36, 48, 84]")
    drawing.rect(916, 410, 320, 44, WHITE)
    drawing.text(1076, 428, "empty latent: size of the clip", size=13, anchor="middle")
    _shape(drawing, 1076, 446, "[1, 4, 36, 48, 84]")


def _to_sampler(drawing: Drawing) -> None:
    drawing.path([(1076, 488), (1076, 562), (560, 562), (560, 612)], arrow=True)
    drawing.text(
        1064,
        552,
        "positive, negative: T5 states, CLIP embedding, the 8 channels",
        size=12.5,
        bold=True,
        anchor="end",
    )
    drawing.text(1064, 582, "latent", size=12.5, bold=True, anchor="end")
    _shape(drawing, 1012, 582, "[1, 4, 36, 48, 84]", "end")


def _sampler(drawing: Drawing) -> None:
    _stage(drawing, (28, 612, 706, 316), BLUE, "Sampler", [], "sampling/  host/  transformer/")
    drawing.text(122, 634, "or KSampler, SamplerCustom with Sigmas", size=12.5)
    _stage(drawing, (44, 664, 146, 84), WHITE, "Noise", ["by the seed, times", "the first sigma"])
    drawing.path([(190, 707), (222, 707)], arrow=True)
    lines = ["clip and given frames;", "a row for each side", "of the guidance"]
    _stage(drawing, (222, 664, 162, 104), ORANGE, "4 + 8 channels", lines)
    drawing.path([(384, 707), (416, 707)], arrow=True)
    _shape(drawing, 400, 656, "[2, 12, 36, 48, 84]")
    lines = ["28 blocks, with the", "timestep, T5 and", "CLIP tokens"]
    _stage(drawing, (416, 664, 146, 104), PURPLE, "Transformer", lines)
    drawing.path([(562, 707), (594, 707)], arrow=True)
    _shape(drawing, 582, 656, "[2, 8, 36, 48, 84]")
    _stage(drawing, (594, 664, 126, 104), ORANGE, "Guidance", ["4 of 8 channels", "are the noise;", "CFG 7"])
    drawing.path([(657, 768), (657, 820)], arrow=True)
    _shape(drawing, 649, 806, "[1, 4, 36, 48, 84]", "end")
    _stage(drawing, (548, 820, 172, 74), ORANGE, "Step", ["Euler, Euler A, DPM++,", "PNDM or DDIM"])
    drawing.path([(548, 857), (303, 857), (303, 768)], arrow=True)
    _label(drawing, 424, 849, "25 times")
    drawing.text(424, 875, "to the next lower noise", size=12.5, anchor="middle")


def _to_file(drawing: Drawing) -> None:
    drawing.path([(836, 584), (836, 612)], colour="#0969da", arrow=True)
    _label(drawing, 846, 602, "VAE", "start")
    drawing.path([(720, 857), (812, 857)], arrow=True)
    _label(drawing, 773, 848, "latent")
    _shape(drawing, 773, 875, "[1, 4, 36,")
    _shape(drawing, 773, 891, "48, 84]")
    _stage(
        drawing,
        (812, 612, 214, 316),
        GREEN,
        "VAE Decode",
        [
            "slices of 2 latent frames",
            "make 8 frames; the mid",
            "block also sees the slices",
            "before and after",
            "",
            "tiles of 384 pixels, every",
            "288, their overlap blended",
            "",
            "smoothing: a second pass,",
            "shifted by half a slice, is",
            "averaged with the first",
            "",
            "the clip stays in main",
            "memory meanwhile",
        ],
        "vae/",
    )
    drawing.path([(1026, 690), (1128, 690)], arrow=True)
    _label(drawing, 1074, 682, "frames")
    _shape(drawing, 1074, 708, "[144, 384,")
    _shape(drawing, 1074, 724, "672, 3]")
    _stage(
        drawing,
        (1128, 612, 124, 140),
        BLUE,
        "Save Video",
        ["H.264 mp4 at", "24 frames a", "second, with the", "graph inside"],
        "video/",
    )
    _stage(
        drawing,
        (1046, 788, 206, 140),
        BLUE,
        "Extend Video, Long Video",
        ["do all of this once a", "segment: its last 4 frames", "are the next one's start", "images"],
        "continuation/  video/",
    )
    drawing.path([(1190, 788), (1190, 752)], dash="5 3", arrow=True)


def architecture() -> Drawing:
    """Return the drawing."""
    drawing = Drawing(WIDTH, HEIGHT, "EasyAnimateV3 in ComfyUI, from the checkpoint's files to an mp4")
    drawing.text(28, 42, "From checkpoint to mp4", size=21, bold=True)
    drawing.text(
        28,
        66,
        "Image to video, 144 frames of 672x384. Titles of outer boxes are nodes, grey names at their feet packages of easyanimate_core/.",
        size=13,
        colour=MUTED,
    )
    _legend(drawing)
    _files(drawing)
    _loaders(drawing)
    _encoders(drawing)
    _image_to_video(drawing)
    _to_sampler(drawing)
    _sampler(drawing)
    _to_file(drawing)
    drawing.text(
        28,
        966,
        "Latents are [batch, channels, frames, height, width]. On links they are the VAE's own; the sampler multiplies them by 0.18215 and divides in the end.",
        size=12.5,
        colour=MUTED,
    )
    return drawing
