"""Configurations from strangers: values of other types, models without end, and JSON that is none."""

import json

from strange_mutants import ANY, REFUSED, SAME, Mutant, join, kind, split

COMPONENTS = ["transformer", "vae", "text_encoder", "image_encoder"]

# Whole numbers that the models are built from, by component.
NUMBERS = {
    "transformer": [
        "num_attention_heads",
        "attention_head_dim",
        "in_channels",
        "out_channels",
        "num_layers",
        "caption_channels",
        "sample_size",
        "patch_size",
    ],
    "vae": [
        "in_channels",
        "out_channels",
        "ch",
        "layers_per_block",
        "latent_channels",
        "norm_num_groups",
        "mini_batch_encoder",
        "mini_batch_decoder",
    ],
    "text_encoder": ["d_ff", "d_kv", "d_model", "num_heads", "num_layers", "vocab_size"],
    "image_encoder": [
        "hidden_size",
        "intermediate_size",
        "num_hidden_layers",
        "num_attention_heads",
        "image_size",
        "patch_size",
        "projection_dim",
    ],
}
# None of them stands for a whole number above zero.
NO_NUMBERS = [
    "28",
    "",
    None,
    [],
    [28],
    {},
    True,
    False,
    1.5,
    -1,
    0,
    float("nan"),
    float("inf"),
    float("-inf"),
    "x" * 200_000,
    10**30,
    -(10**4000),
]
HUGE = [10**5, 10**6, 10**9, 2**31, 2**63, 10**18]
ODD = [*NO_NUMBERS, *HUGE, 1, 2, 3, 1e308, "a. B", "a\nb", [[]], {"a": {"b": []}}, [0] * 1000]
LISTS = {
    "vae": ["ch_mult", "down_block_types", "up_block_types"],
}
MOTION = ["motion_module_kwargs_even", "motion_module_kwargs_odd", "motion_module_kwargs"]
MOTION_KEYS = [
    "num_attention_heads",
    "num_transformer_block",
    "attention_block_types",
    "temporal_position_encoding",
    "remove_time_embedding_in_photo",
]


def _mutant(component, values, expect, note="", mention=()):
    text = values if isinstance(values, (str, bytes)) else json.dumps(values)
    content = text.encode() if isinstance(text, str) else text
    return Mutant("folder", {f"{component}/config.json": content}, expect, note, mention)


def _short(value):
    return repr(value)[:60] if not isinstance(value, int) or abs(value) < 10**50 else "a long number"


@kind
def number_that_is_none(good, rng):
    component = rng.choice(COMPONENTS)
    key = rng.choice([key for key in NUMBERS[component] if key in good.config(component)])
    value = rng.choice(NO_NUMBERS)
    note = f"{component} {key}={_short(value)}"
    return _mutant(
        component, {**good.config(component), key: value}, REFUSED, note, (component.split("_")[0], key)
    )


@kind
def number_without_end(good, rng):
    component = rng.choice(COMPONENTS)
    key = rng.choice(NUMBERS[component])
    value = rng.choice(HUGE)
    return _mutant(component, {**good.config(component), key: value}, REFUSED, f"{component} {key}={value}")


@kind
def any_value_replaced(good, rng):
    component = rng.choice(COMPONENTS)
    values = good.config(component)
    key = rng.choice(sorted(values))
    value = rng.choice(ODD)
    return _mutant(component, {**values, key: value}, ANY, f"{component} {key}={_short(value)}")


@kind
def all_values_replaced(good, rng):
    component = rng.choice(COMPONENTS)
    values = {key: rng.choice(ODD) for key in good.config(component)}
    return _mutant(component, values, REFUSED, component)


@kind
def several_values_swapped(good, rng):
    component = rng.choice(COMPONENTS)
    values = good.config(component)
    keys = rng.sample(sorted(values), 4)
    swapped = {key: values[other] for key, other in zip(keys, [*keys[1:], keys[0]], strict=True)}
    return _mutant(component, {**values, **swapped}, ANY, f"{component} {keys}")


@kind
def value_missing(good, rng):
    component = rng.choice(COMPONENTS)
    values = good.config(component)
    key = rng.choice(sorted(values))
    return _mutant(component, {k: v for k, v in values.items() if k != key}, ANY, f"{component} {key}")


@kind
def list_of_odd_values(good, rng):
    key = rng.choice(LISTS["vae"])
    values = good.config("vae")
    value = rng.choice(
        [
            [],
            None,
            3,
            "[1, 2",
            "[" * 100_000,
            "[" * 60 + "]" * 60,
            "(" * 5000 + ")" * 5000,
            "9" * 100_000,
            "__import__('os').system('touch it_ran')",
            "-" * 50_000 + "1",
            [1] * 1_000_000,
            ["SpatialDownBlock3D"] * 1_000_000,
            [None] * 4,
            [[1, 1, 2, 2]],
            [1, 1, 2, "2"],
            [1, 1, 2, 2.0],
            [1, True, 2, 2],
            [0, 0, 0, 0],
            [-1, -1, -2, -2],
            [1, 1, 2, 10**9],
            [1, 1, 2, float("nan")],
            {"1": 1},
            "a",
            True,
        ]
    )
    return _mutant("vae", {**values, key: value}, REFUSED, f"{key}={_short(value)}", ("VAE", key))


