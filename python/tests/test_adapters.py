"""Adapter files from PyTorch: applied, composed, taken off again, refused."""
import contextlib
import hashlib
import itertools
import json
import os
import pathlib
import struct
import tempfile
import unittest

import torch
from torch import nn

import sara
from sara import adapters


class Small(nn.Module):
    """All kinds of tensors, the scalar and the tied one among them; the norm has a frozen bias."""

    def __init__(self, seed=0):
        super().__init__()
        torch.manual_seed(seed)
        self.conv, self.norm = nn.Conv2d(3, 8, 3, padding=1), nn.GroupNorm(2, 8)
        self.table = nn.Embedding(10, 96)
        self.wide = nn.Linear(288, 96)
        self.head = nn.Linear(96, 10, bias=False)
        self.head.weight = self.table.weight
        self.gain = nn.Parameter(torch.tensor(0.001))
        self.norm.bias.requires_grad_(False)

    def forward(self, x, labels):
        x = torch.tanh(self.wide(torch.tanh(self.norm(self.conv(x))).flatten(1))
                       + self.table(labels))
        return self.head(x * 0.1) * (1 + self.gain)


class Thing3DTransformer(Small):
    pass


def trained(model, steps=3, data=0, **options):
    """The model after some steps, and its optimiser."""
    optimizer = sara.adamw(model, **{"fraction": 0.2, "lr": 1e-2, "lambda_rank": 0.01, **options})
    dtype = model.conv.weight.dtype
    for step in range(steps):
        g = torch.Generator().manual_seed(100 * data + step)
        x = torch.randn(4, 3, 6, 6, generator=g).to(dtype)
        labels = torch.randint(0, 10, (4,), generator=g)
        nn.functional.cross_entropy(model(x, labels).float(), labels).backward()
        optimizer.step()
        optimizer.zero_grad()
    return model, optimizer


def weights(model):
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def bits(tensor):
    return tensor.contiguous().view(-1).view({4: torch.int32,
                                              2: torch.int16}[tensor.element_size()])


def varint(value):
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes(out) + bytes([value])


def tensors_of(path):
    """name -> the tensor's bytes, and the metadata, by the safetensors format alone."""
    data = pathlib.Path(path).read_bytes()
    size = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8:8 + size])
    metadata = header.pop("__metadata__")
    return {name: data[8 + size + t["data_offsets"][0]:8 + size + t["data_offsets"][1]]
            for name, t in header.items()}, metadata


def decoded(data):
    positions, value, shift, at = [], 0, 0, -1
    for byte in data:
        value, shift = value | (byte & 127) << shift, shift + 7
        if byte < 128:
            at += value + 1
            positions.append(at)
            value = shift = 0
    return positions


def hashed(model):
    """sara.base_sha256 as docs/formats.md has it."""
    digest = hashlib.sha256()
    for name, p in sorted(model.named_parameters(), key=lambda pair: pair[0].encode()):
        digest.update(f"{name}\n{'x'.join(str(n) for n in p.shape)}\n".encode())
        digest.update(struct.pack(f"<{p.numel()}f", *p.detach().float().flatten().tolist()))
    return digest.hexdigest()


def write_file(path, parts, base, **metadata):
    """An adapter by the format's description: name -> {position: value}, without sara's code."""
    header = {"__metadata__": {"sara.format": "1", "sara.target": "unet", "sara.method": "sara",
                               "sara.base_sha256": base, **metadata}}
    data = b""
    for name, part in parts.items():
        values = struct.pack(f"<{len(part)}f", *part.values())
        gaps = [at - before - 1 for before, at in zip([-1, *part], part)]
        encoded = b"".join(map(varint, gaps))
        for suffix, kind, shape, more in (("values", "F32", len(part), values),
                                          ("positions", "U8", len(encoded), encoded)):
            header[f"{name}.{suffix}"] = {"dtype": kind, "shape": [shape],
                                          "data_offsets": [len(data), len(data) + len(more)]}
            data += more
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    pathlib.Path(path).write_bytes(struct.pack("<Q", len(text)) + text + data)


