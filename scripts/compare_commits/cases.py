"""What is run: a name, then commands of the program. Words in braces are inputs (inputs.py)."""

TRAIN = ("--learning_rate 1e-3 --lambda_rank 0.05 --max_train_steps 4 --trainable 10% "
         "--train_batch_size 2 ")
RUN = f"train -o run {TRAIN}"
SD1 = RUN + "-m {sd1} --train_data_dir {squares} "
SD2 = RUN + "-m {sd2} --train_data_dir {squares} "
EMOJI = RUN + "-m {emoji} --train_data_dir {ink} --caption_prefix 'ink, ' "
TINY = RUN + "-m {pipeline} --train_data_dir {squares} "
REPLAY1 = RUN + "--unet-only {golden}/unet_sd1 --replay {golden}/train_sd1.safetensors "
REPLAY2 = RUN + "--unet-only {golden}/unet_sd2 --replay {golden}/train_sd2.safetensors "
MANY = "--gradient_accumulation_steps 3 --random_flip --gradient_checkpointing_levels 1 "

TRAINING = {
    "sd1": SD1 + "--validation_prompt 'a fox' --validation_prompt '(snow:1.3), calm' "
                 "--validation_steps 2 --checkpointing_steps 2",
    "sd1-accumulation": SD1 + "--gradient_accumulation_steps 3",
    "sd1-checkpointing": SD1 + "--gradient_checkpointing",
    "sd1-checkpointing-levels": SD1 + "--gradient_checkpointing_levels 1",
    "sd1-fp16-weights": SD1 + "--weight_dtype fp16 --checkpointing_steps 2",
    "sd1-bf16-weights": SD1 + "--weight_dtype bf16",
    "sd1-auto-weights": RUN + "-m {sd1_half} --train_data_dir {squares} --weight_dtype auto",
    "sd1-mixed-bf16": SD1 + "--mixed_precision bf16 --gradient_accumulation_steps 2",
    "sd1-flips": SD1 + "--random_flip",
    "sd1-crops": RUN + "-m {sd1} --train_data_dir {odd} --caption_prefix 'ink, '",
    "sd1-crops-flips": RUN + "-m {sd1} --train_data_dir {odd} --random_flip --seed 7",
    "sd1-center-crop": RUN + "-m {sd1} --train_data_dir {odd} --center_crop --resolution 32",
    "sd1-many": RUN + "-m {sd1} --train_data_dir {odd} --weight_dtype bf16 " + MANY,
    "sd1-csv": RUN + "-m {sd1} --train_data_dir {csv} --caption_column caption",
    "sd1-folders": RUN + "-m {sd1} --train_data_dir {folders}",
    "sd1-one-thread": SD1 + "-t 1",
    "sd1-batch-1": SD1 + "--train_batch_size 1",
    "sd1-batch-5": SD1 + "--train_batch_size 5 --instance_prompt 'a fox'",
    "sd1-no-low-rank": SD1 + "--lambda_rank 0",
    "sd1-no-reselection": SD1 + "--progressive_iter 0",
    "sd1-reselections": SD1 + "--max_train_steps 6 --progressive_iter 1",
    "sd1-threshold": RUN.replace("--trainable 10%", "--threshold 2e-3")
                     + "-m {sd1} --train_data_dir {squares}",
    "sd1-all": SD1 + "--trainable 100% --lambda_rank 0 --progressive_iter 0",
    "sd1-one-entry": SD1 + "--trainable 1",
    "sd1-epochs": SD1.replace("--max_train_steps 4", "--num_train_epochs 2"),
    "sd1-schedule": SD1 + "--lr_scheduler cosine_with_restarts --lr_num_cycles 2 "
                          "--lr_warmup_steps 1 --max_grad_norm 0",
    "sd1-polynomial": SD1 + "--lr_scheduler polynomial --lr_power 2 --max_grad_norm 0.01 "
                            "--adam_weight_decay 0.1 --adam_beta1 0.8 --adam_beta2 0.9",
    "sd1-from-adapter": SD1.replace("--trainable 10%", "") + "--adapter {sd1a}:0.5",
    "sd1-of-a-file": RUN + "-m {sd1_file} --tokenizer {tokenizer} --train_data_dir {odd}",
    "sd1-v": SD1 + "--prediction_type v",
    "sd1-sample": SD1 + "--prediction_type sample",
    "sd1-other-vae": SD1 + "--vae {golden}/shifted --validation_prompt fox --validation_steps 4",
    "sd2": SD2 + "--validation_prompt 'a fox' --validation_steps 2 --checkpointing_steps 2",
    "sd2-accumulation-checkpointing": SD2 + "--gradient_accumulation_steps 2 "
                                            "--gradient_checkpointing",
    "sd2-many": RUN + "-m {sd2} --train_data_dir {odd} --weight_dtype fp16 " + MANY,
    "sd2-mixed-bf16": SD2 + "--mixed_precision bf16 --weight_dtype bf16 --gradient_checkpointing",
    "sd2-epsilon": SD2 + "--prediction_type epsilon",
    "sd2-of-a-file": RUN + "-m {sd2_file} --tokenizer {tokenizer} --train_data_dir {squares}",
    "sd2-from-adapter": SD2.replace("--trainable 10%", "") + "--adapter {sd2a}",
    "old": TINY.replace("{pipeline}", "{old}") + "--resolution 64 --validation_prompt fox "
           "--validation_steps 4",
    "zero-snr": TINY.replace("{pipeline}", "{zero_snr}"),
    "flow": TINY.replace("{pipeline}", "{flow}") + "--validation_prompt fox --validation_steps 4",
    "variant": TINY.replace("{pipeline}", "{variant}") + "--variant fp16",
    "averages": TINY.replace("{pipeline}", "{sd1_averaged}") + "--tokenizer {tokenizer} "
                "--use_ema_weights --max_train_steps 2",
    "tiny": TINY + "--train_batch_size 4 --validation_prompt fox --validation_steps 2",
    "replay-sd1": REPLAY1 + "--max_train_steps 10 --progressive_iter 6 --checkpointing_steps 5",
    "replay-sd1-fp16": REPLAY1 + "--weight_dtype fp16 --gradient_checkpointing",
    "replay-sd2": REPLAY2 + "--max_train_steps 10 --progressive_iter 6 --prediction_type v",
    "replay-sd2-accumulation": REPLAY2 + "--gradient_accumulation_steps 2",
    "emoji": EMOJI + "--validation_prompt 'tiger face' --validation_steps 2 "
                     "--checkpointing_steps 2",
    "emoji-many": EMOJI + "--weight_dtype fp16 --lr_warmup_steps 2 --train_batch_size 3 " + MANY,
    "emoji-checkpointing": EMOJI + "--gradient_checkpointing --center_crop",
    "emoji-mixed-bf16": EMOJI + "--mixed_precision bf16 --max_train_steps 2",
    "emoji-of-a-file": EMOJI.replace("-m {emoji}", "-m {emoji_file} --tokenizer {emoji}/tokenizer")
                       + "--max_train_steps 2",
    "emoji-from-adapter": EMOJI.replace("--trainable 10%", "") + "--adapter {emojia}:0.8",
}

