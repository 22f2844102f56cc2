"""schedulefree's wrapper around the optimiser, which writes to its tensors before and after each
step, and swaps them for evaluation."""
import unittest

import torch

from comparison import LoopCase, few, leaves_of, loss_of, net, train

from schedulefree import ScheduleFreeWrapper, ScheduleFreeWrapperReference


def prepared(optimizer):
    """torch's AdamW makes its state where there is none at all, but the wrapper puts z there."""
    if type(optimizer) is torch.optim.AdamW:
        for p in leaves_of(optimizer):
            optimizer.state[p] = dict(step=torch.zeros(()), exp_avg=torch.zeros_like(p),
                                      exp_avg_sq=torch.zeros_like(p))
    return optimizer


def looked_at(model):
    with torch.no_grad():
        return float(loss_of(model, 0))


class Wrapped(LoopCase):
    def test_as_around_adamw(self):
        """In training and in evaluation."""
        for wrapper in (ScheduleFreeWrapper, ScheduleFreeWrapperReference):
            for evaluated in (False, True):
                def run(make):
                    model = net()
                    optimizer = wrapper(prepared(make(model)), momentum=0.9,
                                        weight_decay_at_y=0.1)
                    optimizer.train()
                    for seed in range(5):
                        train(model, optimizer, [seed])
                        if seed == 2:  # validation in between
                            optimizer.eval()
                            looked_at(model)
                            optimizer.train()
                    if evaluated:
                        optimizer.eval()
                    looked_at(model)
                    return model
                with self.subTest(wrapper.__name__, evaluated=evaluated):
                    self.assertFollowsAdamW(run, tolerance=1e-4)

    def test_an_adapter_of_the_average(self):
        model = net()
        optimizer = ScheduleFreeWrapper(few(model), momentum=0.9)
        optimizer.train()
        train(model, optimizer, range(4))
        fast = looked_at(model)
        optimizer.eval()
        self.assertNotEqual(looked_at(model), fast)
        self.assertAdapterHolds(optimizer.base, model, net())


if __name__ == "__main__":
    unittest.main()
