"""Mutants of LoRA files, and of how files are recognised."""

from .mutant import mutants_of

LORA_TESTS, FILE_TESTS = "tests/test_lora.py::", "tests/test_checkpoint.py::"

CHECKPOINT = [
    *mutants_of(
        "checkpoint/lora.py",
        f"{LORA_TESTS}test_text_encoder_part",
        (
            "lora-rank",
            "LoRA update not divided by the rank",
            "(self.alpha / self.down.shape[0])",
            "self.alpha",
            f"{LORA_TESTS}test_merged_model",
        ),
        (
            "lora-alpha",
            "LoRA without alpha scaled by 1 / rank",
            "else float(rank)",
            "else 1.0",
            f"{LORA_TESTS}test_convolution_and_missing_alpha",
        ),
        (
            "lora-sign",
            "LoRA update subtracted",
            "weight.float() + multiplier * module.delta()",
            "weight.float() - multiplier * module.delta()",
        ),
        (
            "lora-strength",
            "LoRA strength is ignored",
            "weight.float() + multiplier * module.delta()",
            "weight.float() + module.delta()",
        ),
        (
            "lora-host-prefix",
            "LoRA names with another prefix for the host",
            '_HOST_TRANSFORMER_PREFIX = "diffusion_model."',
            '_HOST_TRANSFORMER_PREFIX = "model."',
            f"{LORA_TESTS}test_native_names_give_the_same_weights",
        ),
        (
            "lora-two-underscores",
            "LoRA files are recognised by one underscore, which the host knows itself",
            'f"{TRANSFORMER_PART}__", _T5_MODULES',
            'f"{TRANSFORMER_PART}_t", _T5_MODULES',
            f"{LORA_TESTS}test_release_layout_is_recognised",
        ),
    ),
    *mutants_of(
        "checkpoint/detect.py",
        f"{FILE_TESTS}test_prefixes",
        (
            "wrapper-prefix",
            "the prefix model.diffusion_model. is not taken off",
            '("model.diffusion_model.", "diffusion_model.", "module.")',
            '("diffusion_model.", "module.")',
        ),
        (
            "prefix-of-some",
            "a prefix that some names have is taken off",
            "all(k.startswith(p) for k in result)",
            "any(k.startswith(p) for k in result)",
        ),
        (
            "stored-tables",
            "sinusoid tables of the file are loaded",
            'name.endswith("pos_encoder.pe") or ',
            "",
            f"{FILE_TESTS}test_persistent_tables_are_dropped",
        ),
        (
            "trained-resolution",
            "sample_size counts as pixels",
            "return sample_size * 8 if",
            "return sample_size if",
            f"{FILE_TESTS}test_trained_resolution",
        ),
        (
            "a-motion-module-is-not-needed",
            "image transformers of the PixArt family count as EasyAnimate's",
            'return "transformer" if _any_name(shapes, ".attn_temporal.temporal_transformer.") else "pixart"',
            'return "transformer"',
            f"{FILE_TESTS}test_kind",
        ),
        (
            "five-axes",
            "a VAE of images is taken for one of videos",
            "if rank == 5:",
            "if rank in (4, 5):",
            f"{FILE_TESTS}test_kind",
        ),
    ),
]
