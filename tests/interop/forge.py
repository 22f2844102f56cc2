"""stable-diffusion-webui-forge as a client of sara's single files and exports; run by hand in its
environment, docs/reliability.md tells what was seen. Its code loads the checkpoint and holds
A1111's and ComfyUI's handling of LoRA files.

    python tests/interop/forge.py FORGE_CHECKOUT SARA MODEL_FOLDER ADAPTER WORK_FOLDER

MODEL_FOLDER: an SD1.5 or SD2.1 as a diffusers folder, random weights will do; ADAPTER: trained on
it. Needs 14 GB of disk in WORK_FOLDER and 12 GiB of memory. Fails unless every tensor of the U-Net
is in the program's model as in the file, every tensor of the a1111 and comfyui exports is matched,
and the program's patching of the base with them gives the merged model, but for entries that sara
said would miss by rounding.
"""
import os
import re
import subprocess
import sys

EXPORTS = {"a1111": (), "comfyui": (), "lora": ("--rank", "16")}


def fail(text):
    sys.exit(f"FAIL {text}")


def make(sara, model, adapter, work):
    """The files' paths by what they are, and what sara printed of each."""
    commands = {
        "base": ("merge", "-m", model),
        "merged": ("merge", "-m", model, "--adapter", adapter),
        **{name: ("export", adapter, "-m", model, "--format", name, "--save_precision", "fp32",
                  *more) for name, more in EXPORTS.items()},
    }
    paths, told = {}, {}
    for name, command in commands.items():
        paths[name] = os.path.join(work, f"{name}.safetensors")
        if os.path.exists(paths[name]):
            os.remove(paths[name])
        told[name] = subprocess.run([sara, *command, "-o", paths[name]], check=True,
                                    capture_output=True, text=True).stdout
    return paths, told


def check_model(loader, path, base):
    """The program's U-Net, whose tensors are those of the file."""
    import torch
    unet = loader.forge_loader(path).forge_objects.unet
    params = {
        name: p for name, p in unet.model.named_parameters() if name.startswith("diffusion_model.")
    }
    same = sum(
        torch.equal(p.float(), base["model." + name].to(p.dtype).float())
        for name, p in params.items())
    if same != len(params) or same < 600:
        fail(f"{path}: {same} of {len(params)} tensors are as in the file")
    print(f"ok: {path}: {same} tensors of the U-Net")
    return unet


def check_export(patcher, unet, path, told, base, merged):
    from backend.utils import load_torch_file
    file = load_torch_file(path)
    count = len(file)
    patches, rest = patcher.load_lora(file, patcher.model_lora_keys_unet(unet.model))
    if rest or not patches:
        fail(f"{path}: {len(rest)} of {count} tensors are not matched: {sorted(rest)[:5]}")
    missed, error, change = 0, 0.0, 0.0
    for key, patch in patches.items():
        original, wanted = base["model." + key], merged["model." + key]
        patched = patcher.merge_lora_to_weight([(1.0, patch, 1.0, None, None)], original.clone(),
                                               key)
        missed += int((patched != wanted).sum())
        error += float((patched.double() - wanted.double()).square().sum())
        change += float((wanted.double() - original.double()).square().sum())
    relative = (error / change) ** 0.5
    by_rounding = re.search(r"misses the value by rounding for (\d+)", told)
    allowed = int(by_rounding.group(1) if by_rounding else 0)
    if "--rank" not in EXPORTS[os.path.basename(path).split(".")[0]] and missed > allowed:
        fail(f"{path}: {missed} entries are not the merged model's; sara told {told}")
    print(f"ok: {path}: {count} tensors, {len(patches)} patches; {missed} entries differ from the "
          f"merged model, relative L2 {relative:.3g} of the change")


def main():
    forge, sara, model, adapter, work = map(os.path.abspath, sys.argv[1:])
    paths, told = make(sara, model, adapter, work)
    os.chdir(forge)
    sys.path[:0] = [forge, os.path.join(forge, "packages_3rdparty")]
    sys.argv = [sys.argv[0], "--always-cpu"]  # which the program reads
    from backend import loader
    from backend.patcher import lora as patcher
    from safetensors.torch import load_file
    base, merged = load_file(paths["base"]), load_file(paths["merged"])
    unet = check_model(loader, paths["base"], base)
    for name in EXPORTS:
        check_export(patcher, unet, paths[name], told[name], base, merged)


if __name__ == "__main__":
    main()
