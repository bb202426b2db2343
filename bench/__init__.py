"""The benchmark of evtape: `python -m bench` measures, `python -m bench report` draws what was measured.

Two rules make its figures comparable. Every contender does the same work: a clock reading and a CRC-32 for each event,
and an update of the header if it writes this format. Every comparison is a ratio of values that are seconds apart: each
repetition runs all contenders of an experiment once, in turn, each in its own process.
"""
