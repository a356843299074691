"""Noise schedule and samplers against trajectories of the release's schedulers, and in their edge cases."""

from pathlib import Path

import pytest
import torch

from devtools.golden import read_case, relative_error, rule_input
from easyanimate_core.sampling import (
    SAMPLER_FUNCTIONS,
    SAMPLERS,
    NoiseSchedule,
    clip_tokens_active,
    initial_noise_scale,
    model_call_count,
    release_sigmas,
    release_timesteps,
    sample_ddim,
    sample_euler,
    sample_euler_ancestral,
    sample_pndm,
)

GOLDEN = Path(__file__).parent / "golden"
FILE_NAMES = {"euler": "Euler", "euler_a": "Euler A", "dpmpp": "DPM++", "pndm": "PNDM", "ddim": "DDIM"}
CASES = sorted((GOLDEN / "sampler").glob("*.safetensors"))
SCHEDULE = NoiseSchedule()


class AnalyticModel:
    """The golden files' model in the k-diffusion convention; keeps what it was called with."""

    def __init__(self):
        self.timesteps = []
        self.inputs = []

    def __call__(self, x, sigma, **extra_args):
        assert sigma.shape == (x.shape[0],) and sigma.dtype == torch.float32
        sigma = sigma.double().reshape(-1, *[1] * (x.ndim - 1))
        t = SCHEDULE.timestep(sigma).double()
        u = x.double() / (1 + sigma**2).sqrt()
        self.timesteps.append(t.flatten()[0].float())
        self.inputs.append(x)
        a = (1 - torch.exp(-(1e-4 * t + 9.95e-6 * t**2))).sqrt()
        eps = 0.9 * a * u + 0.1 * torch.tanh(2 * u) + 0.02 * torch.sin(t / 100)
        return (x.double() - sigma * eps).float()


def run(sampler, sigmas, noise=None, **options):
    model = AnalyticModel()
    noise = torch.randn(1, 4, 2, 3, 4, generator=torch.Generator().manual_seed(1)) if noise is None else noise
    start = noise * initial_noise_scale(sampler, float(sigmas[0]))
    return SAMPLER_FUNCTIONS[sampler](model, start, sigmas, **options), model


def preserving(x, sigma):
    return x / (1 + float(sigma) ** 2) ** 0.5


def test_golden_cases_are_there():
    assert {case.stem.rpartition("_")[0] for case in CASES} == set(FILE_NAMES)


@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_trajectory(path):
    golden, _ = read_case(path)
    name, _, steps = path.stem.rpartition("_")
    sampler, steps = FILE_NAMES[name], int(steps)

    timesteps = release_timesteps(sampler, steps)
    torch.testing.assert_close(timesteps, golden["timesteps"], rtol=0, atol=1e-4)
    sigmas = release_sigmas(sampler, steps, SCHEDULE)
    if "sigmas" in golden:
        torch.testing.assert_close(sigmas, golden["sigmas"], rtol=2e-7, atol=0)

    options = {}
    if "step_noise" in golden:
        step_noise = iter(golden["step_noise"])
        options["noise_sampler"] = lambda sigma, sigma_next: next(step_noise)
    final, model = run(sampler, sigmas, golden["noise"], **options)

    torch.testing.assert_close(torch.stack(model.timesteps), golden["timesteps"], rtol=0, atol=1e-4)
    assert len(model.inputs) == model_call_count(sampler, steps)
    exploding = sampler in ("Euler", "Euler A")
    call_sigmas = SCHEDULE.sigma(timesteps)
    states = [
        x if exploding else preserving(x, sigma) for x, sigma in zip(model.inputs, call_sigmas, strict=True)
    ]
    for k, (state, expected) in enumerate(zip([*states, final], golden["trajectory"], strict=True)):
        assert relative_error(state, expected) < 2e-6, f"point {k}"
    assert relative_error(final, golden["final"]) < 2e-6


def test_pndm_with_an_odd_number_of_timesteps_between_steps():
    # 1000 // 8 = 125: no golden file has an odd spacing. Values of diffusers 0.30.3 for the same noise and model.
    noise = rule_input("pndm_8.noise", (1, 4, 2, 3, 4))
    final, _ = run("PNDM", release_sigmas("PNDM", 8, SCHEDULE), noise)
    expected = torch.tensor([3.54053926, -0.96970838, -2.79602885, -0.09985287])
    assert relative_error(final[0, :, 0, 0, 0], expected) < 2e-6


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_every_step_count_runs(sampler):
    for steps in range(4 if sampler == "PNDM" else 1, 51):
        sigmas = release_sigmas(sampler, steps, SCHEDULE)
        assert sigmas.shape == (steps + 1,) and (sigmas[1:] < sigmas[:-1]).all()
        assert len(release_timesteps(sampler, steps)) == model_call_count(sampler, steps)
        final, model = run(sampler, sigmas)
        assert final.isfinite().all()
        torch.testing.assert_close(
            torch.stack(model.timesteps), release_timesteps(sampler, steps), rtol=0, atol=2e-4
        )


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_highest_step_count_runs(sampler):
    sigmas = release_sigmas(sampler, 999 if sampler in ("PNDM", "DDIM") else 1000, SCHEDULE)
    assert run(sampler, sigmas)[0].isfinite().all()


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("kept", [0, 1, 2, 3, 4, 7])
def test_truncated_sigmas(sampler, kept):
    sigmas = release_sigmas(sampler, 10, SCHEDULE)[10 - kept :]
    seen = []
    final, model = run(sampler, sigmas, callback=seen.append)
    assert final.isfinite().all() and final.shape == (1, 4, 2, 3, 4)
    assert len(model.inputs) == model_call_count(sampler, kept)
    assert [step["i"] for step in seen] == list(range(kept))
    for step, sigma in zip(seen, sigmas, strict=False):
        assert step["sigma"] == step["sigma_hat"] == sigma
        assert step["x"].shape == step["denoised"].shape == final.shape


