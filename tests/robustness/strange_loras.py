"""LoRA files from strangers, beyond what any safetensors file may be."""

import torch
from safetensors.torch import load, save
from strange_mutants import ANY, REFUSED, SAME, Mutant, kind

MODULE = "transformer_blocks.3.attn1.to_q"


def _mutant(tensors, expect, note=""):
    return Mutant(
        "lora", {"strange.safetensors": save({n: t.clone() for n, t in tensors.items()})}, expect, note
    )


def _module(lora, rng):
    return rng.choice(sorted(name.removesuffix(".alpha") for name in lora if name.endswith(".alpha")))


@kind
def lora_alpha_is_odd(good, rng):
    lora = load(good.lora)
    module = _module(lora, rng)
    alpha = rng.choice(
        [
            torch.ones(2),
            torch.ones(0),
            torch.ones(2, 2),
            torch.tensor(1j),
            torch.tensor(True),
            torch.ones(1_000_000),
        ]
    )
    expect = ANY if alpha.dtype == torch.bool else REFUSED
    return _mutant({**lora, f"{module}.alpha": alpha}, expect, f"{tuple(alpha.shape)} {alpha.dtype}")


@kind
def lora_alpha_is_equal(good, rng):
    lora = load(good.lora)
    module = _module(lora, rng)
    alpha = rng.choice([torch.tensor([1.0]), torch.tensor(1), torch.tensor(1.0, dtype=torch.float64)])
    return _mutant({**lora, f"{module}.alpha": alpha}, SAME, f"{tuple(alpha.shape)} {alpha.dtype}")


@kind
def lora_alpha_is_no_number(good, rng):
    lora = load(good.lora)
    alpha = rng.choice([float("nan"), float("inf")])
    return _mutant({**lora, f"{_module(lora, rng)}.alpha": torch.tensor(alpha)}, REFUSED, str(alpha))


@kind
def lora_factors_do_not_fit(good, rng):
    lora = load(good.lora)
    module = _module(lora, rng)
    up, down = f"{module}.lora_up.weight", f"{module}.lora_down.weight"
    rows, columns = lora[up].shape[0], lora[down].shape[1]
    change = rng.choice(
        [
            {up: torch.ones(rows, 3)},
            {down: torch.ones(3, columns)},
            {up: torch.ones(rows, 0), down: torch.ones(0, columns)},
            {up: torch.ones(rows)},
            {down: torch.ones(columns)},
            {up: torch.ones(()), down: torch.ones(())},
            {up: torch.ones(rows + 1, 2)},
            {down: torch.ones(2, columns + 1)},
            {up: torch.ones(columns + 5, 2), down: torch.ones(2, rows)},
            {up: lora[up].to(torch.int64)},
            {down: lora[down].to(torch.complex64)},
            {down: lora[down].bool()},
        ]
    )
    note = str({name[-16:]: (tuple(t.shape), t.dtype) for name, t in change.items()})
    return _mutant({**lora, **change}, REFUSED, note)


@kind
def lora_modules_of_another_model(good, rng):
    lora = load(good.lora)
    module = _module(lora, rng)
    other = rng.choice(
        [
            "lora_unet__down_blocks_0_attn_to_q",
            "lora_unet__transformer_blocks_99_attn1_to_q",
            "lora_te_text_model_encoder_layers_0_mlp_fc1",
            "lora_unet__",
            "lora_unet__a\nb",
            "lora_te2_x",
            "x" * 100_000,
        ]
    )
    renamed = {name.replace(module, other): tensor for name, tensor in lora.items()}
    return _mutant(renamed, REFUSED, other[:60])


# The names that ComfyUI, diffusers and PEFT write


def _pair(prefix, shape=(32, 32), rank=2, names=("lora_A.weight", "lora_B.weight")):
    down, up = names
    return {
        f"{prefix}{MODULE}.{down}": torch.ones(rank, shape[1]),
        f"{prefix}{MODULE}.{up}": torch.ones(shape[0], rank),
    }


PREFIXES = ["transformer.", "base_model.model.", "unet.base_model.model.", "diffusion_model."]
NAMES = [
    ("lora_A.weight", "lora_B.weight"),
    ("lora_down.weight", "lora_up.weight"),
    ("lora.down.weight", "lora.up.weight"),
    ("lora_A.default.weight", "lora_B.default.weight"),
]


@kind
def other_lora_that_is_good(good, rng):
    return _mutant(_pair(rng.choice(PREFIXES), names=rng.choice(NAMES)), ANY)


