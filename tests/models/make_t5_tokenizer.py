#!/usr/bin/env python3
"""A T5 tokenizer of few pieces, with a small table of characters, in both forms of file, and what
transformers makes of texts with it: tests/models/t5_tokenizer/. Needs sentencepiece and
transformers.

tokenizer.json is as transformers writes it; in the config two of the tokens take blanks with them.
"""
import io
import json
import os
import shutil
import sys
import tempfile

import sentencepiece
from transformers import T5TokenizerFast

WORDS = ("a photo of the red cat sits on dog's mat and runs in big green hats with blue "
         "dots").split()
RULES = [("\uff41", "a"), ("\ufb01", "fi"), ("\u00a0", " "), ("\u2581", " "), ("\t", " "),
         ("\n", " "), ("\u00bd", "1 2"), ("\uff1c", "<"), ("\uff1e", ">"),
         ("e\u0301", "\u00e9")]
TEXTS = ["", " ", "a red cat", "  the  big\tdog ", "\uff41 \ufb01ne ha\u00bdt",
         "caf\u00e9 cafe\u0301", "\u2581a\u2581cat", "x\u00a0y", "</s>", "the</s> cat",
         "<pad> dog <unk>", "a <extra_id_0> b <extra_id_1> c", "a<extra_id_0>b",
         "\uff1cextra_id_1\uff1e", "\uff1c/s\uff1e a", "zq zzqqz", "\u65e5\u672c a",
         "runs runs " * 20, "</S>", "a\u0001b", "dog's  <extra_id_2>  "]


def write_json(path, value):
    with open(path, "w", encoding="utf-8") as f:
        json.dump(value, f, ensure_ascii=False, separators=(",", ":"))
        f.write("\n")


def points(text):
    return " ".join(f"{ord(c):X}" for c in text)


def train(folder):
    model = io.BytesIO()
    with tempfile.NamedTemporaryFile("w", suffix=".tsv") as rules:
        for source, target in RULES:
            rules.write(f"{points(source)}\t{points(target)}\n")
        rules.flush()
        sentences = (" ".join(WORDS[i:] + WORDS[:i]) for i in range(len(WORDS)))
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=sentences, model_writer=model, vocab_size=60, model_type="unigram",
            pad_id=0, eos_id=1, unk_id=2, bos_id=-1, pad_piece="<pad>", eos_piece="</s>",
            unk_piece="<unk>", normalization_rule_tsv=rules.name, num_threads=1, minloglevel=2,
            hard_vocab_limit=False)
    with open(f"{folder}/spiece.model", "wb") as f:
        f.write(model.getvalue())


def token(content, strips=False):
    return {"content": content, "lstrip": strips, "normalized": False, "rstrip": strips,
            "single_word": False, "special": True}


def main():
    out = sys.argv[1]
    os.makedirs(out, exist_ok=True)
    train(out)
    with tempfile.TemporaryDirectory() as folder:
        shutil.copy(f"{out}/spiece.model", folder)
        T5TokenizerFast.from_pretrained(folder, extra_ids=3).save_pretrained(folder)
        whole = json.load(open(f"{folder}/tokenizer.json", encoding="utf-8"))
        count = len(whole["model"]["vocab"]) - 3
        decoder = {"0": token("<pad>"), "1": token("</s>"), "2": token("<unk>")}
        for i in range(3):
            decoder[str(count + i)] = token(f"<extra_id_{2 - i}>", i > 0)
        config = {"added_tokens_decoder": decoder, "eos_token": "</s>", "pad_token": "<pad>",
                  "unk_token": "<unk>", "extra_ids": 3, "model_max_length": 16,
                  "tokenizer_class": "T5Tokenizer"}
        write_json(f"{out}/tokenizer.json", whole)
        write_json(f"{out}/tokenizer_config.json", config)
        shutil.copy(f"{out}/tokenizer.json", folder)
        shutil.copy(f"{out}/tokenizer_config.json", folder)
        tokenizer = T5TokenizerFast.from_pretrained(folder)
        options = dict(padding="max_length", max_length=16, truncation=True)
        write_json(f"{out}/tokens.json", [
            {"text": t, "ids": tokenizer(t, **options).input_ids, "full": tokenizer(t).input_ids}
            for t in TEXTS])


if __name__ == "__main__":
    main()
