"""A searcher whose chance comes from hash("text"), which is another one in every process."""

import random

from gpbt_async.ask import Ask


class Hashing:
    def suggest(self, ask: Ask) -> dict:
        return ask.space.sample(random.Random(hash(f"{ask.seed}")))
