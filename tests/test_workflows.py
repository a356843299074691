"""The shipped workflow files: their layout, their links, and the file that a real server makes of each."""

import io
import json
import urllib.request
from itertools import combinations, pairwise

import av
import pytest
from PIL import Image

from devtools import sample_media, thumbnails, tiny_checkpoint, workflows
from devtools.base_directory import END_IMAGE, PACK_NAME, START_IMAGE, START_VIDEO
from devtools.environment import ROOT
from training.models import NAME as NANO
from training.scenes import ACTIONS, BACKGROUNDS, SHAPE_COLOURS, SHAPES

FOLDER = ROOT / "workflows"

_TEXT = ["Load", "Prompt", "Clip", "Sample", "Decode", "Save"]
_IMAGE = ["Load", "Prompt", "Image", "Clip", "Sample", "Decode", "Save"]
STAGES = {
    "text_to_video": _TEXT,
    "image_to_video": _IMAGE,
    "first_last_frame": _IMAGE,
    "text_to_image": _TEXT,
    "video_to_video": ["Load", "Prompt", "Video", "Clip", "Sample", "Decode", "Save"],
    "lora": ["Load", "LoRA", "Prompt", "Clip", "Sample", "Decode", "Save"],
    "extend_video": ["Load", "Prompt", "Video", "Extend", "Save"],
    "long_video": ["Load", "Prompt", "Image", "Long Video"],
    "text_to_video_stock": _TEXT,
    "image_to_video_stock": _IMAGE,
}
NAMES = tuple(STAGES)
# For the released checkpoints, whose files ComfyUI offers to download; the others run with what the pack ships.
RELEASED_NAMES = ("text_to_video_released", "image_to_video_released")
ALL = (*NAMES, *RELEASED_NAMES)
STAGES |= {"text_to_video_released": _TEXT, "image_to_video_released": _IMAGE}
STOCK = tuple(name for name in NAMES if name.endswith("_stock"))
# Nodes that make several segments, each with a sampler and a decoder of its own.
LONG = ("extend_video", "long_video")
FROM_TEXT = (*(name for name in NAMES if name.startswith("text_to_")), "lora")
FROM_VIDEO = ("video_to_video", "extend_video")
NOTES = {"Note", "MarkdownNote"}
# A node's title stands above its position.
TITLE_HEIGHT = 30
RELEASED = [f"EasyAnimateV3-XL-2-InP-{side}x{side}" for side in (512, 768, 960)]
SIZES = ("672 x 384", "1008 x 576", "1248 x 720")
# What the shipped workflows make with nano.
SIZE, LENGTH, FPS = (64, 64), 16, 8


def load(name):
    return json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def object_info(server):
    return server.object_info()


def note(name):
    (found,) = [node for node in load(name)["nodes"] if node["type"] in NOTES]
    return found


def rectangle(node):
    x, y = node["pos"]
    width, height = node["size"]
    return x, y - TITLE_HEIGHT, x + width, y + height


def edges(group):
    x, y, width, height = group["bounding"]
    return x, y, x + width, y + height


def overlap(a, b):
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def inside(a, b):
    return b[0] <= a[0] and b[1] <= a[1] and a[2] <= b[2] and a[3] <= b[3]


def test_every_workflow_has_its_thumbnail_and_no_other_file_is_there():
    assert sorted(path.stem for path in FOLDER.glob("*.json")) == sorted(ALL)
    # The template browser asks for a .jpg of the same name.
    assert sorted(path.stem for path in FOLDER.glob("*.jpg")) == sorted(ALL)


@pytest.mark.parametrize("name", ALL)
def test_file_is_in_the_format_that_the_ui_saves(name):
    workflow = load(name)
    assert workflow["version"] == 0.4
    assert workflow["extra"]["ds"].keys() == {"scale", "offset"}
    ids = [node["id"] for node in workflow["nodes"]]
    assert len(set(ids)) == len(ids)
    assert workflow["last_node_id"] == max(ids)
    assert workflow["last_link_id"] == max(link[0] for link in workflow["links"])


