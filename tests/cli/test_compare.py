"""compare as its users call it: what it measures, and what it does beside."""

import copy
import json
import os
import re
import shutil
import statistics
import unittest

from support import GOLDEN, USAGE, files_below, read_png, write_safetensors
from support_compare import CompareCase, lines, without_measured


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

    def put_embedding(self, vectors):
        write_safetensors(self.path("inner", "toy.safetensors"), {
            "emb_params": ("F32", [vectors, 8], [i % 5 - 2.0 for i in range(vectors * 8)])})

    def test_embeddings(self):
        """Pictures are drawn with them, and anew where a file has become another."""
        os.mkdir(self.path("inner"))
        self.put_embedding(2)
        self.write("prompts.txt", "a toy\na b\n")
        self.config["train"]["max_train_steps"] = 1
        self.config["eval"].update(embedding_dir="inner", seed=5)
        self.write_config()
        drawn, hashes = [], []
        for vectors in (2, 3):
            self.put_embedding(vectors)
            self.compare("--strengths", "0")
            self.ok("generate", "-m", self.config["model"], "--steps", "1", "-s", "5", "-t", "1",
                    "-p", "ink style, a toy", "--embedding-dir", "inner", "-o", "expected.png")
            drawn.append(read_png(self.path("expected.png"))[2])
            folder = self.path("out", "strengths", "ink", "strength 0")
            self.assertEqual(read_png(os.path.join(folder, "picture.png"))[2], drawn[-1])
            record = self.result()["rows"][0]["data"][0]["seeds"][0]["adaptation"]
            hashes.append(record["hash"])
        self.assertNotEqual(*drawn)
        self.assertNotEqual(*hashes)
        command = record["command"]
        self.assertEqual(command[command.index("--embedding_dir") + 1], "inner")

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
        self.config["rows"] += [{"name": "larger", "resolution": 32},
                                {"name": "wide", "resolution": "64,16"}]
        self.write_config()
        plan = json.loads(self.compare("--dry-run", "--cost", "--json").out)
        for name, latent in (("forward-batch-2", 8), ("sara-batch-1", 4),
                             ("cost-sara-batch-1", 12)):
            with open(self.path("out", "plan", f"{name}.done.json")) as file:
                command = json.load(file)["command"]
            self.assertEqual(float(command[command.index("--latent") + 1]), latent, name)
        timed = plan["timed"][1]["seconds_per_step"]
        self.assertAlmostEqual(plan["training_seconds"], 4 * 2 * timed * (1 + 4 + 4), 6)
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
