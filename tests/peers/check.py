"""What sara computes against diffusers, transformers and PyTorch themselves.

    python tests/peers/check.py --sara build/sara --work SCRATCH_DIR

SCRATCH_DIR/demo holds the demo's run. Every check prints its figure; the first that fails ends with
exit code 1.
"""
import argparse
import json
import os
import random
import subprocess
import sys

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from check_embeddings import check_embeddings
from check_eval import check_eval
from check_exports import check_exports
from check_loras import check_loras
from check_sd3 import check_sd3
from check_sdxl import check_sdxl
from check_tensorboard import check_tensorboard
from checks import BASE, EXPECTED, TOP, check, relative, run
from pytorch import check_pytorch
from single_files import check_single_files


def image_array(path):
    from PIL import Image
    return np.asarray(Image.open(path).convert("RGB"), dtype=np.float64)


def psnr(a, b):
    return 10 * np.log10(255.0 ** 2 / max(np.mean((a - b) ** 2), 1e-12))


def check_expected(work):
    """The committed expectations are what diffusers computes today."""
    with safe_open(f"{EXPECTED}/ddim.safetensors", "pt") as f:
        meta = f.metadata()
    out = f"{work}/expected"
    subprocess.run([
        sys.executable,
        os.path.join(TOP, "tests/peers/make_expected.py"), BASE, out, "--seed", "42", "--steps",
        meta["steps"], "--cfg", meta["guidance_scale"], *json.loads(meta["prompts"])
    ], check=True)
    for name in sorted(os.listdir(EXPECTED)):
        ours, theirs = load_file(f"{EXPECTED}/{name}"), load_file(f"{out}/{name}")
        check(f"{name} start", (ours["start"] - theirs["start"]).abs().max().item(), 0)
        check(f"{name} latents regenerated", relative(theirs["latents"], ours["latents"]), 5e-5)
        check(f"{name} image regenerated", (ours["image"] - theirs["image"]).abs().max().item(),
              1e-3)


def check_merged(sara, work):
    """The demo's adapter, merged in the base's dtype and in fp32, draws sara's picture in
    diffusers."""
    import diffusers
    adapter, prompt = f"{work}/demo/adapter.safetensors", "cat face"
    start = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(3))
    save_file({"latents": start}, f"{work}/start.safetensors")
    for dtype in ("fp32", "fp16"):
        folder = f"{work}/merged-{dtype}"
        run(sara, "merge", "-m", BASE, "--adapter", adapter, "--dtype", dtype, "-o", folder)
        run(sara, "generate", "-m", folder, "-p", prompt, "--cfg-scale", "3", "--init-latents",
            f"{work}/start.safetensors", "-o", f"{work}/ours-{dtype}.png", "--save-latents",
            f"{work}/ours-{dtype}.safetensors")
        pipe = diffusers.StableDiffusionPipeline.from_pretrained(folder, safety_checker=None,
                                                                 torch_dtype=torch.float32)
        pipe.set_progress_bar_config(disable=True)
        options = dict(prompt=prompt, num_inference_steps=20, guidance_scale=3.0, height=64,
                       width=64)
        latents = pipe(latents=start.clone(), output_type="latent", **options).images
        picture = np.asarray(pipe(latents=start.clone(), **options).images[0], dtype=np.float64)
        check(f"merged {dtype}: latents",
              relative(load_file(f"{work}/ours-{dtype}.safetensors")["latents"], latents), 5e-4)
        check(f"merged {dtype}: PSNR", psnr(image_array(f"{work}/ours-{dtype}.png"), picture), 40,
              larger=True)
    run(sara, "generate", "-m", BASE, "--adapter", adapter, "-p", prompt, "--cfg-scale", "3",
        "--init-latents", f"{work}/start.safetensors", "-o", f"{work}/applied.png")
    check("applied against merged: PSNR",
          psnr(image_array(f"{work}/applied.png"), image_array(f"{work}/ours-fp32.png")), 60,
          larger=True)


