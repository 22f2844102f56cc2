"""Writes tests/golden/embeddings: files of textual inversion, what diffusers makes of prompts with
them, and where A1111 finds them and how it cuts prompts into chunks.

    pip install torch diffusers transformers safetensors
    python make_embeddings.py ../golden/embeddings

diffusers: StableDiffusionPipeline with tests/golden/pipeline, StableDiffusionXLPipeline with
families/sdxl, load_textual_inversion(). Its prompts name embeddings as <...>; sara's, which are in
the metadata, by their files' names where those are A1111's. A pooled state is that at the end of
the text: with eos_token_id 2 transformers would take the largest id, which is an added token's.

A1111: EmbeddingDatabase.register_embedding_by_name() and find_embedding_at_position() of
modules/textual_inversion/textual_inversion.py and tokenize_line() of modules/sd_hijack_clip.py, in
a few lines; on transformers' tokenizer of examples/emoji/base. Where it moves what follows a comma
to the next chunk it leaves embeddings behind; no case has that.
"""
import json
import os
import sys

import torch
from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline
from safetensors.torch import load_file, save_file
from transformers import CLIPTokenizer

HERE = os.path.dirname(os.path.abspath(__file__))
GOLDEN = os.path.join(HERE, "..", "golden")
EMOJI = os.path.join(HERE, "..", "..", "examples", "emoji", "base", "tokenizer")

SD1 = {  # name: prompt as sara has it, as diffusers has it
    "single": ("red <cat-toy> x", "red <cat-toy> x"),
    "several": ("a bad-hands, x", "a <bad-hands>, x"),
    "both": ("<cat-toy> bad-hands b <cat-toy>", "<cat-toy> <bad-hands> b <cat-toy>"),
    "cut": ("eleven letter bad-hands", "eleven letter <bad-hands>"),
    "plain": ("red barn", "red barn"),
}
SDXL = {
    "xl": ("a red style, dragon", "a red <style>, dragon"),
    "xl_first": ("style", "<style>"),
    "xl_explicit": ("a cat, embedding:style dog", "a cat, <style> dog"),
}
STEPS, SCALE = 3, 4.0


def save(folder, name, tensors, dtype=torch.float32):
    path = os.path.join(folder, name + ".safetensors")
    os.makedirs(os.path.dirname(path), exist_ok=True)
    save_file({key: value.to(dtype).contiguous() for key, value in tensors.items()}, path)
    return path


def make_files(folder):
    g = torch.Generator().manual_seed(20)
    draw = lambda *shape: torch.randn(*shape, generator=g)
    return {
        "toy": save(folder, "sd1/learned_embeds", {"<cat-toy>": draw(8)}),
        "bad": save(folder, "sd1/bad-hands", {"emb_params": draw(3, 8)}, torch.float16),
        "xl": save(folder, "sdxl/style", {"clip_l": draw(2, 24), "clip_g": draw(2, 32)}),
    }


def record_sd1(files):
    pipe = StableDiffusionPipeline.from_pretrained(os.path.join(GOLDEN, "pipeline"),
                                                   safety_checker=None, dtype=torch.float32)
    pipe.load_textual_inversion(files["toy"])
    pipe.load_textual_inversion(load_file(files["bad"]), token="<bad-hands>")
    out = {}
    for name, (_, prompt) in SD1.items():
        out[name] = pipe.encode_prompt(prompt, "cpu", 1, False)[0][0]
    start = torch.randn((1, 4, 8, 8), generator=torch.Generator().manual_seed(1))
    pipe.set_progress_bar_config(disable=True)
    out["start"] = start
    out["latents"] = pipe(SD1["single"][1], negative_prompt=SD1["several"][1],
                          latents=start.clone(), num_inference_steps=STEPS, guidance_scale=SCALE,
                          height=32, width=32, output_type="latent").images
    return out


def record_sdxl(files):
    pipe = StableDiffusionXLPipeline.from_pretrained(os.path.join(GOLDEN, "families", "sdxl"),
                                                     dtype=torch.float32)
    vectors = load_file(files["xl"])
    for key, tokenizer, text in (("clip_l", pipe.tokenizer, pipe.text_encoder),
                                 ("clip_g", pipe.tokenizer_2, pipe.text_encoder_2)):
        pipe.load_textual_inversion({"<style>": vectors[key]}, token="<style>", text_encoder=text,
                                    tokenizer=tokenizer)
        for module in text.modules():
            if hasattr(module, "eos_token_id"):
                module.eos_token_id = tokenizer.eos_token_id
    out = {}
    for name, (_, prompt) in SDXL.items():
        states, _, pooled, _ = pipe.encode_prompt(prompt, device="cpu",
                                                  do_classifier_free_guidance=False)
        out[name] = states[0][::2]  # every other one
        out[name + ".pooled"] = pooled[0]
    return out


