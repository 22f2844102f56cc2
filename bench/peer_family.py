"""The PyTorch side of bench/step.sh's part `families`: training steps of PEFT's LoRA on SDXL's
U-Net or SD3-medium's transformer with random weights.

    python peer_family.py SHAPE [--latent 64] [--text_length 77] [--steps 2] [--rank 16]
        [--no_checkpointing] [--save DIR]

--save: the model goes into that folder, where sara reads it from, and nothing is trained.
Weights are held in bf16 and made float32 where a layer computes, so that all arithmetic is in
float32; norms, embeddings and LoRA's own weights are float32. LoRA stands on the layers that
diffusers' own training scripts choose. One JSON object is printed, as peer_step.py's.
"""
import argparse
import functools
import time

import torch
from diffusers import SD3Transformer2DModel, UNet2DConditionModel
from peft import LoraConfig
from torch.nn import functional as F

from peer_step import report

SDXL = dict(sample_size=128, block_out_channels=(320, 640, 1280),
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            attention_head_dim=(5, 10, 20), transformer_layers_per_block=(1, 2, 10),
            cross_attention_dim=2048, use_linear_projection=True,
            addition_embed_type="text_time", addition_time_embed_dim=256,
            projection_class_embeddings_input_dim=2816)
SD3_MEDIUM = dict(sample_size=128, num_layers=24, attention_head_dim=64, num_attention_heads=24,
                  caption_projection_dim=1536, pos_embed_max_size=192, in_channels=16,
                  out_channels=16, joint_attention_dim=4096, pooled_projection_dim=2048)
TARGETS = {
    "sdxl": ["to_k", "to_q", "to_v", "to_out.0"],  # train_text_to_image_lora_sdxl.py
    "sd3-medium": [  # train_dreambooth_lora_sd3.py
        "attn.add_k_proj", "attn.add_q_proj", "attn.add_v_proj", "attn.to_add_out", "attn.to_k",
        "attn.to_out.0", "attn.to_q", "attn.to_v"
    ],
}


def parse_arguments():
    a = argparse.ArgumentParser(description=__doc__,
                                formatter_class=argparse.RawDescriptionHelpFormatter)
    a.add_argument("shape", choices=TARGETS)
    a.add_argument("--latent", type=int, default=64)
    a.add_argument("--text_length", type=int, default=77, help="states of a text")
    a.add_argument("--steps", type=int, default=2)
    a.add_argument("--rank", type=int, default=16)
    a.add_argument("--no_checkpointing", action="store_true")
    a.add_argument("--save", metavar="DIR")
    return a.parse_args()


def new_model(a):
    """The model with small random weights in bf16, made without a float32 copy of all."""
    with torch.device("meta"):
        model = UNet2DConditionModel(**SDXL) if a.shape == "sdxl" else SD3Transformer2DModel(
            **SD3_MEDIUM)
    model.to(torch.bfloat16).to_empty(device="cpu")
    some = torch.randn(1 << 20) * 0.02
    with torch.no_grad():
        for p in model.parameters():
            p.view(-1).copy_(some.repeat(-(-p.numel() // len(some)))[:p.numel()])
        for b in model.buffers():
            b.copy_(torch.randn(b.shape))
    return model.requires_grad_(False).train()


def linear_in_float32(module, x):
    bias = None if module.bias is None else module.bias.float()
    return F.linear(x, module.weight.float(), bias)


def conv_in_float32(module, x):
    bias = None if module.bias is None else module.bias.float()
    return F.conv2d(x, module.weight.float(), bias, module.stride, module.padding)


def compute_in_float32(model):
    """Layers with most of the weights make them float32 at each use, the others are."""
    for module in model.modules():
        if isinstance(module, torch.nn.Linear):
            module.forward = functools.partial(linear_in_float32, module)
        elif isinstance(module, torch.nn.Conv2d):
            module.forward = functools.partial(conv_in_float32, module)
        else:
            for p in module.parameters(recurse=False):
                p.data = p.data.float()
    for b in model.buffers():
        b.data = b.data.float()


def inputs_of(a):
    """The model's arguments, and the target."""
    t = torch.randint(0, 1000, (1,))
    if a.shape == "sdxl":
        x = torch.randn(1, 4, a.latent, a.latent)
        more = dict(text_embeds=torch.randn(1, 1280), time_ids=torch.randn(1, 6))
        arguments = dict(sample=x, timestep=t, added_cond_kwargs=more,
                         encoder_hidden_states=torch.randn(1, a.text_length, 2048))
    else:
        x = torch.randn(1, 16, a.latent, a.latent)
        arguments = dict(hidden_states=x, timestep=t,
                         encoder_hidden_states=torch.randn(1, a.text_length, 4096),
                         pooled_projections=torch.randn(1, 2048))
    return arguments, torch.randn_like(x)


def main():
    a = parse_arguments()
    torch.manual_seed(0)
    model = new_model(a)
    if a.save:
        model.save_pretrained(a.save)
        return
    total = sum(p.numel() for p in model.parameters())
    compute_in_float32(model)
    if not a.no_checkpointing:
        model.enable_gradient_checkpointing()
    model.add_adapter(LoraConfig(r=a.rank, lora_alpha=a.rank, target_modules=TARGETS[a.shape]))
    wanted = [p for p in model.parameters() if p.requires_grad]
    for p in wanted:
        p.data = p.data.float()
    optimizer = torch.optim.AdamW(wanted, lr=1e-4)
    arguments, target = inputs_of(a)
    seconds, processor = [], []
    for _ in range(a.steps):
        start, begun = time.perf_counter(), time.process_time()
        optimizer.zero_grad(set_to_none=True)
        F.mse_loss(model(**arguments).sample, target).backward()
        optimizer.step()
        seconds.append(time.perf_counter() - start)
        processor.append(round(time.process_time() - begun, 3))
    report(f"lora{a.rank}", seconds, processor_seconds=processor, latent=a.latent,
           text_length=a.text_length, checkpointing=not a.no_checkpointing, parameters=total,
           trainable=sum(p.numel() for p in wanted))


if __name__ == "__main__":
    main()