@pytest.mark.parametrize("sampler", ["Euler", "DDIM"])
def test_run_in_two_halves_equals_one_run(sampler):
    sigmas = release_sigmas(sampler, 10, SCHEDULE)
    function = SAMPLER_FUNCTIONS[sampler]
    x = torch.randn(1, 4, 2, 3, 4, generator=torch.Generator().manual_seed(0)) * sigmas[0]
    whole = function(AnalyticModel(), x, sigmas)
    halves = function(AnalyticModel(), function(AnalyticModel(), x, sigmas[:6]), sigmas[5:])
    torch.testing.assert_close(halves, whole)


def test_pndm_that_stops_early_stays_variance_exploding():
    sigmas = release_sigmas("PNDM", 10, SCHEDULE)
    x = torch.randn(1, 4, 2, 3, 4, generator=torch.Generator().manual_seed(0)) * sigmas[0]
    stopped = sample_pndm(AnalyticModel(), x, sigmas[:6])
    fine = sample_euler(AnalyticModel(), x, SCHEDULE.sigma(torch.linspace(901, 401, 400)))
    # PNDM's ten steps come within 1 % of the fine run; in the other scale they are off by 56 %.
    assert relative_error(stopped, fine) < 0.02


def test_ddim_clamp_can_be_switched_off():
    sigmas = release_sigmas("DDIM", 10, SCHEDULE)
    x = torch.randn(1, 4, 2, 3, 4, generator=torch.Generator().manual_seed(0)) * sigmas[0]
    free = sample_ddim(AnalyticModel(), x, sigmas, clip_sample=False)
    torch.testing.assert_close(free, sample_euler(AnalyticModel(), x, sigmas))
    assert relative_error(sample_ddim(AnalyticModel(), x, sigmas), free) > 0.1


def test_ancestral_noise_follows_the_seed_after_the_initial_noise():
    shape, sigmas = (1, 4, 2, 3, 4), torch.tensor([2.0, 1.0])
    draws = torch.Generator().manual_seed(5)
    torch.randn(shape, generator=draws)
    expected_noise = torch.randn(shape, generator=draws)

    def to_zero(x, sigma, **extra_args):
        return torch.zeros_like(x)

    x = torch.ones(shape)
    result = sample_euler_ancestral(to_zero, x, sigmas, extra_args={"seed": 5})
    up = (1.0 * (4.0 - 1.0) / 4.0) ** 0.5
    torch.testing.assert_close(result, x * (1 - up**2) ** 0.5 / 2 + up * expected_noise)


def test_timestep_is_the_inverse_of_sigma():
    t = torch.cat([torch.arange(1000.0), torch.linspace(0, 999, 7)])
    torch.testing.assert_close(SCHEDULE.timestep(SCHEDULE.sigma(t)), t, rtol=0, atol=1e-4)
    ends = torch.tensor([[0.0, 1e-3], [157.41, 1e9]])
    assert SCHEDULE.timestep(ends).tolist() == [[0.0, 0.0], [999.0, 999.0]]
    assert SCHEDULE.timestep(ends).dtype == SCHEDULE.sigma(t).dtype == torch.float32


@pytest.mark.parametrize(
    ("sampler", "steps", "message"),
    [
        ("PNDM", 3, "PNDM needs at least 4 steps"),
        ("Euler", 0, "at least 1 step,"),
        ("DDIM", 1000, "at most 999"),
        ("DPM++", 1001, "at most 1000"),
        ("UniPC", 20, "choose one of Euler"),
    ],
)
def test_impossible_requests(sampler, steps, message):
    for function in (release_sigmas, release_timesteps):
        with pytest.raises(ValueError, match=message):
            function(sampler, steps)


@pytest.mark.parametrize("path", sorted((GOLDEN / "pipeline").glob("*")), ids=lambda path: path.stem)
def test_clip_tokens_are_used_from_half_of_the_calls_on(path):
    golden, metadata = read_case(path)
    mask = golden["clip_mask_per_step"].bool()
    count = model_call_count(FILE_NAMES[metadata["sampler"]], int(metadata["steps"]))
    assert len(mask) == count
    has_image = "start_frames" in golden
    for call in range(count):
        assert mask[call].tolist() == [has_image and clip_tokens_active(call, count, 0.5)] * 8


@pytest.mark.parametrize(("ratio", "used"), [(0.0, 0), (0.25, 2), (0.5, 4), (0.75, 6), (1.0, 8)])
def test_clip_apply_ratio_is_the_share_of_calls_with_clip_at_the_end(ratio, used):
    """The counts are those of the release for eight model calls."""
    assert [clip_tokens_active(call, 8, ratio) for call in range(8)] == [False] * (8 - used) + [True] * used
