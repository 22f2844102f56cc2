"""SD3, SD3.5 medium and large: small pipelines of their structure with random weights, which sara
trains, merges, exports and writes as single files, and diffusers reads; called by check.py.
"""
import json
import os
import shutil
import subprocess

import torch
from safetensors.torch import load_file, save_file

from check_sdxl import DISTANCE, Drawings, load_lora, train
from checks import TOP, check, relative, run
from single_files import check_equal, states

TOKENIZERS = os.path.join(TOP, "tests/golden/families")
JOINT, SIZE = 256, 64  # width of the texts' states; pixels
FILES = {"transformer": "diffusion_pytorch_model", "vae": "diffusion_pytorch_model"}


class Kind:
    """What tells the published models apart; heads are as many as layers, as in all of them."""

    def __init__(self, name, layers, norm, dual, t5):
        self.name, self.layers, self.norm, self.dual, self.t5 = name, layers, norm, dual, t5
        self.parts = ["transformer", "vae", "text_encoder", "text_encoder_2"]
        self.parts += ["text_encoder_3"] if t5 else []
        self.without = {} if t5 else {"text_encoder_3": None, "tokenizer_3": None}


KINDS = (Kind("SD3", 3, None, (), True), Kind("SD3.5 medium", 3, "rms_norm", (0, 1), False),
         Kind("SD3.5 large", 4, "rms_norm", (), True))


def make_text_encoder(second, tokenizer):
    """The first one's projection is the identity, as in the published models: single files lack
    it."""
    import transformers
    width = 128 if second else 64
    model = transformers.CLIPTextModelWithProjection(transformers.CLIPTextConfig(
        vocab_size=len(tokenizer), hidden_size=width, intermediate_size=96,
        num_hidden_layers=3, num_attention_heads=width // 64, projection_dim=width,
        max_position_embeddings=tokenizer.model_max_length, bos_token_id=0, eos_token_id=2,
        hidden_act="gelu" if second else "quick_gelu"))
    if not second:
        model.text_projection.weight.data = torch.eye(width)
    return model


def make_t5():
    import transformers
    return transformers.T5EncoderModel(transformers.T5Config(
        vocab_size=512, d_model=JOINT, d_kv=16, d_ff=96, num_layers=2, num_heads=4,
        feed_forward_proj="gated-gelu"))


def make_transformer(kind):
    import diffusers
    return diffusers.SD3Transformer2DModel(
        sample_size=SIZE // 8, patch_size=2, in_channels=16, out_channels=16,
        num_layers=kind.layers, num_attention_heads=kind.layers, attention_head_dim=64,
        joint_attention_dim=JOINT, caption_projection_dim=64 * kind.layers,
        pooled_projection_dim=192, pos_embed_max_size=12, qk_norm=kind.norm,
        dual_attention_layers=kind.dual)


def make_folder(kind, folder):
    import diffusers
    import transformers
    torch.manual_seed(17 + kind.layers)
    tokenizers = [
        transformers.CLIPTokenizer.from_pretrained(f"{TOKENIZERS}/sdxl/{name}")
        for name in ("tokenizer", "tokenizer_2")
    ]
    texts = [make_text_encoder(i, tokenizer) for i, tokenizer in enumerate(tokenizers)]
    texts.append(make_t5() if kind.t5 else None)
    third = transformers.AutoTokenizer.from_pretrained(f"{TOKENIZERS}/sd3/tokenizer_3")
    vae = diffusers.AutoencoderKL(block_out_channels=(32,) * 4,
                                  down_block_types=("DownEncoderBlock2D",) * 4,
                                  up_block_types=("UpDecoderBlock2D",) * 4, layers_per_block=2,
                                  latent_channels=16, sample_size=SIZE, scaling_factor=1.5305,
                                  shift_factor=0.0609, use_quant_conv=False,
                                  use_post_quant_conv=False)
    transformer = make_transformer(kind)
    with torch.no_grad():  # norms, biases and modulations that matter
        for module in (transformer, vae, *filter(None, texts)):
            for parameter in module.parameters():
                if parameter.ndim == 1:
                    parameter.add_(torch.randn_like(parameter) * 0.05)
    diffusers.StableDiffusion3Pipeline(
        transformer=transformer, vae=vae, text_encoder=texts[0], text_encoder_2=texts[1],
        text_encoder_3=texts[2], tokenizer=tokenizers[0], tokenizer_2=tokenizers[1],
        tokenizer_3=third if kind.t5 else None,
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0)).save_pretrained(folder)


def quiet(pipe):
    pipe.set_progress_bar_config(disable=True)
    if pipe.text_encoder_3:
        pipe.text_encoder_3.eval()  # diffusers leaves a single file's in training, with dropout
    return pipe


