"""Writes tests/golden/lora: LoRA files as kohya, LyCORIS, diffusers and PEFT write them, for the
model of tests/golden/pipeline (SD1-like) and one like SD2, and what diffusers draws with them.

    pip install torch diffusers transformers peft safetensors
    python make_lora.py ../golden

What diffusers cannot load (lora_mid, dora_scale of inputs or of convolutions, whole differences) is
written out here from LyCORIS' formulas, and put into the pipeline's weights. kohya's names are its
documented ones: lora_unet_ or lora_te_, the module's path with underscores, lora_down, lora_up,
alpha; those in LDM's spelling are spelled out.
"""
import os
import shutil
import sys

import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from peft import LoraConfig, get_peft_model, inject_adapter_in_model
from peft.utils import get_peft_model_state_dict
from safetensors.torch import load_file, save_file
from transformers import CLIPTextConfig, CLIPTextModel

PROMPT, NEGATIVE, GUIDANCE, STEPS, SIDE = "a red barn", "grey", 3.0, 4, 8
TARGETS = ["to_q", "to_k", "to_v", "to_out.0"]
# LDM's names of the layers of a U-Net with three levels of one block.
LDM = {
    "conv_in": "input_blocks_0_0", "conv_out": "out_2", "time_embedding.linear_1": "time_embed_0",
    "down_blocks.0.resnets.0.conv1": "input_blocks_1_0_in_layers_2",
    "down_blocks.0.resnets.0.time_emb_proj": "input_blocks_1_0_emb_layers_1",
    "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q":
        "input_blocks_1_1_transformer_blocks_0_attn1_to_q",
    "down_blocks.0.downsamplers.0.conv": "input_blocks_2_0_op",
    "down_blocks.1.resnets.0.conv_shortcut": "input_blocks_3_0_skip_connection",
    "mid_block.attentions.0.proj_in": "middle_block_1_proj_in",
    "mid_block.resnets.1.conv2": "middle_block_2_out_layers_3",
    "up_blocks.1.attentions.1.transformer_blocks.0.ff.net.0.proj":
        "output_blocks_3_1_transformer_blocks_0_ff_net_0_proj",
    "up_blocks.1.upsamplers.0.conv": "output_blocks_3_2_conv",
}


