from tests.docs.readme import BLOCK, README, ROOT, embed


def test_code_in_the_readme_is_the_tested_file():
    text = README.read_text()
    assert len(BLOCK.findall(text)) == 4
    assert text == embed(text), "run ./scripts/docs"


def test_quickstart_has_at_most_15_lines():
    lines = (ROOT / "docs/examples/quickstart.py").read_text().splitlines()
    assert sum(bool(line.strip()) for line in lines) <= 15
