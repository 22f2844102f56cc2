#!/usr/bin/env python3
"""Records what becomes of captions by kohya's rules: make_captions.py > captions.json

The rules are those of sd-scripts' library/train_util.py (process_caption), as
docs/config_README-en.md describes them, with what they draw by the Philox of core/make_draws.py: a
number below n, one after the other. One thing is not kohya's: of several lines one is chosen before
prefix and suffix are put to it.
"""
import json
import os
import re
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "core"))
import make_draws  # noqa: E402

CAPTION, SEED = 16, 7  # the place in sara_purpose
TAGS = "1girl, solo , long hair,, blue eyes,smile"
LINES = "a {red|green|blue} barn\n\n  an {old|new} house \nplain"
CASES = [
    ({}, "a cat,  a dog"),
    ({"prefix": "ink style,", "suffix": "on paper"}, "a cat"),
    ({"prefix": "ink style, ", "suffix": " on paper"}, "a cat"),
    ({"dropout_rate": 0.4}, "a cat"),
    ({"dropout_every_n_epochs": 3, "prefix": "p"}, "a cat"),
    ({"shuffle": True}, TAGS),
    ({"shuffle": True, "keep_tokens": 2}, TAGS),
    ({"shuffle": True, "keep_tokens": 9}, TAGS),
    ({"tag_dropout_rate": 0.5}, TAGS),
    ({"shuffle": True, "tag_dropout_rate": 0.3, "keep_tokens": 1, "dropout_rate": 0.2}, TAGS),
    ({"shuffle": True, "keep_tokens_separator": "|||"}, "a, b ||| c, d,, e ||| f,, g"),
    ({"shuffle": True, "keep_tokens_separator": "|||", "keep_tokens": 1}, "a, b, c, d"),
    ({"keep_tokens_separator": "|||"}, "a ||| b"),
    ({"shuffle": True, "separator": ";", "secondary_separator": ";;;"}, "a;b;c;d;;;e"),
    ({"shuffle": True, "secondary_separator": ";;;"}, "a;;;b, c;;;d;;;e, f"),
    ({"wildcard": True}, "{a|b|c} and {d|e}, {{f|g}} {} { {h|i{j}"),
    ({"wildcard": True}, LINES),
    ({"wildcard": True, "prefix": "p,", "suffix": "{s|t}", "shuffle": True}, LINES),
    ({"wildcard": True, "shuffle": True}, "{red, round|blue}, x, y"),
]


class Draws:
    def __init__(self, element):
        self.element, self.drawn = element, 0

    def below(self, bound):
        self.drawn += 1
        return make_draws.below(bound, CAPTION, self.drawn - 1, self.element, SEED)[0]

    def chance(self, rate):
        return rate > 0 and self.below(2 ** 53) / 2 ** 53 < rate

    def choice(self, options):
        return options[self.below(len(options))]


def join(caption, rules, draws):
    if rules.get("wildcard") and "\n" in caption:
        caption = draws.choice([line.strip() for line in caption.split("\n") if line.strip()])
    prefix, suffix = rules.get("prefix", ""), rules.get("suffix", "")
    if prefix:
        caption = prefix + ("" if prefix[-1].isspace() else " ") + caption
    if suffix:
        caption += ("" if suffix[0].isspace() else " ") + suffix
    return caption


def wildcards(caption, draws):
    caption = caption.replace("{{", "\x01").replace("}}", "\x02")
    caption = re.sub(r"\{([^}]+)\}", lambda m: draws.choice(m.group(1).split("|")), caption)
    return caption.replace("\x01", "{").replace("\x02", "}")


def split(text, separator):
    return [tag.strip() for tag in text.split(separator)]


def tags(caption, rules, draws):
    separator, keep = rules.get("separator", ","), rules.get("keep_tokens_separator")
    first, last = [], []
    if keep and keep in caption:
        begin, flexible = caption.split(keep, 1)
        if keep in flexible:
            flexible, end = flexible.split(keep, 1)
            last = [tag for tag in split(end, separator) if tag]
        first = [tag for tag in split(begin, separator) if tag]
        flexible = [tag for tag in split(flexible, separator) if tag]
    else:
        flexible = split(caption.strip(), separator)
        count = rules.get("keep_tokens", 0)
        first, flexible = flexible[:count], flexible[count:]
    if rules.get("shuffle"):
        for i in reversed(range(1, len(flexible))):
            j = draws.below(i + 1)
            flexible[i], flexible[j] = flexible[j], flexible[i]
    flexible = [tag for tag in flexible if not draws.chance(rules.get("tag_dropout_rate", 0))]
    return ", ".join(first + flexible + last)


def make(rules, caption, element, epoch):
    draws = Draws(element)
    every = rules.get("dropout_every_n_epochs", 0)
    if draws.chance(rules.get("dropout_rate", 0)) or every and (epoch + 1) % every == 0:
        return ""
    caption = join(caption, rules, draws)
    if rules.get("wildcard"):
        caption = wildcards(caption, draws)
    if rules.get("shuffle") or rules.get("tag_dropout_rate", 0) > 0:
        caption = tags(caption, rules, draws)
    if rules.get("secondary_separator"):
        caption = caption.replace(rules["secondary_separator"], rules.get("separator", ","))
    return caption


def main():
    cases = [{"rules": rules, "caption": caption,
              "made": [make(rules, caption, element, element // 2) for element in range(8)]}
             for rules, caption in CASES]
    print(json.dumps(cases, indent=1))


main()
