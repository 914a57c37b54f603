from pathlib import Path

import pytest

from atoll.errors import InvalidRequest
from atoll.paths import paths
from atoll.settings import Settings, load_settings, reference

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "atoll.toml"


def test_without_a_file_every_setting_has_its_default(file: Path) -> None:
    assert load_settings(file) == Settings()


def test_the_file_overrides_what_it_names(file: Path) -> None:
    file.write_text('cpus = 1\nboot_timeout_s = 5\naccelerator = "tcg"\ninsecure_registries = ["mirror:5000"]\n')
    expected = Settings(cpus=1, boot_timeout_s=5.0, accelerator="tcg", insecure_registries=("mirror:5000",))
    assert load_settings(file) == expected


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("colour = 1", "unknown field `colour`"),
        ('cpus = "2"', r"Expected `int`, got `str` - at `\$.cpus`"),
        ("cpus = true", r"Expected `int`, got `bool` - at `\$.cpus`"),
        ("cpus = 0", r"Expected `int` >= 1 - at `\$.cpus`"),
        ('accelerator = "xen"', r"Invalid enum value 'xen' - at `\$.accelerator`"),
        ("insecure_registries = [1]", r"Expected `str`, got `int` - at `\$.insecure_registries"),
        ("cpus =", "is not TOML"),
    ],
)
def test_a_bad_file_is_refused_with_file_and_key(file: Path, text: str, complaint: str) -> None:
    file.write_text(text)
    with pytest.raises(InvalidRequest, match=complaint) as refused:
        load_settings(file)
    assert str(file) in str(refused.value)


def test_the_settings_page_is_the_table() -> None:
    page = (REPOSITORY / "docs/settings.md").read_text()
    assert page == reference(), "run: python -m atoll.settings > docs/settings.md"


def test_root_and_socket_come_from_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("ATOLL_ROOT", str(tmp_path))
    monkeypatch.setenv("ATOLL_SOCKET", str(tmp_path / "other.sock"))
    here = paths()
    assert (here.root, here.socket) == (tmp_path, tmp_path / "other.sock")
    assert here.settings_file == tmp_path / "atoll.toml"
    assert here.run_dir("0123456789abcdef") == tmp_path / "run/0123456789ab"
