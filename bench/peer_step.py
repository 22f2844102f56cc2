"""The peers on the CPU, for the side-by-side benchmark: time and peak resident memory of training
steps and of drawing.

    python peer_step.py METHOD [--model UNET_DIR] [--latent 64] [--batch 1] [--steps 3]
        [--fraction 0.058] [--checkpointing] [--dtype float32|bfloat16]
    python peer_step.py generate --model DIR [--size 512] [--steps 20] [--images 2]
    python peer_step.py save --model UNET_DIR
    python peer_step.py save-pipeline --model DIR

METHOD is one of
    forward   the U-Net alone, no gradients
    lora16    PEFT LoRA of rank 16 on the attention projections
    dora16    the same as DoRA
    shira32   PEFT SHiRA, 32 (in + out) random entries of each linear layer
    adaptformer64  bottlenecks of width 64 beside the feed-forwards (Chen et al. 2022)
    full      AdamW on everything
    full-fused  the same with AdamW(fused=True)
    masked    dense gradients, gathered at the mask, AdamW on the selected entries: what a selective
              method costs in PyTorch without unstructural backpropagation
Without --model the U-Net has SD1.5's shape and random weights.

generate draws images one by one with a diffusers pipeline folder: DDIM, guidance 7.5, float32. Its
seconds are those of the calls (text encoder, denoising, VAE decoder), not of loading; but the
weights are mapped files, so that the first call reads them.
save writes SD1.5's U-Net with random weights, save-pipeline a whole pipeline folder around it (an
existing DIR/unet is kept), so that all methods run the same model.
These two print nothing, the others one JSON object.
"""
import argparse
import json
import os
import resource
import time

import torch
from diffusers import UNet2DConditionModel

TOKENIZER = os.path.join(os.path.dirname(os.path.abspath(__file__)),
                         "../examples/emoji/base/tokenizer")
UNET = dict(sample_size=64, in_channels=4, out_channels=4, layers_per_block=2,
            block_out_channels=(320, 640, 1280, 1280),
            down_block_types=("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
            up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3, cross_attention_dim=768,
            attention_head_dim=8)
VAE = dict(sample_size=512, latent_channels=4, layers_per_block=2,
           block_out_channels=(128, 256, 512, 512), down_block_types=("DownEncoderBlock2D",) * 4,
           up_block_types=("UpDecoderBlock2D",) * 4, scaling_factor=0.18215)
TEXT_ENCODER = dict(vocab_size=49408, hidden_size=768, intermediate_size=3072, num_hidden_layers=12,
                    num_attention_heads=12, max_position_embeddings=77, hidden_act="quick_gelu",
                    projection_dim=768)
SCHEDULER = dict(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear",
                 clip_sample=False, set_alpha_to_one=False, steps_offset=1)


def parse_arguments():
    """Defaults that depend on the method are None."""
    a = argparse.ArgumentParser(description=__doc__,
                                formatter_class=argparse.RawDescriptionHelpFormatter)
    a.add_argument(
        "method",
        choices=("forward", "lora16", "dora16", "shira32", "adaptformer64", "full", "full-fused",
                 "masked", "generate", "save", "save-pipeline"))
    a.add_argument("--model",
                   help="a bare unet/ folder; a pipeline folder for generate and save-pipeline")
    a.add_argument("--latent", type=int, default=64)
    a.add_argument("--batch", type=int, default=1)
    a.add_argument("--steps", type=int, help="training steps (3) or denoising steps (20)")
    a.add_argument("--fraction", type=float, default=0.058,
                   help="of the entries that masked selects")
    a.add_argument("--checkpointing", action="store_true")
    a.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"),
                   help="of the weights (LoRA's own stay float32)")
    a.add_argument("--size", type=int, default=512,
                   help="of the images that generate draws, in pixels")
    a.add_argument("--images", type=int, default=2, help="that generate draws")
    args = a.parse_args()
    if args.method in ("generate", "save", "save-pipeline") and not args.model:
        a.error(f"{args.method} needs --model")
    return args


