"""Cron expressions drawn from the whole dialect, the same ones at each run."""

import random
from collections.abc import Sequence

from tests.support.cron_oracle import HIGHS, LOWS, MONTHS, WEEKDAYS, Oracle

MOST_A_DAY = 1_500
"""Wall seconds that match in a day, at most: the oracle looks at each."""


class Corpus:
    """A stream of expressions. ``hours``, ``days`` and ``months`` are where something is to be expected."""

    def __init__(
        self, seed: str, hours: Sequence[int] = (), days: Sequence[int] = (), months: Sequence[int] = ()
    ) -> None:
        self.random = random.Random(seed)  # noqa: S311 - a test's input, repeatable
        self.near = {2: hours, 3: days, 4: months}

    def expression(self) -> str:
        """The next one."""
        draw = self.random.random
        texts = [
            self._field(0) if draw() < 0.35 else "",
            self._field(1),
            self._field(2),
            self._field(3) if draw() < 0.45 else self.random.choice("**?"),
            self._field(4) if draw() < 0.25 else self.random.choice("**?"),
            self._field(5) if draw() < 0.40 else self.random.choice("**?"),
        ]
        text = " ".join(one for one in texts if one)
        if len(text.split()) == 6 and len(Oracle(text, None).times) > MOST_A_DAY:
            return " ".join([str(self.random.randrange(60)), *texts[1:]])
        return text

    def _field(self, index: int) -> str:
        draw = self.random.random()
        if draw < 0.15:
            return self.random.choice(["*", "*", "?", "*/1", f"*/{self._step(index)}"])
        if draw < 0.20:
            return self._hashed(index)
        items = self.random.choice([1, 1, 1, 2, 3])
        return ",".join(self._item(index) for _ in range(items))

    def _step(self, index: int) -> int:
        return (
            self.random.randint(1, self.random.choice([4, 10, HIGHS[index] - LOWS[index] + 1]) % 61)
            % (HIGHS[index] - LOWS[index] + 2)
            or 1
        )

    def _hashed(self, index: int) -> str:
        low = self.random.randint(LOWS[index], HIGHS[index])
        high = self.random.randint(low, HIGHS[index])
        step = f"/{self._step(index)}" if self.random.random() < 0.3 else ""
        forms = ["H", "~", f"H({low}-{high})", f"{low}~{high}", f"~{high}"]
        if low <= 28:
            forms.append(f"{low}~")
        return self.random.choice(forms) + step

    def _number(self, index: int) -> int:
        near = self.near.get(index)
        if near and self.random.random() < 0.8:
            return self.random.choice(near)
        return self.random.randint(LOWS[index], HIGHS[index])

    def _name(self, index: int, number: int) -> str:
        if self.random.random() < 0.4:
            if index == 4:
                return self._cased(MONTHS[number - 1])
            if index == 5:
                return self._cased(WEEKDAYS[number])
        return "7" if index == 5 and number == 0 and self.random.random() < 0.5 else str(number)

    def _cased(self, text: str) -> str:
        return self.random.choice([text, text.upper(), text.title()])

    def _item(self, index: int) -> str:
        number = self._number(index)
        draw = self.random.random()
        if index == 3 and draw < 0.35:
            before = self.random.choice([0, 1, 2, 5, 29, 30])
            return self.random.choice(["L", f"L-{before}", "LW", f"{number}W", f"{number}w", "l"])
        if index == 5 and draw < 0.35:
            name = self._name(index, number)
            return self.random.choice([f"{name}L", f"{name}#{self.random.randint(1, 5)}"])
        if draw < 0.60:
            return self._name(index, number)
        if draw < 0.85:  # half of these wrap around
            ends = f"{self._name(index, number)}-{self._name(index, self._number(index))}"
            return ends + (f"/{self._step(index)}" if self.random.random() < 0.4 else "")
        return f"{number}/{self._step(index)}"
