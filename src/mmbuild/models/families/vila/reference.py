"""Runs VILA with the decoder and the tower of transformers, and its own projector.

transformers does not support VILA, and VILA's code is not run. The tower is the complete transformers model, of which
the hidden state that VILA uses is selected; the projector's weights are read here. Prompts and images are
preprocessed independently of the engine's processor.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mmbuild.models.checkpoint.hf_weights import open_weights
from mmbuild.models.checkpoint.tensor_parallel import TensorSlice
from mmbuild.models.errors import EngineError
from mmbuild.models.families.processor import Request
from mmbuild.models.families.shared import hugging_face
from mmbuild.models.families.shared.chat import own_template
from mmbuild.models.families.shared.config_reading import saved_config
from mmbuild.models.families.transformers_inputs import Inputs, takes_parts
from mmbuild.models.families.vila import IMAGE_TOKEN_ID, layout
from mmbuild.models.families.vila.visual import canonical, make_projector, tower_config
from mmbuild.models.files.small_files import read_text
from mmbuild.models.images import require_pixels

IMAGE = "<image>"


class VilaReference(nn.Module):
    """Combines decoder, tower and projector in one ``generate``."""

    def __init__(self, llm: Any, tower: Any, projector: nn.Module, read: layout.Layout) -> None:
        """``llm``, ``tower``: transformers' models; ``read``: which hidden state of the tower is taken."""
        super().__init__()
        self.llm, self.tower, self.projector, self.read = llm, tower, projector, read

    @property
    def config(self) -> Any:
        """The decoder's."""
        return self.llm.config

    @property
    def generation_config(self) -> Any:
        """The decoder's."""
        return self.llm.generation_config

    @property
    def device(self) -> torch.device:
        """Where the decoder is."""
        device: torch.device = self.llm.device
        return device

    @property
    def dtype(self) -> torch.dtype:
        """Of the decoder's weights."""
        dtype: torch.dtype = self.llm.dtype
        return dtype

    def features(self, pixels: Tensor) -> Tensor:
        """[images, 3, H, W] -> [images, num_visual_features, hidden]."""
        states = self.tower(pixels, output_hidden_states=True).hidden_states[self.read.layer]
        patches = states[:, 1:] if self.read.feature == "patch" else states
        features: Tensor = self.projector(patches)
        return features

    def embeddings(self, ids: Tensor, pixels: Tensor | None) -> Tensor:
        """Token embeddings of ``ids`` [1, tokens], with features where the placeholders are."""
        images = ids == IMAGE_TOKEN_ID
        embedded: Tensor = self.llm.get_input_embeddings()(ids.masked_fill(images, 0))
        if pixels is None:
            return embedded
        features = self.features(pixels).to(embedded.dtype)
        return embedded.masked_scatter(images[..., None], features)

    def generate(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        pixel_values: Tensor | None = None,
        **options: Any,
    ) -> Any:
        """As transformers' ``generate``; ``sequences`` holds the new tokens alone."""
        embedded = self.embeddings(input_ids, pixel_values)
        return self.llm.generate(inputs_embeds=embedded, attention_mask=attention_mask, **options)


def load(sources: Mapping[str, Path], dtype: torch.dtype, device: str) -> VilaReference:
    """Load the model in ``sources["model"]``, whose tower may be in ``sources["vision"]``.

    Raises:
        EngineError: MM563, transformers cannot load the decoder, or tower or projector lack a tensor.
        CheckpointError: The weights are missing or damaged.
    """
    from transformers import AutoModel, LlamaForCausalLM

    model, second = sources["model"], sources.get("vision")
    read = layout.read(saved_config(model), saved_config(second) if second else None)
    # The outer config of one directory calls itself LLaVA's; its keys are LLaMA's.
    decoder = model / "llm" if read.directories else model
    llm = hugging_face.load_quietly(LlamaForCausalLM, decoder, dtype)
    reference = VilaReference(llm, AutoModel.from_config(tower_config(read)), make_projector(read), read)
    # A tower that was trained along goes before the second source's.
    state = {**(_visual_tensors("vision", second) if second else {}), **_visual_tensors("model", model)}
    _fill(reference.projector, "mm_projector.", state, model)
    _fill(reference.tower, "vision_tower.", state, second or model)
    reference.to(device=device, dtype=dtype).eval()
    return reference


def load_inputs(sources: Mapping[str, Path], model: VilaReference) -> Inputs:
    """transformers' tokenizer, template and image processor, and VILA's rules around them.

    The rules are those of ``tokenizer_image_token`` and ``process_images`` in github.com/NVlabs/VILA: a prompt is cut
    at ``<image>`` and each piece encoded, only the first keeping the token for a beginning; pictures are padded to a
    square, resized, or left to the image processor as ``image_aspect_ratio`` says.

    Args:
        sources: Model directories.
        model: Result of :func:`load`.

    Raises:
        EngineError: MM516, tokenizer or image processor cannot be read.
    """
    directory, config = sources["model"], saved_config(sources["model"])
    whole = "llm_cfg" in config
    tokenizer = hugging_face.saved_tokenizer(directory / "llm" if whole else directory)
    tower = directory / "vision_tower" if whole else sources["vision"]
    processor = hugging_face.saved_image_processor(tower)
    template = (
        tokenizer.chat_template or _outer_template(directory) or own_template("mmbuild.models.families.vila")
    )

    def inputs(question: str | None, pictures: Sequence[Any]) -> Request:
        shown = [_square(picture, processor, config.get("image_aspect_ratio")) for picture in pictures]
        pixels = processor(shown, return_tensors="pt")["pixel_values"].float() if shown else torch.empty(0)
        with torch.inference_mode():
            count = model.features(pixels[:1].to(model.device, model.dtype)).shape[1] if shown else 0
        text, special = _prompt(tokenizer, template, question or "", len(pictures))
        pieces = [tokenizer(piece, add_special_tokens=special).input_ids for piece in text.split(IMAGE)]
        ids = list(pieces[0])
        begins = special and ids[:1] == [tokenizer.bos_token_id]
        for piece in pieces[1:]:
            ids += [IMAGE_TOKEN_ID] * count + (piece[1:] if begins else piece)
        return Request(tuple(ids), pixels)

    return inputs


