"""LoRA, DoRA and SHiRA files: sara's are drawn with by diffusers and PEFT, theirs by sara, with the
emoji base and one of SD2's kind; called by check.py.
"""
import json
import os
import shutil

import numpy as np
import torch
from safetensors.torch import load_file, save_file

PROMPT, STEPS, SCALE = "cat face", 4, 3.0
ATTENTION = ["to_q", "to_k", "to_v", "to_out.0"]
CONVOLUTIONS = ["conv1", "conv2", "conv_in", "conv_shortcut", "proj_in", "proj_out"]
DISTANCE, DECIBELS = 1e-4, 40  # of latents (relative L2) and pictures


def pipeline(base):
    import diffusers
    pipe = diffusers.StableDiffusionPipeline.from_pretrained(base, safety_checker=None,
                                                             torch_dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def make_second_base(first, folder):
    """The emoji base around a U-Net of SD2's kind: linear projections, heads by level, v."""
    import diffusers
    shutil.copytree(first, folder)
    with open(f"{first}/unet/config.json") as file:
        config = json.load(file)
    config.update(use_linear_projection=True, attention_head_dim=[2, 4, 6])
    torch.manual_seed(1)
    unet = diffusers.UNet2DConditionModel.from_config(config)
    unet.save_pretrained(f"{folder}/unet")
    with open(f"{folder}/scheduler/scheduler_config.json") as file:
        scheduler = json.load(file)
    scheduler["prediction_type"] = "v_prediction"
    with open(f"{folder}/scheduler/scheduler_config.json", "w") as file:
        json.dump(scheduler, file)


class Loras:
    def __init__(self, run, check, base, work, name):
        self.run, self.check, self.base, self.work, self.name = run, check, base, work, name
        self.start = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(3))
        os.makedirs(work, exist_ok=True)
        save_file({"latents": self.start}, f"{work}/start.safetensors")

    def ours(self, *adapters):
        """Latents and picture that sara draws."""
        from PIL import Image
        out = f"{self.work}/ours"
        options = [text for adapter in adapters for text in ("--adapter", adapter)]
        for end in (".png", ".safetensors"):
            if os.path.exists(out + end):
                os.remove(out + end)
        self.run("generate", "-m", self.base, *options, "-p", PROMPT, "--cfg-scale", str(SCALE),
                 "--steps", str(STEPS), "--init-latents", f"{self.work}/start.safetensors", "-o",
                 out + ".png", "--save-latents", out + ".safetensors")
        with Image.open(out + ".png") as picture:
            pixels = np.asarray(picture.convert("RGB"), dtype=np.float64)
        return load_file(out + ".safetensors")["latents"], pixels

    def theirs(self, pipe, **more):
        options = dict(prompt=PROMPT, num_inference_steps=STEPS, guidance_scale=SCALE, height=64,
                       width=64, **more)
        latents = pipe(latents=self.start.clone(), output_type="latent", **options).images
        with torch.no_grad():
            decoded = pipe.vae.decode(latents / pipe.vae.config.scaling_factor).sample
        picture = pipe.image_processor.postprocess(decoded, output_type="pil")[0]
        return latents, np.asarray(picture, dtype=np.float64)

    def same(self, what, ours, theirs):
        distance = ((ours[0].double() - theirs[0].double()).norm() / theirs[0].double().norm())
        error = max(np.mean((ours[1] - theirs[1]) ** 2), 1e-12)
        self.check(f"{self.name}: {what}: latents", distance.item(), DISTANCE)
        self.check(f"{self.name}: {what}: PSNR", 10 * np.log10(255.0 ** 2 / error), DECIBELS,
                   larger=True)

    def differs(self, what, one, other):
        """The file does something."""
        distance = ((one[0].double() - other[0].double()).norm() / other[0].double().norm())
        self.check(f"{self.name}: {what}: change of the latents", distance.item(), 100 * DISTANCE,
                   larger=True)


# ------------------------------------------------------------------------------------- sara's files


def train(c, images, out, *options):
    c.run("train", "-m", c.base, "--train_data_dir", images, "--max_train_steps", "10",
          "--train_batch_size", "2", "--learning_rate", "3e-3", "--output_dir", out, *options)


