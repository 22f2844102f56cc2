"""SDXL: a small pipeline of its full structure with random weights, which sara trains, merges,
exports and writes as a single file, and diffusers reads; called by check.py.
"""
import json
import os
import shutil

import torch
from safetensors.torch import load_file, save_file

from check_exports import Checks, check_dense, unet
from checks import TOP, check, relative, run
from single_files import check_equal, states

TOKENIZERS = os.path.join(TOP, "tests/golden/families/sdxl")
PROMPT, NEGATIVE, STEPS, SCALE, SIZE = "a red fox", "blurry", 3, 4.0, 64
DISTANCE = 1e-4  # of latents, relative L2
PARTS = {
    "unet": "diffusion_pytorch_model", "vae": "diffusion_pytorch_model", "text_encoder": "model",
    "text_encoder_2": "model"
}


def make_text_encoder(second, tokenizer):
    """bigG has more than nine layers in a file that diffusers takes for SDXL's."""
    import transformers
    config = transformers.CLIPTextConfig(
        vocab_size=len(tokenizer), hidden_size=128 if second else 64, intermediate_size=96,
        num_hidden_layers=11 if second else 3, num_attention_heads=2 if second else 1,
        max_position_embeddings=tokenizer.model_max_length, projection_dim=128,
        hidden_act="gelu" if second else "quick_gelu", bos_token_id=0, eos_token_id=2)
    return (transformers.CLIPTextModelWithProjection if second else transformers.CLIPTextModel)(
        config)


def make_folder(folder):
    import diffusers
    import transformers
    torch.manual_seed(11)
    tokenizers = [
        transformers.CLIPTokenizer.from_pretrained(f"{TOKENIZERS}/{name}")
        for name in ("tokenizer", "tokenizer_2")
    ]
    texts = [make_text_encoder(i, tokenizer) for i, tokenizer in enumerate(tokenizers)]
    unet = diffusers.UNet2DConditionModel(
        sample_size=SIZE // 8, block_out_channels=(64, 128, 128), attention_head_dim=[1, 2, 2],
        down_block_types=("DownBlock2D",) + ("CrossAttnDownBlock2D",) * 2,
        up_block_types=("CrossAttnUpBlock2D",) * 2 + ("UpBlock2D",),
        transformer_layers_per_block=[1, 1, 2], cross_attention_dim=192,
        use_linear_projection=True, addition_embed_type="text_time", addition_time_embed_dim=256,
        projection_class_embeddings_input_dim=128 + 6 * 256)
    vae = diffusers.AutoencoderKL(block_out_channels=(32,) * 4,
                                  down_block_types=("DownEncoderBlock2D",) * 4,
                                  up_block_types=("UpDecoderBlock2D",) * 4, layers_per_block=2,
                                  latent_channels=4, sample_size=SIZE, scaling_factor=0.13025)
    with torch.no_grad():  # norms and biases that matter
        for module in (unet, vae, *texts):
            for parameter in module.parameters():
                if parameter.ndim == 1:
                    parameter.add_(torch.randn_like(parameter) * 0.05)
    scheduler = diffusers.EulerDiscreteScheduler(beta_schedule="scaled_linear", beta_start=0.00085,
                                                 beta_end=0.012, steps_offset=1,
                                                 timestep_spacing="leading")
    diffusers.StableDiffusionXLPipeline(unet=unet, vae=vae, text_encoder=texts[0],
                                        text_encoder_2=texts[1], tokenizer=tokenizers[0],
                                        tokenizer_2=tokenizers[1],
                                        scheduler=scheduler).save_pretrained(folder)


