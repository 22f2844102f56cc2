"""compare as its users call it, on the golden pipeline with a few steps a run. No time is judged.
SARA_LONG=1 kills a larger comparison at ten moments; else a small one at two."""

import copy
import fcntl
import json
import os
import random
import re
import shutil
import signal
import statistics
import subprocess
import time
import unittest

from support import (
    EMOJI,
    GOLDEN,
    INPUT,
    INTERRUPTED,
    IO,
    PROGRAM,
    SLOW,
    USAGE,
    Case,
    files_below,
    read_png,
)

MEASURED = ("seconds", "peak_bytes", "seconds_per_step")  # what differs from run to run
LONG = os.environ.get("SARA_LONG") == "1"


def lines(path, first, last):
    with open(path) as file:
        return "".join(file.readlines()[first:last])


def without_measured(value):
    if isinstance(value, dict):
        return {k: without_measured(v) for k, v in value.items() if k not in MEASURED}
    if isinstance(value, list):
        return [without_measured(v) for v in value]
    return value


def config_in(folder):
    """A comparison of one row in a folder; what it reads is made there."""
    prompts = os.path.join(EMOJI, "prompts.txt")
    for name, first, last in (("prompts", 0, 2), ("tuning", 10, 12), ("base", 20, 22)):
        with open(os.path.join(folder, name + ".txt"), "w") as file:
            file.write(lines(prompts, first, last))
    for name, beginning in (("ink", "u1f34"), ("ink-reference", "u1f33")):
        os.mkdir(os.path.join(folder, name))
        for image in os.listdir(os.path.join(EMOJI, name)):
            if image.startswith(beginning):
                shutil.copy(os.path.join(EMOJI, name, image), os.path.join(folder, name))
    return {
        "model": os.path.join(GOLDEN, "pipeline"),
        "output_dir": "out",
        "data": [
            {
                "name": "ink",
                "train_data_dir": "ink",
                "references": "ink-reference",
                "prompts": "prompts.txt",
                "tuning_prompts": "tuning.txt",
                "caption_prefix": "ink style, ",
            }
        ],
        "seeds": [1],
        "learning_rates": [0.01, 0.1, 0.5, 2],
        "train": {
            "max_train_steps": 2,
            "train_batch_size": 1,
            "trainable": "5%",
            "instance_prompt": "a thing",
        },
        "rows": [{"name": "sara"}],
        "eval": {"clip": os.path.join(EMOJI, "clip"), "fid": "clip", "kid_subsets": 3, "steps": 1},
        "base_prompts": "base.txt",
    }


class CompareCase(Case):
    def setUp(self):
        super().setUp()
        self.config = config_in(self.folder)

    def write_config(self, config=None, name="compare.json"):
        return self.write(name, json.dumps(config or self.config))

    def compare(self, *args, out="out"):
        return self.ok("compare", "--config", "compare.json", "-t", "1", "-o", out, *args)

    def result(self, out="out"):
        with open(self.path(out, "compare.json")) as file:
            return json.load(file)

    def table(self, out="out"):
        """table.md without what differs from run to run."""
        with open(self.path(out, "table.md")) as file:
            text = file.read()
        rows = [line.split(" | ") for line in text.split("\n")]
        dropped = [i for i, name in enumerate(rows[6]) if re.search("memory|a step", name)]
        self.assertEqual(len(dropped), 2, text)
        return [
            [cell for i, cell in enumerate(row) if i not in dropped] if len(row) > 10 else row
            for row in rows
        ]


