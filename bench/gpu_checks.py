"""What has to hold on a device, for gpu_pytorch.py: the recorded steps, a step's operations and the
host's reads in it, resuming, and the package's tests of other people's loops."""
import copy
import json
import os
import subprocess
import sys
import warnings
from unittest import mock

import torch

TOP = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
TESTS, GOLDEN = os.path.join(TOP, "python/tests"), os.path.join(TOP, "tests/golden")
sys.path[:0] = [TESTS]

# Those that make their modules on the device that SARA_TEST_DEVICE names.
SUITES = ("test_written_weights", "test_clearing", "test_second_optimizers", "test_empty_steps",
          "test_caught_exceptions", "test_wrapping_optimizers")
# Of tests/train/test_replay.c: losses, gradient norms, rank losses, what the training changed.
BOUNDS = {"losses": 1e-5, "grad_norms": 1e-4, "rank_losses": 1e-4, "change": 2e-3}


def recorded_steps(kind, device):
    """The errors of ten steps against those recorded from the method's definition."""
    import diffusers
    import sara
    from safetensors import safe_open
    from safetensors.torch import load_file
    path = f"{GOLDEN}/train_{kind}.safetensors"
    data = {name: t.to(device) for name, t in load_file(path).items()}
    with safe_open(path, "pt") as file:
        meta = file.metadata()
    unet = diffusers.UNet2DConditionModel.from_pretrained(f"{GOLDEN}/unet_{kind}").to(device)
    start = {name: p.detach().double().clone() for name, p in unet.named_parameters()}
    number = {name: float(meta[name]) for name in ("threshold", "max_grad_norm", "lambda_rank")}
    optimizer = sara.adamw(
        unet, lr=float(meta["learning_rate"]), weight_decay=float(meta["adam_weight_decay"]),
        progressive_iter=int(meta["progressive_iter"]), rank_names=json.loads(meta["rank_names"]),
        **number)
    schedule = diffusers.optimization.get_scheduler(
        meta["lr_scheduler"], optimizer, num_warmup_steps=0,
        num_training_steps=len(data["latents"]))
    noises = diffusers.DDPMScheduler(beta_schedule="scaled_linear", beta_start=0.00085,
                                     beta_end=0.012, prediction_type=meta["prediction_type"])
    columns = {"losses": [], "grad_norms": [], "rank_losses": []}
    for x, noise, t, context in zip(*(data[name] for name in (
            "latents", "noise", "timesteps", "encoder_hidden_states"))):
        velocity = meta["prediction_type"] == "v_prediction"
        target = noises.get_velocity(x, noise, t) if velocity else noise
        predicted = unet(noises.add_noise(x, noise, t), t, context).sample
        loss = torch.nn.functional.mse_loss(predicted, target)
        loss.backward()
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        for name, value in zip(columns, (loss.item(), optimizer.last["grad_norm"],
                                         optimizer.last["rank_loss"])):
            columns[name].append(value)
    errors = {name: max(abs(a / b - 1) for a, b in zip(values, data[name].tolist()))
              for name, values in columns.items()}
    return {**errors, "change": _change_error(unet, start, data)}


def _change_error(unet, start, data):
    wrong, right = 0.0, 0.0
    for name, p in unet.named_parameters():
        expected = start[name].clone()
        expected.view(-1)[data[f"index.{name}"].long()] = data[f"after.{name}"].double()
        wrong += float((p.detach().double() - expected).square().sum())
        right += float((expected - start[name]).square().sum())
    return (wrong / right) ** 0.5


