"""From a plain question to the form a model was trained on."""

from __future__ import annotations

from typing import Any


def conversation(processor: Any, prompt: str, images: int) -> str:
    """``prompt`` about ``images`` pictures in the model's chat form.

    A prompt that names the image token is complete already and is returned unchanged. Otherwise the model's
    own chat template is used; a processor without one gets the image tokens before the text.
    """
    token = str(getattr(processor, "image_token", "<image>"))
    if token in prompt:
        return prompt
    if not getattr(processor, "chat_template", None):
        return token * images + ("\n" if images else "") + prompt
    content = [{"type": "image"}] * images + [{"type": "text", "text": prompt}]
    text: str = processor.apply_chat_template(
        [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=False
    )
    return text
