"""A prompt as the model was trained on it: cleaned, cut to 120 tokens, encoded with T5."""

import math
from functools import partial
from typing import Any

from ..text import clean_prompt, removed_non_latin
from .inputs import kind
from .out_of_memory import say_what_to_lower
from .text_encoder import MAX_TOKENS, T5_NAME, truncate_tokens


def encode_prompt(clip: Any, text: str, clean: bool = True) -> tuple[list, list[str]]:
    """Encode a prompt on the host's CLIP.

    Parameters
    ----------
    clip : comfy.sd.CLIP
        T5 encoder.
    text : str
        The prompt, in English.
    clean : bool
        Clean the text as the release does.

    Returns
    -------
    tuple
        The CONDITIONING, and a sentence for each thing of the prompt that was lost.

    Raises
    ------
    ValueError
        Without a CLIP, or with one that has no T5 encoder.
    """
    if clip is None:
        raise ValueError(
            "there is no text encoder: the loader that this CLIP comes from did not find one, or has no CLIP connected itself."
        )
    if not hasattr(clip, "tokenize"):
        raise ValueError(
            f"clip is {kind(clip)}, and no text encoder: connect the CLIP of EasyAnimateV3Loader, or CLIPLoader."
        )
    # Halves of letters, which a program may send in JSON and no tokenizer reads.
    text = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "ignore")
    prompt = clean_prompt(text) if clean else text
    tokens, cut = truncate_tokens(clip.tokenize(prompt))
    if not all(math.isfinite(weight) for _, weight in tokens[T5_NAME][0]):
        raise ValueError(
            "a weight in the prompt is no finite number: write weights such as (word:1.2), or switch clean on."
        )
    messages = [_cleaning_note(text, prompt)] if clean else []
    if cut:
        words = "".join(piece for _, piece in clip.tokenizer.untokenize(cut)).replace("▁", " ").strip()
        messages.append(
            f"The prompt is longer than {MAX_TOKENS} tokens; the last {len(cut)} were cut: “{words}”."
        )
    conditioning = say_what_to_lower(
        partial(clip.encode_from_tokens_scheduled, tokens),
        "encode the prompt with T5",
        "take an fp8 copy of T5 (CLIPLoader, type pixart)",
    )
    return conditioning, [message for message in messages if message]


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
