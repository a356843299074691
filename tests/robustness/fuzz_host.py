"""One fuzzed node in the real host: run it, and judge what came of it."""

import contextlib
import re
import shutil
import time
import traceback
from collections import Counter, defaultdict
from pathlib import Path

import comfy_node_inputs
import fuzz_models
import torch
from fuzz_values import LINKED, Model, is_finite, make
from graphs import Graph, is_one_sentence

ROOT = Path(__file__).resolve().parents[2]
PACK = (ROOT / "nodes", ROOT / "easyanimate_core")
RESULT, STOPPED, HOST_REFUSAL, SENTENCE, HOST_ERROR = (
    "results",
    "runs that the test stopped",
    "refusals of the host",
    "one-sentence errors",
    "errors of the host's own code",
)
EXAMPLES_A_CHECK = 100
# The host's words for an exception in its own check of a prompt, or in a node's part of that.
_CRASH_IN_CHECK = "exception_during_"
# Modules that every run on our models passes through, whatever the host makes of it.
PASSING_ON = ("out_of_memory.py", "preview.py", "progress.py")
# What tensors of an example may take beside what the process has already.
SPARE_BYTES = 1024**3
_FRAME = re.compile(r'File "([^"]+)", line (\d+), in (\S+)')


class Fuzzer:
    """Runs nodes on fuzzed inputs and counts what came of it, node by node.

    Parameters
    ----------
    bench : Bench
        The host.
    patience : float
        Seconds of computing after which a run is cancelled at its next progress.
    """

    def __init__(self, bench, patience):
        self.bench = bench
        self.patience = patience
        self.models = fuzz_models.prepare(bench)
        self.counts = defaultdict(Counter)
        self.good = self.good_frames()

    def node_class(self, node_id):
        return self.bench.host.node(node_id)

    def good_frames(self):
        """Return the frames of a good run: from prompt and picture to video, computed anew on the same models."""
        self.bench.host.forget()
        graph = Graph()
        loader = [
            self.bench.give(graph, self.models[name]) for name in ("model", "clip", "vae", "clip_vision")
        ]
        clip = graph.clip(loader, start=graph.picture(), embed=True)
        sampled = graph.sample(loader[0], clip)
        decoded = graph.add(
            "EasyAnimateV3VAEDecode",
            samples=sampled,
            vae=loader[2],
            smoothing=True,
            tiling=True,
        )
        return self.bench.value(graph, decoded)

    def check_good(self):
        """Assert that the host is as usable as at the beginning."""
        assert torch.equal(self.good_frames(), self.good), "the good prompt gives other frames than before"

    def check(self, node_id, values):
        """Run a node on the values, and assert that it gave a result or said in a sentence why not."""
        outcome, complaint = self.judge(node_id, values)
        assert complaint is None, f"{node_id}: {complaint}"
        self.counts[node_id][outcome] += 1
        if self.totals().total() % EXAMPLES_A_CHECK == 0:
            self.check_good()

    def totals(self):
        """Return the counts of all nodes together."""
        return sum(self.counts.values(), Counter())

    def judge(self, node_id, values):
        """Run a node on the values; return the kind of outcome, and what is wrong with it or None."""
        node_class = self.node_class(node_id)
        graph, keys, given = Graph(), [], {}
        inputs = {}
        for name, value in values.items():
            if isinstance(value, LINKED):
                given[name] = make(value, self.models)
                inputs[name] = self.bench.give(graph, given[name])
                keys.append(graph.prompt[inputs[name].id]["inputs"]["key"])
            else:
                inputs[name] = value
        node = graph.add(node_id, **inputs)
        outputs = [self.bench._take(graph, node[slot]) for slot in range(len(node_class.RETURN_TYPES))]
        before = {name: _copy(value) for name, value in given.items()}
        files = self._files()
        host = self.bench.host
        # Not the time of day: what is stopped must not depend on what else this machine does.
        started = time.process_time()

        def stop_late_runs(*_progress):
            if time.process_time() - started > self.patience:
                host.interrupt()

        host.on_progress = stop_late_runs
        try:
            with memory_cap(SPARE_BYTES):
                result = host.run(graph.prompt)
        finally:
            host.on_progress = None
            for key in keys:
                comfy_node_inputs._values.pop(key)
        taken = [comfy_node_inputs.taken.pop(name, None) for name in outputs]
        left = sorted(self._files() - files)
        try:
            return self._judge(node_class, result, node, values, given, before, taken, left)
        finally:
            self._remove(left)

    def _judge(self, node_class, result, node, values, given, before, taken, left):
        changed = [name for name, value in given.items() if not _same(value, before[name])]
        if changed:
            return None, f"the object at {changed[0]} was changed"
        if result.validation_error is not None:
            outcome, complaint = self._judge_refusal(result.validation_error, values)
            return outcome, complaint or _left_behind(left)
        if result.success:
            kinds = list(zip(node_class.RETURN_TYPES, taken, strict=True))
            if not is_ours(node_class):
                # Only these come from code of ours.
                kinds = [(kind, value) for kind, value in kinds if kind in ("IMAGE", "LATENT")]
            finite = all(is_finite(value) for value in values.values())
            # The host's samplers divide by noise levels, and take any that stand on the link.
            finite = finite and isinstance(values.get("sigmas", Model("sigmas")), Model)
            return RESULT, next((text for text in (_bad(*kind, finite) for kind in kinds) if text), None)
        if result.interrupted:
            return STOPPED, None
        if result.error is None:
            return None, "the run came to no end, and nothing was said of it"
        outcome, complaint = self._judge_error(result, node, values)
        return outcome, complaint or _left_behind(left)

    def _judge_refusal(self, refusal, values):
        """Judge why the host ran nothing: its own reasons are its own, what a node of the pack says is judged."""
        outcome = HOST_REFUSAL
        if not refusal["node_errors"]:
            return outcome, f"no node was refused: {refusal['message']} {refusal['details']}"
        for node in refusal["node_errors"].values():
            for reason in node["errors"]:
                kind, details, more = reason["type"], reason["details"], reason["extra_info"]
                if kind.startswith(_CRASH_IN_CHECK):
                    return outcome, f"{more['exception_type']} in the check of the inputs: {details[:300]!r}"
                if kind == "custom_validation_failed" and is_ours(self.node_class(node["class_type"])):
                    outcome, name = SENTENCE, more["input_name"]
                    message = details.removeprefix(f"{name} - ")
                    complaint = _not_a_sentence(message, values, f"the check of {name}")
                    if complaint:
                        return outcome, complaint
        return outcome, None

    def _judge_error(self, result, node, values):
        frames = [
            (Path(path).resolve(), line, function)
            for path, line, function in _FRAME.findall("".join(result.error["traceback"]))
        ]
        ours = [any(folder in path.parents for folder in PACK) for path, _, _ in frames]
        if not any(
            mine and path.name not in PASSING_ON for mine, (path, _, _) in zip(ours, frames, strict=True)
        ):
            return HOST_ERROR, None
        message = result.error_message
        place = " < ".join(f"{path.name}:{line} {function}" for path, line, function in frames[:-4:-1])
        if not ours[-1]:
            return (
                SENTENCE,
                f"{result.error['exception_type']} from outside the pack, {place}: {message[:300]!r}",
            )
        return SENTENCE, _not_a_sentence(message, values, place)

    def _files(self):
        folders = [self.bench.host.base / name for name in ("output", "temp")]
        # The folder that a filename_prefix names is made before the work; one of parts is the work's.
        return {
            path
            for folder in folders
            for path in folder.rglob("*")
            if not path.is_dir() or path.suffix == ".parts"
        }

    @staticmethod
    def _remove(paths):
        for path in paths:
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)


