"""The `sara` package in PyTorch against the sara program, with diffusers' U-Nets. Called by
check.py.

The recorded steps, and the tolerances of their figures, are those of tests/train/test_replay.c.
"""
import json
import os
import shutil

import diffusers
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import sara as package
from checks import BASE, TOP, check, relative, run

GOLDEN = os.path.join(TOP, "tests/golden")
# test_replay.c: losses, grad_norms, rank_losses, values after the last step
LOSS, NORM, RANK, CHANGE = 1e-5, 1e-4, 1e-4, 2e-3
OPTIONS = ("threshold", "learning_rate", "lambda_rank", "lr_scheduler", "max_grad_norm",
           "progressive_iter", "adam_weight_decay", "prediction_type")


def metadata_of(path):
    with safe_open(path, "pt") as file:
        return file.metadata()


def load_unet(folder, dtype=torch.float32):
    return diffusers.UNet2DConditionModel.from_pretrained(folder, torch_dtype=dtype)


def weights(unet):
    return {name: p.detach().clone() for name, p in unet.named_parameters()}


def differing(ours, theirs):
    """How many tensors are not the same to the bit, keys that only one side has included."""
    def same(a, b):
        return a.dtype == b.dtype and a.shape == b.shape and torch.equal(
            a.contiguous().view(-1).view(torch.uint8),
            b.contiguous().view(-1).view(torch.uint8))

    return len(set(ours) ^ set(theirs)) + sum(not same(ours[name], theirs[name])
                                              for name in set(ours) & set(theirs))


# ----------------------------------------------------------------------------------- recorded steps

def replay(kind, path, rank_names=None, seed=42):
    """The recorded steps in a PyTorch loop. Returns the U-Net, its optimiser and a list of (loss,
    grad_norm, rank_loss)."""
    unet, data, meta = load_unet(f"{GOLDEN}/unet_{kind}"), load_file(path), metadata_of(path)
    optimizer = package.adamw(
        unet, threshold=float(meta["threshold"]), lr=float(meta["learning_rate"]),
        weight_decay=float(meta["adam_weight_decay"]), max_grad_norm=float(meta["max_grad_norm"]),
        lambda_rank=float(meta["lambda_rank"]), progressive_iter=int(meta["progressive_iter"]),
        rank_names=rank_names, seed=seed)
    steps = len(data["latents"])
    schedule = diffusers.optimization.get_scheduler(meta["lr_scheduler"], optimizer,
                                                    num_warmup_steps=0, num_training_steps=steps)
    noises = diffusers.DDPMScheduler(beta_schedule="scaled_linear", beta_start=0.00085,
                                     beta_end=0.012, prediction_type=meta["prediction_type"])
    log = []
    for latents, noise, t, context in zip(data["latents"], data["noise"], data["timesteps"],
                                          data["encoder_hidden_states"]):
        target = noise if meta["prediction_type"] == "epsilon" else noises.get_velocity(
            latents, noise, t)
        loss = torch.nn.functional.mse_loss(
            unet(noises.add_noise(latents, noise, t), t, context).sample, target)
        loss.backward()
        kept = sum(p.grad is not None for p in unet.parameters())
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        log.append((loss.item(), optimizer.last["grad_norm"], optimizer.last["rank_loss"], kept))
    check(f"PyTorch {kind}: dense gradients kept after a backward pass", max(row[3] for row in log),
          0)
    return unet, optimizer, log


def train(sara, kind, path, out, *more):
    """The same by `sara train --replay`."""
    meta = metadata_of(path)
    options = [text for name in OPTIONS for text in (f"--{name}", meta[name])]
    run(sara, "train", "--unet_only", f"{GOLDEN}/unet_{kind}", "--replay", path, *options, *more,
        "-o", out)
    with open(f"{out}/log.jsonl") as file:
        rows = [json.loads(line) for line in file]
    return [(row["loss"], row["grad_norm"], row["rank_loss"]) for row in rows if "step" in row]


