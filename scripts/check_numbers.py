#!/usr/bin/env python3
"""Checks that no text that the library reads or writes depends on the locale of the host program:
scripts/check_numbers.py [FOLDER of sources]. Numbers go through core/number.h, JSON through
io/json.c. A varargs function has to format with sara_print_args(), so its formats are free."""
import os
import re
import sys

TOP = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
FREE = {"cli"}  # of a program that sets no locale
SOURCES = (".c", ".h", ".cu", ".cuh", ".cpp", ".hpp", ".inc")

BANNED = [  # names, what stands in their place, where they belong
    (r"(__)?(strto(d|f|ld|f\d+x?)|ato[f]|(wcs|wcsto|sto)(d|f|ld))(_l)?", "sara_parse_double()",
     "core/number.c"),
    (r"\w*scanf\w*", "sara_parse_double() or strtoll()", None),
    (r"(__builtin_|_+)?v\w*printf\w*", "sara_print_args()", "core/number.c"),
    (r"strfrom[dfl]|strfmon(_l)?|q?[efg]cvt(_r)?|to_string|\w*stringstream", "sara_print()", None),
    (r"str(n?case(cmp|str)|coll|xfrm)(_l)?|to(lower|upper)(_l)?|is(alpha|alnum|space|blank|print|"
     r"punct|upper|lower|graph|cntrl)(_l)?|(mb|wc)s?r?to\w+", "ASCII, sara_text_same()", None),
    (r"(xpg_)?strerror(_[rl])?|perror", "sara_errno_text()", "core/number.c"),
    (r"(set|new|use|dup|free)locale|localeconv|nl_langinfo(_l)?", "sara_c_locale_enter()",
     "core/number.c"),
    (r"json_(load|dump)\w*|json_v?sprintf", "sara_json_parse() or sara_json_dump()", "io/json.c"),
]
PRINT = {  # the argument that is the format
    "printf": 0, "fprintf": 1, "dprintf": 1, "sprintf": 1, "asprintf": 1, "snprintf": 2,
    "strftime": 2,
}
CONVERSION = re.compile(
    r"%(?:\d+\$)?([-+ #0'I]*)(?:\*(?:\d+\$)?|\d+)?(?:\.(?:\*(?:\d+\$)?|-?\d*))?"
    r"(hh|ll|[hlLqjztw])?(.|$)", re.S)
TOKEN = re.compile(r'//[^\n]*|/\*.*?\*/|(?P<text>(?:u8|[uUL])?"(?:\\.|[^"\\])*")'
                   r"|(?P<quoted>'(?:\\.|[^'\\])+')|(?P<name>[A-Za-z_]\w*)|\d[\w.]*|(?P<other>\S)",
                   re.S)
MACRO = re.compile(r"^\s*#\s*define\s+(\w+)[ \t]+(.*)$", re.M)
KNOWN = {"JSON_INTEGER_FORMAT": ["lld"]}


def tokens(text):
    """(kind, text, line) of each token; comments are none."""
    found, line, counted = [], 1, 0
    for match in TOKEN.finditer(text):
        line += text.count("\n", counted, match.start())
        counted = match.start()
        if not match.group().startswith(("//", "/*")):
            kind = match.lastgroup or "number"
            found.append((kind, match.group(), line))
    return found


def spliced(text):
    """Joins lines that end in a backslash; their newlines come after, so that lines still count."""
    return re.sub(r"((?:[^\n]*\\\n)+)([^\n]*)",
                  lambda m: m[1].replace("\\\n", "") + m[2] + "\n" * m[1].count("\n"), text)


def literal(text):
    body = text[text.index('"') + 1:-1]
    return re.sub(r"\\(x[0-9a-fA-F]+|[0-7]{1,3}|.)", lambda m: (
        chr(int(m[1][1:], 16)) if m[1][0] == "x" and len(m[1]) > 1 else
        chr(int(m[1], 8)) if m[1][0] in "01234567" else m[1]), body, flags=re.S)


def arguments(found, at):
    """The tokens of each argument of the call whose "(" is found[at]."""
    out, depth = [[]], 0
    for token in found[at:]:
        depth += {"(": 1, "[": 1, "{": 1, ")": -1, "]": -1, "}": -1}.get(token[1], 0)
        if depth == 0:
            break
        if token[1] == "," and depth == 1:
            out.append([])
        else:
            out[-1].append(token)
    out[0] = out[0][1:]
    return out


