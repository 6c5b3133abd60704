"""Write docs/settings.md from the fields of a recipe: python docs/settings.py."""

from __future__ import annotations

from pathlib import Path

from deepcompress.recipe import DEFAULTS, SETTINGS, STAGES

HEAD = """# Settings

All settings of a recipe: keyword arguments of `dc.Recipe`, keys of a recipe file (TOML), and options of
`deepcompress compress`, where `_` is written `-`. This page is made from the code by `python docs/settings.py`.

A setting that has no effect beside the others, and two settings that say the same thing, are errors.
"""


def page() -> str:
    """The document."""
    parts = [HEAD]
    for stage in STAGES:
        parts.append(f"## {stage.heading}\n\n| setting | default | what it does |\n|---|---|---|")
        parts[-1] += "".join(f"\n{row(name)}" for name in SETTINGS if hasattr(stage, name))
        parts[-1] += "\n"
    return "\n".join(parts)


def row(name: str) -> str:
    """One setting."""
    known, default = SETTINGS[name], DEFAULTS[name]
    text = [known.help, known.note, known.when.sentence(known.when.name) if known.when else ""]
    shown = f"`{default}`" if default is not None else known.unset or "none"
    return f"| `{name}` | {shown} | {' '.join(filter(None, text))} |"


if __name__ == "__main__":
    (Path(__file__).parent / "settings.md").write_text(page(), encoding="utf-8")
