"""The real components that the tests run beside our own processes: where they are, and how they are brought.

`components` says what there is and finds it; `build` makes what is missing from pinned Go modules; `scripts/testbed` is
the command.
"""
