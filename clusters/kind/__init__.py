"""Clusters of containers: several real ones, made by kind(1) in a Docker engine, repaired, broken, healed and removed.

`ranges` and `config` say what a cluster should be, `engine` what Docker has, `plan` (pure) what is to be done, and
`harness` does it. `faults` breaks what stands.
"""
