"""The configuration reference and the full example say what the settings say."""

from __future__ import annotations

from proxy.settings import Settings, load_settings
from proxy.settings_document import example_file, reference_page
from tests.docs.documents import ROOT

EXAMPLE = ROOT / "docs" / "examples" / "upshift.yaml"
AGAIN = "python -m proxy.settings_document docs/reference/configuration.md docs/examples/upshift.yaml"


def test_the_reference_is_up_to_date() -> None:
    page = (ROOT / "docs" / "reference" / "configuration.md").read_text(encoding="utf-8")
    assert page == reference_page(), f"run: {AGAIN}"


def test_the_full_example_is_up_to_date() -> None:
    assert EXAMPLE.read_text(encoding="utf-8") == example_file(), f"run: {AGAIN}"


def test_the_full_example_changes_no_default() -> None:
    settings = load_settings(EXAMPLE)
    bare = Settings.model_validate({"tiers": [tier.model_dump() for tier in settings.tiers]})
    assert settings == bare


def test_every_setting_is_described() -> None:
    assert "None |" not in reference_page()
    assert "# None" not in example_file()
