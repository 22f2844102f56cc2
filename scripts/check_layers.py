#!/usr/bin/env python3
"""Checks that the layers' arrows point downwards only, that libraries stay in the files they belong
to, that a layer's inner headers are its own, and that only the command line prints or exits:
scripts/check_layers.py"""
import os
import re
import sys

TOP = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
LAYERS = {  # folder: the folders it may include from
    "core": [],
    "io": ["core"],
    "nn": ["core"],
    "sparse": ["core", "io", "nn"],
    "tensors": ["core", "io", "nn", "sparse"],
    "models": ["core", "io", "nn"],
    "diffusion": ["core", "io", "nn"],
    "pipeline": ["core", "io", "nn", "sparse", "models", "diffusion"],
    "report": ["core", "io"],
    "data": ["core", "io"],
    "train": ["core", "io", "data", "nn", "sparse", "models", "diffusion", "pipeline", "report"],
    "check": ["core", "io", "data", "models", "pipeline", "report", "train"],
    "eval": ["core", "io", "nn", "sparse", "models", "diffusion", "pipeline", "report"],
    "compare": ["core", "io", "pipeline", "report", "train", "eval"],
    "cli": [],
}
# Headers that other layers may include, beside a layer's own name (core/core.h).
OUTER = {"core/device.h", "core/number.h", "core/pool.h", "core/tape.h", "core/trace.h",
         "models/clip.h", "models/inception.h", "models/mmdit.h", "models/network.h",
         "models/single_file.h", "models/t5.h", "models/unet.h", "models/unicode.h",
         "models/vae.h", "models/vit.h", "nn/kernels.h", "nn/simd/simd.h", "nn/update.h",
         "pipeline/adapter_kind.h", "pipeline/family.h", "pipeline/lora.h",
         "pipeline/lora_write.h", "sparse/adamw.h", "sparse/bottleneck.h",
         "sparse/lora.h", "sparse/magnitude.h"}
LIBRARIES = {  # header: the only files that may include it
    r"oneapi/dnnl|^dnnl": r"src/(nn/onednn/|sparse/\w*onednn)\w*\.[ch]$",
    r"^cuda|^cublas|^cudnn": r"_cuda\.cu$",
    r"^png\.h": r"src/io/image_(png|save)\.c$",
    r"^jpeglib\.h": r"src/io/image_(jpeg|thumbnail)\.c$",
    r"^webp/": r"src/io/image_webp\.c$",
    r"^utf8proc\.h": r"src/(models/tokenizer/|io/|report/)\w*\.[ch]$",
    r"^openssl/": r"src/(io/sha256|report/picture)\.c$",
    r"^lapacke\.h": r"src/(sparse|eval)/\w+\.c$",
    r"^spawn\.h": r"src/compare/process\.c$",
    r"^toml\+\+/": r"src/data/toml\.cc$",
    r"^jansson\.h": r"src/(io/\w+|cli/\w+)\.[ch]$",
}
BANNED = r"\b(printf|puts|exit|abort|malloc|calloc|realloc)\s*\("  # outside cli/


def includes(text):
    return re.findall(r'^\s*#\s*include\s*[<"]([^>"]+)[>"]', text, re.M)


def check(path, text):
    layer = path.split("/")[1]
    faults = []
    for name in includes(text):
        folder = name.split("/")[0]
        if "/" in name and folder in LAYERS and folder != layer and folder not in LAYERS[layer]:
            faults.append(f"{path}: includes {name}: {layer} must not know {folder}")
        elif "/" in name and folder in LAYERS and folder != layer and name not in OUTER \
                and name != f"{folder}/{folder}.h":
            faults.append(f"{path}: includes {name}, which is {folder}'s own")
        for header, files in LIBRARIES.items():
            if re.search(header, name) and not re.search(files, path):
                faults.append(f"{path}: includes {name}, which belongs in {files}")
    if layer != "cli":
        code = re.sub(r'//.*|/\*.*?\*/|"(?:\\.|[^"\\])*"', "", text, flags=re.S)
        for match in re.finditer(BANNED, code):
            if not (path == "src/core/context.c" and match.group(1) == "malloc"):
                faults.append(f"{path}: calls {match.group(1)}()")
    return faults


def main():
    faults, files = [], 0
    for folder, _, names in os.walk(os.path.join(TOP, "src")):
        for name in sorted(names):
            if name.endswith((".c", ".h", ".cu")):
                path = os.path.relpath(os.path.join(folder, name), TOP)
                with open(os.path.join(TOP, path), encoding="utf-8") as f:
                    faults += check(path, f.read())
                files += 1
    print("\n".join(faults) if faults else f"layers: {files} files, arrows point downwards")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
