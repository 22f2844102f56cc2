"""Every refusal names the parameter or the option and what was expected, and leaves the model as it
was."""
import unittest

import torch
from torch import nn

import sara
from support import THRESHOLD, Net, TestCase, batch, loss_of, snapshot, train, weights


class Refusals(TestCase):
    def refuse(self, line, model=None, **options):
        model = Net() if model is None else model
        parts = model if isinstance(model, nn.Module) else None
        before = {name: (p.requires_grad, p.detach().clone())
                  for name, p in parts.named_parameters()} if parts else {}
        with self.subTest(line, **{k: str(v) for k, v in options.items()}):
            with self.assertRaisesRegex(ValueError, line) as caught:
                sara.adamw(model, **options)
            self.assertNotIn("\n", str(caught.exception))
            for name, (asks, value) in before.items():
                p = dict(parts.named_parameters())[name]
                self.assertEqual(p.requires_grad, asks, name)
                self.assertTrue(torch.equal(p.nan_to_num(), value.nan_to_num()))

    def test_budgets(self):
        self.refuse("threshold=0.01 and fraction=0.1: expected one of them", threshold=0.01,
                    fraction=0.1)
        self.refuse("fraction=0.1 and count=5", fraction=0.1, count=5)
        for value in (0, -1, float("nan"), float("inf")):
            self.refuse("threshold: .*expected a finite number above 0", threshold=value)
        for value in (0, -0.1, 1.5):
            self.refuse("expected more than 0 and at most 1", fraction=value)
        for value in (0, 2.5):
            self.refuse("expected a whole number of at least 1", count=value)
        self.refuse("selects nothing", threshold=1e-30, include="to_q.*")

    def test_options(self):
        for name, bad in (("lr", -1e-3), ("lr", float("nan")), ("lr", float("inf")), ("eps", -1e-8),
                          ("eps", 0.0), ("weight_decay", -1), ("max_grad_norm", -1),
                          ("max_grad_norm", float("nan")), ("max_grad_norm", float("inf")),
                          ("lambda_rank", -1e-4), ("lambda_rank", float("nan")),
                          ("progressive_iter", -2)):
            self.refuse(f"{name}={bad}, expected", threshold=THRESHOLD, **{name: bad})
        self.refuse(r"betas\[0\]=1.0, expected at least 0 and less than 1", threshold=THRESHOLD,
                    betas=(1.0, 0.9))
        self.refuse(r"betas\[1\]=-0.5", threshold=THRESHOLD, betas=(0.9, -0.5))
        self.refuse("progressive_iter=3 and total_steps=8: expected one of them",
                    threshold=THRESHOLD, progressive_iter=3, total_steps=8)

    def test_a_learning_rate_that_the_formula_does_not_give(self):
        """1e-3 exp(-350 threshold) of a large threshold is zero: nothing would be trained, and
        nobody told."""
        for options in (dict(threshold=0.5), dict(fraction=1), dict(threshold=0.07)):
            self.refuse("lr is missing: the formula gives .* for a threshold of", **options)
        sara.adamw(Net(), fraction=1, lr=1e-3)

    def test_models(self):
        self.refuse("without names", model=list(Net().parameters()), threshold=THRESHOLD)
        self.refuse("without names", model=Net().parameters(), threshold=THRESHOLD)
        self.refuse("without names", model=[{"params": list(Net().parameters())}],
                    threshold=THRESHOLD)
        self.refuse("weight: two parameters of this name",
                    model=[("weight", nn.Parameter(torch.ones(2))),
                           ("weight", nn.Parameter(torch.ones(2)))])
        self.refuse("nothing to train", model=Net().requires_grad_(False), threshold=THRESHOLD)
        self.refuse("nothing to train", model=nn.Identity(), threshold=THRESHOLD)
        self.refuse("second.weight: Tensor of 9 entries, torch.float64; expected .*float32, "
                    "float16 or bfloat16",
                    model=nn.ModuleDict({"first": nn.Linear(3, 3),
                                         "second": nn.Linear(3, 3).double()}), threshold=THRESHOLD)
        broken = Net()
        with torch.no_grad():
            broken.to_q.weight[3, 4] = float("nan")
        self.refuse("to_q.weight: entry 220 is NaN", model=broken, threshold=THRESHOLD)

    def test_patterns(self):
        self.refuse("include='attn.*' matches none of the 18 parameters", threshold=THRESHOLD,
                    include="attn.*")
        self.refuse("exclude='attn.*' matches none", threshold=THRESHOLD,
                    exclude=["to_q.*", "attn.*"])
        self.refuse("nothing to train", threshold=THRESHOLD, include="to_q.*", exclude="to_*")

    def test_groups(self):
        model = Net()
        conv, to_q = ("conv.weight", model.conv.weight), ("to_q.weight", model.to_q.weight)
        self.refuse("group option 'momentum', expected params, threshold",
                    model=[{"params": [conv], "momentum": 0.9}])
        self.refuse("conv.weight: in two groups", model=[{"params": [conv, to_q]},
                                                         {"params": [conv]}], threshold=0.1,
                    lr=1e-3)
        self.refuse("head.weight: in two groups",
                    model=[{"params": [("embed.weight", model.embed.weight)]},
                           {"params": [("head.weight", model.head.weight)]}],
                    threshold=THRESHOLD)
        self.refuse("threshold=0.1 and count=3", model=[{"params": [conv], "threshold": 0.1,
                                                         "count": 3}])
        optimizer = sara.adamw(model, THRESHOLD)
        with self.assertRaisesRegex(ValueError, "give all groups to the constructor"):
            optimizer.add_param_group({"params": [torch.zeros(2, requires_grad=True)]})

    def test_names_of_matrices(self):
        for name in ("elsewhere", "conv.weight", "frozen.weight"):
            self.refuse(f"rank_names: {name}: no trained matrix", threshold=THRESHOLD,
                        rank_names=["", name])
        model = Net()
        optimizer = sara.adamw(model, THRESHOLD, rank_names=["to_q.weight"])
        train(model, optimizer, 1)
        loss_of(model, batch(1)).backward()
        before = snapshot(model, optimizer)
        with self.assertRaisesRegex(ValueError, "rank_names: 1 names, but this is step 2"):
            optimizer.step()
        self.assertEqual(snapshot(model, optimizer), before)  # nothing was changed


