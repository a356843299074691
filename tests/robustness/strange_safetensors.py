"""Safetensors files from strangers: headers that lie, tensors that do not fit, and things that are no such file."""

import json
import os
import struct

import torch
from strange_mutants import ANY, INDEX, REFUSED, SAME, WEIGHTS, Mutant, join, kind, split

ODD = [-1, 1.5, "2", None, True, [2], {}, 2**31, 2**64, 10**30]
PATH_TRICKS = [
    "../vae/x.safetensors",
    "/etc/passwd",
    "..",
    ".",
    "",
    "a/b.safetensors",
    "..\\x",
    "C:\\x",
    "x\0y",
]


def _floats(slot, name):
    data = torch.frombuffer(bytearray(slot.tensor(name)), dtype=torch.float32)
    return data, slot.header[name]["shape"]


def _bytes(tensor):
    return tensor.contiguous().view(torch.uint8).numpy().tobytes()


# Bytes


@kind
def cut_anywhere(good, rng):
    slot = good.slot(rng)
    content = slot.file()
    return slot.mutant(content[: rng.randrange(1, len(content))], REFUSED)


@kind
def cut_in_header(good, rng):
    slot = good.slot(rng)
    return slot.mutant(slot.file()[: rng.randrange(1, 200)], REFUSED)


@kind
def empty_file(good, rng):
    return good.slot(rng).mutant(b"", REFUSED, mention=("empty",))


@kind
def bytes_behind(good, rng):
    slot = good.slot(rng)
    return slot.mutant(slot.file() + rng.randbytes(rng.randrange(1, 5000)), REFUSED)


@kind
def header_size_lies(good, rng):
    slot = good.slot(rng)
    size = rng.choice([0, 1, 2**63, 2**64 - 1, 2**40, 10**8 + 1, len(slot.data), 99])
    return slot.mutant(struct.pack("<Q", size) + slot.file()[8:], REFUSED, str(size))


@kind
def header_byte_changed(good, rng):
    slot = good.slot(rng)
    content = bytearray(slot.file())
    position = rng.randrange(8, len(content) - len(slot.data))
    content[position] = rng.randrange(256)
    return slot.mutant(bytes(content), ANY, f"byte {position}")


@kind
def header_bytes_changed(good, rng):
    slot = good.slot(rng)
    content = bytearray(slot.file())
    for _ in range(40):
        content[rng.randrange(8, len(content) - len(slot.data))] = rng.randrange(256)
    return slot.mutant(bytes(content), ANY)


@kind
def data_changed(good, rng):
    slot = good.slot(rng)
    data = bytearray(slot.data)
    for _ in range(rng.randrange(1, 100)):
        data[rng.randrange(len(data))] = rng.randrange(256)
    return slot.mutant(slot.file(data=bytes(data)), ANY)


@kind
def random_bytes(good, rng):
    return good.slot(rng).mutant(rng.randbytes(rng.randrange(1, 100_000)), REFUSED)


@kind
def another_kind_of_file(good, rng):
    start = rng.choice(
        [
            b"<!DOCTYPE html><html>log in</html>",
            b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n",
            b"\x1f\x8b\x08\0",
            b"7z\xbc\xaf'\x1c",
            b"GGUF\3\0\0\0",
            b"\x89PNG\r\n",
            b"PK\3\4",
            b"PK\5\6" + bytes(18),
            b"\x80\2",
            b"\x7fELF",
            b"\0" * 8,
        ]
    )
    return good.slot(rng).mutant(start + rng.randbytes(rng.choice([0, 4000])), REFUSED, repr(start))


# JSON of the header


@kind
def header_is_no_object(good, rng):
    slot = good.slot(rng)
    header = rng.choice(
        [
            "[]",
            "null",
            "1e999",
            '"text"',
            "{}",
            "{",
            '{"a": 1}',
            b"\xff\xfe{}",
            b'\xef\xbb\xbf{"a":{}}',
            b'{"\xff\xff": {}}',
            '{"__metadata__": {}}',
        ]
    )
    return slot.mutant(join(header, slot.data), REFUSED, repr(header))


@kind
def header_without_tensors(good, rng):
    slot = good.slot(rng)
    return slot.mutant(join(rng.choice(["{}", '{"__metadata__": {"a": "b"}}']), b""), REFUSED)


@kind
def header_is_deep(good, rng):
    slot = good.slot(rng)
    depth = rng.choice([200, 5000, 2_000_000])
    deep = rng.choice(["[" * depth + "]" * depth, '{"a":' * depth + "1" + "}" * depth, "[" * depth])
    return slot.mutant(join(f'{{"a": {deep}}}', slot.data), REFUSED, f"{depth} levels")


