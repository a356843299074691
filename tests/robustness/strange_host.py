"""A host that loads what strangers made: each time in a process of its own, which is watched and may die.

``python strange_host.py BASE`` reads one JSON job a line, ``{"place", "path", "result", "limit"}``, loads the
file or folder as the loader nodes do in a forked process, and prints how that ended: ``ended STATUS`` or ``late``.
"""

import gc
import json
import os
import pickle
import re
import resource
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
# Code of strangers would have to pass one of these; unpickling itself already counts.
FORBIDDEN = (
    "pickle.find_class",
    "os.system",
    "os.exec",
    "os.posix_spawn",
    "subprocess.Popen",
    "socket.connect",
)
# Nothing is unpacked: a loader writes no file.
CHANGES = ("os.mkdir", "os.rename", "os.link", "os.symlink")
ROOM = 6 * 1024**3
# Which model of a folder comes of which of its parts.
PARTS = {
    "transformer": "model",
    "vae": "vae",
    "text_encoder": "clip",
    "tokenizer": "clip",
    "image_encoder": "vision",
}
# What the watch itself is tested with.
SELF_TESTS = {
    "abort": lambda _: os.abort(),
    "sleep": lambda _: time.sleep(3600),
    "grow": lambda _: len(b"x" * (201 * 1024**2)),
    "unpickle": lambda path: pickle.loads(Path(path).read_bytes()),
    "write": lambda path: Path(path + ".written").write_text("x"),
}


class StrangeHost:
    """The running program, from the test's side."""

    def __init__(self, base, temporary, limit):
        # Freed memory goes back at once, so that growth shows what is held and not what the C library keeps.
        options = {
            "MALLOC_MMAP_THRESHOLD_": "131072",
            "OMP_NUM_THREADS": "1",
            "TOKENIZERS_PARALLELISM": "false",
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        environ = {**os.environ, **options, "TMPDIR": str(temporary), "PYTHONPATH": str(ROOT)}
        self.limit = limit
        self.log = base / "strange_host.log"
        self.results = base / "strange_host.json"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, __file__, str(base)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env=environ,
                cwd=base,
                text=True,
            )
        assert self._read() == "ready"

    def load(self, place, path, limit=None, parts=None):
        """Return what loading did: ``outcome`` (loaded, refused, crash, late), ``message``, ``seconds``, ``growth`` ..."""
        self.results.unlink(missing_ok=True)
        limit = limit or self.limit
        job = {
            "place": place,
            "path": str(path),
            "parts": sorted(parts or PARTS.values()),
            "result": str(self.results),
            "limit": limit,
        }
        self.process.stdin.write(json.dumps(job) + "\n")
        self.process.stdin.flush()
        end = self._read()
        if not self.results.exists():
            return {"outcome": "late" if end == "late" else "crash", "message": end, "seconds": limit}
        return json.loads(self.results.read_text())

    def close(self):
        self.process.stdin.close()
        self.process.wait(20)

    def _read(self):
        line = self.process.stdout.readline().strip()
        assert line, self.log.read_text(errors="replace")[-3000:]
        return line


def serve(base):
    import torch

    from devtools.inprocess_host import InProcessHost

    # The prompt's own output goes to the log, and the protocol to the pipe.
    protocol = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    torch.set_num_threads(1)
    # As some packs do; a file that is nested too deep then ends the process in place of an error.
    sys.setrecursionlimit(1_000_000)
    loaders = Loaders(InProcessHost(base))
    # Pages that the collector does not write to stay shared with the processes that are forked.
    gc.collect()
    gc.freeze()
    print("ready", file=protocol, flush=True)
    for line in sys.stdin:
        job = json.loads(line)
        child = os.fork()
        if child:
            print(_watch(child, job["limit"]), file=protocol, flush=True)
            continue
        # Past the interpreter's end, whose clean-up belongs to the parent.
        try:
            _work(loaders, job)
        finally:
            os._exit(0)


def _watch(child, limit):
    """Wait for a process, kill it when it is late, and say how it ended."""
    end = time.monotonic() + limit
    while time.monotonic() < end:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return f"ended {status}"
        time.sleep(0.002)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return "late"


class Loaders:
    """What the loader nodes call, by place."""

    def __init__(self, host):
        from devtools import tiny_checkpoint

        name = host.pack_module.__name__
        self._checkpoints = sys.modules[f"{name}.easyanimate_core.host.checkpoints"]
        self._lora = sys.modules[f"{name}.easyanimate_core.host.lora"]
        self._good = self._checkpoints.load_folder(tiny_checkpoint.NAME)

    def load(self, place, path):
        """Load a folder (by its name among the host's) or a file."""
        if place in SELF_TESTS:
            return SELF_TESTS[place](path)
        if place == "folder":
            return self._checkpoints.load_folder(Path(path).name)
        if place == "transformer":
            return self._checkpoints.load_transformer_file(path)
        if place == "vae":
            return self._checkpoints.load_vae_file(path)
        return self._lora.apply_lora(self._good.model, self._good.clip, path, 1.0, 1.0)

    def use(self, place, loaded, parts):
        """Run the models a little and return their results in short, by name; of a folder, those of ``parts``."""
        if place == "folder":
            model, clip, vae, vision = loaded
            runs = {
                "model": lambda: _forward(model),
                "clip": lambda: _digest(clip.encode_from_tokens(clip.tokenize("A dog on the beach"))),
                "vae": lambda: _decode(vae),
                "vision": lambda: _embed(vision),
            }
            return {part: runs[part]() for part in parts}
        if place == "transformer":
            return {"model": _forward(loaded)}
        if place == "vae":
            return {"vae": _decode(loaded)}
        return {"weights": _patched(loaded[0]), "text": _patched(loaded[1].patcher)}


