"""The stages of a workflow, each as a graph whose last node runs anew every time while all before it is cached."""

import copy
import itertools
import json
from pathlib import Path

import av
import comfy_node_inputs as inputs
import torch
from fault_injection import Allocator, same
from graphs import Graph
from safetensors.torch import load_file, save_file

from devtools import tiny_checkpoint, tiny_lora
from easyanimate_core.video.journal import read_journal

SIZE = {"width": 32, "height": 32, "length": 8}
SEGMENTS = 2
_names = (f"fault{number}" for number in itertools.count())


class Fresh:
    """Hands a value on and is never cached, so that the node behind it runs."""

    INPUT_TYPES = classmethod(lambda cls: {"required": {"value": (inputs.ANY, {})}})
    RETURN_TYPES, FUNCTION, CATEGORY = (inputs.ANY,), "run", "test"

    @classmethod
    def IS_CHANGED(cls, **_values):
        return float("nan")

    def run(self, value):
        return (value,)


def _fresh(graph, value):
    return graph.add("TestFresh", value=value)


def _picture(graph):
    return _fresh(graph, graph.picture())


def _given(graph, value):
    return _fresh(graph, graph.add("TestGive", key=inputs.give(value).key))


def _frames(graph, count, width=32):
    """Add frames that differ."""
    return _given(graph, torch.rand(count, 32, width, 3, generator=torch.Generator().manual_seed(count)))


def _clip(graph, loader, **size):
    return graph.clip(loader, start=graph.picture(), embed=True, **SIZE | size)


def _load(graph):
    return graph.load(_given(graph, tiny_checkpoint.NAME))


def _load_transformer(graph):
    import folder_paths

    # EasyAnimateV3VAELoader is no stage: it makes no tensor, since all of its file is mapped.
    models = Path(folder_paths.models_dir)
    [file] = (models / "EasyAnimate" / tiny_checkpoint.NAME / "transformer").glob("*.safetensors")
    (models / "diffusion_models").mkdir(exist_ok=True)
    name = "fault_transformer.safetensors"
    metadata = {"config": json.dumps(tiny_checkpoint.transformer_config())}
    save_file(load_file(file), models / "diffusion_models" / name, metadata)
    return graph.add(
        "EasyAnimateV3TransformerLoader", transformer_name=_given(graph, name), weight_dtype="default"
    )


def _resize(graph):
    return graph.add("EasyAnimateV3ResizeToBucket", image=_frames(graph, 2, width=48), base=64)


def _fit(graph):
    return graph.add("EasyAnimateV3FitImage", image=_frames(graph, 2), width=48, height=32)


def _sigmas(graph):
    return graph.add("EasyAnimateV3Sigmas", sampler_name="PNDM", steps=_given(graph, 4), denoise=0.8)


def _text(graph):
    return graph.text(_fresh(graph, graph.load()[1]))


def _image(graph):
    return graph.add("EasyAnimateV3ImageEncode", clip_vision=graph.load()[3], image=_picture(graph))


def _conditioning(graph):
    return graph.clip(graph.load(), start=_picture(graph), **SIZE)


def _first_and_last(graph):
    loader = graph.load()
    first, last = graph.picture(), graph.picture(color=0xC08040)
    # The embeddings do not run anew with the picture.
    embedded = [
        graph.add("EasyAnimateV3ImageEncode", clip_vision=loader[3], image=image) for image in (first, last)
    ]
    return graph.clip(
        loader,
        start=_fresh(graph, first),
        end_image=last,
        clip_vision_output=embedded[0],
        clip_vision_output_end=embedded[1],
        clip_mix=0.5,
        **SIZE,
    )


def _encode(graph, tiling=True):
    return graph.add("EasyAnimateV3VAEEncode", pixels=_picture(graph), vae=graph.load()[2], tiling=tiling)


def _core_encode(graph):
    return graph.add("VAEEncode", pixels=_picture(graph), vae=graph.load()[2])


def _sample(graph, name="Euler", steps=2):
    loader = graph.load()
    return graph.sample(_fresh(graph, loader), _clip(graph, loader), sampler_name=name, steps=steps)


