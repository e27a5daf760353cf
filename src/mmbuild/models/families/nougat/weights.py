"""Where Nougat's decoder lies: ``VisionEncoderDecoderModel.decoder`` is an ``MBartForCausalLM``."""

from __future__ import annotations

from mmbuild.models.families.facts import Naming

NAMINGS = (Naming("decoder.model.decoder.", "decoder.lm_head.weight"),)
