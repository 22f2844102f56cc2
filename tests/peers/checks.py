"""What the checks share: paths, figures against bounds, running sara."""
import os
import subprocess
import sys

TOP = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BASE = os.path.join(TOP, "examples/emoji/base")
EXPECTED = os.path.join(TOP, "examples/emoji/expected")


def check(name, value, bound, larger=False):
    ok = value >= bound if larger else value <= bound   # False for NaN
    print(f"{'ok  ' if ok else 'FAIL'} {name}: {value:.4g} "
          f"({'at least' if larger else 'at most'} {bound:g})", flush=True)
    if not ok:
        sys.exit(1)


def relative(a, b):
    return ((a.double() - b.double()).norm() / b.double().norm()).item()


def run(sara, *args):
    done = subprocess.run([sara, *args], capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"FAIL sara {' '.join(args)}: exit {done.returncode}: {done.stderr}")
    return done.stdout
