"""What `sara eval` measures with InceptionV3 against torch-fidelity and clean-fid, on the emoji's
pictures and with random weights, which go through scripts/convert_inception.py; called by check.py.
"""
import json
import os
import shutil
import subprocess
import sys

import numpy as np
import torch

from checks import TOP, check

sys.path.insert(0, os.path.join(TOP, "tests/eval"))
from inception_weights import extractor  # noqa: E402

FOLDERS, COUNT = ("ink-reference", "noto-reference"), 8
RELATIVE = 1e-5


def some_pictures(work):
    """Folders with the first of the emoji's."""
    folders = [f"{work}/{name}" for name in FOLDERS]
    for name, folder in zip(FOLDERS, folders):
        os.makedirs(folder, exist_ok=True)
        source = f"{TOP}/examples/emoji/{name}"
        for picture in sorted(n for n in os.listdir(source) if n.endswith(".png"))[:COUNT]:
            shutil.copy(f"{source}/{picture}", folder)
    return folders


def convert(state, work):
    """inception.pth and what becomes of it; a file that lacks a tensor is refused by its name, and
    torchvision's by its classifier."""
    script, source = f"{TOP}/scripts/convert_inception.py", f"{work}/inception.pth"
    target, name = f"{work}/inception.safetensors", "Mixed_6c.branch7x7_2.bn.running_var"
    for wrong, told in (({key: value for key, value in state.items() if key != name}, name),
                        ({**state, "fc.bias": torch.zeros(1000)}, "torchvision's weights")):
        torch.save(wrong, source)
        done = subprocess.run([sys.executable, script, source, target], capture_output=True,
                              text=True)
        check(f"eval: a wrong file is refused ({told})",
              int(told not in done.stderr or done.returncode == 0 or os.path.exists(target)), 0)
    torch.save(state, source)
    subprocess.run([sys.executable, script, source, target], check=True)
    return source, target


def torch_fidelity(folders, weights):
    """FID, and KID of one subset of all pictures."""
    import torch_fidelity as package
    values = package.calculate_metrics(
        input1=folders[0], input2=folders[1], cuda=False, fid=True, kid=True, verbose=False,
        kid_subset_size=COUNT, kid_subsets=1, batch_size=8, cache=False, save_cpu_ram=True,
        feature_extractor_weights_path=weights, samples_find_deep=False)
    return values["frechet_inception_distance"], values["kernel_inception_distance_mean"]


def clean_fid(folders, net):
    """As clean-fid runs its TorchScript file: the same network, on what its resizer gives."""
    from cleanfid import fid

    def features(x):
        x = (x - 128) / 128
        for name, layer in net.named_children():
            x = layer(x) if name != "fc" else x
        return x.flatten(1)

    sets = [fid.get_folder_features(folder, features, num_workers=0, mode="clean", batch_size=8,
                                    device=torch.device("cpu"), verbose=False)
            for folder in folders]
    return fid.fid_from_feats(*sets), kid(*sets)


def kid(a, b):
    """Of all pictures, as clean-fid's kernel_distance() has it, which draws subsets."""
    a, b = a.astype(np.float64), b.astype(np.float64)
    n, kernels = len(a), [(x @ y.T / x.shape[1] + 1) ** 3 for x, y in ((a, a), (b, b), (a, b))]
    within = sum(k.sum() - np.trace(k) for k in kernels[:2])
    return within / (n * (n - 1)) - 2 * kernels[2].mean()


def check_eval(run, work):
    """run: sara with arguments."""
    work = f"{work}/eval"
    os.makedirs(work, exist_ok=True)
    folders, net = some_pictures(work), extractor()
    source, target = convert(net.state_dict(), work)
    for convention, theirs in (("torch-fidelity", torch_fidelity(folders, source)),
                               ("clean", clean_fid(folders, net))):
        ours = json.loads(run("eval", "--images", folders[0], "--references", folders[1],
                              "--inception", target, "--fid", convention, "--json"))
        for measure, key, expected in (("fid", "value", theirs[0]), ("kid", "mean", theirs[1])):
            figure = ours[measure]
            check(f"eval: {measure} ({convention})", abs(figure[key] - expected) / abs(expected),
                  RELATIVE)
            check(f"eval: {measure} is told to be {convention}",
                  int(figure["convention"] != convention), 0)