def _outer_template(directory: Path) -> str | None:
    file = directory / "chat_template.jinja"
    return read_text(file) if file.is_file() else None


def _prompt(tokenizer: Any, template: str, question: str, pictures: int) -> tuple[str, bool]:
    """A complete prompt, and whether the tokenizer adds its own beginning."""
    if IMAGE in question:
        return question, True
    parts = [{"type": "image"}] * pictures + [{"type": "text", "text": question}]
    listed = takes_parts(tokenizer.apply_chat_template, IMAGE, chat_template=template)
    content = parts if listed else f"{IMAGE}\n" * pictures + question
    text: str = tokenizer.apply_chat_template(
        [{"role": "user", "content": content}],
        chat_template=template,
        add_generation_prompt=True,
        tokenize=False,
    )
    return text, not (tokenizer.bos_token and text.startswith(tokenizer.bos_token))


def _square(picture: Any, processor: Any, aspect: object) -> Any:
    from PIL import ImageOps

    if aspect == "resize":
        size = getattr(processor, "crop_size", None) or processor.size
        return picture.resize((int(size["width"]), int(size["height"])))
    if aspect != "pad":
        return picture
    side = max(picture.size)
    require_pixels(side, side)
    left, top = (side - picture.width) // 2, (side - picture.height) // 2
    border = (left, top, side - picture.width - left, side - picture.height - top)
    mean = processor.image_mean
    colour = tuple(int(float(one) * 255) for one in (mean if isinstance(mean, list | tuple) else [mean] * 3))
    return ImageOps.expand(picture, border, colour)


def _visual_tensors(source: str, directory: Path) -> dict[str, Tensor]:
    """All tensors of the visual side in a source, by canonical name."""
    with open_weights(directory) as stored:
        named = ((canonical(source, name), tensor) for name, tensor in stored.items())
        return {name: tensor.read(TensorSlice()).clone() for name, tensor in named if name is not None}


def _fill(module: nn.Module, prefix: str, state: Mapping[str, Tensor], directory: Path) -> None:
    found = {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
    # What lies behind the layer that is looked at changes nothing, and may be missing.
    needed = dict(module.named_parameters())
    missing = sorted(
        name for name in needed if name not in found and not name.startswith(("head.", "post_layernorm."))
    )
    if missing:
        raise _unloadable(directory, f"holds no `{missing[0]}` of the visual side")
    for name, parameter in needed.items():
        if name in found and found[name].shape != parameter.shape:
            shapes = f"{list(found[name].shape)}, and config.json says {list(parameter.shape)}"
            raise _unloadable(directory, f"holds `{name}` of the visual side with the shape {shapes}")
    module.load_state_dict({name: found[name] for name in needed if name in found}, strict=False)


def _unloadable(directory: Path, problem: str) -> EngineError:
    return EngineError(
        f"`{directory}` {problem}",
        code="MM563",
        hint="give the model directory that the engine was built from with --model",
    )


def tensor_shapes(config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor of a source; in directories ``llm/...``.

    Raises:
        SourceError: MM440, transformers knows no such decoder or tower.
    """
    from transformers import AutoModel, LlamaForCausalLM

    if "llm_cfg" not in config and "mm_projector_type" not in config and "mm_vision_tower" not in config:
        return hugging_face.shapes_of(AutoModel.from_config, config)
    if "llm_cfg" not in config:
        llm = hugging_face.shapes_of(LlamaForCausalLM._from_config, {**config, "model_type": "llama"})
        return {**llm, **_projector_shapes(config)}
    tower = hugging_face.shapes_of(AutoModel.from_config, config["vision_tower_cfg"])
    llm = hugging_face.shapes_of(LlamaForCausalLM._from_config, config["llm_cfg"])
    return {
        **{f"llm/{name}": shape for name, shape in llm.items()},
        **{f"vision_tower/vision_model.{name}": shape for name, shape in tower.items()},
        **_projector_shapes(config),
    }


def _projector_shapes(config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    from mmbuild.models.families.vila.visual import Projector

    inside = "llm_cfg" in config
    kind = (
        config["mm_projector_cfg"]["mm_projector_type"]
        if inside
        else config.get("mm_projector_type", "linear")
    )
    with torch.device("meta"):
        projector = Projector(str(kind), int(config["mm_hidden_size"]), int(config["hidden_size"]))
    place = "mm_projector/layers" if inside else "model.mm_projector"
    return {
        name.replace("layers", place, 1): tuple(value.shape) for name, value in projector.state_dict().items()
    }
