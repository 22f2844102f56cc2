"""What sara.adamw saves as an adapter."""
import os
import pathlib
import struct
import unittest

import torch
from torch import nn

import sara
from adapter_files import (AdapterCase, Small, Thing3DTransformer, decoded, hashed, tensors_of,
                           trained, weights)


class Saving(AdapterCase):
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


if __name__ == "__main__":
    unittest.main()
