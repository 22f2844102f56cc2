#!/usr/bin/env python3
"""Makes sdxl_options/ beside this script: what StableDiffusionXLPipeline of diffusers (0.42.1)
draws with families/sdxl, told sizes, and as a model that predicts v with a noise schedule that ends
without signal. start: unit noise; latents: before the division by the scaling factor. Needs torch,
transformers, diffusers and safetensors."""
import os

import torch
from diffusers import EulerDiscreteScheduler, StableDiffusionXLPipeline
from safetensors.torch import save_file

HERE = os.path.dirname(os.path.abspath(__file__))
SIZES = dict(original_size=(96, 64), crops_coords_top_left=(8, 4), target_size=(40, 56))
OTHERS = dict(negative_original_size=(24, 20), negative_crops_coords_top_left=(2, 6),
              negative_target_size=(28, 36))
ZERO_SNR = dict(prediction_type="v_prediction", rescale_betas_zero_snr=True,
                timestep_spacing="trailing")


def draw(pipe, name, **options):
    """One picture of 32 x 48."""
    start = torch.randn((1, 4, 8, 12), generator=torch.Generator().manual_seed(1))
    latents = pipe("a red dragon", negative_prompt="blurry", num_inference_steps=3,
                   guidance_scale=5.0, height=32, width=48, output_type="latent",
                   latents=start.clone(), **options).images
    os.makedirs(os.path.join(HERE, "sdxl_options"), exist_ok=True)
    save_file({"start": start, "latents": latents.contiguous()},
              os.path.join(HERE, "sdxl_options", f"{name}.safetensors"))


def main():
    pipe = StableDiffusionXLPipeline.from_pretrained(os.path.join(HERE, "families", "sdxl"),
                                                     dtype=torch.float32)
    draw(pipe, "sizes", **SIZES)
    draw(pipe, "negative_sizes", **SIZES, **OTHERS)
    pipe.scheduler = EulerDiscreteScheduler.from_config(pipe.scheduler.config, **ZERO_SNR)
    draw(pipe, "zero_snr")


if __name__ == "__main__":
    main()
