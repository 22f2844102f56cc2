"""What `sara export` writes, read as other programs read it, and `sara extract` of merged folders;
called by check.py.

ComfyUI and A1111 are no libraries: their handling of a LoRA file's keys is written anew here, from
comfy/lora.py (model_lora_keys_unet, load_lora), comfy/utils.py (unet_to_diffusers) and A1111's
extensions-builtin/Lora (networks.py, network_full.py).
"""
import json
import os
import re

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file


def unet(folder):
    return {
        k: v.float()
        for k, v in load_file(f"{folder}/unet/diffusion_pytorch_model.safetensors").items()
    }


# --------------------------------------------------------------------------------- the two programs

RESNET = {
    "in_layers.0": "norm1", "in_layers.2": "conv1", "emb_layers.1": "time_emb_proj",
    "out_layers.0": "norm2", "out_layers.3": "conv2", "skip_connection": "conv_shortcut"
}
TOP = {
    "input_blocks.0.0": "conv_in", "out.0": "conv_norm_out", "out.2": "conv_out",
    "time_embed.0": "time_embedding.linear_1", "time_embed.2": "time_embedding.linear_2",
    "label_emb.0.0": "add_embedding.linear_1", "label_emb.0.2": "add_embedding.linear_2"
}


def ldm_layers(base, layers_per_block):
    """The LDM name of every layer, which is what both programs hold in memory: diffusers' name ->
    LDM's."""
    per_level, names = layers_per_block + 1, {v: k for k, v in TOP.items()}
    inner = {v: k for k, v in RESNET.items()}
    for layer in {key.rsplit(".", 1)[0] for key in base} - set(names):
        kind, *where, rest = re.match(
            r"(down|up|mid)_blocks?(?:\.(\d+))?"
            r"\.(resnets|attentions|downsamplers|upsamplers)\.(\d+)\.(.*)", layer).groups()
        block, part, j = int(where[0] or 0), where[1], int(where[2])
        attentions = part == "attentions"
        rest = inner[rest] if part == "resnets" else rest
        if part == "downsamplers":
            names[layer] = f"input_blocks.{per_level * (block + 1)}.0.op"
        elif part == "upsamplers":
            attention = any(key.startswith(f"up_blocks.{block}.attentions") for key in base)
            i = per_level * block + layers_per_block
            names[layer] = f"output_blocks.{i}.{2 if attention else 1}.conv"
        elif kind == "mid":
            names[layer] = f"middle_block.{1 if attentions else 2 * j}.{rest}"
        else:
            start = "input_blocks" if kind == "down" else "output_blocks"
            i = per_level * block + j + (kind == "down")
            names[layer] = f"{start}.{i}.{1 if attentions else 0}.{rest}"
    return names


def add(weights, key, change):
    """In place, as both do at strength 1, in the weights' own float32."""
    assert weights[key].numel() == change.numel(), key
    weights[key] = weights[key] + change.reshape(weights[key].shape).float()


def apply_comfyui(base, lora, names):
    """key_map takes "lora_unet_" + either name with "_" and, in newer versions, "diffusion_model."
    + LDM's; .diff is the weight's, .diff_b the bias's."""
    key_map, weights = {}, dict(base)
    for diffusers, ldm in names.items():
        key_map["lora_unet_" + ldm.replace(".", "_")] = diffusers
        key_map["lora_unet_" + diffusers.replace(".", "_")] = diffusers
        key_map["diffusion_model." + ldm] = diffusers
    unused = set(lora)
    for x, layer in key_map.items():
        for end, target in ((".diff", ".weight"), (".diff_b", ".bias")):
            if x + end in lora:
                add(weights, layer + target, lora[x + end])
                unused.remove(x + end)
    assert not unused, f"lora key not loaded: {sorted(unused)[:3]}"
    return weights


