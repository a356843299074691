"""Beside other packs: what loading and running this pack changes in the host, and what other packs change for it.

Other packs are tried from a folder of checkouts, which the environment variable EASYANIMATE_OTHER_PACKS names.
"""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from forms import LONG, either
from graphs import Graph

from devtools.environment import ROOT

PROGRAM = Path(__file__).with_name("coexistence_host.py")
PREFIX = "EasyAnimateV3"
WORKFLOWS = (
    "text_to_video",
    "first_last_frame",
    "text_to_image",
    "video_to_video",
    "lora",
    "extend_video",
    "long_video",
    "text_to_video_stock",
    "image_to_video_stock",
    "image_to_video",
)
NAMED = {"ComfyUI-VideoHelperSuite", "ComfyUI-KJNodes", "ComfyUI-GGUF", "ComfyUI-Manager"}
# What the host itself changes whenever a prompt runs, whoever's the nodes are.
OF_EVERY_RUN = {
    r"comfy_execution\.progress:global_progress_registry": "progress of the prompt that runs",
    r"comfy_execution\.graph_utils:GraphBuilder\._default_prefix_(root|call_index|graph_index)": "ids of sub-graphs",
    r"comfy_execution\.caching:NODE_CLASS_CONTAINS_UNIQUE_ID\['\w+'\]": "which nodes ask for their id",
    r"comfy\.model_management:current_loaded_models": "models in memory",
    r"folder_paths:filename_list_cache\['\w+'\]": "files in the model folders",
    r"(comfy_extras|nodes|server|/).*\.SCHEMA": "description of a node, made when it is first asked for",
    # Python's own, none of which changes what anything does.
    r"linecache:cache\[.*\]": "lines of source files",
    r"encodings:_cache\['\w+'\]": "codecs that were looked up",
    r"sys:path_importer_cache\[.*\]": "folders that were imported from",
    r"tempfile:_name_sequence": "the first temporary file of the process",
}
OF_LOADING = OF_EVERY_RUN | {
    rf"nodes:NODE_CLASS_MAPPINGS\['{PREFIX}\w+'\]": "the nodes",
    rf"nodes:NODE_DISPLAY_NAME_MAPPINGS\['{PREFIX}\w+'\]": "their names",
    r"nodes:EXTENSION_WEB_DIRS\['PACK'\]": "folder of the help pages",
    r"nodes:LOADED_MODULE_DIRS\['PACK'\]": "folder of the pack, which the templates are looked for in",
    r"(folder_paths|api_server\.routes\.internal\.internal_routes):folder_names_and_paths\['EasyAnimate'\]": "the folder "
    "of checkpoints",
    r"(folder_paths|api_server\.routes\.internal\.internal_routes):folder_names_and_paths\['loras'\]": "the LoRA that the "
    "pack brings, in a folder after the user's own",
}
OF_RUNNING = OF_EVERY_RUN | {
    r"random:torch": "KSampler seeds torch's generator with its seed, and the pack's sampler does so the same way",
    r"random:python": "names of temporary previews",
}
# Modules that a load or a run may be the first to import: Python's own, and what requirements.txt names.
MODULES = {
    *sys.stdlib_module_names,
    "torch",
    "safetensors",
    "numpy",
    "tokenizers",
    "imageio_ffmpeg",
    "comfy_extras",
}


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """What coexistence_host.py tells."""
    folder = tmp_path_factory.mktemp("coexistence")
    result = folder / "report.json"
    names = either(WORKFLOWS[-2:], WORKFLOWS)
    done = subprocess.run(
        [sys.executable, PROGRAM, folder / "base", result, *names],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=1800,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(result.read_text())


def unexplained(changes, reasons):
    patterns = [re.compile(pattern.replace("PACK", re.escape(ROOT.name))) for pattern in reasons]
    return {name: change for name, change in changes.items() if not any(p.fullmatch(name) for p in patterns)}


def test_loading_changes_only_registries_of_the_host(report, figure):
    assert unexplained(report["changes"]["load"], OF_LOADING) == {}
    assert report["size"] > 100_000
    figure("coexistence: names compared in the process", report["size"])
    figure("coexistence: names that loading changes beside the host's registries", 0)


def test_running_changes_nothing_that_the_host_does_not(report, figure):
    stages = set(report["changes"]) - {"host", "load", "beside", "after"}
    assert len(stages) == either(2, len(WORKFLOWS))
    for name in stages:
        assert unexplained(report["changes"][name], OF_RUNNING) == {}, name
    # The pack's sampler leaves torch's generator where KSampler leaves it.
    assert "random:torch" not in report["changes"]["image_to_video"]
    figure("coexistence: workflows run, names that they change and the host would not", [len(stages), 0])


def test_other_models_give_the_same_before_beside_and_after(report):
    before, *others = report["results"]
    assert len(set(before)) == len(before) == 4
    assert others == [before] * 3
    for name in ("beside", "after"):
        assert unexplained(report["changes"][name], OF_RUNNING) == {}, name


def test_only_what_the_pack_needs_is_imported(report):
    own = re.compile(re.escape(str(ROOT).replace(".", "_x_")) + r"(\..*)?")
    for stage, names in report["modules"].items():
        foreign = {name for name in names if not own.fullmatch(name) and name.split(".")[0] not in MODULES}
        assert foreign == set(), stage


def test_registries_gain_only_what_is_ours(report):
    before, after, end = report["registries"]
    assert end == after
    ours = set(after["nodes"]) - set(before["nodes"])
    assert set(before["nodes"]) < set(after["nodes"])
    assert ours == set(report["ours"])
    for name, (category, title) in report["ours"].items():
        assert name.startswith(PREFIX)
        assert title.startswith(f"{PREFIX} ")
        assert category.startswith(f"{PREFIX}/")
    assert after["routes"] == before["routes"]
    assert after["handlers"] == before["handlers"]
    assert after["web"].items() - before["web"].items() == {(ROOT.name, str(ROOT / "web"))}
    # A script there would run in everyone's browser.
    assert [path for path in (ROOT / "web").rglob("*.js")] == []
    gained = {name: paths for name, paths in after["folders"].items() if paths != before["folders"].get(name)}
    assert gained.keys() == {"EasyAnimate", "loras"}
    assert gained["loras"] == [*before["folders"]["loras"], str(ROOT / "assets" / "loras")]


BREAKS = {
    "json:dumps": "json.dumps = lambda value: ''",
    "json:dumps()": "json.dumps.__code__ = (lambda *a, **k: '').__code__",
    "json.encoder:JSONEncoder.encode": "json.encoder.JSONEncoder.encode = lambda self, value: ''",
    "mimetypes:types_map['.txt']": "mimetypes.types_map['.txt'] = 'text/html'",
    "mimetypes:knownfiles": "mimetypes.knownfiles.append('more')",
    "mimetypes:added": "mimetypes.added = 1",
    "logging:logger root": "logging.basicConfig(level=10)",
    "logging:logger stranger": "logging.getLogger('stranger').setLevel(10)",
    "environment:variable EASYANIMATE_BROKEN": "os.environ['EASYANIMATE_BROKEN'] = '1'",
    "environment:working folder": "os.chdir('/')",
    "environment:umask": "os.umask(0o7)",
    "interpreter:sys.path": "sys.path.insert(0, 'there')",
    "interpreter:sys.meta_path": "sys.meta_path.reverse()",
    "interpreter:sys.excepthook": "sys.excepthook = print",
    "interpreter:warnings.filters": "warnings.simplefilter('ignore')",
    "interpreter:signal 2": "signal.signal(2, lambda *_: None)",
    "interpreter:at exit": "atexit.register(print)",
    "interpreter:threads": "threading.Thread(target=time.sleep, args=(99,), daemon=True).start()",
    "random:python": "random.random()",
    "random:numpy": "numpy.random.rand()",
    "random:torch": "torch.rand(1)",
    "torch:get_default_dtype": "torch.set_default_dtype(torch.float64)",
    "torch:get_num_threads": "torch.set_num_threads(torch.get_num_threads() + 1)",
    "torch:is_grad_enabled": "torch.set_grad_enabled(False)",
    "torch:are_deterministic_algorithms_enabled": "torch.use_deterministic_algorithms(True)",
    "torch:get_float32_matmul_precision": "torch.set_float32_matmul_precision('medium')",
    "torch:backends.cudnn.benchmark": "torch.backends.cudnn.benchmark = True",
    "torch:sdp flash": "torch.backends.cuda.enable_flash_sdp(False)",
    "torch:flushes denormals": "torch.set_flush_denormal(True)",
    "torch.nn.functional:gelu": "torch.nn.functional.gelu = torch.nn.functional.relu",
    "torch.nn.modules.linear:Linear.forward": "torch.nn.Linear.forward = lambda self, x: x",
    "torch:Tensor.to": "torch.Tensor.to = lambda self, *a: self",
    "torch.nn.modules.module:_global_forward_hooks": "torch.nn.modules.module.register_module_forward_hook(print)",
}


def test_every_kind_of_change_is_seen(tmp_path):
    lines = [
        "import atexit, json, logging, mimetypes, numpy, os, random, signal, sys, threading, time, torch, warnings",
        "from devtools import host_state",
        "take = lambda: host_state.take(lambda module: module == '__main__')",
        "_, first, second = take(), take(), take()",
        f"for line in {list(BREAKS.values())!r}:",
        "    exec(line)",
        "seen = host_state.changes(second, take())",
        f"missed = [name for name in {list(BREAKS)!r} if not any(map(lambda found: found.startswith(name), seen))]",
        "print(host_state.changes(first, second), missed)",
    ]
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(lines)], cwd=ROOT, capture_output=True, text=True, timeout=600
    )
    assert done.stdout.strip() == "{} []", done.stdout + done.stderr[-2000:]


