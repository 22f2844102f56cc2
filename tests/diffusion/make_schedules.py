"""Writes schedules.safetensors: what diffusers' schedulers compute under options that the golden
files do not cover.

    pip install torch diffusers safetensors numpy
    python make_schedules.py schedules.safetensors

The made-up model is f(x, t) = sin(2 x) * 0.7 + 0.1 * cos(t / 100). A case's config holds only what
a file would state, so that the classes' defaults are tested too; "method" switches the class as
Class.from_config(other.config) does.
"""
import json
import sys

import diffusers
import torch
from safetensors.torch import save_file

SD = dict(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012)
OLD_SD1 = dict(SD, num_train_timesteps=1000, set_alpha_to_one=False, skip_prk_steps=True,
               steps_offset=1, trained_betas=None, clip_sample=False)
METHODS = {"ddim": "DDIM", "ddpm": "DDPM", "pndm": "PNDM", "euler": "EulerDiscrete",
           "euler_a": "EulerAncestralDiscrete", "dpm++2m": "DPMSolverMultistep",
           "ddim_trailing": "DDIM", "flow_euler": "FlowMatchEulerDiscrete",
           "heun": "FlowMatchHeunDiscrete"}
V = dict(prediction_type="v_prediction")
X0 = dict(prediction_type="sample")
ZERO = dict(rescale_betas_zero_snr=True)
KARRAS = dict(use_karras_sigmas=True)
FLOW = dict(use_flow_sigmas=True, prediction_type="flow_prediction")


def spacing(name, offset=0):
    return dict(timestep_spacing=name, steps_offset=offset)


