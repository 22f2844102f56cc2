"""Which entries are trained: budgets, patterns, groups; sara.select and sara.report."""
import math
import unittest

import torch
from torch import nn

import reference
import sara
from sara import selection
from support import THRESHOLD, Net, TestCase, batch, leaves, loss_of, relative, train, weights

DTYPES = (torch.float32, torch.float16, torch.bfloat16)
PATHS = {"libsara": selection.positions_below}


def trainable(model):
    return {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}


class Budgets(TestCase):
    def check(self, tensors, kind, value, threshold):
        masks = reference.select(tensors, threshold)
        for name, function in PATHS.items():
            with self.subTest(kernel=name, kind=kind, value=value):
                if not any(m.any() for m in masks.values()):
                    with self.assertRaisesRegex(ValueError, "selects nothing"):
                        function(tensors, kind, value)
                    continue
                resolved, positions = function(tensors, kind, value)
                self.assertEqual(resolved, threshold)
                self.assertEqual(set(positions), set(tensors))
                for key, mask in masks.items():
                    self.assertEqual(positions[key].dtype, torch.int32)
                    self.assertTrue(torch.equal(positions[key].long(),
                                                mask.reshape(-1).nonzero().view(-1)), key)

    def test_against_the_reference(self):
        """All three kinds; 16-bit weights have ties, which are left out."""
        for dtype in DTYPES:
            for seed in range(2):
                tensors = trainable(Net(seed).to(dtype).to(memory_format=torch.channels_last))
                total = sum(t.numel() for t in tensors.values())
                for threshold in (1e-5, 2e-3, THRESHOLD, 0.5, 1e6):
                    self.check(tensors, "threshold", threshold, threshold)
                for count in (1, 77, 500, 5000, total - 1, total, 10 * total):
                    self.check(tensors, "count", count,
                               reference.threshold_for_count(tensors, count))
                for fraction in (1e-4, 0.006, 0.058, 0.5, 1):
                    self.check(tensors, "fraction", fraction,
                               reference.threshold_for_fraction(tensors, fraction))

    def test_ties_zeros_and_tiny_numbers(self):
        values = torch.tensor([0.0, -0.0, 1e-45, -1e-45, 1e-38, -1e-38, 2.0, -2.0, 2.0, 3.0,
                               65504.0, 3e38])
        for count in range(1, 14):
            self.check({"a": values}, "count", count,
                       reference.threshold_for_count({"a": values}, count))
        generator = torch.Generator().manual_seed(0)
        for trial in range(30):
            tensors = {}
            for i in range(3):
                values = torch.randn(37 + i, generator=generator).mul(10.0 ** (i - 4))
                tensors[str(i)] = values.to(DTYPES[trial % 3])
            count = int(torch.randint(1, 115, (), generator=generator))
            self.check(tensors, "count", count, reference.threshold_for_count(tensors, count))

    def test_halves_round_to_even(self):
        """round(2.5) entries are 2, round(3.5) are 4."""
        for fraction in (0.5, 0.7):
            tensors = {"a": torch.tensor([5.0, 1, 3, 2, 4])}
            self.check(tensors, "fraction", fraction,
                       reference.threshold_for_fraction(tensors, fraction))

    def test_strictly_below_in_float32(self):
        """0.1 in double lies below 0.1 in float32."""
        for function in PATHS.values():
            values = torch.tensor([0.1, -0.1, 0.09999999, -0.09999999, 0.1000001])
            self.assertEqual(function({"a": values}, "threshold", 0.1)[1]["a"].tolist(), [2, 3])
            halves = torch.tensor([0.1]).bfloat16()  # 0.10009765625
            self.assertEqual(function({"a": halves}, "threshold", 0.1001)[1]["a"].tolist(), [0])
            with self.assertRaises(ValueError):
                function({"a": halves}, "threshold", halves.item())

    def test_both_kernels_refuse_the_same(self):
        good = {"a": torch.tensor([0.25, -0.5])}
        bad = {"a": torch.ones(2), "mid.weight": torch.tensor([1.0, math.nan])}
        for function in PATHS.values():
            for kind, value in (("threshold", 0), ("threshold", -1), ("threshold", math.nan),
                                ("threshold", math.inf), ("fraction", 0),
                                ("fraction", 1.01), ("fraction", math.nan), ("count", 0),
                                ("count", 2.5), ("threshold", 0.25)):
                with self.subTest(kernel=function.__name__, kind=kind,
                                  value=value), self.assertRaises(ValueError):
                    function(good, kind, value)
            with self.assertRaisesRegex(ValueError, "mid.weight: entry|mid.weight: an entry"):
                function(bad, "threshold", 1)
            bad["mid.weight"][1] = -math.inf
            with self.assertRaisesRegex(ValueError, "mid.weight"):
                function(bad, "fraction", 0.5)
            bad["mid.weight"][1] = math.nan

    def test_the_formula(self):
        for threshold in (2e-4, 2e-3, 1e-2):
            self.assertAlmostEqual(sara.default_lr(threshold)
                                   / reference.default_learning_rate(threshold), 1, delta=1e-14)