class Refused(CompareCase):
    """Before anything runs, naming the key."""

    def setUp(self):
        super().setUp()
        self.config["rows"].append({"name": "lora", "method": "lora"})

    def changed(self, *path, value=None):
        config = copy.deepcopy(self.config)
        where = config
        for key in path[:-1]:
            where = where[key]
        if value is None:
            del where[path[-1]]
        else:
            where[path[-1]] = value
        return config

    def check(self, words, *path, value=None, code=INPUT):
        self.write_config(self.changed(*path, value=value))
        self.refused(code, ["compare.json", *words], "compare", "--config", "compare.json")
        self.assertFalse(os.path.exists(self.path("out")), path)

    def test_keys(self):
        self.check(["rowz", "no such key"], "rowz", value=1)
        self.check(["data[0]", "prompt", "no such key"], "data", 0, "prompt", value="a")
        self.check(["eval", "clipp", "no such key"], "eval", "clipp", value="a")
        self.check(["row sara", "trainabel", "training option"], "rows", 0, "trainabel", value=1)
        self.check(["train: seed", "seeds"], "train", "seed", value=1)
        self.check(["row lora: learning_rate:", "learning_rates"], "rows", 1, "learning_rate",
                   value=1e-3)

    def test_missing(self):
        self.check(["model is missing"], "model")
        self.check(["output_dir is missing"], "output_dir")
        self.check(["rows"], "rows")
        self.check(["seeds: 0 of them"], "seeds")
        self.check(["eval is missing"], "eval")
        self.check(["clip is missing"], "eval", "clip")
        self.check(["data[0]: tuning_prompts is missing"], "data", 0, "tuning_prompts")
        self.check(["base_prompts is missing"], "base_prompts")
        self.check(["rows[1]: name is missing"], "rows", 1, "name")

    def test_values(self):
        self.check(["model none", "not there"], "model", value="none")
        self.check(["references none", "no folder"], "data", 0, "references", value="none")
        os.mkdir(self.path("empty"))
        self.check(["data ink: train_data_dir: empty", "no images"], "data", 0, "train_data_dir",
                   value="empty")
        self.check(["data[0]: prompts", "none.txt"], "data", 0, "prompts", value="none.txt",
                   code=IO)
        self.write("one.txt", "a cat\n\n")
        self.check(["base_prompts one.txt", "1 prompt"], "base_prompts", value="one.txt")
        self.check(["train: expected an object"], "train", value="long")
        self.check(["choose_by loss", "vlhi, fid or clip_score"], "choose_by", value="loss")
        self.check(["pictures", "65"], "pictures", value=65)
        self.check(["seeds[0]", "whole number"], "seeds", value=[1.5])
        self.check(["seeds[0] and seeds[1]", "7"], "seeds", value=[7, 7])
        self.check(["row lora", "method lara", "no such method"], "rows", 1, "method", value="lara")
        self.check(["row lora", "method is no text"], "rows", 1, "method", value=5)
        self.check(["train: method is no text"], "train", "method", value=["sara"])
        self.check(["cost: methods"], "cost", value={"methods": "sara"})
        self.check(["strengths_row sora", "no row"], "strengths_row", value="sora")
        self.check(["strengths: no such key"], "strengths", value="0,1")
        self.check(["row sara", "trainable: 300%"], "rows", 0, "trainable", value="300%")
        self.check(["row sara", "--train_batch_size 0"], "rows", 0, "train_batch_size", value=0)
        self.check(["row lora", "mask", "method lora"], "rows", 1, "mask", value="random")
        self.check(["row sara", "max_train_steps", "expected a text"], "rows", 0,
                   "max_train_steps", value=[3])
        self.check(["two rows are named sara"], "rows", 1, "name", value="sara")
        self.check(["name base", "untouched"], "rows", 1, "name", value="base")
        self.check(["a/b", "folder"], "rows", 1, "name", value="a/b")
        self.check(["row sara", "groups"], "rows", 0, "groups", value=[])

    def test_eval(self):
        """What sara eval would refuse after the base's pictures are drawn."""
        for words, key, value in (
            ("fid foo", "fid", "foo"),
            ("fid dino: goes with dino", "fid", "dino"),
            ("dino none", "dino", "none"),
            ("clip_tokenizer none", "clip_tokenizer", "none"),
            ("inception none", "inception", "none"),
            ("inception: is of no use with fid clip", "inception", "compare.json"),
            ("sampling_method zz", "sampling_method", "zz"),
            ("guidance_scale", "guidance_scale", -1),
            ("kid_subset_size", "kid_subset_size", 1),
            ("kid_subsets", "kid_subsets", 0),
            ("clip_resize", "clip_resize", [1]),
            ("steps", "steps", "20"),
            ("width", "width", 0),
            ("seed", "seed", -1),  # drawn anew by each process
        ):
            self.check([f"compare.json: eval: {words}"], "eval", key, value=value)

    def test_sizes(self):
        """Those that the model does not take, by its configs."""
        wide = "width and height must be multiples of 4, the VAE's factor; the nearest are "
        self.check(["eval: size 30x32: ", wide + "28x32 and 32x32"], "eval",
                   value={**self.config["eval"], "width": 30, "height": 32})
        self.check(["row sara: resolution 33x33: ", wide + "32x32 and 36x36"], "train",
                   value={**self.config["train"], "resolution": 33})
        self.config["model"] = os.path.join(GOLDEN, "sd3_tiny")
        self.check(["eval: size 64x64: ", "8 to 56; the transformer has positions for no more"],
                   "eval", value={**self.config["eval"], "width": 64})
        self.check(["row sara: resolution 20x20: ", "multiples of 8, the VAE's factor 4 by the "
                    "transformer's 2"], "train", value={**self.config["train"], "resolution": 20})

    def test_fair(self):
        self.check(["row sara", "learning_rates: 3", "at least 4"], "learning_rates",
                   value=[1e-4, 1e-3, 1e-2])
        self.check(["row lora", "learning_rates: 1", "at least 4"], "rows", 1, "learning_rates",
                   value=[1e-4])
        self.check(["row sara", "learning_rates[1]", "more than the one before"], "learning_rates",
                   value=[1e-3, 1e-4, 1e-5, 1e-6])
        self.check(["row sara", "learning_rates[1]", "more than the one before"], "learning_rates",
                   value=[1e-3, 1.00000000001e-3, 1e-2, 1e-1])
        self.check(["row sara", "learning_rates[0]", "more than 0"], "learning_rates",
                   value=[0, 1e-4, 1e-3, 1e-2])
        self.write("tuning.txt", "a cat\n" + lines(self.path("prompts.txt"), 1, 2))
        self.check(["data ink", "both have", "does not use"], "seeds", value=[1])
        self.write("tuning.txt", "a cat\n  " + lines(self.path("prompts.txt"), 1, 2)[:-1] + " \n")
        self.check(["data ink", "both have", "does not use"], "seeds", value=[1])

    def test_command_line(self):
        self.refused(USAGE, "--config", "compare")
        self.refused(USAGE, "--cots", "compare", "--config", "compare.json", "--cots")