@kind
def entry_of_odd_type(good, rng):
    slot = good.slot(rng)
    name = rng.choice(slot.names())
    value = rng.choice([None, 3, "F32", [], {}, True, {"dtype": "F32"}])
    return slot.mutant(slot.file({**slot.header, name: value}), REFUSED, repr(value))


@kind
def tensor_named_twice(good, rng):
    slot = good.slot(rng)
    name = rng.choice(slot.names())
    again = json.dumps({name: slot.header[rng.choice(slot.names())]})
    text = json.dumps(slot.header)[:-1] + ", " + again[1:]
    return slot.mutant(join(text, slot.data), ANY, name)


@kind
def same_entry_twice(good, rng):
    slot = good.slot(rng)
    name = rng.choice(slot.names())
    text = json.dumps(slot.header)[:-1] + ", " + json.dumps({name: slot.header[name]})[1:]
    return slot.mutant(join(text, slot.data), ANY, name)


@kind
def metadata_of_odd_type(good, rng):
    slot = good.slot(rng)
    value = rng.choice([[], 3, {"a": 3}, {"a": None}, {"a": {"b": "c"}}])
    return slot.mutant(slot.file({**slot.header, "__metadata__": value}), ANY, repr(value))


@kind
def metadata_is_long(good, rng):
    slot = good.slot(rng)
    value = {**slot.header.get("__metadata__", {}), "ss_tag_frequency": "x" * 8_000_000}
    return slot.mutant(slot.file({**slot.header, "__metadata__": value}), SAME)


# Dtypes


@kind
def dtype_of_another_size(good, rng):
    slot = good.slot(rng)
    return slot.changed(
        rng.choice(slot.names()), REFUSED, dtype=rng.choice(["F64", "F16", "BF16", "U8", "BOOL"])
    )


@kind
def dtype_that_is_none(good, rng):
    slot = good.slot(rng)
    dtype = rng.choice(["F99", "", "f32", "float32", None, 32, ["F32"], "F" * 100_000])
    return slot.changed(rng.choice(slot.names()), REFUSED, repr(dtype)[:40], dtype=dtype)


@kind
def floats_read_as_whole_numbers(good, rng):
    slot = good.slot(rng)
    return slot.changed(rng.choice(slot.names()), REFUSED, dtype=rng.choice(["I32", "U32"]))


@kind
def weights_that_are_no_floats(good, rng):
    slot = good.slot(rng)
    name = rng.choice(slot.names())
    data, shape = _floats(slot, name)
    kinds = {
        "I64": torch.int64,
        "I8": torch.int8,
        "U8": torch.uint8,
        "BOOL": torch.bool,
        "C64": torch.complex64,
        "U16": torch.uint16,
        "I16": torch.int16,
    }
    dtype = rng.choice(sorted(kinds))
    content = _bytes(data.clamp(0, 1).to(kinds[dtype]))
    return slot.mutant(slot.with_tensors({name: (dtype, shape, content)}), REFUSED, f"{name} as {dtype}")


@kind
def floats_of_another_width(good, rng):
    slot = good.slot(rng)
    kinds = {
        "F64": torch.float64,
        "F16": torch.float16,
        "BF16": torch.bfloat16,
        "F8_E4M3": torch.float8_e4m3fn,
        "F8_E5M2": torch.float8_e5m2,
    }
    dtype = rng.choice(sorted(kinds))
    tensors = {}
    for name in rng.sample(slot.names(), rng.choice([1, len(slot.names())])):
        data, shape = _floats(slot, name)
        tensors[name] = (dtype, shape, _bytes(data.to(kinds[dtype])))
    return slot.mutant(slot.with_tensors(tensors), ANY, f"{len(tensors)} as {dtype}")


