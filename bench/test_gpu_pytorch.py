"""A dry run of gpu_pytorch.py on the CPU: python3 bench/test_gpu_pytorch.py"""
import os
import subprocess
import sys
import tempfile
import unittest

OWN = os.path.join(os.path.dirname(os.path.abspath(__file__)), "gpu_pytorch.py")
DRY = ("--device", "cpu", "--part", "tiny", "--latent", "8", "--backend", "eager", "--steps", "2")


def run(*arguments):
    """The exit status, what was printed, and the report."""
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "report.md")
        done = subprocess.run([sys.executable, OWN, *DRY, "-o", path, *arguments], text=True,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        with open(path, encoding="utf-8") as file:
            return done.returncode, done.stdout, file.read()


def cells(report, name):
    """Those of the row of this name."""
    row = next(line for line in report.splitlines() if line.startswith(f"| {name} |"))
    return [cell.strip() for cell in row.strip("|").split("|")][1:]


class DryRun(unittest.TestCase):
    def test_all_of_it(self):
        """Every check is made and passes, and every method has its row."""
        status, output, report = run()
        self.assertEqual(status, 0, output)
        self.assertIn("0 checks failed", output)
        self.assertNotIn("FAIL", report)
        self.assertEqual(report.count("ten recorded steps"), 8)
        self.assertEqual(report.count("| ok |"), 21)
        for name in ("lora16", "sara", "masked", "linear", "shira", "super", "lora16 compiled",
                     "sara compiled"):
            trained, speed, step, *_ = cells(report, name)
            self.assertGreater(int(trained.replace(",", "")), 50000, name)
            self.assertGreater(float(speed), 0, name)
            self.assertGreater(float(step), 0, name)
        entries = [int(cells(report, name)[0].replace(",", "")) for name in ("linear", "super")]
        self.assertLessEqual(abs(entries[0] / entries[1] - 1), 1e-3)

    def test_what_the_limit_leaves_no_time_for(self):
        status, _, report = run("--no-checks", "--runs", "lora16,sara", "--limit", "5")
        self.assertEqual(status, 0)
        self.assertEqual([cells(report, name)[0] for name in ("lora16", "sara")],
                         ["out of time"] * 2)

    def test_a_method_that_fails(self):
        """Its row says why; the others have their numbers."""
        _, _, report = run("--no-checks", "--runs", "sara,lora16", "--fraction", "2")
        self.assertIn("fraction=2", cells(report, "sara")[0])
        self.assertGreater(float(cells(report, "lora16")[1]), 0)


if __name__ == "__main__":
    unittest.main()
