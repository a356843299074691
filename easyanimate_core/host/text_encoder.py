"""The T5 text encoder and tokenizer of a checkpoint folder as a native ComfyUI CLIP."""

from pathlib import Path
from typing import Any

import comfy.sd
import comfy.supported_models_base
import comfy.utils
import torch

from .internals import T5, SD1ClipModel, SD1Tokenizer, SDClipModel, SDTokenizer, SPieceTokenizer

MAX_TOKENS = 120
T5_NAME = "t5xxl"
END_TOKEN = 1

# diffusers' and the host's names of one function.
_ACTIVATIONS = {"gelu_new": "gelu_pytorch_tanh", "gelu_pytorch_tanh": "gelu_pytorch_tanh", "relu": "relu"}


def load_text_encoder(
    config: dict[str, Any], state_dict: dict[str, torch.Tensor], tokenizer: Path
) -> comfy.sd.CLIP:
    """Build a CLIP of any T5 encoder size.

    Parameters
    ----------
    config : dict
        ``text_encoder/config.json`` of the folder (Hugging Face's T5Config).
    state_dict : dict of str to torch.Tensor
        Weights of the encoder under Hugging Face's names.
    tokenizer : Path
        ``spiece.model`` or ``tokenizer.json`` of the folder.
    """
    target = comfy.supported_models_base.ClipTarget(
        _tokenizer_class(tokenizer, config), _model_class(_host_config(config))
    )
    clip = comfy.sd.CLIP(target, parameters=comfy.utils.calculate_parameters(state_dict))
    missing, _ = clip.load_sd(state_dict)
    # Hugging Face stores the embedding once, under `shared`; the logit scale is CLIP's.
    if lost := [name for name in missing if name.startswith(("encoder.block", "encoder.final", "shared"))]:
        raise ValueError(
            f"text_encoder lacks the tensor {lost[0]}; the folder is incomplete, download it anew."
        )
    return clip


def truncate_tokens(tokens: dict[str, list], limit: int = MAX_TOKENS) -> tuple[dict[str, list], list[tuple]]:
    """Cut a tokenized prompt to ``limit`` tokens with the end token last, as the release does.

    Parameters
    ----------
    tokens : dict
        What ``CLIP.tokenize`` returns: for each encoder a list of batches of ``(token, weight)``.
    limit : int
        Tokens to keep, end token included.

    Returns
    -------
    tuple
        The cut tokens, and the ``(token, weight)`` pairs of the T5 encoder that were left out.
    """
    batches = tokens.get(T5_NAME)
    if not batches:
        raise ValueError(
            "this CLIP has no T5 encoder, but EasyAnimateV3 reads T5 XXL: take EasyAnimateV3Loader's CLIP, or "
            "CLIPLoader with a t5xxl file and type pixart."
        )
    # Prompts longer than the host's window arrive as several batches, each with its own end token.
    pairs = [
        pair
        for batch in batches
        for pair in batch
        if not _is_token(pair, END_TOKEN) and not _is_token(pair, 0)
    ]
    end = (END_TOKEN, 1.0)
    return {**tokens, T5_NAME: [[*pairs[: limit - 1], end]]}, pairs[limit - 1 :]


def _is_token(pair: tuple, token: int) -> bool:
    """Tell whether the pair is this token, not another one or an embedding."""
    return isinstance(pair[0], int) and pair[0] == token


def _host_config(config: dict[str, Any]) -> dict[str, Any]:
    """Translate a Hugging Face T5 configuration to what the host's T5 reads."""
    try:
        feed_forward = config.get("feed_forward_proj", "relu")
        gated = config.get("is_gated_act", feed_forward.startswith("gated-"))
        # Hugging Face means the tanh approximation by "gated-gelu", as T5 v1.1 was trained with.
        activation = config.get("dense_act_fn", "gelu_new" if "gelu" in feed_forward else "relu")
        if activation not in _ACTIVATIONS:
            raise ValueError(
                f"text_encoder/config.json names the activation {activation!r}, but T5 has gelu_new or relu; take the "
                "file of the release."
            )
        return {
            "d_ff": config["d_ff"],
            "d_kv": config["d_kv"],
            "d_model": config["d_model"],
            "dense_act_fn": _ACTIVATIONS[activation],
            "is_gated_act": gated,
            "model_type": "t5",
            "num_heads": config["num_heads"],
            "num_layers": config["num_layers"],
            "vocab_size": config["vocab_size"],
        }
    except KeyError as missing:
        raise ValueError(
            f"text_encoder/config.json has no {missing}; take the file of the release."
        ) from None


def _model_class(config: dict[str, Any]) -> type[torch.nn.Module]:
    """Return a text-encoder class for these dimensions, as the host's CLIP instantiates it."""

    class T5Encoder(SDClipModel):
        def __init__(
            self, device: Any = "cpu", dtype: Any = None, model_options: dict[str, Any] | None = None
        ) -> None:
            super().__init__(
                device=device,
                textmodel_json_config=dict(config),
                dtype=dtype,
                special_tokens={"end": END_TOKEN, "pad": 0},
                model_class=T5,
                model_options=model_options or {},
            )

    class T5TextModel(SD1ClipModel):
        def __init__(
            self, device: Any = "cpu", dtype: Any = None, model_options: dict[str, Any] | None = None
        ) -> None:
            super().__init__(
                device=device,
                dtype=dtype,
                name=T5_NAME,
                clip_model=T5Encoder,
                model_options=model_options or {},
            )

    return T5TextModel


def _tokenizer_class(path: Path, config: dict[str, Any]) -> type:
    """Return a tokenizer class for the folder's file, as the host's CLIP instantiates it."""
    if path.suffix == ".json":
        from transformers import T5TokenizerFast

        source, reader, arguments = path.parent, T5TokenizerFast, {}
    else:
        source, reader, arguments = path, SPieceTokenizer, {"add_bos": False, "add_eos": True}

    class T5Tokenizer(SDTokenizer):
        def __init__(
            self, embedding_directory: Any = None, tokenizer_data: dict[str, Any] | None = None
        ) -> None:
            super().__init__(
                str(source),
                embedding_directory=embedding_directory,
                pad_with_end=False,
                embedding_size=config["d_model"],
                embedding_key=T5_NAME,
                tokenizer_class=reader,
                has_start_token=False,
                pad_to_max_length=False,
                max_length=99999999,
                min_length=1,
                tokenizer_data=tokenizer_data or {},
                tokenizer_args=arguments,
            )

    class EasyAnimateTokenizer(SD1Tokenizer):
        def __init__(
            self, embedding_directory: Any = None, tokenizer_data: dict[str, Any] | None = None
        ) -> None:
            super().__init__(
                embedding_directory=embedding_directory,
                tokenizer_data=tokenizer_data or {},
                name=T5_NAME,
                tokenizer=T5Tokenizer,
            )

    return EasyAnimateTokenizer
