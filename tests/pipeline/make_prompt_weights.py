"""Writes tests/golden/prompt_weights.json, prompt_states.safetensors and
prompt_latents.safetensors.

They hold how stable-diffusion-webui reads prompts, the states that it makes of them, and the
latents that diffusers draws from these with a small U-Net of random weights,
tests/golden/prompt_unet.

    pip install torch transformers diffusers safetensors lark
    python make_prompt_weights.py WEBUI

WEBUI is a checkout of AUTOMATIC1111/stable-diffusion-webui (made with 1.10.1). Its own parser,
chunks and weights run, on transformers' CLIPTextModel with the weights of examples/emoji/base.
"""

import json
import math
import os
import sys
import types

import diffusers
import torch
from safetensors.torch import save_file
from transformers import CLIPTextModel, CLIPTokenizer

HERE = os.path.dirname(os.path.abspath(__file__))
BASE = os.path.join(HERE, "..", "..", "examples", "emoji", "base")
GOLDEN = os.path.join(HERE, "..", "golden")

# A backslash before anything but a bracket is left out: sara keeps it, the webui does not.
PARSED = [
    "normal text", "an (important) word", "(unbalanced", "\\(literal\\]", "(unnecessary)(parens)",
    "a (((house:1.3)) [on] a (hill:0.5), sun, (((sky))).", "", " ", "(red:1.4) face", "(a)", "[a]",
    "((a))", "[[a]]", "(((a)))", "[[[a]]]", "(a:1.4)", "(a:1.4", "a:1.4)", "(:1.2)", "(a:b)",
    "(a:-1)", "(a:+2)", "(a:.5)", "(a:5.)", "(a:0)", "(a:1e3)", "(a: 1.2 )", "(a:\t1.2\n)",
    "(a :1.2)", "(a:1.2:1.3)", "(a:1,4)", "[a:1.4]", "[a:1.4)", "(a:1.4]", "(a] b)", "[a) b]",
    "(a [b) c]", "[a (b] c)", "\\(a\\)", "\\[a\\]", "(\\(a\\):1.5)", "(a\\)", "\\(a)",
    "(a) b (c:0.5), d", "()", "[]", "(())", "([])", "() a", "a ()b", "a(b)c", "un(believ)able",
    "un(believ:1)able", "(a:1)(b:1) c", "(a:1.21)((b))", "((a:1.1)) (b:1.21)", "(a)[b]", "([a])",
    "[(a)]", "([a:1.5])", "a:b", "a::b", ":", "::", ":)", ":(", ":-) (a", ":1.2)", "(a:1.2)) b",
    "((a:1.2) b", "(((a", "[[[a", "([a", "[(a b) c", ")a(", "]a[", "))((", "a) (b) c)",
    "(\u5f37\u8abf:1.3) \u30c6\u30b9\u30c8", "(\U0001f600:1.2) \U0001f44d\U0001f3fd",
    "(na\u00efve) caf\u00e9", "(a,b:1.2),c", "(a \u2003:\u30001.2\u2003)", "a | b", "[a|b]",
    "[a:b:0.5]", "[a:0.5]", "(a:[b]:1.2)", "red AND blue", "a BREAK b", "aBREAK b", "a BREAKb",
    "a_BREAK b", "BREAK", "BREAK a", "a BREAK", "a BREAK BREAK b", "a,BREAK,b", "a\nBREAK\nb",
    "(a) BREAK [b]", "\u00e9BREAK a", "\u2014BREAK a", "(a:1.2) (b:1.2)", "(a:1.2)  (b:1.2)",
    "(" * 20 + "a" + ")" * 20, "[" * 20 + "a" + "]" * 20, "(" * 9 + "a" + "]" * 9 + ")" * 4,
    "{a} <b> (c)", "((a (b (c:1.5) d) e) f)", "(((((a:0.5) b:2) c:3) d) e:1.7)",
]  # fmt: skip

LONG = ", ".join(f"{n} face" for n in "red green blue grey pink gold dark cold warm wild".split())
CHUNKED = [  # 30 ids a chunk
    "", "a", "(red:1.4) face", "face, " * 15, "face, " * 16, LONG, f"({LONG}:1.2)", "face " * 30,
    "face " * 31, "face " * 75, "face, " + "face " * 40, "face " * 9 + ", " + "face " * 40,
    "face " * 10 + ", " + "face " * 40, "face " * 29 + ", face", "face " * 30 + ", face",
    "face " * 28 + ",,,, face", "," * 70, "a BREAK b", "BREAK", "BREAK BREAK", "a BREAK",
    "a BREAK BREAK", "BREAK a BREAK BREAK b", "face " * 30 + "BREAK b", LONG + " BREAK (dog:1.5)",
    "(red:1.4), " * 9 + "[a (dog), grinning cat and a long row of words without any end] face",
    "un(believ:1.3)able (\u5f37\u8abf:1.3)",
]  # fmt: skip

ENCODED = [
    ("weighted", "(winking:1.4) face, [red] (hat:0.3)"),
    ("negative", "(dog:-1.5) face"),
    ("zero", "(red:0) heart"),
    ("nested", "a ((big (red:1.3)) cat), \\(small\\)"),
    ("chunks", LONG + ", (smiling:1.6) [cat] BREAK (dog:1.2) face"),
]
DRAWN = [  # prompt, negative prompt; of one chunk each, of two, of two and one, of two and three
    ("a (winking:1.5) face, [hat], ((red))", "(blue:0.7) (dog)"),
    (LONG + ", (smiling:1.6) [cat]", ""),
    (LONG + ", (smiling:1.6) [cat]", "(blue:0.7) dog"),
    ("a (winking:1.3) face, [hat] BREAK ((red))", "dog BREAK (blue:1.2) BREAK cat"),
]
STEPS, SCALE = 8, 5.0
UNET = os.path.join(GOLDEN, "prompt_unet")


