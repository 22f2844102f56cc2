"""Runs a command and appends one JSON line about it to a results file.

    python3 measure.py RESULTS KEY=VALUE... -- COMMAND...

The line holds the keys, the command's `wall_seconds` and `peak_gib` (its largest resident memory),
and under `result` the JSON object that it prints (null if it prints nothing). A command that fails,
or prints something else, leaves no line.
"""
import json
import resource
import subprocess
import sys
import time


def value(text):
    """Numbers as numbers."""
    try:
        return json.loads(text)
    except ValueError:
        return text


def parse_result(output):
    """The JSON object that a command printed, or None."""
    result = json.loads(output) if output.strip() else None
    if not isinstance(result, (dict, type(None))):
        raise ValueError("a JSON object was expected")
    return result


def measure(command):
    """What was measured. Ends the program if the command fails."""
    start = time.perf_counter()
    done = subprocess.run(command, stdout=subprocess.PIPE)
    seconds = time.perf_counter() - start
    if done.returncode:
        sys.exit(f"measure: exit code {done.returncode}: {' '.join(command)}")
    try:
        result = parse_result(done.stdout)
    except ValueError as error:
        sys.exit(f"measure: {error}: {' '.join(command)} printed {done.stdout[:200]}")
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20
    return dict(wall_seconds=round(seconds, 3), peak_gib=round(peak, 3), result=result)


def main():
    results, *rest = sys.argv[1:]
    split = rest.index("--")
    keys = {key: value(text) for key, text in (pair.split("=", 1) for pair in rest[:split])}
    line = {**keys, **measure(rest[split + 1:])}
    with open(results, "a") as file:
        file.write(json.dumps(line) + "\n")


if __name__ == "__main__":
    main()