def a1111_name(key, layers_per_block):
    """convert_diffusers_name_to_compvis; the 3 of its block numbers is layers_per_block + 1 of
    SD1.x and SD2.x. SDXL's files have the program's own names already."""
    n, inner = layers_per_block + 1, {v: k.replace(".", "_") for k, v in RESNET.items()}
    if m := re.match(r"lora_unet_conv_in(.*)", key):
        return f"diffusion_model_input_blocks_0_0{m[1]}"
    if m := re.match(r"lora_unet_conv_out(.*)", key):
        return f"diffusion_model_out_2{m[1]}"
    if m := re.match(r"lora_unet_time_embedding_linear_(\d+)(.*)", key):
        return f"diffusion_model_time_embed_{2 * int(m[1]) - 2}{m[2]}"
    if m := re.match(r"lora_unet_(down|up)_blocks_(\d+)_(attentions|resnets)_(\d+)_(.+)", key):
        down, i = m[1] == "down", int(m[2]) * n + int(m[4])
        rest = m[5] if m[3] == "attentions" else inner.get(m[5], m[5])
        start, j = "input" if down else "output", 1 if m[3] == "attentions" else 0
        return f"diffusion_model_{start}_blocks_{i + down}_{j}_{rest}"
    if m := re.match(r"lora_unet_mid_block_(attentions|resnets)_(\d+)_(.+)", key):
        rest = m[3] if m[1] == "attentions" else inner.get(m[3], m[3])
        return f"diffusion_model_middle_block_{1 if m[1] == 'attentions' else 2 * int(m[2])}_{rest}"
    if m := re.match(r"lora_unet_down_blocks_(\d+)_downsamplers_0_conv", key):
        return f"diffusion_model_input_blocks_{n + int(m[1]) * n}_0_op"
    if m := re.match(r"lora_unet_up_blocks_(\d+)_upsamplers_0_conv", key):
        i = int(m[1])
        return f"diffusion_model_output_blocks_{n - 1 + i * n}_{2 if i > 0 else 1}_conv"
    return key.replace("lora_unet", "diffusion_model")


def apply_a1111(base, lora, names, layers_per_block):
    """Modules by LDM's name with "_"; a network needs its .diff, which may bring a .diff_b
    along."""
    modules = {"diffusion_model_" + ldm.replace(".", "_"): d for d, ldm in names.items()}
    networks, weights = {}, dict(base)
    for key, value in lora.items():
        layer, _, part = key.partition(".")
        networks.setdefault(modules[a1111_name(layer, layers_per_block)], {})[part] = value
    for layer, parts in networks.items():
        assert "diff" in parts and not set(parts) - {"diff", "diff_b"}, (layer, list(parts))
        add(weights, layer + ".weight", parts["diff"])
        if "diff_b" in parts:
            add(weights, layer + ".bias", parts["diff_b"])
    return weights


# ------------------------------------------------------------------------------------ whole changes


def missed(base, merged, applied):
    """Entries whose sum is not the merged value; of these, those for which some float32 would have
    given it; and how far the worst is off, in roundings of its change."""
    off = reachable = 0
    worst = 0.0
    for key, value in merged.items():
        b, t, got = (x.numpy().reshape(-1) for x in (base[key], value, applied[key]))
        wrong = np.flatnonzero(got != t)
        b, t, got, change = b[wrong], t[wrong], got[wrong], t[wrong] - b[wrong]
        off += len(wrong)
        for d in (change, np.nextafter(change, np.float32(np.inf)),
                  np.nextafter(change, np.float32(-np.inf))):
            reachable += int(np.count_nonzero(b + d == t))
        if len(wrong):
            error = np.abs(got.astype(np.float64) - t.astype(np.float64))
            worst = max(worst, float((error / np.spacing(np.abs(change).astype(np.float32))).max()))
    return off, reachable, worst


def check_dense(c, base_folder, adapter, merged, work, layers_per_block):
    base = unet(base_folder)
    names = ldm_layers(base, layers_per_block)
    for form in ("comfyui", "a1111"):
        for precision in ("fp32", "fp16"):
            path = f"{work}/{form}-{precision}.safetensors"
            c.run("export", adapter, "-m", base_folder, "--format", form, "--save_precision",
                  precision, "-o", path)
            lora = load_file(path)
            applied = (apply_comfyui(base, lora, names) if form == "comfyui" else
                       apply_a1111(base, lora, names, layers_per_block))
            change = sum(((merged[k] - base[k]).double() ** 2).sum() for k in base) ** 0.5
            error = sum(((merged[k].double() - applied[k].double())**2).sum() for k in base)**0.5
            c.check(f"{form} {precision}: merged weights", (error / change).item(),
                    1e-6 if precision == "fp32" else 1e-3)
            if precision == "fp32":
                off, reachable, worst = missed(base, merged, applied)
                print(f"     {form}: {off} entries are no float32 away from the base's")
                c.check(f"{form}: entries missed that a float32 reaches", reachable, 0)
                # half of one of the change's own rounding, half where the sum is a tie
                c.check(f"{form}: the others, in roundings of the change", worst, 1.0000001)


