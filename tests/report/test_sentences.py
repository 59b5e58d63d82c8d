"""The verdict names winner and losers truthfully."""

from typing import Any

import pytest

from camelid.report.sentences import format_share, judge


def row(name: str, bits_per_byte: float, with_training_text: bool = False) -> dict[str, Any]:
    return {"name": name, "bits_per_byte": bits_per_byte, "with_training_text": with_training_text}


GZIP, XZ, XZ_AFTER_TRAINING = row("gzip -9", 2.0), row("xz -9", 1.5), row("xz -9", 1.0, True)


@pytest.mark.parametrize(
    ("model", "verdict"),
    [
        (0.9, "It beats every compressor here, with 10.0% fewer bits than xz -9 after the training text, the nearest."),
        (
            1.2,
            "It beats xz -9 and gzip -9, with 20.0% fewer bits than xz -9, the nearest. It loses to xz -9 after the "
            "training text, with 20.0% more bits.",
        ),
        (
            1.6,
            "It beats gzip -9, with 20.0% fewer bits. It loses to xz -9 after the training text and xz -9, with "
            "60.0% more bits than xz -9 after the training text, the best.",
        ),
        (2.5, "It loses to every compressor here, with 150.0% more bits than xz -9 after the training text, the best."),
    ],
)
def test_verdict(model: float, verdict: str) -> None:
    expected = f"The model needs {model:.3f} bits for a byte of text that it has never seen. {verdict}"
    assert judge(model, [GZIP, XZ, XZ_AFTER_TRAINING]) == expected


@pytest.mark.parametrize(("share", "text"), [(0, "0%"), (0.0041, "0.41%"), (0.035, "3.5%"), (0.29, "29%"), (1, "100%")])
def test_small_shares_keep_their_digits(share: float, text: str) -> None:
    assert format_share(share) == text
