"""Makes markdown tables of a results file: what was measured, and the bars.

    python3 table.py RESULTS.jsonl

Needs the standard library alone. Each line of the file is one run, as measure.py writes them;
README.md tells the keys.
"""
import json
import sys
from collections import defaultdict, namedtuple

# What runs must share to be one row; further runs of a row are further rounds.
Key = namedtuple("Key", "run latent batch budget threads")
# The peak of a row is its largest: memory is no matter of luck.
Row = namedtuple("Row", "best spread peak result")
# must, aim: upper bounds, None where there is none. measure: a function of Results that gives None
# if a run is missing.
Bar = namedtuple("Bar", "name where measure must aim percent")

SIXTEEN_BIT, CHECKPOINTING = "sara-16bit", "sara-16bit-checkpointing"
PEER = {"sara-images": "diffusers-images", "load": "read"}


class Results:
    """The rows of a results file."""

    def __init__(self, lines):
        runs = defaultdict(list)
        self.host = {}
        for line in lines:
            if line["run"] == "host":
                self.host = line
            else:
                runs[Key(*(line.get(field, 0) for field in Key._fields))].append(line)
        self.rows = {key: make_row(key.run, group) for key, group in runs.items()}

    def row(self, run, latent, batch):
        """With the main budget and number of threads; None if it was not measured."""
        return self.rows.get(Key(run, latent, batch, self.host["budget"], self.host["threads"]))

    def peer(self, key, run):
        """The row that runs `run` where `key` was run, with the main budget."""
        return self.rows.get(key._replace(run=run, budget=self.host["budget"]))

    def time(self, run, other, latent, batch):
        return ratio(self.row(run, latent, batch), self.row(other, latent, batch), "best")

    def memory(self, run, other, latent, batch):
        return ratio(self.row(run, latent, batch), self.row(other, latent, batch), "peak")

    def rank_share(self, latent, batch):
        """Of the step's time; the term is the same whatever the latents, and measured once."""
        return ratio(self.row("rank", 0, 0), self.row("sara", latent, batch), "best")


def seconds_of(run, line):
    """A run's best."""
    if run.startswith("read"):
        return line["wall_seconds"]
    return line["result"][{"load": "load_seconds", "rank": "rank_seconds"}.get(run, "best")]


def make_row(run, lines):
    seconds = [seconds_of(run, line) for line in lines]
    best = min(seconds)
    return Row(best, max(seconds) / best - 1, max(line["peak_gib"] for line in lines),
               lines[seconds.index(best)]["result"] or {})


def ratio(row, other, field):
    return getattr(row, field) / getattr(other, field) if row and other else None


# --------------------------------------------------------------------------------------------- bars


def step_bars(latent, batch, time, masked, memory, memory16, checkpointing, share):
    """The bars of one configuration; each argument is (must, aim), checkpointing and share are
    musts alone."""
    where = f"{latent}x{latent}, batch {batch}"

    def bar(name, measure, must, aim=None, percent=False):
        return Bar(name, where, measure, must, aim, percent)

    bars = [
        bar("time of a step / LoRA", lambda r: r.time("sara", "lora16", latent, batch), *time),
        bar("time of a step / masked", lambda r: r.time("sara", "masked", latent, batch), *masked),
        bar("memory / LoRA", lambda r: r.memory("sara", "lora16", latent, batch), *memory),
        bar("memory / LoRA, 16-bit weights",
            lambda r: r.memory(SIXTEEN_BIT, "lora16", latent, batch), *memory16),
        bar("time, 16-bit weights / fp32 weights",
            lambda r: r.time(SIXTEEN_BIT, "sara", latent, batch), 1.10)
    ]
    if checkpointing:
        bars += [bar("memory / LoRA, 16-bit weights and checkpointing",
                     lambda r: r.memory(CHECKPOINTING, "lora16", latent, batch), checkpointing),
                 bar("time / LoRA, 16-bit weights and checkpointing",
                     lambda r: r.time(CHECKPOINTING, "lora16", latent, batch), 1.3)]
    return bars + [
        bar("low-rank term / step", lambda r: r.rank_share(latent, batch), share, percent=True)
    ]


FULL, FUSED = "full", "full-fused"
# What PyTorch makes of each method; bars of time and memory.
METHODS = {"lora": ("lora16", (0.75, 0.65), 0.75), "dora": ("dora16", (1.0, None), 1.0),
           "shira": ("shira32", (1.0, None), 1.0),
           "adaptformer": ("adaptformer64", (1.0, None), 1.0),
           "ltsft": ("masked", (1.0, None), 1.0)}
BUDGETED = ("sara", "masked", "ltsft")  # runs that have a budget begin so


def method_bars(run):
    peer, time, memory = METHODS[run]
    return [Bar(f"time of a step of {run} / {peer}", "64x64, batch 1",
                lambda r: r.time(run, peer, 64, 1), *time, False),
            Bar(f"memory of {run} / {peer}", "64x64, batch 1",
                lambda r: r.memory(run, peer, 64, 1), memory, None, False)]


BARS = [
    *step_bars(64, 1, (1.0, 0.75), (0.55, 0.40), (0.90, 0.80), (0.65, 0.55), 0.50, 0.03),
    *step_bars(32, 1, (1.0, 0.80), (0.50, 0.40), (1.00, 0.90), (0.70, 0.60), None, 0.08),
    *step_bars(32, 4, (1.0, 0.75), (0.55, 0.45), (0.90, 0.80), (0.65, 0.55), 0.45, 0.04),
    *(Bar("time of a full step / PyTorch, fused", f"{latent}x{latent}, batch 1",
          lambda r, latent=latent: r.time(FULL, FUSED, latent, 1), must, None, False)
      for latent, must in ((64, 0.75), (32, 0.9))),
    *(bar for run in METHODS for bar in method_bars(run)),
    Bar("time of an image / diffusers", "512x512 pixels",
        lambda r: r.time("sara-images", "diffusers-images", 64, 1), 1.0, 0.9, False),
    Bar("loading / read in pieces", "U-Net, fp32", lambda r: r.time("load", "read", 0, 0), 1.5,
        None, False),
    Bar("loading / read into memory", "U-Net, fp32", lambda r: r.time("load", "read-whole", 0, 0),
        1.5, None, False),
]