class Choosing(TestCase):
    def test_the_default_is_five_point_eight_percent(self):
        tensors = trainable(Net())
        positions = sara.select(Net())
        self.assertEqual(sum(map(len, positions.values())),
                         round(0.058 * sum(t.numel() for t in tensors.values())))

    def test_include_and_exclude(self):
        names = set(trainable(Net()))
        for include, exclude, expected in (("to_*", None,
                                            {"to_q.weight", "to_q.bias", "to_out.weight"}),
                                           (["to_q.*", "conv.*"], "*.bias",
                                            {"to_q.weight", "conv.weight"}),
                                           (None, ["*norm*", "gain"],
                                            {n for n in names if "norm" not in n and n != "gain"}),
                                           ("*.weight", ["to_q.weight"],
                                            {n for n in names if n.endswith(".weight")}
                                            - {"to_q.weight"})):
            positions = sara.select(Net(), 1e6, include=include, exclude=exclude)
            self.assertEqual(set(positions), expected)
            optimizer = sara.adamw(Net(), 1e6, lr=1e-3, include=include, exclude=exclude)
            self.assertEqual(set(leaves(optimizer)), expected)

    def test_budgets_are_of_what_is_included(self):
        model = Net()
        positions = sara.select(model, fraction=0.25, include="to_q.*")
        self.assertEqual(sum(map(len, positions.values())), round(0.25 * (80 * 72 + 80)))

    def test_select(self):
        """Indices for a loop of one's own; the model is only read."""
        model = Net()
        before = {name: p.requires_grad for name, p in model.named_parameters()}
        positions = sara.select(model, THRESHOLD)
        masks = reference.select(trainable(model), THRESHOLD)
        self.assertEqual(set(positions), {name for name, m in masks.items() if m.any()})
        for name, p in positions.items():
            self.assertEqual(p.dtype, torch.int64)
            self.assertTrue(torch.equal(p, masks[name].reshape(-1).nonzero().view(-1)), name)
            dict(model.named_parameters())[name].detach().view(-1)[p]  # as they are used
        self.assertEqual({name: p.requires_grad for name, p in model.named_parameters()}, before)

    def test_ways_to_name_parameters(self):
        model = Net()
        expected = sorted(leaves(sara.adamw(Net(), THRESHOLD)))
        for given in (model, list(model.named_parameters()), model.named_parameters(),
                      dict(model.named_parameters()),
                      [{"params": model}], [{"params": model.named_parameters()}]):
            optimizer = sara.adamw(given, THRESHOLD)
            self.assertEqual(sorted(leaves(optimizer)), expected)

    def test_order_is_the_bytes_of_the_names(self):
        """What the low-rank draw and the C program count by."""
        model = nn.ModuleDict({name: nn.Linear(3, 3, bias=False)
                               for name in ("b", "a10", "a2", "Z", "é")})
        self.assertEqual(sara.adamw(model, 1e6, lr=1e-3).param_groups[0]["names"],
                         ["Z.weight", "a10.weight", "a2.weight", "b.weight", "é.weight"])

    def test_report(self):
        model, masks = Net(), reference.select(trainable(Net()), THRESHOLD)
        rows = {line.split()[0]: line.split()[1:]
                for line in sara.report(model, THRESHOLD).splitlines()}
        chosen = int(masks["to_q.weight"].sum() + masks["to_q.bias"].sum())
        self.assertEqual(rows["to_q"], [f"{80 * 72 + 80:,}", f"{chosen:,}",
                                        f"{100 * chosen / (80 * 72 + 80):.2f}"])
        self.assertEqual(rows["all"][1], f"{sum(int(m.sum()) for m in masks.values()):,}")
        self.assertEqual(rows["threshold"], [f"{THRESHOLD:.6g},", "default", "learning", "rate",
                                             f"{sara.default_lr(THRESHOLD):.6g}"])
        self.assertNotIn("frozen", rows)
        self.assertTrue(model.to_q.weight.requires_grad and model.norm.weight.requires_grad)
        blocks = nn.ModuleDict({"down": nn.ModuleList([nn.Linear(2, 2), nn.Linear(2, 2)]),
                                "mid": nn.Linear(2, 2)})
        self.assertEqual([line.split()[0] for line in sara.report(blocks, 1e6).splitlines()],
                         ["block", "down.0", "down.1", "mid", "all", "threshold"])


