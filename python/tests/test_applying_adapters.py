"""Adapters applied, composed, taken off again, merged."""
import itertools
import unittest

import torch

import sara
from sara import adapters
from adapter_files import AdapterCase, Small, hashed, trained, weights, write_file


class Applying(AdapterCase):
    def test_strengths(self):
        for dtype in (torch.float32, torch.bfloat16, torch.float16):
            model, optimizer = trained(Small().to(dtype))
            optimizer.save(self.path)
            masters, _ = adapters.read(self.path)
            for strength in (0, 1, 0.6, -1.5, 3):
                with self.subTest(dtype=dtype, strength=strength):
                    fresh, expected = Small().to(dtype), weights(Small().to(dtype))
                    for name, (positions, values) in masters.items():
                        flat = expected[name].view(-1)
                        base = flat[positions.long()].double()
                        changed = values if strength == 1 else (base + strength
                                                                * (values.double() - base)).float()
                        flat[positions.long()] = changed.to(dtype)
                    sara.apply(fresh, self.path, strength)
                    self.check_same(fresh, expected)
                    sara.remove(fresh)
                    self.check_same(fresh, weights(Small().to(dtype)))
        for strength in (float("nan"), float("inf")):
            with self.refused(ValueError, self.path, str(strength)):
                sara.apply(fresh, self.path, strength)
        self.check_same(fresh, weights(Small().to(dtype)))

    def test_composed_in_any_order(self):
        a = self.saved("a")
        b = self.saved("b", data=1, fraction=0.1)
        c = self.saved("c", data=2, fraction=0.3)
        for dtype in (torch.float32, torch.bfloat16):
            layers = ((a, 0.6), (b, 1), (c, 0.6), (a, 0.3))
            results = []
            for order in itertools.permutations(layers):
                one, other = Small().to(dtype), Small().to(dtype)
                sara.compose(one, order, force=True)
                for path, strength in order:
                    sara.apply(other, path, strength, force=True)
                self.check_same(other, weights(one))
                results.append(weights(one))
                sara.remove(one)
                self.check_same(one, weights(Small().to(dtype)))
            for result in results[1:]:
                self.assertTrue(all(torch.equal(result[name], value)
                                    for name, value in results[0].items()))
            expected = {name: p.double() for name, p in weights(Small().to(dtype)).items()}
            for path, strength in layers:
                for name, (positions, values) in adapters.read(path)[0].items():
                    at = positions.long()
                    base = weights(Small().to(dtype))[name].view(-1)[at].double()
                    expected[name].view(-1)[at] += strength * (values.double() - base)
            for name, value in results[0].items():  # within the order of the sum
                self.assertTrue(torch.allclose(value.double(), expected[name].to(dtype).double(),
                                               rtol=torch.finfo(dtype).eps, atol=1e-12), name)

    def test_composed_by_a_mapping(self):
        a, b = self.saved("a"), self.saved("b", data=1)
        one, other = Small(), Small()
        sara.compose(one, {a: 0.5, b: 1.0})
        sara.compose(other, [(b, 1), (a, 0.5)])
        self.check_same(other, weights(one))
        sara.compose(other, [])
        self.check_same(other, weights(one))

    def test_nothing_changes_by_nothing(self):
        """What is too small to change a value leaves -0 as it is; so do changes that cancel out."""
        for dtype in (torch.float32, torch.float16, torch.bfloat16):
            fresh = Small().to(dtype)
            with torch.no_grad():
                fresh.gain.fill_(-0.0)
            before = weights(fresh)
            write_file(self.path, {"conv.weight": {3: 1.0}, "gain": {0: 1.0}}, hashed(fresh))
            for strengths in ((1e-300,), (1, -1)):
                sara.compose(fresh, [(self.path, strength) for strength in strengths])
                self.check_same(fresh, before)
                sara.remove(fresh)
            sara.apply(fresh, self.path)
            self.assertEqual(fresh.gain.item(), 1)

    def test_one_at_full_strength_beside_one_elsewhere(self):
        a = self.saved("a", include=["conv.*"])
        b = self.saved("b", include=["wide.*"])
        model = Small()
        sara.compose(model, [(a, 1), (b, 1)])
        for path in (a, b):
            for name, (positions, values) in adapters.read(path)[0].items():
                held = weights(model)[name].flatten()[positions.long()]
                self.assertTrue(torch.equal(held, values))

    def test_removed_and_merged(self):
        a, b, model = self.saved("a"), self.saved("b", data=1), Small()
        sara.remove(model)  # nothing is applied
        sara.apply(model, a)
        sara.apply(model, b, 0.5)
        both = weights(model)
        sara.merge(model)
        sara.remove(model)
        self.check_same(model, both)
        with self.refused(ValueError, a, hashed(model)[:12]):  # another model now
            sara.apply(model, a)
        self.check_same(model, both)
        other = Small()
        sara.apply(other, a)
        sara.merge(other, b, 0.5)
        self.check_same(other, both)
        sara.apply(other, a, force=True)
        sara.remove(other)
        self.check_same(other, both)

    def test_two_models_at_once(self):
        a, b, one, other = self.saved("a"), self.saved("b", data=1), Small(), Small()
        sara.apply(one, a)
        sara.apply(other, b)
        changed = weights(one)
        sara.remove(other)
        self.check_same(one, changed)
        self.check_same(other, weights(Small()))
        sara.remove(one)
        self.check_same(one, weights(Small()))

    def test_wrapped_by_compile(self):
        a, model = self.saved("a"), Small()
        sara.apply(torch.compile(model), a)
        changed = Small()
        sara.apply(changed, a)
        self.check_same(model, weights(changed))
        sara.remove(model)  # the same module
        self.check_same(model, weights(Small()))
        sara.apply(model, a)
        sara.remove(torch.compile(model))
        self.check_same(model, weights(Small()))
        sara.merge(torch.compile(model), a)
        sara.remove(model)
        self.check_same(model, weights(changed))

    def test_other_strides(self):
        def strided():
            model = Small().to(memory_format=torch.channels_last)
            model.wide.weight.data = model.wide.weight.data.t().contiguous().t()
            self.assertFalse(model.conv.weight.is_contiguous() or model.wide.weight.is_contiguous())
            return model
        for steps, base, other in ((3, strided, Small), (3, Small, strided)):
            model, optimizer = trained(base(), steps)
            optimizer.save(self.path)
            self.assertEqual(optimizer.base_sha256, hashed(Small()))
            for fresh in (base(), other()):
                strides = fresh.conv.weight.stride()
                sara.apply(fresh, self.path)
                self.check_same(fresh, weights(model))
                self.assertEqual(fresh.conv.weight.stride(), strides)
                sara.remove(fresh)
                self.check_same(fresh, weights(Small()))


if __name__ == "__main__":
    unittest.main()