@pytest.mark.parametrize("name", ALL)
def test_links_agree_with_both_ends_and_with_the_host(name, object_info):
    workflow = load(name)
    nodes = {node["id"]: node for node in workflow["nodes"]}
    for link_id, origin, output, target, slot, kind in workflow["links"]:
        source, sink = nodes[origin]["outputs"][output], nodes[target]["inputs"][slot]
        assert link_id in source["links"]
        assert sink["link"] == link_id
        assert source["type"] == sink["type"] == kind
    links = {link[0] for link in workflow["links"]}
    for node in workflow["nodes"]:
        assert {slot["link"] for slot in node["inputs"]} - {None} <= links
        assert {link for slot in node["outputs"] for link in slot["links"] or []} <= links
        if node["type"] in NOTES:
            continue
        info = object_info[node["type"]]
        assert [slot["type"] for slot in node["outputs"]] == info["output"]
        described = {**info["input"]["required"], **info["input"].get("optional", {})}
        # The upload button of LoadImage and LoadVideo is the UI's own.
        assert {slot["name"] for slot in node["inputs"]} - {"upload"} <= set(described)


@pytest.mark.parametrize("name", ALL)
def test_every_input_is_given_and_allowed(name, object_info):
    workflow = load(name)
    prompt = workflows.to_api(workflow, object_info)
    stored = {str(node["id"]): node for node in workflow["nodes"]}
    models = {model["name"] for model in models_of(name)}
    for node_id, node in prompt.items():
        info = object_info[node["class_type"]]
        assert set(info["input"]["required"]) <= set(node["inputs"])
        controls = uploads = 0
        for key, kind, options in workflows.widget_inputs(info):
            controls += bool(options.get("control_after_generate"))
            uploads += any(options.get(f"{kind}_upload") for kind in ("image", "video"))
            value = node["inputs"][key]
            if isinstance(value, list):
                continue
            choices = kind if isinstance(kind, list) else options.get("options")
            # Which models there are is each user's own.
            if choices and value not in models:
                assert value in choices
            if kind in ("INT", "FLOAT"):
                assert options["min"] <= value <= options["max"]
                assert not isinstance(value, bool)
        widgets = len(list(workflows.widget_inputs(info)))
        assert len(stored[node_id].get("widgets_values", [])) == widgets + controls + uploads


def models_of(name):
    """Return all models that ComfyUI looks for when it opens a workflow, and offers to download."""
    workflow = load(name)
    listed = [model for node in workflow["nodes"] for model in node.get("properties", {}).get("models", [])]
    return workflow.get("models", []) + listed


# Where the host's loaders look for what the widget names.
MODEL_FOLDERS = {
    "EasyAnimateV3TransformerLoader": "diffusion_models",
    "EasyAnimateV3VAELoader": "vae",
    "CLIPLoader": "text_encoders",
    "CLIPVisionLoader": "clip_vision",
}


@pytest.mark.parametrize("name", NAMES)
def test_models_of_nano_are_in_the_pack_and_nothing_is_to_download(name):
    workflow = load(name)
    assert workflow["models"] == models_of(name) == []
    kinds = {
        node["type"]: node["widgets_values"][0] for node in workflow["nodes"] if "Loader" in node["type"]
    }
    assert (ROOT / "checkpoints" / kinds.pop("EasyAnimateV3Loader") / "transformer").is_dir()
    if name == "lora":
        assert (ROOT / "assets" / "loras" / kinds.pop("EasyAnimateV3LoraLoader")).is_file()
    assert kinds == {}


@pytest.mark.parametrize("name", RELEASED_NAMES)
def test_released_models_can_be_downloaded_from_the_list(name):
    loaders = [node for node in load(name)["nodes"] if node["type"] in MODEL_FOLDERS]
    assert len(loaders) == (4 if name.startswith("image") else 3)
    (text,) = note(name)["widgets_values"]
    for node in loaders:
        (model,) = node["properties"]["models"]
        # The host shows a model only where the widget still names it, and downloads from these sites alone.
        assert model["name"] == node["widgets_values"][0]
        assert model["name"].endswith(".safetensors") and model["url"].endswith(".safetensors")
        assert model["directory"] == MODEL_FOLDERS[node["type"]]
        assert model["url"].startswith("https://huggingface.co/")
        assert f"| [{model['name']}]({model['url']}) | *models/{model['directory']}* |" in text


@pytest.mark.parametrize("name", RELEASED_NAMES)
def test_values_of_the_released_checkpoint_are_the_releases(name, object_info):
    values = all_values(name, object_info)
    expected = {"steps": 25, "cfg": 7, "length": 144, "fps": 24, "sampler_name": "Euler", "denoise": 1}
    expected |= {"base": 512} if name.startswith("image") else {"width": 672, "height": 384}
    assert {key: values[key] for key in expected} == expected
    texts = {
        node["title"]: node["widgets_values"][0]
        for node in load(name)["nodes"]
        if node["type"].endswith("TextEncode")
    }
    assert texts["Positive Prompt"].count(".") >= 1
    assert texts["Negative Prompt"] in note("text_to_video")["widgets_values"][0]
    (text,) = note(name)["widgets_values"]
    for word in ("768x768", "960x960", "1248", "模型", "尺寸", "提示词", "显存"):
        assert word in text