def check_columns(name, ours, theirs):
    check(f"{name}: steps", abs(len(ours) - len(theirs)), 0)
    for column, (figure, bound) in enumerate(
        (("losses", LOSS), ("gradient norms", NORM), ("rank losses", RANK))):
        check(f"{name}: {figure}",
              max(abs(a[column] / b[column] - 1) for a, b in zip(ours, theirs)), bound)


def change_error(base, ours, theirs):
    """Relative error of what two models' training changed."""
    error = sum(
        float((ours[name].double() - theirs[name].double()).square().sum()) for name in base)
    return (
        error /
        sum(float((theirs[name].double() - base[name].double()).square().sum())
            for name in base))**0.5


def check_recorded(sara, work, kind):
    """Ten steps against the method's definition (the golden file), and against `sara train`: the
    same entries, close values."""
    path, name = f"{GOLDEN}/train_{kind}.safetensors", f"PyTorch {kind}"
    golden, meta, base = load_file(path), metadata_of(path), weights(
        load_unet(f"{GOLDEN}/unet_{kind}"))
    unet, optimizer, log = replay(kind, path, rank_names=json.loads(meta["rank_names"]))
    check_columns(
        f"{name} against the golden run", log,
        list(zip(*(golden[column].tolist() for column in ("losses", "grad_norms", "rank_losses")))))
    expected = {key: value.clone() for key, value in base.items()}
    for key in base:
        expected[key].view(-1)[golden[f"index.{key}"].long()] = golden[f"after.{key}"]
    check(f"{name} against the golden run: change", change_error(base, weights(unet), expected),
          CHANGE)

    ours, theirs = f"{work}/pytorch-{kind}.safetensors", f"{work}/trained-{kind}"
    optimizer.save(ours)
    check_columns(f"{name} against sara train", log, train(sara, kind, path, theirs))
    a, b = load_file(ours), load_file(f"{theirs}/adapter.safetensors")
    check(f"{name} against sara train: tensors in one file alone", len(set(a) ^ set(b)), 0)
    check(f"{name} against sara train: parameters whose positions differ",
          sum(not torch.equal(a[key], b[key]) for key in a if key.endswith(".positions")), 0)
    check(f"{name} against sara train: positions",
          sum(len(a[key]) for key in a if key.endswith(".positions")), 50000, larger=True)
    mine, other = metadata_of(ours), metadata_of(f"{theirs}/adapter.safetensors")
    check(f"{name} against sara train: base_sha256",
          int(mine["sara.base_sha256"] != other["sara.base_sha256"]), 0)
    different = [key for key in mine if key.startswith("sara.") and mine[key] != other.get(key)]
    check(f"{name} against sara train: metadata that differ {different}", len(different), 0)

    both = []
    for adapter in (ours, f"{theirs}/adapter.safetensors"):
        folder = f"{work}/recorded-{kind}"
        shutil.rmtree(folder, ignore_errors=True)
        run(sara, "merge", "--unet-only", f"{GOLDEN}/unet_{kind}", "--adapter", adapter, "-o",
            folder)
        both.append(load_file(f"{folder}/diffusion_pytorch_model.safetensors"))
        fresh = load_unet(f"{GOLDEN}/unet_{kind}")
        package.apply(fresh, adapter)
        check(f"{name}: sara.apply against sara merge, tensors that differ",
              differing(weights(fresh), both[-1]), 0)
    check(f"{name}: the trained weights against sara merge, tensors that differ",
          differing(weights(unet), both[0]), 0)
    check(f"{name} against sara train: change", change_error(base, both[0], both[1]), CHANGE)


def check_draws(sara, work):
    """Without rank_names both draw the low-rank term's matrices, the same ones for the same
    seed."""
    path, drawn = f"{work}/without-names.safetensors", []
    meta = metadata_of(f"{GOLDEN}/train_sd1.safetensors")
    del meta["rank_names"]
    save_file(load_file(f"{GOLDEN}/train_sd1.safetensors"), path, meta)
    for seed in (42, 7):
        theirs = train(sara, "sd1", path, f"{work}/drawn-{seed}", "--seed", str(seed))
        _, _, log = replay("sd1", path, seed=seed)
        check_columns(f"PyTorch draws, seed {seed}", log, theirs)
        drawn.append([row[2] for row in log])
    check("PyTorch draws: steps with another matrix for another seed",
          sum(abs(a / b - 1) > 100 * RANK for a, b in zip(*drawn)), 5, larger=True)


