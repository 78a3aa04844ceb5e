"""Decisions and update samples per second of a vision-language policy, against a plain loop.

The plain loop is what a script over transformers does: the processor reads prompt and images of
every observation, the whole model runs, at acting one observation at a time, and again for every
epoch of an update. Ours reads a prompt once, batches, and starts updates from what frozen parts
made of the images. Network, adapters and precision are the same, and so are the hidden states
(checked). Every case runs in a process of its own.

    python -m benchmarks.vlm_speed [--models embedded smolvlm-256m] [--batch 16] [--seconds 20]

On a GPU it also finds the largest update batch within 24 and 80 GB.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import transformers
from PIL import Image
from torch import Tensor

from benchmarks._markdown import origin, per_second_text, table
from benchmarks._record import write
from benchmarks._speed import peak_gb, per_second
from vla_rl.learning.learner import Learner, LearnerConfig
from vla_rl.policies import vla
from vla_rl.policies._backbones.config import VLMConfig
from vla_rl.policies._vlm import embedded
from vla_rl.types import Observation, Spaces

SPACES = Spaces(views=("corner2", "gripper"), image_size=64, state_dim=7, action_dim=4)
SENTENCE = "open the drawer"
LIMITS_GB = (24, 80)


class Model(NamedTuple):
    """What is measured: options of the network, and how its folder is made."""

    about: str
    make: Callable[[Path], str]
    settings: dict[str, Any]


def _smolvlm(folder: Path, text: dict[str, Any], vision: dict[str, Any], scale: int) -> str:
    """A folder with the sizes of a published SmolVLM; its weights are random."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(embedded.folder())
    names = ["<fake_token_around_image>", "<image>", "<end_of_utterance>", "<global-img>"]
    tokenizer.add_special_tokens({"additional_special_tokens": names})
    image_token = tokenizer.convert_tokens_to_ids("<image>")
    config = transformers.SmolVLMConfig(
        text_config={"model_type": "llama", "vocab_size": 49280, **text},
        vision_config=vision,
        scale_factor=scale,
        image_token_id=image_token,
    )
    config.save_pretrained(folder)
    size = {"longest_edge": vision["image_size"]}
    transformers.SmolVLMProcessor(
        transformers.SmolVLMImageProcessor(
            size=size, max_image_size=size, do_image_splitting=False
        ),
        tokenizer,
        transformers.SmolVLMVideoProcessor(),
        image_seq_len=(vision["image_size"] // vision["patch_size"]) ** 2 // scale**2,
        chat_template=embedded.CHAT,
    ).save_pretrained(folder)
    return str(folder)


def _smolvlm_256m(folder: Path) -> str:
    text = {
        **{"hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30},
        **{"num_attention_heads": 9, "num_key_value_heads": 3},
    }
    vision = {
        **{"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12},
        **{"num_attention_heads": 12, "image_size": 512, "patch_size": 16},
    }
    return _smolvlm(folder, text, vision, 4)


def _smolvlm_2b(folder: Path) -> str:
    text = {
        **{"hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 24},
        **{"num_attention_heads": 32, "num_key_value_heads": 32},
    }
    vision = {
        **{"hidden_size": 1152, "intermediate_size": 4304, "num_hidden_layers": 27},
        **{"num_attention_heads": 16, "image_size": 384, "patch_size": 14},
    }
    return _smolvlm(folder, text, vision, 3)


MODELS = {
    "embedded": Model("DINOv2-small + SmolLM2-135M, two 112 px views", lambda _: embedded.NAME, {}),
    "smolvlm-256m": Model(
        "sizes of SmolVLM-256M, random weights, two 512 px views",
        _smolvlm_256m,
        {"pretrained": False},
    ),
    "smolvlm-2b": Model(
        "sizes of SmolVLM-2.2B, random weights, two 384 px views",
        _smolvlm_2b,
        {"pretrained": False},
    ),
}


class Bench:
    """One model, ready to act and to learn."""

    def __init__(self, name: str, rows: int, scratch: Path) -> None:
        model = MODELS[name]
        self.rows, source = rows, model.make(scratch / name)
        backbone = VLMConfig(f"vlm:{source}", lora_rank=16, tokens="last", **model.settings)
        config = vla.Config(backbone=backbone, text="hash")
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        torch.manual_seed(0)
        self.policy = vla.Policy(config, SPACES).to(self.device)
        self.policy.remember([SENTENCE])
        self.vision: Any = self.policy.vision
        self.processor = transformers.AutoProcessor.from_pretrained(embedded.find(source))
        rng = np.random.default_rng(0)
        images = rng.integers(0, 256, (rows, 2, 64, 64, 3), dtype=np.uint8)
        self.obs = Observation(images, rng.normal(size=(rows, 7)).astype(np.float32))
        self.keys = np.stack([np.arange(rows), np.arange(rows)], axis=1)
        self.words = [SENTENCE] * rows

    def act(self) -> None:
        """Ours."""
        self.policy.act(self.obs, self.words, self.keys)

    def plain_act(self) -> None:
        """One observation at a time through processor and model."""
        for row in range(self.rows):
            with torch.inference_mode():
                seen = self.plain_states([row])
                text = self.policy._words([SENTENCE])
                state = self.policy._proprioception(self.obs[row : row + 1])
                context = self.policy.context(seen, text, state)
                self.policy.head.sample(*context, self.keys[row : row + 1])

    def plain_states(self, rows: list[int]) -> Tensor:
        """Hidden states of the last token ``[n, C]``, by transformers alone."""
        inputs = self.read(rows)
        images = {k: inputs.pop(k) for k in list(inputs) if k in self.vision._takes}
        images["pixel_values"] = images["pixel_values"].to(self.vision.net.dtype)
        with self.vision.low(self.device):
            looked = self.vision.net.get_image_features(**images, return_dict=True)
            out = self.vision.net.base_model(
                **inputs, mm_encoder_outputs={"image": looked}, use_cache=False
            )
        states = out.last_hidden_state[:, -1].float()
        return torch.nn.functional.layer_norm(states, states.shape[-1:])

    def read(self, rows: list[int]) -> dict[str, Tensor]:
        """What the processor makes of observations."""
        prompt = self.vision.reading.prompt.removeprefix("{images}")
        text = {"type": "text", "text": prompt.replace("{instruction}", SENTENCE)}
        turns = []
        for row in rows:
            images = [Image.fromarray(image) for image in self.obs.images[row]]
            content = [*({"type": "image", "image": image} for image in images), text]
            turns.append([{"role": "user", "content": content}])
        found = self.processor.apply_chat_template(
            turns,
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
            processor_kwargs={"images_kwargs": self.vision.about.image_settings},
        )
        return {name: value.to(self.device) for name, value in found.items()}

    def learner(self, frozen: bool) -> Learner:
        """Trains adapters and head, or the head only."""
        groups = ("head",) if frozen else ("vlm", "head")
        return Learner(self.policy, LearnerConfig(), groups)

    def updates(self, frozen: bool) -> Callable[[], None]:
        """Ours: gradient steps from the features that acting cached."""
        learner = self.learner(frozen)
        chunk = self.policy.act(self.obs, self.words, self.keys)
        blind = Observation(self.obs.images[:, :0], self.obs.state)
        kept = self.policy.caches
        obs = blind if kept else self.obs

        def step() -> None:
            scores = self.policy.evaluate(obs, self.words, chunk.raw, chunk.features)
            learner.accumulate(-scores.logprob.mean())
            learner.step()

        return step

    def plain_updates(self) -> Callable[[], None]:
        """The plain loop: processor and whole model in every step."""
        learner = self.learner(frozen=False)
        raw = torch.tensor(self.policy.act(self.obs, self.words, self.keys).raw, device=self.device)

        def step() -> None:
            seen = self.plain_states(list(range(self.rows)))
            text = self.policy._words(self.words)
            state = self.policy._proprioception(self.obs)
            logprob, _ = self.policy.head.score(*self.policy.context(seen, text, state), raw)
            learner.accumulate(-logprob.mean())
            learner.step()

        return step


def measure(name: str, case: str, rows: int, seconds: float) -> dict[str, float]:
    """One case, in its own process."""
    torch.set_num_threads(torch.get_num_threads())
    with tempfile.TemporaryDirectory() as scratch:
        bench = Bench(name, rows, Path(scratch))
        if case == "plain_act":
            with torch.inference_mode():
                ours = bench.policy.encode_images(
                    bench.policy._tensor(bench.obs.images), bench.policy._words(bench.words)
                )
                apart = float((bench.plain_states(list(range(rows))) - ours).abs().max())
            if apart > 0.1:  # bfloat16, other kernels for other batches
                raise SystemExit(f"{name}: the plain loop sees something else ({apart})")
        job = {
            "act": lambda: bench.act,
            "plain_act": lambda: bench.plain_act,
            "update": lambda: bench.updates(frozen=False),
            "update_frozen": lambda: bench.updates(frozen=True),
            "plain_update": bench.plain_updates,
        }[case]()
        rate = rows * per_second(job, seconds)
        found = {"per_second": rate, "peak_gb": peak_gb()}
        if case == "update" and torch.cuda.is_available():
            found |= {
                f"largest_batch_{gb}gb": _largest(name, gb, Path(scratch)) for gb in LIMITS_GB
            }
        return found


def _largest(name: str, limit_gb: int, scratch: Path) -> int:
    """The largest power of two of rows whose update fits into this much GPU memory."""
    whole = torch.cuda.get_device_properties(0).total_memory / 2**30
    if whole < limit_gb:
        return 0
    torch.cuda.set_per_process_memory_fraction(limit_gb / whole)
    rows = 1
    while True:
        try:
            Bench(name, 2 * rows, scratch / str(rows)).updates(frozen=False)()
        except torch.OutOfMemoryError:
            return rows
        rows *= 2


CASES = ("plain_act", "act", "plain_update", "update", "update_frozen")


def vlm_speed(result: dict[str, Any]) -> str:
    """Rates of ours and of a plain loop."""
    names = {
        "plain_act": "decisions/s, plain loop",
        "act": "**decisions/s, vla-rl**",
        "plain_update": "update samples/s, plain loop",
        "update": "**update samples/s, vla-rl** (adapters and head)",
        "update_frozen": "**update samples/s, vla-rl** (head only)",
    }
    models = result["models"].values()
    rows = [["", *(model["about"] for model in models)]]
    for case, text in names.items():
        found = [model["cases"][case] for model in models]
        rows.append(
            [text, *(f"{per_second_text(f['per_second'])}, {f['peak_gb']:.1f} GB" for f in found)]
        )
    note = (
        f"{result['batch']} observations at a time, LoRA of rank {result['lora_rank']}; memory is "
        f"the most that the process held. {origin(result)}"
    )
    return f"{table(*rows)}\n\n{note}"


TABLES = {"vlm_speed_embedded": vlm_speed, "vlm_speed_smolvlm-256m": vlm_speed}
"""What writes the tables of results, by their names."""


def main() -> None:
    """Measure and write the result."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--models", nargs="+", choices=MODELS, default=["embedded", "smolvlm-256m"])
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--seconds", type=float, default=20.0, help="of every case")
    given = parser.parse_args()
    for name in given.models:
        found = {}
        for case in CASES:
            with ProcessPoolExecutor(1, get_context("spawn")) as pool:
                job = pool.submit(measure, name, case, given.batch, given.seconds)
                found[case] = job.result()
            print(name, case, found[case], flush=True)
        times = {
            "acting": found["act"]["per_second"] / found["plain_act"]["per_second"],
            "update": found["update"]["per_second"] / found["plain_update"]["per_second"],
            "update_frozen": found["update_frozen"]["per_second"]
            / found["plain_update"]["per_second"],
        }
        model = {"about": MODELS[name].about, "cases": found, "times_plain": times}
        result = {"batch": given.batch, "lora_rank": 16, "models": {name: model}}
        print(write(f"vlm_speed_{name}", result))


if __name__ == "__main__":
    main()
