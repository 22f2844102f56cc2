"""Writes tests/golden/variants: models unlike SD1.x and SD2.x in what a config may change.

    pip install torch diffusers transformers safetensors
    python make_variants.py ../golden/variants
"""
import json
import sys

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors.torch import load_file, save_file
from transformers import CLIPTextConfig, CLIPTextModel

UNETS = {
    # Four levels; a list wherever one is allowed; nothing at its default; sides that do not halve.
    "unet_lists": (dict(
        sample_size=[13, 9], block_out_channels=(4, 8, 8, 12), layers_per_block=[2, 1, 2, 1],
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D",
                          "DownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=[1, 2, 4, 3], transformer_layers_per_block=[1, 2, 1, 2],
        cross_attention_dim=[6, 6, 6, 6], norm_num_groups=4, norm_eps=1e-4, downsample_padding=0,
        flip_sin_to_cos=False, freq_shift=1, center_input_sample=True, use_linear_projection=True,
        act_fn="swish"), (13, 9), 3),
    # SD1.x's shape with an odd width, heads that do not divide it, and sides that do not halve.
    "unet_odd": (dict(
        block_out_channels=(9, 12), layers_per_block=2,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        attention_head_dim=2, cross_attention_dim=10, norm_num_groups=3), (10, 7), 5),
    # As small as can be.
    "unet_tiny": (dict(
        block_out_channels=(4, 4), layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"), attention_head_dim=2,
        cross_attention_dim=3, norm_num_groups=2), (4, 4), 2),
}
VAES = {
    "vae_old": dict(block_out_channels=(6, 12, 12), layers_per_block=2, norm_num_groups=3,
                    latent_channels=3),
    "vae_bare": dict(block_out_channels=(8,), layers_per_block=1, norm_num_groups=4,
                     latent_channels=2, use_quant_conv=False, use_post_quant_conv=False,
                     mid_block_add_attention=False, shift_factor=0.25, scaling_factor=0.5),
}


# Weights so small that what the norms read has a variance of their epsilon's size.
QUIET_UNETS = {"unet_quiet": UNETS["unet_tiny"]}
QUIET_VAES = {"vae_quiet": dict(block_out_channels=(4,), layers_per_block=1, norm_num_groups=2,
                                latent_channels=1)}

# An epsilon that matters: the states' variance is of its size.
TEXTS = {
    "text_eps": dict(hidden_size=16, intermediate_size=24, num_hidden_layers=2,
                     num_attention_heads=2, vocab_size=40, max_position_embeddings=9,
                     hidden_act="quick_gelu", layer_norm_eps=1e-3, bos_token_id=38,
                     eos_token_id=39, pad_token_id=1),
}


def jitter(module, g):
    with torch.no_grad():
        for p in module.parameters():
            if p.dim() == 1:
                p.add_(torch.randn(p.shape, generator=g) * 0.1)


def hush(module):
    with torch.no_grad():
        for name, p in module.named_parameters():
            if "norm" not in name:
                p.mul_(0.003)


def save(path, tensors):
    save_file({k: v.detach().contiguous().clone() for k, v in tensors.items()}, path)


def unet(folder, config, size, tokens, g, quiet=False):
    torch.manual_seed(1)
    model = UNet2DConditionModel(**config)
    jitter(model, g)
    if quiet:
        hush(model)
    model.save_pretrained(folder, safe_serialization=True)
    sample = torch.randn(2, 4, *size, generator=g)
    timestep = torch.tensor([7, 953])
    width = model.config.cross_attention_dim
    width = width[0] if isinstance(width, (list, tuple)) else width
    context = torch.randn(2, tokens, width, generator=g)
    target = torch.randn(sample.shape, generator=g)
    output = model(sample, timestep, context).sample
    loss = torch.nn.functional.mse_loss(output, target)
    loss.backward()
    tensors = {"sample": sample, "timestep": timestep, "encoder_hidden_states": context,
               "target": target, "output": output, "loss": loss.reshape(1)}
    gradients = {"grad." + n: p.grad for n, p in model.named_parameters()}
    save(f"{folder}/golden.safetensors", {**tensors, **gradients})


def old_names(folder):
    """The attention's names before diffusers 0.18, its kernels as in the original checkpoint; no
    scaling factor."""
    path = f"{folder}/diffusion_pytorch_model.safetensors"
    tensors = {}
    for name, value in load_file(path).items():
        if ".attentions." in name:
            for new, old in (("to_q", "query"), ("to_k", "key"), ("to_v", "value"),
                             ("to_out.0", "proj_attn")):
                name = name.replace("." + new + ".", "." + old + ".")
            value = value[:, :, None, None] if value.dim() == 2 else value
        tensors[name] = value
    save(path, tensors)
    with open(f"{folder}/config.json") as f:
        config = json.load(f)
    del config["scaling_factor"], config["mid_block_add_attention"], config["shift_factor"]
    with open(f"{folder}/config.json", "w") as f:
        json.dump(config, f, indent=2)


def vae(folder, config, g, quiet=False):
    n = len(config["block_out_channels"])
    torch.manual_seed(2)
    model = AutoencoderKL(down_block_types=("DownEncoderBlock2D",) * n,
                          up_block_types=("UpDecoderBlock2D",) * n, sample_size=16,
                          **config).eval()
    jitter(model, g)
    if quiet:
        hush(model)
    model.save_pretrained(folder, safe_serialization=True)
    image = torch.rand(2, 3, 12, 20, generator=g) * 2 - 1
    latent = torch.randn(2, config["latent_channels"], 5, 3, generator=g)
    with torch.no_grad():
        q = model.encode(image).latent_dist
        decoded = model.decode(latent).sample
    save(f"{folder}/golden.safetensors",
         {"image": image, "mean": q.mean, "logvar": q.logvar, "latent": latent, "decoded": decoded})


def text(folder, config, g):
    torch.manual_seed(3)
    model = CLIPTextModel(CLIPTextConfig(**config)).eval()
    jitter(model, g)
    model.save_pretrained(folder, safe_serialization=True)
    ids = torch.randint(0, 38, (2, 7), generator=g)
    ids[:, 0], ids[0, 4], ids[1, 6] = 38, 39, 39
    with torch.no_grad():
        output = model(ids)
    save(f"{folder}/golden.safetensors",
         {"input_ids": ids, "last_hidden_state": output.last_hidden_state,
          "pooler_output": output.pooler_output})


def main(out):
    g = torch.Generator().manual_seed(0)
    for name, (config, size, tokens) in UNETS.items():
        unet(f"{out}/{name}", config, size, tokens, g)
    for name, config in VAES.items():
        vae(f"{out}/{name}", config, g)
    for name, config in TEXTS.items():
        text(f"{out}/{name}", config, g)
    for name, (config, size, tokens) in QUIET_UNETS.items():
        unet(f"{out}/{name}", config, size, tokens, g, quiet=True)
    for name, config in QUIET_VAES.items():
        vae(f"{out}/{name}", config, g, quiet=True)
    old_names(f"{out}/vae_old")


if __name__ == "__main__":
    main(sys.argv[1])
