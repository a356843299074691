"""PyTorch files from strangers: pickles that would run code, and archives that lie."""

import io
import json
import os
import pickle
import struct
import tarfile
import zipfile
from collections import OrderedDict
from pathlib import Path

import torch
from strange_mutants import INDEX, REFUSED, SAME, WEIGHTS, Mutant, kind

# Where a folder's loader looks for a component's PyTorch file, and each single file by what endings it may have.
PYTORCH_NAMES = {
    "transformer": "diffusion_pytorch_model.bin",
    "vae": "diffusion_pytorch_model.bin",
    "text_encoder": "pytorch_model.bin",
    "image_encoder": "pytorch_model.bin",
}
SINGLE_NAMES = [
    "strange.bin",
    "strange.pt",
    "strange.pth",
    "strange.ckpt",
    "strange.pkl",
    "strange.safetensors",
]
EXTRAS = [
    "optimizer.pt",
    "transformer/optimizer.bin",
    "text_encoder/training_args.bin",
    "image_encoder/rng_state.pth",
    "tokenizer/tokenizer.pkl",
    "vae/scheduler.pt",
    "transformer/random_states_0.pkl",
    "pytorch_lora_weights.bin",
]

# The file that comes to be where the code of a pickle or a module runs.
MARK = "it_ran"


def state_dict(good, place):
    """Return the tensors that a place reads, as plain floats."""
    from safetensors.torch import load

    if place in ("transformer", "vae", "image_encoder"):
        return load(good.read(WEIGHTS[place]))
    if place == "lora":
        return load(good.lora)
    paths = [WEIGHTS[place], WEIGHTS[place].replace("00002-of", "00001-of")]
    return {name: tensor for path in paths for name, tensor in load(good.read(path)).items()}


class Runs:
    """Something that calls a function when it is unpickled."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def payloads(mark):
    """Return objects whose unpickling leaves a file ``mark``."""
    return {
        "touch": Runs(Path.touch, mark),
        "system": Runs(os.system, f"touch '{mark}'"),
        "exec": Runs(exec, f"open({str(mark)!r}, 'w').close()"),
        "eval": Runs(eval, f"open({str(mark)!r}, 'w').close()"),
        "open": Runs(open, str(mark), "w"),
        "load": Runs(pickle.loads, pickle.dumps(Runs(Path.touch, mark))),
    }


FORMS = ("zip", "zip, protocol 4", "attribute", "legacy", "bare", "bare, protocol 4", "text", "script", "tar")


def evil(form, payload):
    """Return a file that unpickles a payload where it is read without care."""
    if form in ("bare", "bare, protocol 4", "text"):
        return pickle.dumps(payload, protocol={"bare": 2, "text": 0}.get(form, 4))
    if form in ("script", "tar"):
        return {"script": _script, "tar": _tar}[form](payload)
    content = OrderedDict(a=torch.zeros(2))
    if form == "attribute":
        content._metadata = payload
    else:
        content["b"] = payload
    buffer = io.BytesIO()
    protocol = 4 if form == "zip, protocol 4" else 2
    torch.save(content, buffer, _use_new_zipfile_serialization=form != "legacy", pickle_protocol=protocol)
    return buffer.getvalue()


def read_without_care(form, content):
    """Read an evil file as loaders of old do, which runs what is in it."""
    if form == "script":
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            pickle.loads(archive.read("archive/data.pkl"))
    elif form == "tar":
        with tarfile.open(fileobj=io.BytesIO(content)) as archive:
            pickle.loads(archive.extractfile("pickle").read())
    elif form in ("bare", "bare, protocol 4", "text"):
        pickle.loads(content)
    else:
        torch.load(io.BytesIO(content), weights_only=False)


def _any_evil(rng):
    form = rng.choice(FORMS)
    payload = payloads(Path(MARK))
    return evil(form, payload[rng.choice(sorted(payload))]), form


def _script(payload):
    """Return an archive that says that it is TorchScript, with a pickle that runs code."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("archive/constants.pkl", pickle.dumps(payload, 2))
        archive.writestr("archive/data.pkl", pickle.dumps(payload, 2))
        archive.writestr("archive/code/__torch__.py", "def forward(self): pass\n")
        archive.writestr("archive/version", "3\n")
    return buffer.getvalue()


