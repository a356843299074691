"""The T5 text encoder and tokenizer of a checkpoint folder as a native ComfyUI CLIP."""

from pathlib import Path
from typing import Any

import comfy.sd
import comfy.supported_models_base
import comfy.utils
import torch

from ..values import ConfigValues
from .internals import T5, SD1ClipModel, SD1Tokenizer, SDClipModel, SDTokenizer
from .loading import require_fit, require_plain
from .tokenizer import END_TOKEN, read_tokenizer

MAX_TOKENS = 120
T5_NAME = "t5xxl"

_SOURCE = "text_encoder/config.json"
_BLOCK = "encoder.block."
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

    Raises
    ------
    ValueError
        If a file is damaged or another model's, or the configuration gives another model than the tensors'.
    """
    host_config = _host_config(config)
    _require_shapes(host_config, state_dict)
    require_plain(state_dict)
    target = comfy.supported_models_base.ClipTarget(
        _tokenizer_class(
            read_tokenizer(tokenizer, host_config["vocab_size"]), tokenizer, host_config["d_model"]
        ),
        _model_class(host_config),
    )
    clip = comfy.sd.CLIP(target, parameters=comfy.utils.calculate_parameters(state_dict))
    for name, parameter in getattr(clip.cond_stage_model, T5_NAME).transformer.state_dict().items():
        if name in state_dict:
            require_fit(name, state_dict[name], parameter)
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
    read = ConfigValues(config, _SOURCE)
    read.one_of("model_type", "t5", ("t5",))
    feed_forward = read.one_of("feed_forward_proj", "relu", ("relu", "gated-relu", "gelu", "gated-gelu"))
    # Hugging Face means the tanh approximation by "gated-gelu", as T5 v1.1 was trained with.
    activation = read.one_of(
        "dense_act_fn", "gelu_new" if "gelu" in feed_forward else "relu", tuple(_ACTIVATIONS)
    )
    numbers = ("d_ff", "d_kv", "d_model", "num_heads", "num_layers", "vocab_size")
    return {
        **{key: read.whole(key) for key in numbers},
        "dense_act_fn": _ACTIVATIONS[activation],
        "is_gated_act": read.flag("is_gated_act", feed_forward.startswith("gated-")),
        "model_type": "t5",
    }


def _require_shapes(config: dict[str, Any], state_dict: dict[str, torch.Tensor]) -> None:
    """Check that the model is no larger than its tensors, before the host makes room for it."""
    attention, dense = (f"{_BLOCK}0.layer.{part}." for part in ("0.SelfAttention", "1.DenseReluDense"))
    width, inner, inward = (
        config["d_model"],
        config["num_heads"] * config["d_kv"],
        (config["d_ff"], config["d_model"]),
    )
    expected = {
        "shared.weight": ((config["vocab_size"], width), "vocab_size, d_model"),
        f"{attention}q.weight": ((inner, width), "num_heads, d_kv, d_model"),
        f"{dense}{'wi_0' if config['is_gated_act'] else 'wi'}.weight": (inward, "d_ff, feed_forward_proj"),
    }
    bias = f"{attention}relative_attention_bias.weight"
    if bias in state_dict:
        expected[bias] = ((*state_dict[bias].shape[:1], config["num_heads"]), "num_heads")
    for name, (shape, keys) in expected.items():
        if name not in state_dict:
            raise ValueError(
                f"text_encoder lacks the tensor {name}, which config.json asks for ({keys}); the folder is incomplete, "
                "download it anew."
            )
        if tuple(state_dict[name].shape) != shape:
            raise ValueError(
                f"text_encoder's tensor {name} has shape {list(state_dict[name].shape)[:8]}, but config.json gives "
                f"{list(shape)} ({keys}); take the folder of the release anew."
            )
    layers = len({name[len(_BLOCK) :].split(".", 1)[0] for name in state_dict if name.startswith(_BLOCK)})
    if layers != config["num_layers"]:
        raise ValueError(
            f"text_encoder has {layers} layers, but config.json gives {config['num_layers']} (num_layers); take the folder "
            "of the release anew."
        )


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


def _tokenizer_class(ready: Any, path: Path, width: int) -> type:
    """Return a tokenizer class around one that is ready, as the host's CLIP instantiates it."""

    class Reader:
        @staticmethod
        def from_pretrained(*_: Any, **__: Any) -> Any:
            return ready

    class T5Tokenizer(SDTokenizer):
        def __init__(
            self, embedding_directory: Any = None, tokenizer_data: dict[str, Any] | None = None
        ) -> None:
            super().__init__(
                str(path),
                embedding_directory=embedding_directory,
                pad_with_end=False,
                embedding_size=width,
                embedding_key=T5_NAME,
                tokenizer_class=Reader,
                has_start_token=False,
                pad_to_max_length=False,
                max_length=99999999,
                min_length=1,
                tokenizer_data=tokenizer_data or {},
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
