"""Writes tests/golden/lora_families: LoRA files of SDXL and SD3 as kohya, ComfyUI, OneTrainer and
diffusers name their layers, and what diffusers makes of the weights with them.

    pip install torch diffusers transformers peft safetensors
    python make_lora_families.py GOLDEN_FAMILIES ../golden/lora_families

GOLDEN_FAMILIES: with single/, whose names are those of kohya's networks, prefix and dots apart.
Names without an own saver in diffusers are made of the modules' names, as kohya's networks/lora.py
does. SD3's fused projections are changed as one matrix there, and diffusers' converter splits them.
expected.safetensors: of FILE/PART/WEIGHT the change times (1, 2, ...) along all axes but the first.
"""
import os
import shutil
import sys

import torch
from diffusers import SD3Transformer2DModel, StableDiffusion3Pipeline, StableDiffusionXLPipeline
from diffusers.loaders.single_file_utils import convert_sd3_transformer_checkpoint_to_diffusers
from peft import LoraConfig, get_peft_model_state_dict, inject_adapter_in_model
from peft.tuners.lora import LoraLayer
from safetensors.torch import load_file, save_file

TEXT = {"lora_te1_": "text_encoder", "lora_te2_": "text_encoder_2"}
DENOISER = "model.diffusion_model."


class Maker:
    def __init__(self, families, out):
        self.families, self.out, self.expected = families, out, {}
        self.g = torch.Generator().manual_seed(19)
        shutil.rmtree(out, ignore_errors=True)
        os.makedirs(out)

    def randn(self, *shape):
        """Such as float16 holds."""
        return (torch.randn(*shape, generator=self.g) * 0.3).half().float()

    def factors(self, shape, alpha=None):
        """Of a weight, with an alpha that is not the rank."""
        down = self.randn(2, *shape[1:])
        up = self.randn(shape[0], 2, *[1] * (len(shape) - 2))
        drawn = torch.randint(1, 6, (1,), generator=self.g).item()
        return down, up, torch.tensor(float(alpha or drawn))

    def expect(self, file, part, before, after):
        for name, old in before.items():
            change = (after[name].double() - old.double()).flatten(1 if old.ndim > 1 else 0)
            if change.ndim == 2:
                change = change @ torch.arange(1, change.shape[1] + 1).double()
            if name.endswith(("weight", "bias")) and change.any():
                self.expected[f"{file}/{part}/{name}"] = change.float()

    def save(self, name, tensors, dtype=torch.float16):
        save_file({k: v.to(dtype).contiguous().clone() for k, v in tensors.items()},
                  f"{self.out}/{name}.safetensors")


def product(down, up, alpha):
    return alpha / 2 * (up.flatten(1) @ down.flatten(1)).reshape(len(up), *down.shape[1:])


def state(model):
    return {k: v.detach().clone() for k, v in model.state_dict().items()}


# ----------------------------------------------------------------------------------------- SDXL


def xl_pipeline(m):
    pipe = StableDiffusionXLPipeline.from_pretrained(f"{m.families}/sdxl").to(torch.float32)
    return pipe, {part: getattr(pipe, part) for part in ("unet", *TEXT.values())}


def expect_unet(m, name, tensors):
    """What load_lora_weights and fuse_lora change; the text encoders' are told apart, since those
    of newer transformers are called otherwise than diffusers 0.42 expects."""
    pipe, parts = xl_pipeline(m)
    before = state(parts["unet"])
    pipe.load_lora_weights({k: v for k, v in tensors.items() if k.startswith("lora_unet_")})
    pipe.fuse_lora(components=["unet"])
    pipe.unload_lora_weights()
    m.expect(name, "unet", before, state(parts["unet"]))


def bare(name):
    """As in newer transformers."""
    return name.removeprefix("text_model.")


def xl_kohya(m):
    single, tensors = load_file(f"{m.families}/single/sdxl.safetensors"), {}
    _, parts = xl_pipeline(m)
    names = {
        "lora_unet_" + key[len(DENOISER):]: v.shape
        for key, v in single.items() if key.startswith(DENOISER) and v.ndim > 1
    }
    names = {k: v for i, (k, v) in enumerate(sorted(names.items())) if i % 3 == 0 or "label" in k}
    for prefix, part in TEXT.items():
        layers = [(k, v) for k, v in parts[part].named_modules() if isinstance(v, torch.nn.Linear)]
        names.update({
            f"{prefix}text_model.{bare(k)}.weight": v.weight.shape
            for k, v in layers[::4] if "layers" in k
        })
    for key, shape in names.items():
        name = key.removesuffix(".weight").replace(".", "_")
        # of the U-Net's alphas diffusers 0.42 takes some for others' where they differ
        down, up, alpha = m.factors(shape, None if key[:9] in TEXT else 3)
        tensors.update({f"{name}.lora_down.weight": down, f"{name}.lora_up.weight": up,
                        f"{name}.alpha": alpha})
        if key[:9] in TEXT:
            weight, change = key.split("text_model.")[1], product(down, up, alpha)
            m.expect("sdxl_kohya", TEXT[key[:9]], {weight: torch.zeros_like(change)},
                     {weight: change})
    m.save("sdxl_kohya", tensors)
    expect_unet(m, "sdxl_kohya", tensors)


def inject(m, name, part, model, config):
    """PEFT's layers with random factors; of what they add the file is expected to."""
    inject_adapter_in_model(config, model)
    model.peft_config = {"default": config}
    for key, p in model.named_parameters():
        if "lora_" in key:
            p.data = m.randn(*p.shape)
    changes = {
        bare(f"{key}.weight"): layer.get_delta_weight("default").detach()
        for key, layer in model.named_modules() if isinstance(layer, LoraLayer)
    }
    m.expect(name, part, {k: torch.zeros_like(v) for k, v in changes.items()}, changes)
    return {k: v.half() for k, v in get_peft_model_state_dict(model).items()}


