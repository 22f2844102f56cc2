"""What step.sh --against measured: the best step and the least peak of both builds for each shape,
and whether this one takes more than is allowed.

    python3 against.py RESULTS.jsonl

Exit code 1 if it does. Needs the standard library alone.
"""
import sys
from collections import defaultdict

import table

TIME, MEMORY = 1.03, 1.01  # of the other build's, at most


def measured(lines, key):
    """{(latent, batch): {"this": the least, "other": the least}}"""
    found = defaultdict(dict)
    for line in lines:
        sides = found[line["latent"], line["batch"]]
        sides[line["run"]] = min(key(line), sides.get(line["run"], float("inf")))
    return found


def compare(lines):
    """A line of the table for each shape and measure: what, this, other, ratio, verdict."""
    measures = (("s / step", TIME, lambda line: line["result"]["best"]),
                ("GiB", MEMORY, lambda line: line["peak_gib"]))
    for name, most, key in measures:
        for (latent, batch), sides in measured(lines, key).items():
            share = sides["this"] / sides["other"]
            yield [f"{latent}x{latent}, batch {batch}", name, f"{sides['this']:.3f}",
                   f"{sides['other']:.3f}", f"{share:.3f}", f"{most:.2f}",
                   "met" if share <= most else "MISSED"]


def main():
    rows = list(compare(table.read(sys.argv[1])))
    print(table.markdown(["where", "what", "this", "other", "ratio", "must", "verdict"], rows),
          end="")
    return 0 if rows and all(row[-1] == "met" for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
