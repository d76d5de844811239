"""What checks the values of a config: pydantic's models, made from the sections. It takes 10 MB, and is
loaded by whoever checks alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING
from types import UnionType
from typing import (
    Annotated,
    Any,
    Final,
    NamedTuple,
    TypeVar,
    Union,
    get_args,
    get_origin,
    get_type_hints,
)

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    create_model,
    model_validator,
)

from gossipfl.config.fault import Fault
from gossipfl.config.model import Config
from gossipfl.config.section import (
    About,
    Above,
    After,
    Before,
    Bounds,
    OpenSection,
    Pattern,
    Section,
    Shortest,
)

S = TypeVar("S", bound=Section)


class Unfit(Exception):
    """Values that are none of their keys': where each is."""

    def __init__(self, places: list[tuple[str, ...]]) -> None:
        self.places = places
        super().__init__(places)


class _Table(BaseModel):
    """No silent conversion (`"8"` is no number), no infinities, no keys that there are not."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", allow_inf_nan=False, defer_build=True)


class _OpenTable(_Table):
    model_config = ConfigDict(extra="allow")


class _NamedTable(_Table):
    model_config = ConfigDict(populate_by_name=True)


class Key(NamedTuple):
    """What is known of a key: its type, without notes, and the notes."""

    kind: Any
    notes: tuple[object, ...]
    about: About

    @property
    def bounds(self) -> Bounds:
        """Between what a number lies."""
        return self.about.bounds


def keys(section: type[Section]) -> Mapping[str, Key]:
    """The keys of a section, by Python's names for them."""
    kinds = get_type_hints(section, include_extras=True)
    return {name: _key(kinds[name], section.about(name)) for name in section.fields()}


def _key(kind: Any, about: About) -> Key:
    if get_origin(kind) is not Annotated:
        return Key(kind, (), about)
    bare, *notes = get_args(kind)
    return Key(bare, tuple(notes), about)


def made(section: type[S], table: Mapping[str, object]) -> S:
    """The section of a table. Raises Unfit."""
    try:
        found = model(section).model_validate(table)
    except ValidationError as error:
        details = error.errors(include_url=False, include_input=False)
        raise Unfit([tuple(map(str, detail["loc"])) for detail in details]) from None
    return _made(section, found)


def _made(section: type[S], found: BaseModel) -> S:
    values = {name: _plain(getattr(found, name)) for name in section.fields()}
    if issubclass(section, OpenSection):
        values["extra"] = dict(found.model_extra or {})
    if issubclass(section, Fault):
        values["given"] = frozenset(found.model_fields_set)
    return section(**values)


def _plain(value: object) -> object:
    """What is a model of ours in here, as its section."""
    if isinstance(value, BaseModel):
        return _made(_SECTIONS[type(value)], value)
    return tuple(map(_plain, value)) if isinstance(value, tuple) else value


#: What checks each section, and the section of each, as they are made.
_MODELS: Final[dict[type[Section], type[BaseModel]]] = {}
_SECTIONS: Final[dict[type[BaseModel], type[Section]]] = {}


def model(section: type[Section]) -> type[BaseModel]:
    """What checks a section."""
    if section not in _MODELS:
        made = _MODELS[section] = _model(section)
        _SECTIONS[made] = section
    return _MODELS[section]


def _model(section: type[Section]) -> type[BaseModel]:
    kinds = get_type_hints(section, include_extras=True)
    fields: dict[str, Any] = {name: (_kind(kinds[name]), _field(section, name)) for name in section.fields()}
    base = _OpenTable if issubclass(section, OpenSection) else _NamedTable if section is Fault else _Table

    def prepared(table: Any) -> Any:
        return section.prepared(table) if isinstance(table, dict) else table

    validators: dict[str, Any] = {"prepared": model_validator(mode="before")(prepared)}
    named: dict[str, Any] = {"__doc__": section.__doc__, "__module__": section.__module__}
    return create_model(section.__name__, __base__=base, __validators__=validators, **named, **fields)


def _field(section: type[Section], name: str) -> Any:
    """What is told of a key, in pydantic's words."""
    about, found = section.about(name), section.fields()[name]
    told: dict[str, Any] = {"description": about.description, **about.bounds}
    if about.alias:
        told["alias"] = about.alias
    if about.local:
        told["json_schema_extra"] = {"x-local": True}
    if found.default_factory is not MISSING:
        told["default_factory"] = found.default_factory
    elif isinstance(found.default, Section):
        told["default_factory"] = model(type(found.default))
    elif found.default is not MISSING:
        told["default"] = found.default
    return Field(**told)


def _kind(kind: Any) -> Any:
    """A type of ours as one of pydantic's."""
    if isinstance(kind, type) and issubclass(kind, Section):
        return model(kind)
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Annotated:
        bare, *notes = arguments
        return Annotated[(_kind(bare), *map(_note, notes))]
    if origin in (Union, UnionType):
        return Union[tuple(map(_kind, arguments))]  # noqa: UP007
    if origin in (tuple, dict):
        return origin[tuple(map(_kind, arguments))]
    return kind


def _note(note: object) -> object:
    match note:
        case Before(change):
            return BeforeValidator(change)
        case After(check):
            return AfterValidator(check)
        case Pattern(expression):
            return Field(pattern=expression)
        case Shortest(length):
            return Field(min_length=length)
        case Above(bound):
            return Field(gt=bound)
        case _:
            return note


def json_schema() -> dict[str, object]:
    """The JSON schema (draft 2020-12) of swarm.toml, for editors; `x-local` marks a machine's own keys."""
    schema: dict[str, object] = {"$schema": "https://json-schema.org/draft/2020-12/schema"}
    schema.update(model(Config).model_json_schema())
    schema["title"] = "swarm.toml"
    return schema
