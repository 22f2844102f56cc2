"""Writes tests/golden/pipeline: a whole small model, and what diffusers' StableDiffusionPipeline
draws with it under schedulers' and U-Nets' configs as old models have them, and at sizes that the
U-Net does not halve evenly.

    pip install torch diffusers transformers safetensors
    python make_pipeline.py ../golden/pipeline

A case's config holds only what a file would state. "method" takes another class for the same file,
as StableDiffusionPipeline.from_pretrained(..., scheduler=Class.from_pretrained(...)) does.
"""
import copy
import json
import os
import sys

import diffusers
import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline, UNet2DConditionModel
from safetensors.torch import save_file
from transformers import CLIPTextConfig, CLIPTextModel

SD = dict(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012,
          num_train_timesteps=1000)
DPMPP = dict(SD, timestep_spacing="linspace", use_karras_sigmas=True)
CLASSES = {"ddim": "DDIMScheduler", "ddpm": "DDPMScheduler", "pndm": "PNDMScheduler",
           "euler": "EulerDiscreteScheduler", "euler_a": "EulerAncestralDiscreteScheduler",
           "dpm++2m": "DPMSolverMultistepScheduler"}
PROMPT, NEGATIVE, GUIDANCE, STEPS, SEED = "a red barn", "grey", 3.0, 8, 42
SIDE = 8  # sample_size of the U-Net

CASES = {  # name: (class, config, method or None, sides of the latents)
    "old_ddim": ("ddim", dict(SD, set_alpha_to_one=False), None, (SIDE, SIDE)),
    "old_pndm": ("pndm", dict(SD, skip_prk_steps=True), None, (SIDE, SIDE)),
    "old_ddpm": ("ddpm", dict(SD), None, (SIDE, SIDE)),
    "clip_sample": ("ddim", dict(SD, clip_sample=True, steps_offset=1), None, (SIDE, SIDE)),
    "offset_of_3": ("ddim", dict(SD, clip_sample=False, steps_offset=3), None, (SIDE, SIDE)),
    "null": ("ddim", dict(SD, clip_sample=None, steps_offset=None), None, (SIDE, SIDE)),
    "old_euler": ("euler", dict(SD, timestep_spacing="leading"), None, (SIDE, SIDE)),
    "old_euler_a": ("euler_a", dict(SD, timestep_spacing="leading"), None, (SIDE, SIDE)),
    "old_dpmpp": ("dpm++2m", dict(SD, timestep_spacing="leading"), None, (SIDE, SIDE)),
    "dpmpp_to_ddim": ("dpm++2m", dict(DPMPP, steps_offset=1), "ddim", (SIDE, SIDE)),
    "dpmpp_to_ddpm": ("dpm++2m", dict(DPMPP, steps_offset=1), "ddpm", (SIDE, SIDE)),
    "pndm_to_ddim": ("pndm", dict(SD, skip_prk_steps=True), "ddim", (SIDE, SIDE)),
    "size_18x22": ("ddim", dict(SD, clip_sample=False, steps_offset=1), None, (18, 22)),
    "size_7x9": ("euler", dict(SD, steps_offset=1), None, (7, 9)),
    "size_5x1": ("dpm++2m", dict(SD, steps_offset=1), None, (5, 1)),
}


def jitter(module, g):
    with torch.no_grad():
        for p in module.parameters():
            if p.dim() == 1:
                p.add_(torch.randn(p.shape, generator=g) * 0.1)


def write_json(path, value):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "w", encoding="utf-8") as file:
        json.dump(value, file, indent=2)