class Measured(CompareCase):
    """One comparison of two seeds, with a row that fails and a rate that diverges, looked at."""

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.whole = cls()
        cls.whole.setUp()
        cls.whole.config["seeds"] = [1, 2]
        cls.whole.config["rows"] = [
            {"name": "sara"},
            {"name": "full", "method": "full", "learning_rates": [0.01, 0.1, 1, 1000]},
            {"name": "bad", "trainable": "0.00000001%"},
        ]
        cls.whole.write_config()
        cls.done = cls.whole.compare()
        cls.found = cls.whole.result()

    @classmethod
    def tearDownClass(cls):
        cls.whole.doCleanups()
        super().tearDownClass()

    def row(self, name):
        return next(row for row in self.found["rows"] if row["name"] == name)["data"][0]

    @staticmethod
    def vlhi(fids, clips):
        def part(values, value):
            low, high = min(values), max(values)
            return (value - low) / (high - low) if high > low else 0

        return [1 - part(fids, f) + part(clips, c) for f, c in zip(fids, clips)]

    def test_output(self):
        out = self.whole.path("out")
        for name in ("table.md", "report.html", "compare.json"):
            self.assertTrue(os.path.isfile(os.path.join(out, name)))
            self.assertIn(name, self.done.out)
        self.assertEqual([name for name in files_below(out) if "checkpoint" in name], [])
        with open(os.path.join(out, "report.html")) as file:
            page = file.read()
        self.assertNotIn("<script", page)
        for words in ("Forgetting against adaptation", "Learning rates", "a thing", "data:image"):
            self.assertIn(words, page)

    def test_rates(self):
        """Of each row's grid the best by VLHI over that grid, on the tuning prompts."""
        for name, rates in (("sara", [0.01, 0.1, 0.5, 2]), ("full", [0.01, 0.1, 1, 1000])):
            row = self.row(name)
            self.assertEqual([entry["learning_rate"] for entry in row["grid"]], rates)
            reports = [e["tuning"]["report"] for e in row["grid"] if "tuning" in e]
            self.assertEqual(len(reports), 4 if name == "sara" else 3)
            scores = self.vlhi([r["fid"]["value"] for r in reports],
                               [r["clip_score"]["mean"] for r in reports])
            for entry, score in zip(row["grid"], scores):
                self.assertAlmostEqual(entry["score"], score, 9)
            best = scores.index(max(scores))
            self.assertEqual(row["learning_rate"], rates[best])
            self.assertEqual(row["at_edge"], best in (0, 3))
        diverged = self.row("full")["grid"][3]["train"]
        self.assertEqual(diverged["exit_code"], 6)
        self.assertIn("diverged", diverged["error"])

    def test_commands(self):
        """What each measurement is of."""
        row = self.row("full")
        folder = f"runs/full/ink/lr-{row['learning_rate']:g}-seed-2"
        seed = row["seeds"][1]
        self.assertEqual(seed["folder"], folder)
        self.assertEqual(seed["train"]["command"][-2:], ["--config", f"out/{folder}/run.json"])
        adaptation, forgetting = seed["adaptation"]["command"], seed["forgetting"]["command"]
        for command in (adaptation, forgetting):
            self.assertEqual(command[1], "eval")
            self.assertEqual(command[command.index("--denoiser") + 1], f"out/{folder}/run/unet")
        tuning = row["grid"][0]["tuning"]["command"]
        for command, prompts in ((adaptation, "prompts"), (forgetting, "base"), (tuning, "tuning")):
            self.assertEqual(command[command.index("--prompts") + 1], prompts + ".txt")
        for command in (adaptation, tuning):
            self.assertEqual(command[command.index("--prompt_prefix") + 1], "ink style, ")
        self.assertEqual(adaptation[adaptation.index("--references") + 1], "ink-reference")
        self.assertNotIn("--prompt_prefix", forgetting)
        for option in ("--references", "--before"):
            self.assertEqual(forgetting[forgetting.index(option) + 1], "out/base/forgetting")
        with open(self.whole.path("out", folder, "run.json")) as file:
            config = json.load(file)
        self.assertEqual((config["seed"], config["learning_rate"], config["method"]),
                         (2, row["learning_rate"], "full"))
        self.assertEqual(seed["train"]["entries"], 24964)
        self.assertEqual(seed["train"]["result_bytes"],
                         sum(os.path.getsize(self.whole.path("out", folder, "run/unet", name))
                             for name in files_below(self.whole.path("out", folder, "run/unet"))))

    def test_numbers(self):
        values = {}
        for name in ("sara", "full"):
            row = self.row(name)
            for part, key, field, metric in (
                ("adaptation", "fid", "value", "fid"),
                ("adaptation", "kid", "mean", "kid"),
                ("adaptation", "clip_score", "mean", "clip_score"),
                ("forgetting", "clip_score", "mean", "base_clip_score"),
                ("forgetting", "fid", "value", "base_fid"),
                ("forgetting", "drift", "mean", "drift"),
            ):
                each = [seed[part]["report"][key][field] for seed in row["seeds"]]
                self.assertEqual(len(each), 2)
                summary = row["summary"][metric]
                self.assertAlmostEqual(summary["mean"], statistics.mean(each), 9)
                self.assertAlmostEqual(summary["deviation"], statistics.stdev(each), 9)
                values[name, metric] = each
        fids, clips = ([values[name, metric] for name in ("sara", "full")]
                       for metric in ("fid", "clip_score"))
        mean = self.vlhi(list(map(statistics.mean, fids)), list(map(statistics.mean, clips)))
        each = [self.vlhi([f[s] for f in fids], [c[s] for c in clips]) for s in range(2)]
        for i, name in enumerate(("sara", "full")):
            vlhi = self.row(name)["vlhi"]["methods"]
            self.assertAlmostEqual(vlhi["mean"], mean[i], 9)
            self.assertAlmostEqual(vlhi["deviation"], statistics.stdev(e[i] for e in each), 9)

    def test_failed(self):
        """A row with its error line; nothing of it is in the others' numbers."""
        row = self.row("bad")
        self.assertNotIn("vlhi", row)
        self.assertEqual([entry["train"]["exit_code"] for entry in row["grid"]], [USAGE] * 4)
        line = next(line for line in self.whole.table() if line[0] == "| bad")
        self.assertIn("failed (exit code 2): sara train: threshold ", line[-1])

    def test_base(self):
        """It is measured and has a row; VLHI is not its."""
        base = self.found["base"]["data"][0]
        self.assertNotIn("vlhi", base)
        self.assertGreater(base["summary"]["fid"]["mean"], 0)
        self.assertIsNone(base["summary"]["drift"])

    def test_any_order(self):
        """Other folders, rows in another order, fewer seeds: the same of each."""
        self.config = copy.deepcopy(self.whole.config)
        self.config["rows"].reverse()
        self.config["seeds"] = [1]
        self.write_config()
        self.compare()
        for row in self.result()["rows"]:
            data, other = row["data"][0], self.row(row["name"])
            self.assertEqual(without_measured(data["grid"]), without_measured(other["grid"]))
            self.assertEqual(without_measured(data["seeds"]), without_measured(other["seeds"][:1]))


