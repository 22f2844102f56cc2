"""The nuclear norm of one matrix in each step (section 4.2)."""
import unittest

import torch

import reference
import sara
from support import THRESHOLD, Net, TestCase, leaves, relative, train


class LowRankTerm(TestCase):
    def test_it_changes_the_result(self):
        """The published optimiser gives the same weights for 0 and 10."""
        ends = []
        for strength in (0, 5e-4, 10):
            model = Net()
            train(model, sara.adamw(model, threshold=THRESHOLD, lr=1e-3, lambda_rank=strength), 5)
            ends.append(model.to_q.weight.detach().clone())
        self.assertGreater((ends[0] - ends[1]).abs().max().item(), 1e-6)
        self.assertGreater((ends[0] - ends[2]).abs().max().item(), 1e-3)

    def test_it_lowers_the_nuclear_norm(self):
        norms = []
        for strength in (0, 10):
            model = Net()
            optimizer = sara.adamw(model, threshold=THRESHOLD, lr=3e-4, lambda_rank=strength,
                                   rank_names=["to_q.weight"] * 10)
            train(model, optimizer, 10)
            leaf, state = leaves(optimizer)["to_q.weight"]
            matrix = torch.zeros(80 * 72)
            matrix[state["positions"].long()] = leaf.detach()
            norms.append(reference.nuclear_norm(matrix.view(80, 72))[0])
        self.assertLess(norms[1], 0.9 * norms[0])

    def test_it_is_added_after_clipping(self):
        """With gradients clipped to nothing it is all that is left."""
        model = Net()
        optimizer = sara.adamw(model, threshold=THRESHOLD, lr=1e-3, max_grad_norm=1e-12,
                               lambda_rank=2, rank_names=["to_q.weight"])
        train(model, optimizer, 1)
        matrix = torch.zeros(80, 72)
        mask = reference.below(Net().to_q.weight, THRESHOLD)
        matrix[mask] = Net().to_q.weight.detach()[mask]
        _, subgradient = reference.nuclear_norm(matrix)
        moment = leaves(optimizer)["to_q.weight"][1]["exp_avg"]
        self.assertLessEqual(relative(moment, 0.1 * 2 * subgradient[mask].float()), 1e-4)

    def test_the_matrix_is_one_of_the_references_candidates(self):
        model = Net()
        parameters = dict(model.named_parameters())
        trained = {name: p for name, p in parameters.items() if p.requires_grad}
        candidates = reference.low_rank_names(trained, reference.select(trained, THRESHOLD))
        self.assertEqual(set(candidates), {"to_q.weight", "to_out.weight", "unused.weight"})
        optimizer = sara.adamw(model, threshold=THRESHOLD)
        drawn = []
        for step in range(30):
            train(model, optimizer, 1, first=step)
            drawn.append(optimizer.last["rank_name"])
        self.assertEqual(set(drawn), set(candidates))

    def test_draws_depend_on_the_seed_alone(self):
        drawn = []
        for seed in (1, 1, 2):
            model = Net()
            optimizer, names = sara.adamw(model, threshold=THRESHOLD, seed=seed), []
            for step in range(12):
                train(model, optimizer, 1, first=step)
                names.append(optimizer.last["rank_name"])
            drawn.append(names)
        self.assertEqual(drawn[0], drawn[1])
        self.assertNotEqual(drawn[0], drawn[2])

    def test_names_given_by_the_caller(self):
        """One for each step; an empty one for none; a matrix that would never be drawn too, as in
        the reference."""
        model = Net()
        names = ["to_out.weight", "", "embed.weight", "to_q.weight"]
        optimizer = sara.adamw(model, threshold=THRESHOLD, rank_names=names)
        for step, name in enumerate(names):
            train(model, optimizer, 1, first=step)
            self.assertEqual(optimizer.last["rank_name"], name)
            self.assertEqual(optimizer.last["rank_loss"] > 0, name != "")

    def test_matrices_that_are_too_thin_are_never_drawn(self):
        model = torch.nn.Sequential(torch.nn.Linear(64, 200), torch.nn.Linear(200, 64))
        optimizer = sara.adamw(model, threshold=0.05)
        model(torch.randn(2, 64)).sum().backward()
        optimizer.step()
        self.assertEqual(optimizer.last["rank_name"], "")
        model = torch.nn.Linear(65, 65)  # large enough, but 100 entries are too few
        for count, name in ((100, ""), (101, "weight")):
            optimizer = sara.adamw(model, count=count, exclude="bias")
            model(torch.randn(2, 65)).sum().backward()
            optimizer.step()
            self.assertEqual(optimizer.last["rank_name"], name)


if __name__ == "__main__":
    unittest.main()
