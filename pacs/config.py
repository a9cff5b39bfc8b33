"""Every setting, in one frozen value, read once.

Sources in rising order: defaults, `isocenter.toml`, `ISOCENTER_*` in the environment (nested with
`__`), the command line. An unknown key is refused with the nearest known name. `isocenter config`
and the settings' table in `docs/operations.md` come from the fields below.
"""

from __future__ import annotations

import difflib
import ipaddress
import os
import re
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from pacs.errors import BadQuery

FILE_NAME: Final = "isocenter.toml"
ENVIRONMENT_PREFIX: Final = "ISOCENTER_"
PROJECT_NAME: Final = "^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$"  # it becomes part of paths and addresses

# Where a URL holds a secret: behind its user's name, or as a parameter.
_PASSWORD: Final = re.compile(r"(://[^/:@?]*:)[^/@?]*@")
_PARAMETER: Final = re.compile(r"([?&](?:ssl)?(?:password|secret)=)[^&]*")


class Section(BaseModel):
    """A group of settings: frozen, and closed to unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Dimse(Section):
    """The DIMSE door."""

    aet: str = Field("ISOCENTER", description="The AE title that peers must call.")
    port: int = Field(11112, ge=0, le=65535, description="The port; 0 takes any free one.")
    unknown_callers: Literal["store", "echo", "refuse"] = Field(
        "store",
        description="What callers that are no listed peers may do; `refuse`: not even associate.",
    )
    tls_port: int | None = Field(
        None, ge=0, le=65535, description="The port of DICOM TLS, by custom 2762; none: off."
    )
    tls_profile: Literal["bcp195"] = Field(
        "bcp195", description="TLS 1.2 and 1.3, ephemeral keys, authenticated encryption."
    )
    tls_certificate: Path | None = Field(
        None, description="The node's certificate and its chain, PEM; shown to callers and peers."
    )
    tls_key: Path | None = Field(None, description="Its private key, PEM, not encrypted.")
    tls_ca: Path | None = Field(
        None,
        description="The authorities whose certificates are trusted, PEM; none: the system's.",
    )
    receivers: int = Field(
        1,
        ge=1,
        le=64,
        description="Receiver processes behind the port; PostgreSQL lets them all write at once.",
    )
    tls_client_certificate: Literal["none", "request", "require"] = Field(
        "require",
        description="Whether callers must show a certificate; one that is shown binds the AE title.",
    )


class Http(Section):
    """The HTTP door."""

    port: int = Field(8080, ge=0, le=65535, description="The port; 0 takes any free one.")
    workers: int = Field(1, ge=1, le=64, description="Processes that answer behind the port.")
    trusted_proxies: str = Field(
        "",
        description="Addresses or networks, with commas between, whose `Forwarded` or "
        "`X-Forwarded-*` headers say where a client sent its request; none: nobody's.",
    )
    public_url: str = Field(
        "",
        pattern=r"^(https?://[^\s?#]+)?$",
        description="The address by which others reach this door: it answers to that name too, "
        "and tells it to notified peers.",
    )


class Study(Section):
    """When a study counts as complete."""

    quiet_s: float = Field(10.0, gt=0, description="Seconds without a new instance.")


class Worklist(Section):
    """What modalities are told is scheduled."""

    leaves_at: Literal["started", "ended", "completed"] = Field(
        "started",
        description="When a step leaves the worklist: once a modality starts it, once it is ended, "
        "or only once it is completed, so that a discontinued one is offered again.",
    )
    kept_days: float = Field(
        30.0,
        gt=0,
        le=36_500,
        description="Days that an entry is kept after its day and its last change.",
    )


class Inference(Section):
    """Where models run."""

    device: Literal["auto", "cuda", "cpu"] = Field(
        "auto", description="`auto` takes CUDA where it is present, else the CPU."
    )
    threads: int = Field(2, ge=1, le=256, description="Threads of one model run.")


class Limits(Section):
    """What is bounded, each with its unit; reaching a limit is a refusal with a reason."""

    associations_max: int = Field(
        64, ge=1, description="Open associations of a port; a further one is rejected (2,3,2)."
    )
    association_idle_s: float = Field(
        30.0, gt=0, description="Seconds of silence after which an association is aborted."
    )
    stow_part_bytes_max: int = Field(
        8 << 30, ge=1, description="Bytes of one STOW-RS part; a larger one is refused (A700)."
    )
    drain_s: float = Field(
        25.0, gt=0, description="Seconds that SIGTERM leaves open work before it is cut off."
    )


class Config(Section):
    """All settings of a node. Keys and defaults are a contract with its users."""

    data: Path = Field(Path("isocenter-data"), description="The folder of everything embedded.")
    store: str = Field(
        "",
        description="`file:///FOLDER` or `s3://ACCESS:SECRET@HOST:PORT/BUCKET`; empty: embedded.",
    )
    index: str = Field(
        "", description="`sqlite:///FILE` or `postgresql+psycopg://…`; empty: embedded."
    )
    bind: str = Field("127.0.0.1", description="The address that every door listens on.")
    duplicates: Literal["keep", "replace", "refuse"] = Field(
        "keep", description="What happens to other bytes under a known SOP Instance UID."
    )
    recycle_s: float = Field(
        259_200.0,
        ge=0,
        description="Seconds that deleted instances are kept and can be restored; 0: not at all.",
    )
    models: Path | None = Field(
        None, description="The folder of added models; empty: `{data}/models`."
    )
    log_level: Literal["info", "warning", "error"] = Field(
        "info", description="What is logged, and everything graver."
    )
    projects: tuple[Annotated[str, Field(pattern=PROJECT_NAME)], ...] = Field(
        ("demo",), description="Research projects that complete studies are released to."
    )
    dimse: Dimse = Dimse()
    http: Http = Http()
    study: Study = Study()
    worklist: Worklist = Worklist()
    inference: Inference = Inference()
    limits: Limits = Limits()

    @property
    def store_url(self) -> str:
        """The store in force."""
        return self.store or f"file://{self.data.resolve()}/objects"

    @property
    def index_url(self) -> str:
        """The index in force."""
        return self.index or f"sqlite:///{self.data.resolve()}/index.db"

    @property
    def models_folder(self) -> Path:
        """The folder of added models in force."""
        return self.models or self.data / "models"


def load(
    *,
    file: Path | None = None,
    environment: Mapping[str, str] = os.environ,
    overrides: Mapping[str, Any] | None = None,
) -> tuple[Config, Mapping[str, str]]:
    """The settings in force, and where each that is not a default came from.

    Raises BadQuery with one sentence that says what to change.
    """
    settings: dict[str, Any] = {}
    origins: dict[str, str] = {}
    for origin, flat in (
        (str(file or FILE_NAME), _from_file(file)),
        ("environment", _from_environment(environment)),
        ("command line", dict(overrides or {})),
    ):
        for key, value in flat.items():
            _check_known(key, origin)
            _place(settings, key, value)
            origins[key] = origin
    try:
        config = Config.model_validate(settings)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise BadQuery(f"{key} ({origins.get(key, 'settings')}): {first['msg']}") from error
    _check_open_to_the_network(config)
    _check_tls(config.dimse)
    return config, origins


def _from_file(file: Path | None) -> dict[str, Any]:
    path = file or Path(FILE_NAME)
    if not path.is_file():
        if file is not None:
            raise BadQuery(f"there is no settings file {file}")
        return {}
    try:
        return dict(_flattened(tomllib.loads(path.read_text())))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise BadQuery(f"{path} is not valid TOML: {error}") from error


def _flattened(table: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in table.items():
        if isinstance(value, dict):
            yield from _flattened(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _from_environment(environment: Mapping[str, str]) -> dict[str, Any]:
    found = {
        name.removeprefix(ENVIRONMENT_PREFIX).lower().replace("__", "."): value
        for name, value in environment.items()
        if name.startswith(ENVIRONMENT_PREFIX)
    }
    if "projects" in found:
        names = found["projects"].split(",")
        return {**found, "projects": [name.strip() for name in names if name.strip()]}
    return dict(found)


def known_keys() -> dict[str, Any]:
    """Every key with its field, nested ones as `section.key`."""
    found: dict[str, Any] = {}
    for name, field in Config.model_fields.items():
        section = field.annotation
        if isinstance(section, type) and issubclass(section, Section):
            found |= {f"{name}.{key}": inner for key, inner in section.model_fields.items()}
        else:
            found[name] = field
    return found


def _check_known(key: str, origin: str) -> None:
    if key in known_keys():
        return
    near = difflib.get_close_matches(key, known_keys(), n=1, cutoff=0.0)
    raise BadQuery(f"{origin} names the unknown setting {key}; did you mean {near[0]}?")


def _place(settings: dict[str, Any], key: str, value: object) -> None:
    *sections, name = key.split(".")
    for section in sections:
        settings = settings.setdefault(section, {})
    settings[name] = value


def _check_open_to_the_network(config: Config) -> None:
    """Bound beyond loopback without users, the node would be open to everyone: it refuses."""
    try:
        local = ipaddress.ip_address(config.bind).is_loopback
    except ValueError:
        local = config.bind == "localhost"
    if not local:
        raise BadQuery(
            f"bind = {config.bind} opens the node to the network, and no users are configured; "
            "bind to 127.0.0.1 and put a gateway that authenticates in front"
        )


def _check_tls(dimse: Dimse) -> None:
    """A TLS port without what it needs would refuse everyone, or trust everyone: neither starts."""
    if dimse.tls_port is None:
        return
    if dimse.tls_certificate is None or dimse.tls_key is None:
        raise BadQuery("dimse.tls_port needs dimse.tls_certificate and dimse.tls_key")
    if dimse.tls_client_certificate != "none" and dimse.tls_ca is None:
        raise BadQuery(
            "dimse.tls_ca must name the authorities of the callers' certificates; or set "
            "dimse.tls_client_certificate to none"
        )


def in_force(config: Config, origins: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """Every setting: its value with secrets masked, where it came from, and what it is for."""
    values = dict(_flattened(config.model_dump(mode="json")))
    values |= {"store": config.store_url, "index": config.index_url}
    values["models"] = str(config.models_folder)
    return {
        key: {
            "value": masked(values[key]) if key in ("store", "index") else values[key],
            "from": origins.get(key, "default"),
            "description": field.description,
        }
        for key, field in known_keys().items()
    }


def masked(url: str) -> str:
    """A URL without its secrets: not in its user part, not among its parameters."""
    return _PARAMETER.sub(r"\1***", _PASSWORD.sub(r"\1***@", url))
