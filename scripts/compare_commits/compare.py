"""Runs each case with both programs and compares what they left: see compare_commits.sh."""

import argparse
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

TOP = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path.insert(0, os.path.join(TOP, "tests", "cli"))

import cases  # noqa: E402
import equal  # noqa: E402
import inputs  # noqa: E402

STEP = 3  # of the checkpoint from which a run goes on
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "2", "OMP_WAIT_POLICY": "passive"}


class Failed(Exception):
    """A command that did not end well."""


def run(program, args, folder):
    """What it printed."""
    done = subprocess.run([program, *args], cwd=folder, env=ENVIRONMENT, stdin=subprocess.DEVNULL,
                          capture_output=True, timeout=600)
    if done.returncode:
        lines = done.stderr.decode(errors="replace").splitlines() or ["nothing on stderr"]
        raise Failed(f"exit code {done.returncode}, {lines[-1]}")
    return done.stdout


def go_back(run_folder, from_folder):
    """A run folder as it was after the first checkpoint, copied from another if that is given."""
    if from_folder != run_folder:
        shutil.copytree(from_folder, run_folder)
    for name in ("adapter.safetensors", "report.html"):
        os.remove(os.path.join(run_folder, name))
    shutil.rmtree(os.path.join(run_folder, f"checkpoint-{2 * STEP}"))


class Comparison:
    def __init__(self, programs, folder):
        self.programs, self.folder, self.failures = programs, folder, 0
        self.inputs = inputs.Inputs(os.path.join(folder, "inputs"),
                                    lambda *args: run(programs[0], args, folder))
        self.new_keys = set()

    def report(self, word, name, *what):
        print(f"{word} {name}" + (": " + what[0] if what else ""), flush=True)
        for more in what[1:]:
            print(f"    {more}", flush=True)

    def missing(self, command):
        """Why a case cannot be run on this machine by any program; None: it can."""
        if "{emoji" in command and not os.path.exists(inputs.EMOJI):
            return f"{inputs.EMOJI} is not there"
        if "--mixed_precision" in command and not has_bf16():
            return "this processor has no AVX512-BF16"
        return None

    def run_side(self, side, args, folders, resume):
        """Why it failed; None: it did not."""
        program, folder = self.programs[side], folders[side]
        os.makedirs(folder)
        try:
            if side == 1 and resume == "own":
                run(program, args, folder)
            if side == 1 and resume:
                here = os.path.join(folder, "run")
                go_back(here, here if resume == "own" else os.path.join(folders[0], "run"))
                run(program, [*args, "--resume_from_checkpoint", "latest"], folder)
                return None
            printed = run(program, args, folder)
            if not resume:
                with open(os.path.join(folder, "stdout"), "wb") as file:
                    file.write(printed)
        except (Failed, OSError, subprocess.TimeoutExpired) as error:
            return f"{('before', 'after')[side]}: {error}"
        return None

    def run_sides(self, command, folders, resume):
        """Messages of the sides that failed. Both run at once where they can."""
        try:
            args = shlex.split(command.format_map(self.inputs))
        except (Failed, subprocess.TimeoutExpired) as error:
            return [f"before: {error}", "after: was not run"]
        with ThreadPoolExecutor(1 if resume == "before" else 2) as pool:
            failed = pool.map(lambda side: self.run_side(side, args, folders, resume), (0, 1))
            return [why for why in failed if why]

    def case(self, name, command, resume):
        folders = [os.path.join(self.folder, side, name.replace("/", "-"))
                   for side in ("before", "after")]
        failed = self.run_sides(command, folders, resume)
        found = equal.Findings()
        if not failed:
            equal.compare_folders(found, *folders)
        if failed or found.differences:
            self.failures += 1
            self.report("DIFFERS" if len(failed) != 2 else "FAILS", name,
                        *(failed or found.differences[:4]))
            if len(found.differences) > 4:
                print(f"    and {len(found.differences) - 4} more", flush=True)
        else:
            self.new_keys |= found.new_keys
            self.report("ok", name)
            for folder in folders:
                shutil.rmtree(folder)


def has_bf16():
    try:
        with open("/proc/cpuinfo") as file:
            return any("avx512_bf16" in line for line in file if line.startswith("flags"))
    except OSError:
        return False


def parse_args():
    parser = argparse.ArgumentParser(prog="scripts/compare_commits.sh")
    parser.add_argument("before")
    parser.add_argument("after")
    parser.add_argument("--only", metavar="REGEX", default="", help="cases whose name has it")
    parser.add_argument("--list", action="store_true", help="print the cases' names")
    parser.add_argument("--output", metavar="DIR", help="a new folder for what is written; "
                        "of cases that differ it stays (build-compare/out, always new)")
    return parser.parse_args()


def main():
    args, began = parse_args(), time.monotonic()
    chosen = {name: case for name, case in cases.all_cases().items() if re.search(args.only, name)}
    if args.list or not chosen:
        print("\n".join(chosen) if chosen else f"--only {args.only}: no case has it")
        return 0 if chosen else 2
    folder = args.output or os.path.join(TOP, "build-compare", "out")
    if not args.output:
        shutil.rmtree(folder, ignore_errors=True)
    print(f"before {args.before}\nafter  {args.after}\nfiles  {folder}", flush=True)
    comparison = Comparison([os.path.abspath(args.before), os.path.abspath(args.after)], folder)
    skipped = 0
    for name, (command, resume) in chosen.items():
        why = comparison.missing(command)
        if why:
            skipped += 1
            comparison.report("SKIPPED", name, why)
        else:
            comparison.case(name, command, resume)
    if comparison.new_keys:
        print(f"keys of {args.after} alone: {len(comparison.new_keys)}, e.g. "
              + ", ".join(sorted(comparison.new_keys)[:5]))
    print(f"{len(chosen)} cases: {len(chosen) - skipped - comparison.failures} equal, "
          f"{comparison.failures} not, {skipped} skipped; {time.monotonic() - began:.0f} s")
    return 1 if comparison.failures else 0


if __name__ == "__main__":
    sys.exit(main())
