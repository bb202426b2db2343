"""The documents: `pages` finds blocks and links, `blocks` runs and compares, `api` makes docs/api.md."""
