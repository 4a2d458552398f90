"""The Helm chart of isthmus, and how `fedctl install` makes manifests of it without helm.

`values` says what is wanted, `template` and `evaluate` make text of it with the part of helm's templates that the chart
keeps to, `manifests` are the objects that come out. A test proves that helm makes the same.
"""