@kind
def other_lora_of_another_shape(good, rng):
    shape = rng.choice([(31, 32), (32, 31), (64, 64), (1024, 4), (3000, 3000)])
    return _mutant(_pair(rng.choice(PREFIXES), shape, names=rng.choice(NAMES)), REFUSED, str(shape))


@kind
def other_lora_of_odd_rank(good, rng):
    lora = _pair(rng.choice(PREFIXES), names=rng.choice(NAMES))
    name = rng.choice(sorted(lora))
    tensor = rng.choice(
        [torch.ones(32, 32), torch.ones(5, 5), torch.ones(32), torch.ones(()), torch.ones(0, 32)]
    )
    return _mutant({**lora, name: tensor}, REFUSED, f"{name} {tuple(tensor.shape)}")


@kind
def other_lora_of_odd_dtype(good, rng):
    lora = _pair(rng.choice(PREFIXES), names=rng.choice(NAMES))
    name = rng.choice(sorted(lora))
    return _mutant(
        {**lora, name: lora[name].to(rng.choice([torch.int32, torch.complex64, torch.bool]))}, REFUSED
    )


@kind
def other_lora_of_half_a_module(good, rng):
    lora = _pair(rng.choice(PREFIXES), names=rng.choice(NAMES))
    lost = rng.choice(sorted(lora))
    del lora[lost]
    return _mutant(lora, REFUSED, f"without {lost}")


@kind
def other_lora_with_odd_entries(good, rng):
    lora = _pair("diffusion_model.", names=NAMES[1])
    name, tensor, expect = rng.choice(
        [
            ("alpha", torch.ones(3), REFUSED),
            ("alpha", torch.tensor(float("nan")), REFUSED),
            ("lora_mid.weight", torch.ones(3, 3), REFUSED),
            ("reshape_weight", torch.tensor([10**6, 10**6]), REFUSED),
            ("reshape_weight", torch.tensor([-1, 2, 3]), REFUSED),
            ("diff", torch.ones(3), REFUSED),
            ("diff_b", torch.ones(3), REFUSED),
            ("set_weight", torch.ones(3, 3), REFUSED),
        ]
    )
    return _mutant(
        {**lora, f"diffusion_model.{MODULE}.{name}": tensor}, expect, f"{name} {tuple(tensor.shape)}"
    )


@kind
def lora_scale_does_not_fit(good, rng):
    scale = rng.choice(
        [torch.ones(7, 7), torch.ones(31, 1), torch.ones(1, 5), torch.ones(3), torch.ones(2, 32, 1)]
    )
    lora = _pair("diffusion_model.", names=NAMES[1])
    return _mutant({**lora, f"diffusion_model.{MODULE}.dora_scale": scale}, REFUSED, str(tuple(scale.shape)))


@kind
def lora_scale_that_fits(good, rng):
    scale = rng.choice([torch.ones(32, 1), torch.ones(1, 32)])
    lora = _pair("diffusion_model.", names=NAMES[1])
    return _mutant({**lora, f"diffusion_model.{MODULE}.dora_scale": scale}, ANY, str(tuple(scale.shape)))


@kind
def other_lora_of_rare_formats(good, rng):
    stem = f"diffusion_model.{MODULE}"
    wrong, one = torch.ones(3, 5), torch.ones(())
    tensors = rng.choice(
        [
            {
                f"{stem}.hada_w1_a": wrong,
                f"{stem}.hada_w1_b": wrong,
                f"{stem}.hada_w2_a": wrong,
                f"{stem}.hada_w2_b": wrong,
            },
            {f"{stem}.hada_w1_a": wrong},
            {f"{stem}.lokr_w1": wrong, f"{stem}.lokr_w2": wrong},
            {f"{stem}.lokr_w1": one, f"{stem}.lokr_w2": one},
            {
                f"{stem}.a1.weight": wrong,
                f"{stem}.a2.weight": wrong,
                f"{stem}.b1.weight": wrong,
                f"{stem}.b2.weight": wrong,
            },
            {f"{stem}.oft_blocks": wrong},
            {f"{stem}.oft_blocks": torch.ones(2, 3, 3, 3)},
            {f"{stem}.diff": wrong},
            {f"{stem}.set_weight": wrong},
        ]
    )
    return _mutant(tensors, REFUSED, ", ".join(name[len(stem) :] for name in tensors))