def check_trained(c, images, what, result, load, *options):
    """What sara has trained; load: a function of the pipeline and the path, which loads it."""
    out = f"{c.work}/{what.replace(' ', '-')}"
    train(c, images, out, *options)
    path = f"{out}/{result}"
    ours = c.ours(path)
    c.differs(what, ours, c.plain)
    c.same(what, ours, c.theirs(load(pipeline(c.base), path)))
    return path


def load_kohya(pipe, path):
    pipe.load_lora_weights(path)
    return pipe


def load_dora(pipe, path):
    """diffusers leaves dora_scale out, so as ComfyUI's weight_decompose has it."""
    file = load_file(path)
    for name, layer in pipe.unet.named_modules():
        key = f"lora_unet_{name.replace('.', '_')}"
        if f"{key}.dora_scale" not in file:
            continue
        up, down = file[f"{key}.lora_up.weight"], file[f"{key}.lora_down.weight"]
        scale = file[f"{key}.alpha"].item() / len(down)
        weight = layer.weight.data.flatten(1) + scale * up.flatten(1) @ down.flatten(1)
        weight *= file[f"{key}.dora_scale"].flatten(1) / weight.norm(dim=1, keepdim=True)
        layer.weight.data = weight.reshape(layer.weight.shape)
    return pipe


def load_peft(pipe, path):
    import peft
    pipe.unet = peft.PeftModel.from_pretrained(pipe.unet, path).merge_and_unload()
    return pipe


def check_ours(c, images):
    for method, load in (("lora", load_kohya), ("dora", load_dora)):
        for targets in ("attention", "all"):
            options = ("--method", method, "--lora_targets", targets, "--lora_alpha", "6")
            what = f"{method} {targets}"
            check_trained(c, images, what, "lora.safetensors", load, *options)
        check_trained(c, images, f"{method} peft", "lora", load_peft, "--method", method,
                      "--save_as", "peft", "--rank", "3")
    out = f"{c.work}/shira"
    train(c, images, out, "--method", "shira", "--rank", "4")
    c.run("export", f"{out}/adapter.safetensors", "-m", c.base, "--format", "shira",
          "-o", f"{c.work}/shira-peft")
    ours = c.ours(f"{out}/adapter.safetensors")
    c.differs("shira", ours, c.plain)
    c.same("shira", ours, c.theirs(load_peft(pipeline(c.base), f"{c.work}/shira-peft")))
    c.same("shira, exported", c.ours(f"{c.work}/shira-peft"), ours)


# ------------------------------------------------------------------------------------ others' files


def randomise(model):
    """Of what PEFT has added, which is zero in part."""
    generator = torch.Generator().manual_seed(5)
    for name, p in model.named_parameters():
        if "lora_magnitude" in name:
            p.data.mul_(1 + 0.2 * torch.rand(p.shape, generator=generator))
        elif "lora_" in name:
            p.data = 0.1 * torch.randn(p.shape, generator=generator)


def lora_config(**more):
    """Ranks and alphas that differ by layer, alphas unlike ranks."""
    from peft import LoraConfig
    return LoraConfig(r=4, lora_alpha=6, target_modules=ATTENTION + CONVOLUTIONS + ["ff.net.2"],
                      rank_pattern={"to_q": 2, "conv1": 3}, alpha_pattern={"to_k": 3.0,
                                                                           "conv1": 1.5}, **more)


def text_config(**more):
    from peft import LoraConfig
    return LoraConfig(r=3, lora_alpha=5, target_modules=["q_proj", "v_proj", "out_proj", "fc1"],
                      **more)


