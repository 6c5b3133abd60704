"""A setting, written once: default, what is allowed, what it does. Options, documents and checks follow from it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from deepcompress.recipe.kinds import Kind

T = TypeVar("T")


@dataclass(frozen=True)
class When:
    """A setting has an effect only where the setting `name` has one of `values`, or, with `but`, none of them."""

    name: str
    values: tuple[Any, ...]
    but: bool = False

    def holds(self, settings: Mapping[str, Any]) -> bool:
        """Whether it is so in `settings`, which has all of them."""
        return (settings[self.name] in self.values) != self.but

    def __str__(self) -> str:
        values = " or ".join(map(str, self.values))
        return f"another {self.name} than {values}" if self.but else f"{self.name} {values}"

    def sentence(self, name: str) -> str:
        """The same for people who read the help, where the setting is called `name`."""
        values = " or ".join(map(str, self.values))
        return f"{'Not' if self.but else 'Only'} with {name} {values}."


@dataclass(frozen=True)
class Setting:
    """What is known of a setting beside its name, type and default.

    Attributes:
        kind: what it may be.
        help: what it does, in a sentence or two for the command line.
        note: what only the documents say: details, and the source.
        metavar: what help shows in place of a value.
        unset: what happens where it is None, in words; "" where it never is.
        when: on which other setting it depends.
        flag: its option, where that is not its name.
    """

    kind: Kind
    help: str
    note: str = ""
    metavar: str | None = None
    unset: str = ""
    when: When | None = None
    flag: str = ""


def setting(
    default: T,
    kind: Kind,
    help: str,
    *,
    note: str = "",
    metavar: str | None = None,
    unset: str = "",
    when: When | None = None,
    flag: str = "",
) -> T:
    """A field of a settings dataclass; arguments as in `Setting`."""
    known = Setting(kind, help, note, metavar, unset, when, flag)
    field: T = dataclasses.field(default=default, metadata={"setting": known})
    return field


def settings_in(kind: type[Any]) -> dict[str, Setting]:
    """The settings of a dataclass by name, in their order."""
    return {field.name: field.metadata["setting"] for field in dataclasses.fields(kind) if "setting" in field.metadata}
