"""The stages of a workflow, each as a graph whose last node runs anew every time while all before it is cached."""

import copy
import itertools

import comfy_node_inputs as inputs
from fault_injection import Allocator, same
from graphs import Graph

from devtools import tiny_lora

SIZE = {"width": 32, "height": 32, "length": 8}
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


def _clip(graph, loader, **size):
    return graph.clip(loader, start=graph.picture(), embed=True, **SIZE | size)


def _load(graph):
    return graph.load(_fresh(graph, graph.add("TestGive", key=inputs.give("EasyAnimateV3-tiny-random").key)))


def _text(graph):
    return graph.text(_fresh(graph, graph.load()[1]))


def _image(graph):
    return graph.add("EasyAnimateV3ImageEncode", clip_vision=graph.load()[3], image=_picture(graph))


def _conditioning(graph):
    return graph.clip(graph.load(), start=_picture(graph), **SIZE)


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


def _extend(graph):
    loader = graph.load()
    return graph.add(
        "EasyAnimateV3ExtendVideo",
        model=loader,
        clip=loader[1],
        vae=loader[2],
        negative=graph.text(loader[1], ""),
        prompts="A dog\nA cat",
        width=32,
        height=32,
        partial_length=8,
        overlap=2,
        segments=2,
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
        start_image=_picture(graph),
        clip_vision=loader[3],
    )


STAGES = {
    "load": _load,
    "text": _text,
    "image": _image,
    "conditioning": _conditioning,
    "encode": _encode,
    "VAEEncode": _core_encode,
    "Euler": _sample,
    "DPM++": lambda graph: _sample(graph, "DPM++"),
    "PNDM": lambda graph: _sample(graph, "PNDM", steps=4),
    "LoRA": _lora,
    "KSampler": _ksampler,
    "SamplerCustom": _sampler_custom,
    "decode": _decode,
    "smoothed decode": lambda graph: _decode(graph, 16),
    "VAEDecode": _core_decode,
    "extend": _extend,
}
SHORT_STAGES = ("load", "text", "image", "conditioning", "Euler", "KSampler", "decode", "extend")
# The host's own nodes, which do a little outside this pack's models.
CORE = {"VAEEncode", "VAEDecode", "KSampler", "SamplerCustom"}


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
        self.graph.add("TestTake", name=self.name, value=self.node)
        self.expected = self.right()
        self._made = 0

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
                self.check_next()
            self._made = allocator.made
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
