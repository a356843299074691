"""Strategies for a node's inputs, made from what the node itself says about them.

A type that a node of this pack takes and that has no strategy here is an error, so that a new node is fuzzed at once.
"""

import math

from forms import LONG
from fuzz_models import FILES
from fuzz_values import (
    DTYPES,
    GONE,
    NONSENSE,
    Array,
    Attributes,
    Changed,
    Given,
    Listed,
    Model,
    Tensor,
    mostly,
    tensors,
)
from hypothesis import strategies as st

# Numbers that take a usual run further than the smallest ones; an input of another name gets those near its minimum.
_USUAL_NUMBERS = {
    "width": (32, 32, 32, 16, 48),
    "height": (32, 32, 32, 16, 48),
    "length": (8, 8, 8, 1, 5, 16),
    "partial_length": (8, 8, 16),
    "overlap": (1, 2, 4),
    "segments": (1, 1, 2),
    "total_length": (0, 0, 8, 20),
    "steps": (1, 2, 2, 4),
    "batch_size": (1, 1, 2),
    "strength_model": (1.0, -1.5),
    "cfg": (7.0, 1.0),
    "denoise": (1.0, 1.0, 0.5),
    "fps": (24.0, 23.976),
    "end_at_step": (2, 10000),
    "tile_size": (64, 512),
    "temporal_size": (64, 8),
    "temporal_overlap": (8, 4),
    "start_at_step": (0, 0, 1),
}
_SELDOM = st.integers(0, 3).map(lambda number: number == 3)
# Most of what the short form draws where the host's own code takes seconds on more, with no progress to cancel it at.
_COSTLY = {"base": 256, "width": 1024, "height": 1024}
_TEXTS = (
    "",
    " \t\r\n ",
    "12",
    "-1",
    "1e5",
    "NaN",
    "None",
    "a\nb\nc",
    "\0",
    "before\0after",
    "\ud800",
    "a \udfff b",
    "\udc80",
    "狗在公园里跑",
    "🐕‍🦺 e\u0301 \u202egod\u202c \ufeff",
    "\u2028\u2029\x0b\x0c\x1b[31m",
    "(dog:1.2)",
    "(dog:1e999)",
    "(dog:nan)",
    "((((((dog",
    "\\(dog\\) {a|b} <lora:x:1> embedding:none",
    "embedding:../../secret",
    "<script>alert('&#x3c;')</script> http://example.com/a?b=c",
    "../outside",
    "/absolute/name",
    "sub/folder/name",
    "trailing/",
    ".",
    "..",
    "%year%-%month%/%width%x%height% %s %d {} {0}",
    "C:\\Windows\\name",
    "con",
    "name?*<>|\"':",
    "name.mp4",
    "١٢",
    "²",
    "99999999999999999999999999",
    "1\n\n2\n18446744073709551616",
)


class UnknownTypeError(Exception):
    """A node has an input of a type that no strategy is known for."""


def schema(node_class):
    """Return name -> (type, options, required) of a node's inputs, whichever way it declares them."""
    inputs = {}
    for kind, required in (("required", True), ("optional", False)):
        for name, declared in node_class.INPUT_TYPES().get(kind, {}).items():
            form, options = declared[0], declared[1] if len(declared) > 1 else {}
            if isinstance(form, list | tuple):
                form, options = "COMBO", {**options, "options": list(form)}
            inputs[name] = (str(form), options, required)
    return inputs


def node_inputs(node_class, fixed=None):
    """Return a strategy for the inputs of a node: most as usual, up to two of them anything that may stand there.

    The simplest example, which hypothesis draws first, is one that works: all required inputs, each as usual.
    ``fixed`` are descriptions for inputs by type, which then are not fuzzed.
    """
    fixed = fixed or {}
    inputs = schema(node_class)
    usual, wild, optional = {}, {}, []
    for name, (form, options, required) in inputs.items():
        if not required:
            optional.append(name)
        if form in fixed:
            usual[name] = wild[name] = st.sampled_from(fixed[form])
        else:
            usual[name], wild[name] = _strategies(form, name, options)
    names = sorted(usual)

    @st.composite
    def draw_inputs(draw):
        odd = draw(st.sets(st.sampled_from(names), max_size=2)) if names else ()
        chosen = [name for name in names if name not in optional or name in odd or draw(_SELDOM)]
        return {name: draw((wild if name in odd else usual)[name]) for name in chosen}

    return draw_inputs()