def _lora(graph):
    loader = graph.load()
    model = graph.add(
        "EasyAnimateV3LoraLoader",
        model=loader,
        lora_name=tiny_lora.NAME,
        strength_model=1.0,
        strength_clip=1.0,
    )
    return graph.sample(_fresh(graph, model), _clip(graph, loader))


def _ksampler(graph):
    loader = graph.load()
    return graph.ksample(_fresh(graph, loader), _clip(graph, loader))


def _sampler_custom(graph):
    loader = graph.load()
    return graph.sample_custom(_fresh(graph, loader), _clip(graph, loader))


def _latent(graph, loader, **size):
    return _fresh(graph, graph.sample(loader, _clip(graph, loader, **size), steps=1, cfg=1.0))


def _decode(graph, length=8):
    loader = graph.load()
    samples = _latent(graph, loader, length=length)
    return graph.add("EasyAnimateV3VAEDecode", samples=samples, vae=loader[2], smoothing=True, tiling=True)


def _core_decode(graph):
    loader = graph.load()
    return graph.add("VAEDecode", samples=_latent(graph, loader), vae=loader[2])


def _segments(graph, node, model, **options):
    loader = graph.load()
    return graph.add(
        node,
        model=loader if model is None else model,
        clip=loader[1],
        vae=loader[2],
        negative=graph.text(loader[1], ""),
        prompts="A dog\nA cat",
        width=32,
        height=32,
        partial_length=8,
        overlap=2,
        segments=SEGMENTS,
        total_length=0,
        seed=3,
        steps=1,
        cfg=1.0,
        sampler_name="Euler",
        smoothing=True,
        overlap_mix="linear",
        drift_control="mean_std",
        drift_strength=1.0,
        drift_scope="overlap",
        clip_apply_ratio=0.5,
        clip_vision=loader[3],
        **options,
    )


def _extend(graph):
    return _segments(graph, "EasyAnimateV3ExtendVideo", None, start_image=_picture(graph))


def _blend(graph):
    return graph.add(
        "EasyAnimateV3BlendOverlap",
        previous=_frames(graph, 1),
        next=_frames(graph, 6),
        overlap_mix="ease",
        drift_control="histogram",
        drift_strength=1.0,
        drift_scope="overlap",
    )


def _join(graph):
    segments = {f"segment_000{index}": _frames(graph, 3 + index) for index in range(2)}
    return graph.add("EasyAnimateV3JoinSegments", overlap=2, video=_frames(graph, 4), **segments)


def _save_video(graph):
    return graph.add(
        "EasyAnimateV3SaveVideo", images=_frames(graph, 5), filename_prefix="fault_save/clip", fps=24.0, crf=1
    )


def _long_video(graph):
    return _segments(
        graph,
        "EasyAnimateV3LongVideo",
        graph.add("TestCountCalls", model=graph.load()),
        video=_frames(graph, 6),
        filename_prefix="fault_long/clip",
        fps=24.0,
        crf=1,
        if_unfinished="resume",
    )


STAGES = {
    "load": _load,
    "load transformer": _load_transformer,
    "text": _text,
    "image": _image,
    "resize": _resize,
    "fit": _fit,
    "conditioning": _conditioning,
    "first and last": _first_and_last,
    "encode": _encode,
    "VAEEncode": _core_encode,
    "sigmas": _sigmas,
    "Euler": _sample,
    "DPM++": lambda graph: _sample(graph, "DPM++"),
    "PNDM": lambda graph: _sample(graph, "PNDM", steps=4),
    "LoRA": _lora,
    "KSampler": _ksampler,
    "SamplerCustom": _sampler_custom,
    "decode": _decode,
    "smoothed decode": lambda graph: _decode(graph, 16),
    "VAEDecode": _core_decode,
    "blend": _blend,
    "join": _join,
    "extend": _extend,
    "save": _save_video,
    "long video": _long_video,
}
SHORT_STAGES = ("load", "text", "image", "conditioning", "Euler", "KSampler", "decode", "extend", "save")
# The host's own nodes, which do a little outside this pack's models.
CORE = {"VAEEncode", "VAEDecode", "KSampler", "SamplerCustom"}
# Stages whose result is a file.
FILES = {"save", "long video"}
# What has no layers, and what reports no progress; each of the others must, or a fault there was never tried.
NO_LAYERS = {"load", "load transformer", "resize", "fit", "sigmas", "blend", "join", "save"}
NO_TICKS = NO_LAYERS | {"text", "image"}