def counted_step(way, device):
    """Of a step after the first: operations, reads by the host, parameters that are trained. On a
    GPU a read in a step that is to have none is an error of torch's."""
    import sara
    from test_operations import READS, Counting, net
    model = net(4).to(device)
    optimizer = sara.adamw(model, threshold=0.01, lr=1e-3,
                           max_grad_norm=1.0 if way == "plain" else 0)
    scaler = torch.amp.GradScaler(device, init_scale=4.0, enabled=way == "scaled")
    counting, strict = Counting(), device != "cpu" and way != "plain"
    original = sara._update.step

    def counted(*arguments):  # without what GradScaler does before
        if strict and step > 0:
            torch.cuda.set_sync_debug_mode("error")
        try:
            with counting:
                original(*arguments)
        finally:
            if strict:
                torch.cuda.set_sync_debug_mode("default")
    for step in range(3):
        counting.counts.clear()
        scaler.scale(model(torch.ones(2, 5, 72, device=device)).square().sum()).backward()
        if way == "clipped":
            leaves = [leaf for group in optimizer.param_groups for leaf in group["params"]]
            torch.nn.utils.clip_grad_norm_(leaves, 1.0)
        with mock.patch.object(sara._update, "step", counted):
            scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
    counts = dict(counting.counts)
    moves = [counts.pop(f"aten::{name}", 0) for name in ("index_select", "index_put_")]
    return sum(counts.values()), sum(counts.get(name, 0) for name in READS), moves, len(
        optimizer.param_groups[0]["params"])


def resumes(device):
    """Whether a run that is resumed has the bits of one that is not."""
    from comparison import few, net, train, written
    runs = []
    for stop in (None, 3):
        model = net()
        optimizer = few(model, progressive_iter=4)
        for seed in range(6):
            if seed == stop:
                state = copy.deepcopy(optimizer.state_dict())
                model = net()
                optimizer = few(model, progressive_iter=4)
                optimizer.load_state_dict(state)
            train(model, optimizer, [seed])
        runs.append(written(model))
    return all(torch.equal(p, runs[1][name]) for name, p in runs[0].items())


def suite(name, device):
    """The last line of its tests."""
    done = subprocess.run([sys.executable, "-m", "unittest", name], cwd=TESTS, text=True,
                          env={**os.environ, "SARA_TEST_DEVICE": device}, stderr=subprocess.PIPE)
    if done.returncode:
        print(done.stderr, file=sys.stderr)
    return done.returncode == 0, done.stderr.strip().splitlines()[-1]


def all_checks(device):
    """(what, what was found, whether that is right), one after another."""
    from support import torch_path
    from test_operations import MOST
    os.environ["SARA_TEST_DEVICE"] = device
    for kind in ("sd1", "sd2"):
        for name, error in recorded_steps(kind, device).items():
            yield (f"ten recorded steps, {kind}: {name}", f"{error:.1e} (at most {BOUNDS[name]:g})",
                   error <= BOUNDS[name])
    for way, reads in (("plain", 1), ("clipped", 0), ("scaled", 0)):
        with torch_path():  # on a CPU, where libsara's kernels are no operations, torch's too
            found, read, moves, parameters = counted_step(way, device)
        yield (f"operations of a step, {way}", f"{found} (at most {MOST}), gathers and scatters "
               f"{moves} of {parameters} parameters",
               found <= MOST and max(moves) <= parameters + 1)
        yield f"reads by the host in a step, {way}", f"{read} (at most {reads})", read <= reads
    same = resumes(device)
    yield "a resumed run", "the same bits" if same else "other bits", same
    for name in SUITES:
        right, line = suite(name, device)
        yield name, line, right


def run(device):
    """A row for each check; one that raises has failed, and so have those after it."""
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    warnings.simplefilter("ignore")
    rows = []
    try:
        for what, found, right in all_checks(device):
            rows.append((what, found, bool(right)))
            print("ok  " if right else "FAIL", what, found, file=sys.stderr, flush=True)
    except Exception as error:
        rows.append((f"after {rows[-1][0] if rows else 'nothing'}",
                     f"{type(error).__name__}: {error}".splitlines()[0], False))
        print("FAIL", *rows[-1][:2], file=sys.stderr, flush=True)
    return rows