def pipeline(folder):
    import diffusers
    pipe = diffusers.StableDiffusionXLPipeline.from_pretrained(folder, torch_dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    return pipe


class Drawings:
    def __init__(self, sara, work, channels=4):
        self.sara, self.work = sara, work
        self.start = torch.randn(1, channels, SIZE // 8, SIZE // 8,
                                 generator=torch.Generator().manual_seed(3))
        save_file({"latents": self.start}, f"{work}/start.safetensors")

    def ours(self, model, *options):
        out = f"{self.work}/latents.safetensors"
        for path in (out, f"{self.work}/picture.png"):
            if os.path.exists(path):
                os.remove(path)
        run(self.sara, "generate", "-m", model, *options, "-p", PROMPT, "-n", NEGATIVE, "--steps",
            str(STEPS), "--cfg-scale", str(SCALE), "-W", str(SIZE), "-H", str(SIZE),
            "--init-latents", f"{self.work}/start.safetensors", "--save-latents", out, "-o",
            f"{self.work}/picture.png")
        return load_file(out)["latents"]

    def theirs(self, pipe):
        return pipe(PROMPT, negative_prompt=NEGATIVE, num_inference_steps=STEPS,
                    guidance_scale=SCALE, height=SIZE, width=SIZE, latents=self.start.clone(),
                    output_type="latent").images


def train(d, base, out, *options):
    run(d.sara, "train", "-m", base, "--train_data_dir", os.path.join(TOP, "examples/emoji/ink"),
        "--max_train_steps", "4", "--train_batch_size", "2", "--resolution", str(SIZE),
        "--learning_rate", "3e-3", "--output_dir", out, *options)


def check_merged(d, base, plain, adapter):
    """Trained and merged, it draws in diffusers what it draws in sara."""
    merged = f"{d.work}/merged"
    run(d.sara, "merge", "-m", base, "--adapter", adapter, "-o", merged)
    ours = d.ours(merged)
    check("SDXL merged: change of the latents", relative(ours, plain), 100 * DISTANCE, larger=True)
    check("SDXL merged: latents", relative(ours, d.theirs(pipeline(merged))), DISTANCE)
    check("SDXL applied: latents", relative(d.ours(base, "--adapter", adapter), ours), DISTANCE)


# --------------------------------------------------------------------------------- single files


def named(part, tensors):
    """As newer transformers name a text encoder's, and as older."""
    if part != "text_encoder":
        return tensors
    return {"text_model." + key.removeprefix("text_model."): v for key, v in tensors.items()}


def check_converters(single, folder):
    """What diffusers' converters make of the file is what the folder holds."""
    import transformers
    from diffusers.loaders import single_file_utils as utils
    checkpoint = load_file(single)
    config = {part: json.load(open(f"{folder}/{part}/config.json")) for part in PARTS}
    second = transformers.CLIPTextModelWithProjection(
        transformers.CLIPTextConfig(**config["text_encoder_2"]))
    theirs = {
        "unet": utils.convert_ldm_unet_checkpoint(dict(checkpoint), config["unet"]),
        "vae": utils.convert_ldm_vae_checkpoint(dict(checkpoint), config["vae"]),
        "text_encoder": utils.convert_ldm_clip_checkpoint(
            dict(checkpoint), remove_prefix="conditioner.embedders.0.transformer."),
        "text_encoder_2": utils.convert_open_clip_checkpoint(
            second, dict(checkpoint), prefix="conditioner.embedders.1.model.")
    }
    for part, file in PARTS.items():
        own = named(part, states(folder, f"{part}/{file}.safetensors"))
        made = named(part, {
            key: v.reshape(own[key].shape) if key in own else v
            for key, v in theirs[part].items() if "position_ids" not in key
        })
        check_equal(f"SDXL {part} by diffusers", made, own)
    kind = utils.infer_diffusers_model_type(checkpoint)
    check(f"SDXL file: not taken for SDXL's but for {kind}", kind != "xl_base", 0)


def check_single_file(d, base, plain):
    import diffusers
    single, back = f"{d.work}/single.safetensors", f"{d.work}/back"
    run(d.sara, "merge", "-m", base, "-o", single)
    check_converters(single, base)
    tokenizers = ("--model_config", base)
    check("SDXL file: latents", relative(d.ours(single, *tokenizers), plain), 0)
    pipe = diffusers.StableDiffusionXLPipeline.from_single_file(single, config=base,
                                                                local_files_only=True)
    pipe.set_progress_bar_config(disable=True)
    check("SDXL file in diffusers: latents", relative(plain, d.theirs(pipe)), DISTANCE)
    run(d.sara, "merge", "-m", single, *tokenizers, "-o", back)
    for part, file in PARTS.items():
        name = f"{part}/{file}.safetensors"
        check_equal(f"SDXL {part} there and back", named(part, states(back, name)),
                    named(part, states(base, name)))
    check("SDXL there and back: latents", relative(plain, d.theirs(pipeline(back))), DISTANCE)


# --------------------------------------------------------------------------------------- LoRAs


def load_peft(pipe, path):
    import peft
    pipe.unet = peft.PeftModel.from_pretrained(pipe.unet, path).merge_and_unload()
    return pipe


def load_lora(pipe, path):
    pipe.load_lora_weights(path)
    return pipe


def check_same(d, base, plain, what, path, load):
    ours = d.ours(base, "--adapter", path)
    check(f"SDXL {what}: change of the latents", relative(ours, plain), 100 * DISTANCE, larger=True)
    check(f"SDXL {what}: latents", relative(ours, d.theirs(load(pipeline(base), path))), DISTANCE)


def check_loras(d, base, plain, adapter):
    for targets in ("attention", "all"):
        out = f"{d.work}/lora-{targets}"
        train(d, base, out, "--method", "lora", "--lora_targets", targets, "--lora_alpha", "6")
        check_same(d, base, plain, f"lora {targets}", f"{out}/lora.safetensors", load_lora)
    train(d, base, f"{d.work}/peft", "--method", "lora", "--save_as", "peft", "--rank", "3")
    check_same(d, base, plain, "lora peft", f"{d.work}/peft/lora", load_peft)
    for form, path, load in (("lora", "export.safetensors", load_lora), ("peft", "export",
                                                                         load_peft)):
        path = f"{d.work}/{path}"
        run(d.sara, "export", adapter, "-m", base, "--format", form, "--rank", "16", "-o", path)
        check_same(d, base, plain, f"export {form}", path, load)


# ---------------------------------------------------------------------------------- foreign LoRAs


def check_foreign(d, base, plain):
    """diffusers' file of the U-Net and both text encoders."""
    import diffusers
    from peft import LoraConfig, get_peft_model_state_dict, inject_adapter_in_model
    pipe, layers, configs = pipeline(base), {}, {}
    generator = torch.Generator().manual_seed(8)
    for part, targets in (("unet", ["to_q", "to_out.0", "ff.net.2", "conv1"]),
                          ("text_encoder", ["q_proj", "fc1"]),
                          ("text_encoder_2", ["v_proj", "fc2"])):
        model, config = getattr(pipe, part), LoraConfig(r=3, lora_alpha=5, target_modules=targets)
        inject_adapter_in_model(config, model)
        model.peft_config = {"default": config}
        for name, p in model.named_parameters():
            if "lora_" in name:
                p.data = 0.1 * torch.randn(p.shape, generator=generator)
        layers[f"{part}_lora_layers"] = get_peft_model_state_dict(model)
        configs[f"{part}_lora_adapter_metadata"] = config.to_dict()
    diffusers.StableDiffusionXLPipeline.save_lora_weights(f"{d.work}/theirs", **layers, **configs)
    ours = d.ours(base, "--adapter", f"{d.work}/theirs/pytorch_lora_weights.safetensors")
    check("SDXL foreign LoRA: change of the latents", relative(ours, plain), 100 * DISTANCE,
          larger=True)
    check("SDXL foreign LoRA: latents", relative(ours, d.theirs(pipe)), DISTANCE)


# ------------------------------------------------------------------------------------- in PyTorch


def loss_in_pytorch(model, seed):
    g = torch.Generator().manual_seed(seed)
    noisy, noise = torch.randn(2, 2, 4, SIZE // 8, SIZE // 8, generator=g)
    said = {"text_embeds": torch.randn(2, 128, generator=g),
            "time_ids": torch.tensor([[SIZE, SIZE, 0, 0, SIZE, SIZE]] * 2)}
    out = model(noisy, torch.tensor([400, 800]), torch.randn(2, 9, 192, generator=g),
                added_cond_kwargs=said).sample
    return (out - noise).square().mean()


def check_pytorch_adapters(d, base, adapter):
    """sara train's adapter on diffusers' U-Net gives the merged weights; the Python package's
    merges to the weights that it has trained, and draws what these draw."""
    import sara
    pipe = pipeline(base)
    sara.apply(pipe.unet, adapter)
    check_equal("SDXL: sara's adapter in PyTorch", pipe.unet.state_dict(),
                states(f"{d.work}/merged", "unet/diffusion_pytorch_model.safetensors"))
    sara.remove(pipe.unet)
    optimizer = sara.adamw(pipe.unet, lr=3e-3)
    for seed in range(3):
        loss_in_pytorch(pipe.unet, seed).backward()
        optimizer.step()
        optimizer.zero_grad()
    path, merged = f"{d.work}/pytorch.safetensors", f"{d.work}/merged-pytorch"
    optimizer.save(path)
    run(d.sara, "merge", "-m", base, "--adapter", path, "-o", merged)
    check_equal("SDXL: PyTorch's adapter in sara", pipe.unet.state_dict(),
                states(merged, "unet/diffusion_pytorch_model.safetensors"))
    pipe.unet.requires_grad_(False)
    check("SDXL: PyTorch's adapter, latents", relative(d.ours(base, "--adapter", path),
                                                       d.theirs(pipe)), DISTANCE)


def check_dense_exports(d, base, adapter):
    c = Checks(lambda *args: run(d.sara, *args), check)
    check_dense(c, base, adapter, unet(f"{d.work}/merged"), d.work, 2)


def check_sdxl(sara, work):
    work = f"{work}/sdxl"
    shutil.rmtree(work, ignore_errors=True)
    os.makedirs(work)
    base, d = f"{work}/base", Drawings(sara, work)
    make_folder(base)
    plain = d.ours(base)
    check("SDXL base: latents", relative(plain, d.theirs(pipeline(base))), DISTANCE)
    train(d, base, f"{work}/sara")
    adapter = f"{work}/sara/adapter.safetensors"
    check_merged(d, base, plain, adapter)
    check_single_file(d, base, plain)
    check_loras(d, base, plain, adapter)
    check_foreign(d, base, plain)
    check_pytorch_adapters(d, base, adapter)
    check_dense_exports(d, base, adapter)
