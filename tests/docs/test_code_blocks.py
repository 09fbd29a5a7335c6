import inspect

import pytest

from coatcheck import BFF
from tests.docs.code_blocks import BLOCK, PAGES, ROOT, embed


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_code_on_a_page_is_the_tested_file(page):
    text = page.read_text()
    assert BLOCK.search(text)
    assert text == embed(text), "run ./scripts/docs"


def test_quickstart_has_at_most_15_lines():
    lines = (ROOT / "docs/examples/quickstart.py").read_text().splitlines()
    assert sum(bool(line.strip()) for line in lines) <= 15


@pytest.mark.parametrize("call", [BFF, BFF.remote_api], ids=lambda call: call.__name__)
def test_every_option_is_in_a_table_of_library_md(call):
    rows = [
        line.split("|")[1] for line in (ROOT / "docs/library.md").read_text().splitlines() if line.startswith("| `")
    ]
    missing = [name for name in inspect.signature(call).parameters if not any(f"`{name}`" in row for row in rows)]
    assert [name for name in missing if name not in ("self", "path", "url")] == []