class Rig:
    """One stage in the host, or what ``build`` adds to a graph, with its first result."""

    def __init__(self, bench, stage, build=None):
        import nodes

        nodes.NODE_CLASS_MAPPINGS["TestFresh"] = Fresh
        self.bench = bench
        self.stage = stage
        self.graph = Graph()
        self.node = (build or STAGES[stage])(self.graph)
        self.name = next(_names)
        self.begin()
        self.expected = self.right()
        self._made = 0

    def begin(self):
        self.graph.add("TestTake", name=self.name, value=self.node)

    def run(self):
        """Run the stage and return the host's result; the value lies in ``taken`` where it came so far."""
        inputs.taken.pop(self.name, None)
        # The host writes into a prompt what it must not find there again.
        return self.bench.host.run(copy.deepcopy(self.graph.prompt))

    def take(self):
        return inputs.taken.pop(self.name, None)

    def right(self):
        """Run the stage, which must end well, and return its value."""
        result = self.run()
        assert result.success, self.bench.explain(result)
        return self.take()

    def made(self):
        """Return how many tensors the stage makes."""
        if not self._made:
            with Allocator() as allocator:
                assert self.run().success
            self.take()
            self._made = allocator.made
            assert self._made, "a stage without tensors tries nothing"
        return self._made

    def keeps_results(self):
        """Tell whether the host holds results of the last run: finished segments, patched weights, what is cached."""
        return (
            self.stage in {"extend", "LoRA"}
            or self.bench.host.executor.caches.outputs.get(self.node.id) is not None
        )

    def check_next(self):
        """The next run gives the first result."""
        assert same(self.right(), self.expected)


class FileRig(Rig):
    """A stage that writes a video: its result is the frames of the file.

    Attributes
    ----------
    resumed : int
        How many runs went on with a video of which some parts, and not all, were finished.
    """

    def begin(self):
        prefix = self.graph.prompt[self.node.id]["inputs"]["filename_prefix"]
        self.final = self.bench.host.base / "output" / f"{prefix}_00001_.mp4"
        self.parts = self.final.with_suffix(".parts")
        self.resumed = 0

    def take(self):
        """Return the frames and remove the file, or return None where there is none; nothing by half may lie there."""
        there = {path.name for path in self.final.parent.glob("*")}
        hidden = [path.name for path in self.final.parent.rglob(".*")]
        assert not hidden, hidden
        if self.final.name not in there:
            assert there <= {self.parts.name}, there
            parts = {path.name for path in self.parts.glob("part_*")}
            assert parts == {f"part_{index:05}.mp4" for index in range(self.finished())}
            assert (self.parts.exists()) == bool(parts), "a folder without parts is left"
            return None
        assert there == {self.final.name}, there
        with av.open(str(self.final)) as video:
            frames = [torch.from_numpy(frame.to_ndarray(format="rgb24")) for frame in video.decode(video=0)]
        self.final.unlink()
        return torch.stack(frames)

    def finished(self):
        """Return how many parts of the video its journal names, the one of the given frames included."""
        if not self.parts.exists():
            return 0
        journal, _, damage = read_journal(self.parts / "journal.json")
        assert not damage
        return len(journal.parts)

    def right(self):
        """Run the stage, which must not make again what is finished."""
        finished, before = self.finished(), self.bench.model_calls
        value = super().right()
        if self.stage == "long video":
            assert self.bench.model_calls - before == SEGMENTS - max(finished - 1, 0)
            self.resumed += finished > 1
        return value


def rig_of(bench, stage):
    """Return the rig of one of ``STAGES``."""
    return (FileRig if stage in FILES else Rig)(bench, stage)
