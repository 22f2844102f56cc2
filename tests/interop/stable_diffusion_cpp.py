"""stable-diffusion.cpp as a client of sara's single files and exports; run by hand,
docs/reliability.md tells what was seen.

    pip install stable-diffusion-cpp-python          # builds it from source, minutes
    python tests/interop/stable_diffusion_cpp.py SARA MODEL_FOLDER WORK_FOLDER [ADAPTER [LORA]]

MODEL_FOLDER: a diffusers folder of full size, random weights will do (`python bench/peer_step.py
save` and `save-pipeline` make one of SD1.5). Fails unless the library takes every tensor of the
file and draws an image from it that is not of one colour. ADAPTER: of it; the images of its exports
of whole changes are compared with that of the merged model's file, and how many tensors were taken
is told. LORA: likewise, sara's own LoRA file as it is.
"""
import ast
import os
import re
import shutil
import subprocess
import sys

CLIENT = """
import sys
from stable_diffusion_cpp import StableDiffusion
file, lora, picture = sys.argv[1:]
model = StableDiffusion(model_path=file, lora_model_dir=".", verbose=True)
prompt = "a red barn" + (f"<lora:{lora}:1>" if lora else "")
image = model.generate_image(prompt, width=128, height=128, sample_steps=2, seed=1, cfg_scale=4,
                             sample_method="euler")[0]
image.save(picture)
print("extrema", image.getextrema())
"""
# Words of its log about tensors that it misses or does not know.
COMPLAINTS = re.compile(
    r"(unknown tensor|not in model file|unused|missing|failed to load|wrong shape).*", re.I)
# SD3's first projection is the identity there.
KNOWN = "text_encoders.clip_l.transformer.text_model.text_projection"
TAKEN = re.compile(r"\((\d+) / (\d+)\) LoRA tensors have been applied")


def fail(text):
    sys.exit(f"FAIL {text}")


def make(sara, *args, path):
    """False: sara has no such export of the model."""
    if not os.path.exists(path):
        done = subprocess.run([sara, *args, "-o", path], capture_output=True, text=True)
        if done.returncode == 2 and "format a1111: A1111 takes no" in done.stderr:
            print(f"ok: refused: {done.stderr.strip()}")
            return False
        if done.returncode:
            fail(f"sara {' '.join(args)}: {done.stderr}")
        print(done.stdout.strip())
    return True


def draw(work, file, lora=""):
    """The picture's path; prints what the library said of tensors."""
    name = f"{file}-{lora}" if lora else file
    picture = os.path.join(work, f"{name}.png")
    done = subprocess.run([sys.executable, "-c", CLIENT, f"{file}.safetensors", lora, picture],
                          capture_output=True, text=True, cwd=work)
    log = done.stdout + done.stderr
    with open(os.path.join(work, f"{name}.log"), "w") as out:
        out.write(log)
    if done.returncode:
        fail(f"{name}: the client ended with {done.returncode}: {log[-800:]}")
    complaints = sorted({found.group(0) for found in COMPLAINTS.finditer(log)
                         if KNOWN not in found.group(0)})
    taken = TAKEN.search(log)
    print(f"{name}: {len(complaints)} complaints {complaints[:4]}"
          + (f"; {taken[1]} of {taken[2]} tensors taken" if taken else ""))
    if complaints and not lora or lora and not taken:
        fail(f"{name}: tensors were not taken; see {name}.log")
    extrema = re.search(r"extrema (.*)", log).group(1)
    if all(low == high for low, high in ast.literal_eval(extrema)[:3]):
        fail(f"{name}: the image is of one colour: {extrema}")
    return picture


def distance(a, b):
    """Root of the mean square, of 255."""
    import numpy as np
    from PIL import Image
    x, y = (np.asarray(Image.open(path).convert("RGB"), dtype=np.float64) for path in (a, b))
    return float(np.sqrt(np.mean((x - y) ** 2)))


def compare(sara, folder, work, adapter, plain, loras):
    """The merged model's image with those of the base and LoRA files, which are made in between."""
    path = os.path.join(work, "merged.safetensors")
    make(sara, "merge", "-m", folder, "--adapter", adapter, "--dtype", "fp16", path=path)
    merged = draw(work, "merged")
    os.remove(path)
    print(f"merged: {distance(merged, plain):.2f} from the base")
    for name, ready in loras:
        file = os.path.join(work, f"{name}.safetensors")
        if ready:
            shutil.copy(ready, file)
        elif not make(sara, "export", adapter, "-m", folder, "--format", name, path=file):
            continue
        picture = draw(work, "single", name)
        print(f"{name}: {distance(picture, plain):.2f} from the base, "
              f"{distance(picture, merged):.2f} from the merged model")
        os.remove(file)


def main():
    sara, folder, work, *adapters = sys.argv[1:]
    make(sara, "merge", "-m", folder, "--dtype", "fp16",
         path=os.path.join(work, "single.safetensors"))
    plain = draw(work, "single")
    print(f"ok: every tensor was taken; image {plain}")
    if adapters:
        compare(sara, folder, work, adapters[0], plain, [("a1111", None), ("comfyui", None)])
    if len(adapters) > 1:
        compare(sara, folder, work, adapters[1], plain, [("lora", adapters[1])])


if __name__ == "__main__":
    main()
