"""Results of known architectures that come with the package: `architectures.toml` lists them, a file for each
suite has their records, and `python -m mad.reference` makes them.
"""