@pytest.mark.parametrize("stopped", [False, True])
def test_a_pack_that_stops_previews_stops_the_moving_one_too(bench, monkeypatch, stopped):
    import latent_preview

    shown = []
    player_class = bench.core("host.preview").ClipPlayer
    show = player_class.show

    def watched_show(player, frames):
        shown.append(len(frames))
        show(player, frames)

    monkeypatch.setattr(player_class, "show", watched_show)
    if stopped:
        monkeypatch.setattr(
            latent_preview.LatentPreviewer, "decode_latent_to_preview_image", lambda previewer, kind, x0: None
        )
    bench.host.forget()
    graph = Graph()
    loader = graph.load()
    bench.latent(graph, graph.ksample(loader, graph.clip(loader, length=8), steps=2))
    assert shown == [0 if stopped else 2] * 2


@pytest.mark.skipif(
    not (LONG and os.environ.get("EASYANIMATE_OTHER_PACKS")),
    reason="only in the long form, and where EASYANIMATE_OTHER_PACKS names a folder of checkouts of other packs",
)
def test_other_packs(tmp_path, figure):
    from devtools import coexistence

    packs = Path(os.environ["EASYANIMATE_OTHER_PACKS"]).resolve()
    report = coexistence.try_packs(packs, tmp_path)
    assert report.problems == []
    assert report.seen["first"].packs().keys() >= NAMED, "packs that nearly everybody has"
    assert report.seen["first"].made, "no graph with a node of theirs ran"
    for name, value in report.figures().items():
        figure(f"coexistence: {name}", value)
