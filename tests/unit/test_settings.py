from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.errors import SettingsError
from orchestrator.settings import VARIABLES, load_settings


def test_an_empty_environment_is_a_working_one() -> None:
    settings = load_settings({}, cores=4)
    assert (settings.http.host, settings.http.port) == ("127.0.0.1", 8080)
    assert settings.triton.urls == ()
    assert settings.work.decoders == 4


def test_all_wrong_variables_are_told_at_once() -> None:
    wrong = {
        "TRIREEL_PORT": "eighty",
        "TRIREEL_DEVICE": "tpu",
        "TRIREEL_LEASE_S": "-1",
        "TRIREEL_TRITON_URL": "triton",
    }
    with pytest.raises(SettingsError) as error:
        load_settings(wrong)
    for name in wrong:
        assert name in str(error.value)


def test_a_misspelt_variable_is_told_with_the_one_that_was_meant() -> None:
    with pytest.raises(SettingsError, match=r"TRIREEL_PROT.*did you mean TRIREEL_PORT"):
        load_settings({"TRIREEL_PROT": "1"})


def test_variables_of_others_are_left_alone() -> None:
    assert load_settings({"PATH": "/bin", "TRIREEL_URL": "http://elsewhere"}) == load_settings({})


def test_the_device_chooses_the_sizes_and_a_variable_wins() -> None:
    cpu, gpu = load_settings({}).work, load_settings({"TRIREEL_DEVICE": "gpu"}).work
    assert (cpu.segment_frames, gpu.segment_frames) == (64, 512)
    assert load_settings({"TRIREEL_DEVICE": "gpu", "TRIREEL_SEGMENT_FRAMES": "7"}).work.segment_frames == 7


@pytest.mark.parametrize("text", ["localhost:8001", "grpc://localhost:8001", "http://localhost:8001/"])
def test_tritons_address_is_taken_with_and_without_a_scheme(text: str) -> None:
    assert load_settings({"TRIREEL_TRITON_URL": text}).triton.urls == ("localhost:8001",)


def test_several_tritons_are_parted_by_commas() -> None:
    settings = load_settings({"TRIREEL_TRITON_URL": "a:8001, grpc://B:8001,[::1]:8001"})
    assert settings.triton.urls == ("a:8001", "b:8001", "[::1]:8001")


def test_every_wrong_address_of_a_triton_is_told() -> None:
    with pytest.raises(SettingsError) as error:
        load_settings({"TRIREEL_TRITON_URL": "a,b:8001,:8001,b:8001/,c:99999,"})
    complaints = str(error.value)
    for wrong in ("not 'a'", "not ':8001'", "not 'c:99999'", "not ''", "TRIREEL_TRITON_URL names b:8001 twice"):
        assert wrong in complaints


def test_the_database_lies_in_the_data_directory_unless_told(tmp_path: Path) -> None:
    settings = load_settings({"TRIREEL_DATA_DIR": str(tmp_path)})
    assert settings.storage.database_url == f"sqlite:///{tmp_path}/trireel.db"


def test_every_variable_has_a_meaning_and_a_name_of_ours() -> None:
    assert all(variable.name.startswith("TRIREEL_") and variable.meaning for variable in VARIABLES)
    assert len({variable.name for variable in VARIABLES}) == len(VARIABLES)


@pytest.mark.parametrize("variable", [v for v in VARIABLES if v.default], ids=lambda v: v.name)
def test_every_default_can_be_written_out(variable: object) -> None:
    name, default = variable.name, variable.default  # type: ignore[attr-defined]
    assert load_settings({name: default}) == load_settings({})


def test_redis_is_a_url_of_its_kind() -> None:
    assert load_settings({}).redis.url is None
    scaled = {"TRIREEL_REDIS_URL": "redis://cache:6379/1", "TRIREEL_DATABASE_URL": "postgresql+psycopg://db/trireel"}
    assert load_settings(scaled).redis.url == "redis://cache:6379/1"
    with pytest.raises(SettingsError, match="TRIREEL_REDIS_URL"):
        load_settings({"TRIREEL_REDIS_URL": "cache:6379"})


def test_workers_are_woken_only_on_a_database_that_they_can_share() -> None:
    with pytest.raises(SettingsError, match=r"TRIREEL_REDIS_URL.*TRIREEL_DATABASE_URL"):
        load_settings({"TRIREEL_REDIS_URL": "redis://cache:6379/1"})
