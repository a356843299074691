"""Graphs in the host's API format, and a bench that runs them with objects handed in and out."""

import itertools
import re
import sys

import comfy_node_inputs as inputs
import torch

from devtools import tiny_checkpoint

PROMPT = "A dog running in the park"
NEGATIVE = "blurry"


class Node:
    """A node of a graph; ``node[i]`` is its output ``i``, the node itself stands for output 0."""

    def __init__(self, node_id):
        self.id = node_id

    def __getitem__(self, output):
        if output > 9:
            raise IndexError
        return [self.id, output]


class Graph:
    """An API-format prompt under construction."""

    def __init__(self):
        self.prompt = {}

    def add(self, class_type, **inputs):
        node = Node(str(len(self.prompt) + 1))
        inputs = {name: value[0] if isinstance(value, Node) else value for name, value in inputs.items()}
        self.prompt[node.id] = {"class_type": class_type, "inputs": inputs}
        return node

    def load(self, checkpoint=tiny_checkpoint.NAME, weight_dtype="default"):
        return self.add("EasyAnimateV3Loader", checkpoint=checkpoint, weight_dtype=weight_dtype)

    def text(self, clip, text=PROMPT, clean=True):
        return self.add("EasyAnimateV3TextEncode", clip=clip, text=text, clean=clean)

    def picture(self, width=32, height=32, color=0x4080C0):
        return self.add("EmptyImage", width=width, height=height, batch_size=1, color=color)

    def frames(self, positive, negative, vae, width=32, height=32, length=8, batch_size=1, **images):
        return self.add(
            "EasyAnimateV3ImageToVideo",
            positive=positive,
            negative=negative,
            vae=vae,
            width=width,
            height=height,
            length=length,
            batch_size=batch_size,
            **images,
        )

    def clip(self, loader, start=None, embed=False, **options):
        """Add prompts and EasyAnimateV3ImageToVideo: positive, negative, latent of a clip."""
        if start is not None:
            options["start_image"] = start
        if embed:
            options["clip_vision_output"] = self.add(
                "EasyAnimateV3ImageEncode", clip_vision=loader[3], image=start
            )
        return self.frames(self.text(loader[1]), self.text(loader[1], NEGATIVE), loader[2], **options)

    def sample(self, model, clip, latent=None, **options):
        """Add EasyAnimateV3Sampler."""
        options = {
            "seed": 3,
            "steps": 2,
            "cfg": 7.0,
            "sampler_name": "Euler",
            "denoise": 1.0,
            "clip_apply_ratio": 0.5,
        } | options
        return self.add("EasyAnimateV3Sampler", **_sampled(model, clip, latent), **options)

    def ksample(self, model, clip, latent=None, **options):
        """Add the host's own KSampler."""
        options = {
            "seed": 3,
            "steps": 2,
            "cfg": 7.0,
            "sampler_name": "euler",
            "scheduler": "normal",
            "denoise": 1.0,
        } | options
        return self.add("KSampler", **_sampled(model, clip, latent), **options)

    def sample_custom(self, model, clip, sampler="euler", latent=None, sigmas=None, **options):
        """Add the host's SamplerCustom on EasyAnimateV3Sigmas of the options, or on ``sigmas``."""
        if sigmas is None:
            names = ("sampler_name", "steps", "denoise")
            chosen = {"sampler_name": "Euler", "steps": 2, "denoise": 1.0} | options
            sigmas = self.add("EasyAnimateV3Sigmas", **{name: chosen[name] for name in names})
        return self.add(
            "SamplerCustom",
            **_sampled(model, clip, latent),
            add_noise=True,
            noise_seed=3,
            cfg=7.0,
            sampler=self.add("KSamplerSelect", sampler_name=sampler),
            sigmas=sigmas,
        )


def _sampled(model, clip, latent):
    return {
        "model": model,
        "positive": clip[0],
        "negative": clip[1],
        "latent_image": clip[2] if latent is None else latent,
    }


class Bench:
    """The host with nodes to give objects to a graph, to keep results of it and to count model calls."""

    def __init__(self, host):
        import nodes

        self.host = host
        # Kept by the host, since there can be a bench for each folder of tests, and the last one's node counts.
        host.model_calls = getattr(host, "model_calls", 0)
        self._names = (f"bench{number}" for number in itertools.count())
        inputs.register(host)
        nodes.NODE_CLASS_MAPPINGS["TestCountCalls"] = _count_node(self)

    @property
    def model_calls(self):
        return self.host.model_calls

    def core(self, name):
        """Return a module of the pack's ``easyanimate_core``, as the host imported it."""
        return sys.modules[f"{self.host.pack_module.__name__}.easyanimate_core.{name}"]

    def give(self, graph, value):
        """Add a node whose output is ``value``."""
        return graph.add("TestGive", key=inputs.give(value).key)

    def give_latent(self, graph, samples, **entries):
        return self.give(graph, {"samples": samples, **entries})

    def run(self, graph):
        result = self.host.run(graph.prompt)
        assert result.success, self.explain(result)
        return result

    def value(self, graph, *links):
        """Run the graph and return what goes over the link, or over each of several."""
        _, values = self.outcome(graph, *links)
        return values[0] if len(links) == 1 else values

    def outcome(self, graph, *links):
        """Run the graph and return the run's result and the list of what goes over the links."""
        names = [self._take(graph, link) for link in links]
        result = self.run(graph)
        return result, [inputs.taken.pop(name) for name in names]

    def latent(self, graph, link):
        """Run the graph and return the finite samples of a LATENT link."""
        samples = self.value(graph, link)["samples"]
        assert torch.isfinite(samples).all()
        return samples

    def refusal(self, graph, link):
        """Run the graph, which must fail in the link's node, and return the node's one sentence."""
        self._take(graph, link)
        result = self.host.run(graph.prompt)
        assert not result.success, "the run was expected to fail"
        assert result.error is not None, result.error_message
        assert result.error["node_id"] == (link.id if isinstance(link, Node) else link[0]), (
            result.error_message
        )
        message = result.error_message
        assert is_one_sentence(message), message
        return message

    def _take(self, graph, link):
        name = next(self._names)
        graph.add("TestTake", name=name, value=link)
        return name

    @staticmethod
    def explain(result):
        return result.error_message + "".join((result.error or {}).get("traceback", []))


def is_one_sentence(message):
    """Tell whether a message is one line with one full stop, at its end."""
    return message.endswith(".") and "\n" not in message and not re.search(r"[.!?]\s+[A-Z]", message)


def _count_node(bench):
    class CountCalls:
        INPUT_TYPES = classmethod(lambda cls: {"required": {"model": ("MODEL",)}})
        RETURN_TYPES, FUNCTION, CATEGORY = ("MODEL",), "run", "test"

        def run(self, model):
            def count(apply_model, arguments):
                bench.host.model_calls += 1
                return apply_model(arguments["input"], arguments["timestep"], **arguments["c"])

            model = model.clone()
            model.set_model_unet_function_wrapper(count)
            return (model,)

    return CountCalls
