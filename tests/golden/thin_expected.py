"""Copies a family's expected/ files with a part of their tensors: all but the pictures after the
first of one file, of the others what the pipeline starts from and ends with.

    thin_expected.py FROM TO WHOLE      folders, and the name of the file that is kept
"""
import pathlib
import sys

from safetensors import safe_open
from safetensors.torch import save_file

source, to, whole = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]), sys.argv[3]
for path in sorted(source.glob("*.safetensors")):
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
        names = file.keys() if path.stem == whole else ["start", "latents"]
        kept = {name: file.get_tensor(name).clone() for name in names}
    if "image" in kept:
        kept["image"] = kept["image"][:1].clone()
    save_file(kept, to / path.name, metadata)
