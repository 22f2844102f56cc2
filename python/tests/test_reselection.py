"""The entries that go on being trained after half of the steps (section 4.3)."""
import unittest

import torch

import sara
from support import THRESHOLD, Net, TestCase, leaves, train, weights


class Reselection(TestCase):
    def test_total_steps_gives_the_half(self):
        model = Net()
        optimizer = sara.adamw(model, threshold=THRESHOLD, lr=1e-3, total_steps=7)
        seen = []
        for step in range(7):
            train(model, optimizer, 1, first=step)
            seen.append(optimizer.last["reselected"])
        self.assertEqual(seen, [step == 3 for step in range(7)])

    def test_entries_that_left_stay_where_they_are(self):
        model = Net()
        optimizer = sara.adamw(model, threshold=THRESHOLD, lr=3e-3, progressive_iter=3)
        train(model, optimizer, 3)
        before = weights(model)
        train(model, optimizer, 4, first=3)
        left = 0
        for name, (leaf, state) in leaves(optimizer).items():
            frozen = state["frozen_positions"].long()
            flat = dict(model.named_parameters())[name].detach().flatten()
            self.assertTrue(torch.equal(flat[frozen], before[name].flatten()[frozen]), name)
            self.assertTrue((before[name].flatten()[frozen].abs() >= THRESHOLD).all(), name)
            self.assertTrue((before[name].flatten()[state["positions"].long()].abs()
                             < THRESHOLD).all(), name)
            left += len(frozen)
        self.assertGreater(left, 100)

    def test_strictly_below_in_float32(self):
        """0.7 in float32 is below 0.7 in double; as for the first selection it is not below the
        threshold."""
        model = torch.nn.Linear(3, 1, bias=False)
        with torch.no_grad():
            model.weight.copy_(torch.tensor([[0.5, 0.6, 2.0]]))
        optimizer = sara.adamw(model, threshold=0.7, lr=0.0, progressive_iter=1)
        for _ in range(2):
            leaves(optimizer)["weight"][0].data[0] = 0.7
            model(torch.ones(2, 3)).sum().backward()
            optimizer.step()
            optimizer.zero_grad()
        self.assertTrue(optimizer.last["reselected"])
        self.assertEqual(leaves(optimizer)["weight"][1]["positions"].tolist(), [1])

    def test_where_nothing_is_left(self):
        """A bias whose entries have all grown asks for no gradient any more; the rest goes on."""
        model = torch.nn.Linear(4, 3)
        with torch.no_grad():
            model.weight.copy_(torch.linspace(-1, 1, 12).view(3, 4))
            model.bias.fill_(0.09)
        optimizer = sara.adamw(model, threshold=0.1, lr=0.02, weight_decay=0, progressive_iter=2)
        for _ in range(4):
            (model(torch.ones(2, 4)) * -torch.ones(3)).sum().backward()
            optimizer.step()
            optimizer.zero_grad()
        self.assertEqual(optimizer.last["active"], 1)  # -0.09, on its way through zero
        self.assertFalse(model.bias.requires_grad)
        self.assertEqual(len(leaves(optimizer)["bias"][0]), 0)


if __name__ == "__main__":
    unittest.main()
