#!/usr/bin/env python3
"""Writes tests/fuzz/corpus, where fuzzing begins: small valid files of every kind and some that are
just not valid. Inputs named found-* once did harm and are kept by hand."""

import json
import math
import os
import struct

HERE = os.path.dirname(os.path.abspath(__file__))
TOP = os.path.dirname(os.path.dirname(HERE))
HASH = "00112233445566778899aabbccddeeff" * 2
SIZES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "U8": 1, "BOOL": 1}


def write(target, name, data):
    folder = os.path.join(HERE, "corpus", target)
    os.makedirs(folder, exist_ok=True)
    with open(os.path.join(folder, name), "wb") as file:
        file.write(data)


def safetensors(tensors, metadata=None):
    """tensors: name -> (dtype, shape, bytes)"""
    header, data = {"__metadata__": metadata} if metadata is not None else {}, b""
    for name, (dtype, shape, content) in sorted(tensors.items(), key=lambda t: -SIZES[t[1][0]]):
        offsets = [len(data), len(data) + len(content)]
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": offsets}
        data += content
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + data


def floats(*values):
    return struct.pack(f"<{len(values)}f", *values)


def make_safetensors():
    tensors = {
        "a": ("F32", [2, 3], floats(1, -2, 0, 0.5, 1e-30, 3e38)),
        "b": ("F16", [3], struct.pack("<3e", 1, -0.0, 65504)),
        "c": ("BF16", [1, 2], struct.pack("<2H", 0x3F80, 0xFF80)),
        "d": ("F64", [], struct.pack("<d", 1e300)),
        "e": ("U8", [0, 7], b""),
        "f": ("I64", [1], struct.pack("<q", -1)),
        "g": ("BOOL", [2], b"\0\1"),
    }
    whole = safetensors(tensors, {"format": "pt", "k\u00e4se": 'a "quoted" \\ text\n'})
    write("fuzz_safetensors", "whole", whole)
    write("fuzz_safetensors", "cut", whole[:-1])
    write("fuzz_safetensors", "empty", safetensors({}))
    write("fuzz_safetensors", "one", safetensors({"x": ("F32", [1], floats(1))}))
    text = rb'{"\u0041\ud83d\ude00":{"shape":[ ],"dtype":"U8","data_offsets":[ 0 , 1 ]}}  '
    write("fuzz_safetensors", "escapes", struct.pack("<Q", len(text)) + text + b"x")
    text = b'{"x":{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,4]}}'
    write("fuzz_safetensors", "overflow", struct.pack("<Q", len(text)) + text + b"1234")


def make_adapters():
    said = {"sara.format": "1", "sara.target": "unet", "sara.base_sha256": HASH}
    a = {"a.positions": ("U8", [3], b"\x00\x02\x05"), "a.values": ("F32", [3], floats(1, -2, 0.1))}
    b = {
        "b.weight.positions": ("U8", [2], b"\x07\x0b"),
        "b.weight.values": ("F16", [2], struct.pack("<2e", 0.5, -1)),
        "c.positions": ("U8", [1], b"\x02"),
        "c.values": ("BF16", [1], struct.pack("<H", 0x3F80)),
    }
    write("fuzz_adapter", "one", safetensors(a, said))
    write("fuzz_adapter", "all", safetensors({**a, **b}, {**said, "sara.selected": "6"}))
    other = {**said, "sara.base_sha256": "f" * 64}
    write("fuzz_adapter", "other-base", safetensors(b, other))
    rounded = {**other, "sara.base_precision": "fp16"}
    write("fuzz_adapter", "other-precision", safetensors(b, rounded))
    beyond = {**a, "a.positions": ("U8", [7], b"\x00\x02\xff\xff\xff\xff\x0e")}
    write("fuzz_adapter", "beyond", safetensors(beyond, said))
    none = {"a.positions": ("U8", [0], b""), "a.values": ("F32", [0], b"")}
    write("fuzz_adapter", "no-entries", safetensors(none, said))
    write("fuzz_adapter", "no-tensors", safetensors({}, said))
    lora = {"x.lora_down.weight": ("F32", [1], floats(0))}
    write("fuzz_adapter", "lora", safetensors(lora, {"ss_v2": "False"}))
    write("fuzz_adapter", "newer", safetensors(a, {**said, "sara.format": "2"}))


