"""Adapters that are refused."""
import os
import pathlib
import struct
import unittest

import torch
from torch import nn

import sara
from adapter_files import AdapterCase, Small, hashed, tensors_of, trained, weights, write_file


class Refusing(AdapterCase):
    def test_another_base(self):
        a, other = self.saved("a"), self.saved("other", base=lambda: Small(seed=1))
        model = Small()
        for before in ({}, {a: 0.5}):
            sara.compose(model, before)
            now = weights(model)
            with self.refused(ValueError, other, hashed(Small(1))[:12], hashed(Small())[:12],
                              "force=True"):
                sara.compose(model, [(a, 1), (other, 1)])
            self.check_same(model, now)  # nor was the first one applied
            with self.refused(ValueError, other):
                sara.merge(model, other)
            self.check_same(model, now)
        sara.remove(model)
        self.check_same(model, weights(Small()))
        sara.compose(model, [(a, 1), (other, 1)], force=True)
        self.assertFalse(torch.equal(model.conv.weight, Small().conv.weight))
        sara.remove(model)
        self.check_same(model, weights(Small()))

    def test_the_base_in_another_precision(self):
        """Named where the files tell it; what counts are the values, not the dtype that they are
        held in."""
        kinds = dict(fp32=Small, fp16=lambda: Small().half(), bf16=lambda: Small().bfloat16())
        files = {precision: self.saved(precision, base=base) for precision, base in kinds.items()}
        for precision, path in files.items():
            self.assertEqual(tensors_of(path)[1]["sara.base_precision"], precision)
            for other, base in kinds.items():
                if other != precision:
                    with self.refused(ValueError, path, f"that in {precision}, this in {other}",
                                      "even the same model", "force=True"):
                        sara.apply(base(), path)
                    sara.apply(base(), path, force=True)
            sara.apply(kinds[precision]().float(), path)
        again = sara.adamw(Small().half().float(), fraction=0.2)
        again.save(self.path)
        self.assertEqual(tensors_of(self.path)[1]["sara.base_precision"], "fp16")
        with self.assertRaises(ValueError) as caught:
            sara.apply(Small(1), files["fp32"])
        self.assertNotIn("precision", str(caught.exception))
        write_file(self.path, {"gain": {0: 1.0}}, hashed(Small()))
        with self.refused(ValueError, "that in a precision that it does not tell, this in fp16"):
            sara.apply(Small().half(), self.path)
        write_file(self.path, {"gain": {0: 1.0}}, hashed(Small()),
                   **{"sara.base_precision": "float"})
        with self.refused(ValueError, self.path, "sara.base_precision", "float"):
            sara.apply(Small(), self.path)

    def test_the_precision_is_the_first_ones(self):
        """It goes with the state; one of an earlier version does not tell it, and nor does the file
        then."""
        model, optimizer = trained(Small().half())
        state = optimizer.state_dict()
        self.assertEqual(state["sara"]["base_precision"], "fp16")
        for known in (True, False):
            again = sara.adamw(Small().half().float(), fraction=0.2)
            if not known:
                del state["sara"]["base_precision"]
            again.load_state_dict(state)
            again.save(self.path)
            self.assertEqual(tensors_of(self.path)[1].get("sara.base_precision"),
                             "fp16" if known else None)
            self.assertEqual(tensors_of(self.path)[1]["sara.base_sha256"], hashed(Small().half()))

    def test_names_and_positions(self):
        good, base = self.saved("a"), hashed(Small())
        for parts, words in (({"conv.weight": {0: 1.0}, "conv.wait": {0: 1.0}},
                              ["conv.wait", "no such parameter"]),
                             # tied: table.weight
                             ({"head.weight": {0: 1.0}}, ["head.weight", "no such parameter"]),
                             ({"conv.weight": {3: 1.0, 216: 1.0}}, ["conv.weight", "216"]),
                             ({"gain": {1: 1.0}}, ["gain", "position 1"]),
                             ({"conv.weight": {0: 1.0, 2 ** 31: 1.0}},
                              ["conv.weight", str(2 ** 31)]),
                             ({"conv.weight": {2 ** 32 - 1: 1.0}},
                              ["conv.weight", str(2 ** 32 - 1)]),
                             ({"conv.weight": {2 ** 32: 1.0}}, ["conv.weight"]),
                             ({"conv.weight": {2 ** 63: 1.0}}, ["conv.weight"])):
            for force in (False, True):
                with self.subTest(parts=parts, force=force):
                    write_file(self.path, parts, base)
                    model = Small()
                    with self.refused(ValueError, self.path, *words):
                        sara.compose(model, [(good, 1), (self.path, 1)], force=force)
                    self.check_same(model, weights(Small()))
        write_file(self.path, {"conv.weight": {0: -0.0, 215: 2.0}, "gain": {0: 0.5}},
                   base)  # and the same writer's good file is taken
        model, expected = Small(), weights(Small())
        expected["conv.weight"].view(-1)[0] = -0.0
        expected["conv.weight"].view(-1)[215] = 2
        expected["gain"][...] = 0.5
        sara.apply(model, self.path)
        self.check_same(model, expected)

    def test_damaged(self):
        good, base, model = pathlib.Path(self.saved("a")).read_bytes(), hashed(Small()), Small()
        header = struct.unpack("<Q", good[:8])[0]
        for name, data in (("empty", b""), ("cut", good[:-1]), ("longer", good + b"x"),
                           ("header", good[:20]), ("text", b"not an adapter"),
                           ("zip", b"PK\3\4" + good),
                           ("length", struct.pack("<Q", header - 1) + good[8:]),
                           ("json", good[:8] + b"x" + good[9:])):
            with self.subTest(name=name):
                pathlib.Path(self.path).write_bytes(data)
                with self.refused(ValueError, self.path):
                    sara.apply(model, self.path)
        for name, parts, metadata in (("not finite", {"conv.weight": {0: float("nan")}}, {}),
                                      ("infinite", {"gain": {0: float("inf")}}, {}),
                                      ("fewer than it says", {"gain": {0: 1.0}},
                                       {"sara.selected": "2"}),
                                      ("another version", {"gain": {0: 1.0}},
                                       {"sara.format": "2"})):
            with self.subTest(name=name):
                write_file(self.path, parts, base, **metadata)
                with self.refused(ValueError, self.path):
                    sara.apply(model, self.path)
        self.check_same(model, weights(Small()))

    def test_no_adapter(self):
        for path, kind in ((os.path.join(self.folder, "missing.safetensors"), OSError),
                           (self.folder, ValueError)):
            with self.refused(kind, path):
                sara.apply(Small(), path)
        from safetensors.torch import save_file
        for tensors in ({"lora_unet_conv.lora_down.weight": torch.zeros(4, 3),
                         "lora_unet_conv.alpha": torch.ones(1)}, weights(nn.Linear(2, 2))):
            save_file(tensors, self.path)
            with self.refused(ValueError, self.path):
                sara.apply(Small(), self.path)


if __name__ == "__main__":
    unittest.main()
