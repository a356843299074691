"""A host in which a stranger's model runs before the pack is loaded, beside it, and after its workflows.

``python coexistence_host.py BASE RESULT WORKFLOW...`` writes JSON: what each step changed in the process, whether the
stranger's results stayed the same, and what the host's registries gained.
"""

import hashlib
import json
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "host")]

import torch  # noqa: E402


def unet():
    """Return a MODEL of the host's own U-Net of Stable Diffusion 1.5, made tiny, with random weights."""
    import comfy.model_patcher
    import comfy.supported_models

    dimensions = {
        "image_size": 32,
        "in_channels": 4,
        "out_channels": 4,
        "model_channels": 32,
        "num_res_blocks": [1, 1],
    }
    dimensions |= {"channel_mult": [1, 2], "num_heads": 2, "use_spatial_transformer": True, "context_dim": 16}
    dimensions |= {
        "transformer_depth": [1, 1],
        "transformer_depth_output": [1, 1, 1, 1],
        "transformer_depth_middle": 1,
    }
    dimensions |= {
        "use_linear_in_transformer": False,
        "adm_in_channels": None,
        "use_temporal_attention": False,
    }
    return _model(comfy.supported_models.SD15(dimensions | {"dtype": torch.float32}))


def video_transformer():
    """Return a MODEL of the host's own video transformer Wan 2.1, made tiny, with random weights."""
    import comfy.supported_models

    dimensions = {
        "image_model": "wan2.1",
        "model_type": "t2v",
        "dim": 48,
        "ffn_dim": 64,
        "num_heads": 2,
        "num_layers": 2,
    }
    dimensions |= {
        "text_dim": 16,
        "freq_dim": 32,
        "in_dim": 16,
        "out_dim": 16,
        "patch_size": (1, 2, 2),
        "text_len": 8,
    }
    return _model(comfy.supported_models.WAN21_T2V(dimensions | {"dtype": torch.float32}))


def _model(config):
    import comfy.model_patcher

    config.set_inference_dtype(torch.float32, None)
    model = config.get_model({}, device=torch.device("cpu"))
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in model.diffusion_model.parameters():
            parameter.normal_(0, 0.05, generator=generator)
    device = torch.device("cpu")
    return comfy.model_patcher.ModelPatcher(model.eval(), load_device=device, offload_device=device)


def latent_autoencoder():
    """Return a VAE of the host's own tiny autoencoder with random weights."""
    import comfy.sd
    import comfy.taesd.taesd

    tiny = comfy.taesd.taesd.TAESD(latent_channels=4)
    generator = torch.Generator().manual_seed(6)
    weights = {}
    for name, tensor in tiny.state_dict().items():
        weights[name] = torch.randn(tensor.shape, generator=generator) * 0.1
    return comfy.sd.VAE(sd=weights)


class Stranger:
    """Models of other kinds than ours, on the host's own nodes."""

    def __init__(self, bench):
        self.bench = bench
        self.unet, self.video, self.vae = unet(), video_transformer(), latent_autoencoder()
        generator = torch.Generator().manual_seed(7)
        self.texts = [[[torch.randn(1, 8, 16, generator=generator), {}]] for _ in range(2)]

    def results(self):
        """Sample a picture and a clip, decode and save, and return the digests of all tensors."""
        from graphs import Graph

        graph = Graph()
        clip = [self.bench.give(graph, text) for text in self.texts]
        picture = self.bench.give_latent(graph, torch.zeros(1, 4, 8, 8))
        frames = self.bench.give_latent(graph, torch.zeros(1, 16, 3, 8, 8))
        sampled = graph.ksample(self.bench.give(graph, self.unet), [*clip, picture])
        stochastic = graph.ksample(
            self.bench.give(graph, self.unet),
            [*clip, picture],
            sampler_name="euler_ancestral",
            scheduler="karras",
        )
        video = graph.ksample(self.bench.give(graph, self.video), [*clip, frames], cfg=3.0)
        decoded = graph.add("VAEDecode", samples=sampled, vae=self.bench.give(graph, self.vae))
        graph.add("PreviewImage", images=decoded)
        graph.add(
            "SaveVideo",
            video=graph.add("CreateVideo", images=decoded, fps=8.0),
            filename_prefix="stranger",
            format="auto",
            codec="auto",
        )
        self.bench.host.forget()
        links = (sampled, stochastic, video, decoded)
        values = self.bench.value(graph, *links)
        tensors = [value["samples"] if isinstance(value, dict) else value for value in values]
        assert all(torch.isfinite(tensor).all() and tensor.std() > 0 for tensor in tensors)
        return [hashlib.sha256(tensor.contiguous().numpy().tobytes()).hexdigest() for tensor in tensors]


