"""Cluttered digits and a convolutional network: real images, few of them, and a long training.

The images are made as Mnih et al. (2014) made cluttered MNIST. A canvas of 10 x 10 pixels has one of scikit-learn's
handwritten digits (8 x 8) at a random place, and over it two pieces of other digits (3 x 3) at random places. The class
is that of the whole digit. A training digit is drawn eight times, at different places and with different clutter. A
network must learn to find the digit and to overlook the pieces. The task `digits` of networks.py asks neither.

Digits are parted before images are drawn: 500 of the 1797 are the test set of every seed. The run's seed draws those to
train and to validate on from the rest. Pieces of clutter come from digits of the same part.

The network: 12 filters of 4 x 4 with stride 2, 24 filters of 3 x 3, and a linear layer that sees all four places.
Some batches are moved by one pixel at most in each direction; what leaves the canvas comes in on the other side. The
hyperparameter `shift` is the share of these batches.
"""

from __future__ import annotations

import functools
from typing import Any, ClassVar

import numpy as np

from gpbt_async.space import Choice, Float, Space

from .descent import Descent, residual
from .tasks import generator

#: what is taken from every pixel, so that zero is their mean, roughly
ZERO = -0.3
#: pixels of a side of the canvas, of a digit and of a piece; pieces on a canvas
CANVAS, DIGIT, PIECE, PIECES = 10, 8, 3, 2
#: images of a digit, in each part
DRAWN = {"train": 8, "validation": 2, "test": 4}
#: filters, sides and places along a side of the two layers
FILTERS, SIDE, PLACES = (12, 24), (4, 3), (4, 2)
#: where the first layer's filters lie on the canvas: a row of pixels a place
PATCHES = np.array(
    [
        [(2 * top + i) * CANVAS + 2 * left + j for i in range(SIDE[0]) for j in range(SIDE[0])]
        for top in range(PLACES[0])
        for left in range(PLACES[0])
    ]
)


@functools.cache
def digits() -> tuple[np.ndarray, np.ndarray]:
    """All of scikit-learn's images, from 0 to 1, in an order that is fixed; and their classes."""
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    order = generator("test digits").permutation(len(y))
    return x.reshape(-1, DIGIT, DIGIT)[order] / 16.0, y[order].astype(np.int64)


def draw(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A canvas for each digit of x, with clutter from the others, shifted by ZERO."""
    canvases = np.zeros((len(x), CANVAS, CANVAS))
    for one, canvas in zip(x, canvases, strict=True):
        _paste(canvas, one, rng)
        for other in rng.integers(len(x), size=PIECES):
            top, left = rng.integers(DIGIT - PIECE + 1, size=2)
            _paste(canvas, x[other, top : top + PIECE, left : left + PIECE], rng)
    return canvases + ZERO


def _paste(canvas: np.ndarray, piece: np.ndarray, rng: np.random.Generator) -> None:
    """The lighter of both, wherever the piece is put."""
    side = len(piece)
    top, left = rng.integers(CANVAS - side + 1, size=2)
    part = canvas[top : top + side, left : left + side]
    np.maximum(part, piece, out=part)


class Images(Descent):
    space = Space(
        {
            "lr": Float(1e-3, 3.0, log=True),
            "momentum": Float(0.0, 0.98),
            "weight_decay": Float(1e-6, 1e-1, log=True),
            "dropout": Float(0.0, 0.6),
            "shift": Float(0.0, 1.0),
            "batch": Choice([16, 32, 64]),
        }
    )
    generations = 20
    examples = 1600
    #: digits to train and to validate on, and of the test set
    train, validation, tested = 700, 500, 500
    shapes: ClassVar = {
        "w1": (SIDE[0] ** 2, FILTERS[0]),
        "b1": (FILTERS[0],),
        "w2": (SIDE[1] ** 2 * FILTERS[0], FILTERS[1]),
        "b2": (FILTERS[1],),
        "w3": (PLACES[1] ** 2 * FILTERS[1], 10),
        "b3": (10,),
    }

    def split(self, seed: int) -> tuple[np.ndarray, ...]:
        x, y = digits()
        order = self.tested + generator("split", seed).permutation(len(y) - self.tested)
        parts = order[: self.train], order[self.train : self.train + self.validation], np.arange(self.tested)
        drawn: list[np.ndarray] = []
        for (name, times), rows in zip(DRAWN.items(), parts, strict=True):
            rows = np.repeat(rows, times)
            drawn += draw(x[rows], generator(name, 0 if name == "test" else seed)), y[rows]
        return tuple(drawn)

    def gradient(
        self, weights: np.ndarray, x: np.ndarray, y: np.ndarray, config: dict[str, Any], rng: np.random.Generator
    ) -> np.ndarray:
        w, size = self.parts(weights), len(y)
        if rng.random() < config["shift"]:
            x = np.roll(x, rng.integers(-1, 2, size=2), axis=(1, 2))
        seen1, h1, seen2, h2 = _layers(w, x)
        kept = (rng.random(h2.shape) >= config["dropout"]) / (1 - config["dropout"])
        top = h2 * kept
        out = residual(top @ w["w3"] + w["b3"], y, 0.0)
        found = np.empty_like(weights)
        g = self.parts(found)
        g["w3"][:] = top.T @ out
        g["b3"][:] = out.sum(axis=0)
        back = out @ w["w3"].T
        back *= kept
        back *= h2 > 0
        back = back.reshape(-1, FILTERS[1])
        g["w2"][:] = seen2.T @ back
        g["b2"][:] = back.sum(axis=0)
        below = _gathered((back @ w["w2"].T).reshape(size, PLACES[1], PLACES[1], SIDE[1], SIDE[1], FILTERS[0]))
        below *= h1 > 0
        back = below.reshape(-1, FILTERS[0])
        g["w1"][:] = seen1.T @ back
        g["b1"][:] = back.sum(axis=0)
        return found

    def logits(self, weights: np.ndarray, x: np.ndarray) -> np.ndarray:
        w = self.parts(weights)
        found: np.ndarray = _layers(w, x)[3] @ w["w3"] + w["b3"]
        return found


def _layers(w: dict[str, np.ndarray], x: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """What the first layer's filters see, a row a place; what it gives; the same of the second layer."""
    size = len(x)
    seen1 = x.reshape(size, -1)[:, PATCHES].reshape(-1, SIDE[0] ** 2)
    h1 = np.maximum(seen1 @ w["w1"] + w["b1"], 0).reshape(size, PLACES[0], PLACES[0], FILTERS[0])
    seen2: np.ndarray = np.empty((size, PLACES[1], PLACES[1], SIDE[1], SIDE[1], FILTERS[0]))
    for i, j in np.ndindex(SIDE[1], SIDE[1]):
        seen2[:, :, :, i, j] = h1[:, i : i + PLACES[1], j : j + PLACES[1]]
    seen2 = seen2.reshape(-1, SIDE[1] ** 2 * FILTERS[0])
    h2 = np.maximum(seen2 @ w["w2"] + w["b2"], 0)
    return seen1, h1, seen2, h2.reshape(size, -1)


def _gathered(back: np.ndarray) -> np.ndarray:
    """The gradient by what the second layer's filters see → by what the first layer gives."""
    found = np.zeros((len(back), PLACES[0], PLACES[0], FILTERS[0]))
    for i, j in np.ndindex(SIDE[1], SIDE[1]):
        found[:, i : i + PLACES[1], j : j + PLACES[1]] += back[:, :, :, i, j]
    return found
