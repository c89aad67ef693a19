"""What is told of an evaluation: the short table, the numbers to compare by, and `results.md`."""

from typing import Any

from perceptual_mae.report.evaluation import headline, markdown, summary


def scores(top1: float) -> dict[str, Any]:
    return {
        "top1": top1,
        "top5": 0.9,
        "interval": [top1 - 0.1, top1 + 0.1],
        "per_class": [0.75, None, 0.5],
        "confusion": [[3, 0, 1], [0, 0, 0], [2, 0, 2]],
    }


CONTENT: dict[str, Any] = {
    "encoder": {
        "name": "mine",
        "method": "ms-ssim",
        "parameters": 1_234_567,
        "embed_dim": 96,
        "image_size": [64, 96],
    },
    "data": {
        "spec": "./my_photos",
        "train_images": 1000,
        "test_images": 8,
        "test": "the validation split",
        "classes": ["a|b", "unseen", "c"],
    },
    "notes": ["a note"],
    "parts": {
        "reconstruction": {
            "protocol": "75% of the patches removed",
            "result": {
                "output": {"l1": 0.2, "psnr": 20.0, "ssim": 0.5, "fd-net": 12.345},
                "pasted": {"l1": 0.1, "psnr": 23.0, "ssim": 0.7, "fd-net": 9.0, "is": 3.0, "is_std": 0.1},
                "removed": {"l1": 0.15, "psnr": 21.0},
                "notes": [],
            },
        },
        "knn/cls": {"protocol": "neighbours", "result": {"10": scores(0.3), "20": scores(0.4)}},
        "linear/mean": {"protocol": "a probe", "result": scores(0.625)},
    },
}


def test_the_numbers_that_are_compared() -> None:
    assert headline(CONTENT) == {
        "l1": 0.15,  # of removed patches, as far as they are measured there
        "psnr": 21.0,
        "ssim": 0.7,
        "fd-net": 9.0,
        "is": 3.0,
        "knn/cls/top1": 0.4,
        "knn/cls/top5": 0.9,
        "linear/mean/top1": 0.625,
        "linear/mean/top5": 0.9,
    }


def test_the_short_table() -> None:
    rows = summary(CONTENT)
    assert ("L1", "0.2000", "as drawn") in rows
    assert ("FD net", "12.3", "as drawn") in rows
    assert ("FD net", "9.00", "visible patches pasted back") in rows, "small distances have more digits"
    assert not any("std" in name for name, _, _ in rows)
    name, value, of = rows[-1]
    assert (name, value) == ("linear probe", "62.5%")
    assert "top-1 of mean token; 95 % interval 52.5% to 72.5%; top-5 90.0%" in of


def test_everything_in_markdown() -> None:
    text = markdown(CONTENT)
    assert text.startswith("# mine on ./my\\_photos\n")
    assert "1,234,567 parameters, 96 wide, images of 64 x 96 pixels" in text
    assert "- a note" in text
    assert "ImageNet: 71.2 (another data set" in text
    assert "- **linear/mean**: a probe." in text
    # Class by class: recall, and what it is taken for; a class without test images has neither.
    assert "| a\\|b | 4 | 75.0% | c (25%) |" in text
    assert "| unseen | 0 | – | – |" in text
    assert "| c | 4 | 50.0% | a\\|b (50%) |" in text
    assert "k-NN of masked autoencoders is low by nature" in text
    without = CONTENT | {"parts": {"reconstruction": CONTENT["parts"]["reconstruction"]}}
    assert "low by nature" not in markdown(without)
