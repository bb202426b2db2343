"""The harness that would catch evtape lying.

The invariant: the recovered stream is a prefix of what was appended, contains all that was acknowledged durable,
invents no event, never kills the process, and damage is always reported. Each module but the helpers is a part of its
own:

    python -m tests.faults [PART ...] [--quick | --full] [--results FILE]

`reference.py` and `check.c` judge files without any code of evtape; they are written from the format alone.
"""
