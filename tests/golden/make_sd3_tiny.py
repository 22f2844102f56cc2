#!/usr/bin/env python3
"""Makes the text encoders, configs and expected/ of sd3_tiny/ beside this script: a folder of
StableDiffusion3Pipeline whose other parts are links, and what diffusers (0.42.1) draws with it,
with its T5 and without. Needs torch, diffusers, transformers, sentencepiece and safetensors."""
import json
import pathlib

import torch
from diffusers import (AutoencoderKL, FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel,
                       StableDiffusion3Pipeline)
from safetensors.torch import load_file, save_file
from transformers import (AutoTokenizer, CLIPTextConfig, CLIPTextModelWithProjection,
                          CLIPTokenizer, T5Config, T5EncoderModel)

FOLDER = pathlib.Path(__file__).parent / "sd3_tiny"
CLIP = dict(vocab_size=3208, hidden_size=4, intermediate_size=12, num_hidden_layers=3,
            num_attention_heads=2, max_position_embeddings=32, projection_dim=3, bos_token_id=0,
            eos_token_id=2, pad_token_id=1)
T5 = dict(vocab_size=512, d_model=10, d_kv=3, d_ff=14, num_layers=2, num_heads=3,
          feed_forward_proj="gated-gelu")
PROMPTS = ["a red dragon, drawn with ink", "two cats!"]
NEGATIVE = "blurred"
HEIGHT, WIDTH, STEPS, SEQUENCE = 24, 40, 4, 20


def encoder(name, kind, config, g):
    """Random, of float16; values are large enough for each to matter."""
    model = kind(config).eval()
    with torch.no_grad():
        for p in model.parameters():
            p.copy_((p + 0.3 * torch.randn(p.shape, generator=g)).half().float())
    model.half().save_pretrained(FOLDER / name)
    return model.float()


def autoencoder():
    """SDXL's, with SD3's scaling and shift."""
    config = json.loads((FOLDER / "../families/sdxl/vae/config.json").read_text())
    config.update(scaling_factor=1.5305, shift_factor=0.0609)
    (FOLDER / "vae").mkdir(exist_ok=True)
    (FOLDER / "vae/config.json").write_text(json.dumps(config, indent=2) + "\n")
    return AutoencoderKL.from_pretrained(FOLDER / "vae", torch_dtype=torch.float32)


def denoiser():
    folder = FOLDER / "transformer"
    model = SD3Transformer2DModel.from_config(SD3Transformer2DModel.load_config(folder))
    tensors = load_file(folder / "diffusion_pytorch_model.safetensors")
    model.load_state_dict({k: v.float() for k, v in tensors.items()})
    return model.eval()


def draw(pipe, start, sequence):
    """Of all prompts; embeddings of the first."""
    first = pipe.encode_prompt(PROMPTS[0], None, None, negative_prompt=NEGATIVE,
                               max_sequence_length=sequence)
    out = dict(zip(["prompt_embeds", "negative_prompt_embeds", "pooled_prompt_embeds",
                    "negative_pooled_prompt_embeds"], [t.clone() for t in first]))
    for kind in ("latent", "pt"):
        result = pipe(PROMPTS, negative_prompt=[NEGATIVE] * len(PROMPTS), height=HEIGHT,
                      width=WIDTH, num_inference_steps=STEPS, max_sequence_length=sequence,
                      latents=start.clone(), output_type=kind).images
        out["latents" if kind == "latent" else "image"] = result.contiguous()
    out["image"] = out["image"][:1].clone()
    return out


def main():
    g = torch.Generator().manual_seed(31)
    torch.manual_seed(32)
    parts = dict(
        text_encoder=encoder("text_encoder", CLIPTextModelWithProjection,
                             CLIPTextConfig(hidden_act="quick_gelu", **CLIP), g),
        text_encoder_2=encoder("text_encoder_2", CLIPTextModelWithProjection,
                               CLIPTextConfig(hidden_act="gelu", **CLIP), g),
        text_encoder_3=encoder("text_encoder_3", T5EncoderModel, T5Config(**T5), g),
        tokenizer=CLIPTokenizer.from_pretrained(FOLDER / "tokenizer"),
        tokenizer_2=CLIPTokenizer.from_pretrained(FOLDER / "tokenizer_2"),
        tokenizer_3=AutoTokenizer.from_pretrained(FOLDER / "tokenizer_3"),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0), vae=autoencoder(),
        transformer=denoiser())
    pipe = StableDiffusion3Pipeline(**parts)
    pipe.scheduler.save_pretrained(FOLDER / "scheduler")
    index = dict(pipe.config, _class_name="StableDiffusion3Pipeline", _diffusers_version="0.42.1")
    (FOLDER / "model_index.json").write_text(json.dumps(index, indent=2, sort_keys=True) + "\n")
    start = torch.randn((2, 4, HEIGHT // 4, WIDTH // 4), generator=g)
    (FOLDER / "expected").mkdir(exist_ok=True)
    metadata = dict(prompts=json.dumps(PROMPTS), negative_prompt=json.dumps(NEGATIVE),
                    steps=str(STEPS), max_sequence_length=str(SEQUENCE))
    with torch.no_grad():
        save_file(dict(start=start, **draw(pipe, start, SEQUENCE)),
                  FOLDER / "expected/flow_euler.safetensors", metadata)
        pipe.text_encoder_3 = pipe.tokenizer_3 = None
        save_file(dict(start=start, **draw(pipe, start, SEQUENCE)),
                  FOLDER / "expected/without_t5.safetensors", metadata)


if __name__ == "__main__":
    main()
