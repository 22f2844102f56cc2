"""diffusers' U-Net of SDXL and transformers of SD3: the golden replays, and adapters under the
names and with the base's hash that the sara program gives them."""
import json
import os
import unittest

import torch
from safetensors import safe_open
from safetensors.torch import load_file

import sara
from adapter_files import AdapterCase, decoded, hashed, tensors_of, weights
from support import relative

from diffusers import SD3Transformer2DModel, UNet2DConditionModel
from diffusers.optimization import get_scheduler

GOLDEN = os.path.join(os.path.dirname(os.path.abspath(__file__)), "../../tests/golden/families")
FAMILIES = os.environ.get("SARA_GOLDEN_FAMILIES", GOLDEN)


def xl_unet():
    return UNet2DConditionModel.from_pretrained(f"{FAMILIES}/sdxl/unet").train()


def sd3_transformer():
    folder = f"{FAMILIES}/sd35_medium/transformer"
    return SD3Transformer2DModel.from_pretrained(folder, torch_dtype=torch.float32).train()


def xl_loss(unet, replay, step, abar):
    """Of noise that SDXL's U-Net predicts, told of sizes and pooled text."""
    t = replay["timesteps"][step]
    a = abar[t].view(-1, 1, 1, 1)
    noise = replay["noise"][step]
    noisy = a.sqrt() * replay["latents"][step] + (1 - a).sqrt() * noise
    said = {"text_embeds": replay["pooled"][step], "time_ids": replay["time_ids"][step]}
    out = unet(noisy, t, replay["encoder_hidden_states"][step], added_cond_kwargs=said).sample
    return (out - noise).square().mean()


def sd3_loss(transformer, seed):
    """Of the velocity, on noise."""
    g, c = torch.Generator().manual_seed(seed), transformer.config
    latents, noise = torch.randn(2, 2, c.in_channels, 8, 12, generator=g)
    states = torch.randn(2, 7, c.joint_attention_dim, generator=g)
    pooled = torch.randn(2, c.pooled_projection_dim, generator=g)
    sigma = torch.tensor([0.3, 0.8]).view(-1, 1, 1, 1)
    out = transformer((1 - sigma) * latents + sigma * noise, states, pooled,
                      1000 * sigma.flatten()).sample
    return (out - (noise - latents)).square().mean()


class Families(AdapterCase):
    def check_round_trip(self, model, fresh, optimizer, target):
        """The file on the base gives the trained weights; its names and hash are the folder's."""
        optimizer.save(self.path)
        tensors, metadata = tensors_of(self.path)
        self.assertEqual(metadata["sara.target"], target)
        self.assertEqual(metadata["sara.base_sha256"], hashed(fresh))
        before = weights(fresh)
        changed = {name for name, p in weights(model).items() if not torch.equal(p, before[name])}
        held = {key.rsplit(".", 1)[0] for key in tensors}
        self.assertTrue(changed)
        self.assertLessEqual(changed, held)
        self.assertLessEqual(held, set(before))
        sara.apply(fresh, self.path)
        self.check_same(fresh, weights(model))
        sara.remove(fresh)
        self.check_same(fresh, before)
        return tensors

    def test_sdxl_replay(self):
        """Ten steps of SaRA, recorded of an implementation of its own."""
        path = f"{FAMILIES}/sdxl/train.safetensors"
        replay = load_file(path)
        with safe_open(path, "pt") as file:
            given = file.metadata()
        number = {key: float(value) for key, value in given.items() if value[0].isdigit()}
        betas = torch.linspace(number["beta_start"] ** 0.5, number["beta_end"] ** 0.5, 1000,
                               dtype=torch.float64) ** 2
        abar = (1 - betas).cumprod(0).float()
        unet = xl_unet()
        start = weights(unet)
        optimizer = sara.adamw(unet, threshold=number["threshold"], lr=number["learning_rate"],
                               weight_decay=number["adam_weight_decay"],
                               lambda_rank=number["lambda_rank"],
                               max_grad_norm=number["max_grad_norm"],
                               progressive_iter=int(number["progressive_iter"]),
                               rank_names=json.loads(given["rank_names"]))
        schedule = get_scheduler(given["lr_scheduler"], optimizer, num_warmup_steps=0,
                                 num_training_steps=len(replay["losses"]))
        for step, expected in enumerate(replay["losses"]):
            loss = xl_loss(unet, replay, step, abar)
            self.assertLessEqual(abs(loss.item() / expected.item() - 1), 1e-5)
            loss.backward()
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
            for column, key in (("grad_norms", "grad_norm"), ("rank_losses", "rank_loss")):
                theirs = replay[column][step].item()
                self.assertLessEqual(abs(optimizer.last[key] / theirs - 1), 1e-4, column)
        tensors = self.check_round_trip(unet, xl_unet(), optimizer, "unet")
        error = change = 0.0
        for name, before in start.items():
            at = replay[f"index.{name}"].long()
            self.assertEqual(decoded(tensors.get(f"{name}.positions", b"")), at.tolist(), name)
            theirs = replay[f"after.{name}"].double()
            ours = weights(unet)[name].flatten()[at].double()
            error += (ours - theirs).square().sum().item()
            change += (theirs - before.flatten()[at].double()).square().sum().item()
        self.assertLessEqual((error / change) ** 0.5, 2e-3)

    def test_sd3(self):
        """The table of positions is a buffer: it is neither trained nor in the file or the hash."""
        transformer = sd3_transformer()
        optimizer = sara.adamw(transformer, fraction=0.06, lr=1e-2, lambda_rank=0.01)
        for seed in range(3):
            sd3_loss(transformer, seed).backward()
            optimizer.step()
            optimizer.zero_grad()
        tensors = self.check_round_trip(transformer, sd3_transformer(), optimizer, "transformer")
        self.assertFalse([key for key in tensors if key.startswith("pos_embed.pos_embed")])
        self.assertIn("transformer_blocks.0.attn2.to_q.weight.values", tensors)
        before, after = sd3_transformer(), sd3_transformer()
        sara.apply(after, self.path)
        with torch.no_grad():
            self.assertGreater(abs(sd3_loss(after, 7) / sd3_loss(before, 7) - 1), 1e-4)
            self.assertLessEqual(relative(sd3_loss(after, 7), sd3_loss(transformer, 7)), 1e-6)


if __name__ == "__main__":
    unittest.main()
