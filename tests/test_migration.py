"""Workflows of other EasyAnimate nodes turned into this pack's: what is carried over, refused, and made by a server."""

import copy
import io
import json
import os
import subprocess
import sys
import time
from itertools import combinations

import av
import pytest
from safetensors.torch import load_file, save_file

from devtools import tiny_checkpoint, tiny_lora, workflows
from devtools.environment import ROOT
from easyanimate_core.migration import MigrationError, convert
from easyanimate_core.migration.__main__ import main
from easyanimate_core.migration.our_nodes import LAYOUTS
from easyanimate_core.migration.their_nodes import CERTAIN, TEXTS

PROMPT, NEGATIVE = "A Fox runs through snow", "blurry, noise"
OURS = "EasyAnimateV3"
OLD = CERTAIN | set(TEXTS)


def ui(*nodes, groups=()):
    """Return a workflow file of (id, type, inputs, outputs, widgets); an input is (type, origin or None)."""
    made, links = {}, []
    for place, (number, kind, inputs, outputs, widgets) in enumerate(nodes):
        slots = [{"name": name, "type": type_, "link": None} for name, (type_, _) in inputs.items()]
        for slot, (type_, origin) in zip(slots, inputs.values(), strict=True):
            if type_ == "INT":
                slot["widget"] = {"name": slot["name"]}
            if origin:
                slot["link"] = len(links) + 1
                links.append([slot["link"], *origin, number, slots.index(slot), type_])
        made[number] = {
            "id": number,
            "type": kind,
            "pos": [place % 4 * 330, place // 4 * 250],
            # Files of 2024 have sizes as objects.
            "size": {"0": 300, "1": 150},
            "flags": {},
            "mode": 0,
            "inputs": slots,
            "outputs": [{"name": name, "type": type_, "links": None} for name, type_ in outputs],
            "widgets_values": copy.deepcopy(widgets),
        }
    for link in links:
        output = made[link[1]]["outputs"][link[2]]
        output["links"] = [*(output["links"] or []), link[0]]
    return {
        "last_node_id": max(made) + 10,
        "last_link_id": len(links) + 10,
        "nodes": list(made.values()),
        "links": links,
        "groups": list(groups),
        "config": {},
        "extra": {},
        "version": 0.4,
    }


# The release's nodes.
V3_CONFIG = "easyanimate_video_slicevae_motion_module_v3.yaml"
MODEL = [("easyanimate_model", "EASYANIMATESMODEL")]
TEXT = [("prompt", "STRING_PROMPT")]
FRAMES = [("images", "IMAGE")]
RELEASE_LOADER = (1, "LoadEasyAnimateModel", {}, MODEL)
RELEASE = [
    (*RELEASE_LOADER, ["EasyAnimateV3-XL-2-InP-512x512", False, V3_CONFIG, "bf16"]),
    (2, "TextBox", {}, TEXT, [PROMPT]),
    (3, "TextBox", {}, TEXT, [NEGATIVE]),
]
LINKED = {
    "easyanimate_model": ("EASYANIMATESMODEL", (1, 0)),
    "prompt": ("STRING_PROMPT", (2, 0)),
    "negative_prompt": ("STRING_PROMPT", (3, 0)),
}
LATER_LOADER = [
    "EasyAnimateV3-XL-2-InP-512x512",
    "model_cpu_offload_and_qfloat8",
    "Inpaint",
    "v3.yaml",
    "fp16",
]
PICTURES = [
    (4, "LoadImage", {}, [("IMAGE", "IMAGE"), ("MASK", "MASK")], ["start_image.png", "image"]),
    (5, "LoadImage", {}, [("IMAGE", "IMAGE"), ("MASK", "MASK")], ["end_image.png", "image"]),
]
CLIP_OF_VIDEO = [
    (4, "LoadVideo", {}, [("VIDEO", "VIDEO")], ["start_video.mp4", "image"]),
    (
        5,
        "GetVideoComponents",
        {"video": ("VIDEO", (4, 0))},
        [("images", "IMAGE"), ("audio", "AUDIO"), ("fps", "FLOAT")],
        [],
    ),
]
VHS = {
    "frame_rate": 12,
    "loop_count": 0,
    "filename_prefix": "mine/clip",
    "format": "video/h264-mp4",
    "crf": 22,
    "pingpong": False,
    "save_output": True,
}


def release_i2v():
    images = {"start_img": ("IMAGE", (4, 0)), "end_img": ("IMAGE", (5, 0))}
    sampler = (6, "EasyAnimateI2VSampler", LINKED | images, FRAMES, [16, 512, 7, "fixed", 3, 5.5, "DPM++"])
    return ui(*RELEASE, *PICTURES, sampler)


def release_t2v():
    sampler = (
        6,
        "EasyAnimateT2VSampler",
        LINKED,
        FRAMES,
        [16, 64, 48, False, 7, "increment", 3, 5.5, "Euler A"],
    )
    save = (7, "VHS_VideoCombine", {"images": ("IMAGE", (6, 0))}, [("Filenames", "VHS_FILENAMES")], VHS)
    return ui(*RELEASE, sampler, save)


def release_lora():
    lora = (5, "LoadEasyAnimateLora", {"easyanimate_model": LINKED["easyanimate_model"]}, MODEL)
    linked = LINKED | {"easyanimate_model": ("EASYANIMATESMODEL", (5, 0))}
    sampler = (6, "EasyAnimateT2VSampler", linked, FRAMES, [16, 64, 48, False, 7, "fixed", 3, 5.5, "PNDM"])
    return ui((*RELEASE_LOADER, LATER_LOADER), *RELEASE[1:], (*lora, [tiny_lora.NAME, 0.7, False]), sampler)


def release_v2v():
    linked = LINKED | {"validation_video": ("IMAGE", (5, 0)), "control_video": ("IMAGE", None)}
    widgets = [16, 512, 7, "fixed", 10, 5.5, 0.7000000000000001, "DDIM"]
    return ui(*RELEASE, *CLIP_OF_VIDEO, (6, "EasyAnimateV2VSampler", linked, FRAMES, widgets))


# The wrapper's nodes.
PIPE = ("EASYANIMATEPIPE", (1, 0))
WRAPPER_MODEL = "EasyAnimateV3-XL-2-InP-512x512-bf16"
CONDITIONING = [("conditioning", "CONDITIONING")]
WRAPPER = [
    (
        1,
        "DownloadAndLoadEasyAnimateModel",
        {},
        [("easyanimate_pipeline", PIPE[0])],
        [WRAPPER_MODEL, "bf16", False],
    ),
    (2, "EasyAnimateTextEncode", {"clip": ("CLIP", (8, 0))}, CONDITIONING, [PROMPT]),
    (3, "EasyAnimateTextEncode", {"clip": ("CLIP", (8, 0))}, CONDITIONING, [NEGATIVE]),
    (8, "CLIPLoader", {}, [("CLIP", "CLIP")], ["t5\\t5xxl_fp8_e4m3fn.safetensors", "sd3"]),
]
LATENTS = [("latents", "EASYANIMLATENTS")]
DECODE = (
    9,
    "EasyAnimateDecode",
    {"easyanimate_pipeline": PIPE, "latents": ("EASYANIMLATENTS", (6, 0))},
    FRAMES,
    None,
)


def wrapper(others, embeds=None, start=None, end=None, video=None, denoise=1, sizes=None):
    inputs = {
        "easyanimate_pipeline": PIPE,
        "positive": ("CONDITIONING", (2, 0)),
        "negative": ("CONDITIONING", (3, 0)),
        "image_embeds": ("CLIP_VISION_IMAGE_EMBEDS", embeds),
        "image_start": ("IMAGE", start),
        "image_end": ("IMAGE", end),
        "full_input_video": ("IMAGE", video),
        **(sizes or {}),
    }
    widgets = [64, 48, 16, 10, 5.5, 7, "randomize", "EulerAncestralDiscreteScheduler", denoise, True]
    return ui(*WRAPPER, *others, (6, "EasyAnimateSampler", inputs, LATENTS, widgets), DECODE)


def wrapper_t2v():
    return wrapper([])


def wrapper_i2v():
    encode = (10, "EasyAnimateImageEncoder", {"image": ("IMAGE", (4, 0))}, [("image_embeds", "X")], [1])
    return wrapper([*PICTURES, encode], embeds=(10, 0), start=(4, 0), end=(5, 0))


def wrapper_v2v():
    resize = (10, "EasyAnimateResize", {"image": ("IMAGE", (5, 0))}, [("image", "IMAGE")], ["512"])
    return wrapper([*CLIP_OF_VIDEO, resize], video=(10, 0), denoise=0.7)


def wrapper_of_july():
    """As its first versions saved it: both prompts in one node, T5 in the pipeline."""
    inputs = {
        "easyanimate_pipeline": PIPE,
        "easyanimate_embeds": ("T5EMBEDS", (2, 0)),
        "image_start": ("IMAGE", (4, 0)),
        "image_end": ("IMAGE", None),
    }
    texts = (
        2,
        "EasyAnimateTextEncode",
        {"easyanimate_pipeline": PIPE},
        [("e", "T5EMBEDS")],
        [PROMPT, NEGATIVE, 1, True],
    )
    widgets = [64, 48, 16, 3, 5.5, 7, "fixed", 16, "EulerAncestralDiscreteScheduler", 6]
    return ui(WRAPPER[0], texts, PICTURES[0], (6, "EasyAnimateSampler", inputs, LATENTS, widgets), DECODE)


CASES = {
    case.__name__: case
    for case in (
        release_i2v,
        release_t2v,
        release_lora,
        release_v2v,
        wrapper_i2v,
        wrapper_t2v,
        wrapper_v2v,
        wrapper_of_july,
    )
}


@pytest.fixture(scope="module")
def object_info(server):
    return server.object_info()


def converted(name, **options):
    return convert(CASES[name](), **options)


def only(workflow, kind):
    """Return the widget values of the only node of a type, by name."""
    (node,) = [node for node in workflow["nodes"] if node["type"] == kind]
    return named(node)


def named(node):
    values = list(node["widgets_values"])
    if node["type"] == f"{OURS}Sampler":
        values.pop(1)
    return dict(zip([widget.name for widget in LAYOUTS[node["type"]].widgets], values, strict=True))


def texts(workflow, object_info):
    """Return the positive and the negative text of the only clip."""
    prompt = workflows.to_api(workflow, object_info)
    (clip,) = workflows.nodes_of(prompt, f"{OURS}ImageToVideo")
    return [prompt[prompt[clip]["inputs"][side][0]]["inputs"]["text"] for side in ("positive", "negative")]


def rectangle(node):
    (x, y), size = node["pos"], node["size"]
    width, height = size.values() if isinstance(size, dict) else size
    return x, y - 30, x + width, y + height


def overlapping(workflow):
    """Return pairs of nodes of which one hides a part of the other."""
    boxes = [(node["id"], *rectangle(node)) for node in workflow["nodes"]]
    return [
        (a[0], b[0])
        for a, b in combinations(boxes, 2)
        if a[1] < b[3] and b[1] < a[3] and a[2] < b[4] and b[2] < a[4]
    ]


@pytest.mark.parametrize("options", [{}, {"checkpoint": tiny_checkpoint.NAME, "save_video": True}])
@pytest.mark.parametrize("name", CASES)
def test_result_fits_itself_and_the_host(name, options, object_info):
    old = CASES[name]()
    workflow, _ = convert(old, **options)
    nodes = {node["id"]: node for node in workflow["nodes"]}
    assert len(nodes) == len(workflow["nodes"])
    assert not OLD & {node["type"] for node in workflow["nodes"]}
    assert workflow["last_node_id"] >= max(nodes)
    assert workflow["last_link_id"] >= max(link[0] for link in workflow["links"])
    for number, origin, output, target, slot, kind in workflow["links"]:
        source, sink = nodes[origin]["outputs"][output], nodes[target]["inputs"][slot]
        assert number in source["links"]
        assert sink["link"] == number
        assert source["type"] == sink["type"] == kind
    links = {link[0] for link in workflow["links"]}
    assert len(links) == len(workflow["links"])
    for node in workflow["nodes"]:
        assert {slot["link"] for slot in node["inputs"]} - {None} <= links
        assert {link for slot in node["outputs"] for link in slot["links"] or []} <= links
        if node["type"] not in LAYOUTS:
            continue
        info = object_info[node["type"]]
        described = {**info["input"]["required"], **info["input"].get("optional", {})}
        assert [slot["type"] for slot in node["outputs"]] == info["output"]
        assert {slot["name"] for slot in node["inputs"]} == set(described)
        linked = {slot["name"] for slot in node["inputs"] if slot["link"] is not None}
        values = named(node) if "widgets_values" in node else {}
        assert set(info["input"]["required"]) <= linked | set(values)
        for key, kind, widget in workflows.widget_inputs(info):
            if kind in ("INT", "FLOAT"):
                assert widget["min"] <= values[key] <= widget["max"]
            elif key in ("sampler_name", "weight_dtype", "type"):
                assert values[key] in (kind if isinstance(kind, list) else widget["options"])
    assert not overlapping(workflow)
    kept = {node["id"]: node for node in old["nodes"] if node["type"] in ("LoadImage", "LoadVideo")}
    assert all(nodes[number]["pos"] == node["pos"] for number, node in kept.items())


# Steps that really ran before, where a share of the video is kept: 0.7 of 10.
STEPS = {"release_v2v": 7, "wrapper_v2v": 7, "wrapper_i2v": 10, "wrapper_t2v": 10}
SAMPLER_NAMES = {
    "release_i2v": "DPM++",
    "release_t2v": "Euler A",
    "release_lora": "PNDM",
    "release_v2v": "DDIM",
}


@pytest.mark.parametrize("name", CASES)
def test_values_are_carried_over(name, object_info):
    workflow, report = converted(name, save_video=True)
    assert texts(workflow, object_info) == [PROMPT, NEGATIVE]
    sampler = only(workflow, f"{OURS}Sampler")
    assert (sampler["seed"], sampler["cfg"], sampler["steps"]) == (7, 5.5, STEPS.get(name, 3))
    assert sampler["sampler_name"] == SAMPLER_NAMES.get(name, "Euler A")
    assert sampler["denoise"] == (0.7 if name.endswith("v2v") else 1)
    clip = only(workflow, f"{OURS}ImageToVideo")
    assert clip["length"] == 16
    if "t2v" in name or "lora" in name:
        assert (clip["width"], clip["height"]) == (64, 48)
    if name.startswith("release"):
        loader = only(workflow, f"{OURS}Loader")
        assert loader["checkpoint"] == "EasyAnimateV3-XL-2-InP-512x512"
        assert loader["weight_dtype"] == ("fp8_e4m3fn" if name == "release_lora" else "default")
    else:
        assert (
            only(workflow, f"{OURS}TransformerLoader")["transformer_name"] == f"{WRAPPER_MODEL}.safetensors"
        )
        assert only(workflow, "CLIPLoader")["type"] == "pixart"
    (node,) = [node for node in workflow["nodes"] if node["type"] == f"{OURS}Sampler"]
    controls = {"release_t2v": "increment"} | dict.fromkeys(
        ("wrapper_i2v", "wrapper_t2v", "wrapper_v2v"), "randomize"
    )
    assert node["widgets_values"][1] == controls.get(name, "fixed")
    assert len(report.replaced) >= 4


def test_strength_of_a_lora_counts_for_both_models(object_info):
    workflow, _ = converted("release_lora")
    lora = only(workflow, f"{OURS}LoraLoader")
    assert lora == {"lora_name": tiny_lora.NAME, "strength_model": 0.7, "strength_clip": 0.7}
    prompt = workflows.to_api(workflow, object_info)
    (loader,) = workflows.nodes_of(prompt, f"{OURS}LoraLoader")
    (sampler,) = workflows.nodes_of(prompt, f"{OURS}Sampler")
    assert prompt[sampler]["inputs"]["model"] == [loader, 0]
    for text in workflows.nodes_of(prompt, f"{OURS}TextEncode"):
        assert prompt[text]["inputs"]["clip"] == [loader, 1]


@pytest.mark.parametrize("name", ["release_i2v", "wrapper_i2v"])
def test_images_are_given_to_the_clip(name, object_info):
    workflow, _ = converted(name, checkpoint=tiny_checkpoint.NAME)
    prompt = workflows.to_api(workflow, object_info)
    (clip,) = workflows.nodes_of(prompt, f"{OURS}ImageToVideo")
    (bucket,) = workflows.nodes_of(prompt, f"{OURS}ResizeToBucket")
    (image,) = workflows.nodes_of(prompt, f"{OURS}ImageEncode")
    clip = prompt[clip]["inputs"]
    assert (clip["start_image"], clip["width"], clip["height"]) == ([bucket, 0], [bucket, 1], [bucket, 2])
    assert (clip["end_image"], clip["clip_vision_output"]) == (["5", 0], [image, 0])
    assert prompt[bucket]["inputs"] == {"image": ["4", 0], "base": 512}
    # The release resizes the picture for CLIP, too; the wrapper did not.
    assert prompt[image]["inputs"]["image"] == ([bucket, 0] if name == "release_i2v" else ["4", 0])


def test_a_node_that_saves_is_kept_unless_told_otherwise():
    kept, _ = converted("release_t2v")
    assert [node["widgets_values"] for node in kept["nodes"] if node["type"] == "VHS_VideoCombine"] == [VHS]
    assert not any(node["type"] == f"{OURS}SaveVideo" for node in kept["nodes"])
    replaced, report = converted("release_t2v", save_video=True)
    assert only(replaced, f"{OURS}SaveVideo") == {"filename_prefix": "mine/clip", "fps": 12, "crf": 22}
    assert any("loop_count" in note for note in report.notes)


def test_widgets_set_by_a_primitive_stay_linked():
    old = release_t2v()
    old["nodes"].append(
        {
            "id": 8,
            "type": "PrimitiveNode",
            "pos": [0, 900],
            "size": [210, 82],
            "outputs": [{"name": "INT", "type": "INT", "links": [99], "widget": {"name": "video_length"}}],
            "widgets_values": [24, "fixed"],
        }
    )
    sampler = next(node for node in old["nodes"] if node["id"] == 6)
    sampler["inputs"].append(
        {"name": "video_length", "type": "INT", "link": 99, "widget": {"name": "video_length"}}
    )
    old["links"].append([99, 8, 0, 6, 3, "INT"])
    workflow, _ = convert(old)
    (clip,) = [node for node in workflow["nodes"] if node["type"] == f"{OURS}ImageToVideo"]
    slot = next(slot for slot in clip["inputs"] if slot["name"] == "length")
    (primitive,) = [node for node in workflow["nodes"] if node["id"] == 8]
    assert primitive["outputs"][0]["links"] == [slot["link"]]
    assert primitive["outputs"][0]["widget"]["name"] == "length"


def test_reroutes_of_the_old_types_go():
    old = wrapper_t2v()
    reroute = {"inputs": [{"name": "", "type": "*", "link": 90}], "outputs": [{"name": "", "links": [91]}]}
    old["nodes"].append({"id": 11, "type": "Reroute", "pos": [0, 900], "size": [75, 26], **reroute})
    decode = next(node for node in old["nodes"] if node["id"] == 9)
    decode["inputs"][1]["link"] = 91
    old["links"] = [link for link in old["links"] if link[3:5] != [9, 1]]
    old["links"] += [[90, 6, 0, 11, 0, "EASYANIMLATENTS"], [91, 11, 0, 9, 1, "EASYANIMLATENTS"]]
    workflow, _ = convert(old)
    nodes = {node["id"]: node for node in workflow["nodes"]}
    assert 11 not in nodes
    assert [6, 0, 9, 0, "LATENT"] in [link[1:] for link in workflow["links"]]


def test_api_format_gives_the_same_prompt(object_info):
    prompt = {
        "1": {
            "class_type": "LoadEasyAnimateModel",
            "inputs": {"model": "EasyAnimateV3-XL-2-InP-512x512", "low_gpu_memory_mode": False},
        },
        "2": {"class_type": "TextBox", "inputs": {"prompt": PROMPT}},
        "3": {"class_type": "TextBox", "inputs": {"prompt": NEGATIVE}},
        "6": {
            "class_type": "EasyAnimateT2VSampler",
            "inputs": {
                "easyanimate_model": ["1", 0],
                "prompt": ["2", 0],
                "negative_prompt": ["3", 0],
                "video_length": 16,
                "width": 64,
                "height": 48,
                "is_image": False,
                "seed": 7,
                "steps": 3,
                "cfg": 5.5,
                "scheduler": "Euler A",
            },
        },
        "7": {"class_type": "VHS_VideoCombine", "inputs": {"images": ["6", 0], **VHS}},
    }
    result, _ = convert(prompt, save_video=True)
    expected = workflows.to_api(converted("release_t2v", save_video=True)[0], object_info)

    def content(nodes):
        """Return nodes by type and values; ids differ."""
        kinds = {number: node["class_type"] for number, node in nodes.items()}
        return sorted(
            [
                kind,
                sorted(
                    (k, str([kinds[v[0]], v[1]] if isinstance(v, list) else v)) for k, v in inputs.items()
                ),
            ]
            for kind, inputs in ((node["class_type"], node["inputs"]) for node in nodes.values())
        )

    assert content(result) == content(expected)


def api(**links):
    """Return a wrapper's video to video as exported for the API; a link takes the place of a value."""
    values = {"width": 64, "height": 48, "frames": 16, "steps": 20, "cfg": 5.5, "seed": 7} | {
        "scheduler": "EulerDiscreteScheduler",
        "denoise_strength": 0.5,
        "keep_model_loaded": True,
    }
    nodes = {
        "1": ("DownloadAndLoadEasyAnimateModel", {"model": WRAPPER_MODEL, "precision": "bf16"}),
        "2": ("EasyAnimateTextEncode", {"clip": ["8", 0], "prompt": PROMPT}),
        "3": ("EasyAnimateTextEncode", {"clip": ["8", 0], "prompt": NEGATIVE}),
        "4": ("LoadImage", {"image": "start_image.png"}),
        "6": (
            "EasyAnimateSampler",
            {
                "easyanimate_pipeline": ["1", 0],
                "positive": ["2", 0],
                "negative": ["3", 0],
                "image_embeds": ["10", 0],
                "image_start": ["4", 0],
                **values,
            },
        ),
        "8": ("CLIPLoader", {"clip_name": "t5.safetensors", "type": "sd3"}),
        "9": ("EasyAnimateDecode", {"easyanimate_pipeline": ["1", 0], "latents": ["6", 0]}),
        "10": ("EasyAnimateImageEncoder", {"image": ["4", 0], "strength": 1.0}),
        "20": ("FloatConstant", {"value": 0.5}),
    }
    prompt = {number: {"class_type": kind, "inputs": inputs} for number, (kind, inputs) in nodes.items()}
    for name, number in links.items():
        prompt[number]["inputs"][name] = ["20", 0]
    return prompt


def inputs_of(prompt, kind):
    (number,) = workflows.nodes_of(prompt, f"{OURS}{kind}")
    return prompt[number]["inputs"]


def test_links_into_widgets_of_the_api_format():
    plain, _ = convert(api())
    assert inputs_of(plain, "Sampler")["steps"] == 10
    prompt, report = convert(api(denoise_strength="6", strength="10", model="1", clip_name="8"))
    sampler = inputs_of(prompt, "Sampler")
    assert (sampler["denoise"], sampler["steps"]) == (["20", 0], 20)
    # One image encoder: the user's own.
    assert workflows.nodes_of(prompt, f"{OURS}ImageEncode") == ["10"]
    assert inputs_of(prompt, "ImageToVideo")["clip_vision_output"] == ["10", 0]
    without, _ = convert({key: node for key, node in api(denoise_strength="6").items() if key != "10"})
    assert "clip_vision_output" not in inputs_of(without, "ImageToVideo")
    assert prompt["8"]["inputs"]["clip_name"] == ["20", 0]
    assert inputs_of(prompt, "TransformerLoader")["transformer_name"] == ""
    for word in ("steps are not scaled", "strength from a link", "link into model"):
        assert any(word in note for note in report.notes), word


def test_a_linked_negative_prompt_of_the_first_versions():
    prompt = api(negative_prompt="2")
    del prompt["3"], prompt["10"], prompt["8"]
    old = prompt["6"]["inputs"]
    for name in ("positive", "negative", "image_embeds", "denoise_strength", "keep_model_loaded"):
        del old[name]
    del prompt["2"]["inputs"]["clip"]
    prompt["2"]["inputs"]["easyanimate_pipeline"] = ["1", 0]
    old["easyanimate_embeds"] = ["2", 0]
    prompt, _ = convert(prompt)
    clip = inputs_of(prompt, "ImageToVideo")
    assert prompt[clip["positive"][0]]["inputs"]["text"] == PROMPT
    assert prompt[clip["negative"][0]]["inputs"]["text"] == ["20", 0]
    assert inputs_of(prompt, "ImageEncode")["image"] == ["4", 0]


def test_a_value_under_a_link_counts_for_nothing():
    """The UI keeps the number that a box had before something was linked to it."""
    old = wrapper_v2v()
    old["nodes"].append({"id": 20, "type": "FloatConstant", "outputs": [{"type": "FLOAT", "links": [99]}]})
    sampler = next(node for node in old["nodes"] if node["id"] == 6)
    slot = {"name": "denoise_strength", "type": "FLOAT", "link": 99, "widget": {"name": "denoise_strength"}}
    sampler["inputs"].append(slot)
    old["links"].append([99, 20, 0, 6, len(sampler["inputs"]) - 1, "FLOAT"])
    workflow, report = convert(old)
    assert only(workflow, f"{OURS}Sampler")["steps"] == 10
    (new,) = [node for node in workflow["nodes"] if node["type"] == f"{OURS}Sampler"]
    (linked,) = [slot for slot in new["inputs"] if slot["name"] == "denoise"]
    assert [20, 0, new["id"], new["inputs"].index(linked), "FLOAT"] in [
        link[1:] for link in workflow["links"]
    ]
    assert any("steps are not scaled" in note for note in report.notes)


def test_a_linked_switch_for_images_is_told():
    old = release_t2v()
    sampler = next(node for node in old["nodes"] if node["id"] == 6)
    sampler["widgets_values"][3] = True
    assert only(convert(old)[0], f"{OURS}ImageToVideo")["length"] == 1
    old["nodes"].append({"id": 20, "type": "BoolConstant", "outputs": [{"type": "BOOLEAN", "links": [99]}]})
    sampler["inputs"].append({"name": "is_image", "type": "BOOLEAN", "link": 99})
    old["links"].append([99, 20, 0, 6, len(sampler["inputs"]) - 1, "BOOLEAN"])
    workflow, report = convert(old)
    assert only(workflow, f"{OURS}ImageToVideo")["length"] == 16
    assert any("link into is_image" in note for note in report.notes)


def test_a_prompt_wrapped_as_for_the_server():
    assert convert({"prompt": api(), "client_id": "me"})[0] == convert(api())[0]


def test_new_nodes_find_their_place_among_many():
    old = release_i2v()
    # Spread over the place of all nodes and beside it, by a rule that leaves no order.
    places = [(number * 617 % 5003, number * 911 % 4001) for number in range(500)]
    old["nodes"] += [
        {"id": 100 + number, "type": "Note", "pos": list(place), "size": [40, 30]}
        for number, place in enumerate(places)
    ]
    start = time.perf_counter()
    workflow, _ = convert(old)
    assert time.perf_counter() - start < 2
    kept = {node["id"] for node in workflow["nodes"] if node["type"] not in LAYOUTS}
    assert all(set(pair) <= kept for pair in overlapping(workflow))


# Small values for the tiny checkpoint, and no fp8, which is slow on CPUs; all else is as converted.
SMALL = {"base": 64, "steps": 4, "weight_dtype": "default"}


def run(workflow, server, object_info):
    """Run a converted workflow and return rate, size and number of frames of the one mp4."""
    prompt = workflows.to_api(workflow, object_info)
    for node in prompt.values():
        node["inputs"].update({key: value for key, value in SMALL.items() if key in node["inputs"]})
    entry = server.run(prompt)
    (file,) = workflows.saved_files(entry["outputs"], ".mp4")
    with av.open(io.BytesIO(server.view(file["filename"], file["subfolder"], file["type"]))) as video:
        stream = video.streams.video[0]
        frames = sum(1 for _ in video.decode(stream))
        return stream.average_rate, (stream.width, stream.height), frames


@pytest.mark.parametrize("name", CASES)
def test_server_makes_a_video_of_it(name, server, object_info):
    workflow, _ = converted(name, checkpoint=tiny_checkpoint.NAME, save_video=True)
    rate, size, frames = run(workflow, server, object_info)
    assert frames == 16
    assert rate == (12 if name == "release_t2v" else 24)
    # What has a picture or a video takes its shape: the samples are square.
    assert size == ((64, 48) if "t2v" in name or "lora" in name else (64, 64))


def test_single_files_of_the_wrapper_are_loaded(server):
    """The tiny checkpoint's transformer and VAE under the wrapper's file names; T5 from the folder."""
    models = server.base / "models"
    weights = "diffusion_pytorch_model.safetensors"
    source = models / "EasyAnimate" / tiny_checkpoint.NAME
    files = []
    for part, folder, name in (
        ("transformer", "diffusion_models", f"{WRAPPER_MODEL}.safetensors"),
        ("vae", "vae", weights),
    ):
        (models / folder).mkdir(exist_ok=True)
        files.append(models / folder / name)
        # The tiny model has another number of heads than its shapes tell.
        config = (source / part / "config.json").read_text(encoding="utf-8")
        save_file(load_file(source / part / weights), files[-1], metadata={"config": config})
    try:
        workflow, _ = converted("wrapper_t2v")
        prompt = workflows.to_api(workflow, server.object_info())
        (clip,) = workflows.nodes_of(prompt, "CLIPLoader")
        prompt[clip] = {
            "class_type": f"{OURS}Loader",
            "inputs": {"checkpoint": tiny_checkpoint.NAME, "weight_dtype": "default"},
        }
        for text in workflows.nodes_of(prompt, f"{OURS}TextEncode"):
            prompt[text]["inputs"]["clip"] = [clip, 1]
        (sampler,) = workflows.nodes_of(prompt, f"{OURS}Sampler")
        prompt[sampler]["inputs"]["steps"] = 2
        assert workflows.saved_files(server.run(prompt)["outputs"], ".mp4")
    finally:
        for file in files:
            file.unlink()


def with_model(name):
    workflow = release_t2v()
    workflow["nodes"][0]["widgets_values"][0] = name
    return workflow


def in_a_subgraph():
    nodes = [{"id": 1, "type": "LoadEasyAnimateModel"}]
    return ui(PICTURES[0]) | {"definitions": {"subgraphs": [{"nodes": nodes}]}}


def without(workflow, slot):
    """Return a workflow whose sampler has lost a link."""
    sampler = next(node for node in workflow["nodes"] if node["id"] == 6)
    lost = sampler["inputs"][slot]["link"]
    workflow["links"] = [link for link in workflow["links"] if link[0] != lost]
    return workflow


def short_of_values():
    workflow = release_t2v()
    workflow["nodes"][3]["widgets_values"] = [16, 64]
    return workflow


def wrong_value():
    workflow = release_t2v()
    workflow["nodes"][3]["widgets_values"][6] = "many"
    return workflow


REFUSED = {
    "V4": (with_model("EasyAnimateV4-XL-2-InP"), "EasyAnimate V4.*--checkpoint"),
    "V5.1": (with_model("EasyAnimateV5.1-12b-zh-InP"), r"EasyAnimate V5\.1"),
    "V2": (with_model("EasyAnimateV2-XL-2-512x512"), "EasyAnimate V2"),
    "V5 node": (ui((1, "EasyAnimateV5_T2VSampler", {}, FRAMES, [])), "EasyAnimate V5"),
    "nothing": (ui(PICTURES[0]), "nothing to convert"),
    "another TextBox": (ui((1, "TextBox", {}, [("text", "STRING")], ["a"])), "nothing to convert"),
    "subgraph": (in_a_subgraph(), "unpack"),
    "no loader": (without(release_t2v(), 0), "no EasyAnimate loader"),
    "no video": (without(release_v2v(), 3), "validation_video"),
    "missing values": (short_of_values(), "is_image|height"),
    "wrong value": (wrong_value(), "'many' for steps"),
    "list": ([1], "no workflow"),
    "other object": ({"nodes": 1}, "no workflow"),
    "damaged links": (ui(PICTURES[0]) | {"links": [1]}, "links"),
    "damaged slots": (ui(PICTURES[0]) | {"nodes": [{"id": 1, "type": "A", "inputs": [1]}]}, "slots"),
    "damaged node": (ui(PICTURES[0]) | {"nodes": [None]}, "no type or no id"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused_and_why(name):
    content, message = REFUSED[name]
    with pytest.raises(MigrationError, match=message) as error:
        convert(content)
    assert "\n" not in str(error.value)


def test_another_version_is_converted_for_a_named_checkpoint():
    workflow, _ = convert(with_model("EasyAnimateV4-XL-2-InP"), checkpoint="EasyAnimateV3-XL-2-InP-768x768")
    assert only(workflow, f"{OURS}Loader")["checkpoint"] == "EasyAnimateV3-XL-2-InP-768x768"


def test_what_is_not_carried_over_is_told():
    old = wrapper_i2v()
    next(node for node in old["nodes"] if node["id"] == 10)["widgets_values"] = [0.5]
    next(node for node in old["nodes"] if node["id"] == 2)["widgets_values"] = ["a (red:1.3) fox"]
    _, report = convert(old)
    for word in ("precision", "extra_model_paths.yaml", "strength 0.5", "(word:1.2)"):
        assert any(word in note for note in report.notes)


def test_command_writes_beside_the_old_file_and_not_over_another(tmp_path, capsys):
    old = tmp_path / "mine.json"
    # As Windows editors save it.
    old.write_text(json.dumps(release_t2v()), encoding="utf-8-sig")
    new = tmp_path / "mine_easyanimatev3.json"
    assert main([str(old)]) == 0
    assert "EasyAnimateT2VSampler (6) became" in capsys.readouterr().out
    assert json.loads(new.read_text(encoding="utf-8")) == converted("release_t2v")[0]
    new.write_text("mine", encoding="utf-8")
    assert main([str(old)]) == 1
    assert "--force" in capsys.readouterr().err
    assert new.read_text(encoding="utf-8") == "mine"
    assert main([str(old), "--force"]) == 0
    assert new.stat().st_size > 1000
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine.json", new.name]


@pytest.mark.parametrize("text", [b"{", b"\xff\xfe\x00", b"[]", json.dumps(REFUSED["V4"][0]).encode()])
def test_command_writes_nothing_of_bad_input(text, tmp_path, capsys):
    old = tmp_path / "old.json"
    old.write_bytes(text)
    assert main([str(old)]) == 1
    (sentence,) = capsys.readouterr().err.splitlines()
    assert sentence.endswith(".")
    assert list(tmp_path.iterdir()) == [old]


def test_a_file_that_is_not_there_and_a_folder_that_is_not_there(tmp_path, capsys):
    assert main([str(tmp_path / "none.json")]) == 1
    old = tmp_path / "old.json"
    old.write_text(json.dumps(release_t2v()), encoding="utf-8")
    assert main([str(old), "-o", str(tmp_path / "none" / "new.json")]) == 1
    assert len(capsys.readouterr().err.splitlines()) == 2


@pytest.mark.parametrize(
    "command", [["-I", str(ROOT / "convert_workflow.py")], ["-m", "easyanimate_core.migration"]]
)
def test_nothing_but_the_standard_library_is_needed(command, tmp_path):
    """Neither packages (-S) nor, by the script, a Python that looks into its folder (-I, as portable ComfyUI has)."""
    old = tmp_path / "old.json"
    old.write_text(json.dumps(release_i2v()), encoding="utf-8")
    folder = ROOT if "-m" in command else tmp_path
    result = subprocess.run(
        [sys.executable, "-S", *command, old.name if folder == tmp_path else str(old)], cwd=folder
    )
    assert result.returncode == 0
    assert (tmp_path / "old_easyanimatev3.json").stat().st_size > 1000


@pytest.mark.skipif(os.name != "posix", reason="modes and links of POSIX")
def test_written_file_has_normal_rights_and_a_link_stays(tmp_path):
    old, target, link = (tmp_path / name for name in ("old.json", "target.json", "link.json"))
    old.write_text(json.dumps(release_t2v()), encoding="utf-8")
    link.symlink_to(target)
    assert main([str(old), "-o", str(link)]) == 1
    assert not target.exists()
    assert main([str(old), "-o", str(link), "--force"]) == 0
    assert link.is_symlink()
    assert target.stat().st_mode == old.stat().st_mode