class GoingOn(CompareCase):
    def setUp(self):
        super().setUp()
        self.config["train"].update(max_train_steps=12, checkpointing_steps=4)
        if LONG:
            self.config["train"].update(max_train_steps=60)
            self.config["rows"].append({"name": "lora", "method": "lora"})

    def start(self, out):
        process = subprocess.Popen(
            [PROGRAM, "compare", "--config", "compare.json", "-t", "1", "-o", out],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            cwd=self.folder,
            text=True,
        )
        self.addCleanup(process.stderr.close)
        self.addCleanup(process.wait)
        self.addCleanup(process.kill)
        return process

    def children(self, process):
        with open(f"/proc/{process.pid}/task/{process.pid}/children") as file:
            return list(map(int, file.read().split()))

    def test_killed(self):
        """At random moments, with its child or leaving it to die by itself."""
        self.write_config()
        began = time.monotonic()
        self.compare(out="whole")
        length = time.monotonic() - began
        expected = without_measured(self.result("whole")), self.table("whole")
        for i in range(10 if LONG else 2):
            process = self.start(f"out{i}")
            time.sleep(random.uniform(0, length))
            for child in self.children(process) if i % 2 and process.poll() is None else []:
                os.kill(child, signal.SIGKILL)
            process.kill()
            process.wait()
            self.compare(out=f"out{i}")
            found = json.loads(json.dumps(self.result(f"out{i}")).replace(f"out{i}/", "whole/")
                               .replace(f'"out{i}"', '"whole"'))
            self.assertEqual(without_measured(found), expected[0])
            self.assertEqual(self.table(f"out{i}"), expected[1])

    def wait_steps(self, process):
        """Until a run has steps in its log; its folder."""
        limit = time.monotonic() + 60 * SLOW
        while process.poll() is None:
            self.assertLess(time.monotonic(), limit)
            for name in files_below(self.folder):
                path = self.path(name)
                if name.endswith("log.jsonl") and os.path.getsize(path) > 200:
                    return os.path.dirname(path)
            time.sleep(0.01)
        self.fail(process.stderr.read())

    def test_killed_alone(self):
        """The child ends too, its work saved; until it has, the next start waits for its lock."""
        self.config["train"].update(max_train_steps=100000, checkpointing_steps=100000)
        self.write_config()
        process = self.start("out")
        run = self.wait_steps(process)
        (child,) = self.children(process)
        self.addCleanup(lambda: os.path.exists(f"/proc/{child}") and os.kill(child, signal.SIGKILL))
        fds = f"/proc/{child}/fd"
        held = [os.path.realpath(os.path.join(fds, fd)) for fd in os.listdir(fds)]
        lock = os.path.realpath(self.path("out", ".children"))
        self.assertIn(lock, held)
        process.kill()
        process.wait()
        limit = time.monotonic() + 60 * SLOW
        while os.path.exists(f"/proc/{child}"):
            self.assertLess(time.monotonic(), limit)
            time.sleep(0.01)
        self.assertEqual(len([name for name in os.listdir(run) if "checkpoint-" in name]), 1)
        with open(lock) as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            process = self.start("out")
            self.assertIn("waiting for a run", process.stderr.readline())
            self.assertIsNone(process.poll())
        self.wait_steps(process)

    def test_interrupted(self):
        """The child saves its work; another comparison in the folder waits outside; what was not
        begun with the same options is refused."""
        self.config["train"].update(max_train_steps=100000, checkpointing_steps=100000)
        self.write_config()
        process = self.start("out")
        run = self.wait_steps(process)
        self.refused(IO, ["out", "another comparison"], "compare", "--config", "compare.json")
        process.send_signal(signal.SIGINT)
        self.assertEqual(process.wait(60 * SLOW), INTERRUPTED)
        errors = [line for line in process.stderr.read().splitlines() if line.startswith("sara")]
        self.assertEqual(len(errors), 1, errors)
        self.assertIn("interrupted", errors[0])
        self.assertEqual(len([name for name in os.listdir(run) if "checkpoint-" in name]), 1)
        self.assertFalse(os.path.exists(run + ".done.json"))
        before = files_below(self.folder)
        self.config["train"]["lambda_rank"] = 0.1
        self.write_config()
        self.refused(USAGE, ["lr-0.01-seed-1", "lambda_rank none", "0.1"], "compare", "--config",
                     "compare.json")
        self.assertEqual(files_below(self.folder), before)

    def test_changed_prompts(self):
        """What depends on them is measured again; nothing is trained again."""
        self.config["train"].update(max_train_steps=2)
        self.write_config()
        self.compare()
        first = self.result()
        self.write("base.txt", "a cat\na dog\n\na cow\n")
        self.write("neutral.txt", "a tree\na cup\na hat\n")
        self.config["neutral_prompts"] = "neutral.txt"
        self.write_config()
        self.compare()
        second = self.result()
        seeds = [found["rows"][0]["data"][0]["seeds"][0] for found in (first, second)]
        for part, same in (("train", True), ("adaptation", True), ("forgetting", False)):
            self.assertEqual(seeds[0][part] == seeds[1][part], same, part)
        self.assertEqual(seeds[1]["forgetting"]["report"]["images"], 3)
        self.assertNotIn("drift", seeds[1]["forgetting"]["report"])
        drift = seeds[1]["drift"]
        self.assertEqual(len(drift["report"]["drift"]["each"]), 3)
        self.assertEqual(drift["command"][drift["command"].index("--before") + 1], "out/base/drift")
        self.assertEqual(second["rows"][0]["data"][0]["summary"]["drift"]["mean"],
                         drift["report"]["drift"]["mean"])
        shutil.copy(self.path("ink", "u1f344.png"), self.path("ink", "more.png"))
        self.refused(USAGE, ["lr-0.01-seed-1", "or ink changed"], "compare", "--config",
                     "compare.json")
        os.remove(self.path("ink", "more.png"))
        shutil.move(self.path("out"), self.path("moved"))
        self.compare(out="moved")
        self.assertEqual(self.result("moved")["rows"][0]["data"][0]["seeds"][0]["adaptation"],
                         seeds[1]["adaptation"])
        run = self.path("moved", "runs/sara/ink/lr-0.01-seed-1/run")
        with open(run + ".json") as file:
            self.assertEqual(json.load(file)["output_dir"], os.path.relpath(run, self.folder))
        self.compare(out="moved//")
        with open(run + ".done.json", "w") as file:
            file.write("damaged")
        self.compare(out="moved")
        again = self.result("moved")["rows"][0]["data"][0]["seeds"][0]
        self.assertEqual(again["adaptation"], seeds[1]["adaptation"])


    def test_what_runs_leave(self):
        """Caches beside the pictures are no change of them."""
        self.config["train"].update(max_train_steps=1, cache_latents_to_disk=True)
        self.write_config()
        self.compare()
        first = self.result()
        self.assertTrue(os.path.isdir(self.path("ink", ".sara-cache")))
        self.compare()
        self.assertEqual(self.result(), first)