@kind
def motion_of_odd_values(good, rng):
    values = good.config("transformer")
    name = rng.choice([name for name in MOTION if values.get(name)])
    if rng.random() < 0.3:
        value = rng.choice([3, "text", [], [1], True, float("nan"), {}, {"a": 1}, [[]]])
        expect = ANY if not value else REFUSED
        return _mutant("transformer", {**values, name: value}, expect, f"{name}={_short(value)}")
    key = rng.choice(MOTION_KEYS)
    value = rng.choice([*NO_NUMBERS[:4], *NO_NUMBERS[8:], 10**9, 7])
    motion = {**values[name], key: value}
    return _mutant("transformer", {**values, name: motion}, ANY, f"{name} {key}={_short(value)}")


@kind
def motion_without_end(good, rng):
    values = good.config("transformer")
    name = rng.choice([name for name in MOTION if values.get(name)])
    key, value = rng.choice(
        [
            ("attention_block_types", ["Temporal_Self"] * 60_000),
            ("attention_block_types", "Temporal_Self"),
            ("attention_block_types", [["Temporal_Self"]]),
            ("attention_block_types", []),
            ("num_transformer_block", 10**9),
            ("num_attention_heads", 10**9),
        ]
    )
    motion = {**values[name], key: value}
    return _mutant("transformer", {**values, name: motion}, REFUSED, f"{name} {key}", ("transformer", key))


@kind
def another_kind_of_model(good, rng):
    component, key, value = rng.choice(
        [
            ("transformer", "basic_block_type", "basic"),
            ("transformer", "basic_block_type", ["motionmodule"]),
            ("transformer", "norm_eps", float("nan")),
            ("transformer", "norm_eps", -1),
            ("transformer", "norm_eps", "1e-6"),
            ("vae", "scaling_factor", float("nan")),
            ("vae", "scaling_factor", 0),
            ("vae", "scaling_factor", "0.18215"),
            ("vae", "slice_compression_vae", "yes"),
            ("vae", "use_gc_blocks", [True] * 4),
            ("vae", "mid_block_type", "x" * 500_000),
            ("text_encoder", "feed_forward_proj", 3),
            ("text_encoder", "feed_forward_proj", "gated-silu"),
            ("text_encoder", "dense_act_fn", ["gelu_new"]),
            ("text_encoder", "dense_act_fn", "x" * 500_000),
            ("text_encoder", "is_gated_act", "no"),
            ("text_encoder", "model_type", "umt5"),
            ("image_encoder", "model_type", "siglip_vision_model"),
            ("image_encoder", "model_type", "dinov2"),
            ("image_encoder", "model_type", ["clip_vision_model"]),
            ("image_encoder", "hidden_act", "relu6"),
            ("image_encoder", "hidden_act", ["gelu"]),
            ("image_encoder", "num_channels", 4),
            ("image_encoder", "num_channels", 10**9),
        ]
    )
    values = {**good.config(component), key: value}
    mention = (key,) if component != "vae" or key != "slice_compression_vae" else ()
    return _mutant(component, values, REFUSED, f"{component} {key}={_short(value)}", mention)


@kind
def projector_of_another_model(good, rng):
    values = {**good.config("image_encoder"), "projector_type": "llava3", "image_mean": "x", "image_std": [1]}
    return _mutant("image_encoder", values, SAME)


# JSON


@kind
def json_that_is_none(good, rng):
    component = rng.choice(COMPONENTS)
    text = json.dumps(good.config(component))
    content = rng.choice(
        [
            b"",
            b" \n",
            text.encode()[: rng.randrange(1, len(text))],
            text.encode() + b"}",
            b"// a comment\n" + text.encode(),
            text.replace('"', "'").encode(),
            b"\xff\xfe" + text.encode("utf-16-le"),
            text.encode().replace(b"e", b"\xe9"),
            b"[" + text.encode() + b"]",
            b"null",
            b"28",
            b'"text"',
            b"[" * 400_000,
            b'{"a":' * 150_000,
            b'{"a": ' + b"[" * 300_000 + b"]" * 300_000 + b"}",
            b'{"num_layers": ' + b"9" * 10_000 + b"}",
            b"\0" * 1000,
            rng.randbytes(1000),
            b"PK\3\4" + rng.randbytes(100),
        ]
    )
    return _mutant(component, content, REFUSED, repr(content[:40]), (f"{component}/config.json",))


