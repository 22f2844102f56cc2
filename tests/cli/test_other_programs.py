"""Flags and names that users of other programs know."""

import json
import unittest

from support import IO, UNET, USAGE, Case


class OtherPrograms(Case):
    """Flags of diffusers, kohya sd-scripts and stable-diffusion.cpp: there or refused."""

    TRAINERS = """pretrained_model_name_or_path revision variant dataset_name train_data_dir
        image_column caption_column instance_data_dir instance_prompt class_data_dir class_prompt
        with_prior_preservation prior_loss_weight num_class_images output_dir seed resolution
        center_crop random_flip train_batch_size num_train_epochs max_train_steps
        gradient_accumulation_steps gradient_checkpointing learning_rate scale_lr lr_scheduler
        lr_warmup_steps lr_num_cycles lr_power snr_gamma min_snr_gamma noise_offset prediction_type
        use_8bit_adam use_ema adam_beta1 adam_beta2 adam_weight_decay adam_epsilon max_grad_norm
        mixed_precision checkpointing_steps checkpoints_total_limit resume_from_checkpoint
        validation_prompt validation_prompts num_validation_images validation_steps
        validation_epochs report_to logging_dir threshold progressive_iter lambda_rank percent mask
        output_name save_every_n_steps save_every_n_epochs save_precision save_model_as
        cache_latents cache_latents_to_disk enable_bucket min_bucket_reso max_bucket_reso
        bucket_reso_steps bucket_no_upscale caption_extension shuffle_caption keep_tokens
        caption_dropout_rate caption_prefix flip_aug clip_skip v2 v_parameterization
        zero_terminal_snr sample_prompts sample_every_n_steps sample_sampler save_state resume
        config_file preset-path""".split()
    GENERATORS = (
        """m model diffusion-model vae taesd p prompt n negative-prompt W H steps cfg-scale s
        seed sampling-method scheduler b batch-count clip-skip o output t threads type
        lora-model-dir rng vae-tiling offload-to-cpu motion-module video-frames fps prediction v
        M mode""".split())

    EXTRACTORS = (
        """model_org model_tuned save_to save_precision load_precision dim conv_dim
        min_diff clamp_quantile v2 v_parameterization sdxl device no_metadata""".split()
    )

    def check(self, command, names):
        known = 0
        for name in names:
            option = f"-{name}" if len(name) == 1 else f"--{name}"
            line = self.sara(command, option).errors()
            if not line:  # a switch that is there: the command complains of what is missing
                continue
            with self.subTest(option):
                self.assertNotIn("no such option", line[0])
                if "is not supported: " in line[0]:
                    self.assertIn(option, line[0])
                    self.assertGreater(len(line[0].split("is not supported: ")[1]), 8)
                else:
                    known += 1
        return known

    def test_trainers(self):
        self.assertGreater(self.check("train", self.TRAINERS), 35)

    def test_stable_diffusion_cpp(self):
        self.assertGreater(self.check("generate", self.GENERATORS), 15)

    def test_extractors(self):
        """kohya's extract_lora_from_models.py."""
        self.assertGreater(self.check("extract", self.EXTRACTORS), 3)

    def test_advice(self):
        for command, option, words in [
            ("train", "--dataset_name=lambdalabs/x", ["downloads nothing", "--train_data_dir"]),
            ("train", "--percent=5", ["--trainable"]),
            ("train", "--push-to-hub", ["network"]),
            ("generate", "--num_inference_steps=5", ["--steps"]),
            ("generate", "-M", ["sara merge"]),
        ]:
            self.refused(USAGE, [option.split("=")[0], *words], command, option)

    def test_kohya_v_parameterization(self):
        replay = self.write_replay("replay.safetensors", 1)
        self.ok("train", "--unet-only", UNET, "--replay", replay, "-o", "v", "--v_parameterization")
        with open(self.path("v", "checkpoint-1", "manifest.json")) as file:
            self.assertEqual(json.load(file)["run"]["prediction_type"], "v_prediction")

    def test_hub_names(self):
        name = "runwayml/stable-diffusion-v1-5"
        self.refused(IO, [name, "downloads nothing"], "inspect", "-m", name)
        self.refused(IO, [name, "downloads nothing"], "merge", "-m", name, "-o", "x")
        self.refused(IO, [name, "downloads nothing"], "generate", "-m", name, "-p", "x")
        self.refused(
            IO, [name, "downloads nothing"], "train", "-m", name, "-o", "x", "--train_data_dir", "x"
        )


if __name__ == "__main__":
    unittest.main()
