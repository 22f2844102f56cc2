"""diffusers' average of the weights (EMAModel), put into the model and taken out again."""
import unittest

import torch

from comparison import LoopCase, few, loss_of, net, train

from diffusers.training_utils import EMAModel


def averaged(model, optimizer, ema, seeds):
    for seed in seeds:
        train(model, optimizer, [seed])
        ema.step(model.parameters())


class Averages(LoopCase):
    def test_training_goes_on_from_the_average(self):
        """copy_to without a way back: as torch's AdamW."""
        def run(make):
            model = net()
            optimizer = make(model)
            ema = EMAModel(model.parameters(), decay=0.7)
            averaged(model, optimizer, ema, range(4))
            ema.copy_to(model.parameters())
            averaged(model, optimizer, ema, range(4, 6))
            return model
        self.assertFollowsAdamW(run)

    def test_swapped_in_for_validation(self):
        """store, copy_to, restore: nothing changes, to the bit, in 16 bits too."""
        for dtype in (torch.float32, torch.bfloat16):
            runs = []
            for validates in (False, True):
                model = net().to(dtype)
                optimizer = few(model, progressive_iter=3)
                ema = EMAModel(model.parameters(), decay=0.7)
                for seed in range(6):
                    averaged(model, optimizer, ema, [seed])
                    if validates:
                        ema.store(model.parameters())
                        ema.copy_to(model.parameters())
                        with torch.no_grad():
                            loss_of(model, 9)
                        ema.restore(model.parameters())
                runs.append((model, optimizer))
            self.assertSameRun(*runs)

    def test_an_average_that_was_loaded(self):
        """Of an earlier run, put in before the first step: the entries are those of its weights."""
        ema = EMAModel(net(1).parameters(), decay=0.7)
        model, fresh = net(), net(1)
        optimizer = few(model)
        ema.copy_to(model.parameters())
        one = few(fresh)
        train(model, optimizer, range(3))
        train(fresh, one, range(3))
        self.assertSameRun((model, optimizer), (fresh, one))

    def test_the_adapter_of_the_average(self):
        """Saved while the average is in the model, it holds the average."""
        model = net()
        optimizer = few(model)
        ema = EMAModel(model.parameters(), decay=0.7)
        averaged(model, optimizer, ema, range(4))
        ema.store(model.parameters())
        ema.copy_to(model.parameters())
        self.assertAdapterHolds(optimizer, model, net())
        ema.restore(model.parameters())
        self.assertAdapterHolds(optimizer, model, net())


if __name__ == "__main__":
    unittest.main()