# Checkpoints after three and six steps; the run goes on from the first. The moments that it holds
# count, since the reselection was before.
SIX = "--max_train_steps 6 --checkpointing_steps 3 --progressive_iter 2 "
RESUMED = {
    "sd1": SD1 + SIX + "--random_flip --validation_prompt fox --validation_steps 2",
    "sd1-crops": RUN + "-m {sd1} --train_data_dir {odd} " + SIX + "--gradient_accumulation_steps 2",
    "sd1-reselected-then": SD1 + SIX + "--progressive_iter 3",
    "sd1-reselected-later": SD1 + SIX + "--progressive_iter 4",
    "sd1-fp16-weights": SD1 + SIX + "--weight_dtype fp16",
    "sd1-bf16-weights": SD1 + SIX + "--weight_dtype bf16 --gradient_checkpointing",
    "sd1-from-adapter": SD1.replace("--trainable 10%", "") + SIX + "--adapter {sd1a}:0.5",
    "sd2": SD2 + SIX,
    "replay-sd1": REPLAY1 + SIX,
    "replay-sd2": REPLAY2 + SIX + "--lambda_rank 0 --progressive_iter 0",
    "emoji": EMOJI + SIX + "--random_flip",
}

DRAW = "generate --steps 4 --save-latents x.latents -o x.png "
DRAW1, DRAW2 = DRAW + "-m {sd1} -p 'a fox' ", DRAW + "-m {sd2} -p 'a fox' "
DRAW_MANY = "generate --steps 4 -o x.png -m {sd1} "
DRAWE = DRAW + "-m {emoji} -p 'tiger face' "
SAMPLERS = ("ddim", "ddpm", "pndm", "euler", "euler_a", "dpm++2m")

