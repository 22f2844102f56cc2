"""More than one optimiser: a notebook's cell that runs again, learning-rate finders, another
optimiser for what sara leaves out, parameters that the caller freezes and thaws."""
import gc
import unittest
import warnings

import torch
from torch import nn

import sara
from comparison import (DEVICE, RATE, THRESHOLD, LoopCase, all_entries, few, leaves_of, loss_of,
                        names_of, net, torchs, train, written)

FRACTIONS = dict(threshold=None, fraction=0.1, lr=1e-3)


def mixed(seed=0):
    """Norms have no small weights, so that sara puts them to sleep; the last is the caller's."""
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(80, 72), nn.LayerNorm(72), nn.Tanh(), nn.Linear(72, 80),
                          nn.LayerNorm(80), nn.Linear(80, 80)).to(DEVICE)
    model[5].requires_grad_(False)
    return model


def entries(optimizer):
    return sum(map(len, leaves_of(optimizer)))


class Again(LoopCase):
    def test_after_include(self):
        for alive in (False, True):
            model = mixed()
            first = few(model, include="3.*")
            if not alive:
                del first
                gc.collect()
            second = few(model)
            self.assertEqual(names_of(second), names_of(few(mixed())))
            self.assertFalse(model[5].weight.requires_grad)

    def test_after_exclude(self):
        model = mixed()
        few(model, exclude=["0.*", "1.*"])
        self.assertEqual(names_of(few(model)), names_of(few(mixed())))

    def test_budgets_select_the_same(self):
        model = mixed()
        for budget in (dict(fraction=0.1), dict(count=900), dict(fraction=0.1)):
            options = dict(FRACTIONS, fraction=None, **budget) if "count" in budget else FRACTIONS
            optimizer, fresh = few(model, **options), few(mixed(), **options)
            self.assertEqual(entries(optimizer), entries(fresh))
            self.assertEqual(names_of(optimizer), names_of(fresh))
        self.assertEqual(entries(few(model, **FRACTIONS)), entries(few(mixed(), **FRACTIONS)))

    def test_select_and_report_see_the_same(self):
        model = mixed()
        kept = few(model, **FRACTIONS)
        for look in (sara.select, sara.report):
            here, there = look(model, fraction=0.1), look(mixed(), fraction=0.1)
            if look is sara.select:
                here, there = ({n: p.tolist() for n, p in s.items()} for s in (here, there))
            self.assertEqual(here, there)
        self.assertEqual(entries(kept), entries(few(mixed(), **FRACTIONS)))

    def test_the_second_trains_as_the_first_would(self):
        model, fresh = mixed(), mixed()
        few(model, include="0.*")
        one, two = few(model), few(fresh)
        train(model, one, range(4))
        train(fresh, two, range(4))
        self.assertSameRun((model, one), (fresh, two))

    def test_a_finder_of_learning_rates(self):
        """It trains for some steps, puts the weights back and asks for the optimiser again."""
        model, fresh = mixed(), mixed()
        start = written(model)
        finder = few(model, **FRACTIONS)
        train(model, finder, range(3))
        model.load_state_dict(start)
        one, two = few(model, **FRACTIONS), few(fresh, **FRACTIONS)
        train(model, one, range(4))
        train(fresh, two, range(4))
        self.assertSameRun((model, one), (fresh, two))

    def test_groups(self):
        def grouped(model):
            parts = [{"params": dict(model[i].named_parameters(prefix=str(i)))} for i in (0, 3)]
            return sara.adamw(parts, **FRACTIONS)
        model = mixed()
        few(model, include="4.*", threshold=2.0)
        self.assertEqual(names_of(grouped(model)), names_of(grouped(mixed())))
        self.assertEqual(names_of(few(model)), names_of(few(mixed())))

    def test_a_state_dict_of_the_first_fits_the_second(self):
        model = mixed()
        first = few(model, **FRACTIONS)
        train(model, first, range(3))
        state = first.state_dict()
        model.load_state_dict(written(mixed()))
        second = few(model, **FRACTIONS)
        second.load_state_dict(state)
        other = mixed()
        resumed = few(other, **FRACTIONS)
        resumed.load_state_dict(state)
        self.assertSameRun((model, second), (other, resumed))