def prompts_of(names):
    """Return shipped workflows as prompts of the host's API, on the checkpoint in the pack."""
    import nodes as host_nodes

    from devtools import workflows

    info = {name: node_info(host_nodes.NODE_CLASS_MAPPINGS[name]) for name in host_nodes.NODE_CLASS_MAPPINGS}
    files = {name: ROOT / "workflows" / f"{name}.json" for name in names}
    return {
        name: workflows.to_api(json.loads(file.read_text(encoding="utf-8")), info)
        for name, file in files.items()
    }


def run(host, prompt):
    """Run a prompt, which must succeed."""
    result = host.run(prompt)
    assert result.success, result.error_message


def node_info(kind):
    """Return what the server tells of a node's inputs."""
    from comfy_api.internal import _ComfyNodeInternal

    if issubclass(kind, _ComfyNodeInternal):
        return kind.GET_NODE_INFO_V1()
    inputs = kind.INPUT_TYPES()
    return {"input": inputs, "input_order": {group: list(values) for group, values in inputs.items()}}


def registries():
    """Return what the host's registries hold, by name."""
    import folder_paths
    import nodes
    import server

    instance = server.PromptServer.instance
    return {
        "nodes": sorted(nodes.NODE_CLASS_MAPPINGS),
        "folders": {name: list(paths) for name, (paths, _) in folder_paths.folder_names_and_paths.items()},
        "web": dict(nodes.EXTENSION_WEB_DIRS),
        "routes": [f"{route.method} {route.path}" for route in instance.routes],
        "handlers": [str(handler) for handler in instance.on_prompt_handlers],
    }


def main(base, result, names):
    # The last one only so that it does not count as imported by a run.
    from devtools import base_directory, host_state, workflows  # noqa: F401
    from devtools.inprocess_host import InProcessHost

    torch.set_num_threads(1)
    stub = base / "stub"
    stub.mkdir(parents=True)
    (stub / "__init__.py").write_text("NODE_CLASS_MAPPINGS = {}\n")
    (stub / "pyproject.toml").write_text('[project]\nname = "stub"\n')
    base_directory.prepare(base, False)
    host = InProcessHost(base, stub)
    import nodes
    from graphs import Bench

    stranger = Stranger(Bench(host))

    def take():
        # Of what the test itself keeps nothing is the host's.
        return host_state.take(
            lambda name: name.startswith(("devtools", "graphs", "comfy_node_inputs", "__main__"))
        )

    report = {"changes": {}, "results": [stranger.results()], "registries": [registries()]}
    stages, modules = [take()], [set(sys.modules)]

    def stage(name, act):
        act()
        stages.append(take())
        modules.append(set(sys.modules))
        report["changes"][name] = host_state.changes(*stages[-2:])
        report.setdefault("modules", {})[name] = sorted(modules[-1] - modules[-2])

    stage("host", lambda: report["results"].append(stranger.results()))
    stage(
        "load",
        lambda: host.loop.run_until_complete(nodes.load_custom_node(str(ROOT), module_parent="custom_nodes")),
    )
    report["registries"].append(registries())
    stage("beside", lambda: report["results"].append(stranger.results()))
    prompts = prompts_of(names)
    stages[-1], modules[-1] = take(), set(sys.modules)
    for name, prompt in prompts.items():
        stage(name, lambda prompt=prompt: run(host, prompt))
    stage("after", lambda: report["results"].append(stranger.results()))
    report["registries"].append(registries())
    report["size"] = len(stages[0])
    from comfy_api.internal import _ComfyNodeInternal

    report["ours"] = {
        name: [kind.GET_NODE_INFO_V1()["category"], nodes.NODE_DISPLAY_NAME_MAPPINGS[name]]
        for name, kind in nodes.NODE_CLASS_MAPPINGS.items()
        if issubclass(kind, _ComfyNodeInternal) and kind.RELATIVE_PYTHON_MODULE.startswith("custom_nodes.")
    }
    result.write_text(json.dumps(report, indent=1))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:])
