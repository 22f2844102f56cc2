"""The methods that cpu_pytorch.py and gpu_pytorch.py compare, on U-Nets with random weights.

adamw    torch.optim.AdamW on all parameters
fused    the same with fused=True
masked   dense gradients, gathered at the mask, AdamW on the selected entries (peer_step.py)
lora16   PEFT's LoRA of rank 16 on the attention's projections
shira    PEFT's SHiRA: random entries of the linear layers, as many as sara selects in all
super    PEFT's Super-Tuning, bottom-k: the smallest entries of each linear layer, as many in all
sara     sara.adamw
linear   sara.adamw on the linear layers alone: as many entries as the two above, in the same layers
"""
import torch

from peer_step import Masked, threshold_for

RATE = 1e-4
METHODS = ("adamw", "fused", "masked", "lora16", "shira", "super", "sara", "linear")
CROSS, PLAIN = "CrossAttn{}Block2D", "{}Block2D"


def _blocks(kinds):
    down = [kind.format("Down") for kind in kinds]
    return dict(down_block_types=down, up_block_types=[k.format("Up") for k in reversed(kinds)])


_SD = dict(sample_size=64, layers_per_block=2, cross_attention_dim=768, attention_head_dim=8,
           **_blocks([CROSS] * 3 + [PLAIN]))
SHAPES = {
    "tiny": dict(sample_size=8, layers_per_block=1, cross_attention_dim=72, attention_head_dim=8,
                 norm_num_groups=8, block_out_channels=(72, 80), **_blocks([CROSS, PLAIN])),
    "small": dict(_SD, block_out_channels=(128, 256, 512, 512)),
    "sd15": dict(_SD, block_out_channels=(320, 640, 1280, 1280)),
    "sdxl": dict(sample_size=128, layers_per_block=2, cross_attention_dim=2048,
                 attention_head_dim=(5, 10, 20), block_out_channels=(320, 640, 1280),
                 transformer_layers_per_block=(1, 2, 10), use_linear_projection=True,
                 addition_embed_type="text_time", addition_time_embed_dim=256,
                 projection_class_embeddings_input_dim=2816, **_blocks([PLAIN, CROSS, CROSS]))}


def unet(shape, device="cpu", dtype=torch.float32):
    from diffusers import UNet2DConditionModel
    torch.manual_seed(0)
    with torch.device(device):
        model = UNet2DConditionModel(**SHAPES[shape]).train()
    return model if dtype == torch.float32 else model.to(dtype)


def noise_loss(model, shape, batch, latent):
    """A function without arguments: the loss of predicting random noise from random inputs."""
    device, dtype, wide = model.device, model.dtype, SHAPES[shape]["cross_attention_dim"]

    def normal(*sizes):
        return torch.randn(sizes, device=device, dtype=dtype)
    x, context, target = (normal(batch, 4, latent, latent), normal(batch, 77, wide),
                          normal(batch, 4, latent, latent))
    t = torch.randint(0, 1000, (batch,), device=device)
    more = {}
    if "addition_embed_type" in SHAPES[shape]:
        more["added_cond_kwargs"] = dict(text_embeds=normal(batch, 1280), time_ids=normal(batch, 6))

    def loss():
        return torch.nn.functional.mse_loss(model(x, t, context, **more).sample, target)
    return loss


def linear_weights(model):
    return {name: m.weight for name, m in model.named_modules() if isinstance(m, torch.nn.Linear)}


def _with_peft(method, model, count):
    from peft import LoraConfig, ShiraConfig, inject_adapter_in_model
    linear = linear_weights(model)
    if method == "lora16":
        config = LoraConfig(r=16, lora_alpha=16,
                            target_modules=["to_q", "to_k", "to_v", "to_out.0"])
    elif method == "shira":  # its entries are r (rows + columns) of each layer
        r = round(count / sum(sum(w.shape) for w in linear.values()))
        config = ShiraConfig(r=max(1, r), target_modules=list(linear), random_seed=0)
    else:
        from peft import SupertuningConfig
        share = count / sum(w.numel() for w in linear.values())
        config = SupertuningConfig(target_modules=list(linear), sparsity=1 - share,
                                   select_top=False)
    model.requires_grad_(False)
    inject_adapter_in_model(config, model)
    trained = [p for p in model.parameters() if p.requires_grad]
    return torch.optim.AdamW(trained, lr=RATE), sum(p.numel() for p in trained)


def make(method, model, fraction):
    """The optimiser, and how many entries it trains."""
    total = sum(p.numel() for p in model.parameters())
    if method in ("adamw", "fused"):
        return torch.optim.AdamW(model.parameters(), lr=RATE, fused=method == "fused"), total
    if method == "masked":
        optimizer = Masked(model, threshold_for(model, fraction), RATE)
        return optimizer, optimizer.selected
    if method in ("lora16", "shira", "super"):
        return _with_peft(method, model, round(fraction * total))
    import sara
    if method == "linear":
        names = [f"{name}.weight" for name in linear_weights(model)]
        optimizer = sara.adamw(model, count=round(fraction * total), include=names, lr=RATE)
    else:
        optimizer = sara.adamw(model, fraction=fraction, lr=RATE)
    return optimizer, sum(leaf.numel() for g in optimizer.param_groups for leaf in g["params"])
