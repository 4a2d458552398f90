"""What `fedctl install`, `upgrade` and `uninstall` do to a cluster.

`request` is what was asked for, `record` what an installation remembers of itself; `plan` decides what is applied and
what goes, `skew` which versions may follow each other, `rollout` says what is not ready and why, and `work` does it.
"""