def pipeline(kind, folder):
    import diffusers
    return quiet(diffusers.StableDiffusion3Pipeline.from_pretrained(
        folder, torch_dtype=torch.float32, **kind.without))


class Model:
    """A kind's base, and what sara draws with it."""

    def __init__(self, sara, kind, work):
        self.sara, self.kind, self.name = sara, kind, kind.name
        self.work, self.base = work, f"{work}/base"
        self.drawings = Drawings(sara, work, channels=16)
        make_folder(kind, self.base)
        self.plain = self.ours(self.base)

    def ours(self, model, *options):
        return self.drawings.ours(model, *options)

    def theirs(self, pipe):
        return self.drawings.theirs(pipe)

    def pipeline(self, folder=None):
        return pipeline(self.kind, folder or self.base)

    def run(self, *args):
        return run(self.sara, *args)

    def same(self, what, ours, theirs):
        check(f"{self.name} {what}: latents", relative(ours, theirs), DISTANCE)

    def changes(self, what, ours):
        check(f"{self.name} {what}: change of the latents", relative(ours, self.plain),
              100 * DISTANCE, larger=True)


def check_merged(m, adapter):
    """Trained and merged, it draws in diffusers what it draws in sara."""
    merged = f"{m.work}/merged"
    m.run("merge", "-m", m.base, "--adapter", adapter, "-o", merged)
    ours = m.ours(merged)
    m.changes("merged", ours)
    m.same("merged", ours, m.theirs(m.pipeline(merged)))
    m.same("applied", m.ours(m.base, "--adapter", adapter), ours)
    return merged


# --------------------------------------------------------------------------------- single files


def part_state(folder, part):
    return states(folder, f"{part}/{FILES.get(part, 'model')}.safetensors")


def check_converters(m, single):
    """What diffusers' converters make of the file is what the folder holds."""
    from diffusers.loaders import single_file_utils as utils
    checkpoint = load_file(single)
    with open(f"{m.base}/vae/config.json") as file:
        vae = json.load(file)
    theirs = {
        "transformer": utils.convert_sd3_transformer_checkpoint_to_diffusers(dict(checkpoint)),
        "vae": utils.convert_ldm_vae_checkpoint(dict(checkpoint), vae),
        "text_encoder_3": utils.convert_sd3_t5_checkpoint_to_diffusers(dict(checkpoint))
    }
    for part, name in (("text_encoder", "clip_l"), ("text_encoder_2", "clip_g")):
        theirs[part] = utils.convert_ldm_clip_checkpoint(
            dict(checkpoint), remove_prefix=f"text_encoders.{name}.transformer.")
    for part in m.kind.parts:
        own = part_state(m.base, part)
        made = {k: v.reshape(own[k].shape) if k in own else v for k, v in theirs[part].items()
                if k != "encoder.embed_tokens.weight"}  # T5's table a second time
        check_equal(f"{m.name} {part} by diffusers", made, own)


def check_bare_file(m, single, loaded):
    """As published without text encoders, and the transformer alone without a prefix."""
    tensors, prefix = load_file(single), "model.diffusion_model."
    files = {
        "without encoders": {k: v for k, v in tensors.items() if not k.startswith("text_enc")},
        "transformer alone": {k.removeprefix(prefix): v for k, v in tensors.items()
                              if k.startswith(prefix)}
    }
    for what, kept in files.items():
        bare = f"{m.work}/bare.safetensors"
        save_file(kept, bare)
        m.same(f"file {what}", m.ours(bare, "--model_config", m.base), m.plain)
        pipe = type(loaded).from_single_file(
            bare, config=m.base, local_files_only=True,
            **{part: getattr(loaded, part) for part in m.kind.parts[1:]
               if part != "vae" or "alone" in what}, **m.kind.without)
        m.same(f"file {what} in diffusers", m.plain, m.theirs(quiet(pipe)))


def check_single_file(m):
    import diffusers
    single, back = f"{m.work}/single.safetensors", f"{m.work}/back"
    m.run("merge", "-m", m.base, "-o", single)
    check_converters(m, single)
    tokenizers = ("--model_config", m.base)
    check(f"{m.name} file: latents", relative(m.ours(single, *tokenizers), m.plain), 0)
    loaded = diffusers.StableDiffusion3Pipeline.from_single_file(
        single, config=m.base, local_files_only=True, **m.kind.without)
    m.same("file in diffusers", m.plain, m.theirs(quiet(loaded)))
    check_bare_file(m, single, loaded)
    m.run("merge", "-m", single, *tokenizers, "-o", back)
    for part in m.kind.parts:
        check_equal(f"{m.name} {part} there and back", part_state(back, part),
                    part_state(m.base, part))
    m.same("there and back", m.plain, m.theirs(m.pipeline(back)))
    return single


# --------------------------------------------------------------------------------------- LoRAs


