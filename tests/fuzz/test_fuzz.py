"""Whatever is read, nothing comes out but a result or the documented error: input drawn by grammar-like edits.

The coverage-guided run of the same targets is in test_coverage_guided.py; ``make fuzz`` runs it for longer.
"""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.fuzz.targets import TARGETS, TOKENS

EXAMPLES = 250


@st.composite
def edited(draw: st.DrawFn, seeds: tuple[bytes, ...]) -> bytes:
    """A seed with a few pieces cut out, doubled, or replaced by tokens that mean something somewhere."""
    data = draw(st.sampled_from(seeds))
    for _ in range(draw(st.integers(1, 6))):
        start = draw(st.integers(0, len(data)))
        end = draw(st.integers(start, min(len(data), start + 12)))
        piece = draw(st.sampled_from(TOKENS) | st.binary(max_size=4) | st.just(data[start:end] * 2))
        data = data[:start] + piece + data[end:]
    return data


@pytest.mark.parametrize("name", TARGETS)
def test_any_input_gives_a_result_or_the_documented_error(name: str) -> None:
    target = TARGETS[name]
    tokens = st.lists(st.sampled_from(TOKENS), max_size=12).map(b"".join)

    @settings(max_examples=EXAMPLES, derandomize=True)
    @given(data=edited(target.seeds) | edited(target.seeds) | tokens | st.binary(max_size=60))
    def feed(data: bytes) -> None:
        target.feed(data)

    for seed in target.seeds:
        target.feed(seed)
    feed()