def _tar(payload):
    """Return PyTorch's oldest form, with the marks of a pickle at its start."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name in ("\x80\x02storages", "storages", "tensors", "pickle"):
            content = pickle.dumps(payload, 2)
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


def in_folder(good, component, content, name=None):
    """Return the files that put a PyTorch file in place of a component's weights."""
    files = {WEIGHTS[component]: None, f"{component}/{name or PYTORCH_NAMES[component]}": content}
    if component == "text_encoder":
        files |= {INDEX: None, WEIGHTS[component].replace("00002-of", "00001-of"): None}
    return files


def _place(good, rng, content, expect, note="", component=None):
    """Put a PyTorch file in one of the places that read weights."""
    place = component or rng.choice([*PYTORCH_NAMES, "file transformer", "file vae", "lora"])
    if place in PYTORCH_NAMES:
        return Mutant("folder", in_folder(good, place, content), expect, f"{place}: {note}")
    return Mutant(place.split()[-1], {rng.choice(SINGLE_NAMES[:-1]): content}, expect, f"{place}: {note}")


def everywhere(good, content):
    """Yield a file in every place that a loader reads, as mutants."""
    for component, path in WEIGHTS.items():
        yield Mutant("folder", in_folder(good, component, content), REFUSED, f"{component}, PyTorch")
        for name in (path, f"{component}/config.json"):
            yield Mutant("folder", {name: content}, REFUSED, name)
    yield Mutant("folder", {INDEX: content}, REFUSED, INDEX)
    yield Mutant("folder", {"tokenizer/spiece.model": content}, REFUSED, "spiece.model")
    names = {"tokenizer/spiece.model": None, "tokenizer/tokenizer.json": content}
    yield Mutant("folder", names, REFUSED, "tokenizer.json")
    for place in ("transformer", "vae", "lora"):
        for name in SINGLE_NAMES:
            yield Mutant(place, {name: content}, REFUSED, f"{place} {name}")
    yield Mutant("folder", dict.fromkeys(EXTRAS, content), SAME, "beside")


@kind
def pickle_that_runs_code(good, rng):
    content, form = _any_evil(rng)
    return _place(good, rng, content, REFUSED, form)


@kind
def pickle_under_a_safe_name(good, rng):
    content, form = _any_evil(rng)
    slot = good.slot(rng)
    return slot.mutant(content, REFUSED, form)


@kind
def pickle_in_place_of_a_json_file(good, rng):
    content, form = _any_evil(rng)
    path = rng.choice([INDEX, *(f"{name}/config.json" for name in WEIGHTS)])
    return Mutant("folder", {path: content}, REFUSED, form)


@kind
def pickle_in_place_of_the_tokenizer(good, rng):
    content, form = _any_evil(rng)
    files = rng.choice(
        [
            {"tokenizer/spiece.model": content},
            {"tokenizer/spiece.model": None, "tokenizer/tokenizer.json": content},
        ]
    )
    return Mutant("folder", files, REFUSED, form)


@kind
def pickles_beside(good, rng):
    content, form = _any_evil(rng)
    return Mutant("folder", dict.fromkeys(rng.sample(EXTRAS, 4), content), SAME, form)


@kind
def modules_beside(good, rng):
    code = f"open({MARK!r}, 'w').close()\n".encode()
    names = ["modeling.py", "__init__.py", "tokenization_evil.py", "configuration.py", "sitecustomize.py"]
    files = {
        f"{part}/{name}": code for name in names for part in ("transformer", "tokenizer", "text_encoder")
    }
    custom = {"AutoModel": "modeling.Evil", "AutoConfig": "configuration.Evil"}
    for part in ("transformer", "text_encoder", "image_encoder"):
        values = {**good.config(part), "auto_map": custom, "trust_remote_code": True}
        files[f"{part}/config.json"] = _json(values | {"_class_name": ["modeling.py", "Evil"]})
    settings = {"tokenizer_class": "Evil", "auto_map": {"AutoTokenizer": ["tokenization_evil.Evil", None]}}
    files["tokenizer/tokenizer_config.json"] = _json(settings)
    return Mutant("folder", files, SAME)


