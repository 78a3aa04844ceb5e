"""The tiny image-text-to-text models that other tests load are real enough to test with."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor

from tests.policies.vlm_families import FAMILIES, ONE_IMAGE, build

NEEDS_NUM2WORDS = pytest.mark.skipif(
    find_spec("num2words") is None, reason="the processor of SmolVLM needs num2words"
)
MARKS = {"smolvlm": [NEEDS_NUM2WORDS]}


@dataclass(frozen=True)
class Loaded:
    """A family's folder and what the Auto classes make of it."""

    name: str
    folder: Path
    config: Any
    processor: Any
    model: Any

    def prompt(self, sentence: str) -> str:
        """The sentence after the images of a sample, as the family writes it."""
        if self.processor.chat_template:
            parts = [{"type": "image"}] * self.images + [{"type": "text", "text": sentence}]
            turn = [{"role": "user", "content": parts}]
            text: str = self.processor.apply_chat_template(turn, add_generation_prompt=True)
            return text
        return sentence if self.name in ONE_IMAGE else "<image>" * self.images + sentence

    @property
    def images(self) -> int:
        return 1 if self.name in ONE_IMAGE else 2

    def inputs(self, sentences: list[str], seed: int = 0) -> dict[str, torch.Tensor]:
        """Each sentence with two images of 64 x 64 noise, or one."""
        shape = (len(sentences), self.images, 64, 64, 3)
        pixels = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
        texts = [self.prompt(sentence) for sentence in sentences]
        samples = [list(sample) for sample in pixels]
        found: dict[str, torch.Tensor] = self.processor(
            images=samples, text=texts, padding=True, return_tensors="pt"
        )
        return found

    def hidden(self, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        """The last hidden state of the text tokens [B, L, D]; of the encoder where there is one."""
        with torch.inference_mode():
            output = self.model(**inputs, output_hidden_states=True)
        output = output.get("language_model_outputs", output)
        states: tuple[torch.Tensor, ...] = output.get(
            "hidden_states", output.get("encoder_hidden_states")
        )
        return states[-1]


@pytest.fixture(
    scope="module",
    params=[pytest.param(name, marks=MARKS.get(name, [])) for name in FAMILIES],
)
def loaded(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Loaded:
    name: str = request.param
    folder = build(name, tmp_path_factory.mktemp("families") / name)
    config = AutoConfig.from_pretrained(folder)
    processor = AutoProcessor.from_pretrained(folder)
    model = AutoModelForImageTextToText.from_pretrained(folder)
    return Loaded(name, folder, config, processor, model.eval())


def test_the_folder_is_small_and_looks_like_a_hub_checkout(loaded: Loaded):
    files = {file.name: file.stat().st_size for file in loaded.folder.iterdir()}
    assert {"config.json", "model.safetensors", "processor_config.json"} <= files.keys()
    assert {"tokenizer.json", "tokenizer_config.json"} <= files.keys()
    assert sum(files.values()) < 2e6


def test_the_same_weights_are_built_every_time(loaded: Loaded, tmp_path: Path):
    again = build(loaded.name, tmp_path) / "model.safetensors"
    assert again.read_bytes() == (loaded.folder / "model.safetensors").read_bytes()


def test_every_sentence_has_ids_of_its_own(loaded: Loaded):
    tokenizer = loaded.processor.tokenizer
    for sentence in ("open the drawer", "Öffne die Schublade, 3×!"):
        ids = tokenizer(sentence, add_special_tokens=False)["input_ids"]
        assert tokenizer.decode(ids) == sentence
        assert max(ids) < loaded.model.get_input_embeddings().num_embeddings


def test_a_batch_of_samples_gives_a_finite_state_for_each_token(loaded: Loaded):
    inputs = loaded.inputs(["open the drawer", "push", "close the window"])
    placeholders = (inputs["input_ids"] == loaded.config.image_token_id).sum(1)
    assert (placeholders == placeholders[0]).all()
    assert 4 <= int(placeholders[0]) <= 20 * loaded.images
    states = loaded.hidden(inputs)
    assert states.shape == (*inputs["input_ids"].shape, 32)
    assert torch.isfinite(states).all()


def test_states_differ_between_images_and_between_instructions(loaded: Loaded):
    """At the last token, which sees all the others, and by much more than rounding."""
    here = loaded.hidden(loaded.inputs(["open the drawer"]))[0, -1]
    other_image = loaded.hidden(loaded.inputs(["open the drawer"], seed=1))[0, -1]
    other_text = loaded.hidden(loaded.inputs(["shut the drawer"]))[0, -1]
    assert (other_image - here).norm() > 1e-2 * here.norm()
    assert (other_text - here).norm() > 1e-2 * here.norm()


def test_a_sample_in_a_padded_batch_has_the_states_it_has_alone(loaded: Loaded):
    """The shorter sentence is the padded one, on the side that the family's tokenizer takes."""
    inputs = loaded.inputs(["push", "open the drawer"])
    mask = inputs["attention_mask"][0].bool()
    assert not mask.all()
    alone = loaded.hidden(loaded.inputs(["push"]))[0]
    assert torch.allclose(loaded.hidden(inputs)[0][mask], alone, atol=1e-4)