def make_loras():
    def put(name, tensors, metadata=None):
        write("fuzz_lora", name, safetensors(tensors, metadata))

    def pair(key, rank, out, into, down=".lora_down.weight", up=".lora_up.weight"):
        return {key + down: ("F32", [rank, *into], floats(*[0.5] * (rank * math.prod(into)))),
                key + up: ("F32", [out, rank], floats(*[0.25] * (out * rank)))}

    a = pair("lora_unet_a_to_q", 2, 4, [3])
    b = pair("lora_unet_b", 1, 2, [1, 2, 2])
    alpha = {"lora_unet_a_to_q.alpha": ("F32", [], floats(1))}
    put("kohya", {**a, **b, **alpha}, {"ss_v2": "False"})
    dora = {"lora_unet_a_to_q.dora_scale": ("F32", [1, 3], floats(1, 2, 3))}
    put("dora", {**a, **dora})
    mid = {"lora_unet_b.lora_mid.weight": ("F32", [1, 1, 2, 2], floats(1, 2, 3, 4))}
    put("mid", {**pair("lora_unet_b", 1, 2, [1]), **mid})
    put("whole", {"lora_unet_b.diff": ("F32", [2, 1, 2, 2], floats(*range(8))),
                  "lora_unet_b.diff_b": ("F32", [2], floats(1, 2))})
    peft = pair("base_model.model.a.to_q", 2, 4, [3], ".lora_A.weight", ".lora_B.weight")
    put("peft", peft)
    said = {"unet.r": 2, "unet.lora_alpha": 3, "unet.rank_pattern": {"^a.*$": 2},
            "unet.alpha_pattern": {"to_q": 1}, "unet.use_rslora": True}
    unet = pair("unet.a.to_q", 2, 4, [3], ".lora_A.weight", ".lora_B.weight")
    put("diffusers", unet, {"lora_adapter_metadata": json.dumps(said)})
    put("old", pair("a.processor.to_q", 2, 4, [3], "_lora.down.weight", "_lora.up.weight"))
    put("missing", {**a, **pair("lora_te2_x", 1, 1, [1])})
    put("loha", {"lora_unet_b.hada_w1_a": ("F32", [1], floats(1))})


def read(*names):
    with open(os.path.join(TOP, *names), "rb") as file:
        return file.read()


def compact(data):
    return json.dumps(json.loads(data), separators=(",", ":")).encode()


def make_embeddings():
    def put(name, tensors):
        write("fuzz_lora", "embedding-" + name, safetensors(tensors))

    pair = {"clip_l": ("F16", [1, 2], struct.pack("<2e", 0.5, 1)),
            "clip_g": ("F32", [1, 3], floats(1, 2, 3))}  # fmt: skip
    put("plain", {"emb_params": ("F32", [2, 2], floats(1, -2, 0.5, 0))})
    put("token", {"<b>": ("BF16", [2], struct.pack("<2H", 0x3F80, 0xFF80))})
    put("pair", {**pair, "t5xxl": ("F32", [1, 1], floats(1))})
    put("uneven", {**pair, "clip_g": ("F32", [3, 1], floats(1, 2, 3))})
    put("none", {"emb_params": ("F32", [0, 2], b"")})


