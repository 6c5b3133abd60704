"""The `rans` coder: static tables chosen by context, many states side by side (docs/format.md, sections 17 to 19)."""