class Beside(CompareCase):
    def test_prompts(self):
        """Those that are drawn are those that are shown, whatever editor wrote the file."""
        first, second = lines(self.path("prompts.txt"), 0, 2).split("\n")[:2]
        self.write("prompts.txt", f"\ufeff{first}\r\n  \r\n\r\n{second}\r\n")
        self.config["train"]["max_train_steps"] = 1
        self.write_config()
        self.compare("--strengths", "1")
        report = self.result()["rows"][0]["data"][0]["seeds"][0]["adaptation"]["report"]
        self.assertEqual(report["images"], 2)
        with open(self.path("out", "report.html")) as file:
            page = file.read()
        grid = page.split("prompts of the style")[1].split("</thead>")[0]
        self.assertEqual(re.findall('<th scope="col"[^>]*>([^<]*)', grid), ["row", first, second])
        drawn = os.listdir(self.path("out", "strengths", "ink", "strength 1"))
        self.assertEqual(len(drawn), 2)
        with open(self.path("out", "table.md")) as file:
            self.assertIn("| row | learning rate | FID (clip) | CLIP score |", file.read())

    def test_model_of_a_row(self):
        """Pictures are drawn with what the row was trained with."""
        vae = os.path.join(GOLDEN, "pipeline", "vae")
        self.config["train"]["max_train_steps"] = 1
        self.config["rows"].append({"name": "other", "vae": vae})
        self.write_config()
        self.compare("--strengths", "1")
        rows = self.result()["rows"]
        for row, expected in zip(rows, (False, True)):
            seed = row["data"][0]["seeds"][0]
            for record in (seed["adaptation"], seed["forgetting"],
                           row["data"][0]["grid"][0]["tuning"]):
                self.assertEqual("--vae" in record["command"], expected)
                if expected:
                    command = record["command"]
                    self.assertEqual(command[command.index("--vae") + 1], vae)

    def test_without_t5(self):
        """Pictures of rows that are trained without T5, and of their base, are drawn without."""
        self.config["model"] = os.path.join(GOLDEN, "sd3_tiny")
        self.config["train"].update(max_train_steps=1, no_t5=True, resolution=16)
        self.config["eval"].update(width=16, height=16)
        self.write_config()
        self.compare()
        result = self.result()
        seed = result["rows"][0]["data"][0]["seeds"][0]
        base = result["base"]["data"][0]["seeds"][0]
        for record in (seed["adaptation"], seed["forgetting"], base["adaptation"],
                       base["forgetting"]):
            self.assertIn("--no_t5", record["command"])

    def test_plan_of_sizes(self):
        """What is timed is what would be trained and drawn; what cannot be timed has no time."""
        self.config["train"]["resolution"] = 16
        self.config["eval"].update(width=64, height=16)
        self.config["cost"] = {"methods": ["sara"], "batches": [1], "latent": 12}
        self.config["rows"].append({"name": "larger", "resolution": 32})
        self.write_config()
        plan = json.loads(self.compare("--dry-run", "--cost", "--json").out)
        for name, latent in (("forward-batch-2", 8), ("sara-batch-1", 4),
                             ("cost-sara-batch-1", 12)):
            with open(self.path("out", "plan", f"{name}.done.json")) as file:
                command = json.load(file)["command"]
            self.assertEqual(float(command[command.index("--latent") + 1]), latent, name)
        timed = plan["timed"][1]["seconds_per_step"]
        self.assertAlmostEqual(plan["training_seconds"], 4 * 2 * timed * (1 + 4), 6)
        shutil.copytree(self.config["model"], self.path("model"))
        path = self.path("model", "unet", "config.json")
        with open(path) as file:
            config = json.load(file)
        with open(path, "w") as file:
            json.dump({**config, "class_embed_type": "timestep"}, file)
        self.config["model"] = "model"
        self.write_config()
        plan = json.loads(self.compare("--dry-run", "--json", out="none").out)
        self.assertEqual((plan["training_seconds"], plan["drawing_seconds"]), (None, None))
        self.assertIn("training: unknown", self.compare("--dry-run", out="none").out)

    def test_dry_run(self):
        self.config["rows"].append({"name": "full", "method": "full"})
        self.config["seeds"] = [1, 2]
        self.write_config()
        self.assertIn("10 training runs, 18 evaluations that draw 36 pictures",
                      self.compare("--dry-run").out)
        self.assertFalse(os.path.exists(self.path("out", "runs")))
        self.assertFalse(os.path.exists(self.path("out", "compare.json")))
        plan = json.loads(self.compare("--dry-run", "--json").out)
        self.assertEqual([timed["method"] for timed in plan["timed"]], ["forward", "sara", "full"])
        self.assertGreater(plan["bytes"], 5 * 24964 * 4)
        self.assertEqual(plan["cost_seconds"], 0)
        self.config["cost"] = {"methods": ["full"], "batches": [1, 3], "latent": 8, "steps": 5}
        self.write_config()
        more = ("--cost", "--strengths", "0,1,2")
        whole = json.loads(self.compare("--dry-run", "--json", *more).out)
        self.assertEqual(whole["pictures"] - plan["pictures"], 3 * 2)
        with open(self.path("out", "plan", "cost-full-batch-1.done.json")) as file:
            timed = json.load(file)["seconds_per_step"]
        self.assertAlmostEqual(whole["cost_seconds"], timed * (1 + 3) * (5 + 1), 6)
        self.write(os.path.join("ink", "u1f344.txt"), "a mushroom")
        images = sum(name.endswith(".png") for name in os.listdir(self.path("ink")))
        self.config["train"]["num_train_epochs"] = 3
        del self.config["train"]["max_train_steps"]
        self.write_config()
        plan = json.loads(self.compare("--dry-run", "--json").out)
        self.assertAlmostEqual(plan["training_seconds"], 5 * 3 * images * sum(
            timed["seconds_per_step"] for timed in plan["timed"][1:]), 6)

    def test_means(self):
        """A row that failed with one of the data sets has no mean, and the reason."""
        os.mkdir(self.path("damaged"))
        self.write("damaged/a.png", "is none")
        self.config["data"].append({**self.config["data"][0], "name": "damaged",
                                    "train_data_dir": "damaged"})
        self.write_config()
        self.compare()
        means = self.result()["rows"][0]["mean"]
        self.assertIsNone(means["fid"])
        self.assertNotIn("vlhi", means)
        with open(self.path("out", "table.md")) as file:
            table = file.read().split("means over the data sets")[1]
        self.assertRegex(table, r"\| sara \|.* damaged: failed \(exit code 3\): sara train: ")

    def test_strengths_and_cost(self):
        self.config["cost"] = {"methods": ["sara", "full"], "batches": [1, 2]}
        self.config["strengths_row"] = "sara"
        self.write_config()
        self.refused(USAGE, "--strengths 0,x", "compare", "--config", "compare.json",
                     "--strengths", "0,x")
        self.compare("--strengths", "0,0.5,1", "--cost")
        width, height = read_png(self.path("out", "strengths", "ink.png"))[:2]
        side = read_png(self.path("out", "strengths", "ink", "strength 0", "picture.png"))[0]
        self.assertEqual((width, height), (3 * side + 2 * 2, 2 * side + 2))
        found = self.result()
        self.assertEqual([(entry["method"], entry["batch"]) for entry in found["cost"]],
                         [("sara", 1), ("sara", 2), ("full", 1), ("full", 2)])
        self.assertEqual([entry["entries"] for entry in found["cost"][2:]], [24964, 24964])
        for entry in found["cost"]:
            self.assertGreater(entry["peak_bytes"], 2**20)
        adapter = found["rows"][0]["data"][0]["seeds"][0]["train"]["adapter"]
        with open(self.path("out", "strengths", "ink", "strength 0.5.done.json")) as file:
            command = json.load(file)["command"]
        self.assertIn(f"out/{adapter}:0.5", command)
        with open(self.path("out", "report.html")) as file:
            page = file.read()
        for words in ("Peak memory of the process", "Strengths"):
            self.assertIn(words, page)


if __name__ == "__main__":
    unittest.main()
