"""Writes tests/golden/shifted: a VAE with a shift_factor, what training makes of images by it and
what StableDiffusionPipeline draws with it and the model of tests/golden/pipeline.

    pip install torch diffusers transformers safetensors
    python make_latents.py ../golden

Moments are diffusers'; what is drawn is by the Philox of core/make_draws.py. Sides are cropped as
torchvision does: CenterCrop begins at int(round((whole - side) / 2)), the random crop anywhere.
The latents of an image with moments (m, v) are (m + exp(v / 2) n - shift) scale, those of a picture
are decoded at l / scale + shift, as diffusers' SD3 does.
"""
import os
import sys

import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline
from diffusers.image_processor import VaeImageProcessor
from safetensors.torch import save_file

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "..", "core"))
import make_draws  # noqa: E402

NOISE, TIMESTEP, POSTERIOR, ORDER, CROP, FLIP = range(3, 9)  # the places in sara_purpose
SEED, SIDE, ELEMENTS = 42, 16, 6
PROMPT, STEPS, GUIDANCE = "a red barn", 4, 3.0
# name: (width, height, centre)
IMAGES = {"square": (SIDE, SIDE, True), "wide": (SIDE + 3, SIDE, True),
          "high": (SIDE, SIDE + 5, True), "wide_drawn": (SIDE + 1, SIDE, False),
          "high_drawn": (SIDE, SIDE + 3, False)}


def make_vae(folder):
    torch.manual_seed(5)
    vae = AutoencoderKL(block_out_channels=(4, 4, 4), layers_per_block=1, norm_num_groups=2,
                        down_block_types=("DownEncoderBlock2D",) * 3, sample_size=32,
                        up_block_types=("UpDecoderBlock2D",) * 3, shift_factor=0.25,
                        scaling_factor=0.5)
    with torch.no_grad():
        for p in vae.parameters():
            p.add_(torch.randn(p.shape) * 0.1)
    vae.save_pretrained(folder, safe_serialization=True)
    return vae.eval()


def below(bound, purpose, index, element=0):
    return make_draws.below(bound, purpose, element, index, SEED)[0]


def normals(shape, purpose, index):
    count = torch.Size(shape).numel()
    return torch.tensor(make_draws.normals(count, purpose, index, SEED)).reshape(shape)


def place(count, element):
    """A Feistel network of six rounds over the next power of four, walked until it is inside."""
    epoch, value = divmod(element, count)
    half = 1
    while 4 ** half < count:
        half += 1
    while True:
        left, right = divmod(value, 2 ** half)
        for number in range(6):
            f = below(2 ** half, ORDER, epoch, number << 32 | right)
            left, right = right, left ^ f
        value = left << half | right
        if value < count:
            return value


def latents(vae, image, element, centre):
    height, width = image.shape[:2]
    rest = width - SIDE, height - SIDE
    if centre:
        left, top = (int(round(r / 2)) for r in rest)
    else:
        left, top = (below(r + 1, CROP, element, i) for i, r in enumerate(rest))
    crop = image[top:top + SIDE, left:left + SIDE]
    if below(2, FLIP, element):
        crop = crop.flip(1)
    with torch.no_grad():
        moments = vae.encode(crop.permute(2, 0, 1)[None] / 127.5 - 1).latent_dist
    deviation = torch.exp(moments.logvar / 2)
    sample = moments.mean + deviation * normals(moments.mean.shape, POSTERIOR, element)
    return ((sample - vae.config.shift_factor) * vae.config.scaling_factor)[0].float()


def record_images(vae, tensors):
    g = torch.Generator().manual_seed(1)
    for name, (width, height, centre) in IMAGES.items():
        image = torch.randint(0, 256, (height, width, 3), generator=g, dtype=torch.uint8)
        tensors["image." + name] = image
        tensors["latents." + name] = torch.stack(
            [latents(vae, image, i, centre) for i in range(ELEMENTS)])
    flips = [below(2, FLIP, i) for i in range(ELEMENTS)]
    assert {0, 1} == set(flips) and {0, 1} == {below(2, CROP, i) for i in range(ELEMENTS)}
    tensors["flips"] = torch.tensor(flips)
    tensors["timesteps"] = torch.tensor([below(1000, TIMESTEP, i) for i in range(ELEMENTS)])
    tensors["noise"] = torch.stack(
        [normals((4, SIDE // 4, SIDE // 4), NOISE, i).float() for i in range(ELEMENTS)])
    tensors["order"] = torch.tensor([place(5, i) for i in range(15)])


def record_picture(vae, model, tensors):
    pipe = StableDiffusionPipeline.from_pretrained(model, vae=vae, torch_dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    start = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(2))
    final = pipe(PROMPT, guidance_scale=GUIDANCE, num_inference_steps=STEPS, height=32, width=32,
                 latents=start.clone(), output_type="latent").images
    with torch.no_grad():
        decoded = vae.decode(final / vae.config.scaling_factor + vae.config.shift_factor).sample
    shown = VaeImageProcessor().postprocess(decoded, output_type="np")
    picture = (shown * 255).round().astype("uint8")  # numpy_to_pil
    tensors.update(start=start, picture=torch.from_numpy(picture)[0])


def main(golden):
    folder, tensors = os.path.join(golden, "shifted"), {}
    vae = make_vae(folder)
    record_images(vae, tensors)
    record_picture(vae, os.path.join(golden, "pipeline"), tensors)
    save_file({n: t.contiguous() for n, t in tensors.items()}, folder + "/expected.safetensors",
              {"prompt": PROMPT, "guidance_scale": str(GUIDANCE), "steps": str(STEPS)})


if __name__ == "__main__":
    main(sys.argv[1])
