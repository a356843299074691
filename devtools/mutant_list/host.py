"""Mutants of what ties the core to ComfyUI."""

from .mutant import mutants_of

PIPELINE = "tests/host/test_golden_pipeline.py::test_whole_run_matches_the_release"
I2V, T2V, ANCESTRAL = f"{PIPELINE}[i2v_ddim]", f"{PIPELINE}[t2v_euler]", f"{PIPELINE}[continue4_euler_a]"
FIRST_LAST = "tests/host/test_first_last_frame.py::"
STOCK = "tests/host/test_stock_samplers.py::"

HOST = [
    *mutants_of(
        "host/latent_format.py",
        I2V,
        ("latent-scale", "latents of the host not scaled", "scale_factor = 0.18215", "scale_factor = 1.0"),
    ),
    *mutants_of(
        "host/model_sampling.py",
        ANCESTRAL,
        (
            "v-prediction",
            "the model's output is read as a velocity",
            "comfy.model_sampling.ModelSamplingDiscrete, comfy.model_sampling.EPS",
            "comfy.model_sampling.ModelSamplingDiscrete, comfy.model_sampling.V_PREDICTION",
        ),
        (
            "whole-timesteps",
            "timesteps rounded to whole ones",
            "return self.schedule.timestep(sigma).to(sigma.device)",
            "return self.schedule.timestep(sigma).round().to(sigma.device)",
            f"{STOCK}test_host_reads_the_releases_schedule",
        ),
    ),
    *mutants_of(
        "host/model.py",
        I2V,
        (
            "learned-sigma",
            "the learned sigma is taken for the noise",
            "return out[:, : EasyAnimateV3Latent.latent_channels]",
            "return out[:, EasyAnimateV3Latent.latent_channels :]",
        ),
        (
            "host-schedule",
            "stock schedulers of the host take the schedule that it calls linear",
            '"beta_schedule": "sqrt_linear"',
            '"beta_schedule": "linear"',
            f"{STOCK}test_host_reads_the_releases_schedule",
        ),
    ),
    *mutants_of(
        "host/entries.py",
        "tests/host/test_stock_conditioning.py::test_padding_of_a_text_is_not_read",
        (
            "host-padding",
            "padding of the text states reaches the model",
            "return text[:, mask.reshape(-1, mask.shape[-1])[0].bool().to(text.device)]",
            "return text",
        ),
    ),
    *mutants_of(
        "host/text_states.py",
        I2V,
        (
            "sides-of-the-guidance",
            "texts of the positive and the negative side change places",
            "return torch.cat([F.pad",
            "texts.reverse()\n        return torch.cat([F.pad",
        ),
    ),
    *mutants_of(
        "host/clip_schedule.py",
        f"{STOCK}test_clip_tokens_join_at_the_middle_call_with_every_stock_scheduler",
        (
            "stock-clip-schedule",
            "stock samplers count the calls from the end",
            "int((sigmas[:-1] > current * 1.0001).sum()), steps",
            "int((sigmas[:-1] < current * 0.9999).sum()), steps",
        ),
        (
            "split-run",
            "each part of a split run counts as a whole run",
            "if from_the_top and to_the_end:",
            "if to_the_end:",
            f"{STOCK}test_split_run_equals_one_run",
        ),
    ),
    *mutants_of(
        "host/sampler.py",
        "tests/host/test_nodes.py::test_sigmas",
        (
            "denoise-start",
            "denoise below 1 takes the first noise levels instead of the last",
            "release_sigmas(name, total)[-(steps + 1) :]",
            "release_sigmas(name, total)[: steps + 1]",
        ),
        (
            "host-initial-noise",
            "PNDM and DDIM start from noise times sigma in the host",
            "return self.whole_run and initial_noise_scale(self.name, 1.0) != 1.0",
            "return False",
            I2V,
        ),
    ),
    *mutants_of(
        "host/vae.py",
        f"{FIRST_LAST}test_images_of_a_batch_are_the_first_and_last_frames",
        (
            "host-pixel-range",
            "the host's VAE gets pixels in [0, 1]",
            "lambda image: image * 2.0 - 1.0",
            "lambda image: image",
            I2V,
        ),
        (
            "host-decoded-range",
            "the host gets pixels in [-1, 1]",
            "torch.clamp(pixels / 2.0 + 0.5, min=0.0, max=1.0)",
            "torch.clamp(pixels, min=0.0, max=1.0)",
            I2V,
        ),
    ),
    *mutants_of(
        "host/conditioning.py",
        I2V,
        (
            "host-mask-range",
            "mask and masked video reach the host's VAE without the change of range that it undoes",
            "pixels[0].movedim(0, -1) / 2 + 0.5",
            "pixels[0].movedim(0, -1)",
        ),
        (
            "length-rounding",
            "lengths rounded up to a multiple of 8",
            "max(length - length % SLICE_FRAMES, SLICE_FRAMES)",
            "max(length + -length % SLICE_FRAMES, SLICE_FRAMES)",
            "tests/host/test_bad_input.py::test_length_is_snapped_and_the_node_says_so",
        ),
        (
            "end-embedding-alone",
            "of two CLIP embeddings the second one alone is taken",
            "blend_embeds(*embeds, clip_mix) if len(embeds) == 2 else embeds[0]",
            "embeds[-1]",
            f"{FIRST_LAST}TestEmbeddings::test_two_are_mixed",
        ),
    ),
    *mutants_of(
        "host/images.py",
        "tests/host/test_long_video.py::test_file_has_the_frames_of_extend_video",
        (
            "eight-bits-cut-off",
            "colours of a file cut off instead of rounded",
            "frame.mul(255).round().",
            "frame.mul(255).",
        ),
    ),
    *mutants_of(
        "host/text_encoder.py",
        "tests/host/test_bad_input.py::test_long_prompt_is_cut_and_the_node_says_what_is_missing",
        (
            "token-limit",
            "119 tokens of a prompt in place of 120",
            "[*pairs[: limit - 1], end]]}, pairs[limit - 1 :]",
            "[*pairs[: limit - 2], end]]}, pairs[limit - 2 :]",
        ),
    ),
]