class Nothing(TestCase):
    """What is no error."""

    def test_a_step_before_any_backward(self):
        """Every gradient is zero: weight decay alone, as for parameters without gradient."""
        model = Net()
        start = weights(model)
        optimizer = sara.adamw(model, THRESHOLD, lr=1e-2, weight_decay=0, lambda_rank=0)
        optimizer.step()
        self.assertEqual(optimizer.last["grad_norm"], 0)
        for name, p in model.named_parameters():
            self.assertTrue(torch.equal(p, start[name]), name)

    def test_parameters_of_no_entries(self):
        model = Net()
        model.empty = nn.Parameter(torch.zeros(0, 5))
        optimizer = sara.adamw(model, THRESHOLD)
        train(model, optimizer, 2)
        self.assertFalse(model.empty.requires_grad)

    def test_failures_of_the_library_are_exceptions(self):
        """Each status has its own; a message of several lines has no place."""
        from sara import _library
        with self.assertRaisesRegex(ValueError, "dtype F8"):
            gradient, position = torch.zeros(1), torch.zeros(1, dtype=torch.int32)
            item = (*_library.view("w", gradient, "F8"), position.data_ptr(), 1,
                    gradient.data_ptr(), 0)
            _library.call("sara_tensors_gather", _library.structures(*item), 1)
        with self.assertRaises(OSError):
            sara.apply(Net(), "/nowhere/adapter.safetensors")


if __name__ == "__main__":
    unittest.main()
