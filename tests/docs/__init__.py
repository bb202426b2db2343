"""Under tests/test_docs.py: `pages` finds blocks and links, `blocks` runs and compares, `api` makes docs/api.md."""
