import pytest

from tests.docs.code_blocks import BLOCK, PAGES, ROOT, embed


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_code_on_a_page_is_the_tested_file(page):
    text = page.read_text()
    assert BLOCK.search(text)
    assert text == embed(text), "run ./scripts/docs"


def test_quickstart_has_at_most_15_lines():
    lines = (ROOT / "docs/examples/quickstart.py").read_text().splitlines()
    assert sum(bool(line.strip()) for line in lines) <= 15
