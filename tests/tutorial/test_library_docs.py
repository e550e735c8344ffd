"""Every Python block of docs/library.md is run, and prints what its text promises."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "library.md"
BLOCKS = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(), re.DOTALL | re.MULTILINE)
PRINTED = (
    r"refreshing, 0:00:00\S* late\n(.*\n)*completed \S+ \S+ \"fresh\"",
    r"running tick\n(.*\n)*20\d\d-\d\d-\d\d .*\+00:00",
    r"^$",
    r"^32 runs until 2027-01-15 16:00:00\+00:00$",
)


def test_every_block_has_its_check() -> None:
    assert len(BLOCKS) == len(PRINTED)


@pytest.mark.parametrize(("block", "printed"), list(zip(BLOCKS, PRINTED, strict=False)))
def test_a_block_does_what_the_page_says(block: str, printed: str, tmp_path: Path) -> None:
    done = subprocess.run(  # noqa: S603 - the page's own program
        [sys.executable, "-W", "error", "-c", block],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert re.search(printed, done.stdout), done.stdout
