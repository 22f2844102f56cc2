"""Training with weights that stay on the disk, in whatever form the files hold them: the same bytes
as without."""

import array
import os
import shutil
import struct
import unittest

from support import BASE, EMOJI, UNET, Case, read_safetensors, sha256, write_safetensors

WEIGHTS = "diffusion_pytorch_model.safetensors"
TOKENIZER = ("--tokenizer", os.path.join(BASE, "tokenizer"))
STEPS = ("-t", "1", "--train_batch_size", "1", "--max_train_steps", "3", "--progressive_iter", "2",
         "--learning_rate", "1e-3", "--gradient_checkpointing")


def upper_bytes(data, size, keep):
    """The upper bytes of little-endian numbers of a size."""
    return b"".join(data[i + size - keep:i + size] for i in range(0, len(data), size))


class Offload(Case):
    def setUp(self):
        super().setUp()
        os.mkdir(self.path("data"))
        ink = os.path.join(EMOJI, "ink")
        for name in sorted(name for name in os.listdir(ink) if name.endswith(".png"))[:2]:
            shutil.copy(os.path.join(ink, name), self.path("data"))
        self.images = ("--train_data_dir", "data", "--instance_prompt", "a thing", "--resolution",
                       "32", "--trainable", "2%")

    def compare(self, name, *args):
        """Of both runs the adapter, and what the log says."""
        results = []
        for more in ((), ("--disk_offload",)):
            run = f"{name}-{len(results)}"
            self.ok("train", *args, *STEPS, *more, "-o", run)
            results.append(sha256(self.path(run, "adapter.safetensors")))
        self.assertEqual(*results, name)
        return results[0]

    def test_single_files(self):
        """Whole checkpoints under other names; also with the file's dtype in memory."""
        tuned = {}
        for dtype in ("fp16", "bf16", "fp32"):
            file = self.path(f"{dtype}.safetensors")
            self.ok("merge", "-m", BASE, "-o", file, "--dtype", dtype)
            for memory in ("fp32", "auto"):
                tuned[dtype, memory] = self.compare(f"{dtype}-{memory}", "-m", file, *TOKENIZER,
                                                    *self.images, "--weight_dtype", memory)
        self.assertNotEqual(tuned["bf16", "fp32"], tuned["fp16", "fp32"])

    def test_stored(self):
        """A U-Net's folder in each dtype that is read; fp8 with and without scales beside it."""
        tensors = read_safetensors(os.path.join(UNET, WEIGHTS))[0]
        replay = ("--replay", self.write_replay("replay.safetensors", 3), "--trainable", "20000")
        for dtype in ("BF16", "F16", "F8_E5M2", "scaled"):
            folder = self.path(dtype)
            shutil.copytree(UNET, folder)
            changed, scales = {}, {}
            for name, (_, shape, data) in tensors.items():
                halves = array.array("f", data)
                if dtype == "BF16":
                    changed[name] = (dtype, shape, upper_bytes(data, 4, 2))
                    continue
                halves = b"".join(struct.pack("<e", value) for value in halves)
                eight = dtype == "F8_E5M2" or (dtype == "scaled" and len(shape) == 2)
                changed[name] = (("F8_E5M2", shape, upper_bytes(halves, 2, 1)) if eight else
                                 ("F16", shape, halves))
                if eight and dtype == "scaled":
                    scale = array.array("f", [0.875]).tobytes()
                    scales[name.replace(".weight", ".scale_weight")] = ("F32", [1], scale)
            write_safetensors(os.path.join(folder, WEIGHTS), {**changed, **scales})
            self.compare(f"run-{dtype}", "--unet-only", folder, *replay)


if __name__ == "__main__":
    unittest.main()