# ----------------------------------------------------------------------------------------- adapters

def train_demo(path, seed, fraction):
    """A few steps on noise: an adapter for the demo's base."""
    unet, g = load_unet(f"{BASE}/unet"), torch.Generator().manual_seed(seed)
    optimizer = package.adamw(unet, fraction=fraction, lr=1e-3)
    for _ in range(3):
        x = torch.randn(2, 4, 8, 8, generator=g)
        context = torch.randn(2, 7, unet.config.cross_attention_dim, generator=g)
        unet(x, torch.randint(0, 1000, (2,), generator=g),
             context).sample.square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    optimizer.save(path)
    return unet


def generate(sara, work, model, *adapters):
    out = f"{work}/pytorch-latents.safetensors"
    run(sara, "generate", "-m", model, *adapters, "-p", "cat face", "--steps", "4", "-o",
        f"{work}/pytorch.png", "--save-latents", out)
    return load_file(out)["latents"]


def check_applied(sara, work):
    """What sara.apply and sara.compose make of adapters is what `sara merge` and `sara generate`
    make of them."""
    a, b = f"{work}/pytorch-a.safetensors", f"{work}/pytorch-b.safetensors"
    demo = f"{work}/demo/adapter.safetensors"
    trained = train_demo(a, 1, 0.1)
    train_demo(b, 2, 0.03)
    for dtype, kind in (("fp32", torch.float32), ("fp16", torch.float16)):
        base = weights(load_unet(f"{BASE}/unet", kind))
        for name, layers in (("one", [(a, 1)]), ("strength 0.6", [(a, 0.6)]),
                             ("two", [(a, 0.6), (b, 0.8)]),
                             ("one and half of another", [(b, 0.5), (a, 1)]),
                             ("sara train's", [(demo, 1)]),
                             ("all", [(b, 0.8), (demo, -0.7), (a, 0.6)])):
            folder, unet = f"{work}/pytorch-merged", load_unet(f"{BASE}/unet", kind)
            shutil.rmtree(folder, ignore_errors=True)
            chosen = [
                text for path, strength in layers for text in ("--adapter", f"{path}:{strength}")
            ]
            run(sara, "merge", "-m", BASE, *chosen, "--dtype", dtype, "-o", folder)
            package.compose(unet, layers)
            merged = load_file(f"{folder}/unet/diffusion_pytorch_model.safetensors")
            check(f"PyTorch adapters, {name}, {dtype}: tensors that differ from sara merge",
                  differing(weights(unet), merged), 0)
            check(f"PyTorch adapters, {name}, {dtype}: tensors that are changed",
                  differing(merged, base), 50, larger=True)
            if name == "one" and dtype == "fp32":
                check("PyTorch adapters: tensors that differ from the trained ones",
                      differing(weights(trained), merged), 0)
            if name == "two" and dtype == "fp32":
                saved = f"{work}/pytorch-saved"
                shutil.rmtree(saved, ignore_errors=True)
                shutil.copytree(BASE, saved)
                unet.save_pretrained(f"{saved}/unet")
                theirs, plain = generate(sara, work, saved), generate(sara, work, BASE)
                ours = generate(sara, work, BASE, *chosen)
                check("PyTorch adapters: latents by sara generate, applied against saved by "
                      "diffusers", (ours - theirs).abs().max().item(), 0)
                check("PyTorch adapters: latents that they change", relative(ours, plain), 1e-3,
                      larger=True)
            package.remove(unet)
            check(f"PyTorch adapters, {name}, {dtype}: tensors that differ when removed",
                  differing(weights(unet), base), 0)


def check_pytorch(sara, work):
    check("PyTorch package: imported from this tree",
          int(os.path.abspath(package.__file__).startswith(os.path.join(TOP, "python"))), 0)
    for kind in ("sd1", "sd2"):
        check_recorded(sara, work, kind)
    check_draws(sara, work)
    check_applied(sara, work)
