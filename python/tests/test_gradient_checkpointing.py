"""Forward passes that are computed again in backward."""
import unittest

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

import sara
from support import THRESHOLD, Net, TestCase, fill, leaves, plain_run, relative


class Checkpointed(Net):
    """Parts of the forward pass computed again in backward; layer_norm and frozen in two
    segments."""

    def __init__(self, reentrant):
        super().__init__()
        self.reentrant = reentrant

    def forward(self, images, tokens):
        def again(f, *inputs):
            return checkpoint(f, *inputs, use_reentrant=self.reentrant)
        # which wants an input that requires a gradient
        images = images.requires_grad_(self.reentrant)
        h = again(lambda x: self.down(nn.functional.silu(self.norm(self.conv(x)))), images)
        h = h.flatten(2).transpose(1, 2)
        h = torch.cat([h, self.embed(tokens)], 1)
        h = again(lambda x: x + self.frozen(self.layer_norm(x)), h)
        h = again(lambda x: x + self.to_out(nn.functional.silu(self.to_q(x))) * (1 + self.gain), h)
        return self.head(h)


class Twice(nn.Module):
    """A block that is used twice, each time in a segment of its own."""

    def __init__(self, segment):
        super().__init__()
        self.block, self.segment = nn.Sequential(nn.Linear(40, 40), nn.Tanh()), segment
        fill(self, 0)

    def forward(self, x):
        return self.segment(self.block, self.segment(self.block, x))


class GradientCheckpointing(TestCase):
    def test_both_kinds(self):
        for reentrant in (False, True):
            with self.subTest(reentrant=reentrant):
                self.assertSameRun(plain_run(build=lambda: Checkpointed(reentrant)), plain_run())

    def test_a_block_in_two_segments(self):
        """Reentrant backward makes its gradient in two parts, which add up."""
        segments = [lambda f, x: f(x)] + [lambda f, x, r=r: checkpoint(f, x, use_reentrant=r)
                                          for r in (False, True)]
        gradients = []
        for segment in segments:
            model = Twice(segment)
            optimizer = sara.adamw(model, threshold=THRESHOLD)
            model(torch.ones(3, 40, requires_grad=True)).square().sum().backward()
            self.assertIsNone(model.block[0].weight.grad)
            gradients.append(leaves(optimizer)["block.0.weight"][0].grad)
        for gradient in gradients[1:]:
            self.assertLessEqual(relative(gradient, gradients[0]), 1e-6)


if __name__ == "__main__":
    unittest.main()