DRAWING = {
    **{f"sd1-{name}": DRAW1 + f"--sampling-method {name}" for name in SAMPLERS},
    **{f"sd2-{name}": DRAW2 + f"--sampling-method {name}" for name in SAMPLERS},
    "sd1-euler-karras": DRAW1 + "--sampling-method euler --scheduler karras",
    "sd1-dpmpp2m-karras": DRAW1 + "--sampling-method dpm++2m --scheduler karras --steps 6",
    "sd1-guidance-1": DRAW1 + "--cfg-scale 1",
    "sd1-guidance-0": DRAW1 + "--cfg-scale 0 -n red",
    "sd1-negative": DRAW1 + "-n '(blurry:1.2)' --cfg-scale 3.5 -s 7 -W 80 -H 48",
    "sd1-weighted": DRAW + "-m {sd1} -p 'a (red:1.4) fox, [snow]' -b 2",
    "sd1-plain-text": DRAW + "-m {sd1} -p 'a (red:1.4) fox, [snow]' --no-prompt-weights",
    "sd1-long": DRAW + f"-m {{sd1}} -p '{'a fox in the snow, ' * 6}' --long-prompt",
    "sd1-init-latents": DRAW1 + "-b 2 --init-latents {latents}",
    "sd1-adapter": DRAW1 + "--adapter {sd1a}",
    "sd1-adapters": DRAW1 + "--adapter {sd1a}:0.7 --adapter {sd1b}:-0.4",
    "sd1-prompts": DRAW_MANY + "-p 'a fox' -p snow -b 2",
    "sd1-compare": DRAW_MANY + "-p 'a fox' -p snow --compare "
                   "--adapter {sd1a}:0.7 --adapter {sd1b}",
    "sd1-tags": DRAW_MANY + "-p 'a fox <lora:sd1a:0.8>' -p 'snow <lora:sd1b:0.5> "
                "<lora:sd1a:0.2>' --lora-model-dir {adapters}",
    "sd1-tags-over-adapter": DRAW + "-m {sd1} -p 'a fox <lora:sd1b:0.8>' --adapter {sd1a} "
                             "--lora-model-dir {adapters}",
    "sd1-f16": DRAW1 + "--type f16 --adapter {sd1a}",
    "sd1-bf16": DRAW1 + "--type bf16 --adapter {sd1a}",
    "sd1-auto": DRAW + "-m {sd1_half} -p fox --type auto",
    "sd1-of-a-file": DRAW + "-m {sd1_file} --tokenizer {tokenizer} -p fox --adapter {sd1a}",
    "sd1-other-vae": DRAW1 + "--vae {golden}/shifted",
    "sd1-v": DRAW1 + "--prediction_type v --sampling-method euler",
    "sd2-euler-karras": DRAW2 + "--sampling-method euler --scheduler karras",
    "sd2-adapter": DRAW2 + "--adapter {sd2a}:0.5 -n red",
    "sd2-of-a-file": DRAW + "-m {sd2_file} --tokenizer {tokenizer} -p fox",
    "sd2-bf16": DRAW2 + "--type bf16",
    "sd2-epsilon": DRAW2 + "--prediction_type epsilon",
    "old": DRAW + "-m {old} -p fox",
    "variant": DRAW + "-m {variant} -p fox --variant fp16",
    "averages": DRAW + "-m {sd1_averaged} --tokenizer {tokenizer} --use_ema_weights -p fox",
    "zero-snr": DRAW + "-m {zero_snr} -p fox",
    "flow": DRAW + "-m {flow} -p fox",
    "tiny": DRAW + "-m {pipeline} -p fox -n red",
    "emoji": DRAWE + "-n red --cfg-scale 3",
    "emoji-adapters": DRAWE + "--adapter {emojia} --adapter {emojib}:0.5 --type f16",
    "emoji-compare": "generate --steps 3 -o x.png -m {emoji} -p cat -p dog --compare "
                     "--adapter {emojia} --cfg-scale 3",
    "emoji-of-a-file": DRAW + "-m {emoji_file} --tokenizer {emoji}/tokenizer -p cat",
}

GOLDEN_UNETS = ("unet_sd1", "unet_sd2", "prompt_unet", "variants/unet_lists", "variants/unet_odd",
                "variants/unet_quiet", "variants/unet_tiny")


