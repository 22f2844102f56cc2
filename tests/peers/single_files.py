"""Single-file checkpoints that sara writes, read by diffusers, and the other way round.

Models of SD1.x's and SD2.x's full structure, with random weights and small widths: all blocks,
cross attention 768 or 1024, SD1's eight heads or SD2's heads of 64 channels. Called by check.py.
"""
import json
import os
import shutil
import subprocess

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from check_exports import check_exports
from checks import BASE, check, relative, run

STEPS = 3


def make_folder(folder, second, prediction_type):
    """A diffusers folder with random weights. Returns the pipeline."""
    import diffusers
    import transformers
    torch.manual_seed(5 + second)
    channels = (64, 128, 192, 192) if second else (32, 64, 64, 96)
    blocks = ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",)
    unet = diffusers.UNet2DConditionModel(
        sample_size=16, block_out_channels=channels, down_block_types=blocks,
        up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
        cross_attention_dim=1024 if second else 768,
        attention_head_dim=[c // 64 for c in channels] if second else 8,
        use_linear_projection=bool(second))
    vae = diffusers.AutoencoderKL(block_out_channels=(32, 32, 64, 64),
                                  down_block_types=("DownEncoderBlock2D",) * 4,
                                  up_block_types=("UpDecoderBlock2D",) * 4, layers_per_block=2,
                                  latent_channels=4, sample_size=128)
    tokenizer = transformers.CLIPTokenizer.from_pretrained(f"{BASE}/tokenizer")
    width = 1024 if second else 768
    text = transformers.CLIPTextModel(
        transformers.CLIPTextConfig(vocab_size=len(tokenizer), hidden_size=width,
                                    intermediate_size=64, num_hidden_layers=2,
                                    num_attention_heads=width // 64,
                                    hidden_act="gelu" if second else "quick_gelu",
                                    projection_dim=width, bos_token_id=tokenizer.bos_token_id,
                                    eos_token_id=tokenizer.eos_token_id))
    with torch.no_grad():  # norms and biases that matter
        for module in (unet, vae, text):
            for parameter in module.parameters():
                if parameter.ndim == 1:
                    parameter.add_(torch.randn_like(parameter) * 0.05)
    scheduler = diffusers.DDIMScheduler(beta_schedule="scaled_linear", beta_start=0.00085,
                                        beta_end=0.012, clip_sample=False, set_alpha_to_one=False,
                                        steps_offset=1, prediction_type=prediction_type)
    pipe = diffusers.StableDiffusionPipeline(unet=unet, vae=vae, text_encoder=text,
                                             tokenizer=tokenizer, scheduler=scheduler,
                                             safety_checker=None, feature_extractor=None,
                                             requires_safety_checker=False)
    pipe.save_pretrained(folder)
    return pipe


def states(folder, name):
    return load_file(f"{folder}/{name}")


def check_equal(name, ours, theirs):
    """The same keys, shapes, dtypes and bits."""
    check(f"{name}: keys that only one side has", len(set(ours) ^ set(theirs)), 0)
    different = [
        key for key in ours if ours[key].shape != theirs[key].shape or
        ours[key].dtype != theirs[key].dtype or not torch.equal(ours[key], theirs[key])
    ]
    check(f"{name}: tensors that differ {different[:3]}", len(different), 0)


def check_converters(name, single, folder, second):
    """What diffusers' converters make of the file is what the folder holds."""
    from diffusers.loaders import single_file_utils as utils
    config = {
        part: json.load(open(f"{folder}/{part}/config.json"))
        for part in ("unet", "vae", "text_encoder")
    }
    checkpoint = load_file(single)
    unet = utils.convert_ldm_unet_checkpoint(dict(checkpoint), config["unet"])
    check_equal(f"{name} U-Net by diffusers", unet,
                states(folder, "unet/diffusion_pytorch_model.safetensors"))
    vae = utils.convert_ldm_vae_checkpoint(dict(checkpoint), config["vae"])
    own = states(folder, "vae/diffusion_pytorch_model.safetensors")
    vae = {key: value.reshape(own[key].shape) for key, value in vae.items()}
    check_equal(f"{name} VAE by diffusers", vae, own)
    text = states(folder, "text_encoder/model.safetensors")
    text = {
        key if key.startswith("text_model.") else f"text_model.{key}": value
        for key, value in text.items()
    }
    if second:
        import transformers
        model = transformers.CLIPTextModel(transformers.CLIPTextConfig(**config["text_encoder"]))
        theirs = utils.convert_open_clip_checkpoint(model, dict(checkpoint),
                                                    prefix="cond_stage_model.model.")
        # diffusers leaves it out by its number, 23
        last = f".layers.{config['text_encoder']['num_hidden_layers']}."
        theirs = {key: value for key, value in theirs.items() if last not in key}
    else:
        prefix = "cond_stage_model.transformer."
        theirs = {
            key[len(prefix):]: value for key, value in checkpoint.items() if key.startswith(prefix)
        }
    theirs = {key: value for key, value in theirs.items() if "position_ids" not in key}
    check_equal(f"{name} text encoder by diffusers",
                {key: text[key] for key in text if "position_ids" not in key}, theirs)


def check_latents(name, sara, work, single, folder, start):
    """diffusers' from_single_file draws what sara draws from the same file and noise."""
    import diffusers
    import transformers
    save_file({"latents": start}, f"{work}/single-start.safetensors")
    tokenizer = transformers.CLIPTokenizer.from_pretrained(f"{BASE}/tokenizer")
    text = transformers.CLIPTextModel.from_pretrained(f"{folder}/text_encoder")
    scheduler = diffusers.DDIMScheduler.from_pretrained(f"{folder}/scheduler")
    pipe = diffusers.StableDiffusionPipeline.from_single_file(
        single, config=folder, local_files_only=True, tokenizer=tokenizer, text_encoder=text,
        scheduler=scheduler, safety_checker=None)
    pipe.set_progress_bar_config(disable=True)
    for method, kind in (("ddim", diffusers.DDIMScheduler),
                         ("euler", diffusers.EulerDiscreteScheduler)):
        out = f"{work}/single-{method}.safetensors"
        run(sara, "generate",
            "-m", single, "--tokenizer", f"{BASE}/tokenizer", "-p", "a red fox", "--steps",
            str(STEPS), "--cfg-scale", "3", "--sampling-method", method, "--init-latents",
            f"{work}/single-start.safetensors", "--save-latents", out, "-o", f"{work}/single.png")
        pipe.scheduler = kind.from_config(pipe.scheduler.config)
        theirs = pipe("a red fox", num_inference_steps=STEPS, guidance_scale=3.0, height=128,
                      width=128, latents=start.clone(), output_type="latent").images
        check(f"{name} latents, {method}", relative(load_file(out)["latents"], theirs), 1e-4)


def check_without_metadata(name, sara, work, single, folder, prediction_type):
    """A file as others write it, without sara's metadata: detected, and the same base."""
    bare = f"{work}/bare.safetensors"
    save_file({**load_file(single), "model_ema.decay": torch.ones(1), "betas": torch.ones(3)}, bare)
    base = [
        json.loads(run(sara, "inspect", "-m", path, "--json", *more))["base_sha256"]
        for path, more in ((folder, []), (
            bare, ["--tokenizer", f"{BASE}/tokenizer", "--prediction_type", prediction_type]))
    ]
    check(f"{name} bare file: other base", base[0] != base[1], 0)
    outs = []
    for path, more in ((single, []), (bare, ["--prediction_type", prediction_type])):
        outs.append(f"{work}/bare-{len(outs)}.safetensors")
        run(sara, "generate", "-m", path, "--tokenizer", f"{BASE}/tokenizer", "-p", "cat",
            "--steps", "2", *more, "-W", "128", "-H", "128", "--save-latents", outs[-1], "-o",
            f"{work}/single.png")
    check(f"{name} bare file: latents",
          relative(load_file(outs[1])["latents"],
                   load_file(outs[0])["latents"]), 0)


def check_test_forward(name, sara, work, single):
    """Where a file of SD2's kind says nothing, a forward pass tells the prediction type."""
    for shift, expected in ((0.0, "epsilon"), (-3.0, "v_prediction")):
        tensors = load_file(single)
        tensors["model.diffusion_model.out.2.bias"] += shift
        bare = f"{work}/bare.safetensors"
        save_file(tensors, bare)
        done = subprocess.run([sara, "inspect", "-m", bare, "--tokenizer", f"{BASE}/tokenizer"],
                              capture_output=True, text=True)
        check(f"{name} test forward, {expected}",
              f"{expected} (by a test forward)" not in done.stderr, 0)


def check_exported(name, sara, work, folder, second, prediction_type):
    """What a few entries of every tensor become is exported under names that the programs know in a
    U-Net of full structure."""
    rng = torch.Generator().manual_seed(7)
    work = f"{work}/full-exports"
    shutil.rmtree(work, ignore_errors=True)
    tuned, merged, adapter = f"{work}/tuned", f"{work}/merged", f"{work}/adapter.safetensors"
    shutil.copytree(folder, tuned)
    weights = states(folder, "unet/diffusion_pytorch_model.safetensors")
    for key, value in weights.items():
        value += torch.where(
            torch.rand(value.shape, generator=rng) < 0.05,
            0.01 * torch.randn(value.shape, generator=rng), torch.tensor(0.0))
    save_file(weights, f"{tuned}/unet/diffusion_pytorch_model.safetensors", {"format": "pt"})
    run(sara, "extract", "--base", folder, "--tuned", tuned, "-o", adapter)
    run(sara, "merge", "-m", folder, "--adapter", adapter, "--dtype", "fp32", "-o", merged)
    print(f"{name} exports", flush=True)
    version = f"sd_v{1 + second}" + ("_v" if prediction_type == "v_prediction" else "")
    check_exports(lambda *args: run(sara, *args), check, folder, adapter, merged, work, version,
                  ranks=(16,))


def check_single_files(sara, work):
    for second, prediction_type in ((0, "epsilon"), (1, "epsilon"), (1, "v_prediction")):
        name = f"SD{1 + second} {prediction_type}"
        folder, single, back = f"{work}/full", f"{work}/full.safetensors", f"{work}/back"
        for path in (folder, back):
            shutil.rmtree(path, ignore_errors=True)
        if os.path.exists(single):
            os.remove(single)
        make_folder(folder, second, prediction_type)
        run(sara, "merge", "-m", folder, "-o", single)
        with safe_open(single, "pt") as file:
            meta = file.metadata()
        check(f"{name} modelspec",
              meta["modelspec.prediction_type"] != prediction_type.split("_")[0], 0)
        check_converters(name, single, folder, second)
        start = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(3))
        check_latents(name, sara, work, single, folder, start)
        check_without_metadata(name, sara, work, single, folder, prediction_type)
        if second and prediction_type == "epsilon":
            check_test_forward(name, sara, work, single)
        run(sara, "merge", "-m", single, "--tokenizer", f"{BASE}/tokenizer", "-o", back)
        for part in ("unet/diffusion_pytorch_model", "vae/diffusion_pytorch_model",
                     "text_encoder/model"):
            theirs = states(folder, f"{part}.safetensors")
            if "text" in part:
                theirs = {
                    key if key.startswith("text_model.") else f"text_model.{key}": value
                    for key, value in theirs.items()
                }
            check_equal(f"{name} {part} there and back", states(back, f"{part}.safetensors"),
                        theirs)
        import diffusers
        diffusers.StableDiffusionPipeline.from_pretrained(back)
        if second == (prediction_type == "v_prediction"):
            check_exported(name, sara, work, folder, second, prediction_type)
