"""Textual inversions: small pipelines of SD1 and SDXL with random weights draw with them what
diffusers draws with load_textual_inversion(); called by check.py.
"""
import os
import shutil

import torch
from safetensors.torch import load_file, save_file

from check_sdxl import DISTANCE, SCALE, SIZE, STEPS, TOKENIZERS
from check_sdxl import Drawings, make_folder, pipeline
from checks import check, relative, run

PROMPTS = {  # what is in them: prompt, negative prompt, as sara has them
    "single vector": ("a red <cat-toy> fox", "blurry"),
    "several vectors": ("several, a red fox", "blurry"),
    "negative prompt": ("a red fox", "blurry several, <cat-toy>"),
    "both": ("<cat-toy> embedding:several fox", "several"),
}


def theirs_of(text):
    return text.replace("embedding:", "").replace("several", "<several>")


def make_sd1(folder):
    import diffusers
    import transformers
    torch.manual_seed(12)
    tokenizer = transformers.CLIPTokenizer.from_pretrained(f"{TOKENIZERS}/tokenizer")
    text = transformers.CLIPTextModel(transformers.CLIPTextConfig(
        vocab_size=len(tokenizer), hidden_size=64, intermediate_size=96, num_hidden_layers=3,
        num_attention_heads=2, max_position_embeddings=tokenizer.model_max_length,
        hidden_act="quick_gelu", bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id))
    unet = diffusers.UNet2DConditionModel(
        sample_size=SIZE // 8, block_out_channels=(32, 64), attention_head_dim=4,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"), cross_attention_dim=64,
        layers_per_block=1)
    vae = diffusers.AutoencoderKL(block_out_channels=(32,) * 4,
                                  down_block_types=("DownEncoderBlock2D",) * 4,
                                  up_block_types=("UpDecoderBlock2D",) * 4, latent_channels=4,
                                  sample_size=SIZE)
    scheduler = diffusers.EulerDiscreteScheduler(beta_schedule="scaled_linear", beta_start=0.00085,
                                                 beta_end=0.012, steps_offset=1)
    diffusers.StableDiffusionPipeline(
        unet=unet, vae=vae, text_encoder=text, tokenizer=tokenizer, scheduler=scheduler,
        safety_checker=None, feature_extractor=None,
        requires_safety_checker=False).save_pretrained(folder)


def make_files(folder, widths):
    """One vector and three, in diffusers' form and A1111's, or clip_l and clip_g."""
    g = torch.Generator().manual_seed(9)
    os.makedirs(f"{folder}/inner")
    paths = {}
    for name, token, count in (("learned", "<cat-toy>", 1), ("several", "<several>", 3)):
        keys = ["clip_l", "clip_g"] if len(widths) > 1 else [token if count == 1 else "emb_params"]
        vectors = {key: torch.randn(count, width, generator=g) for key, width in zip(keys, widths)}
        if len(widths) > 1 and count == 1:
            name = "<cat-toy>"  # by its file, as these forms name no token
        paths[token] = f"{folder}/inner/{name}.safetensors"
        save_file(vectors, paths[token])
    return paths


def load(pipe, paths):
    """transformers would take the largest id, an added token's, for the end of the text where
    eos_token_id is 2."""
    encoders = [(pipe.tokenizer, pipe.text_encoder)]
    if hasattr(pipe, "text_encoder_2"):
        encoders.append((pipe.tokenizer_2, pipe.text_encoder_2))
    for token, path in paths.items():
        tensors = load_file(path)
        keys = ["clip_l", "clip_g"] if "clip_l" in tensors else list(tensors)
        for key, (tokenizer, text) in zip(keys, encoders):
            pipe.load_textual_inversion({token: tensors[key]}, token=token, tokenizer=tokenizer,
                                        text_encoder=text)
    for tokenizer, text in encoders:
        for module in text.modules():
            if hasattr(module, "eos_token_id"):
                module.eos_token_id = tokenizer.eos_token_id
    return pipe


def draw_ours(d, base, folder, prompt, negative):
    out = f"{d.work}/latents.safetensors"
    run(d.sara, "generate", "-m", base, "-p", prompt, "-n", negative, "--embedding-dir", folder,
        "--steps", str(STEPS), "--cfg-scale", str(SCALE), "-W", str(SIZE), "-H", str(SIZE),
        "--init-latents", f"{d.work}/start.safetensors", "--save-latents", out, "-o",
        f"{d.work}/picture.png")
    latents = load_file(out)["latents"]
    os.remove(out)
    return latents


def check_family(d, name, base, pipe, widths):
    folder = f"{d.work}/{name}-embeddings"
    load(pipe, make_files(folder, widths))
    plain = draw_ours(d, base, folder, "a red fox", "blurry")
    for what, (prompt, negative) in PROMPTS.items():
        ours = draw_ours(d, base, folder, prompt, negative)
        theirs = pipe(theirs_of(prompt), negative_prompt=theirs_of(negative),
                      num_inference_steps=STEPS, guidance_scale=SCALE, height=SIZE, width=SIZE,
                      latents=d.start.clone(), output_type="latent").images
        check(f"embeddings {name}, {what}: change of the latents", relative(ours, plain),
              10 * DISTANCE, larger=True)
        check(f"embeddings {name}, {what}: latents", relative(ours, theirs), DISTANCE)


def check_embeddings(sara, work):
    import diffusers
    work = f"{work}/embeddings"
    shutil.rmtree(work, ignore_errors=True)
    os.makedirs(work)
    d = Drawings(sara, work)
    make_sd1(f"{work}/sd1")
    pipe = diffusers.StableDiffusionPipeline.from_pretrained(f"{work}/sd1", safety_checker=None,
                                                             torch_dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    check_family(d, "SD1", f"{work}/sd1", pipe, (64,))
    make_folder(f"{work}/sdxl")
    check_family(d, "SDXL", f"{work}/sdxl", pipeline(f"{work}/sdxl"), (64, 128))
