"""ComfyUI as a client of sara's single files and exports; run by hand with its checkout and what it
needs, docs/reliability.md tells what was seen. Its own functions find out what a checkpoint is,
load it, match LoRA files' keys and patch the weights.

    python tests/interop/comfyui.py [options] CHECKOUT SARA MODEL WORK_FOLDER ADAPTER...

MODEL: a diffusers folder, random weights will do; the adapters: of it, added up. --denoiser-only:
leaves text encoders and VAE out, whose sizes are fixed there. --fp16, --formats NAME,...: for
models of full size, where the exports' decomposition would take long. --lora: takes the one
adapter, a LoRA file of sara's, as it is instead of exporting it. Fails unless every tensor of the
file is in the program's model, every tensor of the exports is matched, and the patched weights are
those of sara's merged model: of whole changes but for rounding, of exported LoRAs as near as sara
tells.
"""
import argparse
import logging
import os
import re
import subprocess
import sys

# A1111's names are for SD and SDXL alone
EXPORTS = {"comfyui": (), "a1111": (), "lora": ("--rank", "16")}
TOLERANCE = {"fp32": 1e-5, "fp16": 2e-3}  # of whole changes, relative L2


def fail(text):
    sys.exit(f"FAIL {text}")


class Heard(logging.Handler):
    """What the program warns of: tensors that it misses, or has no use for."""

    def __init__(self):
        super().__init__(logging.WARNING)
        self.lines = []

    def emit(self, record):
        self.lines.append(record.getMessage())

    def expect_nothing(self, what):
        if self.lines:
            fail(f"{what}: {len(self.lines)} warnings, the first: {self.lines[:3]}")


def parse():
    a = argparse.ArgumentParser()
    for name in ("denoiser-only", "fp16", "lora"):
        a.add_argument(f"--{name}", action="store_true")
    a.add_argument("--formats", default=",".join(EXPORTS))
    for name in ("checkout", "sara", "model", "work"):
        a.add_argument(name, type=os.path.abspath)
    a.add_argument("adapters", nargs="+", type=os.path.abspath)
    a = a.parse_args()
    a.precision = "fp16" if a.fp16 else "fp32"
    return a


def make(a):
    """The files' paths by what they are, and what sara printed of each."""
    added = [text for adapter in a.adapters for text in ("--adapter", adapter)]
    commands = {"base": ("merge",), "merged": ("merge", *added, "--dtype", a.precision),
                **{name: ("export", *added, "--format", name, "--save_precision", a.precision,
                          *EXPORTS[name]) for name in a.formats.split(",") if not a.lora}}
    paths, told = {}, {}
    if a.lora:
        paths["lora"], told["lora"] = a.adapters[0], ""
    for name, (command, *more) in commands.items():
        path = os.path.join(a.work, f"{name}.safetensors")
        if os.path.exists(path):
            os.remove(path)
        done = subprocess.run([a.sara, command, "-m", a.model, *more, "-o", path],
                              capture_output=True, text=True)
        if done.returncode == 2 and "format a1111: A1111 takes no" in done.stderr:
            print(f"ok: a1111: refused: {done.stderr.strip()}")
        elif done.returncode:
            fail(f"sara {command}: {done.stderr}")
        else:
            paths[name], told[name] = path, done.stdout
    return paths, told


def check_part(what, params, base, prefix):
    """The program's values are the file's; returns how many tensors."""
    import torch
    wrong = [name for name, p in params.items()
             if prefix + name not in base or
             not torch.equal(p.float(), base[prefix + name].to(p.dtype).float())]
    if wrong or not params:
        fail(f"{what}: {len(wrong)} of {len(params)} tensors are not as in the file: {wrong[:3]}")
    return len(params)


def load(sd, heard, path, base, all_parts):
    model, clip, vae, _ = sd.load_checkpoint_guess_config(path, output_clip=all_parts,
                                                          output_vae=all_parts)
    heard.expect_nothing(path)
    unet = model.model.diffusion_model
    count = check_part("denoiser", dict(unet.named_parameters()), base, "model.diffusion_model.")
    decoder = check_part("VAE", dict(vae.first_stage_model.named_parameters()), base,
                         "first_stage_model.") if vae else 0
    print(f"ok: {path}: {type(model.model).__name__}, {count} tensors of the denoiser, "
          f"{decoder} of the VAE{', text encoders' if clip else ''}; no warning")
    return model, clip


def patched(model, key):
    """The weight with the patches that are on it."""
    import comfy.lora
    import comfy.utils
    weight = comfy.utils.get_attr(model.model, key).float().clone()
    return comfy.lora.calculate_weight(model.patches[key], weight, key)


def check_export(sd, heard, model, clip, path, told, merged, tolerance):
    from safetensors.torch import load_file
    file = load_file(path)
    count = len(file)
    with_lora, with_clip = sd.load_lora_for_models(model, clip, file, 1.0, 1.0)
    heard.expect_nothing(path)
    error = change = 0.0
    for key in with_lora.patches:
        name, got = "model." + key, patched(with_lora, key)
        wanted = merged.pop(name).double()
        before = sd.comfy.utils.get_attr(model.model, key).double()
        error += float((got.double() - wanted).square().sum())
        change += float((wanted - before).square().sum())
    for name, wanted in merged.items():
        if name.startswith("model.diffusion_model.") and "pos_embed" not in name:
            before = sd.comfy.utils.get_attr(model.model, name.removeprefix("model.")).double()
            rest = float((wanted.double() - before).square().sum())
            error, change = error + rest, change + rest
    relative = (error / change) ** 0.5
    out = re.search(r"leaves out ([\d.e-]+) of it", told)
    allowed = float(out.group(1)) * 1.01 if out else tolerance
    if not relative <= allowed:
        fail(f"{path}: {relative:.3g} of the change is missing, {allowed:.3g} expected: {told}")
    texts = len(with_clip.patcher.patches) if with_clip else 0
    print(f"ok: {path}: {count} tensors, {len(with_lora.patches)} patches of the denoiser, {texts} "
          f"of text encoders; off the merged model by {relative:.3g} of the change")


def main():
    a = parse()
    paths, told = make(a)
    sys.path.insert(0, a.checkout)
    sys.argv = [sys.argv[0], "--cpu", f"--force-{a.precision}"]  # which the program reads
    import comfy.options
    comfy.options.enable_args_parsing()
    import comfy.sd as sd
    import torch
    from safetensors.torch import load_file
    heard = Heard()
    logging.getLogger().addHandler(heard)
    model, clip = load(sd, heard, paths["base"], load_file(paths["base"]), not a.denoiser_only)
    for name in filter(paths.get, EXPORTS):
        with torch.no_grad():
            check_export(sd, heard, model, clip, paths[name], told[name],
                         load_file(paths["merged"]), TOLERANCE[a.precision])


if __name__ == "__main__":
    main()
