"""What a benchmark measures, and how: contenders in turn, medians, and ratios between them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import median
from time import perf_counter


@dataclass(frozen=True)
class Number:
    """A measured ratio, or another number without a machine in it, and what it is to reach.

    Attributes
    ----------
    name
        What it says, in words.
    value, target
        Measured, and asked for.
    unit
        "times", "%" or "s".
    at_most
        Whether the target is a limit from above.
    """

    name: str
    value: float
    target: float
    unit: str
    at_most: bool = False

    @property
    def reached(self) -> bool:
        """Whether the target is reached."""
        return self.value <= self.target if self.at_most else self.value >= self.target


def in_turn(contenders: Mapping[str, Callable[[], object]], repeats: Mapping[str, int]) -> dict[str, list[float]]:
    """Seconds of each contender, timed in turn, so that a busy machine disturbs all alike."""
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for repeat in range(max(repeats.values())):
        for name, run in contenders.items():
            if repeat < repeats[name]:
                start = perf_counter()
                run()
                seconds[name].append(perf_counter() - start)
    return seconds


def medians(seconds: Mapping[str, list[float]]) -> dict[str, float]:
    """Of each contender."""
    return {name: median(times) for name, times in seconds.items()}