def is_ours(node_class):
    """Tell whether a node is one of the pack's."""
    return getattr(node_class, "RELATIVE_PYTHON_MODULE", "").startswith("custom_nodes")


@contextlib.contextmanager
def memory_cap(spare):
    """Let this process take only so many bytes more, where the system can limit it: what asks for more is refused."""
    try:
        import resource

        pages = int(Path("/proc/self/statm").read_text().split()[0])
    except (ImportError, OSError):
        yield
        return
    limits = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + spare, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limits)


def _not_a_sentence(message, values, place):
    """Say what is wrong with the pack's own words on an example's inputs, or None."""
    # What the user gave is quoted as it is; the sentence around it is what counts.
    bare = message
    for value in sorted(
        (value for value in values.values() if isinstance(value, str)), key=len, reverse=True
    ):
        bare = bare.replace(repr(value), "it")
        for quoted in (value, repr(value)[1:-1]):
            bare = bare.replace(quoted, "it") if len(quoted) > 3 else bare
        # Quoted as far as it is of use.
        start = re.escape(repr(value[:9])[1:-1])
        bare = re.sub(f"(['\"]){start}[^…]*…\\1", "it", bare) if value else bare
    if not is_one_sentence(bare):
        return f"no sentence at {place}: {message[:300]!r}"
    if len(bare) > 600:
        return f"a very long sentence at {place}: {message[:300]!r}"
    return None