def check_dense_exactly(c, base_folder, work, layers_per_block):
    """Values within a factor of two of the base's, whose differences float32 holds: the sums are
    the merged weights to the bit."""
    base = unet(base_folder)
    rng = torch.Generator().manual_seed(5)
    tuned = {
        k: torch.where(
            torch.rand(v.shape, generator=rng) < 0.06,
            v * (1 + torch.rand(v.shape, generator=rng) / 2), v) for k, v in base.items()
    }
    folder, adapter = f"{work}/scaled", f"{work}/scaled.safetensors"
    c.run("merge", "-m", base_folder, "--dtype", "fp32", "-o", folder)
    save_file(tuned, f"{folder}/unet/diffusion_pytorch_model.safetensors", {"format": "pt"})
    c.run("extract", "--base", base_folder, "--tuned", folder, "-o", adapter)
    names = ldm_layers(base, layers_per_block)
    for form in ("comfyui", "a1111"):
        path = f"{work}/scaled-{form}.safetensors"
        c.run("export", adapter, "-m", base_folder, "--format", form, "--save_precision", "fp32",
              "-o", path)
        lora = load_file(path)
        applied = (apply_comfyui(base, lora, names) if form == "comfyui" else
                   apply_a1111(base, lora, names, layers_per_block))
        wrong = sum(int((applied[k] != tuned[k]).sum()) for k in base)
        changed = sum(int((base[k] != tuned[k]).sum()) for k in base)
        c.check(f"{form}: of {changed} entries not as tuned", wrong, 0)


# ----------------------------------------------------------------------------------- approximations


def truncated(base, merged, rank):
    """The change that a LoRA of a rank can hold, by numpy's SVD: per weight, and the norm of all
    that is left out."""
    out, left = {}, 0.0
    for key, value in merged.items():
        change = (value.double() - base[key].double()).numpy()
        if change.ndim < 2:
            left += (change ** 2).sum()
            continue
        u, s, v = np.linalg.svd(change.reshape(len(change), -1), full_matrices=False)
        left += (s[rank:] ** 2).sum()
        held = ((u[:, :rank] * s[:rank]) @ v[:rank]).reshape(change.shape)
        out[key] = (torch.from_numpy(held), s[:rank])
    return out, left ** 0.5


def compare(c, what, changes, expected):
    """Every layer's change against the truncated SVD's, and its singular values."""
    worst = values = 0.0
    for key, (matrix, s) in expected.items():
        got = changes[key].double()
        norm = matrix.norm().item()
        if norm == 0:
            continue
        worst = max(worst, (got - matrix).norm().item() / norm)
        ours = np.linalg.svd(got.numpy().reshape(len(got), -1), compute_uv=False)[:len(s)]
        known = s > 1e-3 * s[0]
        values = max(values, float(np.abs(ours[known] / s[known] - 1).max()))
    c.check(f"{what}: change of a layer against the truncated SVD", worst, 1e-4)
    c.check(f"{what}: singular values", values, 1e-4)