def _forward(patcher):
    import torch

    model = patcher.model.diffusion_model
    config = patcher.model.transformer_config
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(1, config.in_channels, 2, 4, 4, generator=generator)
    text = torch.randn(1, 3, config.caption_channels, generator=generator)
    image = torch.randn(1, config.clip_channels, generator=generator) if config.clip_tokens else None
    with torch.inference_mode():
        dtype = (
            model.dtype if model.dtype in (torch.float32, torch.bfloat16, torch.float16) else torch.float32
        )
        out = super(type(model), model).forward(
            x.to(dtype),
            torch.tensor([500.0]),
            text.to(dtype),
            None,
            image if image is None else image.to(dtype),
        )
    assert out.shape == (1, config.out_channels, 2, 4, 4)
    return _digest(out)


def _decode(vae):
    import torch

    latent = torch.randn(1, 4, 2, 4, 4, generator=torch.Generator().manual_seed(2))
    images = vae.decode(latent)
    assert images.shape == (1, 8, 32, 32, 3)
    return _digest(images)


def _embed(vision):
    import torch

    picture = torch.rand(1, 40, 40, 3, generator=torch.Generator().manual_seed(3))
    return _digest(vision.encode_image(picture)["image_embeds"])


def _patched(patcher):
    """Compute every weight that a LoRA changes, as sampling would."""
    import comfy.lora

    weights = patcher.model.state_dict()
    changed = {}
    for key, patches in sorted(patcher.patches.items()):
        weight = weights[key]
        result = comfy.lora.calculate_weight(patches, weight.clone(), key)
        assert result.shape == weight.shape, key
        changed[key] = result
    return _digest(*changed.values())


def _digest(*tensors):
    """Return a few figures of tensors that tell other results apart."""
    import torch

    flat = torch.cat([torch.zeros(1), *(tensor.float().flatten() for tensor in tensors)])
    ramp = torch.linspace(1, 2, flat.numel())
    return [flat.numel(), float(flat.sum()), float((flat * ramp).sum()), float(flat.abs().sum())]


def _work(loaders, job):
    seen = []
    limit = _status("VmSize") * 1024 + ROOM
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    # The most that was in use counts from here.
    Path("/proc/self/clear_refs").write_text("5")
    sys.addaudithook(partial(_watch_call, seen))
    before, started = _status("VmRSS"), time.perf_counter()
    report = {"outcome": "loaded", "message": ""}
    try:
        loaded = loaders.load(job["place"], job["path"])
    except BaseException as error:
        report = {"outcome": "refused", "message": str(error), "type": type(error).__name__}
    report["seconds"] = time.perf_counter() - started
    report["growth"] = (_status("VmHWM") - before) * 1024
    report["events"] = list(seen)
    if report["outcome"] == "loaded" and job["place"] not in SELF_TESTS:
        complaints = _listen()
        try:
            report["used"] = loaders.use(job["place"], loaded, job["parts"])
        except BaseException as error:
            import traceback

            report["broken"] = f"{type(error).__name__}: {error} {traceback.format_exc()[-1500:]}"
        report["complaints"] = complaints
    unfinished = Path(job["result"] + ".part")
    unfinished.write_text(json.dumps(report))
    unfinished.replace(job["result"])


def _watch_call(seen, event, arguments):
    if event in FORBIDDEN:
        seen.append(event)
        return
    writing = event == "open" and arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
    # The host wants the configuration of CLIP's image encoder as a file, which is made in a temporary folder.
    if (writing or event in CHANGES) and not str(arguments[0]).startswith(os.environ["TMPDIR"]):
        seen.append(f"{event} {arguments[0]}")


def _listen():
    """Return a list that fills with what the host logs of LoRAs that do not fit."""
    import logging

    complaints = []

    class Listener(logging.Handler):
        def emit(self, record):
            message = record.getMessage()
            if record.levelno >= logging.ERROR or "MISMATCH" in message:
                complaints.append(message[:300])

    logging.getLogger().addHandler(Listener())
    return complaints


def _status(name):
    """Return a figure of /proc/self/status in KiB."""
    return int(re.search(rf"^{name}:\s*(\d+)", Path("/proc/self/status").read_text(), re.MULTILINE)[1])


if __name__ == "__main__":
    serve(Path(sys.argv[1]))