def all_values(name, object_info):
    """Return the inputs of all nodes of a workflow in one dict."""
    values = {}
    for node in workflows.to_api(load(name), object_info).values():
        values.update(node["inputs"])
    return values


@pytest.mark.parametrize("name", NAMES)
def test_values_are_those_of_nano_and_else_of_the_release(name, object_info):
    values = all_values(name, object_info)
    expected = {"checkpoint": NANO, "seed": 43, "steps": 20, "cfg": 3}
    if name not in LONG:
        expected["denoise"] = 0.7 if name == "video_to_video" else 1
        expected["length"] = 1 if name == "text_to_image" else 16
        expected["clip_mix"] = 0.5
    if name in STOCK:
        expected |= {"sampler_name": "euler", "scheduler": "normal"}
    else:
        expected |= {"sampler_name": "Euler", "clip_apply_ratio": 0.5, "smoothing": True, "clean": True}
    if name == "video_to_video":
        # A video's own length counts, its first frames are picked before.
        del expected["length"]
    if name in FROM_TEXT:
        expected |= {"width": 64, "height": 64}
    if name in LONG:
        expected |= {"partial_length": 16, "overlap": 4, "overlap_mix": "linear", "drift_control": "off"}
        expected |= {"width": 0, "height": 0, "segments": 2, "total_length": 40 * (name == "long_video")}
    if name not in (*FROM_VIDEO, "text_to_image"):
        expected["fps"] = 8
    if name == "lora":
        expected |= {"strength_model": 1, "strength_clip": 1}
    assert {key: values[key] for key in expected} == expected


# What the note's table of values says of nano and of the released checkpoints.
TABLE = {
    "*base*": ("64", "512, 768, 960"),
    "*width*, *height*": ("64", "as above 见上表"),
    "*length*": ("16", "144"),
    "First Frames *length*": ("16", "144"),
    "*partial_length*": ("16", "72"),
    "*total_length*": ("40", "480"),
    "*fps*": ("8", "24"),
    "*steps*": ("20", "25"),
    "*cfg*": ("3", "7"),
}


@pytest.mark.parametrize("name", NAMES)
def test_note_names_the_values_of_nano_and_of_the_release(name, object_info):
    (text,) = note(name)["widgets_values"]
    rows = [
        row.strip("| ").split(" | ") for row in text.split("| Value ")[1].split("\n\n")[0].splitlines()[2:]
    ]
    told = {key: tuple(values) for key, *values in rows}
    expected = {"*steps*", "*cfg*", "*width*, *height*" if name in FROM_TEXT else "*base*"}
    if name in LONG:
        expected |= {"*partial_length*"} | ({"*total_length*"} if name == "long_video" else set())
    elif name != "text_to_image":
        expected.add("First Frames *length*" if name == "video_to_video" else "*length*")
    if name not in (*FROM_VIDEO, "text_to_image"):
        expected.add("*fps*")
    assert told == {key: TABLE[key] for key in expected}
    values = all_values(name, object_info)
    if name == "video_to_video":
        prompt = workflows.to_api(load(name), object_info)
        (first,) = workflows.nodes_of(prompt, "ImageFromBatch")
        assert prompt[first]["inputs"]["length"] == 16
        del told["First Frames *length*"]
    for key, (nano, _) in told.items():
        assert {str(values[key]) for key in key.replace("*", "").split(", ")} == {nano}


def prompt_lines(name, object_info):
    """Return the lines of a workflow's positive prompt, and its negative prompt."""
    texts = {node.get("title"): node["widgets_values"][0] for node in load(name)["nodes"] if "title" in node}
    positive = all_values(name, object_info)["prompts"] if name in LONG else texts["Positive Prompt"]
    return positive.splitlines(), texts["Negative Prompt"]


@pytest.mark.parametrize("name", NAMES)
def test_prompts_are_captions_that_nano_knows(name, object_info):
    lines, negative = prompt_lines(name, object_info)
    # The LoRA teaches a shape of its own.
    shapes = ("ring",) if name == "lora" else SHAPES
    assert negative == ""
    assert len(lines) == (2 if name in LONG else 1)
    for line in lines:
        subject, background = line.split(" on a ")
        article, colour, shape, *action = subject.split()
        assert (article, colour in SHAPE_COLOURS, shape in shapes) == ("a", True, True)
        assert " ".join(action) in (("",) if name == "text_to_image" else ACTIONS)
        assert background.removeprefix("striped ").removesuffix(" background") in BACKGROUNDS


