#!/usr/bin/env python3
"""Makes mmdit_tiny/ beside this script, what SD3Transformer2DModel of diffusers (0.42.1) computes
with random weights without norms of queries and keys: a step of training, and outputs of other
sides. Needs torch, diffusers and safetensors."""
import json
import os

import torch
from diffusers import SD3Transformer2DModel
from safetensors.torch import save_file

FOLDER = os.path.join(os.path.dirname(os.path.abspath(__file__)), "mmdit_tiny")
CONFIG = dict(sample_size=8, patch_size=2, in_channels=4, out_channels=4, num_layers=2,
              attention_head_dim=4, num_attention_heads=3, joint_attention_dim=10,
              caption_projection_dim=12, pooled_projection_dim=6, pos_embed_max_size=7)
SIDES = [(2, 14), (14, 14), (12, 6), (2, 2), (10, 8)]  # the table has 7 x 7 patches


def inputs(g, n, height, width, tokens):
    return dict(sample=torch.randn((n, 4, height, width), generator=g),
                timestep=torch.tensor([713.25, 20.5][:n]),
                encoder_hidden_states=torch.randn((n, tokens, 10), generator=g),
                pooled=torch.randn((n, 6), generator=g))


def forward(model, x):
    return model(hidden_states=x["sample"], timestep=x["timestep"],
                 encoder_hidden_states=x["encoder_hidden_states"],
                 pooled_projections=x["pooled"]).sample.contiguous()


def main():
    torch.manual_seed(11)
    g = torch.Generator().manual_seed(12)
    model = SD3Transformer2DModel(**CONFIG).eval()
    with torch.no_grad():
        for name, p in list(model.named_parameters()) + list(model.named_buffers()):
            p.add_(0.1 * torch.randn(p.shape, generator=g))
            p.mul_(2 if "_q" in name or "_k" in name else 1)
            p.copy_(p.half().float())
    x = inputs(g, 2, 6, 10, 4)
    target = torch.randn((2, 4, 6, 10), generator=g)
    output = forward(model, x)
    loss = torch.nn.functional.mse_loss(output, target)
    loss.backward()
    golden = dict(x, target=target, output=output.detach(), loss=loss.detach().reshape(1))
    golden.update({f"grad.{n}": p.grad for n, p in model.named_parameters()})
    sides = {}
    for i, (height, width) in enumerate(SIDES):
        case = inputs(g, 1, height, width, 2)
        with torch.no_grad():
            sides.update({f"{k}.{i}": v for k, v in dict(case, output=forward(model, case)).items()})
    os.makedirs(FOLDER, exist_ok=True)
    zero = [n for n, p in model.named_parameters() if not p.grad.any()]
    save_file(golden, f"{FOLDER}/golden.safetensors", {"zero_gradients": json.dumps(zero)})
    save_file(sides, f"{FOLDER}/sides.safetensors", {"count": str(len(SIDES))})
    save_file({k: v.half().contiguous() for k, v in model.state_dict().items()},
              f"{FOLDER}/diffusion_pytorch_model.safetensors", {"format": "pt"})
    with open(f"{FOLDER}/config.json", "w") as f:
        json.dump(dict(_class_name="SD3Transformer2DModel", **CONFIG), f, indent=2)
        f.write("\n")


if __name__ == "__main__":
    main()
