"""A small table of labels and values, for notebooks."""

from __future__ import annotations

from html import escape


def html(title: str, rows: dict[str, str]) -> str:
    """The rows as an HTML table, every text escaped."""
    body = "".join(
        f"<tr><th style='text-align:left'>{escape(label)}</th><td style='text-align:left'>{escape(value)}</td></tr>"
        for label, value in rows.items()
    )
    return f"<table><caption>{escape(title)}</caption>{body}</table>"
