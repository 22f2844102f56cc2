"""stable-diffusion.cpp as a client of the single file that sara writes; run by hand,
docs/reliability.md tells what was seen.

    pip install stable-diffusion-cpp-python          # builds it from source, minutes
    python tests/interop/stable_diffusion_cpp.py SARA MODEL_FOLDER WORK_FOLDER

MODEL_FOLDER: an SD1.5 or SD2.1 as a diffusers folder, random weights will do (`python
bench/peer_step.py save` and `save-pipeline` make one). Fails unless the library takes every tensor
of the file and draws an image from it that is not of one colour.
"""
import ast
import os
import re
import subprocess
import sys

CLIENT = """
import sys
from stable_diffusion_cpp import StableDiffusion
model = StableDiffusion(model_path=sys.argv[1], verbose=True)
image = model.generate_image("a red barn", width=256, height=256, sample_steps=2, seed=1)[0]
image.save(sys.argv[2])
print("extrema", image.getextrema())
"""
# Words of its log about tensors that it misses or does not know.
COMPLAINTS = re.compile(
    r"(unknown tensor|not in model file|unused tensor|missing|failed to load|wrong shape).*", re.I)


def fail(text):
    sys.exit(f"FAIL {text}")


def main():
    sara, folder, work = sys.argv[1:]
    single, picture = os.path.join(work, "single.safetensors"), os.path.join(work, "client.png")
    if not os.path.exists(single):
        subprocess.run([sara, "merge", "-m", folder, "--dtype", "fp16", "-o", single], check=True)
    done = subprocess.run([sys.executable, "-c", CLIENT, single, picture], capture_output=True,
                          text=True)
    log = done.stdout + done.stderr
    with open(os.path.join(work, "client.log"), "w") as file:
        file.write(log)
    if done.returncode:
        fail(f"the client ended with {done.returncode}: {log[-800:]}")
    complaints = sorted({found.group(0) for found in COMPLAINTS.finditer(log)})
    if complaints:
        fail(f"{len(complaints)} complaints, the first: {complaints[:5]}")
    extrema = re.search(r"extrema (.*)", log).group(1)
    if all(low == high for low, high in ast.literal_eval(extrema)[:3]):
        fail(f"the image is of one colour: {extrema}")
    print(f"ok: every tensor was taken; image {picture}, extrema {extrema}")


if __name__ == "__main__":
    main()
