"""Teaches the demo's emoji model to draw in ink, in PyTorch; a few minutes on two cores. From the
project's folder:

    pip install ./python torch diffusers transformers
    python examples/train_pytorch.py              writes ink.safetensors and face.png"""
import json

import sara
import torch
from diffusers import DDPMScheduler, StableDiffusionPipeline
from PIL import Image

pipe = StableDiffusionPipeline.from_pretrained("examples/emoji/base", torch_dtype=torch.float32)
schedule = DDPMScheduler.from_config(pipe.scheduler.config)
with open("examples/emoji/ink/metadata.jsonl", encoding="utf-8") as file:
    rows = [json.loads(line) for line in file]
# The VAE and the text encoder stay as they are: what they give is computed once.
with torch.no_grad():
    images = [Image.open("examples/emoji/ink/" + row["file_name"]).convert("RGB") for row in rows]
    latents = pipe.vae.encode(pipe.image_processor.preprocess(images)).latent_dist
    texts, _ = pipe.encode_prompt([row["text"] for row in rows], "cpu", 1, False)

optimizer = sara.adamw(pipe.unet, fraction=0.2, lr=1.5e-3, total_steps=400)  # the line
cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 400)
for step in range(400):
    chosen, t = torch.randint(len(rows), (8,)), torch.randint(1000, (8,))
    clean = latents.sample()[chosen] * pipe.vae.config.scaling_factor
    noise = torch.randn_like(clean)
    predicted = pipe.unet(schedule.add_noise(clean, noise, t), t, texts[chosen]).sample
    loss = torch.nn.functional.mse_loss(predicted, noise)
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    cosine.step()
    print(f"step {step + 1} of 400: loss {loss.item():.4f}", end="\r")

# sara generate -m examples/emoji/base --adapter ink.safetensors ... draws with it too.
optimizer.save("ink.safetensors")
pipe("grinning face", num_inference_steps=20, guidance_scale=3).images[0].save("face.png")