def stub_modules(webui):
    """What the webui's text encoder asks of the rest of it."""
    sys.path.insert(0, webui)
    options = types.SimpleNamespace(
        emphasis="Original", comma_padding_backtrack=20, CLIP_stop_at_last_layers=1,
        use_old_emphasis_implementation=False, textual_inversion_add_hashes_to_infotext=False,
    )  # fmt: skip
    stubs = {
        "devices": {"device": torch.device("cpu"), "torch_npu_set_device": lambda: None},
        "sd_hijack": {"StableDiffusionModelHijack": object, "model_hijack": None},
        "shared": {"opts": options},
    }
    package = types.ModuleType("modules")
    package.__path__ = [os.path.join(webui, "modules")]
    sys.modules["modules"] = package
    for name, values in stubs.items():
        module = types.ModuleType("modules." + name)
        module.__dict__.update(values)
        sys.modules["modules." + name] = module
        setattr(package, name, module)


def embedder(second):
    """The webui's for SD1.x; second: with OpenCLIP's activation and padding, as SD2.x has."""
    from modules import sd_hijack_clip

    text = CLIPTextModel.from_pretrained(
        os.path.join(BASE, "text_encoder"), dtype=torch.float32,
        **({"hidden_act": "gelu"} if second else {}),
    ).eval()  # fmt: skip
    tokenizer = CLIPTokenizer.from_pretrained(os.path.join(BASE, "tokenizer"))
    wrapped = torch.nn.Module()
    wrapped.transformer, wrapped.tokenizer = text, tokenizer
    database = types.SimpleNamespace(find_embedding_at_position=lambda tokens, at: (None, None))
    hijack = types.SimpleNamespace(embedding_db=database, extra_generation_params={})
    result = sd_hijack_clip.FrozenCLIPEmbedderWithCustomWords(wrapped, hijack)
    result.chunk_length = text.config.max_position_embeddings - 2
    result.id_pad = 0 if second else result.id_end
    return result


def chunks_of(first, text):
    chunks, _ = first.tokenize_line(text)
    return [{"ids": chunk.tokens, "weights": chunk.multipliers} for chunk in chunks]


def write_json(path, parsed, chunked):
    """A prompt a line."""

    def lines(rows):
        return ",\n".join(json.dumps(row, separators=(",", ":")) for row in rows)

    with open(path, "w", encoding="ascii") as file:
        file.write(f'{{"parsed":[\n{lines(parsed)}],\n"chunked":[\n{lines(chunked)}]}}\n')


def draw(pipe, first, start, prompt, negative):
    """The pipeline wants as many states of both prompts: each is repeated, which attention does not
    notice, since all weights of its softmax are then shared alike."""
    with torch.no_grad():
        states = [first([text]) for text in (prompt, negative)]
    length = math.lcm(*(s.shape[1] for s in states))
    states = [s.repeat(1, length // s.shape[1], 1) for s in states]
    return pipe(
        prompt_embeds=states[0], negative_prompt_embeds=states[1], latents=start.clone(),
        num_inference_steps=STEPS, guidance_scale=SCALE, output_type="latent",
    ).images  # fmt: skip


def small_unet():
    """That what the prompt says matters, the cross attention's results are enlarged."""
    torch.manual_seed(1)
    unet = diffusers.UNet2DConditionModel(
        sample_size=16, block_out_channels=(4, 8), layers_per_block=1, attention_head_dim=2,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"), cross_attention_dim=128,
        norm_num_groups=4,
    )  # fmt: skip
    with torch.no_grad():
        for name, weight in unet.named_parameters():
            if ".attn2.to_out." in name or ".attn2.to_v." in name:
                weight.mul_(3)
    return unet.eval()


def write_latents(path, first):
    unet = small_unet()
    unet.save_pretrained(UNET, safe_serialization=True)
    pipe = diffusers.StableDiffusionPipeline.from_pretrained(
        BASE, unet=unet, safety_checker=None, torch_dtype=torch.float32
    )
    pipe.set_progress_bar_config(disable=True)
    start = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(5))
    latents = torch.cat([draw(pipe, first, start, *row) for row in DRAWN])
    said = {"prompts": json.dumps(DRAWN), "steps": str(STEPS), "guidance_scale": str(SCALE)}
    save_file({"start": start, "latents": latents.contiguous()}, path, said)


def main():
    stub_modules(os.path.abspath(sys.argv[1]))
    from modules import prompt_parser

    parse = prompt_parser.parse_prompt_attention
    first, second = embedder(False), embedder(True)
    parsed = [{"text": text, "parts": parse(text)} for text in PARSED]
    chunked = [{"text": text, "chunks": chunks_of(first, text)} for text in CHUNKED]
    write_json(os.path.join(GOLDEN, "prompt_weights.json"), parsed, chunked)
    states = {}
    with torch.no_grad():
        for name, text in ENCODED:
            for kind, model in (("first", first), ("second", second)):
                states[f"{name}.{kind}"] = model([text])[0, ::4].contiguous().clone()
    save_file(
        states, os.path.join(GOLDEN, "prompt_states.safetensors"), {n: t for n, t in ENCODED}
    )
    write_latents(os.path.join(GOLDEN, "prompt_latents.safetensors"), first)


if __name__ == "__main__":
    main()