def check_theirs(c, dora):
    """diffusers' file, and the same as PEFT's folder and under kohya's names."""
    from peft import get_peft_model_state_dict, inject_adapter_in_model
    import diffusers
    what, pipe = "DoRA" if dora else "LoRA", pipeline(c.base)
    unet, text = lora_config(use_dora=dora), text_config(use_dora=dora)
    pipe.unet.add_adapter(unet)
    inject_adapter_in_model(text, pipe.text_encoder)
    pipe.text_encoder.peft_config = {"default": text}
    randomise(pipe.unet)
    randomise(pipe.text_encoder)
    drawn = c.theirs(pipe)
    c.differs(f"{what} of diffusers", drawn, c.plain)
    folder = f"{c.work}/{what}-diffusers"
    layers = get_peft_model_state_dict(pipe.unet)
    text_layers = get_peft_model_state_dict(pipe.text_encoder)
    diffusers.StableDiffusionPipeline.save_lora_weights(
        folder, unet_lora_layers=layers, text_encoder_lora_layers=text_layers,
        unet_lora_adapter_metadata=unet.to_dict(),
        text_encoder_lora_adapter_metadata=text.to_dict())
    path = f"{folder}/pytorch_lora_weights.safetensors"
    c.same(f"{what} of diffusers", c.ours(path), drawn)
    save_kohya(pipe, layers, text_layers, f"{c.work}/{what}-kohya.safetensors")
    c.same(f"{what} under kohya's names", c.ours(f"{c.work}/{what}-kohya.safetensors"), drawn)
    if not dora:
        for model in (pipe.unet, pipe.text_encoder):
            for layer in model.modules():
                if hasattr(layer, "scaling"):
                    layer.scaling["default"] *= 0.5
        c.same(f"{what} at 0.5", c.ours(path + ":0.5"), c.theirs(pipe))


def save_kohya(pipe, layers, text_layers, path):
    """kohya's names as its networks/lora.py makes them: the prefix, and the module's name with _
    for each dot."""
    tensors = {}
    ends = {"lora_A": "lora_down", "lora_B": "lora_up"}
    for prefix, model, state in (("lora_unet", pipe.unet, layers),
                                 ("lora_te", pipe.text_encoder, text_layers)):
        for key, value in state.items():
            module, end = key.split(".lora_")
            name = f"{prefix}_{module.replace('.', '_')}"
            layer = model.get_submodule(module)
            if "magnitude" in end:
                shape = (-1,) + (1,) * (layer.weight.ndim - 1)
                tensors[f"{name}.dora_scale"] = value.reshape(shape)
                continue
            tensors[f"{name}.{ends['lora_' + end.split('.')[0]]}.weight"] = value
            alpha = layer.scaling["default"] * layer.r["default"]
            tensors[f"{name}.alpha"] = torch.tensor(float(alpha))
    save_file({k: v.contiguous() for k, v in tensors.items()}, path)


def check_peft_folder(c, kind):
    import peft
    pipe = pipeline(c.base)
    if kind == "SHiRA":
        linear = [n for n, m in pipe.unet.named_modules() if isinstance(m, torch.nn.Linear)]
        config = peft.ShiraConfig(r=3, target_modules=linear, random_seed=2)
    else:
        config = lora_config(use_dora=kind == "DoRA", use_rslora=kind == "rsLoRA")
    model = peft.get_peft_model(pipe.unet, config)
    randomise(model)
    for name, p in model.named_parameters():
        if "shira_weight" in name:
            p.data = 0.02 * torch.randn(p.shape, generator=torch.Generator().manual_seed(6))
    model.save_pretrained(f"{c.work}/{kind}-peft")
    pipe.unet = model.merge_and_unload()
    drawn = c.theirs(pipe)
    c.differs(f"{kind} of PEFT", drawn, c.plain)
    c.same(f"{kind} of PEFT", c.ours(f"{c.work}/{kind}-peft"), drawn)


def check_loras(run, check, base, images, work):
    os.makedirs(f"{work}/loras")
    second = f"{work}/loras/second"
    make_second_base(base, second)
    for name, folder in (("sd1", base), ("sd2", second)):
        c = Loras(run, check, folder, f"{work}/loras/{name}", name)
        c.plain = c.ours()
        c.same("the base", c.plain, c.theirs(pipeline(folder)))
        check_ours(c, images)
        for dora in (False, True):
            check_theirs(c, dora)
        for kind in ("LoRA", "rsLoRA", "DoRA", "SHiRA"):
            check_peft_folder(c, kind)