def make_configs():
    golden = ("tests", "golden")
    for name, kind, path in [
        ("unet", b"u", (*golden, "unet_sd1", "config.json")),
        ("unet-lists", b"u", (*golden, "variants", "unet_lists", "config.json")),
        ("vae", b"v", (*golden, "vae", "config.json")),
        ("text", b"t", (*golden, "text_gelu", "config.json")),
        ("scheduler", b"s", ("examples", "emoji", "base", "scheduler", "scheduler_config.json")),
    ]:
        write("fuzz_config", name, kind + compact(read(*path)))
    betas = dict(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
    for name, more in {
        "DDIMScheduler": dict(clip_sample=False, set_alpha_to_one=False, steps_offset=1),
        "PNDMScheduler": dict(skip_prk_steps=True, steps_offset=1),
        "DDPMScheduler": dict(variance_type="fixed_small", prediction_type="v_prediction"),
        "EulerDiscreteScheduler": dict(use_karras_sigmas=True, timestep_spacing="trailing"),
        "EulerAncestralDiscreteScheduler": dict(rescale_betas_zero_snr=True),
    }.items():
        text = json.dumps({"_class_name": name, **betas, **more}, separators=(",", ":"))
        write("fuzz_config", name, b"s" + text.encode())
    write("fuzz_config", "flow", b's{"_class_name":"FlowMatchEulerDiscreteScheduler","shift":3.0}')
    write("fuzz_config", "numbers", b"j[1,-0,1.5e300,-9223372036854775808,true,null,{\"a\":{}}]")
    write("fuzz_config", "not-finite", b's{"lambda_min_clipped":-Infinity,"beta_start":NaN}')


def byte_symbols():
    """GPT-2's characters for bytes, as CLIP's vocabulary has them."""
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    rest = [b for b in range(256) if b not in plain]
    return [chr(b) for b in plain] + [chr(256 + i) for i in range(len(rest))]


def make_tokenizers():
    symbols = byte_symbols()
    tokens = symbols + [s + "</w>" for s in symbols] + ["ca", "cat</w>", "a-"]
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    vocab = {token: i for i, token in enumerate(tokens)}
    merges = "#version: 0.2\nc a\nca t</w>\na -\n".encode()
    config = compact(read("examples", "emoji", "base", "tokenizer", "tokenizer_config.json"))
    special = compact(read("examples", "emoji", "base", "tokenizer", "special_tokens_map.json"))
    added = json.dumps({"<new>": len(vocab)}).encode()
    text = json.dumps(vocab, separators=(",", ":"), ensure_ascii=False).encode()

    def put(name, *parts):
        write("fuzz_tokenizer", name, b"\0\n".join(parts))

    put("files", "a cat, CAT's \u00e9 <|endoftext|>".encode(), config, text, merges, b"", special)
    put("added", b"a <new> cat", config, text, merges, b"", special, added)
    put("no-vocab", b"a cat", config, b"", merges)
    put("small", b"ab", b'{"model_max_length":1000000000000000019884624838656}',
        b'{"a":0,"b":1,"a</w>":2}', b"#version: 0.2\n")  # fmt: skip
    whole = {
        "version": "1.0",
        "added_tokens": [
            dict(id=vocab[t], content=t, single_word=False, lstrip=False, rstrip=False,
                 normalized=False, special=True)
            for t in tokens[-2:]
        ],
        "normalizer": {"type": "Sequence", "normalizers": [
            {"type": "NFC"},
            {"type": "Replace", "pattern": {"Regex": "\\s+"}, "content": " "},
            {"type": "Lowercase"}]},
        "model": {"type": "BPE", "continuing_subword_prefix": "", "end_of_word_suffix": "</w>",
                  "unk_token": "<|endoftext|>", "vocab": vocab,
                  "merges": ["c a", "ca t</w>", ["a", "-"]]},
    }  # fmt: skip
    text = json.dumps(whole, separators=(",", ":"), ensure_ascii=False).encode()
    put("whole", b"a cat", config, b"", b"", text)


def make_prompts():
    """The first byte: 1 in chunks, 2 literal, 4 with embeddings abc, "abc b" and <b>."""
    for name, how, text in [
        ("weights", 0, "a (abc:1.4) [ab], ((c))"),
        ("chunks", 1, "ab, abc, (c:.5) a, b BREAK [abc"),
        ("literal", 2, "(ab:1.2) \\("),
        ("escapes", 1, "\\(a\\) \\\\(b\\[:1.2)\\"),
        ("editing", 0, "[a:b:0.5] [a|b] AND (c: -1 )"),
        ("unbalanced", 1, "a) ([b) c:1.2) ((("),
        ("unicode", 1, "(\u5f37\u8abf:1.3),BREAK\u00e9 \u2003"),
        ("refused", 0, "(a:1.2.3) ((a:90):90)"),
        ("embeddings", 5, "a ABC, (abc b:1.2) <b>c embedding:b, embedding:abc.safetensors b's 'b"),
        ("no-embedding", 4, "a <c> embedding:, embedding:c"),
    ]:
        write("fuzz_prompt", name, bytes([how]) + text.encode())


if __name__ == "__main__":
    make_safetensors()
    make_adapters()
    make_loras()
    make_embeddings()
    make_configs()
    make_tokenizers()
    make_prompts()