class Maker:
    def __init__(self, golden):
        self.golden, self.out = golden, os.path.join(golden, "lora")
        self.expected, self.g = {}, torch.Generator().manual_seed(7)
        shutil.rmtree(self.out, ignore_errors=True)
        os.makedirs(self.out)
        self.start = torch.randn(1, 4, SIDE, SIDE, generator=self.g)
        self.expected["start"] = self.start

    def randn(self, *shape, size=0.3):
        return torch.randn(*shape, generator=self.g) * size

    def pipe(self, model="sd1"):
        folder = os.path.join(self.golden, "pipeline")
        parts = {}
        if model == "sd2":
            parts = {"unet": UNet2DConditionModel.from_pretrained(self.out + "/sd2/unet"),
                     "text_encoder": CLIPTextModel.from_pretrained(self.out + "/sd2/text_encoder")}
        pipe = StableDiffusionPipeline.from_pretrained(
            folder, scheduler=DDIMScheduler(
                beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012,
                clip_sample=False, set_alpha_to_one=False, steps_offset=1),
            torch_dtype=torch.float32, **parts)
        pipe.set_progress_bar_config(disable=True)
        pipe.check_inputs = lambda *_: None
        return pipe

    def draw(self, name, pipe):
        factor = pipe.vae_scale_factor
        self.expected[name] = pipe(
            latents=self.start.clone(), output_type="latent", prompt=PROMPT,
            negative_prompt=NEGATIVE, guidance_scale=GUIDANCE, num_inference_steps=STEPS,
            height=SIDE * factor, width=SIDE * factor).images
        print(name, self.expected[name].abs().mean().item(),
              (self.expected[name] - self.expected.get("sd1", self.expected[name])).abs().max())

    def save(self, name, tensors, metadata=None):
        save_file({k: v.contiguous() for k, v in tensors.items()}, f"{self.out}/{name}.safetensors",
                  metadata={"format": "pt", **(metadata or {})})

    # ------------------------------------------------------------------------------ the SD2-like

    def write_sd2(self):
        torch.manual_seed(5)
        unet = UNet2DConditionModel.from_pretrained(self.golden + "/pipeline/unet")
        config = dict(unet.config, use_linear_projection=True, attention_head_dim=[1, 2, 4])
        other = UNet2DConditionModel.from_config(config)
        other.save_pretrained(self.out + "/sd2/unet")
        text = CLIPTextConfig.from_pretrained(self.golden + "/pipeline/text_encoder")
        text.hidden_act = "gelu"
        CLIPTextModel(text).save_pretrained(self.out + "/sd2/text_encoder")

    # ------------------------------------------------------------------------------ kohya's files

    @staticmethod
    def layers(module):
        return {n: m for n, m in module.named_modules()
                if isinstance(m, (torch.nn.Linear, torch.nn.Conv2d))}

    def factors(self, module, rank):
        w = module.weight
        if w.dim() == 2:
            return self.randn(rank, w.shape[1]), self.randn(w.shape[0], rank)
        return (self.randn(rank, *w.shape[1:]), self.randn(w.shape[0], rank, 1, 1))

    @staticmethod
    def product(up, down, mid=None):
        up, down = up.flatten(1), down
        if mid is not None:
            return torch.einsum("or,rqhw,qi->oihw", up, mid, down.flatten(1))
        return (up @ down.flatten(1)).reshape(up.shape[0], *down.shape[1:])

    def kohya(self, pipe, ldm=None, text=True, pick=lambda n: True):
        """Every layer; ranks 1 to 3 in turns, alphas unlike them, of some none."""
        tensors = {}
        for prefix, part in (("lora_unet_", pipe.unet), ("lora_te_", pipe.text_encoder)):
            for i, (name, module) in enumerate(self.layers(part).items()):
                if (prefix == "lora_te_" and not text) or not pick(name):
                    continue
                flat = name.replace(".", "_")
                if prefix == "lora_te_" and not flat.startswith("text_model"):
                    flat = "text_model_" + flat
                if ldm and prefix == "lora_unet_":
                    if name not in ldm:
                        continue
                    flat = ldm[name]
                down, up = self.factors(module, 1 + i % 3)
                key = prefix + flat
                tensors[key + ".lora_down.weight"], tensors[key + ".lora_up.weight"] = down, up
                if i % 4:
                    tensors[key + ".alpha"] = torch.tensor(float([0.5, 1, 2][i % 3]))
        return tensors

    @staticmethod
    def one_alpha(tensors):
        """diffusers loses alphas of attention layers that are unlike the most common one."""
        for key in [k for k in tensors if k.endswith(".lora_down.weight")]:
            tensors[key.replace("lora_down.weight", "alpha")] = torch.tensor(1.5)
        return tensors

    def make_kohya(self):
        for model in ("sd1", "sd2"):
            pipe = self.pipe(model)
            self.draw(model, pipe)
            attention = [n for n in self.layers(pipe.unet)
                         if "attn" in n or "proj" in n or "ff" in n or "conv1" in n]
            keep = set(attention) | set(self.layers(pipe.text_encoder))
            tensors = self.kohya(pipe, pick=lambda n: n in keep)
            self.save(f"kohya_{model}", tensors,
                      {"ss_base_model_version": "sd_v1" if model == "sd1" else "sd_v2",
                       "ss_network_module": "networks.lora"})
            # diffusers gives alphas of text encoders to the wrong layers or to none: by hand.
            self.put(pipe, tensors)
            self.draw(f"kohya_{model}", pipe)
            if model == "sd1":
                loaded = self.pipe(model)
                unet = {k: v for k, v in tensors.items() if k.startswith("lora_unet_")}
                self.one_alpha(unet)
                loaded.load_lora_weights(dict(unet))
                self.draw("kohya_unet", loaded)
                self.save("kohya_unet", unet)

    def make_ldm(self):
        pipe = self.pipe()
        tensors = self.one_alpha(self.kohya(pipe, LDM, text=False))
        names = {v: k for k, v in LDM.items()}
        plain = {}
        for key, value in tensors.items():
            layer, end = key[len("lora_unet_"):].split(".", 1)
            plain["lora_unet_" + names[layer].replace(".", "_") + "." + end] = value
        pipe.load_lora_weights(plain)
        self.draw("kohya_ldm", pipe)
        self.save("kohya_ldm", tensors)

    # ------------------------------------------------------------------------------ written out

    def put(self, pipe, tensors, strength=1.0):
        """What LyCORIS makes of the weights; dora_scale's axis by its shape."""
        for prefix, part in (("lora_unet_", pipe.unet), ("lora_te_", pipe.text_encoder)):
            for name, module in part.named_modules():
                flat = name.replace(".", "_")
                if prefix == "lora_te_" and not flat.startswith("text_model"):
                    flat = "text_model_" + flat
                get = lambda end: tensors.get(f"{prefix}{flat}.{end}")
                with torch.no_grad():
                    if get("diff") is not None:
                        module.weight += strength * get("diff")
                    if get("diff_b") is not None:
                        module.bias += strength * get("diff_b")
                    if get("lora_down.weight") is None:
                        continue
                    w = module.weight
                    down, up = get("lora_down.weight"), get("lora_up.weight")
                    alpha = get("alpha")
                    scale = 1.0 if alpha is None else alpha.item() / down.shape[0]
                    product = self.product(up, down, get("lora_mid.weight"))
                    new = w + scale * product.reshape(w.shape)
                    dora = get("dora_scale")
                    if dora is not None and dora.shape[0] == w.shape[0]:
                        norm = new.flatten(1).norm(dim=1).reshape(-1, *[1] * (w.dim() - 1))
                        new = new * dora.reshape(norm.shape) / norm
                    elif dora is not None:
                        norm = new.transpose(0, 1).flatten(1).norm(dim=1)
                        norm = norm.reshape(1, -1, *[1] * (w.dim() - 2))
                        new = new * dora / norm
                    module.weight += strength * (new - w)

    def make_lycoris(self):
        pipe, tensors = self.pipe(), {}
        layers = self.layers(pipe.unet)
        block = "down_blocks.0.attentions.0.transformer_blocks.0."
        for i, name in enumerate(["conv_in", "down_blocks.1.resnets.0.conv2", block + "attn1.to_q",
                                  block + "attn2.to_k", "mid_block.resnets.0.conv1",
                                  "up_blocks.2.resnets.0.conv_shortcut", "conv_out"]):
            module, key = layers[name], "lora_unet_" + name.replace(".", "_")
            w, rank = module.weight, 2 + i % 2
            if w.dim() == 4 and w.shape[2] == 3 and i % 2 == 0:
                tensors[key + ".lora_down.weight"] = self.randn(rank, w.shape[1], 1, 1)
                tensors[key + ".lora_mid.weight"] = self.randn(rank, rank, 3, 3)
                tensors[key + ".lora_up.weight"] = self.randn(w.shape[0], rank, 1, 1)
            else:
                down, up = self.factors(module, rank)
                tensors[key + ".lora_down.weight"], tensors[key + ".lora_up.weight"] = down, up
            tensors[key + ".alpha"] = torch.tensor(1.5)
            ones = [1] * (w.dim() - 2)
            if i in (1, 2, 4):
                norm = w.detach().flatten(1).norm(dim=1)
                tensors[key + ".dora_scale"] = (norm * (1 + self.randn(norm.numel()).abs())
                                                ).reshape(-1, 1, *ones)
            elif i in (3, 5):
                norm = w.detach().transpose(0, 1).flatten(1).norm(dim=1)
                tensors[key + ".dora_scale"] = (norm * (1 + self.randn(norm.numel()).abs())
                                                ).reshape(1, -1, *ones)
        for name in ("mid_block.resnets.0.norm1", "mid_block.attentions.0.proj_out"):
            module = dict(pipe.unet.named_modules())[name]
            key = "lora_unet_" + name.replace(".", "_")
            tensors[key + ".diff"] = self.randn(*module.weight.shape)
            tensors[key + ".diff_b"] = self.randn(*module.bias.shape)
        self.save("lycoris", tensors)
        self.put(pipe, tensors)
        self.draw("lycoris", pipe)
        weak = self.pipe()
        self.put(weak, tensors, 0.6)
        self.draw("lycoris_0.6", weak)

    # ------------------------------------------------------------------------------ diffusers

    def fill(self, module):
        for name, p in module.named_parameters():
            if "lora_A" in name or "lora_B" in name:
                p.data = self.randn(*p.shape)
            elif "lora_magnitude" in name:
                p.data = p.data * (1 + self.randn(*p.shape).abs())

    def make_diffusers(self):
        """As its training scripts save, with the configs in the header and without."""
        pipe = self.pipe()
        pipe.unet.add_adapter(LoraConfig(
            r=2, lora_alpha=3, target_modules=TARGETS, rank_pattern={"attn2.to_k": 3},
            alpha_pattern={"attn2.to_k": 1.5, "mid_block.attentions.0.transformer_blocks.0.attn1"
                           ".to_q": 5}))
        config = LoraConfig(r=2, lora_alpha=1, target_modules=["q_proj", "out_proj", "fc1"],
                            use_rslora=True)
        pipe.text_encoder = inject_adapter_in_model(config, pipe.text_encoder)
        pipe.text_encoder.peft_config = {"default": config}
        self.fill(pipe.unet)
        self.fill(pipe.text_encoder)
        self.draw("diffusers", pipe)
        folder = self.out + "/tmp"
        self.save_new(pipe, folder)
        os.rename(folder + "/pytorch_lora_weights.safetensors", self.out + "/diffusers.safetensors")
        shutil.rmtree(folder)
        self.make_old(load_file(self.out + "/diffusers.safetensors"))

    @staticmethod
    def save_new(pipe, folder):
        from diffusers.training_utils import _collate_lora_metadata
        pipe.save_lora_weights(
            folder, unet_lora_layers=get_peft_model_state_dict(pipe.unet),
            text_encoder_lora_layers=get_peft_model_state_dict(pipe.text_encoder),
            **_collate_lora_metadata({"unet": pipe.unet, "text_encoder": pipe.text_encoder}))

    def make_old(self, new):
        """The same factors under the names that earlier versions wrote, every scale 1."""
        new = {k: v for k, v in new.items() if "attn2" in k or k.startswith("text")}
        ends = {"old": "_lora", "mid": ".lora", "text": ".lora_linear_layer"}
        for kind in ("old", "mid"):
            tensors = {}
            for key, value in new.items():
                text = key.startswith("text")
                end = ends["text" if text else kind]
                key = key.replace(".lora_A.weight", end + ".down.weight")
                key = key.replace(".lora_B.weight", end + ".up.weight")
                if kind == "old":
                    key = key.replace(".to_out.0_lora", ".to_out_lora")
                    if not text:
                        key = key.replace("attn2.", "attn2.processor.")
                tensors[key] = value
            self.save("diffusers_" + kind, tensors)
            pipe = self.pipe()
            pipe.load_lora_weights({k: v for k, v in tensors.items() if k.startswith("unet")})
            for key, value in tensors.items():  # transformers wants another version of PEFT
                if key.startswith("text_encoder.") and "down" in key:
                    module = dict(pipe.text_encoder.named_modules())[
                        key[len("text_encoder."):].split(".lora_linear_layer")[0]]
                    module.weight += tensors[key.replace("down", "up")] @ value
            self.draw("diffusers_" + kind, pipe)

    # ------------------------------------------------------------------------------ PEFT

    def make_peft(self):
        for name, options in {
            "peft": dict(r=2, lora_alpha=3, use_rslora=True, target_modules=TARGETS + ["conv1"],
                         rank_pattern={r"^down_blocks\.\d+\.resnets.*conv1$": 3},
                         alpha_pattern={"attn1.to_q": 1, r".*(attn2|nothing)\.to_v": 5}),
            "peft_dora": dict(r=2, lora_alpha=1, use_dora=True, target_modules=["to_q", "conv2"]),
        }.items():
            pipe = self.pipe()
            model = get_peft_model(pipe.unet, LoraConfig(**options))
            self.fill(model)
            pipe.unet = model.base_model.model
            self.draw(name, pipe)
            model.save_pretrained(f"{self.out}/{name}")
            os.remove(f"{self.out}/{name}/README.md")


def main():
    maker = Maker(sys.argv[1])
    with torch.no_grad():
        maker.write_sd2()
        maker.make_kohya()
        maker.make_ldm()
        maker.make_lycoris()
        maker.make_diffusers()
        maker.make_peft()
    save_file({k: v.contiguous() for k, v in maker.expected.items()},
              maker.out + "/expected.safetensors",
              metadata={"prompt": PROMPT, "negative_prompt": NEGATIVE, "steps": str(STEPS),
                        "guidance_scale": str(GUIDANCE)})


if __name__ == "__main__":
    main()