class Freezing(LoopCase):
    def test_what_the_caller_freezes_after_the_first(self):
        model = mixed()
        few(model, include="3.*")
        model[3].requires_grad_(False)
        second = few(model)
        self.assertFalse([name for name in names_of(second) if name.startswith(("3.", "5."))])
        self.assertFalse(model[3].weight.requires_grad)
        before = written(model)
        train(model, second, range(2))
        self.assertTrue(torch.equal(model[3].weight, before["3.weight"]))
        self.assertTrue(torch.equal(model[5].weight, before["5.weight"]))
        self.assertFalse(torch.equal(model[0].weight, before["0.weight"]))

    def test_the_caller_freezes_what_sleeps(self):
        model = mixed()
        few(model, include="3.*")
        model[0].requires_grad_(False)
        self.assertFalse([name for name in names_of(few(model)) if name.startswith("0.")])
        self.assertFalse(model[0].weight.requires_grad)

    def test_what_the_caller_has_frozen_before(self):
        model = mixed()
        for _ in range(3):
            few(model)
            self.assertFalse(model[5].weight.requires_grad)

    def test_thawed_by_the_caller_between(self):
        model = mixed()
        few(model, include="3.*")
        model.requires_grad_(True)
        self.assertIn("5.weight", names_of(few(model)))

    def test_layers_that_are_thawed_later(self):
        """They are not trained; a line names one."""
        model = net()
        model[0].requires_grad_(False)
        optimizer = few(model)
        train(model, optimizer, [0])
        model[0].requires_grad_(True)
        with self.assertWarnsRegex(UserWarning, r"0\.(weight|bias)"):
            train(model, optimizer, [1])
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            train(model, optimizer, [2])  # it is said once

    def test_put_to_sleep_and_thawed_through_the_model(self):
        """model.requires_grad_(True) of a script that freezes nothing says nothing of its own."""
        model = mixed()
        optimizer = few(model)
        model[:5].requires_grad_(True)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            train(model, optimizer, range(2))


class Beside(LoopCase):
    def test_what_is_excluded_in_another_optimiser(self):
        """Both as torch's AdamW with all of it."""
        for late in (False, True):
            def run(make):
                model = net()
                if make is torchs:
                    first = make(model[0])
                else:
                    first = all_entries(model, include="0.*")
                other = torch.optim.AdamW(model[2].parameters(), RATE, eps=1e-4)
                for seed in range(4):
                    model[2].requires_grad_(not late or seed >= 2)
                    loss_of(model, seed).backward()
                    first.step()
                    if not late or seed >= 2:
                        self.assertIsNotNone(model[2].weight.grad)
                        other.step()
                    first.zero_grad()
                    other.zero_grad()
                return model
            with self.subTest(late=late):
                self.assertFollowsAdamW(run)

    def test_zero_grad_leaves_them_alone(self):
        model = net()
        optimizer = few(model, exclude="2.*")
        model[2].requires_grad_(True)
        loss_of(model, 0).backward()
        gradient = model[2].weight.grad.clone()
        optimizer.step()
        optimizer.zero_grad()
        self.assertTrue(torch.equal(model[2].weight.grad, gradient))

    def test_thawed_beside_a_frozen_part(self):
        """The caller's own frozen part, never given to sara's selection."""
        model = mixed()
        optimizer = few(model)
        model[5].requires_grad_(True)
        other = torch.optim.SGD(model[5].parameters(), 0.1)
        before = written(model)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            loss_of(model, 0).backward()
            optimizer.step()
            other.step()
        self.assertFalse(torch.equal(model[5].weight, before["5.weight"]))
        self.assertFalse(torch.equal(model[0].weight, before["0.weight"]))

    def test_two_of_sara(self):
        """Each with its own part; together as one with two groups."""
        def parts(model):
            return [{n: p for n, p in model.named_parameters() if n.startswith(i)} for i in "02"]
        options = dict(threshold=THRESHOLD, lr=1e-3, lambda_rank=0, max_grad_norm=0)
        one, two = net(), net()
        both = [sara.adamw(part, **options) for part in parts(one)]
        single = sara.adamw([{"params": part} for part in parts(two)], **options)
        for seed in range(4):
            loss_of(one, seed).backward()
            for optimizer in both:
                optimizer.step()
                optimizer.zero_grad()
            train(two, single, [seed])
        self.assertSameWeights(one, two)


if __name__ == "__main__":
    unittest.main()
