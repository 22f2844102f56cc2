"""state_dict and load_state_dict: a run goes on bit for bit from every step."""
import copy
import io
import pickle
import unittest

import torch

import sara
from support import THRESHOLD, Net, TestCase, batch, leaves, loss_of, snapshot, torch_path, train

STEPS = 6
OPTIONS = dict(threshold=THRESHOLD, lr=2e-3, max_grad_norm=0.05, lambda_rank=0.02,
               progressive_iter=3)


def through_a_file(thing):
    """As torch.save and a safe torch.load give it back."""
    file = io.BytesIO()
    torch.save(thing, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def schedule(optimizer):
    return torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)


def loop(model, optimizer, scheduler, steps, dtype):
    for step in steps:
        loss_of(model, batch(step, dtype=dtype)).backward()
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad()


def saved_run(base, dtype, **options):
    """What was saved before each step and at the end: weights, optimiser, scheduler; and the run
    itself."""
    model = copy.deepcopy(base)
    optimizer = sara.adamw(model, **options)
    scheduler, states = schedule(optimizer), []
    for step in range(STEPS + 1):
        states.append(through_a_file([model.state_dict(), optimizer.state_dict(),
                                      scheduler.state_dict()]))
        if step < STEPS:
            loop(model, optimizer, scheduler, [step], dtype)
    return states, (model, optimizer)


class Resuming(TestCase):
    def resume(self, base, state, step, dtype, trained, **options):
        """In a new model, loaded as it was before training or as it was saved."""
        model = copy.deepcopy(base)
        if trained:
            model.load_state_dict(state[0])
        optimizer = sara.adamw(model, **options)
        scheduler = schedule(optimizer)
        optimizer.load_state_dict(state[1])
        scheduler.load_state_dict(state[2])
        for name, p in model.named_parameters():
            self.assertTrue(torch.equal(p, state[0][name]),
                            f"{name} right after loading at step {step}")
        loop(model, optimizer, scheduler, range(step, STEPS), dtype)
        return model, optimizer

    def check_every_step(self, dtype, path=None, **options):
        base = Net().to(dtype)
        states, end = saved_run(base, dtype, **options)
        for step, state in enumerate(states):
            for trained in (False, True):
                with self.subTest(step=step, trained=trained, dtype=dtype):
                    self.assertSameRun(self.resume(base, state, step, dtype, trained, **options),
                                       end)

    def test_at_every_step(self):
        self.check_every_step(torch.float32, **OPTIONS)

    def test_at_every_step_in_sixteen_bits(self):
        """The masters are in the state: the weights hold only what is left of them."""
        self.check_every_step(torch.bfloat16, **OPTIONS)

    def test_at_every_step_with_a_fraction(self):
        """Of weights that have been trained another threshold would come out: the state's
        counts."""
        self.check_every_step(torch.float32, fraction=0.2, lr=2e-3, total_steps=6)

    def test_at_every_step_in_torch_operations(self):
        with torch_path():
            self.check_every_step(torch.float16, **OPTIONS)

    def test_the_state_brings_its_options(self):
        """Whatever the new optimiser was made with; only the names of matrices, a caller's list,
        are not in it."""
        for own, other in ((OPTIONS, dict(threshold=5e-3, lr=1.0, betas=(0.1, 0.2), weight_decay=1,
                                          max_grad_norm=7, lambda_rank=0, seed=1)),
                           ({**OPTIONS, "rank_names": ["to_q.weight", "", "to_out.weight"] * 2},
                            dict(fraction=0.5, lr=1.0,
                                 rank_names=["to_q.weight", "", "to_out.weight"] * 2))):
            model, second = Net(), Net()
            optimizer, resumed = sara.adamw(model, **own), sara.adamw(second, **other)
            train(model, optimizer, 2)
            resumed.load_state_dict(through_a_file(optimizer.state_dict()))
            train(model, optimizer, 4, first=2)
            train(second, resumed, 4, first=2)
            self.assertSameRun((second, resumed), (model, optimizer))

    def test_back_in_the_same_run(self):
        """Also behind a reselection, which has fewer entries than the state."""
        model = Net()
        optimizer = sara.adamw(model, **OPTIONS)
        train(model, optimizer, 2)
        state = through_a_file(optimizer.state_dict())
        train(model, optimizer, 4, first=2)
        end = snapshot(model, optimizer)
        self.assertLess(len(leaves(optimizer)["to_q.weight"][0]),
                        len(state["state"][0]["positions"]) + 80 * 72)
        optimizer.load_state_dict(state)
        train(model, optimizer, 4, first=2)
        self.assertEqual(snapshot(model, optimizer), end)

    def test_what_is_loaded_is_a_copy(self):
        """Training on does not change the state that was loaded."""
        model, other = Net(), Net()
        optimizer, resumed = sara.adamw(model, **OPTIONS), sara.adamw(other, **OPTIONS)
        train(model, optimizer, 2)
        state = optimizer.state_dict()
        before = snapshot(model, optimizer)
        resumed.load_state_dict(state)
        train(other, resumed, 2, first=2)
        self.assertEqual(snapshot(model, optimizer), before)

    def test_groups(self):
        def build():
            model = Net()
            named = list(model.named_parameters())
            return model, sara.adamw([{"params": [pair for pair in named if "to_" in pair[0]],
                                       "threshold": 5e-3, "lr": 1e-2, "betas": (0.5, 0.9)},
                                      {"params": [pair for pair in named if "to_" not in pair[0]],
                                       "fraction": 0.3, "weight_decay": 0.2}])
        model, optimizer = build()
        train(model, optimizer, 2)
        state = through_a_file(optimizer.state_dict())
        other, resumed = build()
        for group in resumed.param_groups:
            group["lr"] = 1.0
        resumed.load_state_dict(state)
        self.assertEqual([g["lr"] for g in resumed.param_groups],
                         [g["lr"] for g in optimizer.param_groups])
        for run in ((model, optimizer), (other, resumed)):
            train(*run, 2, first=2)
        self.assertSameRun((other, resumed), (model, optimizer))

    def test_its_size(self):
        """16 bytes for each entry: position, value, two moments; what a reselection left behind has
        no moments."""
        model = Net()
        optimizer = sara.adamw(model, **OPTIONS)
        train(model, optimizer, 5)
        state = optimizer.state_dict()
        active, left = (sum(column) for column in zip(*((len(leaf), len(s["frozen_positions"]))
                                                        for leaf, s in leaves(optimizer).values())))
        self.assertGreater(left, 0)
        size = sum(t.numel() * t.element_size() for entry in state["state"].values()
                   for t in entry.values())
        self.assertEqual(size, 16 * active + 8 * left)
        self.assertEqual(set(state), {"state", "param_groups", "sara"})


