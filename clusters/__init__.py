"""The harness of demos and tests: real federations of real processes, built, broken and healed by code."""