FAMILIES = {"sdxl": "SDXL", "sd3-medium": "SD3-medium"}


def family_bars(shape, latent, run, what):
    """Of 16-bit weights with checkpointing on both sides."""
    where, ours, peer = f"{FAMILIES[shape]}, {latent}x{latent}", f"{run}-{shape}", f"peft-{shape}"
    return [Bar(f"time of a step{what} / LoRA", where, lambda r: r.time(ours, peer, latent, 1),
                1.0, 0.8, False),
            Bar(f"memory{what} / LoRA", where, lambda r: r.memory(ours, peer, latent, 1), 0.6, 0.5,
                False)]


BARS += [bar for shape in FAMILIES for latent in (64, 128)
         for run, what in (("sara", ""), ("sara_offload", ", weights on the disk"))
         for bar in family_bars(shape, latent, run, what)]


def verdict(value, bar):
    if value is None:
        return "not measured"
    if not value <= bar.must:  # NaN too
        return "MISSED"
    return "met" if bar.aim is None else "aim met" if value <= bar.aim else "must met"


def number(value, percent=False):
    if value is None:
        return "-"
    return f"{100 * value:.1f} %" if percent else f"{value:.2f}"


def bar_line(bar, results):
    value = bar.measure(results)
    return [bar.where, bar.name, number(value, bar.percent), number(bar.must, bar.percent),
            number(bar.aim, bar.percent), verdict(value, bar)]


# ------------------------------------------------------------------------------------------- tables


def step_line(key, row, results):
    lora = results.peer(key, "lora16")
    masked = results.peer(key, "masked") if key.budget == results.host["budget"] else None
    fused = results.peer(key, FUSED)
    trained = row.result.get("trainable")
    return [f"{key.latent}x{key.latent}", str(key.batch), key.run,
            f"{key.budget:g} %" if key.run.startswith(BUDGETED) else "-",
            f"{trained / 1e6:.1f}" if trained is not None else "-", str(key.threads),
            number(row.best), number(row.spread, True), number(ratio(row, lora, "best")),
            number(ratio(row, masked, "best")), number(ratio(row, fused, "best")),
            number(row.peak), number(ratio(row, lora, "peak")), number(ratio(row, fused, "peak"))]


def other_line(key, row, results):
    peer = results.peer(key, PEER.get(key.run))
    return [key.run, number(row.best), number(row.spread, True), number(ratio(row, peer, "best")),
            number(row.peak)]


def is_step(key):
    peers = [peer for peer, _, _ in METHODS.values()]
    return key.run in ("sara", SIXTEEN_BIT, CHECKPOINTING, FULL, FUSED, *METHODS, *peers)


def is_family(key):
    return key.run.split("-", 1)[-1] in FAMILIES


def processor_seconds(row):
    """Of the threads together, in the step that needed the fewest."""
    return min(row.result["processor_seconds"])


def family_line(key, row, results):
    """Processor seconds are those of the row's best round."""
    peer = results.peer(key, "peft-" + key.run.split("-", 1)[-1])
    share = processor_seconds(row) / processor_seconds(peer) if peer else None
    return [f"{key.latent}x{key.latent}", key.run, f"{row.result['trainable'] / 1e6:.1f}",
            number(row.best), number(row.spread, True), number(ratio(row, peer, "best")),
            number(processor_seconds(row)), number(share), number(row.peak),
            number(ratio(row, peer, "peak"))]


def markdown(header, lines):
    """A table; empty if there are no lines."""
    rows = [header, ["---"] * len(header), *lines] if lines else []
    return "".join("| " + " | ".join(row) + " |\n" for row in rows)


def sections(results):
    """The texts of the tables, in order."""
    steps = sorted((item for item in results.rows.items() if is_step(item[0])),
                   key=lambda item: (-item[0].latent, item[0].batch,
                                     item[0].threads != results.host["threads"], item[0].threads))
    others = [item for item in results.rows.items()
              if not is_step(item[0]) and not is_family(item[0])]
    families = [item for item in results.rows.items() if is_family(item[0])]
    yield markdown([
        "latents", "batch", "run", "budget", "M trained", "threads", "s / step", "spread",
        "/ lora16", "/ masked", "/ full-fused", "GiB", "/ lora16", "/ full-fused"
    ], [step_line(key, row, results) for key, row in steps])
    yield markdown(["run", "seconds", "spread", "/ peer", "GiB"],
                   [other_line(key, row, results) for key, row in others])
    yield markdown([
        "latents", "run", "M trained", "s / step", "spread", "/ peft", "processor s", "/ peft",
        "GiB", "/ peft"
    ], [family_line(key, row, results) for key, row in families])
    yield markdown(["where", "bar", "measured", "must", "aim", "verdict"],
                   [bar_line(bar, results) for bar in BARS])


def read(path):
    with open(path) as file:
        return [json.loads(line) for line in file]


def main():
    results = Results(read(sys.argv[1]))
    print(f"{results.host['cpu']}, {results.host['threads']} threads; "
          f"sara {results.host['commit']}\n")
    print("\n".join(text for text in sections(results) if text), end="")


if __name__ == "__main__":
    main()