class States(TestCase):
    """What cannot be loaded is refused before anything changes."""

    def test_refused(self):
        model = Net()
        optimizer = sara.adamw(model, **OPTIONS)
        train(model, optimizer, 2)
        good, before = through_a_file(optimizer.state_dict()), snapshot(model, optimizer)

        first = "to_q.weight"
        index = good["param_groups"][0]["names"].index(first)

        def with_state(key, changed):
            def change(state):
                state["state"][index][key] = changed(state["state"][index][key])
            return change

        def first_negative(positions):
            positions[0] = -1
            return positions

        def last_outside(positions):
            positions[-1] = 10 ** 6
            return positions

        def without(state):
            del state["state"][index]["values"]

        def unknown(state):
            state["param_groups"][0]["names"][index] = "elsewhere.weight"

        def groups(state):
            state["param_groups"].append(state["param_groups"][0])

        size = dict(model.named_parameters())[first].numel()
        outside = f"{first}: the state has .* to 1000000; expected .* for {size} entries"
        for change, line in ((with_state("positions", last_outside), outside),
                             (with_state("positions", first_negative),
                              f"{first}: the state has .* from -1 to"),
                             (with_state("positions", lambda t: t.flip(0)),
                              f"{first}: the state has .* ascending"),
                             *((with_state(key, lambda t: t[:-1]),
                                f"{first}: the state has .* {key}")
                               for key in ("positions", "values", "exp_avg", "exp_avg_sq")),
                             (with_state("frozen_values", lambda t: torch.zeros(3)),
                              f"{first}: the state has 0 frozen_positions, 3 frozen_values"),
                             (without, f"{first}: the state has no values"),
                             (unknown,
                              "elsewhere.weight: the model has no such parameter to train"),
                             (groups, "2 groups, expected 1 of sara.adamw")):
            with self.subTest(line):
                bad = copy.deepcopy(good)
                change(bad)
                with self.assertRaisesRegex(ValueError, line):
                    optimizer.load_state_dict(bad)
                self.assertEqual(snapshot(model, optimizer), before)

    def test_other_dtypes_come_back_as_their_own(self):
        """As accelerate and others cast all that a state holds."""
        model = Net()
        optimizer = sara.adamw(model, **OPTIONS)
        train(model, optimizer, 2)
        state, before = through_a_file(optimizer.state_dict()), snapshot(model, optimizer)
        for own in state["state"].values():
            own.update({key: t.to(torch.int64 if "positions" in key else torch.float64)
                        for key, t in own.items() if isinstance(t, torch.Tensor)})
        optimizer.load_state_dict(state)
        self.assertEqual(snapshot(model, optimizer), before)

    def test_copies_are_refused(self):
        optimizer = sara.adamw(Net(), **OPTIONS)
        for copied in (copy.copy, copy.deepcopy, pickle.dumps):
            with self.assertRaisesRegex(TypeError, "state_dict"):
                copied(optimizer)

    def test_another_optimisers(self):
        model = Net()
        optimizer = sara.adamw(model, **OPTIONS)
        with self.assertRaisesRegex(ValueError, "sara.adamw"):
            optimizer.load_state_dict(torch.optim.AdamW(Net().parameters()).state_dict())


if __name__ == "__main__":
    unittest.main()