def write_tokenizer(folder):
    """CLIP's bytes without merges: each letter is a token."""
    shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [b for b in range(256) if b not in shown]
    letters = [chr(b) for b in shown] + [chr(256 + i) for i in range(len(others))]
    words = letters + [letter + "</w>" for letter in letters]
    words += ["<|startoftext|>", "<|endoftext|>"]
    write_json(folder + "/vocab.json", {word: i for i, word in enumerate(words)})
    with open(folder + "/merges.txt", "w", encoding="utf-8") as file:
        file.write("#version: 0.2\n")
    write_json(folder + "/tokenizer_config.json", {
        "tokenizer_class": "CLIPTokenizer", "model_max_length": 16, "add_prefix_space": False,
        "do_lower_case": True, "errors": "replace", "bos_token": "<|startoftext|>",
        "eos_token": "<|endoftext|>", "pad_token": "<|endoftext|>", "unk_token": "<|endoftext|>"})


def write_model(folder):
    g = torch.Generator().manual_seed(0)
    torch.manual_seed(1)
    text = CLIPTextConfig(hidden_size=8, intermediate_size=16, num_attention_heads=2,
                          num_hidden_layers=1, vocab_size=514, max_position_embeddings=16,
                          bos_token_id=512, eos_token_id=513, pad_token_id=513)
    parts = {
        "unet": UNet2DConditionModel(
            sample_size=SIDE, block_out_channels=(4, 8, 8), layers_per_block=1,
            down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
            attention_head_dim=2, cross_attention_dim=8, norm_num_groups=2),
        "vae": AutoencoderKL(
            block_out_channels=(4, 8, 8), layers_per_block=1, norm_num_groups=4, sample_size=32,
            down_block_types=("DownEncoderBlock2D",) * 3, up_block_types=("UpDecoderBlock2D",) * 3),
        "text_encoder": CLIPTextModel(text),
    }
    for name, part in parts.items():
        jitter(part, g)
        part.save_pretrained(f"{folder}/{name}", safe_serialization=True)
    write_tokenizer(folder + "/tokenizer")


def record_gradients(folder):
    """The U-Net's output and gradients where 18x22 becomes 9x11 and 5x6, for models/test_unet."""
    g = torch.Generator().manual_seed(3)
    model = UNet2DConditionModel.from_pretrained(folder)
    sample, target = torch.randn(2, 2, 4, 18, 22, generator=g)
    context = torch.randn(2, 5, 8, generator=g)
    timestep = torch.tensor([7, 953])
    output = model(sample, timestep, context).sample
    loss = torch.nn.functional.mse_loss(output, target)
    loss.backward()
    tensors = {"sample": sample, "timestep": timestep, "encoder_hidden_states": context,
               "target": target, "output": output, "loss": loss.reshape(1)}
    tensors.update({"grad." + n: p.grad for n, p in model.named_parameters()})
    save_file({n: t.detach().contiguous().clone() for n, t in tensors.items()},
              folder + "/golden.safetensors")


def write_configs(folder, kind, config, unet):
    index = {"_class_name": "StableDiffusionPipeline", "scheduler": ["diffusers", CLASSES[kind]],
             "text_encoder": ["transformers", "CLIPTextModel"],
             "tokenizer": ["transformers", "CLIPTokenizer"],
             "unet": ["diffusers", "UNet2DConditionModel"], "vae": ["diffusers", "AutoencoderKL"],
             "safety_checker": [None, None], "feature_extractor": [None, None],
             "requires_safety_checker": False}
    write_json(folder + "/model_index.json", index)
    write_json(folder + "/scheduler/scheduler_config.json",
               dict(_class_name=CLASSES[kind], **config))
    write_json(folder + "/unet/config.json", unet)


def philox(block, index, purpose):
    """Philox 4x32-10 (Salmon et al. 2011) as sara keys it."""
    c, k = [block, purpose << 24, index, 0], [SEED, 0]
    for _ in range(10):
        p0, p1 = 0xD2511F53 * c[0], 0xCD9E8D57 * c[2]
        c = [(p1 >> 32) ^ c[1] ^ k[0], p1 & 0xFFFFFFFF, (p0 >> 32) ^ c[3] ^ k[1], p0 & 0xFFFFFFFF]
        k = [(k[0] + 0x9E3779B9) & 0xFFFFFFFF, (k[1] + 0xBB67AE85) & 0xFFFFFFFF]
    return c