def _left_behind(paths):
    return f"{paths[0]} was left behind" if paths else None


def _copy(value):
    """Copy what a node must not change: tensors, and the lists and dictionaries around them."""
    if isinstance(value, torch.Tensor):
        return value.detach().clone()
    if isinstance(value, list | tuple):
        return [_copy(item) for item in value]
    if isinstance(value, dict):
        return {key: _copy(item) for key, item in value.items()}
    return value


def _same(value, copy):
    if isinstance(value, torch.Tensor):
        value = value.detach()
        # NaN equals NaN here.
        return value.shape == copy.shape and bool(
            ((value == copy) | ((value != value) & (copy != copy))).all()
        )
    if isinstance(value, list | tuple):
        return len(value) == len(copy) and all(map(_same, value, copy))
    if isinstance(value, dict):
        return value.keys() == copy.keys() and all(_same(value[key], copy[key]) for key in value)
    return value is copy


def _bad(kind, value, finite):
    """Say what is wrong with a node's output of a type, or None."""
    check = _CHECKS.get(str(kind))
    if check is None:
        return None
    try:
        problem = check(value, finite)
    except Exception:
        problem = traceback.format_exc(limit=1)
    return f"bad {kind}: {problem}" if problem else None


def _bad_image(frames, finite):
    if frames.ndim != 4 or frames.shape[-1] != 3 or 0 in frames.shape or frames.dtype != torch.float32:
        return f"{frames.dtype} {list(frames.shape)}"
    if finite and not torch.isfinite(frames).all():
        return "not finite"
    return None


def _bad_latent(latent, finite):
    samples = latent["samples"]
    if samples.ndim != 5 or samples.shape[1] != 4:
        return str(list(samples.shape))
    if finite and not torch.isfinite(samples).all():
        return "not finite"
    return None


def _bad_conditioning(conditioning, finite):
    for states, options in conditioning:
        if states.ndim != 3:
            return str(list(states.shape))
        if finite and not torch.isfinite(states).all():
            return "states not finite"
        inpaint = options.get("easyanimate_inpaint")
        if finite and inpaint is not None and not torch.isfinite(inpaint).all():
            return "frames not finite"
    return None


def _bad_sigmas(sigmas, _finite):
    falling = (
        sigmas.ndim == 1 and bool((sigmas[1:] <= sigmas[:-1]).all()) and bool(torch.isfinite(sigmas).all())
    )
    return None if falling else str(sigmas)


def _bad_embeds(output, finite):
    embeds = output["image_embeds"]
    return "not finite" if finite and not torch.isfinite(embeds).all() else None


_CHECKS = {
    "IMAGE": _bad_image,
    "LATENT": _bad_latent,
    "CONDITIONING": _bad_conditioning,
    "SIGMAS": _bad_sigmas,
    "CLIP_VISION_OUTPUT": _bad_embeds,
    "VIDEO": lambda video, _finite: None if video.get_dimensions()[0] else "no size",
}