CASES = [  # (class, config, steps, method to switch to)
    ("DDIM", dict(SD), 10, None),  # clips, ends at alpha 1
    ("DDIM", dict(SD, clip_sample_range=0.5), 7, None),
    ("DDIM", dict(SD, clip_sample=True, **V), 9, None),
    ("DDIM", dict(SD, clip_sample=False, **X0), 9, None),
    ("DDIM", dict(SD, clip_sample=False, **spacing("linspace")), 13, None),
    ("DDIM", dict(SD, clip_sample=False, **spacing("trailing")), 13, None),
    ("DDIM", dict(SD, clip_sample=False, set_alpha_to_one=False), 1, None),
    ("DDIM", dict(SD, clip_sample=False, **spacing("linspace")), 1, None),
    ("DDIM", dict(clip_sample=False), 1000, None),
    ("DDIM", dict(clip_sample=False, num_train_timesteps=100), 30, None),
    ("DDIM", dict(clip_sample=False, beta_schedule="squaredcos_cap_v2", **ZERO, **V,
                  **spacing("trailing")), 12, None),
    ("DDPM", dict(SD), 8, None),
    ("DDPM", dict(SD, clip_sample=False, **V, **spacing("linspace")), 11, None),
    ("DDPM", dict(SD, clip_sample=False, **X0, **spacing("trailing")), 11, None),
    ("DDPM", dict(SD, clip_sample=False, **spacing("trailing"), **V, **ZERO), 9, None),
    ("DDPM", dict(SD, clip_sample=False, variance_type="fixed_small_log"), 6, None),
    ("DDPM", dict(SD, clip_sample=False, variance_type="fixed_large", steps_offset=1), 6, None),
    ("DDPM", dict(SD, clip_sample=False), 1, None),
    ("DDPM", dict(clip_sample=True), 1000, None),
    ("PNDM", dict(SD), 10, None),  # Runge-Kutta steps
    ("PNDM", dict(SD), 4, None),
    ("PNDM", dict(SD, set_alpha_to_one=True, **V), 12, None),
    ("PNDM", dict(SD, **spacing("linspace")), 11, None),
    ("PNDM", dict(SD, **spacing("trailing")), 11, None),
    ("PNDM", dict(SD, skip_prk_steps=True, **V), 15, None),
    ("PNDM", dict(SD, skip_prk_steps=True, **spacing("trailing")), 9, None),
    ("PNDM", dict(SD, skip_prk_steps=True, **spacing("linspace")), 9, None),
    ("PNDM", dict(SD, skip_prk_steps=True), 1, None),
    ("PNDM", dict(SD, skip_prk_steps=True), 2, None),
    ("PNDM", dict(SD, skip_prk_steps=True), 3, None),
    ("PNDM", dict(SD, skip_prk_steps=True), 1000, None),
    ("PNDM", dict(SD, skip_prk_steps=True, **ZERO), 6, None),  # has no such option
    ("EulerDiscrete", dict(SD), 12, None),
    ("EulerDiscrete", dict(SD, **V), 12, None),
    ("EulerDiscrete", dict(SD, **X0), 12, None),
    ("EulerDiscrete", dict(SD, **spacing("trailing")), 7, None),
    ("EulerDiscrete", dict(SD, **spacing("leading", 1), final_sigmas_type="sigma_min"), 7, None),
    ("EulerDiscrete", dict(SD, interpolation_type="log_linear"), 9, None),
    ("EulerDiscrete", dict(SD, interpolation_type="log_linear", **KARRAS), 9, None),
    ("EulerDiscrete", dict(SD, **KARRAS, sigma_min=0.1, sigma_max=10.0), 9, None),
    ("EulerDiscrete", dict(SD, **KARRAS, final_sigmas_type="sigma_min", **V), 9, None),
    # Starts at sigma 4096. diffusers' x + (x - x0) / sigma * dt loses digits in the first step:
    # 5e-6 of the sample in 10 steps, 2e-6 in 40, too little to see in 200.
    ("EulerDiscrete", dict(SD, **ZERO, **V, **spacing("trailing")), 200, None),
    ("EulerDiscrete", dict(SD), 1, None),
    ("EulerDiscrete", dict(SD), 1000, None),
    ("EulerDiscrete", dict(beta_schedule="squaredcos_cap_v2"), 11, None),
    ("EulerAncestralDiscrete", dict(SD), 12, None),
    ("EulerAncestralDiscrete", dict(SD, **V, **spacing("trailing")), 12, None),
    ("EulerAncestralDiscrete", dict(SD, **V, **ZERO, **spacing("trailing")), 100, None),
    ("EulerAncestralDiscrete", dict(SD, **KARRAS), 5, None),  # ignored
    ("EulerAncestralDiscrete", dict(SD), 1, None),
    ("DPMSolverMultistep", dict(SD), 9, None),
    ("DPMSolverMultistep", dict(SD), 20, None),
    ("DPMSolverMultistep", dict(SD, **spacing("leading", 1)), 14, None),
    ("DPMSolverMultistep", dict(SD, **spacing("trailing")), 14, None),
    ("DPMSolverMultistep", dict(SD, **V), 16, None),
    ("DPMSolverMultistep", dict(SD, **X0), 16, None),
    ("DPMSolverMultistep", dict(SD, solver_order=1), 11, None),
    ("DPMSolverMultistep", dict(SD, solver_type="heun"), 11, None),
    ("DPMSolverMultistep", dict(SD, solver_type="heun", final_sigmas_type="sigma_min"), 20, None),
    ("DPMSolverMultistep", dict(SD, solver_type="bh2", algorithm_type="deis",
                                final_sigmas_type="sigma_min"), 11, None),
    ("DPMSolverMultistep", dict(SD, euler_at_final=True, final_sigmas_type="sigma_min"), 18, None),
    ("DPMSolverMultistep", dict(SD, final_sigmas_type="sigma_min"), 18, None),
    ("DPMSolverMultistep", dict(SD, final_sigmas_type="sigma_min"), 11, None),
    ("DPMSolverMultistep", dict(SD, final_sigmas_type="sigma_min", lower_order_final=False), 11,
     None),
    ("DPMSolverMultistep", dict(SD, lower_order_final=False), 11, None),
    ("DPMSolverMultistep", dict(SD, **KARRAS, final_sigmas_type="sigma_min"), 17, None),
    ("DPMSolverMultistep", dict(beta_schedule="squaredcos_cap_v2", lambda_min_clipped=-5.1), 12,
     None),
    ("DPMSolverMultistep", dict(beta_schedule="squaredcos_cap_v2", lambda_min_clipped=-5.1,
                                **spacing("trailing")), 12, None),
    ("DPMSolverMultistep", dict(beta_schedule="squaredcos_cap_v2", **KARRAS), 12, None),
    ("DPMSolverMultistep", dict(SD, **ZERO, **V, **spacing("trailing")), 10, None),
    ("DPMSolverMultistep", dict(SD), 1, None),
    ("DPMSolverMultistep", dict(SD), 2, None),
    ("DPMSolverMultistep", dict(SD, **spacing("trailing")), 500, None),
    ("DPMSolverMultistep", dict(beta_schedule="squaredcos_cap_v2", lambda_min_clipped=-2.0,
                                **spacing("trailing")), 12, None),  # 11 timesteps
    ("DPMSolverMultistep", dict(beta_schedule="squaredcos_cap_v2", lambda_min_clipped=-1.0,
                                **spacing("trailing")), 12, None),  # 10
    # Of 15 steps the last is of second order, of 14 it is not.
    ("DPMSolverMultistep", dict(SD, final_sigmas_type="sigma_min"), 15, None),
    ("DPMSolverMultistep", dict(SD, final_sigmas_type="sigma_min"), 14, None),
    ("DPMSolverMultistep", dict(SD, solver_type="heun", final_sigmas_type="sigma_min",
                                **spacing("trailing")), 1000, None),
    ("DDPM", dict(SD, clip_sample=False, variance_type="fixed_large"), 6, None),  # ends at t = 0
    ("FlowMatchEulerDiscrete", dict(), 9, None),
    ("FlowMatchEulerDiscrete", dict(shift=3.0), 1, None),
    ("FlowMatchEulerDiscrete", dict(shift=0.7, num_train_timesteps=500), 28, None),
    ("FlowMatchEulerDiscrete", dict(shift=3.0, **KARRAS), 12, None),
    ("PNDM", OLD_SD1, 10, "ddim"),
    ("PNDM", OLD_SD1, 10, "ddim_trailing"),
    ("PNDM", OLD_SD1, 10, "ddpm"),
    ("PNDM", OLD_SD1, 10, "euler"),
    ("PNDM", OLD_SD1, 10, "euler_a"),
    ("PNDM", OLD_SD1, 10, "dpm++2m"),
    ("DPMSolverMultistep", dict(SD, **KARRAS, steps_offset=1, timestep_spacing="linspace"), 10,
     "euler"),
    ("DPMSolverMultistep", dict(SD, **KARRAS, steps_offset=1, timestep_spacing="linspace"), 10,
     "euler_a"),
    ("DPMSolverMultistep", dict(SD, **KARRAS, steps_offset=1), 10, "pndm"),
    ("EulerAncestralDiscrete", dict(SD, **KARRAS), 10, "dpm++2m"),
    ("DDIM", dict(SD, **V, clip_sample=False, sigma_min=0.2, **KARRAS), 10, "dpm++2m"),
    ("FlowMatchEulerDiscrete", dict(shift=2.0), 6, "flow_euler"),
    ("FlowMatchHeunDiscrete", dict(shift=3.0), 9, None),
    ("FlowMatchHeunDiscrete", dict(num_train_timesteps=500), 1, None),
    ("FlowMatchEulerDiscrete", dict(shift=3.0, **KARRAS), 12, "heun"),
    ("DPMSolverMultistep", dict(**FLOW, flow_shift=3.0), 9, None),
    ("DPMSolverMultistep", dict(**FLOW, flow_shift=3.0), 20, None),
    ("DPMSolverMultistep", dict(**FLOW, num_train_timesteps=500), 1, None),
    ("DPMSolverMultistep", dict(**FLOW, flow_shift=2.5, solver_type="heun"), 16, None),
    ("DPMSolverMultistep", dict(**FLOW, solver_order=1, **ZERO), 7, None),
    ("FlowMatchEulerDiscrete", dict(shift=3.0), 10, "dpm++2m"),
    ("FlowMatchHeunDiscrete", dict(shift=2.0), 10, "flow_euler"),
    ("DPMSolverMultistep", dict(**FLOW, flow_shift=3.0), 10, "flow_euler"),
]