@pytest.mark.parametrize("name", [name for name in NAMES if name not in FROM_TEXT])
def test_prompt_fits_the_sample(name, object_info):
    scene = sample_media.VIDEO if name in FROM_VIDEO else sample_media.PICTURES
    first, *others = prompt_lines(name, object_info)[0]
    assert scene.held_out
    if name == "video_to_video":
        assert f" {scene.shape} {scene.action} " in first
    else:
        assert first == scene.caption()
    assert others == ([first.replace("right", "left")] if name in LONG else [])


def test_samples_are_small_and_of_nanos_length():
    for sample in (START_IMAGE, END_IMAGE):
        with Image.open(sample) as picture:
            assert picture.size == SIZE
    with av.open(START_VIDEO) as video:
        stream = video.streams.video[0]
        assert (stream.width, stream.height) == SIZE
        assert stream.average_rate == FPS
        assert sum(1 for _ in video.decode(stream)) == LENGTH


@pytest.mark.parametrize("name", [name for name in NAMES if name not in FROM_TEXT])
def test_size_comes_from_the_sample(name, object_info):
    prompt = workflows.to_api(load(name), object_info)
    of_type = {
        kind: [prompt[node]["inputs"] for node in workflows.nodes_of(prompt, kind)]
        for kind in ("LoadImage", "LoadVideo", "EasyAnimateV3ResizeToBucket", "EasyAnimateV3ImageToVideo")
    }
    samples = [node["image"] for node in of_type["LoadImage"]] + [
        node["file"] for node in of_type["LoadVideo"]
    ]
    expected = [START_VIDEO] if name in FROM_VIDEO else [START_IMAGE]
    expected += [END_IMAGE] if name == "first_last_frame" else []
    assert samples == [sample.name for sample in expected]
    assert [node["base"] for node in of_type["EasyAnimateV3ResizeToBucket"]] == [64] * len(samples)
    buckets = workflows.nodes_of(prompt, "EasyAnimateV3ResizeToBucket")
    for clip in of_type["EasyAnimateV3ImageToVideo"]:
        assert (clip["width"], clip["height"]) == ([buckets[0], 1], [buckets[0], 2])


@pytest.mark.parametrize("name", FROM_VIDEO)
def test_rate_of_the_result_is_that_of_the_video(name, object_info):
    prompt = workflows.to_api(load(name), object_info)
    (parts,) = workflows.nodes_of(prompt, "GetVideoComponents")
    (save,) = workflows.nodes_of(prompt, "EasyAnimateV3SaveVideo")
    assert prompt[save]["inputs"]["fps"] == [parts, 2]


def test_video_to_video_starts_from_the_encoded_video(object_info):
    prompt = workflows.to_api(load("video_to_video"), object_info)
    (sampler,) = workflows.nodes_of(prompt, "EasyAnimateV3Sampler")
    (encode,) = workflows.nodes_of(prompt, "EasyAnimateV3VAEEncode")
    assert prompt[sampler]["inputs"]["latent_image"] == [encode, 0]


def test_lora_changes_what_is_sampled_and_what_is_encoded(object_info):
    prompt = workflows.to_api(load("lora"), object_info)
    (lora,) = workflows.nodes_of(prompt, "EasyAnimateV3LoraLoader")
    (sampler,) = workflows.nodes_of(prompt, "EasyAnimateV3Sampler")
    texts = workflows.nodes_of(prompt, "EasyAnimateV3TextEncode")
    assert prompt[sampler]["inputs"]["model"] == [lora, 0]
    assert [prompt[text]["inputs"]["clip"] for text in texts] == [[lora, 1]] * 2


def test_both_frames_have_their_embedding(object_info):
    prompt = workflows.to_api(load("first_last_frame"), object_info)
    (clip,) = workflows.nodes_of(prompt, "EasyAnimateV3ImageToVideo")
    clip = prompt[clip]["inputs"]
    for image, embed in (("start_image", "clip_vision_output"), ("end_image", "clip_vision_output_end")):
        assert prompt[clip[embed][0]]["inputs"]["image"] == clip[image]
    assert clip["start_image"] != clip["end_image"]


