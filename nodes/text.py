"""Prompt to CONDITIONING."""

from comfy_api.latest import io

from ..easyanimate_core.host.prompt import encode_prompt
from .messages import show_in_node


class EasyAnimateV3TextEncode(io.ComfyNode):
    """Clean a prompt, cut it to 120 tokens and encode it with T5."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node."""
        return io.Schema(
            node_id="EasyAnimateV3TextEncode",
            display_name="EasyAnimateV3 Text Encode",
            category="EasyAnimateV3/conditioning",
            description="Encodes a prompt as EasyAnimateV3 was trained: cleaned, at most 120 T5 tokens. English only.",
            inputs=[
                io.Clip.Input(
                    "clip",
                    tooltip="T5 encoder: EasyAnimateV3Loader's CLIP, or CLIPLoader with t5xxl and type pixart.",
                ),
                io.String.Input(
                    "text",
                    multiline=True,
                    dynamic_prompts=True,
                    tooltip="What the video shows, in English. With clean off, (word:1.2) weighs a word.",
                ),
                io.Boolean.Input(
                    "clean",
                    default=True,
                    tooltip="Clean the text as the release does: lower case, no links, HTML, file names or CJK characters.",
                ),
            ],
            outputs=[io.Conditioning.Output(tooltip="T5 states of the prompt.")],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(cls, clip: io.Clip.Type, text: str, clean: bool) -> io.NodeOutput:
        """Encode the prompt."""
        conditioning, messages = encode_prompt(clip, text, clean)
        return io.NodeOutput(conditioning, ui=show_in_node(cls, *messages))


NODES = [EasyAnimateV3TextEncode]