def _strategies(form, name, options):
    """Return the strategies for usual and for any values of one input."""
    if form in ("INT", "FLOAT"):
        return _numbers(form, name, options)
    if form == "BOOLEAN":
        return st.booleans(), st.sampled_from([True, False, 0, 1, "yes", ""])
    if form == "COMBO":
        choices = st.sampled_from(options.get("options") or [""])
        usual = st.sampled_from(FILES[name]) if name in FILES else choices
        return usual, mostly(choices, st.one_of(_texts(), st.integers(0, 3)), 2)
    if form == "STRING":
        usual = ["A dog running", options.get("default", "")]
        return st.sampled_from([text for text in usual if name != "seeds" or not text] or [""]), _texts()
    if form not in _TYPES:
        raise UnknownTypeError(f"{name} is of type {form}: give it a strategy in fuzz_schema.py.")
    usual, wild = _TYPES[form]
    return usual, st.one_of(usual, wild, wild, NONSENSE)


def _numbers(form, name, options):
    low, high = options.get("min", 0), options.get("max", 2**63)
    most = high if LONG else min(high, _COSTLY.get(name, high))
    step = options.get("step", 1)
    if form == "INT":
        usual = _USUAL_NUMBERS.get(name) or [value for k in range(3) if (value := low + k * step) <= high]
        edges = [low, most, (low + most) // 2, min(low + 1, high), max(most - 1, low), low - 1, high + 1]
        return st.sampled_from(usual), st.one_of(
            st.sampled_from(edges),
            st.integers(low, most),
            st.integers(low, min(low + 8 * step, high)),
            st.sampled_from([True, "7", 2.5, None, "x", float(low)]),
        )
    usual = _USUAL_NUMBERS.get(name) or (options.get("default", low), low, high)
    odd = [low, high, -0.0, 5e-324, 1e-9, math.nan, math.inf, low - 1e-6, "0.5", None]
    return st.sampled_from(usual), st.one_of(
        st.sampled_from(odd), st.floats(low, high), st.integers(math.ceil(low), math.floor(high))
    )


def _texts():
    long = st.builds(lambda text, times: (text or "x") * times, st.text(max_size=3), st.integers(500, 3000))
    return st.one_of(st.sampled_from(_TEXTS), st.text(max_size=20), long)


_SIDES = st.sampled_from([0, 1, 2, 7, 8, 15, 16, 17, 32, 33, 48, 64])
_IMAGE_SHAPES = st.one_of(
    st.tuples(st.sampled_from([0, 1, 2, 3, 8, 9, 17]), _SIDES, _SIDES, st.sampled_from([0, 1, 2, 3, 4, 5])),
    st.tuples(st.integers(1, 2), st.sampled_from([1, 300]), st.sampled_from([1, 16]), st.just(3)),
    st.tuples(st.integers(1, 2), st.sampled_from([1, 16]), st.sampled_from([1, 300]), st.just(3)),
    st.tuples(_SIDES, _SIDES, st.sampled_from([0, 1, 3, 4, 32])),
    st.sampled_from([(), (0,), (3,), (32, 32), (1, 1, 32, 32, 3), (1, 3, 32, 32)]),
)
_USUAL_IMAGES = st.builds(
    Tensor, st.tuples(st.sampled_from([1, 1, 2, 4, 8]), st.just(32), st.just(32), st.just(3))
)
_WILD_IMAGES = st.one_of(
    tensors(_IMAGE_SHAPES),
    tensors(st.tuples(st.sampled_from([1, 2, 8]), st.just(32), st.just(32), st.just(3))),
    st.builds(Array, st.sampled_from([(1, 32, 32, 3), (32, 32)])),
    st.builds(Listed, st.tuples(st.builds(Tensor, st.sampled_from([(1, 32, 32, 3), (32, 32, 3)])))),
)

_LATENT_SHAPES = st.one_of(
    st.tuples(
        st.sampled_from([0, 1, 2, 5]),
        st.sampled_from([0, 1, 3, 4, 8, 16]),
        st.sampled_from([0, 1, 2, 3, 5]),
        st.sampled_from([0, 1, 3, 4, 5]),
        st.sampled_from([0, 1, 4, 6]),
    ),
    st.tuples(
        st.integers(1, 2), st.sampled_from([3, 4, 16]), st.sampled_from([1, 4]), st.sampled_from([1, 4, 5])
    ),
    st.sampled_from([(), (4,), (4, 4), (4, 4, 4), (1, 64, 100), (1, 4, 2, 4, 4, 1)]),
)
_SAMPLES = st.one_of(
    tensors(st.sampled_from([(1, 4, 2, 4, 4), (2, 4, 2, 4, 4), (1, 4, 1, 4, 4)])),
    tensors(_LATENT_SHAPES),
    NONSENSE,
)
_MASKS = st.one_of(
    tensors(
        st.sampled_from(
            [
                (1, 4, 4),
                (1, 32, 32),
                (2, 1, 32, 32),
                (1, 1, 2, 4, 4),
                (0, 4, 4),
                (4, 4),
                (1, 4, 2, 4, 4),
                (4,),
            ]
        )
    ),
    NONSENSE,
)
# The host's own samplers draw noise up to the largest one, which nothing can stop: for two billions, for hours.
_BATCH_INDEX = st.sampled_from([[0], [3], [0, 0], [], [-1], [0, 1, 2], ["a"], None, [5000], 5])


def _latents():
    usual = Changed("latent")
    extra = st.dictionaries(
        st.sampled_from(["type", "downscale_ratio", "x", ""]),
        st.one_of(st.text(max_size=3), NONSENSE),
        max_size=2,
    )
    wild = st.one_of(
        st.builds(lambda samples: Changed(None, {"samples": samples}), _SAMPLES),
        st.builds(lambda mask: Changed("latent", {"noise_mask": mask}), _MASKS),
        st.builds(lambda index: Changed("latent", {"batch_index": Given(index)}), _BATCH_INDEX),
        st.builds(
            lambda index: Changed(None, {"samples": Tensor((2, 4, 2, 4, 4)), "batch_index": Given(index)}),
            _BATCH_INDEX,
        ),
        st.builds(lambda changes: Changed("latent", changes), extra),
        st.just(Changed("latent", {"samples": GONE})),
    )
    return st.just(usual), wild


_STATES = st.one_of(
    tensors(st.sampled_from([(1, 5, 24), (2, 5, 24), (1, 120, 24)])),
    tensors(
        st.sampled_from(
            [
                (1, 77, 768),
                (1, 0, 24),
                (0, 5, 24),
                (5, 24),
                (24,),
                (),
                (1, 1, 5, 24),
                (1, 333, 4096),
                (1, 5, 23),
            ]
        )
    ),
    NONSENSE,
)
_ENTRY_CHANGES = st.one_of(
    st.builds(
        lambda value: {"attention_mask": value},
        st.one_of(
            tensors(st.sampled_from([(1, 5), (1, 77), (5,), (2, 5), (1, 0), (1, 1, 5)]), dtypes=DTYPES),
            NONSENSE,
        ),
    ),
    st.builds(lambda value: {"pooled_output": value}, st.one_of(st.just(Tensor((1, 768))), NONSENSE)),
    st.builds(
        lambda value: {"easyanimate_inpaint": value},
        st.one_of(
            tensors(
                st.sampled_from(
                    [
                        (1, 8, 2, 4, 4),
                        (2, 8, 2, 4, 4),
                        (1, 4, 2, 4, 4),
                        (1, 8, 4, 4),
                        (0, 8, 2, 4, 4),
                        (1, 8, 1, 4, 4),
                    ]
                )
            ),
            st.just(GONE),
            NONSENSE,
        ),
    ),
    st.builds(
        lambda value: {"easyanimate_clip_embeds": value},
        st.one_of(tensors(st.sampled_from([(1, 768), (2, 768), (1, 1024), (768,), (0, 768)])), NONSENSE),
    ),
    st.builds(
        lambda value: {"easyanimate_clip_apply_ratio": Given(value)},
        st.sampled_from([0, 1, 0.5, -1, 2, math.nan, math.inf, None, "a", True]),
    ),
    st.builds(
        lambda start, end: {"start_percent": Given(start), "end_percent": Given(end)},
        st.sampled_from([0.0, 0.5, 1.0, -1.0]),
        st.sampled_from([0.0, 0.5, 1.0, 2.0]),
    ),
    st.builds(
        lambda area: {"area": Given(area)},
        st.sampled_from([(2, 2, 0, 0), (4, 4, 0, 0), (9, 9, 9, 9), (1, 2, 2, 0, 0, 0), (0, 0, 0, 0)]),
    ),
    st.builds(
        lambda mask, strength: {"mask": mask, "mask_strength": Given(strength)},
        tensors(st.sampled_from([(1, 4, 4), (1, 32, 32), (2, 32, 32), (32, 32)])),
        st.sampled_from([1.0, 0.0, -1.0]),
    ),
    st.builds(lambda strength: {"strength": Given(strength)}, st.sampled_from([0.0, 1.0, -1.0, math.nan])),
    st.just({"control": Given(None), "guidance": Given(3.5), "unknown key": Given(object)}),
)


def _conditionings():
    prepared = st.sampled_from([Model("positive"), Model("negative"), Model("text_positive")])
    # A name of :class:`fuzz_models` is the list; its first entry's dictionary has the same name and "_options".
    base = st.sampled_from(["positive_options", "positive_options", "plain_options"])
    options = st.one_of(
        st.builds(Changed, base),
        st.builds(Changed, base, _ENTRY_CHANGES),
        st.builds(Changed, base, _ENTRY_CHANGES),
        st.builds(Changed, st.none(), _ENTRY_CHANGES),
        NONSENSE,
    )
    states = mostly(st.just(Model("positive_states")), _STATES, 2)
    entry = st.one_of(
        st.builds(lambda *pair: Listed(pair, list), states, options),
        st.builds(lambda *pair: Listed(pair, list), states, options),
        st.builds(lambda *pair: Listed(pair, tuple), states, options),
        st.builds(lambda alone: Listed((alone,), list), states),
        NONSENSE,
    )
    wild = st.one_of(
        st.builds(lambda entries: Listed(tuple(entries)), st.lists(entry, min_size=0, max_size=2)),
        st.builds(lambda one: Listed((one,)), entry),
        st.builds(lambda one: Listed((one,)), entry),
        st.sampled_from([Model("plain"), Listed(())]),
    )
    return prepared, wild


def _embeds():
    embeds = st.one_of(
        tensors(
            st.sampled_from(
                [
                    (1, 768),
                    (2, 768),
                    (1, 1024),
                    (1, 1280),
                    (768,),
                    (0, 768),
                    (1, 0),
                    (1, 257, 768),
                    (1, 768, 1),
                    (),
                ]
            )
        ),
        NONSENSE,
    )
    wild = st.one_of(
        st.builds(lambda value: Attributes({"image_embeds": value}), embeds),
        st.builds(lambda value: Changed(None, {"image_embeds": value}), embeds),
        st.just(Attributes({"last_hidden_state": Tensor((1, 257, 1024))})),
    )
    return st.just(Model("clip_vision_output")), wild


def _models(own, *others):
    usual = st.just(Model(own))
    return usual, st.sampled_from([Model(name) for name in others] or [Given(None)])


_LISTS_OF_SIGMAS = st.one_of(
    tensors(st.sampled_from([(0,), (1,), (2,), (3,), (2, 2), ()])),
    st.sampled_from([Given(None), Given([1.0, 0.0])]),
)

_TYPES = {
    "IMAGE": (_USUAL_IMAGES, _WILD_IMAGES),
    "MASK": (st.builds(Tensor, st.just((1, 32, 32))), _WILD_IMAGES),
    "LATENT": _latents(),
    "CONDITIONING": _conditionings(),
    "CLIP_VISION_OUTPUT": _embeds(),
    "MODEL": _models("model", "text_to_video_model", "image_model"),
    "CLIP": _models("clip", "image_clip"),
    "VAE": _models("vae", "image_vae"),
    "CLIP_VISION": _models("clip_vision", "other_clip_vision"),
    "SAMPLER": _models("sampler"),
    "NOISE": _models("noise"),
    "SIGMAS": (st.just(Model("sigmas")), _LISTS_OF_SIGMAS),
}

# For nodes of the host: its nodes on this pack's models.
OWN = {
    "MODEL": [Model("model"), Model("model"), Model("text_to_video_model")],
    "CLIP": [Model("clip")],
    "VAE": [Model("vae")],
    "CLIP_VISION": [Model("clip_vision")],
}