@pytest.mark.parametrize("name", ALL)
def test_stages_stand_left_to_right_without_overlap(name):
    workflow = load(name)
    groups = {group["title"]: edges(group) for group in workflow["groups"]}
    assert list(groups) == STAGES[name]
    for left, right in pairwise(groups.values()):
        assert left[2] < right[0]
    for node in workflow["nodes"]:
        assert sum(inside(rectangle(node), group) for group in groups.values()) == 1, node["type"]
    for a, b in combinations(workflow["nodes"], 2):
        assert not overlap(rectangle(a), rectangle(b)), (a["type"], b["type"])
    columns = {node["id"]: node["pos"][0] for node in workflow["nodes"]}
    assert all(columns[link[1]] <= columns[link[3]] for link in workflow["links"])


@pytest.mark.parametrize("name", NAMES)
def test_note_tells_folder_and_sizes_in_english_and_chinese(name):
    (text,) = note(name)["widgets_values"]
    for word in ("models/EasyAnimate", NANO, *RELEASED, *SIZES, "模型", "尺寸", "提示词", "反向提示词"):
        assert word in text
    # What a workflow is for is explained in both languages too.
    own = {
        "lora": ("*models/loras*", "*lora_unet__*"),
        "first_last_frame": ("*clip_mix*", "首尾帧"),
        "video_to_video": ("*denoise*", "视频"),
        "extend_video": ("*segments*", "提示词"),
        "long_video": ("*total_length*", "长度"),
    }
    for word in own.get(name, ()):
        assert word in text


def test_template_browser_is_served_the_files(server):
    assert sorted(server.get("/api/workflow_templates")[PACK_NAME]) == sorted(ALL)
    for name in ALL:
        address = f"/api/workflow_templates/{PACK_NAME}/{name}"
        assert server.get(f"{address}.json") == load(name)
        with urllib.request.urlopen(f"{server.url}{address}.jpg", timeout=30) as answer:
            assert answer.headers["Content-Type"] == "image/jpeg"


# What two segments of 16 frames with 4 in common make behind the 16 frames of the video; three by themselves.
FRAMES = {"extend_video": 40, "long_video": 40}


def run(name, server, object_info, changed=()):
    """Run a workflow with nano and return its prompt, its content and the one file that it saved."""
    workflow = load(name)
    prompt = thumbnails.prompt_of(name, object_info)
    for node in prompt.values():
        node["inputs"].update({key: value for key, value in dict(changed).items() if key in node["inputs"]})
    with server.submit(prompt, {"extra_pnginfo": {"workflow": workflow}}) as running:
        entry = running.wait(240)
    suffix = ".png" if name == "text_to_image" else ".mp4"
    (file,) = workflows.saved_files(entry["outputs"], suffix)
    return prompt, workflow, io.BytesIO(server.view(file["filename"], file["subfolder"], file["type"]))


@pytest.mark.parametrize("name", [name for name in ALL if name != "text_to_image"])
def test_server_makes_an_mp4_of_the_shipped_workflow(name, server, object_info):
    prompt, workflow, file = run(name, server, object_info)
    with av.open(file) as video:
        stream = video.streams.video[0]
        assert (stream.codec_context.name, stream.codec_context.pix_fmt) == ("h264", "yuv420p")
        assert stream.average_rate == FPS
        assert (stream.width, stream.height) == SIZE
        assert sum(1 for _ in video.decode(stream)) == FRAMES.get(name, LENGTH)
        assert json.loads(video.metadata["workflow"]) == workflow
        assert json.loads(video.metadata["prompt"]).keys() == prompt.keys()


def test_server_makes_a_picture_of_the_shipped_workflow(server, object_info):
    prompt, workflow, file = run("text_to_image", server, object_info)
    with Image.open(file) as picture:
        assert picture.size == SIZE
        assert json.loads(picture.text["workflow"]) == workflow
        assert json.loads(picture.text["prompt"]).keys() == prompt.keys()


@pytest.mark.parametrize("name", ["text_to_video", "text_to_video_stock"])
def test_another_checkpoint_and_other_values_can_be_set(name, server, object_info):
    changed = {
        "checkpoint": tiny_checkpoint.NAME,
        "width": 48,
        "height": 32,
        "length": 8,
        "steps": 4,
        "fps": 24,
    }
    _, _, file = run(name, server, object_info, changed)
    with av.open(file) as video:
        stream = video.streams.video[0]
        assert stream.average_rate == 24
        assert (stream.width, stream.height) == (48, 32)
        assert sum(1 for _ in video.decode(stream)) == 8
