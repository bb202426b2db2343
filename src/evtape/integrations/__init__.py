"""evtape under the libraries that a program already uses: one module for each, imported by its name.

No module here is imported by the package itself, and none imports more than its own third party.
"""
