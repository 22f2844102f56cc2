"""Event files of --report_to tensorboard, read by the tensorboard package; called by check.py."""
import json
import os
import shutil

import numpy as np


def check_tensorboard(run, check, base, data, work):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    folder = f"{work}/tensorboard"
    shutil.rmtree(folder, ignore_errors=True)
    train = ["train", "-m", base, "--train_data_dir", data, "-o", folder, "--max_train_steps", "6",
             "--train_batch_size", "1", "--checkpointing_steps", "2", "--report_to", "tensorboard",
             "--validation_prompt", "cat face", "--validation_steps", "3", "--track_drift", "3"]
    run(*train)
    run(*train, "--resume_from_checkpoint", "checkpoint-2")
    with open(f"{folder}/log.jsonl") as file:
        log = [line for line in map(json.loads, file) if "step" in line]
    events = EventAccumulator(f"{folder}/logs")
    events.Reload()
    check("tensorboard's files", len(os.listdir(f"{folder}/logs")) - 2, 0)
    keys = {key for line in log for key in line if key != "step"}
    check("tensorboard's tags", len(set(events.Tags()["scalars"]) ^ keys), 0)
    for key in sorted(keys):
        ours = [(line["step"], line[key]) for line in log if key in line]
        theirs = [(event.step, event.value) for event in events.Scalars(key)]
        check(f"tensorboard {key}: steps, each once",
              float([s for s, _ in ours] != [s for s, _ in theirs]), 0)
        check(f"tensorboard {key}", max(abs(np.float32(a) - b)
                                        for (_, a), (_, b) in zip(ours, theirs)), 0)
    pictures = events.Images("validation/0")
    check("tensorboard's pictures", float([p.step for p in pictures] != [3, 6]), 0)
    for picture in pictures:
        with open(f"{folder}/samples/step-{picture.step:06}-0.png", "rb") as file:
            check("tensorboard picture", float(file.read() != picture.encoded_image_string), 0)
