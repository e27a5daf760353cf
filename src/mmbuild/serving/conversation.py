"""A conversation that stays within what an engine can read."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mmbuild.models.errors import EngineError
from mmbuild.models.families.processor import Request, encode_chat
from mmbuild.models.families.turns import Turn
from mmbuild.models.validation.prompts import require_unicode


@dataclass(frozen=True, slots=True)
class Said:
    """One message.

    Attributes:
        role: ``user`` or ``assistant``.
        text: What was said.
        pictures: Paths of the pictures that came with it.
    """

    role: str
    text: str
    pictures: tuple[Path, ...] = ()

    def turn(self) -> Turn:
        """The message for a processor: pictures first."""
        return Turn(self.role, (*[None] * len(self.pictures), self.text))


@dataclass(slots=True)
class Conversation:
    """What was said so far.

    Attributes:
        messages: All of it.
        forgotten: The first messages, which the engine no longer reads.
    """

    messages: list[Said] = field(default_factory=list)
    forgotten: int = 0

    def say(self, role: str, text: str, pictures: Sequence[Path] = ()) -> None:
        """Add a message."""
        self.messages.append(Said(role, text, tuple(pictures)))

    def take_back(self) -> None:
        """Remove the last message, which was not answered."""
        self.messages.pop()

    def request(self, engine: Any) -> Request:
        """The request for an answer to the last message.

        The oldest messages are forgotten if there are more tokens or pictures than the engine can read. Models
        without a chat template read the last one alone.

        Raises:
            EngineError: The last message alone is too much (MM512, MM519), is not Unicode (MM785), or cannot be
                encoded.
        """
        require_unicode([self.messages[-1].text])
        if engine.processor.encode_chat is None:
            self.forgotten = len(self.messages) - 1
        while True:
            read = self.messages[self.forgotten :]
            pictures = [picture for said in read for picture in said.pictures]
            if len(pictures) <= self._most_pictures(engine) or len(read) == 1:
                request = encode_chat(engine.processor, [said.turn() for said in read], pictures)
                if len(request.ids) <= engine.config.max_input_len:
                    return request
                if len(read) == 1:
                    raise EngineError(
                        f"the message has {len(request.ids)} tokens with its visual features, but the engine reads "
                        f"{engine.config.max_input_len}",
                        code="MM512",
                        hint="say it in fewer words, or raise max_input_len in the recipe",
                    )
            # A question and its answer.
            self.forgotten += min(2, len(read) - 1)

    @staticmethod
    def _most_pictures(engine: Any) -> int:
        most: int = engine.config.max_multimodal_len // engine.visual.config.num_visual_features
        return max(1, most)

    def save(self, path: Path) -> None:
        """Write all messages as JSON, in the form of OpenAI's protocol with paths as URLs.

        Raises:
            OSError: The file cannot be written.
        """
        messages = [
            {
                "role": said.role,
                "content": [
                    *({"type": "image_url", "image_url": {"url": str(path)}} for path in said.pictures),
                    {"type": "text", "text": said.text},
                ],
            }
            for said in self.messages
        ]
        text = json.dumps(messages, indent=2, ensure_ascii=False) + "\n"
        # A path may have bytes that are not UTF-8; as JSON escapes them.
        path.write_text(text, encoding="utf-8", errors="backslashreplace")