@kind
def json_string_without_end(good, rng):
    component = rng.choice(COMPONENTS)
    character = rng.choice([b'\\"', b"\\\\", b'\\"[', b"x"])
    content = b'{"a":"' + character * (1_000_000 // len(character))
    return _mutant(component, content, REFUSED, repr(content[:40]), (f"{component}/config.json",))


@kind
def json_that_is_good(good, rng):
    component = rng.choice(COMPONENTS)
    values = good.config(component)
    text = json.dumps(values)
    key = rng.choice(sorted(values))
    content = rng.choice(
        [
            b"\xef\xbb\xbf" + text.encode(),
            b"\n\t " + text.encode() + b"\r\n",
            ('{"' + key + '": [3], ' + text[1:]).encode(),
            json.dumps({**values, "unknown": {"deep": [[[1]]]}, "__class__": "x", "self": 1}).encode(),
        ]
    )
    return _mutant(component, content, SAME, repr(content[:40]))


@kind
def json_is_long(good, rng):
    component = rng.choice(COMPONENTS)
    more = rng.choice(["[" + "[]," * 4_000_000 + "[]]", '"' + "x" * 20_000_000 + '"'])
    text = json.dumps(good.config(component))[:-1] + f', "more": {more}}}'
    return _mutant(component, text, REFUSED, mention=(f"{component}/config.json",))


@kind
def byte_of_json_changed(good, rng):
    component = rng.choice(COMPONENTS)
    content = bytearray(json.dumps(good.config(component)).encode())
    for _ in range(rng.choice([1, 3])):
        content[rng.randrange(len(content))] = rng.randrange(256)
    return _mutant(component, bytes(content), ANY, component)


@kind
def config_of_another_component(good, rng):
    one, other = rng.sample(COMPONENTS, 2)
    return _mutant(one, good.config(other), REFUSED, f"{other} as {one}")


@kind
def files_that_nobody_reads(good, rng):
    path = rng.choice(
        [
            "model_index.json",
            "scheduler/scheduler_config.json",
            "image_encoder/preprocessor_config.json",
            "tokenizer/tokenizer_config.json",
            "tokenizer/special_tokens_map.json",
        ]
    )
    content = rng.choice([None, b"", b"\xff", b"[" * 200_000, b"null", b'{"auto_map": {"AutoModel": "x.Y"}}'])
    return Mutant("folder", {path: content}, SAME, path)


# Configurations inside of weight files


def _in_metadata(good, place, config, expect, note=""):
    header, data = split(good.single(place))
    header = {**header, "__metadata__": {"config": config}}
    return Mutant(place, {"strange.safetensors": join(header, data)}, expect, note)


@kind
def config_in_metadata(good, rng):
    place = rng.choice(["transformer", "vae"])
    config = rng.choice(
        [
            "",
            "{",
            "[]",
            "null",
            "[" * 300_000,
            '{"a":' * 300_000,
            "9" * 10_000,
            "\ud83d\ude00",
            "{}",
            '{"a": 1}',
        ]
    )
    # Without its configuration the tiny transformer is of no known head size; the VAE is known by its shapes.
    readable = config == '{"a": 1}'
    expect = REFUSED if place == "transformer" or readable else SAME
    return _in_metadata(good, place, config, expect, f"{place} {config[:20]!r}")


@kind
def config_in_metadata_without_end(good, rng):
    place = rng.choice(["transformer", "vae"])
    key = rng.choice(NUMBERS[place])
    value = rng.choice([*HUGE, *NO_NUMBERS[:14]])
    values = {**good.config(place), key: value}
    return _in_metadata(good, place, json.dumps(values), REFUSED, f"{place} {key}={_short(value)}")


def _in_tensor(good, content, expect, note, dtype="U8"):
    header, data = split(good.transformer)
    header = {name: entry for name, entry in header.items() if name != "__metadata__"}
    size = len(content) // (4 if dtype == "F32" else 1)
    entry = {"dtype": dtype, "shape": [size], "data_offsets": [len(data), len(data) + len(content)]}
    header["easyanimate_config"] = entry
    return Mutant("transformer", {"strange.safetensors": join(header, data + content)}, expect, note)


@kind
def config_in_a_tensor(good, rng):
    config = json.dumps(good.config("transformer"))
    key = rng.choice(NUMBERS["transformer"])
    content, expect = rng.choice(
        [
            (config.encode(), SAME),
            (b"", REFUSED),
            (b"[" * 500_000, REFUSED),
            (b'{"a":' * 500_000, REFUSED),
            (b"\xff" * 10_000, REFUSED),
            (b"{}" + b" " * 60_000_000, REFUSED),
            (json.dumps({**good.config("transformer"), key: rng.choice(HUGE)}).encode(), REFUSED),
        ]
    )
    return _in_tensor(good, content, expect, repr(content[:30]))
