"""PEFT beside the optimiser: LoRA in a model that was given to sara, before it and after it."""
import unittest
import warnings

import torch

from comparison import LoopCase, few, names_of, net, train, written

from peft import LoraConfig, get_peft_model, inject_adapter_in_model


def lora(model):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return get_peft_model(model, LoraConfig(r=4, target_modules=["0", "2"]))


def injected(model):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return inject_adapter_in_model(LoraConfig(r=4, target_modules=["0", "2"]), model)


class Lora(LoopCase):
    def test_injected_after(self):
        """PEFT freezes what sara trains: a line names one, or it goes on being trained."""
        for inject in (lora, injected):
            model = net()
            optimizer = few(model)
            train(model, optimizer, [0])
            around = inject(model)
            before = written(model)
            with warnings.catch_warnings(record=True) as told:
                warnings.simplefilter("always")
                try:
                    train(around, optimizer, range(1, 3))
                except (RuntimeError, ValueError) as error:
                    self.assertRegex(str(error), r"\A[^\n]*[02]\.(weight|bias)[^\n]*\Z")
                    continue
            moved = [n for n, p in model.named_parameters() if not torch.equal(p, before[n])]
            named = [str(w.message) for w in told if issubclass(w.category, UserWarning)]
            self.assertTrue(moved or any("0.weight" in line or "0.bias" in line
                                         for line in named), (inject.__name__, named))

    def test_injected_before(self):
        """What PEFT leaves trainable is what is looked through."""
        model = injected(net())
        optimizer = few(model)
        self.assertTrue(all("lora_" in name for name in names_of(optimizer)))
        train(model, optimizer, range(2))

    def test_base_weights_named_beside_lora(self):
        """The base's own parameters, thawed: names are those of the model as it stands."""
        model = injected(net())
        chosen = {n: p.requires_grad_() for n, p in model.named_parameters() if "lora_" not in n}
        optimizer = few(chosen)
        before = written(model)
        train(model, optimizer, range(2))
        self.assertFalse(torch.equal(dict(model.named_parameters())["0.base_layer.weight"],
                                     before["0.base_layer.weight"]))


if __name__ == "__main__":
    unittest.main()