def split(part, mark):
    depth = 0
    for i, token in enumerate(part):
        depth += {"(": 1, "?": 1 if mark == ":" else 0, ")": -1}.get(token[1], 0)
        if token[1] == mark and depth == 0:
            return part[:i], part[i + 1:]
        if token[1] == ":" and mark == ":":
            depth -= 1
    return None


def formats(part, macros, within=()):
    """What the format may be; None where it is no literal."""
    while len(part) > 1 and part[0][1] == "(" and part[-1][1] == ")":
        part = part[1:-1]
    choice = split(part, "?")
    if choice:
        both = split(choice[1], ":")
        sides = [formats(side, macros, within) for side in both] if both else [None]
        return None if None in sides else sides[0] + sides[1]
    text = ""
    for kind, word, _ in part:
        if kind == "text":
            text += literal(word)
        elif kind == "name" and word.startswith("PRI"):
            text += "d"
        elif kind == "name" and word in macros and word not in within:
            inner = formats(macros[word], macros, (*within, word))
            if inner is None or len(inner) != 1:
                return None
            text += inner[0]
        else:
            return None
    return [text] if part else None


def format_fault(name, text):
    for flags, length, letter in CONVERSION.findall(text):
        if name == "strftime":
            if letter not in "YmdHMSFTjZ%" or length or flags:
                return f"%{flags}{length}{letter} in"
        elif letter == "%":
            continue
        elif letter in "aAeEfFgG" or letter in "mSC" or (length == "l" and letter in "sc"):
            return f"%{length}{letter} in"
        elif "'" in flags or "I" in flags:
            return f"%{flags}{letter} in"
    return None


def print_fault(found, at, macros):
    name = re.sub(r"^_+(builtin_+)?|_chk$|_unlocked$", "", found[at][1])
    if at + 1 == len(found) or found[at + 1][1] != "(":
        attribute = at > 1 and found[at - 1][1] == "(" and "format" in found[at - 2][1]
        return None if attribute and name == "printf" else "another name for"
    parts = arguments(found, at + 1)
    index = PRINT.get(name)
    which = formats(parts[index], macros) if index is not None and index < len(parts) else None
    if which is None:
        return "a format that is no literal in"
    return next(filter(None, (format_fault(name, text) for text in which)), None)


def check(path, text, macros):
    """Faults of a file, whose path is below the sources' folder."""
    found, faults = tokens(spliced(text)), []
    for at, (kind, word, line) in enumerate(found):
        if kind != "name":
            continue
        where = f"{path}:{line}: "
        for names, instead, home in BANNED:
            if re.fullmatch(names, word):
                if path != home and not (path == "core/number.h" and home == "core/number.c"):
                    faults.append(f"{where}{word}: depends on the locale; use {instead}")
                break
        else:
            if re.fullmatch(r"\w*(?<!v)printf\w*|strftime(_l)?", word):
                fault = print_fault(found, at, macros)
                if fault:
                    faults.append(f"{where}{fault} {word}: depends on the locale; use sara_print()")
    return faults


def read_macros(texts):
    macros = {name: [("text", f'"{value}"', 0) for value in values]
              for name, values in KNOWN.items()}
    for text in texts:
        for name, value in MACRO.findall(spliced(text)):
            macros[name] = tokens(value)
    return macros


def main():
    root = sys.argv[1] if len(sys.argv) > 1 else os.path.join(TOP, "src")
    texts = {}
    for folder, _, names in os.walk(root):
        for name in names:
            path = os.path.relpath(os.path.join(folder, name), root)
            if name.endswith(SOURCES) and path.split(os.sep)[0] not in FREE:
                with open(os.path.join(root, path), encoding="utf-8") as f:
                    texts[path] = f.read()
    macros = read_macros(texts.values())
    faults = [fault for path in sorted(texts) for fault in check(path, texts[path], macros)]
    print("\n".join(faults) if faults else f"numbers: {len(texts)} files, no locale decides")
    return 1 if faults or not texts else 0


if __name__ == "__main__":
    sys.exit(main())