def draw(count, index, purpose=2):
    """Box-Muller, the noise that sara draws at evaluation `index`."""
    bits = torch.tensor([philox(i, index, purpose) for i in range((count + 3) // 4)]).double()
    radius = torch.sqrt(-2 * torch.log((bits[:, 0::2] + 1) / 2**32))
    angle = 2 * torch.pi * bits[:, 1::2] / 2**32
    return torch.stack((radius * angle.cos(), radius * angle.sin()), 2).flatten()[:count].float()


class Noise:
    """In the place of the schedulers' randn_tensor."""

    def __init__(self):
        self.index = 0

    def __call__(self, shape, **_):
        self.index += 1
        return draw(torch.Size(shape).numel(), self.index - 1).reshape(shape)


def pipeline(folder, kind):
    scheduler = getattr(diffusers, CLASSES[kind]).from_pretrained(folder, subfolder="scheduler")
    pipe = StableDiffusionPipeline.from_pretrained(folder, scheduler=scheduler,
                                                   torch_dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    pipe.check_inputs = lambda *_: None  # it wants multiples of 8 of any VAE, whose factor is 4
    return pipe


def record(folder, tensors, name, g):
    kind, _, method, (height, width) = CASES[name]
    pipe = pipeline(folder, method or kind)
    for module in ("ddpm", "euler_ancestral_discrete"):
        getattr(diffusers.schedulers, "scheduling_" + module).randn_tensor = Noise()
    start = torch.randn(1, 4, height, width, generator=g)
    factor = pipe.vae_scale_factor
    options = dict(prompt=PROMPT, negative_prompt=NEGATIVE, guidance_scale=GUIDANCE,
                   num_inference_steps=STEPS, height=height * factor, width=width * factor)
    latents = pipe(latents=start.clone(), output_type="latent", **options).images
    tensors[name + ".start"], tensors[name + ".latents"] = start, latents
    if height < SIDE:
        with torch.no_grad():
            tensors[name + ".decoded"] = pipe.vae.decode(
                latents / pipe.vae.config.scaling_factor).sample


def sample_sizes(folder, unet):
    """What the pipeline makes of a U-Net's sample_size: [version, before, after]."""
    rows = []
    for version, size in (("0.6.0", 32), ("0.8.1", 63), ("0.8.0.dev0", 8), ("0.9.0.dev0", 32),
                          ("0.9.0", 32), ("0.10.0", 32), ("0.42.1", 32), ("v0.4.1", 16),
                          ("0.6", 96), (None, 32), ("0.6.0", [32, 16]), ("1!0.2", 32),
                          ("0.8.9rc1+local", 32), ("0", 32), ("1.0", 32)):
        config = copy.deepcopy(unet)
        config["sample_size"] = size
        config.pop("_diffusers_version", None)
        if version:
            config["_diffusers_version"] = version
        write_configs(folder, "ddim", dict(SD), config)
        rows.append([version, size, pipeline(folder, "ddim").unet.config.sample_size])
    return rows


def main(folder):
    write_model(folder)
    record_gradients(folder + "/unet")
    with open(folder + "/unet/config.json", encoding="utf-8") as file:
        unet = json.load(file)
    g, tensors = torch.Generator().manual_seed(7), {}
    for name, (kind, config, _, _) in CASES.items():
        write_configs(folder, kind, config, unet)
        record(folder, tensors, name, g)
    sizes = sample_sizes(folder, unet)
    first = next(iter(CASES.values()))
    write_configs(folder, first[0], first[1], unet)
    cases = {name: {"class": CLASSES[kind], "config": config, "method": method}
             for name, (kind, config, method, _) in CASES.items()}
    tensors = {name: t.contiguous() for name, t in tensors.items()}
    save_file(tensors, folder + "/expected.safetensors",
              {"prompt": PROMPT, "negative_prompt": NEGATIVE, "guidance_scale": str(GUIDANCE),
               "steps": str(STEPS), "cases": json.dumps(cases), "sample_sizes": json.dumps(sizes)})


if __name__ == "__main__":
    main(sys.argv[1])
