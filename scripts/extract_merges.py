"""The merges that CLIP uses, out of a wheel of open-clip-torch.

    python3 extract_merges.py WHEEL OUT
"""
import gzip
import os
import sys
import zipfile

MERGES = 49152 - 256 - 2  # as CLIP's simple_tokenizer takes them


def main():
    wheel, out = sys.argv[1:]
    with zipfile.ZipFile(wheel) as archive:
        lines = gzip.decompress(
            archive.read("open_clip/bpe_simple_vocab_16e6.txt.gz")).decode().split("\n")
    with open(out + ".part", "w", encoding="utf-8", newline="\n") as file:
        file.write("#version: 0.2\n" + "\n".join(lines[1:MERGES + 1]) + "\n")
    os.replace(out + ".part", out)


if __name__ == "__main__":
    main()
