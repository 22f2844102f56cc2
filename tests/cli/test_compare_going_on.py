"""A comparison that is stopped goes on, to the same table."""

import fcntl
import json
import os
import random
import shutil
import signal
import subprocess
import time
import unittest

from support import INTERRUPTED, IO, PROGRAM, SLOW, USAGE, files_below
from support_compare import CompareCase, LONG, without_measured


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


if __name__ == "__main__":
    unittest.main()