def varints(data):
    value = shift = 0
    for byte in data:
        value |= (byte & 127) << shift
        shift += 7
        if not byte & 128:
            yield value
            value = shift = 0


def check_adapter(work):
    """The adapter file read by its description: positions below the threshold, the merged U-Net its
    values."""
    adapter = load_file(f"{work}/demo/adapter.safetensors")
    with safe_open(f"{work}/demo/adapter.safetensors", "pt") as f:
        meta = f.metadata()
    base = load_file(f"{BASE}/unet/diffusion_pytorch_model.safetensors")
    merged = load_file(f"{work}/merged-fp32/unet/diffusion_pytorch_model.safetensors")
    threshold = torch.tensor(float(meta["sara.threshold"]), dtype=torch.float32)
    wrong = selected = 0
    for name, tensor in base.items():
        flat = tensor.float().flatten()
        expected = (flat.abs() < threshold).nonzero().flatten()
        held = adapter.get(name + ".positions", torch.empty(0, dtype=torch.uint8))
        gaps = torch.tensor(list(varints(held.numpy().tobytes())), dtype=torch.int64)
        positions = torch.cumsum(gaps + 1, 0) - 1
        values = flat.clone()
        values[positions] = adapter[name + ".values"] if len(positions) else values[positions]
        wrong += int(not torch.equal(positions, expected)) + int(
            not torch.equal(values, merged[name].flatten()))
        selected += len(positions)
    check("adapter: tensors that differ", wrong, 0)
    check("adapter: entries against its metadata", abs(selected - int(meta["sara.selected"])), 0)


def check_reader(sara, work):
    """examples/read_adapter.py on sara's adapter, and on the same with 16-bit values, against
    sara's own reading."""
    adapter = f"{work}/demo/adapter.safetensors"
    base = f"{BASE}/unet/diffusion_pytorch_model.safetensors"
    merged = load_file(f"{work}/merged-fp32/unet/diffusion_pytorch_model.safetensors")
    with safe_open(adapter, "pt") as f:
        meta = f.metadata()
    tensors = load_file(adapter)
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        path, out = f"{work}/adapter-{dtype}.safetensors", f"{work}/changed-{dtype}.safetensors"
        save_file({n: t.to(dtype) if n.endswith(".values") else t for n, t in tensors.items()},
                  path, meta)
        reader = os.path.join(TOP, "examples/read_adapter.py")
        done = subprocess.run([sys.executable, reader, path, base, out], capture_output=True,
                              text=True, check=True)
        rows = {line.split()[0]: line.split()[1:] for line in done.stdout.splitlines()}
        report = json.loads(run(sara, "inspect", "--adapter", path, "-m", BASE, "--json"))
        check(f"reader {dtype}: tensors", abs(len(rows) - report["tensors"]), 0)
        check(f"reader {dtype}: entries",
              abs(sum(int(row[0]) for row in rows.values()) - report["entries"]), 0)
        norm = sum(float(row[1]) ** 2 for row in rows.values()) ** 0.5
        check(f"reader {dtype}: norm of the change", abs(norm / report["change_norm"] - 1), 1e-4)
        changed, folder = load_file(out), f"{work}/merged-{dtype}"
        run(sara, "merge", "-m", BASE, "--adapter", path, "--dtype", "fp32", "-o", folder)
        theirs = load_file(f"{folder}/unet/diffusion_pytorch_model.safetensors")
        wrong = sum(not torch.equal(changed[n], theirs[n]) for n in theirs)
        check(f"reader {dtype}: tensors of the state dict that differ",
              wrong + abs(len(changed) - len(theirs)), 0)
        if dtype == torch.float32:
            check("reader: the demo's merged model",
                  sum(not torch.equal(changed[n], merged[n]) for n in merged), 0)


