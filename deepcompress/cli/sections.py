"""Help in sections: a command with so many options that it shows the essential ones first."""

from __future__ import annotations

from typing import Any, ClassVar

import click

from deepcompress.cli.settings import HEADINGS

#: Options that stand under a heading beside its settings.
MORE = {
    "How small": ("calibrate", "teach", "base", "update_size", "trials", "keep_trials", "layers"),
    "Pruning": ("masks_file", "save_masks", "save_scores"),
}
#: Headings of the help, and the options under them; all others come under the last.
SECTIONS = {
    "Input and output": (
        "output", "force", "resume", "network", "key", "data", "data_dir", "device", "recipe_file", "trust_pickle",
    ),
    "Task and inputs": ("task", "loss", "metric", "normalize", "teacher_only"),
    **{heading: (*names, *MORE.get(heading, ())) for heading, names in HEADINGS.items()},
    "Other": (),
}  # fmt: skip

#: The options that `--help` shows: with them most networks are compressed. `--help-all` shows the others, too.
ESSENTIAL = {
    "output", "resume", "network", "data", "recipe_file", "target_size", "max_drop", "prune", "bits", "layers",
    "calibrate", "base", "criteria", "sparsities", "seeds", "jobs", "retrain", "epochs", "as_json", "quiet",
}  # fmt: skip


def _show_all(context: click.Context, _: click.Parameter, wanted: bool) -> None:
    if wanted:
        context.meta["help_all"] = True
        click.echo(context.get_help())
        context.exit()


class Sections(click.Command):
    """A command with so many options that its help needs headings, and shows the essential ones only."""

    sections: ClassVar[dict[str, tuple[str, ...]]] = SECTIONS

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        help_all = click.Option(
            ["--help-all"], is_flag=True, is_eager=True, expose_value=False, callback=_show_all,
            help="Show all options and exit.",
        )  # fmt: skip
        self.params.append(help_all)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options under their headings; all of them if `--help-all` asked for them."""
        known = {name for names in self.sections.values() for name in names}
        written: set[str] = set()  # an option stands under the first heading that has it
        for heading, names in self.sections.items():
            rows = [
                record
                for param in self.get_params(ctx)
                if (param.name in names and param.name not in written if names else param.name not in known)
                and isinstance(param, click.Option)
                and (param.name in ESSENTIAL or param.is_eager or "help_all" in ctx.meta)  # help itself is eager
                and (record := param.get_help_record(ctx)) is not None
            ]
            written |= set(names)
            if rows:
                with formatter.section(heading):
                    formatter.write_dl(rows)
