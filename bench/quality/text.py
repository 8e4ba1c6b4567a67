"""A character language model: the next letter of a character's name, from the eight letters before it.

The text is the names of the characters of Unicode 3.2, such as GREEK SMALL LETTER ALPHA WITH TONOS: 12 563 names, one
a line, 346 044 letters and line ends from an alphabet of 29. Python ships them in `unicodedata.ucd_3_2_0`. **Every
version of Python has the same text**: the standard library keeps this database at Unicode 3.2 for `stringprep`, and
Unicode's stability policy lets no name change. A test compares the text's SHA-256. (The longest English prose that
Python ships is `pydoc_data.topics`, but one paragraph in ten differs between Python 3.11 and 3.13, and one in twenty
between 3.11.2 and 3.11.7.) Two kinds of names are left out, because a rule makes them: Hangul syllables, and names with
digits, most of which are ideographs.

A name is in one part as a whole. A tenth of the names is the test set of every seed; the run's seed draws the names to
train and to validate on from the rest.

The network is Bengio's of 2003 in small: each letter has an embedding, a hidden layer sees those of the last eight, and
a softmax predicts the next one.
"""

from __future__ import annotations

import functools
import unicodedata
from typing import Any, ClassVar

import numpy as np

from gpbt_async.space import Choice, Float, Space

from .descent import Descent, residual
from .tasks import generator

#: line end, blank, hyphen and the letters; a name's first letters follow on line ends
ALPHABET = "\n -ABCDEFGHIJKLMNOPQRSTUVWXYZ"
CONTEXT, EMBEDDED, HIDDEN = 8, 8, 48
LETTERS = len(ALPHABET)


@functools.cache
def names() -> tuple[str, ...]:
    """The names in the order of their code points."""
    database = unicodedata.ucd_3_2_0
    every = (database.name(chr(point), "") for point in range(0x110000))
    return tuple(name for name in every if set(name) < set(ALPHABET) and name and not name.startswith("HANGUL SYLL"))


def examples(chosen: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """A row for each letter of the names and for the end of each: the eight letters before it, and the letter."""
    x, y = [], []
    for name in chosen:
        codes = [0] * CONTEXT + [ALPHABET.index(letter) for letter in name] + [0]
        x += [codes[at : at + CONTEXT] for at in range(len(name) + 1)]
        y += codes[CONTEXT:]
    return np.array(x), np.array(y)


class Text(Descent):
    space = Space(
        {
            "lr": Float(1e-3, 3.0, log=True),
            "momentum": Float(0.0, 0.98),
            "weight_decay": Float(1e-6, 1e-1, log=True),
            "dropout": Float(0.0, 0.6),
            "smoothing": Float(0.0, 0.3),
            "batch": Choice([16, 32, 64, 128]),
        }
    )
    generations = 20
    examples = 4096
    #: names to train and to validate on
    train, validation = 1500, 120
    shapes: ClassVar = {
        "embedding": (LETTERS, EMBEDDED),
        "w1": (CONTEXT * EMBEDDED, HIDDEN),
        "b1": (HIDDEN,),
        "w2": (HIDDEN, LETTERS),
        "b2": (LETTERS,),
    }

    def split(self, seed: int) -> tuple[np.ndarray, ...]:
        order = generator("test names").permutation(len(names()))
        held = len(order) // 10
        rest = generator("split", seed).permutation(order[held:])
        rows = rest[: self.train], rest[self.train : self.train + self.validation], order[:held]
        return tuple(part for chosen in rows for part in examples([names()[row] for row in chosen]))

    def gradient(
        self, weights: np.ndarray, x: np.ndarray, y: np.ndarray, config: dict[str, Any], rng: np.random.Generator
    ) -> np.ndarray:
        w, size = self.parts(weights), len(y)
        seen = w["embedding"][x].reshape(size, -1)
        a = seen @ w["w1"] + w["b1"]
        kept = (rng.random(a.shape) >= config["dropout"]) / (1 - config["dropout"])
        kept *= a > 0
        h = a * kept
        out = residual(h @ w["w2"] + w["b2"], y, config["smoothing"])
        back = out @ w["w2"].T
        back *= kept
        found = np.empty_like(weights)
        g = self.parts(found)
        below = back @ w["w1"].T
        cells = (x[:, :, None] * EMBEDDED + np.arange(EMBEDDED)).ravel()
        g["embedding"][:] = np.bincount(cells, below.ravel(), LETTERS * EMBEDDED).reshape(LETTERS, EMBEDDED)
        g["w1"][:] = seen.T @ back
        g["b1"][:] = back.sum(axis=0)
        g["w2"][:] = h.T @ out
        g["b2"][:] = out.sum(axis=0)
        return found

    def logits(self, weights: np.ndarray, x: np.ndarray) -> np.ndarray:
        w = self.parts(weights)
        seen = w["embedding"][x].reshape(len(x), -1)
        found: np.ndarray = np.maximum(seen @ w["w1"] + w["b1"], 0) @ w["w2"] + w["b2"]
        return found


class Text40(Text):
    """The same, twice as long."""

    generations = 40
