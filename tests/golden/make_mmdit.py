#!/usr/bin/env python3
"""Makes mmdit_tiny/ beside this script, what SD3Transformer2DModel of diffusers (0.42.1) computes
with random weights without norms of queries and keys: a step of training, and outputs of other
sides. And mmdit_single/, a model with such norms and a second attention as a folder and as the
original file that diffusers converts to it. Needs torch, diffusers and safetensors."""
import json
import os

import torch
from diffusers import SD3Transformer2DModel
from diffusers.loaders import single_file_utils
from safetensors.torch import save_file

HERE = os.path.dirname(os.path.abspath(__file__))
FOLDER = os.path.join(HERE, "mmdit_tiny")
SINGLE = os.path.join(HERE, "mmdit_single")
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


def original_shapes(width, heads, blocks, dual, inner):
    """The tensors of a file in the layout of Stability AI's repository."""
    def linear(name, out, into):
        return {f"{name}.weight": (out, into), f"{name}.bias": (out,)}
    shapes = {"pos_embed": (1, 49, width), "x_embedder.proj.weight": (width, 4, 2, 2),
              "x_embedder.proj.bias": (width,), **linear("t_embedder.mlp.0", width, 256),
              **linear("t_embedder.mlp.2", width, width), **linear("y_embedder.mlp.0", width, 6),
              **linear("y_embedder.mlp.2", width, width), **linear("context_embedder", width, 10),
              **linear("final_layer.adaLN_modulation.1", 2 * width, width),
              **linear("final_layer.linear", 16, width)}
    for i in range(blocks):
        for stream in ("x_block", "context_block"):
            at, last = f"joint_blocks.{i}.{stream}", stream != "x_block" and i == blocks - 1
            two = stream == "x_block" and i in dual
            parts = 2 if last else 9 if two else 6
            shapes.update(linear(f"{at}.adaLN_modulation.1", parts * width, width))
            for attn in ("attn", "attn2")[:1 + two]:
                shapes.update(linear(f"{at}.{attn}.qkv", 3 * width, width))
                shapes.update({f"{at}.{attn}.ln_{k}.weight": (width // heads,) for k in "qk"})
                if not last:
                    shapes.update(linear(f"{at}.{attn}.proj", width, width))
            if not last:
                shapes.update(linear(f"{at}.mlp.fc1", inner, width))
                shapes.update(linear(f"{at}.mlp.fc2", width, inner))
    return shapes


def make_single():
    """diffusers' loader names the original tensors as its own, and its model takes all."""
    g = torch.Generator().manual_seed(13)
    shapes = original_shapes(12, 3, 3, (0, 1), 48)
    original = {n: torch.randn(s, generator=g).half() for n, s in shapes.items()}
    prefixed = {f"model.diffusion_model.{n}": v for n, v in original.items()}
    folder = single_file_utils.convert_sd3_transformer_checkpoint_to_diffusers(dict(prefixed))
    config = dict(CONFIG, num_layers=3, qk_norm="rms_norm", dual_attention_layers=[0, 1],
                  sample_size=128)
    SD3Transformer2DModel(**config).load_state_dict(folder, strict=True)
    os.makedirs(SINGLE, exist_ok=True)
    save_file(prefixed, f"{SINGLE}/original.safetensors", {"format": "pt"})
    save_file({k: v.contiguous() for k, v in folder.items()},
              f"{SINGLE}/diffusion_pytorch_model.safetensors", {"format": "pt"})
    write_config(SINGLE, config)


def write_config(folder, config):
    with open(f"{folder}/config.json", "w") as f:
        json.dump(dict(_class_name="SD3Transformer2DModel", **config), f, indent=2)
        f.write("\n")


def main():
    make_single()
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
            case["output"] = forward(model, case)
        sides.update({f"{k}.{i}": v for k, v in case.items()})
    os.makedirs(FOLDER, exist_ok=True)
    zero = [n for n, p in model.named_parameters() if not p.grad.any()]
    save_file(golden, f"{FOLDER}/golden.safetensors", {"zero_gradients": json.dumps(zero)})
    save_file(sides, f"{FOLDER}/sides.safetensors", {"count": str(len(SIDES))})
    save_file({k: v.half().contiguous() for k, v in model.state_dict().items()},
              f"{FOLDER}/diffusion_pytorch_model.safetensors", {"format": "pt"})
    write_config(FOLDER, CONFIG)


if __name__ == "__main__":
    main()
