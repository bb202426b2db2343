"""Journals: streams that roll and forget. A directory of segments that is used like one stream."""