# ------------------------------------------------------------------------------------------ A1111

NAMES = {"toy": 3, "red toy": 2, "red": 1, "bad_hand-v2": 12, "Big": 29, "face": 30, "Hat": 1,
         "hat toy": 4}
CASES = [  # [text, weight] each
    [["a toy", 1.0]],
    [["a red toy, red hat", 1.0]],
    [["RED Toy tOy", 1.0]],
    [["toys toy's 'toy'", 1.0]],
    [["red\ntoy  red   toy", 1.0]],
    [["red, toy", 1.0]],
    [["a bad_hand-v25 bad_hand", 1.0]],
    [["a ", 1.0], ["toy", 1.2], [" x", 1.0]],
    [["a red", 1.0], [" toy", 1.3]],
    [["dog " * 29 + "toy x", 1.0]],
    [["dog " * 26 + "toy, red", 1.0]],
    [["dog " * 27 + "toy, x red toy", 1.0]],
    [["dog " * 28 + ", red", 1.0]],
    [["dog " * 10 + ", " + "dog " * 19 + "toy", 1.0]],
    [["dog " * 24 + ", " + "dog " * 5 + "toy", 1.0]],
    [["dog big dog", 1.0]],
    [["face dog face", 1.0]],
    [["dog dog, big, big", 1.0]],
    [["toy " * 12, 0.9]],
    [["a hat toy hat, toy hat", 1.0]],
]


def register(tokenize):
    lookup = {}
    for name in NAMES:
        ids = tokenize(name)
        lookup.setdefault(ids[0], []).append((ids, name))
    return {first: sorted(rows, key=lambda row: len(row[0]), reverse=True)
            for first, rows in lookup.items()}


def find(lookup, tokens, offset):
    for ids, name in lookup.get(tokens[offset], []):
        if tokens[offset:offset + len(ids)] == ids:
            return name, len(ids)
    return None, None


def chunks_of(tokenize, lookup, parts, comma, length):
    """Ids, and of vectors ["name", number]."""
    chunks, chunk, last_comma = [], [], -1

    def next_chunk():
        nonlocal chunk, last_comma
        chunks.append(chunk)
        chunk, last_comma = [], -1

    for text, weight in parts:
        tokens, position = tokenize(text), 0
        while position < len(tokens):
            token = tokens[position]
            if token == comma:
                last_comma = len(chunk)
            elif len(chunk) == length and last_comma != -1 and len(chunk) - last_comma <= 20:
                moved, chunk = chunk[last_comma + 1:], chunk[:last_comma + 1]
                assert all(isinstance(item[0], int) for item in moved), "A1111 loses embeddings"
                next_chunk()
                chunk = moved
            if len(chunk) == length:
                next_chunk()
            name, taken = find(lookup, tokens, position)
            if name is None:
                chunk.append([token, weight])
                position += 1
                continue
            if len(chunk) + NAMES[name] > length:
                next_chunk()
            chunk += [[[name, i], weight] for i in range(NAMES[name])]
            position += taken
    if chunk or not chunks:
        next_chunk()
    return chunks


def record_chunks():
    tokenizer = CLIPTokenizer.from_pretrained(EMOJI)
    tokenize = lambda text: tokenizer(text, add_special_tokens=False)["input_ids"]
    comma = tokenizer.get_vocab()[",</w>"]
    length = tokenizer.model_max_length - 2
    rows = [{"parts": parts,
             "chunks": chunks_of(tokenize, register(tokenize), parts, comma, length)}
            for parts in CASES]
    return {"names": NAMES, "length": length, "cases": rows}


def main():
    folder = sys.argv[1]
    files = make_files(folder)
    tensors = {**record_sd1(files), **record_sdxl(files)}
    prompts = {name: ours for name, (ours, _) in {**SD1, **SDXL}.items()}
    save_file({name: t.detach().contiguous().clone() for name, t in tensors.items()},
              os.path.join(folder, "expected.safetensors"), prompts)
    with open(os.path.join(folder, "chunks.json"), "w", encoding="utf-8") as file:
        json.dump(record_chunks(), file, separators=(",", ":"))
        file.write("\n")


if __name__ == "__main__":
    main()
