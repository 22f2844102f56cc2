"""Functions that run in several processes (gloo), and their results compared. One that hangs fails
by its time limit."""
import datetime
import glob
import multiprocessing
import os
import pathlib
import shutil
import tempfile
import time
import traceback

import torch
import torch.distributed as dist

LIMIT = 150   # seconds for the processes together, most of a second of which is used
CLOSE = 1e-5  # of the change: one process sums its gradients in another order

# Children of a server that has imported torch: a pair of them starts in no time.
processes = multiprocessing.get_context("forkserver")
# the first is what an optimiser imports when it is made
processes.set_forkserver_preload(["torch._dynamo", "torch.distributed", "sara"])


def _child(rank, world, folder, body, options):
    try:
        torch.set_num_threads(1)
        os.environ["GLOO_SOCKET_IFNAME"] = "lo"
        dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank,
                                world_size=world, timeout=datetime.timedelta(seconds=LIMIT / 3))
        torch.save(body(rank, world, **options), f"{folder}/result-{rank}")
        dist.destroy_process_group()
    except BaseException:
        with open(f"{folder}/error-{rank}", "w") as f:
            traceback.print_exc(file=f)
        os._exit(1)


def run(world, body, **options):
    """body(rank, world, ...) in as many processes; what each returned."""
    folder = tempfile.mkdtemp()
    children = [processes.Process(target=_child, args=(rank, world, folder, body, options),
                                  daemon=True) for rank in range(world)]
    try:
        for child in children:
            child.start()
        end = time.monotonic() + LIMIT
        for child in children:
            child.join(max(0.0, end - time.monotonic()))
        hung = [rank for rank, child in enumerate(children) if child.is_alive()]
        errors = [pathlib.Path(path).read_text() for path in sorted(glob.glob(f"{folder}/error-*"))]
        if hung or errors or any(child.exitcode for child in children):
            codes = [child.exitcode for child in children]
            raise AssertionError("\n".join([f"hung: {hung}, exit codes {codes}", *errors]))
        return [torch.load(f"{folder}/result-{rank}", weights_only=False) for rank in range(world)]
    finally:
        for child in children:
            if child.is_alive():
                child.kill()
        shutil.rmtree(folder)


def same(a, b):
    """Equal to the bit, through dicts and lists."""
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and a.shape == b.shape and torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b
