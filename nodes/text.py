"""Prompt to CONDITIONING."""

from comfy_api.latest import io

from ..easyanimate_core.host.text_encoder import MAX_TOKENS, truncate_tokens
from ..easyanimate_core.text import clean_prompt, removed_non_latin
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
        if clip is None:
            raise ValueError(
                "there is no text encoder: the loader that this CLIP comes from did not find one."
            )
        prompt = clean_prompt(text) if clean else text
        tokens, cut = truncate_tokens(clip.tokenize(prompt))
        messages = [cls._cleaning_note(text, prompt) if clean else None]
        if cut:
            words = "".join(piece for _, piece in clip.tokenizer.untokenize(cut)).replace("▁", " ").strip()
            messages.append(
                f"The prompt is longer than {MAX_TOKENS} tokens; the last {len(cut)} were cut: “{words}”."
            )
        return io.NodeOutput(clip.encode_from_tokens_scheduled(tokens), ui=show_in_node(cls, *messages))

    @staticmethod
    def _cleaning_note(text: str, prompt: str) -> str | None:
        """Say what cleaning took away, where it took away meaning."""
        if not prompt and text.strip():
            return (
                "Cleaning left nothing of this prompt, so it counts as empty: T5 knows English only, write it in "
                "English (提示词清理后为空：T5 只懂英文，请用英文书写)."
            )
        if removed_non_latin(text, prompt):
            return (
                "Cleaning removed the words that are not in Latin letters: T5 knows English only, write them in "
                "English (非拉丁文字已被删除：T5 只懂英文，请用英文书写)."
            )
        return None


NODES = [EasyAnimateV3TextEncode]