def check_lora(c, base_folder, adapter, merged, work, rank, version):
    """diffusers loads the file into its pipeline; what it then adds to each weight is the truncated
    SVD of the change."""
    import diffusers
    base, path = unet(base_folder), f"{work}/lora.safetensors"
    printed = c.run("export", adapter, "-m", base_folder, "--format", "lora", "--rank", str(rank),
                    "--save_precision", "fp32", "-o", path)
    expected, left = truncated(base, merged, rank)
    change = sum(((merged[k] - base[k]).double() ** 2).sum() for k in base).item() ** 0.5
    kept = float(re.search(r"keeps ([\d.]+) %", printed)[1]) / 100
    c.check("lora: share kept as printed", abs(kept - (1 - (left / change) ** 2) ** 0.5), 1e-4)
    pipe = diffusers.StableDiffusionPipeline.from_pretrained(base_folder, safety_checker=None,
                                                             torch_dtype=torch.float32)
    before = {k: v.clone() for k, v in pipe.unet.state_dict().items()}
    pipe.load_lora_weights(path)
    pipe.fuse_lora()
    pipe.unload_lora_weights()
    after = pipe.unet.state_dict()
    compare(c, "lora in diffusers", {k: after[k].double() - before[k].double() for k in before},
            expected)
    c.check("lora in diffusers: vectors changed",
            sum(int(not torch.equal(before[k], after[k])) for k in before if before[k].ndim < 2), 0)
    with safe_open(path, "pt") as f:
        meta = f.metadata()
    c.check(
        "lora: metadata wrong",
        sum(meta[k] != v
            for k, v in (("ss_v2", str("v2" in version)), ("ss_base_model_version", version),
                         ("ss_network_dim", str(rank)), ("ss_network_module", "networks.lora"))), 0)


def check_peft(c, base_folder, adapter, merged, work, rank):
    """PeftModel loads the folder; merged and unloaded, the weights are base plus the truncated
    SVD."""
    import diffusers
    import peft
    base, folder = unet(base_folder), f"{work}/peft"
    c.run("export", adapter, "-m", base_folder, "--format", "peft", "--rank", str(rank),
          "--save_precision", "fp32", "-o", folder)
    model = diffusers.UNet2DConditionModel.from_pretrained(f"{base_folder}/unet",
                                                           torch_dtype=torch.float32)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    loaded = peft.PeftModel.from_pretrained(model, folder)
    ours = load_file(f"{folder}/adapter_model.safetensors")
    theirs = peft.get_peft_model_state_dict(loaded)
    c.check(
        "peft: tensors that were not taken",
        len(set(ours) ^ set(theirs)) + sum(not torch.equal(ours[k], theirs[k])
                                           for k in set(ours) & set(theirs)), 0)
    after = loaded.merge_and_unload().state_dict()
    compare(c, "peft", {k: after[k].double() - before[k].double() for k in before},
            truncated(base, merged, rank)[0])


def check_extract(c, base_folder, adapter, merged_folder, work):
    """What merging put in comes out again, entry by entry."""
    path = f"{work}/extracted.safetensors"
    c.run("extract", "--base", base_folder, "--tuned", merged_folder, "-o", path)
    ours, first = load_file(path), load_file(adapter)
    base, merged = unet(base_folder), unet(merged_folder)
    c.check(
        "extract: values that are not the merged model's",
        sum(not np.isin(v.numpy(), merged[k.removesuffix(".values")].numpy()).all()
            for k, v in ours.items() if k.endswith(".values")), 0)
    differing = sum(int((base[k] != merged[k]).sum()) for k in base)
    c.check("extract: entries against those that differ",
            abs(sum(len(v) for k, v in ours.items() if k.endswith(".values")) - differing), 0)
    c.check("extract: more entries than were merged",
            max(0, differing - sum(len(v) for k, v in first.items() if k.endswith(".values"))), 0)


class Checks:
    def __init__(self, run, check):
        self.run, self.check = run, check


def check_exports(run, check, base_folder, adapter, merged_folder, work, version="sd_v1",
                  ranks=(8, 100)):
    """adapter merged into base_folder in fp32 is merged_folder; version: kohya's of the base."""
    c, work = Checks(run, check), f"{work}/exports"
    os.makedirs(work)
    with open(f"{base_folder}/unet/config.json") as file:
        layers_per_block = json.load(file)["layers_per_block"]
    merged = unet(merged_folder)
    check_extract(c, base_folder, adapter, merged_folder, work)
    check_dense_exactly(c, base_folder, work, layers_per_block)
    check_dense(c, base_folder, adapter, merged, work, layers_per_block)
    for rank in ranks:
        os.makedirs(f"{work}/{rank}")
        check_lora(c, base_folder, adapter, merged, f"{work}/{rank}", rank, version)
        check_peft(c, base_folder, adapter, merged, f"{work}/{rank}", rank)