def report(method, seconds, **more):
    """Prints the JSON object."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(json.dumps(dict(method=method, **more, threads=torch.get_num_threads(),
                          seconds=[round(s, 3) for s in seconds], best=round(min(seconds), 3),
                          peak_rss_gib=round(peak, 2))))


# ----------------------------------------------------------------------------------------- training


class Masked:
    """AdamW on the entries whose magnitude is below the threshold."""

    def __init__(self, model, threshold, lr):
        self.lr, self.t, self.entries = lr, 0, []
        for p in model.parameters():
            index = (p.detach().abs().flatten() < threshold).nonzero().flatten()
            self.entries.append([p, index, *torch.zeros(2, len(index), device=p.device)])
        self.selected = sum(len(e[1]) for e in self.entries)

    @torch.no_grad()
    def step(self):
        self.t += 1
        for p, index, m, v in self.entries:
            g = p.grad.flatten()[index]
            w = p.data.view(-1)[index]
            m.mul_(0.9).add_(g, alpha=0.1)
            v.mul_(0.999).addcmul_(g, g, value=0.001)
            denominator = (v / (1 - 0.999 ** self.t)).sqrt_().add_(1e-8)
            w.mul_(1 - self.lr * 1e-2).addcdiv_(m, denominator, value=-self.lr / (1 - 0.9**self.t))
            p.data.view(-1)[index] = w


def threshold_for(model, fraction):
    """From a sample of the weights; the exact count is reported."""
    g = torch.Generator().manual_seed(0)
    some = lambda p: torch.randint(0, p.numel(), (1 + p.numel() // 400,), generator=g)
    picks = [p.detach().flatten()[some(p)].abs() for p in model.parameters()]
    magnitudes = torch.cat(picks)
    return magnitudes.kthvalue(max(1, int(fraction * magnitudes.numel()))).values.item()


def load_unet(a):
    model = (UNet2DConditionModel.from_pretrained(a.model) if a.model else
             UNet2DConditionModel(**UNET))
    model.to(getattr(torch, a.dtype))
    model.train()
    if a.checkpointing:
        model.enable_gradient_checkpointing()
    return model


class AdaptFormer(torch.nn.Module):
    """A feed-forward with a bottleneck beside it."""

    def __init__(self, inner, channels, width=64, scale=0.1):
        super().__init__()
        self.inner, self.scale = inner, scale
        self.down, self.up = torch.nn.Linear(channels, width), torch.nn.Linear(width, channels)
        torch.nn.init.zeros_(self.up.weight)

    def forward(self, x, *args, **kwargs):
        beside = self.up(torch.nn.functional.relu(self.down(x)))
        return self.inner(x, *args, **kwargs) + self.scale * beside


def add_adapters(model, method):
    """The parameters that the method trains, in the model."""
    from peft import LoraConfig, ShiraConfig, inject_adapter_in_model
    model.requires_grad_(False)
    if method == "adaptformer64":
        for block in [m for m in model.modules() if type(m).__name__ == "BasicTransformerBlock"]:
            block.ff = AdaptFormer(block.ff, block.norm3.weight.numel())
            for layer in (block.ff.down, block.ff.up):
                layer.requires_grad_(True)
    elif method == "shira32":
        linear = [name for name, m in model.named_modules() if isinstance(m, torch.nn.Linear)]
        inject_adapter_in_model(ShiraConfig(r=32, target_modules=linear, random_seed=0), model)
    else:
        config = LoraConfig(r=16, lora_alpha=16, use_dora=method == "dora16",
                            target_modules=["to_q", "to_k", "to_v", "to_out.0"])
        model.add_adapter(config)
    return [p for p in model.parameters() if p.requires_grad]


def prepare(model, a):
    """Makes the method's parameters trainable. The optimizer (None for forward) and how many
    entries it trains."""
    if a.method in ("full", "full-fused"):
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=a.method == "full-fused")
        return optimizer, sum(p.numel() for p in model.parameters())
    if a.method in ("lora16", "dora16", "shira32", "adaptformer64"):
        wanted = add_adapters(model, a.method)
        return torch.optim.AdamW(wanted, lr=1e-4), sum(p.numel() for p in wanted)
    if a.method == "masked":
        optimizer = Masked(model, threshold_for(model, a.fraction), 1e-4)
        return optimizer, optimizer.selected
    return None, 0


def time_steps(model, optimizer, a):
    kind = getattr(torch, a.dtype)
    x = torch.randn(a.batch, 4, a.latent, a.latent).to(kind)
    t = torch.randint(0, 1000, (a.batch,))
    context = torch.randn(a.batch, 77, model.config.cross_attention_dim).to(kind)
    target = torch.randn_like(x)
    seconds = []
    for _ in range(a.steps or 3):
        start = time.perf_counter()
        if optimizer:
            model.zero_grad(set_to_none=True)
            torch.nn.functional.mse_loss(model(x, t, context).sample, target).backward()
            optimizer.step()
        else:
            with torch.no_grad():
                model(x, t, context)
        seconds.append(time.perf_counter() - start)
    return seconds


def train(a):
    model = load_unet(a)
    total = sum(p.numel() for p in model.parameters())
    optimizer, trainable = prepare(model, a)
    report(a.method, time_steps(model, optimizer, a), latent=a.latent, batch=a.batch, dtype=a.dtype,
           checkpointing=a.checkpointing, parameters=total, trainable=trainable)


# ---------------------------------------------------------------------------------------- pipelines


def generate(a):
    from diffusers import DDIMScheduler, StableDiffusionPipeline
    pipe = StableDiffusionPipeline.from_pretrained(a.model, safety_checker=None,
                                                   torch_dtype=torch.float32)
    pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config)
    pipe.set_progress_bar_config(disable=True)
    steps = a.steps or 20
    seconds = []
    for _ in range(a.images):
        start = time.perf_counter()
        pipe("a red barn", width=a.size, height=a.size, num_inference_steps=steps,
             guidance_scale=7.5)
        seconds.append(time.perf_counter() - start)
    report(a.method, seconds, size=a.size, steps=steps)


def save_pipeline(a):
    """Written part by part, so that a U-Net that is there already is neither loaded nor written
    again."""
    from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer
    tokenizer = CLIPTokenizer.from_pretrained(
        TOKENIZER, model_max_length=TEXT_ENCODER["max_position_embeddings"])
    assert len(tokenizer) <= TEXT_ENCODER["vocab_size"]
    ids = {
        name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")
    }
    parts = dict(vae=AutoencoderKL(**VAE),
                 text_encoder=CLIPTextModel(CLIPTextConfig(**TEXT_ENCODER, **ids)),
                 tokenizer=tokenizer, scheduler=DDIMScheduler(**SCHEDULER))
    if not os.path.exists(os.path.join(a.model, "unet/config.json")):
        UNet2DConditionModel(**UNET).save_pretrained(os.path.join(a.model, "unet"))
    for name, part in parts.items():
        part.save_pretrained(os.path.join(a.model, name))
    with torch.device("meta"):  # model_index.json names the U-Net's class alone
        unet = UNet2DConditionModel(**UNET)
    StableDiffusionPipeline(**parts, unet=unet, safety_checker=None, feature_extractor=None,
                            requires_safety_checker=False).save_config(a.model)


def main():
    a = parse_arguments()
    torch.manual_seed(0)
    if a.method == "save":
        UNet2DConditionModel(**UNET).save_pretrained(a.model)
    elif a.method == "save-pipeline":
        save_pipeline(a)
    elif a.method == "generate":
        generate(a)
    else:
        train(a)


if __name__ == "__main__":
    main()
