#!/usr/bin/env python3
"""Checks that the Python package's structures are those of the library's headers, field by field:
scripts/check_structures.py [FOLDER]"""
import os
import re
import sys

TOP = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
OURS = re.compile(r'_structure\(\s*"(\w+)",\s*(.*?)\)', re.S)
THEIRS = re.compile(r"typedef struct \w+ \{(.*?)\n\} (\w+);", re.S)
COMMENT = re.compile(r"/\*.*?\*/", re.S)
FIELD = re.compile(r"\s*(.*?)(\w+)((?:,\s*\**\w+)*)", re.S)


def kind(declared):
    """"pointer", or the type's name as C has it."""
    return "pointer" if "*" in declared or declared.endswith("_fn") else declared.split()[-1]


def theirs(header, names):
    """name -> [(field, kind)] of those of a header's structs."""
    structs = {}
    for body, name in THEIRS.findall(COMMENT.sub("", header)):
        for line in filter(str.strip, body.split(";") if name in names else ()):
            declared, first, more = FIELD.fullmatch(line).groups()
            of = kind(declared.strip())
            structs.setdefault(name, []).extend(
                (field, of) for field in [first, *re.findall(r"\w+", more)])
    return structs


def ours(module):
    """The same of the package's text."""
    def of(declared):
        known = {"c_void_p": "pointer", "c_char_p": "pointer", "c_size_t": "size_t"}
        return known.get(declared, declared[len("c_"):] + "_t" * declared.endswith("64"))
    return {name: [(field, of(declared)) for field, declared in re.findall(r"(\w+)=(\w+)", fields)]
            for name, fields in OURS.findall(module)}


def read(*path):
    with open(os.path.join(*path), encoding="utf-8") as file:
        return file.read()


def main():
    top = sys.argv[1] if len(sys.argv) > 1 else TOP
    own = ours(read(top, "python/sara/_library.py"))
    headers = theirs(read(top, "include/sara.h") + read(top, "include/sara_tensors.h"), own)
    faults = [f"{name}: {fields} in python/sara/_library.py, {headers.get(name)} in include/"
              for name, fields in own.items() if fields != headers.get(name)]
    print("\n".join(faults) if faults else f"structures: {', '.join(own)} agree")
    return 1 if faults or not own else 0


if __name__ == "__main__":
    sys.exit(main())
