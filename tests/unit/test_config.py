"""Settings: where they come from, what is refused, and that no secret is shown."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from pacs.config import Config, in_force, known_keys, load, masked
from pacs.errors import BadQuery


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # a settings file in the current folder counts


def _loaded(environment: dict[str, str] | None = None, /, **overrides: object) -> Config:
    return load(environment=environment or {}, overrides=overrides)[0]


def test_without_any_source_the_defaults_hold() -> None:
    config, origins = load(environment={})
    assert config == Config()
    assert origins == {}
    assert (config.bind, config.dimse.port, config.http.port) == ("127.0.0.1", 11112, 8080)
    assert config.store_url == f"file://{Path.cwd()}/isocenter-data/objects"
    assert config.index_url == f"sqlite:///{Path.cwd()}/isocenter-data/index.db"


def test_later_sources_win_and_each_is_named(tmp_path: Path) -> None:
    (tmp_path / "isocenter.toml").write_text(
        'data = "a"\nlog_level = "error"\n[study]\nquiet_s = 1\n[http]\nport = 1\n'
    )
    config, origins = load(
        environment={"ISOCENTER_STUDY__QUIET_S": "2", "ISOCENTER_HTTP__PORT": "2", "HOME": "x"},
        overrides={"http.port": 3},
    )
    assert config.data == Path("a")
    assert (config.log_level, config.study.quiet_s, config.http.port) == ("error", 2.0, 3)
    assert origins == {
        "data": "isocenter.toml",
        "log_level": "isocenter.toml",
        "study.quiet_s": "environment",
        "http.port": "command line",
    }


def test_projects_are_a_list_with_commas_in_the_environment() -> None:
    assert _loaded({"ISOCENTER_PROJECTS": "lung, heart,"}).projects == ("lung", "heart")
    assert _loaded({"ISOCENTER_PROJECTS": ""}).projects == ()


@pytest.mark.parametrize("name", ["../keys", "a/b", "", ".", "Ä", "a b", "x" * 65])
def test_a_project_whose_name_is_no_plain_word_is_refused(name: str) -> None:
    with pytest.raises(BadQuery, match="projects"):
        _loaded(projects=["demo", name])


@pytest.mark.parametrize(
    ("wrong", "meant"),
    [
        ("ISOCENTER_STUDY__QUIT_S", "study.quiet_s"),
        ("ISOCENTER_DIMSE__AETITLE", "dimse.aet"),
        ("ISOCENTER_STOR", "store"),
        ("ISOCENTER_DIMSE", "dimse."),
    ],
)
def test_an_unknown_setting_is_refused_with_the_nearest_name(wrong: str, meant: str) -> None:
    with pytest.raises(BadQuery, match=rf"environment names .* did you mean {meant}"):
        _loaded({wrong: "1"})


def test_an_unknown_setting_of_a_file_is_refused_with_its_file(tmp_path: Path) -> None:
    file = tmp_path / "other.toml"
    file.write_text("[limits]\nassociation_max = 1\n")
    with pytest.raises(BadQuery, match=r"other\.toml names .* limits\.associations_max\?"):
        load(file=file, environment={})


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("dimse.port", "many"),
        ("http.port", 65536),
        ("study.quiet_s", 0),
        ("inference.device", "tpu"),
        ("duplicates", "overwrite"),
        ("limits.associations_max", 0),
    ],
)
def test_a_value_that_does_not_fit_is_refused_with_key_and_source(key: str, value: object) -> None:
    with pytest.raises(BadQuery, match=rf"{key} \(command line\): "):
        _loaded(**{key: value})


def test_a_file_that_was_named_must_be_there(tmp_path: Path) -> None:
    with pytest.raises(BadQuery, match="there is no settings file"):
        load(file=tmp_path / "none.toml", environment={})


@pytest.mark.parametrize("content", [b"data = ", b"data = '\xff'", b"[study\n"])
def test_a_file_that_is_no_toml_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "isocenter.toml").write_bytes(content)
    with pytest.raises(BadQuery, match="is not valid TOML"):
        load(environment={})


@pytest.mark.parametrize("bind", ["0.0.0.0", "192.0.2.1", "::", "", "example.org", "localhost."])
def test_a_node_without_users_is_not_opened_to_the_network(bind: str) -> None:
    with pytest.raises(BadQuery, match="opens the node to the network"):
        _loaded({"ISOCENTER_BIND": bind})


@pytest.mark.parametrize("bind", ["127.0.0.1", "127.1.2.3", "localhost"])
def test_loopback_needs_no_users(bind: str) -> None:
    assert _loaded(bind=bind).bind == bind


def test_settings_cannot_be_changed_once_read() -> None:
    with pytest.raises(ValidationError):
        Config().bind = "0.0.0.0"  # type: ignore[misc] # that it is frozen is the point


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("s3://KEY:s3cr3t@host:9000/bucket?secure=false", "s3://KEY:***@host:9000/bucket?secure=false"),
        ("postgresql+psycopg://me:s3cr3t@host/db", "postgresql+psycopg://me:***@host/db"),
        ("s3://KEY:s3%40cr3t@host/bucket", "s3://KEY:***@host/bucket"),
        ("postgresql+psycopg://me@h/db?password=s3c&a=b", "postgresql+psycopg://me@h/db?password=***&a=b"),
        ("sqlite:///index.db", "sqlite:///index.db"),
    ],
)  # fmt: skip
def test_a_secret_in_an_address_is_not_shown(url: str, shown: str) -> None:
    assert masked(url) == shown


def test_every_setting_in_force_is_told_without_its_secrets() -> None:
    config, origins = load(
        environment={"ISOCENTER_STORE": "s3://KEY:s3cr3t@host/bucket"}, overrides={"data": "x"}
    )
    told = in_force(config, origins)
    assert told.keys() == known_keys().keys()
    assert all(facts["description"] for facts in told.values())
    assert (told["store"]["from"], told["data"]["from"]) == ("environment", "command line")
    assert told["limits.drain_s"]["from"] == "default"
    assert "s3cr3t" not in str(told)


def test_what_a_role_is_given_is_what_was_read() -> None:
    config = _loaded(data="x", projects=["a", "b"], models="m")
    assert Config.model_validate_json(config.model_dump_json()) == config
