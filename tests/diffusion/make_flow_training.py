"""Writes flow_training.json: which timesteps diffusers' scripts for SD3 draw from given random
numbers, and what their losses weigh.

    pip install torch diffusers numpy
    python make_flow_training.py flow_training.json

The numbers lie well within the steps of the table, whose index is cut to a whole one.
"""
import json
import sys
from unittest import mock

import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from diffusers.training_utils import compute_density_for_timestep_sampling as density
from diffusers.training_utils import compute_loss_weighting_for_sd3 as weighting

UNIFORM = [0.0001, 0.0303, 0.2503, 0.5001, 0.7777, 0.9996]
NORMAL = [-3.1, -1.0, -0.25, 0.001, 0.8, 2.5]
CASES = [  # scheme, shift, timesteps, logit_mean, logit_std, mode_scale
    ("logit_normal", 3.0, 1000, 0.0, 1.0, 1.29),
    ("logit_normal", 1.0, 1000, -0.5, 1.5, 1.29),
    ("mode", 3.0, 1000, 0.0, 1.0, 1.29),
    ("mode", 3.0, 500, 0.0, 1.0, -0.7),
    ("sigma_sqrt", 3.0, 1000, 0.0, 1.0, 1.29),
    ("cosmap", 2.0, 1000, 0.0, 1.0, 1.29),
    ("none", 3.0, 1000, 0.0, 1.0, 1.29),
]


def main():
    cases = []
    for scheme, shift, count, mean, std, scale in CASES:
        scheduler = FlowMatchEulerDiscreteScheduler(shift=shift, num_train_timesteps=count)
        drawn = NORMAL if scheme == "logit_normal" else UNIFORM
        given = torch.tensor(drawn)
        with mock.patch("torch.rand", lambda **_: given), \
                mock.patch("torch.normal", lambda mean, std, **_: mean + std * given):
            u = density(scheme, len(drawn), mean, std, scale)
        place = u.double() * count
        assert ((place % 1 > 1e-3) & (place % 1 < 1 - 1e-3)).all(), place
        index = (u * count).long()
        sigmas = scheduler.sigmas[index]
        cases.append(dict(scheme=scheme, shift=shift, num_train_timesteps=count, logit_mean=mean,
                          logit_std=std, mode_scale=scale, drawn=drawn,
                          timesteps=scheduler.timesteps[index].tolist(), sigmas=sigmas.tolist(),
                          weights=weighting(scheme, sigmas).tolist()))
    with open(sys.argv[1], "w") as file:
        file.write("[\n" + ",\n".join(map(json.dumps, cases)) + "\n]\n")


if __name__ == "__main__":
    main()
