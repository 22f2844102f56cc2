"""Parts that torchao has quantised, frozen beside trained ones."""
import unittest
import warnings

import torch
from torch import nn

from comparison import LoopCase, few, names_of

from torchao.quantization import Int8WeightOnlyConfig, quantize_


def quantised():
    torch.manual_seed(0)
    part = nn.Sequential(nn.Linear(80, 80)).requires_grad_(False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        quantize_(part, Int8WeightOnlyConfig())
    return part


class Quantised(LoopCase):
    def test_frozen_beside_trained(self):
        """Trained beside, or refused by name at once."""
        model = nn.Sequential(quantised(), nn.Linear(80, 90))
        before = model[1].weight.detach().clone()
        try:
            optimizer = few(model)
        except ValueError as error:
            self.assertRegex(str(error), r"\A0\.0\.weight: [^\n]+\Z")
            return
        for _ in range(2):
            model(torch.ones(2, 80)).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()
        self.assertFalse(torch.equal(model[1].weight, before))
        self.assertEqual(names_of(optimizer), ["1.bias", "1.weight"])
        optimizer.save(self.file())

    def test_given_without_them(self):
        """The way that is left where it is refused: the trained parameters by name."""
        model = nn.Sequential(quantised(), nn.Linear(80, 90))
        optimizer = few({n: p for n, p in model.named_parameters() if n.startswith("1.")})
        before = model[1].weight.detach().clone()
        model(torch.ones(2, 80)).square().mean().backward()
        optimizer.step()
        self.assertFalse(torch.equal(model[1].weight, before))

    def test_trained_ones_are_refused(self):
        part = quantised()
        part[0].weight.requires_grad_(True)
        with self.assertRaisesRegex(ValueError, r"0\.0\.weight"):
            few(nn.Sequential(part, nn.Linear(80, 90)))


if __name__ == "__main__":
    unittest.main()