ALPHAS = {
    "linear": dict(),
    "scaled_linear": SD,
    "cosine": dict(beta_schedule="squaredcos_cap_v2"),
    "zero_snr": dict(SD, **ZERO),
    "short": dict(SD, num_train_timesteps=37),
}


def model(x, t):
    return torch.sin(2 * x) * 0.7 + 0.1 * torch.cos(torch.as_tensor(t, dtype=torch.float32) / 100)


def build(name, config, method):
    scheduler = getattr(diffusers, name + "Scheduler").from_config(dict(config))
    if method is None:
        return scheduler
    extra = dict(timestep_spacing="trailing") if method == "ddim_trailing" else {}
    if method == "dpm++2m" and name.startswith("Flow"):  # as diffusers' documentation has it
        extra = dict(FLOW, flow_shift=scheduler.config.shift)
    if method == "flow_euler":
        extra = dict(shift=scheduler.config.get("flow_shift", scheduler.config.get("shift")))
    return getattr(diffusers, METHODS[method] + "Scheduler").from_config(scheduler.config, **extra)


def heun_divides_by_zero(scheduler):
    """Of the step just made, whose sigmas are equal: diffusers' x is NaN."""
    if scheduler.config.get("solver_type") != "heun":
        return False
    before, after = scheduler.sigmas[scheduler.step_index - 1:scheduler.step_index + 1]
    return before == after