@kind
def floats_of_rare_kinds(good, rng):
    slot = good.slot(rng)
    name = rng.choice(slot.names())
    shape = slot.header[name]["shape"]
    count = 1
    for size in shape:
        count *= size
    dtype, bits = rng.choice(
        [("F8_E8M0", 8), ("F8_E4M3FNUZ", 8), ("F8_E5M2FNUZ", 8), ("F4", 4), ("F6_E2M3", 6), ("F6_E3M2", 6)]
    )
    content = rng.randbytes(count * bits // 8)
    return slot.mutant(slot.with_tensors({name: (dtype, shape, content)}), REFUSED, f"{name} as {dtype}")


@kind
def weights_of_nan(good, rng):
    slot = good.slot(rng)
    value = rng.choice([float("nan"), float("inf"), 3e38, 0.0])
    tensors = {}
    for name in rng.sample(slot.names(), rng.choice([1, len(slot.names())])):
        data, shape = _floats(slot, name)
        tensors[name] = ("F32", shape, _bytes(torch.full_like(data, value)))
    return slot.mutant(slot.with_tensors(tensors), ANY, f"{len(tensors)} of {value}")


# Shapes and offsets


@kind
def shape_of_the_same_size(good, rng):
    slot = good.slot(rng)
    name = rng.choice([n for n in slot.names() if len(slot.header[n]["shape"]) > 0])
    shape = slot.header[name]["shape"]
    flat = 1
    for size in shape:
        flat *= size
    shapes = [shape[::-1], [1, *shape], [*shape, 1], [flat], [1] * 7 + shape]
    return slot.changed(name, REFUSED, shape=rng.choice([s for s in shapes if s != shape]))


@kind
def shape_of_another_size(good, rng):
    slot = good.slot(rng)
    name = rng.choice(slot.names())
    shape = list(slot.header[name]["shape"])
    shape[rng.randrange(len(shape))] = rng.choice([0, 1, 3, 7, 4096, 10**9])
    return slot.changed(name, REFUSED if shape != slot.header[name]["shape"] else ANY, shape=shape)


@kind
def shape_of_odd_values(good, rng):
    slot = good.slot(rng)
    name = rng.choice(slot.names())
    shape = rng.choice([[value, 2] for value in ODD] + ["2", None, {}, [2**32, 2**32], [2**62, 4], [[2], 2]])
    return slot.changed(name, REFUSED, shape=shape)


@kind
def tensor_made_smaller(good, rng):
    slot = good.slot(rng)
    name = rng.choice(slot.names())
    shape = rng.choice([[], [0], [1], [2, 2], [0, 0, 0, 0], [1, 1, 1, 1, 1]])
    content = bytes(4 * (0 if 0 in shape else 4 if shape == [2, 2] else 1))
    return slot.mutant(slot.with_tensors({name: ("F32", shape, content)}), REFUSED, f"{name} as {shape}")


@kind
def all_tensors_made_smaller(good, rng):
    slot = good.slot(rng)
    rank = rng.choice([0, None, 1])
    tensors = {}
    for name in slot.names():
        shape = [0] * len(slot.header[name]["shape"]) if rank is None else [1] * rank
        tensors[name] = ("F32", shape, bytes(0 if 0 in shape else 4))
    return slot.mutant(slot.with_tensors(tensors), REFUSED, f"rank {rank}")


@kind
def offsets_overlap(good, rng):
    slot = good.slot(rng)
    first, second = rng.sample(slot.names(), 2)
    return slot.changed(first, ANY, data_offsets=slot.header[second]["data_offsets"])


@kind
def offsets_outside(good, rng):
    slot = good.slot(rng)
    name = rng.choice(slot.names())
    start, end = slot.header[name]["data_offsets"]
    size = len(slot.data)
    shift = rng.choice([size, 2**40, 2**62, size - start])
    return slot.changed(name, REFUSED, data_offsets=[start + shift, end + shift])


@kind
def offsets_of_odd_values(good, rng):
    slot = good.slot(rng)
    name = rng.choice(slot.names())
    start, end = slot.header[name]["data_offsets"]
    offsets = rng.choice([[end, start], [start], [start, end, end], "0", None, *([v, end] for v in ODD)])
    return slot.changed(name, REFUSED if offsets != [start, end] else ANY, data_offsets=offsets)


@kind
def hole_in_the_data(good, rng):
    slot = good.slot(rng)
    gap = rng.randrange(1, 1000)
    header = {
        name: entry
        if name == "__metadata__"
        else {**entry, "data_offsets": [offset + gap for offset in entry["data_offsets"]]}
        for name, entry in slot.header.items()
    }
    return slot.mutant(slot.file(header, bytes(gap) + slot.data), REFUSED, f"{gap} bytes")


# Names


@kind
def tensor_missing(good, rng):
    slot = good.slot(rng)
    name = rng.choice(slot.names())
    return slot.mutant(slot.with_tensors({name: None}), REFUSED, name)


@kind
def tensor_renamed(good, rng):
    slot = good.slot(rng)
    name = rng.choice(slot.names())
    other = rng.choice([name + "x", name.upper(), "x." + name, name.replace(".", "/"), "../" + name])
    content = (slot.header[name]["dtype"], slot.header[name]["shape"], slot.tensor(name))
    return slot.mutant(slot.with_tensors({name: None, other: content}), REFUSED, other)


@kind
def tensor_more(good, rng):
    slot = good.slot(rng, "folder/transformer", "folder/vae", "folder/image_encoder", "transformer", "vae")
    name = rng.choice(["unknown", "zz.__class__", "a\nb", "\0", "", "é" * 50, "x.__reduce__", "../../x"])
    return slot.mutant(slot.with_tensors({name: ("F32", [3], bytes(12))}), SAME, repr(name))


@kind
def name_is_long(good, rng):
    slot = good.slot(rng)
    name = rng.choice(["module.", "x", "model.diffusion_model.", "transformer_blocks.", "."]) * 200_000
    return slot.mutant(slot.with_tensors({name: ("F32", [3], bytes(12))}), REFUSED, name[:30])


@kind
def only_name_is_long(good, rng):
    slot = good.slot(rng)
    name = rng.choice(["module.", "model.diffusion_model.", "x\n"]) * 300_000
    header = {name: {"dtype": "F32", "shape": [3], "data_offsets": [0, 12]}}
    return slot.mutant(join(header, bytes(12)), REFUSED, name[:30])


@kind
def many_empty_tensors(good, rng):
    slot = good.slot(rng)
    prefix = rng.choice(["", "module.", "transformer_blocks."])
    entry = {"dtype": "F32", "shape": [0], "data_offsets": [len(slot.data)] * 2}
    more = {f"{prefix}{number}": entry for number in range(rng.choice([60_000, 60_000, 250_000]))}
    return slot.mutant(slot.file({**slot.header, **more}), REFUSED)


@kind
def many_layers(good, rng):
    slot = good.slot(rng, "folder/transformer", "transformer", "folder/text_encoder", "folder/image_encoder")
    stem = {"transformer": "transformer_blocks.", "text_encoder": "encoder.block."}.get(
        slot.path.split("/")[0], "vision_model.encoder.layers."
    )
    stem = "transformer_blocks." if slot.place == "transformer" else stem
    entry = {"dtype": "F32", "shape": [0], "data_offsets": [len(slot.data)] * 2}
    more = {f"{stem}{number}.x": entry for number in [*range(100, 20_000), "9" * 400]}
    return slot.mutant(
        slot.file({**slot.header, **more}), ANY if slot.path == WEIGHTS["text_encoder"] else REFUSED
    )


@kind
def prefix_around_all(good, rng):
    slot = good.slot(rng, "folder/transformer", "transformer", "folder/vae", "vae")
    prefix = rng.choice(["model.diffusion_model.", "module.", "module.module.diffusion_model."])
    header = {name if name == "__metadata__" else prefix + name: entry for name, entry in slot.header.items()}
    return slot.mutant(slot.file(header), SAME, prefix)


@kind
def another_component(good, rng):
    one, other = rng.sample(sorted(WEIGHTS), 2)
    path = WEIGHTS[one]
    if one == "text_encoder":
        return Mutant("folder", {path: good.read(WEIGHTS[other])}, REFUSED, f"{other} as {one}")
    return Mutant("folder", {path: good.read(WEIGHTS[other])}, REFUSED, f"{other} as {one}", (one,))


@kind
def another_file_for_a_single_place(good, rng):
    place = rng.choice(["transformer", "vae", "lora"])
    other = rng.choice([name for name in (*WEIGHTS, "lora") if name != place])
    content = good.lora if other == "lora" else good.read(WEIGHTS[other])
    return Mutant(place, {"strange.safetensors": content}, REFUSED, f"{other} as {place}")


# Things that are no plain file


def _link(target):
    return lambda path: path.symlink_to(target)


@kind
def no_file_in_place(good, rng):
    slot = good.slot(rng)
    makers = {
        "folder": lambda path: path.mkdir(),
        "dangling link": _link("nowhere"),
        "loop": lambda path: path.symlink_to(path.name),
        "pipe": os.mkfifo,
        "endless": _link("/dev/zero"),
        "nothing": None,
    }
    note = rng.choice(sorted(makers))
    return slot.mutant(makers[note], REFUSED, note)


@kind
def link_to_the_good_file(good, rng):
    path = rng.choice(
        [*WEIGHTS.values(), "transformer/config.json", "vae/config.json", "tokenizer/spiece.model"]
    )
    return Mutant("folder", {path: _link(good.folder / path)}, SAME, path)


# Shards


def _index(good, weight_map, **entries):
    return json.dumps({"metadata": {}, "weight_map": weight_map, **entries}).encode()


@kind
def shard_outside(good, rng):
    weight_map = json.loads(good.read(INDEX))["weight_map"]
    trick = rng.choice(PATH_TRICKS)
    weight_map[rng.choice(sorted(weight_map))] = trick
    return Mutant("folder", {INDEX: _index(good, weight_map)}, REFUSED, repr(trick), ("inside its folder",))


@kind
def shard_of_odd_type(good, rng):
    weight_map = json.loads(good.read(INDEX))["weight_map"]
    weight_map[rng.choice(sorted(weight_map))] = rng.choice(
        [None, 3, 1.5, True, [], {}, ["a"], "x" * 100_000]
    )
    return Mutant("folder", {INDEX: _index(good, weight_map)}, REFUSED)


@kind
def shard_with_a_long_name(good, rng):
    weight_map = json.loads(good.read(INDEX))["weight_map"]
    weight_map[rng.choice(sorted(weight_map))] = "x" * rng.choice([256, 5000, 100_000])
    return Mutant("folder", {INDEX: _index(good, weight_map)}, REFUSED)


@kind
def shard_is_the_index(good, rng):
    weight_map = json.loads(good.read(INDEX))["weight_map"]
    weight_map[rng.choice(sorted(weight_map))] = INDEX.split("/")[1]
    return Mutant("folder", {INDEX: _index(good, weight_map)}, REFUSED)


@kind
def shards_are_indexes_of_each_other(good, rng):
    other = "other.safetensors.index.json"
    files = {
        INDEX: _index(good, {"a": other}),
        f"text_encoder/{other}": _index(good, {"a": INDEX.split("/")[1]}),
    }
    return Mutant("folder", files, REFUSED)


@kind
def shard_without_its_tensor(good, rng):
    weight_map = json.loads(good.read(INDEX))["weight_map"]
    shards = sorted(set(weight_map.values()))
    name = rng.choice(sorted(weight_map))
    weight_map[name] = next(shard for shard in shards if shard != weight_map[name])
    return Mutant("folder", {INDEX: _index(good, weight_map)}, REFUSED, name, (name,))


@kind
def index_is_wrong(good, rng):
    content = rng.choice(
        [
            b"",
            b"{",
            b"[]",
            b"null",
            b"{}",
            b'{"weight_map": []}',
            b'{"weight_map": 3}',
            b'{"weight_map": {}}',
            b"\xff\xff",
            '{"weight_map": {}}'.encode("utf-16"),
            b'{"weight_map": ' + b"[" * 500_000,
            b'{"weight_map": ' + b'{"a":' * 500_000,
            b'{"a": ' + b"9" * 10_000 + b"}",
        ]
    )
    return Mutant("folder", {INDEX: content}, REFUSED, repr(content[:30]), ("model.safetensors.index.json",))


@kind
def index_with_a_mark_of_order(good, rng):
    return Mutant("folder", {INDEX: b"\xef\xbb\xbf" + good.read(INDEX)}, SAME)


@kind
def index_is_long(good, rng):
    weight_map = json.loads(good.read(INDEX))["weight_map"]
    shard = rng.choice(sorted(weight_map.values()))
    weight_map |= {f"unknown.{number}": shard for number in range(80_000)}
    return Mutant("folder", {INDEX: _index(good, weight_map)}, REFUSED)


@kind
def index_leaves_a_tensor_out(good, rng):
    weight_map = json.loads(good.read(INDEX))["weight_map"]
    name = rng.choice(sorted(weight_map))
    del weight_map[name]
    return Mutant("folder", {INDEX: _index(good, weight_map)}, REFUSED, name)


@kind
def shards_without_index(good, rng):
    count = rng.choice(["00003", "99999"])
    names = [f"text_encoder/model-{number:05d}-of-00002.safetensors" for number in (1, 2)]
    files = {name.replace("of-00002", f"of-{count}"): good.read(name) for name in names}
    return Mutant("folder", {INDEX: None, **dict.fromkeys(names), **files}, REFUSED, count, ("lacks",))


@kind
def shards_whose_index_is_lost(good, rng):
    return Mutant("folder", {INDEX: None}, SAME)


@kind
def shard_of_another_component(good, rng):
    header, data = split(good.read(WEIGHTS["image_encoder"]))
    return Mutant("folder", {WEIGHTS["text_encoder"]: join(header, data)}, REFUSED)