def xl_diffusers(m):
    _, parts = xl_pipeline(m)
    unet = LoraConfig(r=2, lora_alpha=3,
                      target_modules=["to_q", "to_out.0", "add_embedding.linear_1"])
    text = LoraConfig(r=2, lora_alpha=3, target_modules=["q_proj", "fc1"])
    layers = {
        part: inject(m, "sdxl_diffusers", part, model, unet if part == "unet" else text)
        for part, model in parts.items()
    }
    StableDiffusionXLPipeline.save_lora_weights(
        m.out, unet_lora_layers=layers["unet"], text_encoder_lora_layers=layers["text_encoder"],
        text_encoder_2_lora_layers=layers["text_encoder_2"],
        unet_lora_adapter_metadata=unet.to_dict(),
        text_encoder_lora_adapter_metadata=text.to_dict(),
        text_encoder_2_lora_adapter_metadata=text.to_dict(),
        weight_name="sdxl_diffusers.safetensors")


# ------------------------------------------------------------------------------------------ SD3


def transformer(m):
    return SD3Transformer2DModel.from_pretrained(f"{m.families}/sd35_medium/transformer").float()


def expect_single(m, name, changes):
    """changes: under the names of the single file."""
    single = load_file(f"{m.families}/single/sd35_medium_transformer.safetensors")
    start = next(k for k in single if k.endswith("x_embedder.proj.weight"))
    start = start[:-len("x_embedder.proj.weight")]
    full = {k: changes.get(k[len(start):], torch.zeros(v.shape)) for k, v in single.items()}
    after = convert_sd3_transformer_checkpoint_to_diffusers(
        {k[len(start):]: v for k, v in full.items()})
    zeros = {k: torch.zeros_like(v) for k, v in after.items()}
    m.expect(name, "transformer", zeros, after)


def sd3_layers(m):
    single = load_file(f"{m.families}/single/sd35_medium_transformer.safetensors")
    layers = {k.removeprefix(DENOISER): v.shape for k, v in single.items() if v.ndim > 1}
    return {k: v for k, v in layers.items() if k != "pos_embed"}


def sd3_kohya(m, name, prefix, ends):
    """Fused projections as one matrix; a third of the layers, but all of the fused and swapped."""
    tensors, changes = {}, {}
    for i, (key, shape) in enumerate(sorted(sd3_layers(m).items())):
        if i % 3 and "qkv" not in key and "adaLN" not in key:
            continue
        layer = key.removesuffix(".weight")
        layer = prefix + (layer.replace(".", "_") if prefix.endswith("_") else layer)
        down, up, alpha = m.factors(shape)
        tensors.update({layer + ends[0]: down, layer + ends[1]: up, layer + ".alpha": alpha})
        changes[key] = product(down, up, alpha)
    m.save(name, tensors)
    expect_single(m, name, changes)


def sd3_dense(m):
    """ComfyUI's whole changes, of biases too."""
    tensors, changes = {}, {}
    single = load_file(f"{m.families}/single/sd35_medium_transformer.safetensors")
    for key in ("joint_blocks.1.x_block.attn.qkv.weight", "joint_blocks.1.x_block.attn.qkv.bias",
                "joint_blocks.2.context_block.adaLN_modulation.1.bias",
                "final_layer.adaLN_modulation.1.weight"):
        shape = next(v.shape for k, v in single.items() if k.endswith(key))
        changes[key] = m.randn(*shape)
        layer, end = key.rsplit(".", 1)
        tensors[f"diffusion_model.{layer}.{'diff' if end == 'weight' else 'diff_b'}"] = changes[key]
    m.save("sd3_dense", tensors)
    expect_single(m, "sd3_dense", changes)


def sd3_diffusers(m):
    config = LoraConfig(r=2, lora_alpha=3, target_modules=[
        "attn.to_q", "attn.add_k_proj", "attn.to_add_out", "attn2.to_out.0", "norm_out.linear",
        "norm1_context.linear", "ff.net.2"])
    layers = inject(m, "sd3_diffusers", "transformer", transformer(m), config)
    StableDiffusion3Pipeline.save_lora_weights(
        m.out, transformer_lora_layers=layers, transformer_lora_adapter_metadata=config.to_dict(),
        weight_name="sd3_diffusers.safetensors")
    # OneTrainer's: kohya's tensors under diffusers' names
    ends = {"lora_A": "lora_down", "lora_B": "lora_up"}
    tensors = {}
    for key, value in layers.items():
        layer, end = key.rsplit(".lora_", 1)
        layer = "lora_transformer_" + layer.replace(".", "_")
        tensors[f"{layer}.{ends['lora_' + end.split('.')[0]]}.weight"] = value
        tensors[f"{layer}.alpha"] = torch.tensor(3.0)
    m.save("sd3_onetrainer", tensors)
    m.expected.update({
        k.replace("diffusers", "onetrainer", 1): v
        for k, v in m.expected.items() if k.startswith("sd3_diffusers/")
    })


def main():
    m = Maker(*sys.argv[1:])
    xl_kohya(m)
    xl_diffusers(m)
    sd3_kohya(m, "sd3_kohya", "lora_unet_", (".lora_down.weight", ".lora_up.weight"))
    sd3_kohya(m, "sd3_comfyui", "diffusion_model.", (".lora_A.weight", ".lora_B.weight"))
    sd3_dense(m)
    sd3_diffusers(m)
    m.save("expected", m.expected, torch.float32)


if __name__ == "__main__":
    main()