def merging():
    cases = {"unet-only": "merge --unet-only {golden}/unet_sd1 -o unet.safetensors"}
    for model in ("sd1", "sd2", "emoji"):
        base, file = f"merge -m {{{model}}} ", f"merge -m {{{model}_file}} "
        tokenizer = "--tokenizer " + ("{emoji}/tokenizer " if model == "emoji" else "{tokenizer} ")
        adapter = f"--adapter {{{model}a}}"
        cases |= {
            model: base + f"{adapter} -o merged",
            model + "-file": base + f"{adapter}:0.3 -o merged.safetensors",
            model + "-fp16": base + f"{adapter} --dtype fp16 -o merged",
            model + "-bf16-file": base + f"{adapter} --dtype bf16 -o merged.safetensors",
            model + "-fp32": base + "--dtype fp32 -o merged",
            model + "-of-a-file": file + tokenizer + f"{adapter} -o merged",
            model + "-file-of-a-file": file + tokenizer + f"{adapter} -o merged.safetensors",
        }
    cases["sd1-adapters"] = "merge -m {sd1} --adapter {sd1a}:0.6 --adapter {sd1b}:0.4 -o merged"
    cases["emoji-adapters"] = ("merge -m {emoji} --adapter {emojib}:-0.4 --adapter {emojia} "
                               "-o merged.safetensors")
    cases["sd1-other-vae"] = "merge -m {sd1} --vae {golden}/shifted -o merged"
    cases["old"] = "merge -m {old} -o merged"
    cases["averages"] = ("merge -m {sd1_averaged} --tokenizer {tokenizer} --use_ema_weights "
                         "--adapter {sd1a} --force -o merged")
    cases["model-config"] = "merge -m {emoji_file} --model_config {emoji} -o merged"
    cases["variant"] = "merge -m {variant} --variant fp16 -o merged.safetensors"
    cases["forced"] = "merge -m {sd1_half} --adapter {sd1a} --force -o merged"
    return cases


def exporting():
    cases = {}
    for model in ("sd1", "sd2", "emoji"):
        base = f"export {{{model}a}} -m {{{model}}} --format "
        cases |= {
            model + "-comfyui": base + "comfyui -o x.safetensors",
            model + "-a1111": base + "a1111 -o x.safetensors --save_precision fp32",
            model + "-lora": base + "lora --rank 4 -o x.safetensors",
            model + "-peft": base + "peft --rank 3 -o x --save_precision bf16",
        }
    cases["sd1-lora-full"] = ("export {sd1a}:0.5 -m {sd1} --format lora --rank 64 "
                              "--save_precision fp32 -o x.safetensors")
    cases["sd1-adapters"] = ("export --adapter {sd1a}:0.6 --adapter {sd1b}:0.4 -m {sd1} --format "
                             "comfyui --save_precision bf16 -o x.safetensors")
    cases["sd1-of-a-file"] = "export {sd1a} -m {sd1_file} --format a1111 -o x.safetensors"
    return cases


def extracting():
    cases = {}
    for model in ("sd1", "sd2", "emoji"):
        base = f"extract --base {{{model}}} --tuned {{{model}_tuned}} -o x.safetensors "
        cases |= {
            model: base,
            model + "-top": base + "--top_fraction 0.02 --save_precision fp16",
            model + "-tolerance": base + "--tolerance 1e-3 --save_precision bf16",
        }
    cases["sd1-of-a-file"] = "extract --base {sd1_file} --tuned {sd1_tuned} -o x.safetensors"
    cases["unet-only"] = ("extract --unet-only --base {sd1}/unet --tuned {sd1_tuned}/unet "
                          "-o x.safetensors")
    return cases


def inspecting():
    cases = {"unet-" + name.replace("/", "-"): f"inspect --unet-only {{golden}}/{name} --json"
             for name in GOLDEN_UNETS}
    for model in ("sd1", "sd2", "emoji"):
        tokenizer = "--tokenizer " + ("{emoji}/tokenizer" if model == "emoji" else "{tokenizer}")
        cases |= {
            model: f"inspect -m {{{model}}} --json",
            model + "-text": f"inspect -m {{{model}}}",
            model + "-file": f"inspect -m {{{model}_file}} {tokenizer} --json",
            model + "-adapter": f"inspect --adapter {{{model}a}} -m {{{model}}} --json",
            model + "-adapter-alone": f"inspect --adapter {{{model}a}} --json",
            model + "-adapter-text": f"inspect --adapter {{{model}a}} -m {{{model}}}",
            model + "-tokens": f"inspect -m {{{model}}} --tokenize 'ink style, a fox'",
        }
    for name in ("old", "zero_snr", "flow", "pipeline"):
        cases[name] = f"inspect -m {{{name}}} --json"
    return cases


def all_cases():
    """name -> (the command, whether the run goes on from its checkpoint after three steps:
    None, "before" (the commit before wrote it) or "own")"""
    groups = {"train": TRAINING, "generate": DRAWING, "merge": merging(), "export": exporting(),
              "extract": extracting(), "inspect": inspecting()}
    cases = {f"{group}/{name}": (command, None)
             for group, members in groups.items() for name, command in members.items()}
    for name, command in RESUMED.items():
        cases[f"resume-before/{name}"] = command, "before"
        cases[f"resume-own/{name}"] = command, "own"
    return cases