def check_reader_of_nothing(work):
    """An entry without positions."""
    path = f"{work}/adapter-empty.safetensors"
    save_file({"a.positions": torch.zeros(0, dtype=torch.uint8), "a.values": torch.zeros(0)}, path)
    out = run(sys.executable, os.path.join(TOP, "examples/read_adapter.py"), path)
    check("reader: an entry without positions", int(out.split() != ["a", "0"]), 0)


def check_hash(sara, work):
    """design of sara.base_sha256, computed from the safetensors file alone."""
    import hashlib
    digest = hashlib.sha256()
    tensors = load_file(f"{BASE}/unet/diffusion_pytorch_model.safetensors")
    for name in sorted(tensors, key=lambda n: n.encode()):
        t = tensors[name].float()
        digest.update(f"{name}\n{'x'.join(map(str, t.shape))}\n".encode())
        digest.update(t.contiguous().numpy().astype("<f4").tobytes())
    ours = json.loads(run(sara, "inspect", "-m", BASE, "--json"))["base_sha256"]
    check("base_sha256 differs", int(ours != digest.hexdigest()), 0)


def check_tokens(sara):
    from transformers import CLIPTokenizer
    tokenizer, rng = CLIPTokenizer.from_pretrained(f"{BASE}/tokenizer"), random.Random(5)
    texts = ["İstanbul ﬁne ΣΑΣ", "a  b\u3000c", "<|endoftext|> x"]
    texts.append("e\u0327\u0301 👩‍🚀 1234")
    ranges = ((32, 126), (0xA1, 0x2FF), (0x3040, 0x9FFF), (0x1F300, 0x1FAFF))
    letter = lambda: chr(rng.choice([rng.randint(*bounds) for bounds in ranges]))
    texts += ["".join(letter() for _ in range(rng.randint(1, 40))) for _ in range(20)]
    wrong = 0
    for text in texts:
        ours = json.loads(run(sara, "inspect", "-m", BASE, f"--tokenize={text}", "--json"))["ids"]
        wrong += ours != tokenizer(text, padding="max_length", truncation=True).input_ids
    check(f"tokens of {len(texts)} strings that differ", wrong, 0)


def check_inspect(sara):
    counts = json.loads(run(sara, "inspect", "-m", BASE, "--json"))
    tensors = load_file(f"{BASE}/unet/diffusion_pytorch_model.safetensors")
    flat = torch.cat([t.float().flatten().abs() for t in tensors.values()])
    check("inspect: parameters", abs(counts["components"][0]["parameters"] - flat.numel()), 0)
    for row in counts["thresholds"]:
        theirs = int((flat < torch.tensor(row["threshold"], dtype=torch.float32)).sum())
        check(f"inspect: entries below {row['threshold']:.6g}", abs(row["selected"] - theirs), 0)


def main():
    a = argparse.ArgumentParser()
    a.add_argument("--sara", required=True)
    a.add_argument("--work", required=True)
    a = a.parse_args()
    sara = os.path.abspath(a.sara)
    check_hash(sara, a.work)
    check_inspect(sara)
    check_tokens(sara)
    check_expected(a.work)
    check_merged(sara, a.work)
    check_adapter(a.work)
    check_reader(sara, a.work)
    check_reader_of_nothing(a.work)
    check_pytorch(sara, a.work)
    check_single_files(sara, a.work)
    check_sdxl(sara, a.work)
    check_sd3(sara, a.work)
    check_embeddings(sara, a.work)
    check_exports(lambda *args: run(sara, *args), check, BASE, f"{a.work}/demo/adapter.safetensors",
                  f"{a.work}/merged-fp32", a.work)
    check_loras(lambda *args: run(sara, *args), check, BASE,
                os.path.join(TOP, "examples/emoji/ink"), a.work)
    check_eval(lambda *args: run(sara, *args), a.work)
    check_tensorboard(lambda *args: run(sara, *args), check, BASE,
                      os.path.join(TOP, "examples/emoji/ink"), a.work)
    print("peers: all checks passed")


if __name__ == "__main__":
    main()