class Groups(TestCase):
    def build(self, model, **options):
        named = list(model.named_parameters())
        return sara.adamw([{"params": [pair for pair in named if "to_" in pair[0]],
                            "threshold": 5e-3, "lr": 3e-3, "betas": (0.5, 0.9), "eps": 1e-6},
                           {"params": [pair for pair in named if "to_" not in pair[0]],
                            "fraction": 0.3, "weight_decay": 0.2}],
                          threshold=THRESHOLD, lr=1e-3, **options)

    def test_each_with_its_own_budget_and_numbers(self):
        """Two references, one for each group, whose gradients are clipped together."""
        model, twin = Net(), Net()
        start = weights(model)
        optimizer = self.build(model, max_grad_norm=0.05, lambda_rank=0)
        mine = [{name: start[name].clone() for name in trainable(Net()) if ("to_" in name) == first}
                for first in (True, False)]
        thresholds = [5e-3, reference.threshold_for_fraction(mine[1], 0.3)]
        self.assertEqual([g["threshold"] for g in optimizer.param_groups], thresholds)
        theirs = [reference.Sara(mine[0], thresholds[0], lr=3e-3, betas=(0.5, 0.9), eps=1e-6,
                                 max_grad_norm=0),
                  reference.Sara(mine[1], thresholds[1], lr=1e-3, weight_decay=0.2,
                                 max_grad_norm=0)]
        for step in range(4):
            twin.load_state_dict(model.state_dict())
            twin.zero_grad()
            loss_of(twin, batch(step)).backward()
            dense = {name: torch.zeros_like(p) if p.grad is None else p.grad
                     for name, p in twin.named_parameters()}
            picked = [dense[name][m] for r in theirs for name, m in r.masks.items()]
            norm = torch.cat(picked).double().norm().item()
            for r in theirs:
                r.step({name: g * min(1, 0.05 / (norm + 1e-6)) for name, g in dense.items()})
            train(model, optimizer, 1, first=step)
            self.assertAlmostEqual(optimizer.last["grad_norm"] / norm, 1, delta=1e-6)
        for r in theirs:
            for name, value in r.values.items():
                leaf = leaves(optimizer).get(name)
                if leaf is not None:
                    first = start[name][r.masks[name]]
                    self.assertLessEqual(relative(leaf[0] - first, value - first), 1e-5, name)

    def test_defaults_of_the_whole_hold_where_a_group_has_none(self):
        model = Net()
        optimizer = sara.adamw([{"params": model.to_q.named_parameters()},
                                {"params": [("conv.weight", model.conv.weight)], "count": 20}],
                               threshold=THRESHOLD, weight_decay=0.3)
        first, second = optimizer.param_groups
        self.assertEqual(first["threshold"], THRESHOLD)
        self.assertAlmostEqual(first["lr"], sara.default_lr(THRESHOLD))
        self.assertAlmostEqual(second["lr"], sara.default_lr(second["threshold"]))
        self.assertEqual(sum(len(p) for p in second["params"]), 20)
        self.assertEqual((first["weight_decay"], second["weight_decay"]), (0.3, 0.3))

    def test_reselection_goes_by_each_groups_threshold(self):
        model = Net()
        optimizer = self.build(model, progressive_iter=3)
        train(model, optimizer, 3)
        before = {name: leaf.detach().clone() for name, (leaf, _) in leaves(optimizer).items()}
        train(model, optimizer, 1, first=3)
        for group in optimizer.param_groups:
            for name, leaf in zip(group["names"], group["params"]):
                kept = int((before[name].abs() < torch.tensor(group["threshold"])).sum())
                self.assertEqual(len(leaf), kept, name)

    def test_schedules_move_each_from_its_own(self):
        model = Net()
        optimizer = self.build(model)
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.5 ** step)
        train(model, optimizer, 1)
        scheduler.step()
        self.assertEqual([g["lr"] for g in optimizer.param_groups], [1.5e-3, 5e-4])


if __name__ == "__main__":
    unittest.main()
