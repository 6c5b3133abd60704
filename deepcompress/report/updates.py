"""What an update changes, as a table."""

from __future__ import annotations

from rich.table import Table

from deepcompress.updates.describe import Change, Description


def headline(found: Description) -> str:
    """The update in one line."""
    return (
        f"{found.file}: an update of {found.file_bytes:,} bytes, from the file whose SHA-256 begins with "
        f"{found.old} to the one with {found.new}"
    )


def changes_table(found: Description) -> Table:
    """A row for each tensor that the update names, and for what is between them."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("tensor", "told as", "bytes"):
        table.add_column(column, justify="right" if column == "bytes" else "left")
    table.add_column("what changes")
    for change in found.changes:
        table.add_row(_name(change), change.what, f"{change.bytes:,}", _words(change))
    return table


def _name(change: Change) -> str:
    if change.name:
        return ascii(change.name)[1:-1] if not change.name.isprintable() else change.name
    if change.tensors:
        return f"({change.tensors:,} tensor{'s' if change.tensors > 1 else ''})"
    return "(the file's header)" if change.length is None else f"({change.length:,} bytes)"


def _words(change: Change) -> str:
    if change.back is not None:
        kind, values = ("number", "codebook or scales") if change.what == "numbers" else ("entry", "codebook")
        parts = [f"{change.back:,} came back", f"{change.fell:,} fell", f"{change.moved:,} became another {kind}"]
        return f"weights: {', '.join(parts)}; {values}: {change.codebook}"
    if change.changed is not None:
        return f"{change.changed:,} element{'s' if change.changed != 1 else ''}"
    return "nothing" if change.what == "unchanged" else "the name" if change.what == "renamed" else "all of it"
