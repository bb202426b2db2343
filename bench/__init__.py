"""The benchmark of evtape: `python -m bench` measures, `python -m bench report` draws what was measured.

Two rules make its figures comparable. Every contender does the same work: a clock reading and a CRC-32 for each event,
and a header that is updated where the format is ours. And every figure that compares two contenders is a ratio of two
neighbours in time: each repetition runs all contenders of an experiment once, in turn, each in a process of its own.
"""