class Adapters(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = folder.name
        self.path = os.path.join(self.folder, "adapter.safetensors")

    def saved(self, name, base=Small, **options):
        path = os.path.join(self.folder, f"{name}.safetensors")
        trained(base(), **options)[1].save(path)
        return path

    def check_same(self, model, expected):
        now = weights(model)
        self.assertEqual(now.keys(), expected.keys())
        for name, value in expected.items():
            self.assertEqual(now[name].dtype, value.dtype)
            self.assertTrue(torch.equal(bits(now[name]), bits(value)), name)

    @contextlib.contextmanager
    def refused(self, kind, *words):
        with self.assertRaises(kind) as caught:
            yield
        for word in words:
            self.assertIn(word, str(caught.exception))

    # ---------------------------------------------------------------------------------------- files

    def test_trained_weights_again(self):
        for dtype in (torch.float32, torch.bfloat16, torch.float16):
            for progressive_iter in (0, 2):
                with self.subTest(dtype=dtype, progressive_iter=progressive_iter):
                    model, optimizer = trained(Small().to(dtype), steps=4,
                                               progressive_iter=progressive_iter)
                    optimizer.save(self.path)
                    fresh = Small().to(dtype)
                    self.assertFalse(torch.equal(fresh.conv.weight, model.conv.weight))
                    sara.apply(fresh, self.path)
                    self.check_same(fresh, weights(model))

    def test_file_by_its_description(self):
        model, optimizer = trained(Small(), steps=4, progressive_iter=2, lr=2e-2)
        frozen = sum(len(s["frozen_positions"]) for s in optimizer.state_dict()["state"].values())
        # entries that are no longer trained are in the file all the same
        self.assertGreater(frozen, 100)
        optimizer.save(self.path, metadata={"modelspec.title": "Ink"})
        base, (tensors, metadata) = Small(), tensors_of(self.path)
        threshold = torch.tensor(float(metadata["sara.threshold"]), dtype=torch.float32)
        selected = 0
        for name, p in base.named_parameters():
            positions = decoded(tensors.pop(f"{name}.positions", b""))
            values = struct.unpack(f"<{len(positions)}f", tensors.pop(f"{name}.values", b""))
            below = (p.detach().flatten().abs() < threshold).nonzero().flatten().tolist()
            expected = below if p.requires_grad else []
            self.assertEqual(positions, expected)
            trained_ones = weights(model)[name].flatten()[positions]
            self.assertTrue(torch.equal(torch.tensor(values), trained_ones), name)
            selected += len(positions)
        self.assertEqual(tensors, {})
        self.assertEqual(metadata["sara.selected"], str(selected))
        self.assertEqual(metadata["sara.base_sha256"], hashed(Small()))
        for key, value in (("format", "1"), ("target", "unet"), ("method", "sara"),
                           ("learning_rate", "0.02"), ("progressive_iter", "2"),
                           ("seed", "42"), ("max_grad_norm", "1")):
            self.assertIn(metadata[f"sara.{key}"], (value, f"{float(value):.17g}"
                                                    if value[0].isdigit() else value), key)
        self.assertEqual(metadata["modelspec.title"], "Ink")

    def test_rate_before_a_schedule(self):
        """As `sara train` states it: the rate that was given, not what a schedule has made of
        it."""
        model = Small()
        optimizer = sara.adamw(model, fraction=0.2, lr=2e-2)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.5 ** (step + 1))
        optimizer.step()
        schedule.step()
        self.assertEqual(optimizer.param_groups[0]["lr"], 5e-3)
        optimizer.save(self.path)
        self.assertEqual(float(tensors_of(self.path)[1]["sara.learning_rate"]), 2e-2)

    def test_numbers_of_the_run(self):
        numbers = dict(betas=(0.8, 0.9), eps=1e-6, weight_decay=0.25, max_grad_norm=0.5,
                       lambda_rank=0.125)
        sara.adamw(Small(), fraction=0.2, seed=7, **numbers).save(self.path)
        stated = {key: float(tensors_of(self.path)[1][f"sara.{key}"]) for key in (
            "adam_beta1", "adam_beta2", "adam_epsilon", "adam_weight_decay", "max_grad_norm",
            "lambda_rank", "seed")}
        self.assertEqual(list(stated.values()), [0.8, 0.9, 1e-6, 0.25, 0.5, 0.125, 7])

    def test_base_precision_is_the_first_that_holds_all(self):
        model = nn.Linear(80, 80, bias=False)
        for value, precision in ((0.5, "fp16"), (1 + 2 ** -10, "fp16"), (2.0 ** -30, "bf16"),
                                 (1 + 2 ** -20, "fp32")):
            nn.init.constant_(model.weight, value)
            sara.adamw(model, threshold=2, lr=1e-3).save(self.path)
            self.assertEqual(tensors_of(self.path)[1]["sara.base_precision"], precision, value)

    def test_equal_runs_equal_files(self):
        files = [pathlib.Path(self.saved(f"run{i}")).read_bytes() for i in range(2)]
        self.assertEqual(*files)
        self.assertNotEqual(files[0], pathlib.Path(self.saved("other", data=1)).read_bytes())

    def test_values_of_16_bits(self):
        model, optimizer = trained(Small())
        for dtype, kind in (("fp16", torch.float16), ("bf16", torch.bfloat16)):
            with self.subTest(dtype=dtype):
                optimizer.save(self.path, dtype=dtype)
                fresh, expected = Small(), weights(Small())
                for name, positions in sara.select(Small(), fraction=0.2).items():
                    values = weights(model)[name].flatten()[positions]
                    expected[name].view(-1)[positions] = values.to(kind).float()
                sara.apply(fresh, self.path)
                self.check_same(fresh, expected)
        with self.refused(ValueError, "fp8"):
            optimizer.save(self.path, dtype="fp8")

    def test_target(self):
        for model, options, target in ((Small(), {}, "unet"),
                                       (Thing3DTransformer(), {}, "transformer"),
                                       (Small(), {"target": "motion"}, "motion"),
                                       (torch.compile(Thing3DTransformer()), {}, "transformer")):
            sara.adamw(model).save(self.path, **options)
            self.assertEqual(tensors_of(self.path)[1]["sara.target"], target)

    def test_nowhere_to_save(self):
        optimizer, path = sara.adamw(Small()), os.path.join(self.folder, "missing", "a.safetensors")
        with self.refused(OSError, path):
            optimizer.save(path)
        self.assertEqual(os.listdir(self.folder), [])

    def test_pathlib(self):
        model, optimizer = trained(Small())
        optimizer.save(pathlib.Path(self.path))
        fresh = Small()
        sara.apply(fresh, pathlib.Path(self.path))
        self.check_same(fresh, weights(model))
        sara.remove(fresh)
        self.check_same(fresh, weights(Small()))

    # ------------------------------------------------------------------------- strengths, composing

    def test_strengths(self):
        for dtype in (torch.float32, torch.bfloat16, torch.float16):
            model, optimizer = trained(Small().to(dtype))
            optimizer.save(self.path)
            masters, _ = adapters.read(self.path)
            for strength in (0, 1, 0.6, -1.5, 3):
                with self.subTest(dtype=dtype, strength=strength):
                    fresh, expected = Small().to(dtype), weights(Small().to(dtype))
                    for name, (positions, values) in masters.items():
                        flat = expected[name].view(-1)
                        base = flat[positions.long()].double()
                        changed = values if strength == 1 else (base + strength
                                                                * (values.double() - base)).float()
                        flat[positions.long()] = changed.to(dtype)
                    sara.apply(fresh, self.path, strength)
                    self.check_same(fresh, expected)
                    sara.remove(fresh)
                    self.check_same(fresh, weights(Small().to(dtype)))
        for strength in (float("nan"), float("inf")):
            with self.refused(ValueError, self.path, str(strength)):
                sara.apply(fresh, self.path, strength)
        self.check_same(fresh, weights(Small().to(dtype)))

    def test_composed_in_any_order(self):
        a = self.saved("a")
        b = self.saved("b", data=1, fraction=0.1)
        c = self.saved("c", data=2, fraction=0.3)
        for dtype in (torch.float32, torch.bfloat16):
            layers = ((a, 0.6), (b, 1), (c, 0.6), (a, 0.3))
            results = []
            for order in itertools.permutations(layers):
                one, other = Small().to(dtype), Small().to(dtype)
                sara.compose(one, order, force=True)
                for path, strength in order:
                    sara.apply(other, path, strength, force=True)
                self.check_same(other, weights(one))
                results.append(weights(one))
                sara.remove(one)
                self.check_same(one, weights(Small().to(dtype)))
            for result in results[1:]:
                self.assertTrue(all(torch.equal(result[name], value)
                                    for name, value in results[0].items()))
            expected = {name: p.double() for name, p in weights(Small().to(dtype)).items()}
            for path, strength in layers:
                for name, (positions, values) in adapters.read(path)[0].items():
                    at = positions.long()
                    base = weights(Small().to(dtype))[name].view(-1)[at].double()
                    expected[name].view(-1)[at] += strength * (values.double() - base)
            for name, value in results[0].items():  # within the order of the sum
                self.assertTrue(torch.allclose(value.double(), expected[name].to(dtype).double(),
                                               rtol=torch.finfo(dtype).eps, atol=1e-12), name)

    def test_composed_by_a_mapping(self):
        a, b = self.saved("a"), self.saved("b", data=1)
        one, other = Small(), Small()
        sara.compose(one, {a: 0.5, b: 1.0})
        sara.compose(other, [(b, 1), (a, 0.5)])
        self.check_same(other, weights(one))
        sara.compose(other, [])
        self.check_same(other, weights(one))

    def test_nothing_changes_by_nothing(self):
        """What is too small to change a value leaves -0 as it is; so do changes that cancel out."""
        for dtype in (torch.float32, torch.float16, torch.bfloat16):
            fresh = Small().to(dtype)
            with torch.no_grad():
                fresh.gain.fill_(-0.0)
            before = weights(fresh)
            write_file(self.path, {"conv.weight": {3: 1.0}, "gain": {0: 1.0}}, hashed(fresh))
            for strengths in ((1e-300,), (1, -1)):
                sara.compose(fresh, [(self.path, strength) for strength in strengths])
                self.check_same(fresh, before)
                sara.remove(fresh)
            sara.apply(fresh, self.path)
            self.assertEqual(fresh.gain.item(), 1)

    def test_one_at_full_strength_beside_one_elsewhere(self):
        a = self.saved("a", include=["conv.*"])
        b = self.saved("b", include=["wide.*"])
        model = Small()
        sara.compose(model, [(a, 1), (b, 1)])
        for path in (a, b):
            for name, (positions, values) in adapters.read(path)[0].items():
                held = weights(model)[name].flatten()[positions.long()]
                self.assertTrue(torch.equal(held, values))

    def test_removed_and_merged(self):
        a, b, model = self.saved("a"), self.saved("b", data=1), Small()
        sara.remove(model)  # nothing is applied
        sara.apply(model, a)
        sara.apply(model, b, 0.5)
        both = weights(model)
        sara.merge(model)
        sara.remove(model)
        self.check_same(model, both)
        with self.refused(ValueError, a, hashed(model)[:12]):  # another model now
            sara.apply(model, a)
        self.check_same(model, both)
        other = Small()
        sara.apply(other, a)
        sara.merge(other, b, 0.5)
        self.check_same(other, both)
        sara.apply(other, a, force=True)
        sara.remove(other)
        self.check_same(other, both)

    def test_two_models_at_once(self):
        a, b, one, other = self.saved("a"), self.saved("b", data=1), Small(), Small()
        sara.apply(one, a)
        sara.apply(other, b)
        changed = weights(one)
        sara.remove(other)
        self.check_same(one, changed)
        self.check_same(other, weights(Small()))
        sara.remove(one)
        self.check_same(one, weights(Small()))

    def test_wrapped_by_compile(self):
        a, model = self.saved("a"), Small()
        sara.apply(torch.compile(model), a)
        changed = Small()
        sara.apply(changed, a)
        self.check_same(model, weights(changed))
        sara.remove(model)  # the same module
        self.check_same(model, weights(Small()))
        sara.apply(model, a)
        sara.remove(torch.compile(model))
        self.check_same(model, weights(Small()))
        sara.merge(torch.compile(model), a)
        sara.remove(model)
        self.check_same(model, weights(changed))

    def test_other_strides(self):
        def strided():
            model = Small().to(memory_format=torch.channels_last)
            model.wide.weight.data = model.wide.weight.data.t().contiguous().t()
            self.assertFalse(model.conv.weight.is_contiguous() or model.wide.weight.is_contiguous())
            return model
        for steps, base, other in ((3, strided, Small), (3, Small, strided)):
            model, optimizer = trained(base(), steps)
            optimizer.save(self.path)
            self.assertEqual(optimizer.base_sha256, hashed(Small()))
            for fresh in (base(), other()):
                strides = fresh.conv.weight.stride()
                sara.apply(fresh, self.path)
                self.check_same(fresh, weights(model))
                self.assertEqual(fresh.conv.weight.stride(), strides)
                sara.remove(fresh)
                self.check_same(fresh, weights(Small()))

    # -------------------------------------------------------------------------------------- refused

    def test_another_base(self):
        a, other = self.saved("a"), self.saved("other", base=lambda: Small(seed=1))
        model = Small()
        for before in ({}, {a: 0.5}):
            sara.compose(model, before)
            now = weights(model)
            with self.refused(ValueError, other, hashed(Small(1))[:12], hashed(Small())[:12],
                              "force=True"):
                sara.compose(model, [(a, 1), (other, 1)])
            self.check_same(model, now)  # nor was the first one applied
            with self.refused(ValueError, other):
                sara.merge(model, other)
            self.check_same(model, now)
        sara.remove(model)
        self.check_same(model, weights(Small()))
        sara.compose(model, [(a, 1), (other, 1)], force=True)
        self.assertFalse(torch.equal(model.conv.weight, Small().conv.weight))
        sara.remove(model)
        self.check_same(model, weights(Small()))

    def test_the_base_in_another_precision(self):
        """Named where the files tell it; what counts are the values, not the dtype that they are
        held in."""
        kinds = dict(fp32=Small, fp16=lambda: Small().half(), bf16=lambda: Small().bfloat16())
        files = {precision: self.saved(precision, base=base) for precision, base in kinds.items()}
        for precision, path in files.items():
            self.assertEqual(tensors_of(path)[1]["sara.base_precision"], precision)
            for other, base in kinds.items():
                if other != precision:
                    with self.refused(ValueError, path, f"that in {precision}, this in {other}",
                                      "even the same model", "force=True"):
                        sara.apply(base(), path)
                    sara.apply(base(), path, force=True)
            sara.apply(kinds[precision]().float(), path)
        again = sara.adamw(Small().half().float(), fraction=0.2)
        again.save(self.path)
        self.assertEqual(tensors_of(self.path)[1]["sara.base_precision"], "fp16")
        with self.assertRaises(ValueError) as caught:
            sara.apply(Small(1), files["fp32"])
        self.assertNotIn("precision", str(caught.exception))
        write_file(self.path, {"gain": {0: 1.0}}, hashed(Small()))
        with self.refused(ValueError, "that in a precision that it does not tell, this in fp16"):
            sara.apply(Small().half(), self.path)
        write_file(self.path, {"gain": {0: 1.0}}, hashed(Small()),
                   **{"sara.base_precision": "float"})
        with self.refused(ValueError, self.path, "sara.base_precision", "float"):
            sara.apply(Small(), self.path)

    def test_the_precision_is_the_first_ones(self):
        """It goes with the state; one of an earlier version does not tell it, and nor does the file
        then."""
        model, optimizer = trained(Small().half())
        state = optimizer.state_dict()
        self.assertEqual(state["sara"]["base_precision"], "fp16")
        for known in (True, False):
            again = sara.adamw(Small().half().float(), fraction=0.2)
            if not known:
                del state["sara"]["base_precision"]
            again.load_state_dict(state)
            again.save(self.path)
            self.assertEqual(tensors_of(self.path)[1].get("sara.base_precision"),
                             "fp16" if known else None)
            self.assertEqual(tensors_of(self.path)[1]["sara.base_sha256"], hashed(Small().half()))

    def test_names_and_positions(self):
        good, base = self.saved("a"), hashed(Small())
        for parts, words in (({"conv.weight": {0: 1.0}, "conv.wait": {0: 1.0}},
                              ["conv.wait", "no such parameter"]),
                             # tied: table.weight
                             ({"head.weight": {0: 1.0}}, ["head.weight", "no such parameter"]),
                             ({"conv.weight": {3: 1.0, 216: 1.0}}, ["conv.weight", "216"]),
                             ({"gain": {1: 1.0}}, ["gain", "position 1"]),
                             ({"conv.weight": {0: 1.0, 2 ** 31: 1.0}},
                              ["conv.weight", str(2 ** 31)]),
                             ({"conv.weight": {2 ** 32 - 1: 1.0}},
                              ["conv.weight", str(2 ** 32 - 1)]),
                             ({"conv.weight": {2 ** 32: 1.0}}, ["conv.weight"]),
                             ({"conv.weight": {2 ** 63: 1.0}}, ["conv.weight"])):
            for force in (False, True):
                with self.subTest(parts=parts, force=force):
                    write_file(self.path, parts, base)
                    model = Small()
                    with self.refused(ValueError, self.path, *words):
                        sara.compose(model, [(good, 1), (self.path, 1)], force=force)
                    self.check_same(model, weights(Small()))
        write_file(self.path, {"conv.weight": {0: -0.0, 215: 2.0}, "gain": {0: 0.5}},
                   base)  # and the same writer's good file is taken
        model, expected = Small(), weights(Small())
        expected["conv.weight"].view(-1)[0] = -0.0
        expected["conv.weight"].view(-1)[215] = 2
        expected["gain"][...] = 0.5
        sara.apply(model, self.path)
        self.check_same(model, expected)

    def test_damaged(self):
        good, base, model = pathlib.Path(self.saved("a")).read_bytes(), hashed(Small()), Small()
        header = struct.unpack("<Q", good[:8])[0]
        for name, data in (("empty", b""), ("cut", good[:-1]), ("longer", good + b"x"),
                           ("header", good[:20]), ("text", b"not an adapter"),
                           ("zip", b"PK\3\4" + good),
                           ("length", struct.pack("<Q", header - 1) + good[8:]),
                           ("json", good[:8] + b"x" + good[9:])):
            with self.subTest(name=name):
                pathlib.Path(self.path).write_bytes(data)
                with self.refused(ValueError, self.path):
                    sara.apply(model, self.path)
        for name, parts, metadata in (("not finite", {"conv.weight": {0: float("nan")}}, {}),
                                      ("infinite", {"gain": {0: float("inf")}}, {}),
                                      ("fewer than it says", {"gain": {0: 1.0}},
                                       {"sara.selected": "2"}),
                                      ("another version", {"gain": {0: 1.0}},
                                       {"sara.format": "2"})):
            with self.subTest(name=name):
                write_file(self.path, parts, base, **metadata)
                with self.refused(ValueError, self.path):
                    sara.apply(model, self.path)
        self.check_same(model, weights(Small()))

    def test_no_adapter(self):
        for path, kind in ((os.path.join(self.folder, "missing.safetensors"), OSError),
                           (self.folder, ValueError)):
            with self.refused(kind, path):
                sara.apply(Small(), path)
        from safetensors.torch import save_file
        for tensors in ({"lora_unet_conv.lora_down.weight": torch.zeros(4, 3),
                         "lora_unet_conv.alpha": torch.ones(1)}, weights(nn.Linear(2, 2))):
            save_file(tensors, self.path)
            with self.refused(ValueError, self.path):
                sara.apply(Small(), self.path)


if __name__ == "__main__":
    unittest.main()
