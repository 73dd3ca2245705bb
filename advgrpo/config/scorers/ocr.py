"""OCR accuracy: settings and facts."""

from typing import ClassVar, Literal

from advgrpo.config.scorers.base import BaseScorerConfig, MetricFacts


class OcrConfig(BaseScorerConfig):
    """Share of the text quoted in a prompt that RapidOCR reads; needs `advgrpo[ocr]`."""

    type: Literal["ocr"] = "ocr"

    # As a reward it is refused if a training prompt has no quoted text.
    needs_quoted_text = True
    facts: ClassVar = {
        "accuracy": MetricFacts(
            label="OCR accuracy",
            note="legibility of quoted text",
            range="0 to 1",
            unit="share of characters",
            higher_is_better=True,
            source="arXiv:2505.05470; RapidOCR with PP-OCRv6",
            licence="RapidOCR and its models: Apache-2.0",
            blind_to="everything but text: black letters on white score best; additional text; "
            "prompts without quoted text",
        )
    }