def answer(transformer):
    """What it predicts of a noisy sample."""
    g = torch.Generator().manual_seed(9)
    with torch.no_grad():
        return transformer(torch.randn(2, 16, 8, 8, generator=g),
                           encoder_hidden_states=torch.randn(2, 20, JOINT, generator=g),
                           pooled_projections=torch.randn(2, 192, generator=g),
                           timestep=torch.tensor([300.0, 900.0])).sample


def load_peft(pipe, path):
    import peft
    pipe.transformer = peft.PeftModel.from_pretrained(pipe.transformer, path).merge_and_unload()
    return pipe


def check_loaded(m, what, path, load, merged, vectors=True):
    """In diffusers it makes of the base what the merged transformer is; without vectors: but for
    biases and norms, which a LoRA does not hold."""
    pipe, wanted = load(m.pipeline(), path), m.pipeline(merged)
    plain = m.pipeline().transformer
    if not vectors:
        state = plain.state_dict()
        wanted.transformer.load_state_dict(
            {k: v if v.ndim > 1 else state[k]
             for k, v in wanted.transformer.state_dict().items()})
    ours, base = answer(wanted.transformer), answer(plain)
    check(f"{m.name} {what}: change of the prediction", relative(ours, base), 100 * DISTANCE,
          larger=True)
    check(f"{m.name} {what}: prediction", relative(answer(pipe.transformer), ours), DISTANCE)
    m.same(what, m.ours(m.base, "--adapter", path), m.theirs(pipe))


def check_loras(m):
    """sara's own LoRAs, as trained and as exported."""
    for form, name, load in (("kohya", "lora.safetensors", load_lora), ("peft", "lora", load_peft)):
        out, merged = f"{m.work}/lora-{form}", f"{m.work}/merged-{form}"
        train(m.drawings, m.base, out, "--method", "lora", "--save_as", form, "--lora_targets",
              "all", "--lora_alpha", "6", "--rank", "3")
        m.run("merge", "-m", m.base, "--adapter", f"{out}/{name}", "-o", merged)
        check_loaded(m, f"lora {form}", f"{out}/{name}", load, merged)


def check_exports(m, adapter, merged):
    """Of a rank that holds all of a change."""
    for form, name, load in (("lora", "export.safetensors", load_lora),
                             ("peft", "export", load_peft)):
        m.run("export", adapter, "-m", m.base, "--format", form, "--rank", "1024",
              "--save_precision", "fp32", "-o", f"{m.work}/{name}")
        check_loaded(m, f"export {form}", f"{m.work}/{name}", load, merged, vectors=False)


def check_comfyui(m, adapter, single, merged):
    """Added to the single file's tensors, it gives the merged model's, by diffusers' converter. The
    other format for whole changes has no reader and is refused."""
    from diffusers.loaders import single_file_utils as utils
    path = f"{m.work}/comfyui.safetensors"
    m.run("export", adapter, "-m", m.base, "--format", "comfyui", "--save_precision", "fp32", "-o",
          path)
    tensors = {k: v for k, v in load_file(single).items() if "diffusion_model." in k}
    for key, change in load_file(path).items():
        layer, end = key.rsplit(".", 1)
        name = f"model.{layer}.{'bias' if end == 'diff_b' else 'weight'}"
        assert tensors[name].shape == change.shape, name
        tensors[name] = tensors[name] + change
    made = utils.convert_sd3_transformer_checkpoint_to_diffusers(tensors)
    wanted, base = part_state(merged, "transformer"), part_state(m.base, "transformer")
    check(f"{m.name} export comfyui: tensors", len(set(made) ^ set(wanted)), 0)
    norm = lambda a, b: sum((a[k].double() - b[k].double()).square().sum() for k in b).sqrt()
    check(f"{m.name} export comfyui: merged weights",
          (norm(made, wanted) / norm(base, wanted)).item(), 1e-6)
    done = subprocess.run([m.sara, "export", adapter, "-m", m.base, "--format", "a1111", "-o",
                           f"{m.work}/a1111.safetensors"], capture_output=True, text=True)
    check(f"{m.name} export a1111: not refused",
          int(done.returncode != 2 or "format comfyui" not in done.stderr), 0)


def check_sd3(sara, work):
    for kind in KINDS:
        folder = f"{work}/sd3"
        shutil.rmtree(folder, ignore_errors=True)
        os.makedirs(folder)
        m = Model(sara, kind, folder)
        m.same("base", m.plain, m.theirs(m.pipeline()))
        train(m.drawings, m.base, f"{folder}/sara")
        adapter = f"{folder}/sara/adapter.safetensors"
        merged = check_merged(m, adapter)
        single = check_single_file(m)
        check_loras(m)
        check_exports(m, adapter, merged)
        check_comfyui(m, adapter, single, merged)