def _json(values):
    return json.dumps(values).encode()


# Archives that lie


def _saved(tensors, legacy=False):
    buffer = io.BytesIO()
    torch.save(tensors, buffer, _use_new_zipfile_serialization=not legacy)
    return buffer.getvalue()


def _repacked(content, change=None, compression=zipfile.ZIP_STORED, more=()):
    """Return the archive with records changed, by ``change(name, data)``, and more of them."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(buffer, "w", compression) as new:
        for name in old.namelist():
            data = old.read(name)
            data = data if change is None else change(name, data)
            if data is not None:
                new.writestr(name, data)
        for name, data in more:
            new.writestr(name, data)
    return buffer.getvalue()


def _some(good, rng):
    component = rng.choice([*PYTORCH_NAMES, "lora"])
    return component, state_dict(good, component)


@kind
def good_pytorch_file(good, rng):
    component, tensors = _some(good, rng)
    legacy = rng.random() < 0.5
    return _place(good, rng, _saved(tensors, legacy), SAME, f"legacy {legacy}", component)


@kind
def pytorch_file_cut(good, rng):
    component, tensors = _some(good, rng)
    content = _saved(tensors, legacy=rng.random() < 0.5)
    return _place(good, rng, content[: rng.randrange(4, len(content))], REFUSED, component=component)


@kind
def pytorch_file_changed(good, rng):
    component, tensors = _some(good, rng)
    content = bytearray(_saved(tensors, legacy=rng.random() < 0.5))
    for _ in range(rng.choice([1, 30])):
        content[rng.randrange(len(content))] = rng.randrange(256)
    return _place(good, rng, bytes(content), "any", component=component)


@kind
def pickle_changed(good, rng):
    component, tensors = _some(good, rng)

    def change(name, data):
        if not name.endswith("data.pkl"):
            return data
        data = bytearray(data)
        for _ in range(rng.choice([1, 10])):
            data[rng.randrange(len(data))] = rng.randrange(256)
        return bytes(data)

    return _place(good, rng, _repacked(_saved(tensors), change), "any", component=component)


@kind
def archive_names_outside(good, rng):
    component, tensors = _some(good, rng)
    name = rng.choice(["../../" + MARK, "/" + MARK, "archive/../../" + MARK, "..\\" + MARK, "C:\\" + MARK])
    content = _repacked(_saved(tensors), more=[(name, b"x")])
    return _place(good, rng, content, REFUSED, name, component)


@kind
def archive_is_compressed(good, rng):
    component = rng.choice([*PYTORCH_NAMES, "lora"])
    tensors = {"a": torch.zeros(rng.choice([1000, 8_000_000]))}
    content = _repacked(_saved(tensors), compression=zipfile.ZIP_DEFLATED)
    return _place(good, rng, content, REFUSED, component=component)


@kind
def pickle_is_a_bomb(good, rng):
    bomb = rng.choice(sorted(_BOMBS))
    raw = _BOMBS[bomb]
    component = rng.choice([*PYTORCH_NAMES, "lora"])
    if rng.random() < 0.5:
        return _place(good, rng, raw, REFUSED, f"bare, {bomb}", component)
    content = _repacked(
        _saved({"a": torch.zeros(2)}), lambda name, data: raw if name.endswith("data.pkl") else data
    )
    return _place(good, rng, content, REFUSED, f"in an archive, {bomb}", component)


_BOMBS = {
    "empty lists": b"\x80\x02(" + b"]" * 3_000_000 + b"l.",
    "as many lists as may be": b"\x80\x02(" + b"]" * 190_000 + b"l.",
    "deep lists": b"\x80\x02" + b"]" * 1_000_000 + b"a" * 999_999 + b".",
    "memo": b"\x80\x02]r\xff\xff\xff\x7f.",
    "memo of many": b"\x80\x02]" + b"".join(b"r" + struct.pack("<I", 2**k) for k in range(31)) + b".",
    "long text": b"\x80\x02X\xff\xff\xff\x7f.",
    "long bytes": b"\x80\x05\x8e" + struct.pack("<Q", 2**40) + b".",
    "long number": b"\x80\x02\x8b\xff\xff\xff\x7f.",
    "decimal number": b"\x80\x02L" + b"9" * 1_000_000 + b"L\n.",
    "frame": b"\x80\x04\x95" + struct.pack("<Q", 2**60) + b".",
    "nothing": b"\x80\x02.",
    "no end": b"\x80\x02]",
    "pops": b"\x80\x02" + b"0" * 1000 + b".",
    "names": b"\x80\x02cos\nsystem\n.",
    "nested": b"\x80\x02)q\0" + b"(h\0h\0h\0h\0h\0h\0h\0h\0tq\0" * 60 + b".",
}


@kind
def storages_lie(good, rng):
    """The pickle speaks of more values than its storages hold."""
    component, tensors = _some(good, rng)
    legacy = rng.random() < 0.5
    name = rng.choice(sorted(name for name, tensor in tensors.items() if tensor.ndim == 2))
    tensors = {**tensors, name: _Claims(tensors[name], rng.choice([2**20, 2**31, 2**40]))}
    return _place(good, rng, _saved(tensors, legacy), REFUSED, f"{name}, legacy {legacy}", component)


class _Claims:
    """A tensor that says in the pickle to be far larger than its storage."""

    def __init__(self, tensor, size):
        self.tensor, self.size = tensor, size

    def __reduce__(self):
        storage = torch.storage.TypedStorage(
            wrap_storage=self.tensor.untyped_storage(), dtype=self.tensor.dtype, _internal=True
        )
        return torch._utils._rebuild_tensor_v2, (storage, 0, (self.size,), (1,), False, OrderedDict())


@kind
def storages_repeat(good, rng):
    """One small storage stands for all weights, by strides of 0."""
    component, tensors = _some(good, rng)
    small = {name: torch.zeros(1).expand(tensor.shape) for name, tensor in tensors.items()}
    if component == "lora":
        small = {name: t if t.numel() > 1 else torch.zeros(()) for name, t in small.items()}
    return _place(good, rng, _saved(small, legacy=rng.random() < 0.5), REFUSED, component=component)


@kind
def records_missing(good, rng):
    component, tensors = _some(good, rng)
    lost = rng.choice(["data.pkl", "data/1", "data/0", "version"])
    content = _repacked(_saved(tensors), lambda name, data: None if name.endswith(lost) else data)
    return _place(good, rng, content, REFUSED if lost != "version" else "any", lost, component)


@kind
def archive_without_its_pickle(good, rng):
    component, tensors = _some(good, rng)
    content = _repacked(_saved(tensors), lambda name, data: None if name.endswith("data.pkl") else data)
    return _place(good, rng, content, REFUSED, component=component)


@kind
def records_named_twice(good, rng):
    component, tensors = _some(good, rng)
    content = _saved(tensors)
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        name = next(n for n in archive.namelist() if n.endswith("data.pkl"))
    other = pickle.dumps(payloads(Path(MARK))["touch"], 2)
    return _place(good, rng, _repacked(content, more=[(name, other)]), REFUSED, component=component)


@kind
def no_weights_in_the_pickle(good, rng):
    content = rng.choice(
        [torch.zeros(2), {}, [], None, 3, {"a": 1}, {1: torch.zeros(1)}, "text", [torch.zeros(1)]]
    )
    return _place(good, rng, _saved(content, legacy=rng.random() < 0.5), REFUSED, repr(content))


@kind
def weights_of_other_dtypes_in_the_pickle(good, rng):
    component, tensors = _some(good, rng)
    dtype = rng.choice([torch.int64, torch.bool, torch.complex64, torch.uint8])
    name = rng.choice(sorted(name for name in tensors if not name.endswith((".pe", ".alpha"))))
    tensors = {**tensors, name: tensors[name].to(dtype)}
    return _place(
        good, rng, _saved(tensors, legacy=rng.random() < 0.5), REFUSED, f"{name} as {dtype}", component
    )
