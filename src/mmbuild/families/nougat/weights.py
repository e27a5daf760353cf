"""Where Nougat's decoder lies: ``VisionEncoderDecoderModel.decoder`` is an ``MBartForCausalLM``."""

from __future__ import annotations

from mmbuild.families.base import Naming

NAMINGS = (Naming("decoder.model.decoder.", "decoder.lm_head.weight"),)
