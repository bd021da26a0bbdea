"""Whatever a settings file holds, the message names it."""

from __future__ import annotations

from pathlib import Path

import pytest

from proxy.settings import load_settings
from routing.errors import SettingsError
from trainer.train_config import load_config

ODD = {
    "open bracket": b"a: [1", "no UTF-8": b"a: \xff", "beyond C": b'a: "\\UFFFFFFFF"',
    "beyond Unicode": b'a: "\\U00110000"', "deep": b"[" * 5000, "control character": b"a: \x07",
}  # fmt: skip


@pytest.mark.parametrize("data", ODD.values(), ids=ODD)
def test_what_is_no_yaml_is_a_settings_error(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "odd.yaml").write_bytes(data)
    with pytest.raises(SettingsError, match=r"odd\.yaml: not valid YAML"):
        load_settings(tmp_path / "odd.yaml")
    with pytest.raises(SettingsError, match=r"odd\.yaml is not YAML"):
        load_config(tmp_path / "odd.yaml")
