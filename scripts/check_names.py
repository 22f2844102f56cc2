#!/usr/bin/env python3
"""Checks that no two files of src/ have a file-local function of the same name:
scripts/check_names.py [FOLDER]"""
import os
import re
import sys

TOP = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
SKIPPED = re.compile(r'//[^\n]*|/\*.*?\*/|"(?:\\.|[^"\\])*"|^[ \t]*#(?:\\\n|[^\n])*', re.S | re.M)
FUNCTION = re.compile(r"^static\s[\w\s*]*?\b(\w+)\s*\([^;{]*\)[^;{]*\{", re.M)


def functions(text):
    """Names of the file-local functions that a C text defines."""
    return set(FUNCTION.findall(SKIPPED.sub("", text)))


def check(texts):
    """One line for each name that several of the texts (path: text) define."""
    homes = {}
    for path, text in sorted(texts.items()):
        for name in functions(text):
            homes.setdefault(name, []).append(path)
    return [f"{name}: in {', '.join(paths)}" for name, paths in sorted(homes.items())
            if len(paths) > 1]


def read(folder):
    """Path: text of each C file of a folder."""
    texts = {}
    for where, _, names in os.walk(folder):
        for name in names:
            if name.endswith((".c", ".h", ".cu")):
                path = os.path.join(where, name)
                with open(path, encoding="utf-8") as file:
                    texts[os.path.relpath(path, folder)] = file.read()
    return texts


def main():
    texts = read(sys.argv[1] if len(sys.argv) > 1 else os.path.join(TOP, "src"))
    faults = check(texts)
    print("\n".join(faults) if faults else f"names: {len(texts)} files, all their own")
    return 1 if faults or not texts else 0


if __name__ == "__main__":
    sys.exit(main())
