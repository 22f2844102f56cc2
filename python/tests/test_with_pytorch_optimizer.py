"""Wrappers of the package pytorch_optimizer around the optimiser, which write to its tensors."""
import unittest

import torch

from comparison import LoopCase, loss_of, net, train

from pytorch_optimizer import Lookahead


class Wrapped(LoopCase):
    def test_lookahead(self):
        def run(make):
            model = net()
            optimizer = Lookahead(make(model), k=2, alpha=0.5)
            train(model, optimizer, range(6))
            with torch.no_grad():
                loss_of(model, 0)
            return model
        self.assertFollowsAdamW(run)

    def test_its_evaluation(self):
        """The slow weights are put in, a forward pass, and the fast ones again."""
        seen = []

        def run(make):
            model = net()
            optimizer = Lookahead(make(model), k=3, alpha=0.5)
            losses = []
            for seed in range(5):
                train(model, optimizer, [seed])
                optimizer.backup_and_load_cache()
                with torch.no_grad():
                    losses.append(float(loss_of(model, 0)))
                optimizer.clear_and_load_backup()
            with torch.no_grad():
                loss_of(model, 0)
            seen.append(losses)
            return model
        self.assertFollowsAdamW(run)
        for losses in seen[1:]:
            for mine, theirs in zip(losses, seen[0]):
                self.assertTrue(abs(mine / theirs - 1) <= 1e-5, seen)


if __name__ == "__main__":
    unittest.main()