def first_order(scheduler, output, x):
    scheduler._step_index -= 1
    output = scheduler.convert_model_output(output, sample=x)
    x = scheduler.dpm_solver_first_order_update(output, sample=x)
    scheduler._step_index += 1
    return x


def run(scheduler, start, steps):
    scheduler.set_timesteps(steps)
    if hasattr(scheduler, "set_begin_index"):  # else equal first timesteps lead it astray
        scheduler.set_begin_index(0)
    x = start * getattr(scheduler, "init_noise_sigma", 1.0)
    random = type(scheduler).__name__ in ("DDPMScheduler", "EulerAncestralDiscreteScheduler")
    draws, copy = torch.Generator().manual_seed(steps), torch.Generator().manual_seed(steps)
    trail, noise = [x], []
    for t in scheduler.timesteps:
        scaled = scheduler.scale_model_input(x, t) if hasattr(scheduler, "scale_model_input") else x
        extra = {"generator": draws} if random else {}
        output, before = model(scaled, t), x
        x = scheduler.step(output, t, x, return_dict=False, **extra)[0]
        if heun_divides_by_zero(scheduler):
            x = first_order(scheduler, output, before)
        trail.append(x)
        noise.append(torch.randn(x.shape, generator=copy))
    assert torch.isfinite(torch.stack(trail)).all()
    return scheduler.timesteps.double(), torch.stack(trail).float(), torch.stack(noise), random


def objective(tensors, generator):
    x, noise = torch.randn(5, 12, generator=generator), torch.randn(5, 12, generator=generator)
    t = torch.tensor([0, 1, 321, 998, 999])
    tensors.update({"objective.latents": x, "objective.noise": noise, "objective.timesteps": t})
    for name in ("scaled_linear", "zero_snr"):
        s = diffusers.DDPMScheduler(**ALPHAS[name])
        tensors[f"objective.{name}.noisy"] = s.add_noise(x, noise, t)
        tensors[f"objective.{name}.velocity"] = s.get_velocity(x, noise, t)


def main():
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(1, 1, 2, 4, generator=generator)
    tensors, cases = {"start": start}, []
    for i, (name, config, steps, method) in enumerate(CASES):
        t, trail, noise, random = run(build(name, config, method), start, steps)
        tensors.update({f"{i}.timesteps": t, f"{i}.trail": trail})
        if random:
            tensors[f"{i}.noise"] = noise
        cases.append(dict(config=dict(config, _class_name=name + "Scheduler"), steps=steps,
                          method=method))
    for name, config in ALPHAS.items():
        tensors["alphas." + name] = diffusers.DDPMScheduler(**config).alphas_cumprod
    objective(tensors, generator)
    tensors = {k: v.contiguous().clone() for k, v in tensors.items()}
    save_file(tensors, sys.argv[1], {"cases": json.dumps(cases), "alphas": json.dumps(ALPHAS)})


if __name__ == "__main__":
    main()
