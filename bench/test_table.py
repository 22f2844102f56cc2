"""Tests of table.py and against.py with made-up results: python3 bench/test_table.py"""
import unittest

import against
import table


def line(run, best, peak, threads=2, **more):
    return dict(run=run, latent=64, batch=1, budget=5.8, threads=threads, wall_seconds=99,
                peak_gib=peak, result=dict(best=best, load_seconds=best, trainable=50e6, **more))


def verdicts(*lines):
    """The verdict and the figure of each bar that was measured."""
    host = dict(run="host", cpu="made up", commit="0", threads=2, budget=5.8)
    results = table.Results([host, *lines])
    cells = [table.bar_line(bar, results) for bar in table.BARS]
    return {(where, name): (figure, text) for where, name, figure, _, _, text in cells
            if text != "not measured"}


class TableTest(unittest.TestCase):
    where = "64x64, batch 1"

    def test_nothing_measured(self):
        self.assertEqual(verdicts(), {})
        self.assertEqual(verdicts(line("sara", 1, 1)), {})

    def test_verdicts(self):
        for best, expected in ((7.5, "aim met"), (7.6, "must met"), (10, "must met"),
                               (10.1, "MISSED"), (float("nan"), "MISSED")):
            found = verdicts(line("lora16", 10, 1), line("sara", best, 1))
            self.assertEqual(found[self.where, "time of a step / LoRA"][1], expected)

    def test_best_and_peak_over_rounds(self):
        found = verdicts(line("lora16", 10, 4), line("sara", 9, 3), line("lora16", 20, 5),
                         line("sara", 8, 4))
        self.assertEqual(found[self.where, "time of a step / LoRA"], ("0.80", "must met"))
        self.assertEqual(found[self.where, "memory / LoRA"], ("0.80", "aim met"))

    def test_rank_share_of_the_best_step(self):
        ranks = [{**line("rank", 1, 1, rank_seconds=seconds), "latent": 0, "batch": 0}
                 for seconds in (0.1, 0.3)]
        found = verdicts(line("sara", 10, 1), line("sara", 5, 1), *ranks)
        self.assertEqual(found, {(self.where, "low-rank term / step"): ("2.0 %", "met")})

    def test_bars_use_the_main_threads_and_rows_their_own(self):
        lines = (line("lora16", 10, 1), line("sara", 5, 1), line("lora16", 20, 1, threads=1),
                 line("sara", 18, 1, threads=1))
        self.assertEqual(verdicts(*lines)[self.where, "time of a step / LoRA"], ("0.50", "aim met"))
        results = table.Results([dict(run="host", threads=2, budget=5.8), *lines])
        steps = next(table.sections(results)).splitlines()
        self.assertEqual(len(steps), 2 + 4)
        self.assertEqual([row.split(" | ")[8] for row in steps[2:]],
                         ["1.00", "0.50", "1.00", "0.90"])

    def test_loading_against_the_plain_reads(self):
        plain = dict(run="read", latent=0, batch=0, budget=5.8, threads=2, wall_seconds=2,
                     peak_gib=0, result=None)
        whole = {**plain, "run": "read-whole", "wall_seconds": 4}
        found = verdicts(plain, whole, {**line("load", 3.2, 4), "latent": 0, "batch": 0})
        self.assertEqual(found, {("U-Net, fp32", "loading / read in pieces"): ("1.60", "MISSED"),
                                 ("U-Net, fp32", "loading / read into memory"): ("0.80", "met")})

    def test_full_steps(self):
        for best, expected in ((7.5, "met"), (7.6, "MISSED")):
            found = verdicts(line("full-fused", 10, 20), line("full", best, 15))
            self.assertEqual(found, {
                (self.where, "time of a full step / PyTorch, fused"): (f"{best / 10:.2f}",
                                                                       expected)})
        lines = (line("full-fused", 10, 20), line("full", 5, 15))
        results = table.Results([dict(run="host", threads=2, budget=5.8), *lines])
        rows = [row.split(" | ") for row in next(table.sections(results)).splitlines()[2:]]
        self.assertEqual([(row[3], row[10], row[13]) for row in rows],
                         [("-", "1.00", "1.00 |"), ("-", "0.50", "0.75 |")])

    def test_methods_beside_their_peers(self):
        for best, peak, expected in ((6.5, 7.5, ("aim met", "met")),
                                     (7.5, 7.6, ("must met", "MISSED")),
                                     (7.6, 1, ("MISSED", "met"))):
            found = verdicts(line("lora16", 10, 10), line("lora", best, peak))
            self.assertEqual([text for _, text in found.values()], list(expected))
        found = verdicts(line("masked", 10, 10), line("ltsft", 10.1, 9), line("dora16", 10, 10))
        self.assertEqual({name: text for (_, name), (_, text) in found.items()},
                         {"time of a step of ltsft / masked": "MISSED",
                          "memory of ltsft / masked": "met"})

    def test_families(self):
        for best, peak, expected in ((8, 6, ["aim met", "must met"]),
                                     (10, 5, ["must met", "aim met"]),
                                     (10.1, 6.1, ["MISSED", "MISSED"])):
            lines = (line("peft-sdxl", 10, 10, processor_seconds=[30, 20]),
                     line("sara-sdxl", best, peak, processor_seconds=[15, 16]))
            found = verdicts(*lines)
            self.assertEqual({where for where, _ in found}, {"SDXL, 64x64"})
            self.assertEqual([text for _, text in found.values()], expected)
        offloaded = line("sara_offload-sdxl", best, 5, processor_seconds=[1])
        found = verdicts(lines[0], offloaded)
        self.assertEqual(found, {
            ("SDXL, 64x64", "time of a step, weights on the disk / LoRA"): ("1.01", "MISSED"),
            ("SDXL, 64x64", "memory, weights on the disk / LoRA"): ("0.50", "aim met")})
        results = table.Results([dict(run="host", threads=2, budget=5.8), *lines])
        rows = [row.split(" | ") for row in list(table.sections(results))[2].splitlines()[2:]]
        self.assertEqual([row[5:] for row in rows],
                         [["1.00", "20.00", "1.00", "10.00", "1.00 |"],
                          ["1.01", "15.00", "0.75", "6.10", "0.61 |"]])


class AgainstTest(unittest.TestCase):
    def verdicts(self, *lines):
        return [f"{row[-2]} {row[-1]}" for row in against.compare(lines)]

    def test_best_of_each_side(self):
        other = [line("other", 10, 4), line("other", 12, 4.5)]
        for best, peak, expected in ((10.3, 4.04, ["1.03 met", "1.01 met"]),
                                     (10.4, 4.05, ["1.03 MISSED", "1.01 MISSED"])):
            found = self.verdicts(line("this", best, 5), *other, line("this", 99, peak))
            self.assertEqual(found, expected)

    def test_each_shape_for_itself(self):
        small = [{**line(run, 1, 1), "latent": 32} for run in ("this", "other")]
        rows = against.compare([line("this", 9, 1), line("other", 10, 1), *small])
        self.assertEqual([(row[0], row[4]) for row in rows],
                         [("64x64, batch 1", "0.900"), ("32x32, batch 1", "1.000"),
                          ("64x64, batch 1", "1.000"), ("32x32, batch 1", "1.000")])


if __name__ == "__main__":
    unittest.main()
